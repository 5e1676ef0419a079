"""The controller as its node uses it, with a simulated servo and clocks held in hand."""

import dataclasses
import threading
import time

import numpy as np
import pytest
from controller_rig import MS, T0, Rig

from vera_controller.chunk_queue import UnsupportedChannelError
from vera_controller.controller import SETTLE_TICKS, Controller
from vera_controller.state_machine import State
from vera_core.clocks import ManualClock
from vera_core.contract import load_contract
from vera_core.seams import RobotState


@pytest.fixture
def rig(contract):
    return Rig(contract)


@pytest.fixture
def running(rig, make_chunk):
    """In the middle of the first chunk of goal 1."""
    rig.step(20)
    rig.controller.on_goal(1, True)
    assert rig.controller.on_chunk(make_chunk(rig.now, 0.1, steps=8), rig.now) is None
    rig.step(30)
    assert rig.state is State.RUNNING and rig.fast() > 0.4
    return rig


def test_it_does_nothing_until_it_is_enabled(contract):
    controller = Controller(contract)
    status = controller.status(0)
    assert (status.state, status.reason) == (State.IDLE, 'not enabled')
    assert controller.tick(T0) is None
    assert controller.enable() == (True, 'READY')
    assert controller.enable() == (False, 'the controller is READY')


def test_ready_is_silent(rig):
    rig.step(100)
    assert rig.state is State.READY
    assert not rig.commands


def test_a_chunk_is_executed_and_ends_where_its_deltas_lead(rig, make_chunk):
    rig.step(20)
    start = rig.q.copy()
    rig.controller.on_goal(1, True)
    assert rig.state is State.READY
    rig.controller.on_chunk(make_chunk(rig.now, [0.1, -0.05, 0.0], seq=3), rig.now)
    rig.step(1)
    assert rig.state is State.RUNNING
    status = rig.status
    assert (status.goal_id, status.plan_seq, status.reason) == (1, 3, 'executing goal 1')
    assert status.remaining == pytest.approx(0.79) and status.plan_age == pytest.approx(0.01)
    rig.step(120)
    np.testing.assert_allclose(rig.q, start + [0.4, -0.2, 0.0], atol=1e-2)  # noqa: RUF005
    rig.check_limits()


def test_an_underrun_decelerates_to_a_hold_and_resumes_by_itself(running, make_chunk):
    running.step(140)
    assert running.state is State.HOLD
    assert running.status.reason == 'ran out of actions after plan 1'
    assert running.status.underruns == 1
    assert running.fast() == 0
    running.step(200)
    assert running.status.underruns == 1, 'one underrun, however long it lasts'
    here = running.q.copy()
    assert running.controller.on_chunk(make_chunk(running.now, 0.1, seq=2), running.now) is None
    assert running.state is State.RUNNING
    running.step(85)
    np.testing.assert_allclose(running.q, here + 0.4, atol=2e-2)
    running.check_limits()


def test_asynchronous_replanning_flows_without_a_hold(rig, make_chunk):
    """A new chunk every 0.4 s, each 0.25 s late: speed never drops once it runs."""
    rig.step(30)
    rig.controller.on_goal(1, True)
    anchor, states, speeds = rig.now, set(), []
    for seq in range(1, 8):
        rig.step(25)
        assert rig.controller.on_chunk(make_chunk(anchor, [0.1, 0, 0], seq=seq), rig.now) is None
        for _ in range(15):
            rig.step(1)
            states.add(rig.state)
            speeds.append(rig.commands[-1].velocities[0])
        anchor = rig.now
    assert states == {State.RUNNING}
    assert rig.status.underruns == 0 and rig.status.rejected == 0
    assert min(speeds[45:]) > 0.25 and max(speeds[45:]) < 0.6
    # The first chunk is ahead of the robot when it comes: no lunge at the velocity limit.
    assert max(speeds) < 1.6
    rig.check_limits()


