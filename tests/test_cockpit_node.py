"""The cockpit as a process beside a graph that the test plays: what it hears, asks and is told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from graph_tools import unique_domain
from vera_bringup.environment import enter, graph_environment
from vera_core.chunk import ActionChunk
from vera_core.contract import load_contract
from vera_core.nodes.convert import (
    canvas_to_image_msg,
    chunk_to_msg,
    frames_to_msgs,
    image_to_msg,
    joints_to_msg,
    stamp_to_msg,
)
from vera_core.nodes.qos import CHUNK, IMAGE, LATCHED, PLAN, STATE
from vera_msgs.msg import ActionChunk as ActionChunkMsg
from vera_msgs.msg import ControllerStatus, GoalStatus, PlanVerdict, VisualPlan
from vera_msgs.srv import SetGoal

pytest.importorskip('viser')
from websockets.sync.client import connect

from vera_bringup.cockpit.pictures import read_picture

CONTRACT = load_contract('finger')
PATIENCE = 60.0  # s
NODE = [sys.executable, '-m', 'vera_bringup.nodes.cockpit_node', '--ros-args', '-r', '__ns:=/vera']


class Graph:
    """Planner, controller and camera in one, in a thread of its own."""

    def __init__(self, domain: int) -> None:
        enter(domain)
        self.context = Context()
        rclpy.init(
            context=self.context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO
        )
        self.node = node = Node('planner', namespace='vera', context=self.context)
        self.status = ControllerStatus(state=ControllerStatus.READY)
        self.goal = GoalStatus()
        self.asked: list[str] = []
        self.silent = False
        self.goals = node.create_publisher(GoalStatus, 'goal_status', LATCHED)
        self.statuses = node.create_publisher(ControllerStatus, 'controller_status', LATCHED)
        self.plans = node.create_publisher(VisualPlan, 'visual_plan', PLAN)
        self.chunks = node.create_publisher(ActionChunkMsg, 'action_chunk', CHUNK)
        self.verdicts = node.create_publisher(PlanVerdict, 'plan_verdict', PLAN)
        self.images = node.create_publisher(Image, 'top/color/image_raw', IMAGE)
        self.flow = node.create_publisher(Image, 'debug/flow', IMAGE)
        self.states = node.create_publisher(JointState, 'joint_states', STATE)
        node.create_service(SetGoal, 'set_goal', self.set_goal)
        node.create_service(Trigger, 'stop', self.stop)
        node.create_timer(0.05, self.tell)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(node)
        self.thread = threading.Thread(target=self.spin, daemon=True)
        self.thread.start()

    def spin(self) -> None:
        while self.context.ok():
            with contextlib.suppress(Exception):  # the context ends while it waits
                self.executor.spin_once(timeout_sec=0.1)

    def tell(self) -> None:
        stamp = time.time_ns()
        grey = np.full((128, 128, 3), 100, np.uint8)
        self.images.publish(image_to_msg(grey, stamp, 'top'))
        self.states.publish(joints_to_msg(CONTRACT.joint_names, CONTRACT.home_positions, stamp))
        if not self.silent:
            self.status.header.stamp = stamp_to_msg(stamp)
            self.statuses.publish(self.status)

    def set_goal(self, request, response):
        self.asked.append(request.prompt)
        self.goal = GoalStatus(goal_id=1, prompt=request.prompt, status=GoalStatus.ACTIVE)
        self.goals.publish(self.goal)
        response.accepted, response.goal_id = True, 1
        return response

    def stop(self, request, response):
        self.asked.append('stop')
        self.status.state, self.status.reason = ControllerStatus.STOPPED, 'stop was called'
        response.success, response.message = True, 'stopped'
        return response

    def plan(self) -> int:
        stamp = time.time_ns()
        frames = np.zeros((4, 64, 64, 3), np.uint8)
        msg = VisualPlan(goal_id=1, plan_seq=1, prompt='go', committed=4, latency=0.1)
        msg.header.stamp = stamp_to_msg(stamp)
        msg.frame_period = CONTRACT.video.frame_period
        msg.anchor = canvas_to_image_msg(frames[0], stamp)
        msg.frames = frames_to_msgs(frames, stamp, msg.frame_period)
        self.plans.publish(msg)
        actions = ActionChunk(
            stamp=stamp, goal_id=1, plan_seq=1, channels=CONTRACT.channel_names, period=0.2,
            values=np.full((4, 3), 0.1), residual=np.full(4, 0.25, np.float32),
            observability=np.ones(3, np.float32), latency=0.02,
        )  # fmt: skip
        self.chunks.publish(chunk_to_msg(actions))
        self.verdicts.publish(PlanVerdict(goal_id=1, plan_seq=1, accepted=False, reason='it jumps'))
        return stamp

    def close(self) -> None:
        self.executor.shutdown()
        rclpy.try_shutdown(context=self.context)
        self.thread.join(5)


class Cockpit:
    """The process, and what it says."""

    def __init__(self, domain: int, *parameters: str, **env: str) -> None:
        words = [word for p in ('port:=0', *parameters) for word in ('-p', p)]
        self.process = subprocess.Popen(
            [*NODE, *words], env=graph_environment(domain) | env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.said = ''

    def address(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r'cockpit: (http\S+)', line):
                return found[1]
        raise AssertionError(self.said)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope='module')
def cockpit():
    domain = unique_domain()
    graph, process = Graph(domain), Cockpit(domain)
    try:
        address = process.address()
        yield graph, process, address
        assert process.end() == 0
    finally:
        process.process.kill()
        graph.close()


def open_page(address):
    return connect(
        address.replace('http', 'ws', 1) + 'live', open_timeout=PATIENCE, proxy=None, max_size=None
    )


def hear(page, wanted, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        message = page.recv(timeout=PATIENCE)
        told = read_picture(message)[0] if isinstance(message, bytes) else json.loads(message)
        if wanted(told):
            return told
    raise AssertionError('not heard')


def ask(page, **action):
    page.send(json.dumps(action))


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(240)
def test_what_the_graph_says_reaches_the_page_and_what_the_page_asks_the_graph(cockpit):
    graph, _, address = cockpit
    with open_page(address) as page:
        hear(page, lambda m: m.get('state') == 'READY')
        assert hear(page, lambda m: m.get('kind') == 'camera')['name'] == 'top'
        ask(page, action='goal', prompt='touch the red disc')
        assert hear(page, lambda m: m.get('goals'))['goals'][0]['prompt'] == 'touch the red disc'
        # The planner's and the translator's pictures meet by the stamp of the anchor.
        wait_until(lambda: graph.flow.get_subscription_count() > 0)
        stamp = graph.plan()
        assert hear(page, lambda m: m.get('kind') == 'dream')['plan'] == '1-1'
        graph.flow.publish(canvas_to_image_msg(np.full((64, 256, 3), 255, np.uint8), stamp))
        assert hear(page, lambda m: m.get('kind') == 'flow')['frames'] == 4
        # A laden machine may have no picture of this plan's time, but will of another's.
        for _ in range(10):
            with contextlib.suppress(AssertionError):
                assert hear(page, lambda m: m.get('kind') == 'happened', 6.0)
                break
            graph.plan()
        else:
            raise AssertionError('nothing was seen to happen')
        ask(page, action='stop')
        answer = hear(page, lambda m: m.get('type') == 'answer' and m['action'] == 'stop')
        assert answer['good'] and answer['message'] == 'stopped'
        told = hear(page, lambda m: m.get('state') == 'STOPPED')
        assert told['reason'] == 'stop was called'
        assert graph.asked == ['touch the red disc', 'stop']
        # A service that nobody offers.
        ask(page, action='home')
        answer = hear(page, lambda m: m.get('type') == 'answer' and m['action'] == 'home')
        assert not answer['good'] and 'nobody answers' in answer['message']
        graph.silent = True
        hear(page, lambda m: m.get('state') == 'SILENT')
        graph.silent = False
    with open_page(address) as late:
        points = hear(late, lambda m: m.get('type') == 'curves')['points']
        assert {'residual', 'planning', 'translating'} <= {p[0] for p in points}
        assert hear(late, lambda m: m.get('type') == 'verdict')['reason'] == 'it jumps'


@pytest.mark.timeout(120)
def test_it_publishes_nothing_goes_last_and_listens_to_pictures_only_while_somebody_looks(cockpit):
    graph, process, address = cockpit
    wait_until(lambda: 'cockpit' in graph.node.get_node_names())
    published = dict(graph.node.get_publisher_names_and_types_by_node('cockpit', '/vera'))
    assert set(published) == {'/parameter_events'}  # as every node
    assert os.getpriority(os.PRIO_PROCESS, process.process.pid) >= 10
    wait_until(lambda: graph.images.get_subscription_count() == 0)
    with open_page(address):
        wait_until(lambda: graph.images.get_subscription_count() == 1)
    wait_until(lambda: graph.images.get_subscription_count() == 0)
    wait_until(lambda: graph.states.get_subscription_count() == 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ('parameters', 'environment', 'why'),
    [
        (['host:=192.0.2.1'], {}, 'cannot listen on 192.0.2.1'),
        (['host:=0.0.0.0'], {'VERA_COCKPIT_TOKEN': 'short'}, 'the token of the cockpit needs 12'),
        (['contract:=fingr'], {}, 'fingr'),
    ],
)
def test_where_there_can_be_no_cockpit_it_says_why_and_the_supervisor_goes_on(
    parameters, environment, why
):
    process = Cockpit(unique_domain(), *parameters, **environment)
    said, _ = process.process.communicate(timeout=PATIENCE)
    assert process.process.returncode == 2  # as a configuration error: not started again
    assert 'no cockpit' in said and why in said


@pytest.mark.timeout(120)
def test_for_other_machines_a_token_is_made_and_stands_in_the_address():
    process = Cockpit(unique_domain(), 'host:=0.0.0.0')
    try:
        address = process.address()
        assert re.fullmatch(r'http://[^/]+:\d+/\?token=[\w-]{20,}', address)
        assert process.end() == 0
    finally:
        process.process.kill()
