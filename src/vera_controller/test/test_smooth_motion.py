"""Jerk, workspace, self-collision, speed of the tool: no input makes the filter break them."""

import math
import time

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from limit_checks import check

from vera_controller.guard import Guard, make_guard, read_spheres
from vera_controller.limits import Limits, SafetyError
from vera_controller.safety_filter import SafetyFilter
from vera_controller.smooth_motion import SmoothMotion
from vera_core.contract import load_contract

PANDA = load_contract('panda')
LIMITS = Limits.from_contract(PANDA)
GUARD = make_guard(PANDA)
HOME = PANDA.home_positions


@st.composite
def some_limits(draw):
    n = draw(st.integers(1, 3))

    def column(low, high):
        return np.array(draw(st.lists(st.floats(low, high), min_size=n, max_size=n)))

    low = column(-4.0, 4.0)
    jerk = np.where(column(0, 1) < 0.2, np.inf, 10 ** column(0.5, 4.0))
    jerk[0] = min(jerk[0], 2e4)
    return Limits(
        tuple(f'j{i}' for i in range(n)), low, low + column(0.05, 6.0), column(0.05, 5.0),
        column(0.5, 50.0), jerk,
    )


DTS = st.one_of(st.just(0.01), st.floats(1e-3, 0.05), st.floats(0.05, 2.0))


