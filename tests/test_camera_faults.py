"""Camera processes that hang, die and freeze while a goal is pursued: named, and no plan after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter

from graph_tools import unique_domain
from vera_core.contract import load_contract
from vera_core.nodes.qos import LATCHED, PLAN
from vera_core.seams import Plan
from vera_msgs.msg import GoalStatus, VisualPlan
from vera_msgs.srv import SetGoal
from vera_planner.nodes.planner_node import PlannerNode

CAMERAS = ('top', 'side')


class MovingPlanner:
    """A fake planner: every plan of it moves."""

    planner_id, checkpoint_hash = 'fake', '0123456789abcdef'

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        frames = np.repeat(context[-1][None], 4, axis=0).copy()
        # Black or white, whichever is further from what is seen.
        frames[:, :8, :8] = np.where(frames[:, :8, :8] < 128, 255, 0)
        return Plan(frames, 0.2, motion=100.0)


def write_video(path, moving, still=0):
    """Frames at 20 Hz: so many that differ, then so many that are all the same."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 20, (64, 64))
    for k in range(moving + still):
        writer.write(np.full((64, 64, 3), 50 + 3 * (min(k, moving) % 60), np.uint8))
    writer.release()


class Rig:
    """Two camera processes that play videos, and a planner that follows a goal."""

    def __init__(self, folder):
        plain = load_contract('finger').to_dict()
        plain['canvas']['width'] = 128
        plain['video']['frame_timeout'] = 2.5
        plain['calibration'], plain['sim'], plain['kinematics'] = [], None, None
        plain['cameras'] = [
            {'name': name, 'topic': f'{name}/color/image_raw', 'width': 64, 'height': 64,
             'rate': 20.0, 'driver': 'video_file', 'source': str(folder / f'{name}.avi')}
            for name in CAMERAS
        ]  # fmt: skip
        self.contract = folder / 'two.yaml'
        self.contract.write_text(yaml.safe_dump(plain))
        self.domain = unique_domain()
        self.statuses: list = []
        self.plans: list = []
        self.processes: dict[str, subprocess.Popen] = {}
        for name in CAMERAS:
            self.begin(name)
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.helper = Node('someone', namespace='vera', context=self.context)
        self.helper.create_subscription(GoalStatus, 'goal_status', self.statuses.append, LATCHED)
        self.helper.create_subscription(VisualPlan, 'visual_plan', self.plans.append, PLAN)
        self.client = self.helper.create_client(SetGoal, 'set_goal')
        overrides = {'contract': str(self.contract), 'autostart': False}
        self.planner = PlannerNode(
            lambda contract: MovingPlanner(), context=self.context,
            parameter_overrides=[Parameter(k, value=v) for k, v in overrides.items()],
        )
        self.ending = False
        self.executors = []
        self.threads = []
        for node in (self.planner, self.helper):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            self.executors.append(executor)
            self.threads.append(threading.Thread(target=self.spin, args=(executor,), daemon=True))
            self.threads[-1].start()
        for step in (self.planner.trigger_configure, self.planner.trigger_activate):
            assert step() == TransitionCallbackReturn.SUCCESS

    def spin(self, executor):
        while not self.ending:
            executor.spin_once(timeout_sec=0.1)

    def begin(self, name):
        parameters = {'camera': name, 'contract': self.contract, 'loop': 'true'}
        arguments = [w for k, v in parameters.items() for w in ('-p', f'{k}:={v}')]
        self.processes[name] = subprocess.Popen(
            [sys.executable, '-m', 'vera_drivers.nodes.camera_node', '--ros-args', *arguments,
             '-r', f'__node:=camera_{name}'],
            env={**os.environ, 'ROS_DOMAIN_ID': str(self.domain), 'OMP_NUM_THREADS': '1'},
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def until(self, condition, timeout=60.0):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, self.statuses[-1:]
            time.sleep(0.01)

    def goal(self):
        """Once all cameras are there, begin one and wait until it is planned for."""
        observer = self.planner._observer
        self.until(lambda: time.time_ns() - (observer.newest or 0) < 500_000_000)
        assert self.client.wait_for_service(30)
        future = self.client.call_async(SetGoal.Request(prompt='red'))
        self.until(future.done)
        goal = future.result().goal_id
        self.until(lambda: self.plans and self.plans[-1].goal_id == goal)
        return goal

    def aborted(self, goal):
        """Why, once it was; and that nothing is planned after."""

        def ended():
            last = self.statuses[-1]
            return last.goal_id == goal and last.status == GoalStatus.ABORTED

        self.until(ended)
        count = len(self.plans)
        time.sleep(0.5)
        assert len(self.plans) == count
        return self.statuses[-1].message

    def close(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.ending = True
        for thread in self.threads:
            thread.join(timeout=5)
        self.planner.close()
        self.helper.destroy_node()
        for executor in self.executors:
            executor.shutdown()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def rig(tmp_path):
    made = []

    def make(**videos):
        for name in CAMERAS:
            write_video(tmp_path / f'{name}.avi', **videos.get(name, {'moving': 60}))
        made.append(Rig(tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_camera_that_hangs_or_dies_is_named_and_comes_back(rig):
    graph = rig()
    side = '/vera/side/color/image_raw'
    goal = graph.goal()
    graph.processes['side'].send_signal(signal.SIGSTOP)
    assert graph.aborted(goal) == f'no camera frames on {side} for 2.5 s'
    graph.processes['side'].send_signal(signal.SIGCONT)
    goal = graph.goal()
    graph.processes['side'].kill()
    graph.processes['side'].wait()
    assert graph.aborted(goal) == f'no camera frames on {side} for 2.5 s'
    graph.begin('side')  # as its supervisor does
    graph.goal()


def test_a_camera_that_freezes_with_fresh_stamps_is_named(rig):
    graph = rig(side={'moving': 300, 'still': 1200})
    message = graph.aborted(graph.goal())
    assert "camera 'side' shows the same picture while those of others have changed" in message
