"""Every fault, done to the running graph of the Panda: detected, held, told, and gone on from.

docs/reference/faults.md is this matrix in words. More about a fault, or where it needs a device:

| fault | also in |
|---|---|
| planner, translator, controller killed (finger) | test_graph.py |
| planner fails, hangs, gives what is no plan | src/vera_planner/test/test_planner_node.py |
| remote planner's server dies | src/vera_planner/test/test_remote_node.py |
| camera hangs, dies, freezes (two real camera nodes) | test_camera_faults.py |
| RealSense unplugged, stalled, frozen, clock jumps | src/vera_drivers/test/test_realsense.py |
| NaN, huge flow, singular Jacobian in the translator | src/vera_jidm/test/test_jidm_faults.py |
| two controllers in one process | src/vera_controller/test/test_controller_node.py |
| actions out of range, stale chunks, jumps, postures | test_controller_panda.py there |
| anything at all at the safety filter | test_safety_filter.py, test_smooth_motion.py there |
| GPU out of memory: the Wan planner goes on with less | src/vera_planner/test/test_wan_memory.py |
| reflex, user stop, lost arm, gripper jams | src/vera_controller/test/test_arm_robot.py |
| the same with franky and its simulated arm | src/vera_controller/test/test_franky_sim.py |
| joint states stop (finger) | test_graph.py |
| stop and set-points under load, in numbers | test_control_bench.py, `vera bench control` |
"""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from fault_graph import HOLD, PROMPT, READY, RUNNING, SEED, STOPPED, FaultArm, FaultGraph
from graph_tools import Vera

# Real time is part of most of these: a machine that is busy with other things is no place for them.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    """The whole graph, for all its faults."""
    with FaultGraph(tmp_path_factory.mktemp('graph')) as made:
        yield made


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """The controller's process and the fake arm."""
    with FaultArm(tmp_path_factory.mktemp('arm')) as made:
        yield made


@pytest.fixture
def arm(processes):
    """At home, at rest."""
    processes.home()
    return processes


def told(what: str, seconds: float) -> None:
    """For docs/reference/faults.md; `pytest -s` shows it."""
    print(f'{what}: {seconds:.2f} s')


def move(x=0.0, y=0.0, z=0.0, rx=0.0, ry=0.0, rz=0.0, gripper=1.0):
    """One action of the Panda [m, rad]."""
    return [x, y, z, rx, ry, rz, gripper]


# Actions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('row', 'words'),
    [
        (move(y=math.nan), "channel 'y' is not a finite number"),
        (move(rz=math.inf), "channel 'rz' is not a finite number"),
        (move(x=0.5), 'moves the tool by 0.5 m; the budget of an action is 0.1'),
        (move(z=-1e12), 'the budget of an action is 0.1'),
        (move(ry=-2.0), 'moves the tool by 2 rad'),
    ],
    ids=['nan', 'infinite', 'too_far', 'absurd', 'too_much_turn'],
)
def test_actions_that_are_nan_or_out_of_range(arm, row, words):
    goal, plan = arm.drive(move(z=0.02))
    began, rejected = time.monotonic(), arm.controller.rejected
    arm.send([row] * 4, goal, plan + 1)
    arm.refused(words, rejected)
    told('bad action, refused', time.monotonic() - began)
    # It goes on with what it has, then holds.
    assert arm.controller.plan_seq in (plan, 0)
    arm.reach(HOLD, words=f'ran out of actions after plan {plan}')
    arm.within_limits(began)
    arm.moving(arm.send([move(z=-0.02)] * 4, goal, plan + 2))


def test_stale_chunk_after_a_reconnect(arm):
    """What a network delivers that was away: of another time, another plan, another goal."""
    here = arm.at
    arm.drive(move(z=0.02), plan_seq=7)
    arm.reach(HOLD, words='ran out of actions')
    # Where it still rests at the beginning of a late plan, it may begin it; here it does not.
    assert np.abs(arm.at - here).max() > 0.1
    old, goal = arm.chunks[-1], arm.chunks[-1].goal_id
    for changes, words in (
        ({}, 'plan 7 is not newer than plan 7'),
        ({'plan_seq': 8}, 'plan 8 has expired: its last action ended'),
        ({'goal_id': goal - 1}, f'serves goal {goal - 1}, but goal {goal} is active'),
    ):
        for name, value in changes.items():
            setattr(old, name, value)
        before = arm.controller.rejected
        arm.send_again(old)
        arm.refused(words, before)
    arm.holds()
    arm.moving(arm.send([move(z=-0.02)] * 4, goal, 8))


