"""An arm that is no ROS topic, behind the controller node: a fake arm with faults to order."""

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
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from vera_controller.nodes.controller_node import ControllerNode
from vera_core.contract import load_contract
from vera_core.nodes.qos import LATCHED, STATE
from vera_msgs.msg import ControllerStatus

DOMAIN = 64
S = ControllerStatus
AWAY = np.array([0.6, 0, 0, -0.06, 0, 0.06, 0])  # from home, rad


class World:
    """A user of the robot, in ROS."""

    def __init__(self):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = Node('user', namespace='vera', context=self.context)
        self.states, self.statuses = [], []
        self.node.create_subscription(JointState, 'joint_states', self.states.append, STATE)
        self.node.create_subscription(S, 'controller_status', self.statuses.append, LATCHED)
        self.clients = {
            name: self.node.create_client(Trigger, name) for name in ('home', 'estop', 'reset')
        }
        self.controller = None
        self.running, self.threads, self.executors = True, [], []
        self._spin(self.node)

    def _spin(self, node):
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def spin():
            while self.running and self.context.ok():
                executor.spin_once(timeout_sec=0.05)

        self.threads.append(threading.Thread(target=spin, daemon=True))
        self.threads[-1].start()
        self.executors.append((executor, node))

    def configure(self, **parameters):
        given = {'autostart': False, 'contract': 'panda', 'robot': 'fake_arm', **parameters}
        self.controller = ControllerNode(
            context=self.context,
            parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
        )
        self._spin(self.controller)
        return self.controller.trigger_configure()

    def wait(self, condition, what, timeout=20.0):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f'{what} did not happen; {self.reason!r}'
            time.sleep(0.005)

    def call(self, name):
        self.wait(self.clients[name].service_is_ready, name)
        future = self.clients[name].call_async(Trigger.Request())
        self.wait(future.done, name)
        return future.result()

    @property
    def reason(self):
        return self.statuses[-1].reason if self.statuses else ''

    def reach(self, state, words):
        self.wait(
            lambda: (
                self.statuses
                and self.statuses[-1].state == state
                and words in self.statuses[-1].reason
            ),
            f'state {state} {words!r}',
        )

    def go_home(self, home, timeout=60.0):
        """On a laden machine joint states come late, and a motion home ends in between."""
        deadline = time.monotonic() + timeout
        while np.abs(home - self.states[-1].position).max() > 0.05:
            assert time.monotonic() < deadline, self.reason
            self.call_home()
            time.sleep(0.3)

    def call_home(self):
        """Whether it begins to go home; what a laden machine may have stopped is reset."""
        if self.statuses[-1].state == S.STOPPED:
            self.call('reset')
        return self.call('home').success

    def close(self):
        self.running = False
        for thread in self.threads:
            thread.join(timeout=5)
        for executor, node in self.executors:
            executor.remove_node(node)
            executor.shutdown()
        if self.controller is not None:
            self.controller.close()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def test_its_states_are_published_it_moves_and_a_reflex_stops_it(world):
    assert world.configure() == TransitionCallbackReturn.SUCCESS
    contract = load_contract('panda')
    link = world.controller.robot.link
    link.put(contract.home_positions[:7] + AWAY / 6)
    assert world.controller.trigger_activate() == TransitionCallbackReturn.SUCCESS
    world.reach(S.READY, '')
    world.wait(lambda: len(world.states) > 20, 'joint_states')
    assert list(world.states[-1].name) == list(contract.joint_names)
    assert len(world.states[-1].velocity) == 8
    stamp = world.states[-1].header.stamp
    assert abs(stamp.sec - time.time()) < 60

    world.go_home(contract.home_positions)
    time.sleep(1.0)  # the last set-points at home
    link.put(contract.home_positions[:7] + AWAY)
    world.wait(lambda: world.states[-1].position[0] > 0.5, 'the new place')
    world.wait(world.call_home, 'home')
    world.wait(lambda: abs(world.states[-1].velocity[0]) > 0.1, 'motion')
    link.faults.reflex_at = 0.0
    ordered = time.monotonic()
    world.reach(S.STOPPED, 'reflex of the arm: cartesian reflex')
    print(f'reflex -> STOPPED over ROS after {1e3 * (time.monotonic() - ordered):.0f} ms')
    stuck = link._q[0]
    assert stuck > 0.1
    world.wait(lambda: link.recoveries == 1, 'recovery')
    world.wait(lambda: not world.controller.robot.fault, 'recovery')
    assert world.call('reset').success
    world.reach(S.READY, 'reset')
    assert abs(world.states[-1].position[0] - stuck) < 0.02, 'only a new motion moves it'
    world.go_home(contract.home_positions)


def test_estop_halts_the_arm_itself(world):
    assert world.configure() == TransitionCallbackReturn.SUCCESS
    link = world.controller.robot.link
    link.put(load_contract('panda').home_positions[:7] + AWAY)
    assert world.controller.trigger_activate() == TransitionCallbackReturn.SUCCESS
    world.wait(lambda: world.states, 'joint_states')
    world.wait(world.call_home, 'home')
    world.wait(lambda: abs(world.states[-1].velocity[0]) > 0.1, 'motion')
    assert world.call('estop').success
    world.reach(S.ESTOP, 'estop was called')
    time.sleep(0.5)  # the arm is told of it later on a laden machine
    where = world.states[-1].position[0]
    assert where > 0.1
    time.sleep(0.5)
    assert world.states[-1].velocity[0] == 0.0
    assert world.states[-1].position[0] == where


def test_lock_step_with_an_arm_is_refused(world):
    assert world.configure(lockstep=True) == TransitionCallbackReturn.FAILURE


def test_an_arm_without_an_address_is_refused(world):
    assert world.configure(robot='panda_fer') == TransitionCallbackReturn.FAILURE
