"""The translator node with a translator that asks where the joints are."""

import numpy as np
import pytest
from sensor_msgs.msg import JointState
from test_jidm_node import T0, World, pictures, plan, wait_for

from vera_core.nodes.convert import chunk_from_msg, stamp_to_msg
from vera_core.nodes.qos import STATE_RELIABLE
from vera_jidm.registry import make_translator

MS = 1_000_000


class Robot:
    """Publishes joint states beside the plans of a World."""

    def __init__(self, world):
        self.world = world
        self.publisher = world.helper.create_publisher(JointState, 'joint_states', STATE_RELIABLE)

    def wait(self):
        wait_for(lambda: self.publisher.get_subscription_count() == 1)

    def at(self, stamp, positions, names=('joint_3', 'joint_1', 'joint_2')):
        msg = JointState(name=list(names), position=[float(p) for p in positions])
        msg.header.stamp = stamp_to_msg(stamp)
        self.publisher.publish(msg)

    def known_until(self, stamp):
        wait_for(lambda: self.world.node._history.newest == stamp)


@pytest.fixture
def world():
    made = World(translator='analytic', lockstep=True)
    yield made
    made.close()


def test_the_joints_are_those_of_the_anchors_time(world):
    world.begin()
    robot = Robot(world)
    robot.wait()
    # The names come in another order; the anchor lies half way between two states.
    robot.at(T0 - 20 * MS, (0.3, 0.1, 0.2))
    robot.at(T0 - 20 * MS, (9, 9, 9))  # a repetition
    robot.at(T0 + 20 * MS, (0.5, 0.3, 0.4))
    robot.known_until(T0 + 20 * MS)
    world.plans.publish(plan())
    wait_for(lambda: world.chunks)
    images = pictures()
    expected = make_translator('analytic', world.node.contract).translate(
        images[0], images[1:4], np.array([0.2, 0.3, 0.4])
    )
    np.testing.assert_allclose(chunk_from_msg(world.chunks[0]).values, expected.values, atol=1e-6)
    assert not world.errors


def test_without_the_joints_there_is_no_chunk_and_one_clear_error(world):
    world.begin()
    robot = Robot(world)
    robot.wait()
    world.plans.publish(plan(1))
    wait_for(lambda: len(world.errors) == 1)
    assert 'plan 1 of goal 4 is not translated: analytic needs the joint' in world.errors[0]
    assert 'no joint state is known yet' in world.errors[0]
    # Joints of another robot: said on /diagnostics, and as good as none.
    robot.at(T0 - 9 * MS, (0.3,), names=('joint_1',))
    wait_for(lambda: 'joint_states' in world.node._reports)
    assert 'lacks joint joint_2, joint_3' in world.node._reports['joint_states'][1]
    # Stale: the newest state is older than the anchor.
    robot.at(T0 - 500 * MS, (0.3, 0.1, 0.2))
    robot.known_until(T0 - 500 * MS)
    world.plans.publish(plan(2))
    wait_for(lambda: len(world.errors) == 2)
    assert '0.500 s newer than the newest joint state' in world.errors[1]
    # A gap around the anchor longer than the contract's state_timeout.
    robot.at(T0 + 900 * MS, (0.3, 0.1, 0.2))
    robot.known_until(T0 + 900 * MS)
    world.plans.publish(plan(3))
    wait_for(lambda: len(world.errors) == 3)
    assert 'in a gap of 1.40 s without joint states' in world.errors[2]
    assert not world.chunks
    # A clock that was set back begins a new history, and all is well again.
    for stamp in (T0 - 10 * MS, T0 + 10 * MS):
        robot.at(stamp, (0.3, 0.1, 0.2))
    robot.known_until(T0 + 10 * MS)
    world.plans.publish(plan(4))
    wait_for(lambda: world.chunks)
    assert world.chunks[0].plan_seq == 4
    assert world.node._reports['joint_states'][1] == ''
