"""An arm behind the Robot seam, with the real controller before it and a fake arm behind."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from vera_controller.controller import Controller
from vera_controller.registry import RobotError, make_robot
from vera_controller.robots.arm import MINUTE_NS, ArmRobot, Recoveries
from vera_controller.robots.fake_robot import FakeGripper, FakeLink, Faults, fake_arm
from vera_controller.robots.tracker import CATCH_UP, SetpointTracker
from vera_controller.state_machine import State
from vera_core.chunk import ActionChunk
from vera_core.clocks import ManualClock
from vera_core.contract import load_contract
from vera_core.seams import RobotState

MS = 1_000_000
T0 = 10_000 * MS
PERIOD = 10 * MS
TICK = 0.01


@pytest.fixture(scope='module')
def panda():
    return load_contract('panda_joints', {'safety': None})


class Rig:
    """Controller, arm and clock in one thread: every 10 ms a tick, a cycle and a state."""

    def __init__(self, contract, **faults):
        self.contract = contract
        self.clock = ManualClock(T0)
        self.controller = Controller(contract, clock=self.clock)
        self.states, self.faults_heard, self.bad = [], [], []
        self.robot = fake_arm(
            contract,
            faults=Faults(**faults),
            on_state=self._on_state,
            on_bad_state=self.bad.append,
            on_fault=self._on_fault,
            clock=self.clock,
            stamp=self.clock.now,
            threaded=False,
        )
        self.link = self.robot.link
        self.link.gripper = FakeGripper(0.04, real_time=False)
        self.robot.connect()
        self.controller.enable()
        self.seq = 0
        self.sent = []

    def _on_state(self, state):
        self.states.append(state)
        self.controller.on_state(state)

    def _on_fault(self, reason):
        self.faults_heard.append((self.clock.now(), reason))
        self.controller.stop(reason)

    def step(self, seconds, until=None):
        for _ in range(round(seconds / TICK)):
            set_point = self.controller.tick(self.clock.now())
            if set_point is not None:
                self.sent.append(set_point)
                self.robot.command(set_point.positions, set_point.stamp)
            self.robot.cycle()
            self.clock.advance(PERIOD)
            if until is not None and until():
                return

    def go(self, values, steps=8):
        """A chunk of the same joint deltas [rad per frame] at every step."""
        self.seq += 1
        if self.seq == 1:
            self.controller.on_goal(1, True)
        names = self.contract.channel_names
        grid = np.tile(np.array(values, np.float64), (steps, 1))
        chunk = ActionChunk(
            stamp=self.clock.now(), goal_id=1, plan_seq=self.seq, channels=names,
            period=self.contract.video.frame_period, values=grid,
            residual=np.zeros(steps, np.float32), observability=np.ones(len(names), np.float32),
        )  # fmt: skip
        return self.controller.on_chunk(chunk, self.clock.now())

    @property
    def status(self):
        return self.controller.status(self.clock.now())

    @property
    def q(self):
        return self.link.read().q

    def moving(self, values=None):
        self.step(0.1)
        assert self.go(values or [0.06] * 7 + [1.0]) is None
        self.step(0.6)
        assert self.status.state is State.RUNNING
        assert np.abs(self.states[-1].velocities[:7]).max() > 0.1
        return self


@pytest.fixture
def rig(panda):
    def make(**faults):
        return Rig(panda, **faults)

    return make


def test_the_arm_follows_a_chunk_and_its_way_back(rig):
    arm = rig()
    arm.step(0.1)
    start = arm.q
    for sign in (1.0, -1.0):
        assert arm.go([sign * 0.05, 0, 0, sign * 0.04, 0, 0, sign * 0.06, 1.0]) is None
        arm.step(2.2)
        wanted = start + np.array([0.4, 0, 0, 0.32, 0, 0, 0.48]) * (sign > 0)
        np.testing.assert_allclose(arm.q, wanted, atol=2e-3)
    assert not arm.faults_heard
    # Set-point k is where the arm is one period later.
    sent = {s.stamp + PERIOD: s.positions[:7] for s in arm.sent}
    late = [np.abs(s.positions[:7] - sent[s.stamp]).max() for s in arm.states if s.stamp in sent]
    assert len(late) > 300
    assert max(late) < 0.02


def test_a_reflex_stops_the_controller_within_a_period_with_its_reason(rig):
    arm = rig(reflex_at=0.9)
    arm.moving()
    arm.step(1.0, until=lambda: bool(arm.faults_heard))
    heard, reason = arm.faults_heard[0]
    assert heard - (T0 + 900 * MS) <= PERIOD
    assert reason == 'reflex of the arm: cartesian reflex'
    arm.step(TICK)
    assert arm.status.state is State.STOPPED
    assert 'cartesian reflex' in arm.status.reason


def test_after_a_reflex_it_recovers_by_itself_but_moves_only_after_a_reset(rig):
    arm = rig(reflex_at=0.9)
    arm.moving()
    arm.step(0.3)
    stuck = arm.link._q.copy()
    arm.step(3.0)
    assert arm.link.recoveries == 1
    assert arm.robot.fault == ''
    np.testing.assert_array_equal(arm.q, stuck)
    assert arm.status.state is State.STOPPED
    assert arm.go([0.05] * 7 + [1.0]) is not None, 'nothing is taken while it is stopped'
    assert arm.controller.reset() == (True, 'READY')
    arm.step(0.1)
    assert arm.go([0.0, 0, 0, 0.05, 0, 0, 0, 1.0], steps=4) is None
    arm.step(1.5)
    # It went on from where the reflex left it, not from where it should have been.
    np.testing.assert_allclose(arm.q[3] - stuck[3], 0.2, atol=5e-3)
    np.testing.assert_allclose(arm.q[[0, 1, 2, 4, 5, 6]], stuck[[0, 1, 2, 4, 5, 6]], atol=5e-3)


def test_recoveries_are_bounded_and_the_reason_says_so(rig):
    arm = rig(reflex_at=0.9, refuses_recovery=True)
    arm.moving()
    arm.step(30.0)
    assert arm.link.recoveries == 3
    assert arm.status.state is State.STOPPED
    assert arm.faults_heard[-1][1].startswith('reflex of the arm: cartesian reflex; 3 automatic')
    assert any('recovery failed: the arm refused' in reason for _, reason in arm.faults_heard)
    # Whoever resets now is told again, before anything moves.
    arm.controller.reset()
    arm.step(0.6)
    assert arm.status.state is State.STOPPED
    assert 'did not help' in arm.status.reason
    # A minute later it may try again.
    arm.link.faults.refuses_recovery = False
    arm.step(60.0)
    assert arm.link.recoveries == 4
    assert arm.robot.fault == ''


def test_recoveries_are_counted_within_any_minute():
    budget = Recoveries(2)
    assert [budget.take(t) for t in (0, MINUTE_NS - 2)] == [True, True]
    assert not budget.take(MINUTE_NS - 1)
    assert budget.take(MINUTE_NS)
    assert not budget.take(2 * MINUTE_NS - 3)
    assert not Recoveries(0).take(0)


def test_a_lost_connection_stops_and_is_made_again(rig):
    arm = rig(lost_at=0.9)
    arm.moving()
    arm.step(0.3)
    assert arm.status.state is State.STOPPED
    assert 'the connection to the arm is lost' in arm.status.reason
    arm.step(1.5)
    assert arm.link.recoveries == 1
    assert arm.robot.fault == ''


def test_states_that_are_no_numbers_hold_and_nothing_goes_to_the_arm(rig):
    arm = rig(nan_at=0.9, nan_until=1.3)
    arm.moving()
    arm.step(0.3)
    assert arm.status.state is State.HOLD
    assert 'is at nan' in arm.status.reason
    stood = arm.link._q.copy()
    arm.step(0.05)
    np.testing.assert_array_equal(arm.link._q, stood)
    arm.step(0.5)
    assert np.isfinite(arm.link._q).all()
    assert arm.status.state is not State.STOPPED
    assert arm.go([0.03] * 7 + [1.0]) is None, 'it takes plans again by itself'
    before = arm.q
    arm.step(1.0)
    assert (arm.q - before > 0.05).all()


def test_the_user_stop_is_no_case_for_a_recovery(rig):
    arm = rig(stop_from=0.9, stop_until=4.0)
    arm.moving()
    arm.step(2.0)
    assert arm.status.state is State.STOPPED
    assert arm.status.reason == 'the user stop is pressed: release it'
    assert arm.link.recoveries == 0
    arm.controller.reset()
    arm.step(0.6)
    assert arm.status.state is State.STOPPED, 'still pressed'
    arm.step(2.0)
    assert arm.robot.fault == ''
    assert arm.controller.reset()[0]
    arm.step(0.2)
    assert arm.status.state is State.READY


def test_a_fault_that_is_over_at_once_still_ends_the_motion(rig):
    arm = rig(stop_from=0.9, stop_until=0.92)
    arm.moving()
    arm.step(1.0, until=lambda: bool(arm.faults_heard))
    stood = arm.link._q.copy()
    arm.step(1.0)
    assert arm.robot.fault == ''
    assert arm.status.state is State.STOPPED
    np.testing.assert_array_equal(arm.q, stood)


def test_where_a_stopped_arm_is_is_still_told(rig):
    arm = rig(stop_from=0.9, stop_until=4.0)
    arm.moving()
    arm.step(1.0)
    led = arm.link._q + 0.05  # by hand
    arm.link.put(led)
    count = len(arm.states)
    arm.step(0.5)
    assert len(arm.states) == count + 50
    np.testing.assert_array_equal(arm.states[-1].positions[:7], led)


def test_an_arm_that_was_closed_can_be_opened_again(rig):
    arm = rig()
    arm.moving()
    arm.robot.stop()
    arm.robot.close()
    arm.robot.connect()
    arm.controller.stop()
    arm.step(1.0)
    arm.controller.reset()
    before = arm.q
    assert arm.go([0.05] * 7 + [1.0]) is None
    arm.step(1.0)
    assert (arm.q - before > 0.1).all()
    assert not arm.faults_heard


def test_a_refused_motion_is_surfaced_in_the_same_cycle(rig):
    arm = rig(refuse_move_at=0.9)
    arm.moving()
    arm.step(1.0, until=lambda: bool(arm.faults_heard))
    heard, reason = arm.faults_heard[0]
    assert (heard - (T0 + 900 * MS), reason) == (0, 'motion refused')


def test_stop_halts_at_once_and_mutes_the_rest_of_the_motion(rig):
    arm = rig()
    arm.moving()
    speed = np.abs(arm.link.read().dq).max()
    arm.robot.stop()
    where = arm.link._q.copy()
    for _ in range(30):  # a controller that knows nothing goes on
        set_point = arm.controller.tick(arm.clock.now())
        arm.robot.command(set_point.positions, set_point.stamp)
        arm.robot.cycle()
        arm.clock.advance(PERIOD)
    brake = speed**2 / (2 * 10.0) + speed * TICK
    assert np.abs(arm.link._q - where).max() <= brake + 1e-9
    np.testing.assert_array_equal(arm.link.read().dq, 0)


def test_a_gap_in_the_rest_of_a_halted_motion_does_not_bring_it_back(rig):
    """On a laden machine the decelerating set-points after an e-stop come with holes."""
    arm = rig()
    arm.moving([0.1] * 7 + [1.0])
    arm.controller.estop()
    arm.robot.stop()
    arm.robot.cycle()
    for k in range(60):
        set_point = arm.controller.tick(arm.clock.now())
        if set_point is not None and not 3 < k < 12:
            arm.robot.command(set_point.positions, set_point.stamp)
        arm.robot.cycle()
        arm.clock.advance(PERIOD)
        if k == 11:
            stood = arm.link._q.copy()
            np.testing.assert_array_equal(arm.link.read().dq, 0)
    np.testing.assert_array_equal(arm.link._q, stood)


def test_silence_brakes_and_the_next_motion_begins_where_the_arm_is(rig):
    arm = rig()
    arm.moving()
    for _ in range(30):
        arm.clock.advance(PERIOD)
        arm.robot.cycle()
    np.testing.assert_array_equal(arm.link.read().dq, 0)
    far = np.concatenate([arm.q, [0.04]])
    far[2] += 0.3
    before = arm.q
    for _ in range(20):
        arm.robot.command(far, arm.clock.now())
        arm.robot.cycle()
        arm.clock.advance(PERIOD)
    np.testing.assert_array_equal(arm.q, before)
    assert (
        'first set-point of panda_joint3 is 0.300 rad from where it is' in (arm.faults_heard[-1][1])
    )


def test_neither_command_nor_stop_waits_for_an_arm_that_blocks(panda):
    release = threading.Event()

    class Blocking(FakeLink):
        def read(self):
            release.wait(5.0)
            return super().read()

    link = Blocking(panda.home_positions[:7], TICK, gripper=FakeGripper(0.04))
    robot = ArmRobot(
        panda, link, on_state=lambda s: None, on_bad_state=print, on_fault=lambda r: None
    )
    robot.connect()
    try:
        time.sleep(0.05)
        took = []
        for act in (lambda: robot.command(panda.home_positions, 1), robot.stop):
            began = time.perf_counter()
            act()
            took.append(time.perf_counter() - began)
        assert max(took) < 0.5, took
        assert robot.state() is None
    finally:
        release.set()
        robot.close()


def test_its_own_thread_reads_at_the_control_rate_and_ends(panda):
    states, faults = [], []
    robot = make_robot('fake_arm', panda, on_state=states.append, on_bad_state=print,
                       on_fault=faults.append)  # fmt: skip
    with robot:
        deadline = time.monotonic() + 10
        while len(states) < 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        names = [thread.name for thread in threading.enumerate()]
        assert 'arm' in names
    assert len(states) >= 50
    assert robot.state() is states[-1]
    np.testing.assert_allclose(states[-1].positions, panda.home_positions)
    assert abs(states[-1].stamp - time.time_ns()) < 60e9
    assert not [t for t in threading.enumerate() if t.name == 'arm' and t.is_alive()]
    robot.close()
    assert not faults


def test_a_mistake_in_the_driver_is_a_fault_not_a_dead_thread(panda):
    class Broken(FakeLink):
        def read(self):
            raise KeyError('q')

    faults = []
    link = Broken(panda.home_positions[:7], TICK, gripper=FakeGripper(0.04))
    robot = ArmRobot(panda, link, on_state=print, on_bad_state=print, on_fault=faults.append)
    with robot:
        deadline = time.monotonic() + 10
        while not faults and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "mistake in the driver of the arm: KeyError('q')" in faults[0]


@pytest.mark.parametrize(
    ('overrides', 'words'),
    [
        ({'joints.panda_joint6.position': [-0.1, 3.0]}, 'panda_joint6 may go from -0.1 to 3'),
        ({'joints.panda_joint1.position': [-2.8, 2.95]}, 'use the contract of this arm'),
        ({'robot': {'gripper': False}}, 'panda_finger_joint1 has no gripper behind it'),
    ],
)
def test_a_contract_that_does_not_fit_the_arm_is_refused(overrides, words):
    contract = load_contract('panda_joints', {'safety': None, **overrides})
    with pytest.raises(RobotError, match=words):
        link = FakeLink(contract.home_positions[:7], TICK)
        ArmRobot(
            contract, link, on_state=print, on_bad_state=print, on_fault=print, threaded=False
        ).connect()


def test_another_robot_is_no_arm(contract):
    with pytest.raises(RobotError, match='has 7 joints and at most one gripper'):
        make_robot('fake_arm', contract, on_state=print, on_bad_state=print)


# The tracker ----------------------------------------------------------------------------------


def follow(tracker, path, delay_ticks=0, start=None):
    """Positions of an arm that follows the tracker's velocities, delayed by some ticks."""
    q = np.array(path[0] if start is None else start, np.float64)
    queue = [np.zeros_like(q)] * delay_ticks
    found = []
    for target in path:
        velocity, _ = tracker.follow(target, q, TICK)
        queue.append(velocity)
        q = q + queue.pop(0) * TICK
        found.append(q.copy())
    return np.array(found)


