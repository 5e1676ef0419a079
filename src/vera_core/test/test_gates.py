"""What is normal, the verdict, and the file of thresholds."""

import json

import numpy as np
import pytest

from vera_core.gates import (
    GateEntry,
    GateError,
    PlanRejectedError,
    find_gate,
    gate_path,
    judge,
    read_gates,
    save_gate,
)
from vera_core.normal import LEAST, Normal, Tail


def examples(count=400, seed=0, **shift):
    rng = np.random.default_rng(seed)
    return [
        {'size': rng.exponential() + shift.get('size', 0), 'speed': rng.normal()}
        for _ in range(count)
    ]


def entry(planner_hash='abc', translator_hash='def', seed=0):
    normal = Normal.of(examples(seed=seed), 0.01)
    return GateEntry('compact', planner_hash, 'jacobian', translator_hash, normal, normal, normal)


def test_so_many_good_examples_are_flagged_as_were_asked_for():
    normal = Normal.of(examples(2000), 0.02)
    fresh = [normal.score(one)[0] for one in examples(4000, seed=1)]
    assert 0.01 < np.mean(np.array(fresh) > normal.threshold) < 0.035


def test_the_score_names_the_signal_that_is_furthest_out():
    normal = Normal.of(examples(), 0.01)
    assert normal.score({'size': 50.0, 'speed': 0.0})[1] == 'size'
    assert normal.score({'size': 0.5, 'speed': 9.0})[1] == 'speed'
    assert normal.score({'size': 50.0, 'speed': 0.0})[0] > normal.threshold
    # Further out is worse, without end.
    assert normal.score({'size': 60.0})[0] > normal.score({'size': 50.0})[0]


def test_no_number_is_infinitely_rare_and_what_was_not_learned_does_not_count():
    normal = Normal.of(examples(), 0.01)
    assert normal.score({'size': float('nan')}) == (float('inf'), 'size')
    assert normal.score({'colour': 1e9}) == (0.0, '')


def test_a_signal_that_some_examples_lack_is_left_out():
    good = examples()
    del good[7]['speed']
    assert set(Normal.of(good, 0.01).tails) == {'size'}


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match=f'{LEAST - 1} good plans; what is normal needs'):
        Normal.of(examples(LEAST - 1), 0.01)


def test_the_tail_is_exponential():
    values = np.random.default_rng(3).exponential(size=100_000)
    tail = Tail.of(values)
    assert tail.at(0.01) == pytest.approx(np.log(100), rel=0.03)
    assert tail.rarity(np.array(np.log(1000))) == pytest.approx(3, rel=0.05)


def test_the_best_candidate_is_judged_and_the_reason_is_in_words():
    normal = Normal.of(examples(), 0.01)
    good, bad = {'size': 0.5, 'speed': 0.0}, {'size': 99.0, 'speed': 0.0}
    verdict = judge(normal, [bad, good], {'size': 'it is too large'})
    assert (verdict.accepted, verdict.chosen, verdict.reason) == (True, 1, '')
    assert verdict.scores[0] > verdict.threshold > verdict.scores[1]
    refused = judge(normal, [bad], {'size': 'it is too large'})
    assert not refused.accepted
    assert refused.reason.startswith('it is too large (size 99; of 100 good plans 99 stay below 4')
    assert str(PlanRejectedError(refused)) == refused.reason
    told = judge(normal, [bad], {'size': 'it is too large'}, enforce=False)
    assert told.accepted and told.reason == refused.reason
    assert judge(None, [bad], {}).accepted  # nobody knows what is normal


def test_thresholds_are_found_by_the_weights_they_belong_to(tmp_path):
    path = tmp_path / 'arm.gate.json'
    assert read_gates(path) == []
    save_gate(entry(), path)
    save_gate(entry(planner_hash='new'), path)
    save_gate(entry(planner_hash='new', seed=1), path)  # in place of that of the same weights
    assert len(read_gates(path)) == 2
    found = find_gate('arm', ('compact', 'new'), ('jacobian', 'def'), path)
    assert found is not None
    one = {'size': 3.3, 'speed': 1.0}
    assert found.frames.score(one)[0] == pytest.approx(entry(seed=1).frames.score(one)[0])
    assert find_gate('arm', ('compact', 'new'), path=path) is not None
    assert find_gate('arm', ('compact', 'abc'), path=path) is not None
    assert find_gate('arm', ('compact', 'other'), path=path) is None
    assert find_gate('arm', ('compact', 'new'), ('jacobian', 'other'), path) is None


def test_the_file_lies_beside_the_contract(tmp_path, monkeypatch):
    monkeypatch.setenv('VERA_CONFIG_PATH', str(tmp_path))
    assert gate_path('arm') == tmp_path / 'arm.gate.json'
    save_gate(entry(), gate_path('arm'))
    assert find_gate('arm', ('compact', 'abc')) is not None


@pytest.mark.parametrize(
    'spoil',
    [
        lambda data: data | {'format': 9},
        lambda data: data | {'entries': [{}]},
        lambda data: {'format': 1},
        lambda data: [],
        lambda data: data | {'entries': [data['entries'][0] | {'frames': {'tails': 3}}]},
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, spoil):
    path = tmp_path / 'arm.gate.json'
    save_gate(entry(), path)
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(GateError, match=r'arm\.gate\.json.*make it again with `vera study gate'):
        read_gates(path)


def test_a_cut_file_is_one_clear_error(tmp_path):
    path = tmp_path / 'arm.gate.json'
    path.write_text('{"format": 1, "ent')
    with pytest.raises(GateError, match='make it again'):
        read_gates(path)