def test_stop_takes_effect_with_the_next_tick(running):
    before = running.fast()
    running.controller.stop('a person pressed stop')
    running.step(1)
    assert running.state is State.STOPPED
    assert running.status.reason == 'a person pressed stop'
    assert running.fast() < before
    begun = running.now
    running.step(20, until=lambda: running.fast() == 0)
    # 50 ms at this speed; v / a at any other.
    assert running.now - begun <= 40 * MS
    running.step(50)
    running.check_limits()


def test_stop_waits_for_no_lock(running):
    with running.controller._lock:
        done = threading.Thread(target=running.controller.stop, args=('now',))
        done.start()
        done.join(1.0)
        assert not done.is_alive()
        running.controller.estop('now')
    running.step(1)
    assert running.state is State.ESTOP


def test_the_last_command_after_a_stop_stands_still(running):
    running.controller.stop()
    running.step(100)
    last = running.commands[-1]
    assert not last.velocities.any()
    np.testing.assert_array_equal(last.positions, running.commands[-2].positions)
    assert len(running.commands) < 40 + SETTLE_TICKS, 'then there is silence'


def test_the_first_cause_wins(running):
    running.controller.stop('first')
    running.controller.stop('second')
    running.step(1)
    assert running.status.reason == 'first'
    running.sensing = False
    running.step(100)
    assert (running.state, running.status.reason) == (State.STOPPED, 'first')


def test_a_stop_is_left_only_by_reset(running, make_chunk):
    running.controller.stop()
    running.step(30)
    words = running.controller.on_chunk(make_chunk(running.now, seq=2), running.now)
    assert words == 'the controller is STOPPED (stop requested)'
    running.controller.on_goal(2, True)
    assert running.state is State.STOPPED
    assert running.controller.enable() == (False, 'the controller is STOPPED; call reset first')
    assert running.controller.reset() == (True, 'READY')
    assert running.controller.reset() == (False, 'nothing to reset: the controller is READY')
    count = len(running.commands)
    running.step(50)
    assert running.state is State.READY
    assert len(running.commands) == count, 'what was planned before the stop is gone'
    assert not running.controller.on_chunk(make_chunk(running.now, goal=2), running.now)


def test_a_chunk_that_waited_through_a_stop_is_gone(rig, make_chunk):
    rig.step(5)
    assert rig.controller.on_chunk(make_chunk(rig.now, goal=7), rig.now) is None
    rig.controller.stop()
    rig.step(1)
    rig.controller.reset()
    rig.controller.on_goal(7, True)
    rig.step(5)
    assert rig.state is State.READY and not rig.commands


def test_estop_is_latched_until_reset_and_enable(running, make_chunk):
    running.controller.estop('mushroom')
    running.controller.estop('again')
    running.step(40)
    assert (running.state, running.status.reason) == (State.ESTOP, 'mushroom')
    assert running.fast() == 0
    assert 'reset first' in running.controller.enable()[1]
    assert running.controller.reset() == (True, 'IDLE; call enable next')
    running.step(5)
    assert 'IDLE' in running.controller.on_chunk(make_chunk(running.now, seq=9), running.now)
    assert running.controller.enable() == (True, 'READY')


def test_stale_joint_states_hold_and_fresh_ones_resume(running):
    running.sensing = False
    running.step(52)
    assert running.state is State.HOLD
    assert running.status.reason == 'joint states are stale: none for more than 0.5 s'
    running.step(20)
    assert running.fast() == 0
    running.sensing = True
    running.step(1)
    assert running.state is State.READY
    running.check_limits()


def test_a_chunk_that_comes_while_states_are_stale_is_refused(running, make_chunk):
    running.sensing = False
    running.step(70)
    words = running.controller.on_chunk(make_chunk(running.now, seq=2), running.now)
    assert 'stale' in words
    assert running.status.last_rejection == words and running.status.rejected == 1


def test_no_joint_states_at_all_is_said(rig):
    rig.sensing = False
    rig.step(60)
    assert rig.state is State.HOLD
    assert rig.status.reason == 'no joint states for 0.5 s; does anything publish them?'
    rig.sensing = True
    rig.step(2)
    assert rig.state is State.READY