def test_the_tracker_reaches_each_set_point_one_period_later():
    t = np.arange(0, 4, TICK)
    path = np.stack([0.3 * np.sin(2 * t), 0.5 * np.cos(t)], axis=1)
    got = follow(SetpointTracker(np.array([2.0, 2.0]), TICK), path)
    assert np.abs(got - path).max() < 1e-9


@pytest.mark.parametrize('delay', [1, 2, 3])
def test_the_tracker_stays_stable_when_the_arm_answers_late(delay):
    path = np.concatenate([np.zeros((20, 1)), np.full((300, 1), 0.05)])
    got = follow(SetpointTracker(np.array([2.0]), TICK), path, delay_ticks=delay)
    assert abs(got[-1, 0] - 0.05) < 1e-4
    assert got.max() < 0.05 + 0.02


def test_the_tracker_never_asks_for_more_than_the_limits():
    limits = np.array([1.0, 2.0])
    tracker = SetpointTracker(limits, TICK)
    rng = np.random.default_rng(0)
    for _ in range(500):
        velocity, forward = tracker.follow(
            rng.normal(size=2), rng.normal(size=2), rng.choice([0.0, TICK, 5.0, -1.0])
        )
        assert (np.abs(velocity) <= limits).all()
        assert (np.abs(forward) <= limits).all()


def test_the_tracker_begins_gently_and_forgets_the_motion_before():
    tracker = SetpointTracker(np.array([1.0]), TICK)
    tracker.follow(np.array([0.5]), np.array([0.0]), TICK)
    tracker.start()
    assert tracker.last is None
    velocity, forward = tracker.follow(np.array([0.05]), np.array([0.0]), TICK)
    assert forward == 0.0
    assert 0 < velocity <= CATCH_UP


def test_a_robot_state_of_the_arm_is_one_of_the_seam(rig):
    arm = rig()
    arm.step(0.05)
    state = arm.robot.state()
    assert isinstance(state, RobotState)
    assert state.positions.shape == (8,)
    assert state.positions[7] == 0.04
