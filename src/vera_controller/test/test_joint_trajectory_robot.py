"""The joint_trajectory robot over real ROS, with a fake joint_trajectory_controller."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

pytest.importorskip('rclpy')
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from vera_controller.registry import RobotError, make_robot
from vera_core.contract import load_contract
from vera_core.nodes.qos import COMMAND, STATE

DOMAIN = 64
ARM = tuple(f'panda_joint{i}' for i in range(1, 8))
FINGER = 'panda_finger_joint1'


def wait_for(condition, what, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f'{what} did not happen in time'
        time.sleep(0.005)


class FakeControl:
    """A fake joint_trajectory_controller and joint_state_broadcaster."""

    def __init__(self, overrides=None):
        self.contract = load_contract('panda_joints', {'safety': None, **(overrides or {})})
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = Node('control', namespace='vera', context=self.context)
        self.arm, self.hand, self.states, self.bad = [], [], [], []
        topic = 'joint_trajectory_controller/joint_trajectory'
        self.node.create_subscription(JointTrajectory, topic, self.arm.append, COMMAND)
        topic = 'hand/joint_trajectory'
        self.node.create_subscription(JointTrajectory, topic, self.hand.append, COMMAND)
        self.publisher = self.node.create_publisher(JointState, 'joint_states', STATE)
        self.robot = make_robot(
            'joint_trajectory',
            self.contract,
            on_state=self.states.append,
            on_bad_state=self.bad.append,
            ros={'node': self.node},
        )
        self.robot.connect()
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.running = True
        self.thread.start()
        wait_for(lambda: self.node.count_subscribers('joint_states'), 'discovery')

    def _spin(self):
        while self.running:
            self.executor.spin_once(timeout_sec=0.05)

    def tell(self, names, positions, **fields):
        self.publisher.publish(JointState(name=list(names), position=list(positions), **fields))

    def close(self):
        self.running = False
        self.thread.join(timeout=5)
        self.robot.close()
        self.robot.close()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def control(request):
    made = FakeControl(getattr(request, 'param', None))
    yield made
    made.close()


def test_each_set_point_is_a_trajectory_of_one_point_one_period_ahead(control):
    q = np.arange(8) / 100
    control.robot.command(q, 1_000_000_000)
    wait_for(lambda: len(control.arm) == 1, 'the first trajectory')
    control.robot.command(q + 0.004, 1_010_000_000)
    wait_for(lambda: len(control.arm) == 2, 'the second trajectory')
    first, second = control.arm
    assert list(first.joint_names) == [*ARM, FINGER]
    assert (first.header.stamp.sec, first.header.stamp.nanosec) == (0, 0)
    assert len(first.points) == len(second.points) == 1
    ahead = second.points[0].time_from_start
    assert (ahead.sec, ahead.nanosec) == (0, 10_000_000)
    np.testing.assert_array_equal(first.points[0].positions, q)
    np.testing.assert_allclose(second.points[0].positions, q + 0.004)
    # A joint_trajectory_controller of Jazzy refuses a trajectory that ends in motion.
    assert not first.points[0].velocities and not second.points[0].velocities


@pytest.mark.parametrize('control', [{'robot': {'gripper_controller': 'hand'}}], indirect=True)
def test_the_gripper_may_have_a_controller_of_its_own(control):
    control.robot.command(np.arange(8) / 100, 1)
    wait_for(lambda: control.arm and control.hand, 'both trajectories')
    assert list(control.arm[0].joint_names) == list(ARM)
    assert list(control.hand[0].joint_names) == [FINGER]
    np.testing.assert_array_equal(control.hand[0].points[0].positions, [0.07])


def test_states_are_matched_by_name_and_other_joints_are_left_aside(control):
    names = ['panda_finger_joint2', FINGER, *reversed(ARM)]
    control.tell(names, [0.03, 0.03, 7, 6, 5, 4, 3, 2, 1], velocity=[0.1] * 9)
    wait_for(lambda: control.states, 'a state')
    np.testing.assert_array_equal(control.states[0].positions, [1, 2, 3, 4, 5, 6, 7, 0.03])
    np.testing.assert_array_equal(control.states[0].velocities, [0.1] * 8)
    control.tell(['wheel'], [1.0])
    time.sleep(0.2)
    assert len(control.states) == 1
    assert not control.bad, 'joints of somebody else are no news'


def test_a_state_without_a_joint_is_refused_by_name(control):
    control.tell(ARM, [0.0] * 7)
    wait_for(lambda: control.bad, 'a refusal')
    assert FINGER in control.bad[0]
    control.tell([*ARM, FINGER], [0.0] * 6 + [np.nan, 0.0])
    wait_for(lambda: len(control.bad) == 2, 'a refusal')
    assert 'panda_joint7' in control.bad[1]
    assert control.robot.state() is None


def test_lock_step_is_for_a_simulation(control):
    with pytest.raises(RobotError, match='use topic in lock-step'):
        make_robot('joint_trajectory', control.contract, on_state=print, on_bad_state=print,
                   ros={'node': control.node, 'reliable': True})  # fmt: skip