def test_a_frozen_stamp_is_stale(running):
    stuck = RobotState(running.now, running.q.copy(), running.dq.copy())
    running.sensing = False
    for _ in range(60):
        running.controller.on_state(stuck)
        running.step(1)
        running.controller.on_goal(1, False)
    assert running.state is State.HOLD and 'stale' in running.status.reason


@pytest.mark.parametrize(
    ('positions', 'words'),
    [
        (np.array([0.6, np.nan, 0.6]), 'joint state: joint_2 is at nan'),
        (np.array([0.6, 0.6]), 'joint state of shape (2,) for 3 joints'),
    ],
)
def test_an_unusable_joint_state_holds_until_a_good_one(running, positions, words):
    bad = RobotState(running.now, positions, np.zeros(3))
    assert running.controller.on_state(bad) == words
    assert running.state is State.HOLD
    running.sensing = False
    before = running.fast()
    running.step(1)
    assert running.fast() < before
    running.sensing = True
    running.step(2)
    assert running.state is State.RUNNING, 'the chunk is still good'
    running.check_limits()


def test_what_the_robot_reports_in_words_holds_too(running):
    running.controller.on_bad_state('joint_states lacks joint joint_3')
    assert (running.state, running.status.reason) == (
        State.HOLD,
        'joint_states lacks joint joint_3',
    )


def test_a_joint_outside_its_limits_stops(running):
    running.put([0.6, 2.7, 0.6])
    assert running.state is State.STOPPED
    assert running.status.reason == 'joint_2 is at 2.7000, above its limit 2.6000'


def test_nothing_starts_outside_the_limits(contract):
    rig = Rig(contract)
    rig.controller.estop('x')
    rig.controller.reset()
    rig.put([0, 0, -2.9])
    assert rig.controller.enable() == (
        False,
        'joint_3 is at -2.9000, below its limit -2.6000; move it back by hand, then enable',
    )


def test_a_robot_that_does_not_follow_stops(running):
    running.obeying = False
    running.controller.on_goal(2, True)
    running.obeying = False
    from_goal_2(running, 0.3)
    running.step(75)
    assert running.state is State.STOPPED
    assert 'away from its set-point' in running.status.reason
    assert running.fast() < 0.2


def from_goal_2(rig, delta):
    from vera_core.chunk import ActionChunk

    values = np.full((4, 3), delta)
    chunk = ActionChunk(
        rig.now, 2, 1, rig.contract.channel_names, 0.2, values, np.zeros(4, np.float32),
        np.ones(3, np.float32),
    )  # fmt: skip
    assert rig.controller.on_chunk(chunk, rig.now) is None


def test_the_end_of_a_goal_ends_the_motion(running):
    running.controller.on_goal(1, False)
    assert (running.state, running.status.reason) == (State.READY, 'goal 1 ended')
    running.step(10)
    assert running.fast() == 0
    assert running.status.plan_seq == 0 and running.status.underruns == 0


def test_a_new_goal_replaces_the_old_and_its_chunks(running, make_chunk):
    running.controller.on_goal(2, True)
    assert running.status.reason == 'waiting for the first plan of goal 2'
    words = running.controller.on_chunk(make_chunk(running.now, seq=2, goal=1), running.now)
    assert words == 'plan 2 serves goal 1, but goal 2 is active'
    running.step(3)
    assert running.controller.on_chunk(make_chunk(running.now, seq=3, goal=2), running.now) is None
    running.step(1)
    assert running.status.goal_id == 2
    running.check_limits()


def test_a_chunk_ahead_of_the_news_about_its_goal_waits_for_it(rig, make_chunk):
    rig.step(5)
    assert rig.controller.on_chunk(make_chunk(rig.now, goal=7), rig.now) is None
    rig.step(5)
    assert rig.state is State.READY and not rig.commands
    rig.controller.on_goal(7, True)
    assert rig.state is State.RUNNING


def test_a_chunk_ahead_of_the_joint_states_waits_for_them(rig, make_chunk):
    rig.step(5)
    rig.controller.on_goal(1, True)
    assert rig.controller.on_chunk(make_chunk(rig.now + 3 * MS), rig.now) is None
    assert rig.state is State.READY
    rig.step(2)
    assert rig.state is State.RUNNING


