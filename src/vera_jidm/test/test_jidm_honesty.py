"""The honesty signals on cases worked by hand, and their calibration."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from jidm_toys import shifted, texture

from vera_core.checkpoint import CheckpointInfo
from vera_jidm.honesty import (
    SIGNALS,
    Calibration,
    CalibrationError,
    KnownActions,
    Steps,
    Tail,
    calibrate,
    calibration_path,
    find_calibration,
    signals_of,
)

SIZE, GRID = 32, 2


def statistics(n=3, seed=0):
    actions = np.random.default_rng(seed).uniform(-1, 1, (4000, n)) * np.logspace(0, -1, n)
    return KnownActions.of(actions)


def steps(after, motion=(3.0, 0.0), before=None, flow=None):
    """One step in which everything moves by `motion` px, as far as the action can tell."""
    before = texture(1) if before is None else before
    h = SIZE // GRID
    there = np.broadcast_to(np.float32(motion)[None, :, None, None], (1, 2, h, h))
    flow = there if flow is None else flow
    return Steps(
        before[None], after[None], (flow, -flow), (np.ones((1, h, h), np.float32),) * 2,
        (there, -there), np.zeros((1, 3)), np.zeros(1), np.zeros(1),
    )


def test_motion_that_the_action_explains_speaks_against_nothing():
    before = texture(1)
    signals, explained = signals_of(steps(shifted(before, 3, 0), before=before), statistics())
    assert signals['picture'][0] < 1 and signals['place'][0] < 5
    assert signals['unexplained'][0] == 0 and signals['inconsistent'][0] == 0
    assert explained.shape == (1, 16, 16) and (explained == 1).all()
    wrong, _ = signals_of(steps(shifted(before, -3, 0), before=before), statistics())
    assert wrong['picture'][0] > 4 * signals['picture'][0]


def test_something_that_jumps_is_seen_where_it_was_and_where_it_is():
    table = np.full((SIZE, SIZE, 3), 200, np.uint8)
    here, there = table.copy(), table.copy()
    here[4:10, 4:10] = (20, 40, 220)
    there[20:26, 18:24] = (20, 40, 220)
    calm, _ = signals_of(steps(here, (0, 0), before=here), None)
    jump, _ = signals_of(steps(there, (0, 0), before=here), None)
    assert calm['place'][0] == 0
    # The mean over the three channels of the difference is 120 grey levels.
    assert jump['place'][0] == pytest.approx(120, abs=1)
    assert jump['picture'][0] == pytest.approx(120 * 72 / SIZE**2, rel=0.01)
    assert 'action' not in jump


def test_an_action_that_is_a_little_off_leaves_no_place_that_changed():
    """A bright tip on a dark arm that moved by 3 px where the action says 2.2: a motion, off."""
    before = np.full((SIZE, SIZE, 3), 40, np.uint8)
    before[12:18, 12:18] = 250
    after = shifted(before, 3, 0)
    near, _ = signals_of(steps(after, (2.2, 0), before=before), None)
    far, _ = signals_of(steps(after, (-1, 0), before=before), None)
    assert near['place'][0] < 2 and near['picture'][0] > 0.5
    assert far['place'][0] > 50


def test_flow_without_an_action_is_unexplained_in_its_place():
    flow = np.zeros((1, 2, 16, 16), np.float32)
    flow[0, 0, 5:8, 5:8] = 4.0
    image = texture(2)
    found, explained = signals_of(steps(image, (0, 0), before=image, flow=flow), None)
    assert found['unexplained'][0] == pytest.approx(4.0)
    assert explained[0, 6, 6] < 0.01 and explained[0, 0, 0] == 1
    _, explained = signals_of(steps(image, (2, 0), before=image, flow=2 * flow), None)
    assert explained[0, 6, 6] == pytest.approx(1 - 36 / 64, abs=0.01)


def test_a_copy_is_still_and_a_changed_frame_is_not():
    image = texture(3)
    noise = np.random.default_rng(0).integers(-1, 2, image.shape)
    near = np.clip(image.astype(int) + noise, 0, 255)
    copy, _ = signals_of(steps(image, before=image), None)
    noisy, _ = signals_of(steps(near.astype(np.uint8), before=image), None)
    moved, _ = signals_of(steps(shifted(image, 3, 0), before=image), None)
    assert copy['stillness'][0] == 2
    assert moved['stillness'][0] < 0.1 < noisy['stillness'][0] < 2


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e30])
def test_a_flow_that_is_no_number_leaves_every_signal_a_number(bad):
    flow = np.full((1, 2, 16, 16), bad, np.float32)
    image = texture(4)
    found, explained = signals_of(steps(image, (1, 0), before=image, flow=flow), statistics())
    assert all(np.isfinite(v).all() for v in found.values())
    assert np.isfinite(explained).all()


def test_action_statistics_say_how_unusual_an_action_is():
    known = statistics()
    values = np.array([[0.5, 0, 0], [1.0, 0.3, 0.1], [5.0, 5.0, 5.0], [0, 0, 0]])
    channels, whole = known.percentile(values)
    assert channels[0, 0] == pytest.approx(0.5, abs=0.03)
    assert channels[2].tolist() == [1, 1, 1] and whole[2] == 1
    assert whole[3] == 0 and 0 < whole[0] < whole[1]
    again = KnownActions.from_dict(json.loads(json.dumps(known.to_dict())))
    np.testing.assert_allclose(again.lengths, known.lengths, rtol=1e-6)
    np.testing.assert_allclose(again.length(values), known.length(values), rtol=1e-5)
    # One channel alone moves at its deviation: length 1.
    one = np.zeros((1, 3))
    one[0, 1] = np.sqrt(1 / known.precision[1, 1])
    assert known.length(one)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match='at least two'):
        KnownActions.of(np.zeros((3, 2)))
    with pytest.raises(ValueError, match='missing or wrong'):
        KnownActions.from_dict({'quantiles': [[0]]})


def test_a_channel_that_never_moved_leaves_the_others_judgeable():
    actions = np.random.default_rng(0).uniform(-1, 1, (100, 2)) * [1, 0]
    known = KnownActions.of(actions)
    assert np.isfinite(known.length(np.array([[0.5, 0.0]]))).all()
    assert known.length(np.array([[0.0, 0.1]]))[0] > 100


def test_rarity_is_the_share_that_looks_worse():
    values = np.random.default_rng(0).exponential(1, 20000)
    tail = Tail.of(values)
    for share in (0.5, 0.1, 0.01, 0.0001):
        where = np.array([-np.log(share)])
        assert tail.rarity(where)[0] == pytest.approx(-np.log10(share), abs=0.15)
        if share < 0.05:
            assert tail.at(share) == pytest.approx(where[0], rel=0.05)
    grid = np.linspace(-1, 30, 500)
    assert (np.diff(tail.rarity(grid)) >= 0).all()
    constant = Tail.of(np.ones(300))
    assert constant.rarity(np.array([1.0]))[0] < 1.31 < constant.rarity(np.array([1.1]))[0]


def real(count=1000, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.exponential(1.0, count) for name in SIGNALS}


def test_a_calibration_lets_one_in_a_hundred_pass():
    made = calibrate([real(4000)], statistics(), 'abc')
    other = real(20000, 1)
    share = (made.score(other, plan=False)[0] > made.threshold).mean()
    assert 0.005 < share < 0.02
    other['place'][:] = 12.0
    score, worst, _ = made.score(other, plan=False)
    assert (score > made.threshold).all() and worst.count('place') > 19000
    with pytest.raises(CalibrationError, match='at least 200'):
        calibrate([real(199)], statistics(), 'abc')


def test_dreams_widen_what_is_normal_where_they_differ():
    alone = calibrate([real()], statistics(), 'abc')
    blurred = [{**real(4, seed), 'picture': np.full(4, 9.0)} for seed in range(100)]
    both = calibrate([real()], statistics(), 'abc', blurred)
    flagged = [(c.score(s)[0] > c.threshold).mean() for c in (alone, both) for s in blurred]
    assert np.mean(flagged[:100]) > 0.9 and np.mean(flagged[100:]) < 0.02
    assert both.tails['stillness'] is not None
    np.testing.assert_array_equal(
        both.tails['stillness'].quantiles, alone.tails['stillness'].quantiles
    )


def test_coming_to_rest_is_no_fault_but_a_copied_frame_is():
    made = calibrate([real()], statistics(), 'abc')
    still, moving = 50.0, 0.1
    quiet = {name: np.full(4, 0.1) for name in SIGNALS}

    def judge(*stillness):
        signals = {**quiet, 'stillness': np.array(stillness)}
        score, worst, resting = made.score(signals)
        return (score > made.threshold).tolist(), worst, resting.tolist()

    flags, _, resting = judge(moving, moving, still, still)
    assert flags == [False] * 4 and resting == [False, False, True, True]
    flags, worst, resting = judge(moving, still, moving, moving)
    assert flags == [False, True, False, False] and worst[1] == 'stillness' and not any(resting)
    assert judge(still, still, still, still)[2] == [True] * 4
    signals = {**quiet, 'stillness': np.full(4, still)}
    assert (made.score(signals, plan=False)[0] > made.threshold).all()


@pytest.fixture
def info(tmp_path):
    return CheckpointInfo(tmp_path / 'jidm_x.safetensors', 'idm', 'ab' * 32, {}, {}, {})


def test_a_calibration_survives_its_file(info, caplog):
    assert find_calibration(info) is None
    made = calibrate([real()], statistics(), info.short_hash)
    path = calibration_path(info)
    assert path.name == 'jidm_x.honesty.json'
    made.save(path)
    again = find_calibration(info)
    other = real(50, 3)
    np.testing.assert_allclose(again.score(other)[0], made.score(other)[0], rtol=1e-5)
    assert again.threshold == made.threshold and again.count == 1000

    newer = dataclasses.replace(info, sha256='cd' * 32)
    with caplog.at_level(logging.WARNING):
        assert find_calibration(newer) is None
    assert 'vera study honesty' in caplog.text

    for damage in ('{', '{"format": 9}', path.read_text().replace('residual', 'mood')):
        path.write_text(damage)
        with pytest.raises(CalibrationError, match=r'jidm_x.honesty.json.*make it again'):
            Calibration.read(path)