@pytest.mark.parametrize(('jump', 'words'), [(20.0, 'ran out of actions'), (-20.0, 'went back by')])
def test_clock_jump(arm, jump, words):
    goal, plan = arm.drive(move(z=0.02))
    began = time.monotonic()
    arm.set_clock(jump)
    try:
        told(f'clock jump of {jump:+g} s, HOLD', arm.said(began, HOLD, words=words))
        arm.holds()
        arm.within_limits(began)
    finally:
        arm.set_clock(0.0)
    # Once its clock is again that of who sends the actions, they are executed.
    arm.spin(0.5)
    arm.moving(arm.send([move(z=-0.02)] * 4, goal, plan + 1))


# Controllers ----------------------------------------------------------------------------------


def test_a_second_controller_refuses_and_the_first_goes_on(arm):
    second = arm.spawn()
    try:
        arm.wait(lambda: second.poll() is not None, 'its end')
        said = second.stdout.read()
    finally:
        second.kill()
        second.wait()
    assert second.returncode == 2, said
    assert 'another controller is at work here (' in said and 'stop it first' in said
    arm.drive(move(z=0.02))


def test_two_controllers_at_once_both_stop(arm):
    """The second comes while the first is cut off, so that neither could have known."""
    arm.drive(move(z=0.02))
    arm.process.send_signal(signal.SIGSTOP)
    cut = time.monotonic()
    second = arm.spawn()
    try:
        arm.said(cut + 1.0, READY, HOLD, RUNNING)
        both = time.monotonic()
        arm.process.send_signal(signal.SIGCONT)
        words = 'another controller is at work here'
        told('two controllers, STOPPED', arm.said(both, STOPPED, words=words))

        def all_stopped():
            last = [m for t, m in arm.statuses if t > time.monotonic() - 1.0]
            return len(last) > 12 and all(m.state == STOPPED and words in m.reason for m in last)

        arm.wait(all_stopped, 'both stops')
    finally:
        arm.process.send_signal(signal.SIGCONT)
        second.send_signal(signal.SIGTERM)
        said = second.communicate(timeout=30)[0]
    assert second.returncode == 0, said
    arm.wait(lambda: arm.trigger('reset')[0], 'reset')
    arm.reach(READY)
    arm.drive(move(z=0.02))


# The arm --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('row', 'words'),
    [(move(rz=0.2), 'panda_joint7 at its limit'), (move(x=0.05), 'the posture is singular')],
    ids=['joint_at_its_limit', 'singular_posture'],
)
def test_where_the_arm_cannot_go(arm, row, words):
    """Chunk after chunk until the status says why no further."""
    goal, plan = arm.drive(row, count=4)
    began = time.monotonic()
    for _ in range(40):
        plan += 1
        arm.send([row] * 4, goal, plan)
        if arm.until(lambda: words in arm.controller.reason, 0.5):
            break
    assert words in arm.controller.reason, arm.controller
    assert arm.controller.state == RUNNING
    arm.reach(HOLD, words='ran out of actions')
    arm.holds()
    arm.within_limits(began)
    # Away from there it goes without anybody's help.
    here = arm.at
    arm.send([[*(-v for v in row[:6]), 1.0]] * 4, goal, plan + 1)
    arm.wait(lambda: np.abs(arm.at - here).max() > 0.05, 'the way back')


def test_robot_reflex(arm):
    goal, plan = arm.drive(move(z=0.02))
    hit = time.monotonic()
    arm.collide()
    told('reflex, STOPPED', arm.said(hit, STOPPED, words='reflex of the arm: cartesian reflex'))
    arm.holds()
    # The arm's error is cleared by itself; nothing moves before somebody says so.
    before = arm.controller.rejected
    arm.send([move(z=0.02)] * 4, goal, plan + 1)
    arm.refused('the controller is STOPPED', before)
    arm.holds()
    assert arm.trigger('reset')[0]
    arm.drive(move(z=0.02))


# Processes that die ---------------------------------------------------------------------------


def test_planner_killed_mid_chunk(graph):
    before = graph.goal.goal_id
    graph.reset_sim(SEED)
    goal = Vera('goal', PROMPT, '--timeout', '200', '--domain', str(graph.domain), cwd=graph.folder)
    try:
        graph.wait(lambda: graph.goal.goal_id > before, 'the goal')
        graph.moving()
        graph.wait(lambda: graph.controller.remaining > 0.2, 'a chunk')
        killed = graph.kill('planner')
        words = r'planner died \(killed by SIGKILL\); restarting'
        reported = graph.up.wait_for(words, since=killed)
        told('planner killed, reported', reported - killed)
        told('planner killed, HOLD', graph.said(killed, HOLD, words='ran out of actions after'))
        graph.holds()
        # The planner that comes back knows no goal: whoever waits for the old one is told.
        assert goal.wait(150) == 1
        assert 'LOST: the planner was restarted' in goal.text and 'give it again' in goal.text
    finally:
        goal.kill()
    graph.reach(READY, words='no goal')
    told('planner killed, back', time.monotonic() - killed)
    graph.moves()