def test_chunks_of_another_graph_are_refused_and_counted(running, make_chunk):
    """Two translators: the other one counts its goals and plans for itself."""
    for seq, goal in ((1, 1), (40, 0)):
        assert running.controller.on_chunk(
            make_chunk(running.now, 0.1, seq=seq, goal=goal), running.now
        )
    other = make_chunk(running.now, -0.1, seq=99, goal=5)
    assert running.controller.on_chunk(other, running.now) is None, 'waits, and for ever'
    running.step(10)
    assert running.status.goal_id == 1 and running.status.plan_seq == 1
    assert running.status.rejected == 2
    assert running.commands[-1].velocities[0] > 0


def test_a_robot_that_is_moved_at_rest_is_not_fought(rig, make_chunk):
    rig.step(5)
    rig.controller.on_goal(1, True)
    rig.controller.on_chunk(make_chunk(rig.now, 0.1), rig.now)
    rig.step(90)
    rig.controller.on_goal(1, False)
    rig.step(60)
    sent = len(rig.commands)
    rig.put([-1.0, 0.0, 1.0])
    rig.step(50)
    assert len(rig.commands) == sent
    rig.controller.on_goal(2, True)
    rig.controller.on_chunk(make_chunk(rig.now, 0.02, goal=2), rig.now)
    rig.step(1)
    np.testing.assert_allclose(rig.commands[-1].positions, [-1.0, 0.0, 1.0], atol=0.01)


def test_a_reset_of_the_simulation_in_the_middle_is_not_fought(running, make_chunk):
    running.put([-1.0, 0.0, 1.0])
    sent = len(running.commands)
    running.step(30)
    assert len(running.commands) == sent, 'no set-point drags it back'
    assert running.state is State.HOLD
    assert 'jumped by' in running.status.reason
    old = make_chunk(running.now - 400 * MS, seq=2)
    assert 'older than the oldest' in running.controller.on_chunk(old, running.now)
    running.controller.on_chunk(make_chunk(running.now, seq=3), running.now)
    running.step(1)
    assert running.state is State.RUNNING
    np.testing.assert_allclose(running.commands[-1].positions, [-1.0, 0.0, 1.0], atol=0.01)


def test_a_clock_that_goes_back_holds_and_goes_on(running, make_chunk):
    running.now -= 3600 * 1000 * MS
    running.step(12)
    assert running.state is State.HOLD
    assert 'went back by 36' in running.status.reason
    assert running.fast() == 0
    assert running.controller.on_chunk(make_chunk(running.now, seq=2), running.now) is None
    running.step(5)
    assert running.state is State.RUNNING


def test_a_clock_that_jumps_ahead_runs_out_of_actions(running):
    running.now += 3600 * 1000 * MS
    running.sensing = False
    running.step(2)
    assert running.state is State.HOLD
    assert 'ran out' in running.status.reason


def test_a_late_tick_brakes_and_a_jittering_one_stays_within_limits(running):
    rng = np.random.default_rng(0)
    for _ in range(40):
        running.step(1, dt=int(rng.integers(2, 60)) * MS)
    running.check_limits()


def test_home_is_reached_slowly(rig):
    rig.put([-0.5, 1.0, 2.0])
    rig.step(5)
    assert rig.controller.home() == (True, 'moving home')
    rig.step(1)
    assert (rig.state, rig.status.reason) == (State.RUNNING, 'moving home')
    rig.step(800, until=lambda: rig.state is State.READY)
    assert rig.status.reason == 'at home'
    np.testing.assert_allclose(rig.commands[-1].positions, 0.6, atol=1e-5)
    assert max(np.abs(c.velocities).max() for c in rig.commands) <= 0.25 * 2.0 + 1e-6
    # All joints arrive together: the one with the longest way sets the time.
    assert rig.now - T0 == pytest.approx(1.4 / 0.5 * 1e9, rel=0.1)
    rig.check_limits()


