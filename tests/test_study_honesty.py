"""`vera study honesty`: corruptions that corrupt, numbers that are right, a table and curves."""

import json

import numpy as np
import pytest
import torch

from vera_bringup import corruptions
from vera_bringup.commands import study_honesty as command
from vera_bringup.honesty_study import (
    COMBINED,
    Dream,
    Study,
    auroc,
    auroc_interval,
    draw_curves,
    failures,
    markdown,
    rows,
    self_play_actions,
    transition_signals,
)
from vera_core.checkpoint import CheckpointInfo
from vera_core.contract import load_contract
from vera_jidm.honesty import SIGNALS, KnownActions, calibrate, find_calibration
from vera_jidm.registry import find_translator_checkpoint
from vera_jidm.translator import JacobianTranslator


@pytest.fixture(scope='module')
def contract():
    return load_contract('finger')


def test_every_corruption_can_be_seen_and_is_drawn_again_alike(contract):
    real = corruptions.draw(contract, 'real', 4, 1)
    assert set(corruptions.KINDS) == {'real', *corruptions.RANGES}
    for kind in corruptions.RANGES:
        before, after = corruptions.draw(contract, kind, 4, 1)
        assert before.shape == after.shape == (4, 64, 64, 3) and before.dtype == np.uint8
        again = corruptions.draw(contract, kind, 4, 1)
        np.testing.assert_array_equal(after, again[1])
        changed = (np.abs(after.astype(int) - real[1]).max(-1) > corruptions.LEVELS).sum((1, 2))
        assert (changed >= corruptions.SEEN).all() or kind in ('frozen', 'faint noise'), kind
    frozen = np.abs(np.subtract(*corruptions.draw(contract, 'frozen', 8, 2), dtype=np.int16))
    assert frozen.mean((1, 2, 3)).max() < 2 and (frozen.max((1, 2, 3)) == 0).any()
    with pytest.raises(ValueError, match='there are real, teleport'):
        corruptions.draw(contract, 'gremlins', 1, 0)


def test_the_scene_is_the_same_after_a_disc_was_moved(contract):
    from vera_sim import make_environment

    env = make_environment('finger', contract.sim.options, 64)
    env.reset(3)
    discs, (q, dq) = env.discs, env.state()
    scene = corruptions.Scene(env, contract, q, q + 0.05)
    rng = np.random.default_rng(0)
    before, after = corruptions._teleport(scene, rng)
    np.testing.assert_array_equal(before, env.render_at(q))
    assert (after != env.render_at(q + 0.05)).any()
    assert [name for name, _ in env.discs] == [name for name, _ in discs]
    np.testing.assert_array_equal(env.state(), (q, dq))


def test_area_under_the_curve():
    rng = np.random.default_rng(0)
    negative, positive = rng.normal(0, 1, 400), rng.normal(1, 1, 300)
    pairs = positive[:, None] - negative[None]
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert auroc(negative, positive) == pytest.approx(expected)
    assert auroc(np.ones(5), np.ones(3)) == 0.5
    low, high = auroc_interval(negative, positive)
    # Of two unit normals one deviation apart.
    assert low < 0.760 < high and 0.03 < high - low < 0.1


@pytest.fixture(scope='module')
def found():
    """A study whose numbers are drawn: noise is as good as real motion, the rest is far away."""
    rng = np.random.default_rng(0)
    actions = KnownActions.of(rng.uniform(-1, 1, (100, 3)))

    def draw(shift, count=300):
        return {name: rng.exponential(1, count) + shift for name in SIGNALS}

    signals = {kind: draw(20.0) for kind in corruptions.RANGES}
    signals |= {'real': draw(0.0), 'noise': draw(0.0)}
    calibration = calibrate([draw(0.0, 1000)], actions, 'ab' * 8)
    dreams = [Dream({**draw(0.0, 4), 'stillness': np.zeros(4)}, k % 5 > 0) for k in range(60)]
    return Study(calibration, calibration, signals, dreams)


