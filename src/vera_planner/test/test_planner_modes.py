"""The planner node while its plans are executed: pending frames, stop and go, a longer horizon."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sensor_msgs.msg import Image as ImageMsg

from vera_core.nodes.convert import frames_from_msgs, image_from_msg, image_to_msg, stamp_from_msg
from vera_core.nodes.qos import IMAGE, LATCHED, PLAN
from vera_core.seams import Plan
from vera_msgs.msg import ControllerStatus, VisualPlan
from vera_msgs.srv import SetGoal
from vera_planner.nodes.planner_node import PlannerNode

CAMERA = '/vera/top/color/image_raw'
MS = 1_000_000
START = 10_000_000 * MS


class Planner:
    """Counts on from the last frame that it is given, in grey levels."""

    planner_id, checkpoint_hash = 'counting', ''
    delay = 0.0

    def __init__(self):
        self.calls = []

    def plan(self, context, prompt, *, seed=0, warm_start=None, pending=None):
        self.calls.append((context[:, 0, 0, 0].tolist(), pending))
        time.sleep(self.delay)
        last = context[-1] if pending is None else pending[-1]
        frames = [np.where(np.arange(64)[:, None, None] < 8, 255 - k, last) for k in range(4)]
        return Plan(np.stack(frames).astype(np.uint8), 0.2)


class World:
    def __init__(self, graph, wait_for, **parameters):
        self.planner = Planner()
        self.graph, self.wait_for = graph, wait_for
        self.node = graph.start(
            lambda **kwargs: PlannerNode(lambda contract: self.planner, **kwargs), **parameters
        )
        self.planner.calls.clear()  # the warm-up
        self.plans: list[VisualPlan] = []
        helper = self.helper = graph.helper()
        graph.helper('translator').create_subscription(
            VisualPlan, 'visual_plan', self.plans.append, PLAN
        )
        self.camera = helper.create_publisher(ImageMsg, CAMERA, IMAGE)
        self.controller = helper.create_publisher(ControllerStatus, 'controller_status', LATCHED)
        wait_for(lambda: self.camera.get_subscription_count() == 1)
        wait_for(lambda: self.controller.get_subscription_count() == 1)
        wait_for(lambda: self.node._plans.get_subscription_count() == 1)

    def frame(self, ms):
        image = np.full((128, 128, 3), ms // 50, np.uint8)
        self.camera.publish(image_to_msg(image, START + ms * MS))
        self.wait_for(lambda: self.node._observer.newest == START + ms * MS)

    def frames(self, first, last):
        for ms in range(first, last + 1, 50):
            self.frame(ms)

    def says(self, state, seq=0, ms=0):
        msg = ControllerStatus(state=state, plan_seq=seq)
        msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(START + ms * MS, 10**9)
        self.controller.publish(msg)
        running = state == ControllerStatus.RUNNING
        self.wait_for(lambda: self.node._execution._running == running)

    def set_goal(self):
        request = SetGoal.Request(prompt='red')
        return self.graph.call(self.helper, SetGoal, 'set_goal', request)

    def plan(self, number):
        self.wait_for(lambda: len(self.plans) == number)
        return self.plans[-1]


def test_the_next_plan_continues_what_will_have_been_executed_when_it_comes(graph, wait_for):
    world = World(graph, wait_for, replan_period=0.4, pending=True)
    world.frame(0)
    world.planner.delay = 0.25
    world.set_goal()
    world.frame(50)
    first = world.plan(1)
    assert first.pending == 0 and stamp_from_msg(first) == START + 50 * MS
    world.says(ControllerStatus.RUNNING, 1, 100)
    world.frames(100, 450)
    second = world.plan(2)
    # 0.4 s later, two frames were over; at least two more are until a plan that takes 0.25 s comes.
    seen, pending = world.planner.calls[1]
    assert seen == [1, 5, 9]
    assert second.pending == len(pending) >= 2
    assert (pending == frames_from_msgs(first.frames)[2 : 2 + len(pending)]).all()
    # It is executed from the frame that was seen before them.
    assert stamp_from_msg(second) == START + 450 * MS
    assert second.observed.nanosec == (START + 450 * MS) % 10**9
    assert (image_from_msg(second.anchor) == 9).all()
    told = frames_from_msgs(second.frames)
    assert (told[: len(pending)] == pending).all()
    assert second.committed == len(pending) + world.node.contract.video.committed == len(told)
    # The one after it begins at what is seen.
    world.says(ControllerStatus.RUNNING, 2, 700)
    world.frames(500, 850)
    assert world.plan(3).pending == 0


@pytest.mark.parametrize('parameters', [{'pending': False}, {'mode': 'sync'}])
def test_pending_frames_can_be_left_out(graph, wait_for, parameters):
    world = World(graph, wait_for, replan_period=0.1, **parameters)
    assert not world.node._pending


def test_stop_and_go_plans_when_the_robot_has_come_to_rest(graph, wait_for):
    world = World(graph, wait_for, mode='sync', replan_period=0.1)
    world.frame(0)
    world.set_goal()
    world.frame(50)
    world.plan(1)
    world.says(ControllerStatus.RUNNING, 1, 100)
    world.frames(100, 900)
    assert len(world.planner.calls) == 1
    world.says(ControllerStatus.HOLD, 0, 900)
    world.frame(950)  # it still brakes
    assert len(world.planner.calls) == 1
    world.frame(1000)
    assert stamp_from_msg(world.plan(2)) == START + 1000 * MS


def test_a_plan_that_the_robot_waited_for_begins_at_the_newest_frame(graph, wait_for):
    world = World(graph, wait_for)
    world.frame(0)
    world.planner.delay = 0.5
    world.set_goal()
    world.frame(50)
    wait_for(lambda: world.planner.calls)
    world.frames(100, 250)
    plan = world.plan(1)
    assert stamp_from_msg(plan) == START + 250 * MS
    assert (image_from_msg(plan.anchor) == 5).all()
    assert plan.observed.nanosec == (START + 50 * MS) % 10**9


def test_a_horizon_commits_all_the_frames_that_it_asks_for(graph, wait_for):
    world = World(graph, wait_for, horizon=1.3)
    world.frame(0)
    world.set_goal()
    world.frame(50)
    plan = world.plan(1)
    assert plan.committed == len(plan.frames) == 7
    assert len(world.planner.calls) == 2