def test_home_is_refused_while_a_goal_is_active(running, make_chunk):
    words = 'not moving home: goal 1 is active; cancel it first'
    assert running.controller.home() == (False, words)
    running.controller.on_goal(1, False)
    running.step(10)
    assert running.controller.home()[0]
    running.controller.on_goal(2, True)
    assert running.controller.on_chunk(make_chunk(running.now, goal=2), running.now) == (
        'the robot is moving home'
    )
    running.controller.stop()
    running.step(20)
    assert running.state is State.STOPPED and running.fast() == 0
    assert 'STOPPED' in running.controller.home()[1]


def test_an_implausible_chunk_is_refused_and_the_old_one_goes_on(running, make_chunk):
    words = running.controller.on_chunk(make_chunk(running.now, 3.0, seq=2), running.now)
    assert 'moves joint_1 by 3 rad in 0.2 s' in words
    running.step(2)
    assert running.state is State.RUNNING and running.status.plan_seq == 1


def test_an_embodiment_it_cannot_move_is_refused_at_once():
    change = {'kind': 'cartesian_delta', 'unit': 'm', 'joint': None}
    contract = load_contract('finger', {'channels.joint_1': change, 'kinematics.tool': None})
    with pytest.raises(UnsupportedChannelError, match="'joint_1' moves a tool, and none is named"):
        Controller(contract)


def test_what_the_filter_changed_is_counted(running, make_chunk):
    assert running.status.clipped == 0, 'an easy chunk goes through as it is'
    far = make_chunk(running.now, [0.45, 0.0, 0.0], seq=2, steps=8)
    assert running.controller.on_chunk(far, running.now) is None
    running.step(100)
    assert 10 < running.status.clipped < running.status.ticks
    kinds = {v.kind for c in running.commands for v in c.violations}
    assert 'velocity' in kinds and 'command' not in kinds
    running.check_limits()


def test_lock_step_answers_only_what_has_a_target(contract, make_chunk):
    rig = Rig(contract, lockstep=True)
    rig.publish_state()
    rig.controller.on_goal(1, True)
    assert rig.controller.tick(T0) is None
    assert rig.controller.on_chunk(make_chunk(T0), T0) is None
    sent = 0
    while rig.controller.tick(rig.now) is not None:
        sent += 1
        rig.now += 10 * MS
        rig.publish_state()
    assert sent == 80
    assert rig.controller.tick(rig.now) is None
    assert rig.state is State.RUNNING, 'it waits; time stands still'
    assert rig.status.underruns == 0
    rig.controller.on_chunk(make_chunk(rig.now, seq=2), 0)
    assert rig.controller.tick(rig.now) is not None


def test_lock_step_holds_through_an_implausible_chunk_so_that_time_goes_on(contract, make_chunk):
    rig = Rig(contract, lockstep=True)
    rig.publish_state()
    rig.controller.on_goal(1, True)
    assert rig.controller.on_chunk(make_chunk(T0, 3.0), 0) is None
    assert rig.status.rejected == 1 and 'moves joint_1 by 3 rad' in rig.status.last_rejection
    sent = []
    while (set_point := rig.controller.tick(rig.now)) is not None:
        sent.append(set_point.positions)
        rig.now += 10 * MS
        rig.publish_state()
    np.testing.assert_array_equal(np.array(sent), np.full((80, 3), 0.6))
    assert rig.controller.on_chunk(make_chunk(rig.now, seq=2), 0) is None


def lockstep_run(contract, make_chunk, shift):
    """Two episodes of a few chunks; the bits of every set-point."""
    rig = Rig(contract, lockstep=True)
    bits = []
    for episode in range(2):
        rng = np.random.default_rng(7)
        rig.now = T0 + (episode * 30_000 + shift) * MS
        rig.put([0.3, -0.2, 0.1])
        rig.controller.on_goal(episode + 1, True)
        for seq in range(4):
            values = rng.uniform(-0.3, 0.3, (4, 3))
            chunk = make_chunk(rig.now, values, seq=10 * episode + seq, goal=episode + 1)
            assert rig.controller.on_chunk(chunk, 0) is None
            while (set_point := rig.controller.tick(rig.now)) is not None:
                bits.append(set_point.positions.tobytes())
                rig.target = set_point.positions
                rig._physics(0.01)
                rig.now += 10 * MS
                rig.publish_state()
        rig.controller.on_goal(episode + 1, False)
    return bits