def test_translator_killed(graph):
    goal = graph.moves()
    killed = graph.kill('translator')
    graph.up.wait_for(r'translator died \(killed by SIGKILL\); restarting', since=killed)
    told('translator killed, HOLD', graph.said(killed, HOLD, words='ran out of actions after'))
    graph.holds()
    # The goal is pursued again as soon as it is back, without a word from anybody.
    graph.moving()
    told('translator killed, back', time.monotonic() - killed)
    assert graph.goal.goal_id == goal


# Cameras --------------------------------------------------------------------------------------


def test_camera_unplugged(graph):
    goal = graph.moves()
    began = time.monotonic()
    graph.unplug()
    told('camera unplugged, HOLD', graph.said(began, HOLD, words='ran out of actions after'))
    graph.ended(goal, 'no camera frames on /vera/wrist/color/image_raw for 3 s')
    told('camera unplugged, goal ended', time.monotonic() - began)
    graph.reach(READY, words=f'goal {goal} ended')
    graph.holds()
    answer = graph.set_goal(PROMPT)
    assert answer.accepted
    waits = 'waits for camera frames on /vera/wrist/color/image_raw'
    graph.wait(lambda: waits in graph.goal.message, 'who is missing')
    graph.plug_in()
    graph.moves()


def test_camera_frozen_with_fresh_stamps(graph):
    goal = graph.moves()
    began = time.monotonic()
    graph.freeze()
    graph.ended(goal, "camera 'wrist' shows the same picture while those of others have changed")
    told('camera frozen, goal ended', time.monotonic() - began)
    graph.reach(READY, words=f'goal {goal} ended')
    graph.holds()
    graph.unplug()
    graph.plug_in()
    graph.moves()


# Planner --------------------------------------------------------------------------------------


def test_gpu_out_of_memory(graph):
    goal = graph.moves()
    before = graph.pid('planner')
    began = time.monotonic()
    graph.order('out of memory')
    try:
        graph.ended(goal, 'CUDA out of memory. Tried to allocate 2.00 GiB')
        assert 'end what else runs on the GPU' in graph.goal.message
        told('out of memory, goal ended', time.monotonic() - began)
        graph.reach(READY, words=f'goal {goal} ended')
        graph.holds()
    finally:
        graph.order('')
    graph.moves()
    assert graph.pid('planner') == before


def test_stop_pressed_twice_while_the_planner_blocks(graph):
    goal = graph.moves()
    graph.order('blocks')
    try:
        graph.spin(0.5)
        mine = graph.controller.plan_seq + 50
        graph.send([move(z=0.02)] * 12, goal, mine)
        graph.wait(lambda: graph.controller.plan_seq == mine and graph.speed > 0.05, 'motion')
        began = time.monotonic()
        first, second = graph.trigger('stop'), graph.trigger('stop')
        assert first[0] and second[0]
        told('stop, STOPPED', graph.said(began, STOPPED, words='stop was called'))
        graph.holds()
        graph.ended(goal, 'the controller is STOPPED: stop was called')
        assert graph.trigger('reset')[0]
        graph.reach(READY)
        graph.holds()
    finally:
        graph.order('')
    graph.moves()


def test_clock_jump_of_the_whole_graph(graph):
    goal = graph.moves()
    for jump, words in ((20.0, 'ran out of actions'), (0.0, 'went back by')):
        began = time.monotonic()
        graph.set_clock(jump)
        told(f'clock set to {jump:+g} s, HOLD', graph.said(began, HOLD, words=words))
        # It goes on with the next plan, in the new time.
        graph.spin(0.5)
        graph.moving()
        assert graph.goal.goal_id == goal
        graph.within_limits(began)


def test_the_controller_has_never_loaded_torch(graph):
    """Nor anything else that would hold its interpreter for long."""
    loaded = Path(f'/proc/{graph.pid("controller")}/maps').read_text()
    assert 'rclpy' in loaded
    assert [name for name in ('libtorch', 'mujoco', 'cv2') if name in loaded] == []
