"""The scene node: what a viewer hears of a robot, and that it costs nothing while nobody looks."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from tf2_msgs.msg import TFMessage
from vera_core.chunk import ActionChunk
from vera_core.contract import load_contract
from vera_core.kinematics.arm import Arm
from vera_core.kinematics.description import find_urdf
from vera_core.kinematics.transforms import transform
from vera_core.nodes.convert import chunk_to_msg, joints_to_msg
from vera_core.nodes.qos import CHUNK, LATCHED, MARKERS, STATE, TF
from vera_core.rotations import matrix_from_quaternion
from vera_drivers.nodes.scene_node import SceneNode
from vera_msgs.msg import ActionChunk as ActionChunkMsg
from vera_msgs.msg import ControllerStatus, GoalStatus

CONTRACT = load_contract('finger')
Q = np.array([0.5, -0.3, 0.8])


class Robot:
    """Says where the finger is, again and again."""

    def __init__(self, node):
        self.node, self.stamp, self.q = node, 0, Q
        self.states = node.create_publisher(JointState, 'joint_states', STATE)
        node.create_timer(0.01, self.tell)

    def tell(self):
        self.stamp = time.time_ns()
        self.states.publish(joints_to_msg(CONTRACT.joint_names, self.q, self.stamp))


def listen(node, kind, topic, qos):
    heard: list = []
    node.create_subscription(kind, topic, heard.append, qos)
    return heard


def marker(message, name):
    return next(m for m in message.markers if m.ns == name)


def matrix(transform_msg):
    t, r = transform_msg.translation, transform_msg.rotation
    return transform(matrix_from_quaternion([r.x, r.y, r.z, r.w]), [t.x, t.y, t.z])


def test_a_late_viewer_gets_the_description_and_a_tree_of_frames(graph, wait_for):
    robot = Robot(graph.helper('robot'))
    graph.start(SceneNode)
    viewer = graph.helper('viewer')
    texts = listen(viewer, String, 'robot_description', LATCHED)
    still = listen(viewer, TFMessage, '/tf_static', LATCHED)
    moving = listen(viewer, TFMessage, '/tf', TF)
    wait_for(lambda: texts and still and len(moving) > 3)
    assert texts[0].data == find_urdf(CONTRACT).read_text()
    frames = {t.child_frame_id: t for t in [*still[0].transforms, *moving[-1].transforms]}
    T, child = np.eye(4), 'tip'
    while child in frames:
        T, child = matrix(frames[child].transform) @ T, frames[child].header.frame_id
    assert child == 'world'
    arm = Arm.from_urdf(find_urdf(CONTRACT), CONTRACT.joint_names, 'tip')
    np.testing.assert_allclose(T, transform(*arm.pose(robot.q)), atol=1e-9)
    stamp = moving[-1].transforms[0].header.stamp
    assert 0 <= robot.stamp - (stamp.sec * 10**9 + stamp.nanosec) < 10**9


def test_tf_comes_at_its_rate_and_only_while_somebody_listens(graph, wait_for):
    Robot(graph.helper('robot'))
    node = graph.start(SceneNode, rate=20.0)
    viewer = graph.helper('viewer')
    heard: list = []
    ear = viewer.create_subscription(TFMessage, '/tf', heard.append, TF)
    wait_for(lambda: len(heard) > 10)
    stamps = [t.header.stamp.sec + t.header.stamp.nanosec * 1e-9 for m in heard
              for t in m.transforms[:1]]
    gaps = np.diff(stamps)
    assert gaps.min() >= 0.02  # states come every 0.01 s; half a period is the least
    assert gaps.mean() >= 0.045
    assert node.count_subscribers('joint_states') == 1
    viewer.destroy_subscription(ear)
    wait_for(lambda: node.count_subscribers('joint_states') == 0)


def test_the_markers_tell_goal_state_and_where_the_tool_goes(graph, wait_for):
    robot = Robot(graph.helper('robot'))
    goals = robot.node.create_publisher(GoalStatus, 'goal_status', LATCHED)
    states = robot.node.create_publisher(ControllerStatus, 'controller_status', LATCHED)
    chunks = robot.node.create_publisher(ActionChunkMsg, 'action_chunk', CHUNK)
    goal = GoalStatus(goal_id=3, prompt='touch the red disc', status=GoalStatus.ACTIVE)
    goals.publish(goal)
    states.publish(ControllerStatus(state=ControllerStatus.HOLD, reason='chunk is late'))
    node = graph.start(SceneNode)
    heard = listen(graph.helper('viewer'), MarkerArray, 'markers', MARKERS)
    wait_for(lambda: heard and marker(heard[-1], 'goal').text == 'touch the red disc: ACTIVE'
             and marker(heard[-1], 'status').text == 'HOLD: chunk is late')
    assert marker(heard[-1], 'plan').action == Marker.DELETE
    assert marker(heard[-1], 'goal').header.frame_id == 'base_link'
    wait_for(lambda: chunks.get_subscription_count() and node._last is not None)
    deltas = np.full((4, 3), 0.05)
    chunks.publish(chunk_to_msg(ActionChunk(
        stamp=robot.stamp, goal_id=3, plan_seq=1, channels=CONTRACT.channel_names, period=0.2,
        values=deltas, residual=np.zeros(4, np.float32), observability=np.ones(3, np.float32),
    )))  # fmt: skip
    wait_for(lambda: marker(heard[-1], 'plan').points)
    arm = Arm.from_urdf(find_urdf(CONTRACT), CONTRACT.joint_names, 'tip')
    expected = [arm.pose(Q + k * 0.05)[1] for k in range(5)]
    path = [[p.x, p.y, p.z] for p in marker(heard[-1], 'plan').points]
    np.testing.assert_allclose(path, expected, atol=1e-9)
    goal.status = GoalStatus.SUCCEEDED
    goals.publish(goal)
    wait_for(lambda: marker(heard[-1], 'goal').text.endswith('SUCCEEDED'))
    assert marker(heard[-1], 'plan').action == Marker.DELETE


def test_a_bad_state_is_reported_and_the_next_good_one_is_shown(graph, wait_for):
    robot = Robot(graph.helper('robot'))
    node = graph.start(SceneNode)
    heard = listen(graph.helper('viewer'), TFMessage, '/tf', TF)
    robot.q = np.array([np.nan, 0, 0])
    wait_for(lambda: 'not a finite number' in node._reports.get('joint_states', ('', ''))[1])
    assert not any(np.isnan(t.transform.translation.x) for m in heard for t in m.transforms)
    robot.q, count = Q, len(heard)
    wait_for(lambda: len(heard) > count)
    assert node._reports['joint_states'][1] == ''


def test_beside_robot_state_publisher_it_keeps_to_cameras_and_markers(graph, wait_for):
    Robot(graph.helper('robot'))
    node = graph.start(SceneNode, robot=False)
    viewer = graph.helper('viewer')
    still = listen(viewer, TFMessage, '/tf_static', LATCHED)
    moving = listen(viewer, TFMessage, '/tf', TF)
    markers = listen(viewer, MarkerArray, 'markers', MARKERS)
    wait_for(lambda: still and markers)
    assert {t.child_frame_id for t in still[0].transforms} == {
        'base_link', 'top_link', 'top_color_optical_frame',
    }  # fmt: skip
    assert not moving
    assert node.count_publishers('robot_description') == 0


OTHER = '<robot name="other"><link name="base"/></robot>'


@pytest.mark.parametrize('description', ['nowhere.urdf', OTHER])
def test_a_description_that_does_not_fit_is_one_clear_error(graph, tmp_path, description):
    if description.startswith('<'):
        (tmp_path / 'other.urdf').write_text(description)
        description = str(tmp_path / 'other.urdf')
    node = SceneNode(context=graph.context, parameter_overrides=[
        Parameter('autostart', value=False), Parameter('description', value=description),
    ])  # fmt: skip
    graph.add(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