def test_lock_step_gives_the_same_bits_whenever_it_runs(contract, make_chunk):
    first = lockstep_run(contract, make_chunk, 0)
    assert len(first) == 2 * 4 * 80
    assert first[:320] == first[320:], 'a new episode begins afresh'
    time.sleep(0.01)
    assert first == lockstep_run(contract, make_chunk, 123_457)


def test_lock_step_reads_no_clock(contract, make_chunk):
    class NoClock(ManualClock):
        reads = 0

        def now(self):
            NoClock.reads += 1
            return super().now()

    controller = Controller(contract, clock=NoClock(), lockstep=True)
    controller.enable()
    rig = Rig(contract, lockstep=True)
    rig.controller = controller
    controller.on_goal(1, True)
    rig.publish_state()
    controller.on_chunk(make_chunk(T0), 0)
    rig.controller._clock = None
    for _ in range(80):
        assert controller.tick(rig.now) is not None
        rig.now += 10 * MS
        rig.publish_state()


def test_a_tick_of_the_whole_controller_is_quick(running):
    times = []
    for _ in range(100):
        running.step(1)
        begin = time.perf_counter()
        running.controller.tick(running.now)
        times.append(time.perf_counter() - begin)
        running.mono.advance(1 * MS)
    print(f'controller tick: median {np.median(times) * 1e6:.0f} us')
    assert running.state is State.RUNNING
    assert np.median(times) < 1e-3


def test_a_chunk_for_later_waits_for_its_anchor_and_is_faded_into(running, make_chunk):
    """The next plan came early: it continues the last one from a frame that is still to come."""
    anchor = running.now + 700 * MS
    chunk = dataclasses.replace(
        make_chunk(anchor, -0.1, seq=2), observed=running.now - 200 * MS
    )
    assert running.controller.on_chunk(chunk, running.now) is None
    running.step(69)
    assert running.status.plan_seq == 1
    assert running.status.rejected == 0
    running.step(2)
    assert running.status.plan_seq == 2
    assert running.status.plan_age == pytest.approx(0.92, abs=0.03)
    turned = running.now
    running.step(15)
    # The fade begins at the splice, not when the chunk came: by then it would be over.
    speeds = [c.velocities.max() for c in running.commands if c.stamp >= turned]
    assert speeds[0] > 0.1 and speeds[1] > -0.1 and speeds[-1] < -0.4
    running.step(60)
    assert running.status.underruns == 0
    running.check_limits()


def test_a_chunk_ahead_of_all_that_is_planned_is_refused(running, make_chunk):
    chunk = make_chunk(running.now + 3000 * MS, seq=2)
    assert 'newer than the newest joint state' in running.controller.on_chunk(chunk, running.now)


def test_the_idle_share_counts_from_the_first_chunk_of_a_goal(rig, make_chunk):
    rig.step(20)
    rig.controller.on_goal(1, True)
    rig.step(100)
    assert rig.status.goal_time == rig.status.idle_fraction == 0
    rig.controller.on_chunk(make_chunk(rig.now), rig.now)
    rig.step(80)
    assert rig.status.goal_time == pytest.approx(0.8) and rig.status.idle_fraction == 0
    rig.step(80)
    assert rig.status.idle_fraction == pytest.approx(0.5, abs=0.02)
    rig.controller.on_goal(1, False)
    rig.step(50)
    assert rig.status.goal_time == pytest.approx(1.6, abs=0.01)
    rig.controller.on_goal(2, True)
    rig.controller.on_chunk(make_chunk(rig.now, goal=2), rig.now)
    rig.step(10)
    assert rig.status.goal_time == pytest.approx(0.1) and rig.status.idle_fraction == 0