def test_rows_say_what_was_found(found, tmp_path):
    table = rows(found)
    best = {r['kind']: r for r in table if r['signal'] == COMBINED and 'auroc' in r}
    assert best['teleport']['auroc'] == 1 and best['teleport']['caught'] == 1
    assert best['teleport']['n'] == 300
    assert best['noise']['auroc_low'] < 0.55 and best['noise']['caught'] < 0.05
    assert failures(table) == [f'noise: AUROC {best["noise"]["auroc"]:.3f}, must be 0.95']
    alarms = {r['kind']: r for r in table if 'false_alarms' in r}
    assert alarms['good dreams']['n'] == 48 and alarms['steps of good dreams']['n'] == 192
    assert alarms['real transitions']['false_alarms'] < 0.05
    json.dumps(table, allow_nan=False)
    text = markdown(table)
    assert '| **teleport**' in text and '| `residual` |' in text and 'good dreams' in text
    draw_curves(found, table, tmp_path / 'roc.png')
    assert (tmp_path / 'roc.png').stat().st_size > 10_000


def test_the_command_writes_table_curves_and_calibration(found, tmp_path, monkeypatch, capsys):
    from vera_bringup import honesty_study
    from vera_bringup.exits import CommandError

    info = CheckpointInfo(tmp_path / 'jidm_x.safetensors', 'idm', 'ab' * 32, {}, {}, {})
    asked = {}

    def study(contract, **options):
        asked.update(options)
        return found, info

    monkeypatch.setattr(honesty_study, 'study', study)
    with pytest.raises(CommandError, match='noise: AUROC'):
        command.run('finger', tmp_path / 'out', '', '', 300, 3, 5, True, True)
    assert asked['count'] == 300 and asked['seed'] == 5 and asked['checkpoint'] is None
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])['rows']
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
        'honesty.json', 'honesty.md', 'honesty_roc.png',
    ]
    assert (tmp_path / 'jidm_x.honesty.json').is_file()


def test_an_embodiment_without_this_simulator(contract):
    real = load_contract('finger', {'sim': None})
    with pytest.raises(ValueError, match='not the simulated finger'):
        corruptions.draw(real, 'real', 1, 0)


def test_the_shipped_translator_tells_some_of_each_kind_apart(contract):
    """A few transitions through flow, network and signals; `vera study honesty` does thousands."""
    torch.set_num_threads(1)
    info = find_translator_checkpoint(contract)
    actions = KnownActions.of(self_play_actions(contract, 200, 0))
    bare = JacobianTranslator.load(info, contract, calibrated=False, actions=actions)

    def signals(kind, count=12):
        return transition_signals(bare, *corruptions.draw(contract, kind, count, 11))

    real = signals('real')
    assert set(real) == set(SIGNALS) and all(np.isfinite(v).all() for v in real.values())
    for kind, telling in (('teleport', 'place'), ('noise', 'picture'), ('frozen', 'stillness')):
        assert auroc(real[telling], signals(kind)[telling]) > 0.9, kind


def test_the_shipped_translator_is_calibrated(contract):
    """A copied frame within a plan is flagged, coming to rest is not."""
    info = find_translator_checkpoint(contract)
    known = find_calibration(info)
    assert known is not None, 'vera study honesty --save'
    assert known.count >= 200 and 1 < known.threshold < 6
    torch.set_num_threads(1)
    translator = JacobianTranslator.load(info, contract)
    from vera_sim import make_environment

    env = make_environment('finger', contract.sim.options, contract.cameras[0].height)
    env.reset(5)
    q, _ = env.state()
    scene = corruptions.Scene(env, contract, q, q)
    path = [scene.tile(scene.picture(q + 0.05 * k)) for k in (0, 1, 1, 2, 2)]
    honesty = translator.explain(path[0], np.stack(path[1:]))[1].honesty
    assert honesty.calibrated
    assert honesty.suspicious[1] and honesty.worst[1] == 'stillness'
    assert honesty.resting.tolist() == [False, False, False, True] and not honesty.suspicious[3]
    assert honesty.channel_percentile.shape == (4, 3)
    assert honesty.explained.shape == (4, 32, 32)