@given(data=st.data(), limits=some_limits())
@settings(max_examples=25, deadline=None)
def test_no_command_makes_any_derivative_leave_its_limit(data, limits):
    n = len(limits.names)
    share = np.array(data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
    safety = SafetyFilter(limits)
    safety.start(limits.low + share * (limits.high - limits.low))
    t, q = [0.0], [safety.positions]
    for _ in range(data.draw(st.integers(3, 8))):
        command = data.draw(
            st.one_of(
                st.none(),
                st.lists(st.floats(-8, 8), min_size=n, max_size=n).map(np.array),
                st.just(np.full(n, np.nan)),
                st.just(np.full(n, 1e300)),
            )
        )
        dt = data.draw(DTS)
        for _ in range(data.draw(st.sampled_from([1, 2, 8]))):
            q.append(safety.apply(command, None, dt)[0])
            t.append(t[-1] + dt)
    check(limits, t, q)


def test_hostile_runs_reach_every_limit():
    """Else the test above would say nothing about them."""
    rng = np.random.default_rng(0)
    limits = Limits(('a', 'b'), [-1, -1], [1, 1], [1.2, 1.2], [7.5, 7.5], [100.0, 400.0])
    motion = SmoothMotion(limits)
    motion.start(np.zeros(2))
    t, q, target = [0.0], [motion.positions], None
    for _ in range(600):
        if rng.random() < 0.03:
            target = np.clip(rng.normal(0, 2, 2), -1, 1)
        dt = float(rng.choice([0.01, 0.002, 0.03]))
        motion.advance(target, dt)
        t.append(t[-1] + dt)
        q.append(motion.positions)
    most = check(limits, t, q)
    np.testing.assert_allclose(most, [1.2, 7.5, 400.0], rtol=0.02)
    assert np.abs(q).max() > 1 - 1e-6


@pytest.mark.parametrize('jerk', [30.0, 500.0, np.inf])
def test_a_target_is_reached_without_overshoot_and_in_time(jerk):
    limits = Limits(('a',), [-3.0], [3.0], [1.0], [5.0], [jerk])
    motion = SmoothMotion(limits)
    motion.start(np.zeros(1))
    fastest = 1.0 + 1.0 / 5.0 + (5.0 / jerk)
    for _ in range(math.ceil(fastest / 0.01) + 5):
        motion.advance(np.ones(1), 0.01)
        assert motion.positions[0] <= 1 + 1e-9
    assert motion.positions[0] == pytest.approx(1.0, abs=1e-6)
    motion.advance(np.ones(1), 0.01)
    assert motion.at_rest


def test_a_ramp_is_followed_at_the_distance_of_a_stop_and_evenly():
    limits = Limits(('a',), [-3.0], [3.0], [1.0], [5.0], [100.0])
    motion = SmoothMotion(limits)
    motion.start(np.zeros(1))
    u, speeds = 0.5, []
    for k in range(200):
        motion.advance(np.array([u * 0.01 * (k + 1)]), 0.01)
        speeds.append(motion.velocities[0])
    lag = u * 2.0 - motion.positions[0]
    assert lag == pytest.approx(u**2 / (2 * 5) + u * 5 / (2 * 100), rel=0.02)
    assert np.ptp(speeds[100:]) < 1e-4


def hostile_panda(seed, ticks, limits=LIMITS):
    rng = np.random.default_rng(seed)
    safety = SafetyFilter(limits, guard=GUARD)
    safety.start(HOME)
    t, q, kinds, target = [0.0], [HOME], set(), None
    for _ in range(ticks):
        if rng.random() < 0.03:
            target = rng.uniform(LIMITS.low, LIMITS.high)
            if rng.random() < 0.6:
                target = HOME + rng.normal(0, 0.5, 8)
            if rng.random() < 0.1:
                target = None
        dt = float(rng.choice([0.01, 0.01, 0.01, 0.002, 0.03, 0.2]))
        out, violations = safety.apply(target, None, dt)
        kinds |= {v.kind for v in violations}
        q.append(out)
        t.append(t[-1] + dt)
    return np.array(t), np.array(q), kinds


@pytest.mark.parametrize('seed', range(3))
def test_no_target_makes_the_panda_leave_its_workspace_or_touch_itself(seed):
    t, q, kinds = hostile_panda(seed, 400)
    check(LIMITS, t, q)
    broken, tool = GUARD.look(q)
    assert broken.max() <= 1e-6, GUARD.name(int(broken.max(axis=0).argmax()), broken.max())
    box = np.array([PANDA.safety.workspace.x, PANDA.safety.workspace.y, PANDA.safety.workspace.z])
    assert (tool[:, :3, 3] >= box[:, 0]).all() and (tool[:, :3, 3] <= box[:, 1]).all()
    speed = np.linalg.norm(np.diff(tool[:, :3, 3], axis=0), axis=1) / np.diff(t)
    assert speed.max() <= PANDA.safety.tool_speed[0] * 1.01
    assert 'workspace' in kinds


def test_without_the_guard_the_same_targets_do_leave_it():
    free = load_contract('panda', {'safety': None})
    assert make_guard(free) is None
    safety = SafetyFilter(LIMITS)
    safety.start(HOME)
    rng = np.random.default_rng(0)
    worst = -1.0
    for _ in range(6):
        target = rng.uniform(LIMITS.low, LIMITS.high)
        for _ in range(40):
            q, _ = safety.apply(target, None, 0.04)
            worst = max(worst, GUARD.look(q[None])[0].max())
    assert worst > 0.05


def test_it_stops_before_the_floor_and_before_itself_and_says_so():
    # Joint 6 folds the hand against the forearm; without a box, which would be reached first.
    guard = Guard(load_contract('panda', {'safety.workspace': None}))
    safety = SafetyFilter(LIMITS, guard=guard)
    safety.start(HOME)
    fold = HOME.copy()
    fold[5] = 0.1
    words = set()
    for _ in range(300):
        q, violations = safety.apply(fold, None, 0.01)
        words |= {str(v) for v in violations}
    assert safety.at_rest or np.abs(safety.velocities).max() < 1e-3
    assert q[5] > 0.12
    assert any('collision: panda_link5 would come within' in w for w in words), words
    # And back: what is near may go away.
    for _ in range(300):
        q, _ = safety.apply(HOME, None, 0.01)
    np.testing.assert_allclose(q, HOME, atol=1e-6)


def test_a_stop_is_never_blocked_by_the_guard():
    safety = SafetyFilter(LIMITS, guard=GUARD)
    safety.start(HOME)
    out = HOME + np.array([1.0, 0.5, 0, 0, 0, 0, 0, 0])
    for _ in range(60):
        safety.apply(out, None, 0.01)
    assert np.abs(safety.velocities).max() > 0.2
    ticks = 0
    while not safety.at_rest:
        safety.apply(None, None, 0.01)
        ticks += 1
    assert ticks * 0.01 <= (LIMITS.velocity / LIMITS.acceleration).max() + 0.05


def test_nothing_starts_outside_the_workspace_or_in_a_collision():
    safety = SafetyFilter(LIMITS, guard=GUARD)
    away = HOME.copy()
    away[0] = 2.5
    with pytest.raises(SafetyError, match=r'the tool is outside its workspace.*by hand'):
        safety.start(away)
    folded = HOME.copy()
    folded[5] = 0.02
    safety = SafetyFilter(
        LIMITS, guard=Guard(load_contract('panda', {'safety.workspace': None}))
    )
    with pytest.raises(SafetyError, match=r'panda_link5 is within \d+ mm of panda_hand'):
        safety.start(folded)
    assert not safety.started


def test_what_is_outside_a_little_may_come_back_but_not_go_further():
    box = {'x': [0.2, 0.78], 'y': [-0.45, 0.45], 'z': [0.49, 0.75]}
    arm = Guard(load_contract('panda', {'safety.workspace': box}))
    q = HOME.copy()
    broken, tool = arm.look(q[None])
    assert 0.002 < broken[0, 2] < 0.01, broken[0, 2]
    safety = SafetyFilter(LIMITS, guard=arm)
    safety.start(q)
    for _ in range(100):
        out, _ = safety.apply(q + np.array([0, 0.3, 0, 0, 0, 0, 0, 0]), None, 0.01)
        assert arm.look(out[None])[1][0, 2, 3] >= tool[0, 2, 3] - 1e-6
    up = q - np.array([0, 0.2, 0, 0, 0, 0, 0, 0])
    for _ in range(200):
        out, _ = safety.apply(up, None, 0.01)
    np.testing.assert_allclose(out, up, atol=1e-6)


def test_the_same_inputs_give_the_same_bits():
    assert hostile_panda(5, 60)[1].tobytes() == hostile_panda(5, 60)[1].tobytes()


@pytest.mark.parametrize('name', ['panda', 'panda_joints', 'panda_fr3'])
def test_at_home_there_is_room(name):
    contract = load_contract(name)
    broken, _ = Guard(contract).look(contract.home_positions[None])
    assert broken.max() < -0.01


def test_mistakes_in_spheres_are_named(tmp_path):
    path = tmp_path / 'spheres.yaml'
    for text, words in (
        ('spheres: {panda_hnd: [[0, 0, 0, 0.1]]}', "did you mean 'panda_hand'"),
        ('spheres: {panda_hand: [[0, 0, 0, -0.1]]}', 'radius > 0'),
        ('spheres: {panda_hand: [[0, 0, 0]]}', 'cannot be used|need'),
        ('balls: {}', 'cannot be used'),
        (yaml.safe_dump({'spheres': {'panda_hand': 'round'}}), 'cannot be used'),
    ):
        path.write_text(text)
        with pytest.raises(SafetyError, match=words):
            read_spheres(path, GUARD.tree)
    with pytest.raises(SafetyError, match=r'none\.yaml'):
        read_spheres(tmp_path / 'none.yaml', GUARD.tree)


def test_neighbours_are_not_looked_at_and_distances_are_true(tmp_path):
    path = tmp_path / 'spheres.yaml'
    path.write_text(
        'spheres: {panda_link0: [[0, 0, 0, 0.1]], panda_link1: [[0, 0, 0, 0.5]],'
        ' panda_hand_tcp: [[0, 0, 0, 0.02]]}'
    )
    spheres = read_spheres(path, GUARD.tree)
    named = {
        (GUARD.tree.link_names[spheres.link[a]], GUARD.tree.link_names[spheres.link[b]])
        for a, b in zip(spheres.first, spheres.second, strict=True)
    }
    # The tool is a neighbour of link 1: no link between them has a sphere.
    assert named == {('panda_link0', 'panda_hand_tcp')}
    contract = load_contract(
        'panda', {'safety': {'spheres': str(path), 'floor': None, 'workspace': None}}
    )
    broken, tool = Guard(contract).look(HOME[None])
    gap = np.linalg.norm(tool[0, :3, 3]) - 0.12
    np.testing.assert_allclose(broken, [[PANDA.safety.clearance - gap]])


@pytest.mark.parametrize('joints', [8, 16])
def test_a_tick_is_quick(joints):
    if joints == 8:
        limits, guard, start = LIMITS, GUARD, HOME
    else:
        one = np.ones(16)
        limits = Limits(
            tuple(f'j{i}' for i in range(16)), -one, one, 2 * one, 10 * one, 500 * one
        )
        guard, start = None, np.zeros(16)
    safety = SafetyFilter(limits, guard=guard)
    safety.start(start)
    rng = np.random.default_rng(0)
    target, times = start, []
    for k in range(400):
        if k % 20 == 0:
            goal = start + rng.uniform(-0.25, 0.25, joints)
        target = target + 0.03 * (goal - target)
        begin = time.perf_counter()
        safety.apply(target, None, 0.01)
        times.append(time.perf_counter() - begin)
    print(f'{joints} joints: median {np.median(times) * 1e6:.0f} us')
    # 1 ms at the 99th percentile is the promise on an idle core; the median bears a laden one.
    assert np.median(times) < 2.5e-3
