"""The controller of the Panda with a simulated servo: tool, gripper, and what goes wrong."""

import threading
import time

import numpy as np
import pytest
from controller_rig import MS, T0, Rig
from limit_checks import check

from vera_controller.guard import make_guard
from vera_controller.limits import Limits
from vera_controller.state_machine import State
from vera_core.chunk import ActionChunk, ChunkError
from vera_core.contract import load_contract
from vera_core.kinematics.arm import Arm
from vera_core.seams import RobotState

GATE = {'gripper': {'close_below': 0.4, 'open_above': 0.6}}
PANDA = load_contract('panda', GATE)
LIMITS = Limits.from_contract(PANDA)
GUARD = make_guard(PANDA)
ARM = Arm.from_urdf(PANDA.resolve(PANDA.kinematics.urdf), PANDA.joint_names, 'panda_hand_tcp')


class PandaRig(Rig):
    """As Rig; the fingers stop at a thing of this half width, if there is one."""

    thing = 0.0

    def _physics(self, dt):
        super()._physics(dt)
        self.q[7] = max(self.q[7], self.thing)

    def check(self):
        """Every set-point within all limits of joints, tool and links."""
        t = np.array([(c.stamp - T0) / 1e9 for c in self.commands])
        q = np.array([c.positions for c in self.commands])
        check(LIMITS, t, q)
        assert GUARD.look(q)[0].max() <= 1e-6

    @property
    def tool(self):
        return ARM.pose(self.q)[1]

    def chunk(self, rows, seq=1, goal=1, stamp=None, channels=None):
        rows = np.atleast_2d(np.asarray(rows, np.float64))
        chunk = ActionChunk(
            stamp=self.now if stamp is None else stamp, goal_id=goal, plan_seq=seq,
            channels=channels or PANDA.channel_names, period=0.2, values=rows,
            residual=np.zeros(len(rows), np.float32),
            observability=np.ones(rows.shape[1], np.float32),
        )
        return self.controller.on_chunk(chunk, self.now)


def move(x=0.0, y=0.0, z=0.0, rx=0.0, ry=0.0, rz=0.0, gripper=1.0):
    return [x, y, z, rx, ry, rz, gripper]


@pytest.fixture
def rig():
    made = PandaRig(PANDA)
    made.publish_state()
    made.step(3)
    made.controller.on_goal(1, True)
    return made


def test_the_tool_is_moved_and_the_gripper_closes(rig):
    start = rig.tool
    assert rig.chunk([move(x=0.03, gripper=1.0)] * 2 + [move(z=-0.03, gripper=0.0)] * 2) is None
    rig.step(140)
    np.testing.assert_allclose(rig.tool - start, [0.06, 0, -0.06], atol=2e-3)
    assert rig.q[7] == pytest.approx(0.0, abs=1e-4)
    assert rig.state is State.HOLD and 'ran out of actions' in rig.status.reason
    assert rig.status.limited == ''
    rig.check()


def test_a_thing_in_the_gripper_is_held_on_to(rig):
    """The fingers stop at it: that is no robot that does not follow, and the grip stays."""
    rig.thing = 0.025
    rig.chunk([move(gripper=0.0)] * 4)
    rig.step(150)
    assert rig.state is State.HOLD
    assert rig.target[7] == pytest.approx(0.0, abs=1e-6)
    # The next plan starts at rest, with an action between the thresholds.
    assert rig.chunk([move(z=0.03, gripper=0.5)] * 3, seq=2) is None
    rig.step(60)
    assert rig.state is State.RUNNING
    assert max(c.positions[7] for c in rig.commands[-60:]) < 1e-6
    rig.check()


def test_a_plan_against_the_wall_is_done_as_far_as_it_goes_and_that_is_said(rig):
    assert rig.chunk([move(x=-0.06)] * 4) is None
    assert 'the tool stays in its workspace' in rig.status.limited
    assert rig.status.reason == f'executing goal 1; {rig.status.limited}'
    rig.step(100)
    assert rig.tool[0] == pytest.approx(0.2, abs=6e-3)
    rig.check()


def test_a_joint_at_its_limit_is_named_and_the_robot_stays_within(rig):
    q = PANDA.home_positions
    q[6] = LIMITS.high[6] - 0.05
    rig.put(q)
    turn = 0.2 * ARM.pose(q)[0][:, 2]
    rig.chunk([[0, 0, 0, *turn, 1]] * 6)
    if 'panda_joint7 at its limit' not in rig.status.limited:
        rig.step(100)
        rig.put(q)
        rig.chunk([[0, 0, 0, *-turn, 1]] * 6, seq=2)
    assert 'panda_joint7 at its limit' in rig.status.limited, rig.status
    rig.step(100)
    assert (rig.q <= LIMITS.high + 1e-6).all() and rig.state is not State.STOPPED
    rig.commands = rig.commands[-90:]
    rig.check()


