"""The planner node with a server that goes away and comes back."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image as ImageMsg

from vera_core.contract import load_contract
from vera_core.nodes.convert import image_to_msg
from vera_core.nodes.qos import IMAGE, LATCHED, PLAN
from vera_core.seams import Plan
from vera_msgs.msg import GoalStatus, VisualPlan
from vera_msgs.srv import SetGoal
from vera_planner.nodes.planner_node import PlannerNode
from vera_planner.remote.server import PlannerServer

CONTRACT = load_contract('finger')


class Planner:
    """Moves for ever; waits at its gate."""

    planner_id, checkpoint_hash = 'small', '0123456789abcdef'

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        self.calls += 1
        self.gate.wait(30)
        frames = np.repeat(context[-1:], 4, axis=0)
        frames[:, :8, :8] ^= 255
        return Plan(frames, 0.2)


@pytest.fixture
def planner():
    return Planner()


@pytest.fixture
def server(planner):
    with PlannerServer(planner, CONTRACT, port=0) as running:
        yield running


class World:
    """A camera, somebody who wants things, and what the node says."""

    def __init__(self, graph, wait_for):
        self.graph, self.wait_for = graph, wait_for
        self.helper = helper = graph.helper()
        self.plans: list = []
        self.goals: list = []
        helper.create_subscription(VisualPlan, 'visual_plan', self.plans.append, PLAN)
        helper.create_subscription(GoalStatus, 'goal_status', self.goals.append, LATCHED)
        self.camera = helper.create_publisher(ImageMsg, 'top/color/image_raw', IMAGE)
        helper.create_timer(0.05, self.frame)

    def frame(self):
        image = np.full((128, 128, 3), 100, np.uint8)
        self.camera.publish(image_to_msg(image, time.time_ns()))

    def set_goal(self, prompt):
        response = self.graph.call(
            self.helper, SetGoal, 'set_goal', SetGoal.Request(prompt=prompt)
        )
        assert response.accepted, response.message
        return response.goal_id

    def aborted(self, goal):
        self.wait_for(
            lambda: any(
                g.goal_id == goal and g.status == GoalStatus.ABORTED for g in self.goals
            )
        )
        return self.goals[-1].message

    def planned(self, goal):
        self.wait_for(lambda: any(plan.goal_id == goal for plan in self.plans))
        return next(plan for plan in self.plans if plan.goal_id == goal)


def test_a_server_that_dies_ends_the_goal_and_serves_the_next_when_it_is_back(
    graph, wait_for, planner, server
):
    url = f'ws://127.0.0.1:{server.port}'
    node = graph.start(PlannerNode, planner='remote', checkpoint=url, replan_period=0.1)
    world = World(graph, wait_for)
    plan = world.planned(world.set_goal('touch it'))
    assert (plan.planner_id, plan.planner_hash) == ('remote', '0123456789abcdef')

    planner.gate.clear()  # killed while it thinks
    calls = planner.calls
    wait_for(lambda: planner.calls > calls)
    server.stop()
    said = world.aborted(1)
    assert f'planner remote: the planner server at {url} went away' in said
    before = len(world.plans)
    # Not there: the goal ends by name, no plan comes, the node lives on.
    assert 'cannot be reached' in world.aborted(world.set_goal('touch it'))
    assert len(world.plans) == before
    assert node.active

    planner.gate.set()
    with PlannerServer(planner, CONTRACT, port=server.port):
        assert world.planned(world.set_goal('touch it')).goal_id == 3


def test_a_node_without_its_server_says_so_and_is_not_configured(graph, server, capfd):
    server.stop()
    url = f'ws://127.0.0.1:{server.port}'
    given = {'autostart': False, 'planner': 'remote', 'checkpoint': url}
    overrides = [Parameter(k, value=v) for k, v in given.items()]
    node = PlannerNode(context=graph.context, parameter_overrides=overrides)
    graph.add(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    logged = ''.join(capfd.readouterr())
    assert f'the planner server at {url} cannot be reached' in logged
    assert 'Traceback' not in logged


def test_ending_the_node_hangs_up_in_the_middle_of_a_plan(graph, wait_for, planner, server):
    url = f'ws://127.0.0.1:{server.port}'
    node = graph.start(PlannerNode, planner='remote', checkpoint=url)
    world = World(graph, wait_for)
    planner.gate.clear()
    calls = planner.calls
    world.set_goal('touch it')
    wait_for(lambda: planner.calls > calls)
    began = time.monotonic()
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert time.monotonic() - began < 2.5  # less than what it waits for a planner that is busy
    planner.gate.set()