def test_a_singular_posture_is_left_and_never_lunged_through():
    """The arm stretched: the tool is asked for what no joint velocity can do there."""
    free = load_contract('panda', {'safety': None})
    rig = PandaRig(free)
    q = free.home_positions
    q[[1, 3, 5]] = 0.9, -0.12, 1.2
    rig.put(q)
    rig.step(3)
    rig.controller.on_goal(1, True)
    assert rig.chunk([move(x=0.05, z=0.02)] * 4) is None
    assert 'short' in rig.status.limited
    rig.step(120)
    t = np.array([c.stamp - T0 for c in rig.commands]) / 1e9
    check(LIMITS, t, np.array([c.positions for c in rig.commands]))
    here = rig.tool
    assert rig.chunk([move(x=-0.05)] * 4, seq=2) is None
    rig.step(120)
    assert rig.tool[0] < here[0] - 0.03


@pytest.mark.parametrize(
    ('row', 'words'),
    [
        (move(x=0.5), 'moves the tool by 0.5 m; the budget of an action is 0.1'),
        (move(ry=-2.0), 'moves the tool by 2 rad'),
        (move(z=1e12), 'budget'),
    ],
)
def test_actions_out_of_range_are_refused_and_the_plan_before_goes_on(rig, row, words):
    rig.chunk([move(x=0.02)] * 4)
    rig.step(20)
    assert words in rig.chunk([row] * 4, seq=2)
    rig.step(10)
    assert rig.state is State.RUNNING and rig.status.plan_seq == 1
    assert rig.status.rejected == 1 and words in rig.status.last_rejection
    rig.step(80)
    assert rig.state is State.HOLD
    rig.check()


def test_an_action_that_is_no_number_never_becomes_a_chunk(rig):
    with pytest.raises(ChunkError, match="channel 'y' is not a finite number"):
        rig.chunk([move(y=np.nan)])
    with pytest.raises(ChunkError, match="channel 'rz' is not a finite number"):
        rig.chunk([move(rz=np.inf)])
    rig.step(20)
    assert not rig.commands or rig.fast() == 0


def test_a_stale_chunk_after_a_reconnect_is_refused(rig):
    """The network was away: what it then delivers is from another time, or from another goal."""
    stamp = rig.now
    rig.chunk([move(x=0.02)] * 4)
    rig.step(300)
    where = rig.tool
    assert 'not newer' in rig.chunk([move(x=0.02)] * 4, seq=1, stamp=stamp)
    assert 'has expired' in rig.chunk([move(x=0.02)] * 4, seq=2, stamp=stamp)
    assert 'goal 0' in rig.chunk([move(x=0.02)] * 4, seq=9, goal=0)
    rig.step(50)
    np.testing.assert_allclose(rig.tool, where, atol=1e-6)
    assert rig.state is State.HOLD


@pytest.mark.parametrize('jump', [-20.0, 20.0])
def test_a_clock_that_jumps_holds_and_the_next_plan_goes_on(rig, jump):
    rig.chunk([move(x=0.02)] * 4)
    rig.step(20)
    rig.now += int(jump * 1e9)
    before = len(rig.commands)
    rig.step(60)
    assert rig.state is State.HOLD, rig.status.reason
    assert 'clock' in rig.status.reason or 'went back' in rig.status.reason or jump > 0
    q = np.array([c.positions for c in rig.commands[before - 20:]])
    check(LIMITS, 0.01 * np.arange(len(q)), q)
    assert rig.chunk([move(x=0.02)] * 4, seq=2) is None
    rig.step(20)
    assert rig.state is State.RUNNING


def test_a_start_outside_the_workspace_holds_with_the_reason(rig):
    q = PANDA.home_positions
    q[0] = 2.0
    rig.put(q)
    assert 'the tool is outside its workspace' in rig.chunk([move(x=0.02)] * 4, stamp=rig.now)
    assert not rig.commands
    rig.controller.on_goal(1, False)
    ok, words = rig.controller.home()
    assert not ok and 'by hand' in words


def test_inverse_kinematics_does_not_hold_up_ticks(rig):
    """It takes long here, in another thread; set-points go on meanwhile, and stop works."""
    rig.chunk([move(x=0.02)] * 6)
    rig.step(10)
    solving, finish = threading.Event(), threading.Event()
    solve = rig.controller._queue.solve

    def slow(*args):
        solving.set()
        assert finish.wait(20)
        return solve(*args)

    rig.controller._queue.solve = slow
    thread = threading.Thread(target=rig.chunk, args=([move(y=0.02)] * 4, 2))
    thread.start()
    assert solving.wait(20)
    begin = time.perf_counter()
    rig.step(5)
    assert len(rig.commands) == 15 and rig.fast() > 0
    assert time.perf_counter() - begin < 5
    rig.controller.stop()
    rig.step(1)
    assert rig.state is State.STOPPED
    finish.set()
    thread.join()
    # What was solved meanwhile is not executed any more.
    assert 'STOPPED' in rig.status.last_rejection
    rig.step(60)
    assert rig.fast() == 0


def test_a_bad_joint_state_holds(rig):
    rig.chunk([move(x=0.02)] * 4)
    rig.step(20)
    q = rig.q.copy()
    q[3] = np.nan
    rig.controller.on_state(RobotState(rig.now + MS, q, np.zeros(8)))
    assert rig.state is State.HOLD and 'panda_joint4 is at nan' in rig.status.reason
