"""Frames and tool path of an embodiment, against the kinematics they are made from."""

from __future__ import annotations

import numpy as np
import pytest

from vera_core.chunk import ActionChunk
from vera_core.contract import load_contract
from vera_core.kinematics.arm import Arm
from vera_core.kinematics.description import description_text, find_urdf
from vera_core.kinematics.transforms import transform
from vera_core.kinematics.urdf import UrdfError
from vera_drivers.scene import OPTICAL, WORLD, Scene, box_edges


def finger(**changes):
    return load_contract('finger', changes)


def scene_of(contract) -> Scene:
    return Scene(contract, description_text(contract))


def chain(edges, child):
    """T of a frame in the world, by walking up the tree."""
    above = {edge.child: edge for edge in edges}
    T = np.eye(4)
    while child in above:
        T, child = above[child].T @ T, above[child].parent
    assert child == WORLD
    return T


def chunk_of(contract, values, channels=None):
    values = np.asarray(values, np.float64)
    names = tuple(channels or contract.channel_names)
    return ActionChunk(
        stamp=1, goal_id=1, plan_seq=1, channels=names, period=0.2, values=values,
        residual=np.zeros(len(values), np.float32), observability=np.ones(len(names), np.float32),
    )  # fmt: skip


def test_the_frames_lead_to_the_tool():
    contract = finger()
    scene = scene_of(contract)
    arm = Arm.from_urdf(find_urdf(contract), contract.joint_names, 'tip')
    for q in np.random.default_rng(0).uniform(-1.5, 1.5, (5, 3)):
        edges = [*scene.still_frames(), *scene.moving_frames(q)]
        R, p = arm.pose(q)
        np.testing.assert_allclose(chain(edges, 'tip'), transform(R, p), atol=1e-12)
        # One parent for each frame: tf2 wants a tree.
        assert len({edge.child for edge in edges}) == len(edges)


def test_a_camera_has_a_body_and_an_optical_frame():
    contract = finger()
    edges = scene_of(contract).still_frames()
    T = chain(edges, 'top_color_optical_frame')
    np.testing.assert_allclose(T[:3, 3], [0.27, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(T[:3, 2], [0, 0, -1], atol=1e-7)  # it looks down
    body = chain(edges, 'top_link')
    # REP-103: the body's x is where the camera looks, its z is up in the picture.
    np.testing.assert_allclose(body[:3, 0], T[:3, 2], atol=1e-12)
    np.testing.assert_allclose(body[:3, 2], -T[:3, 1], atol=1e-12)
    np.testing.assert_allclose(OPTICAL @ [0, 0, 1], [1, 0, 0], atol=1e-12)


def test_without_the_robot_only_the_world_and_the_cameras_are_told():
    scene = scene_of(finger())
    children = [edge.child for edge in scene.still_frames(robot=False)]
    assert children == ['base_link', 'top_link', 'top_color_optical_frame']
    assert 'tip' in [edge.child for edge in scene.still_frames()]


def test_a_robot_without_a_description_has_its_cameras_in_the_world():
    contract = finger(kinematics=None)
    scene = Scene(contract, None)
    assert scene.root == WORLD
    assert scene.still_frames()[0].parent == WORLD
    assert scene.moving_frames(contract.home_positions) == []
    assert scene.tool_path(chunk_of(contract, np.zeros((4, 3))), contract.home_positions) is None


def test_joint_deltas_lead_the_tool_along_its_kinematics():
    contract = finger()
    arm = Arm.from_urdf(find_urdf(contract), contract.joint_names, 'tip')
    q = np.array([0.3, -0.4, 0.2])
    deltas = np.random.default_rng(1).normal(0, 0.1, (4, 3))
    order = ['joint_3', 'joint_1', 'joint_2']  # by name, not by place
    path = scene_of(contract).tool_path(chunk_of(contract, deltas[:, [2, 0, 1]], order), q)
    expected = [arm.pose(q + d)[1] for d in np.vstack([np.zeros(3), np.cumsum(deltas, 0)])]
    np.testing.assert_allclose(path, expected, atol=1e-12)


def test_cartesian_deltas_shift_the_tool_along_their_axes():
    channels = [
        {'name': 'forward', 'kind': 'cartesian_delta', 'unit': 'm', 'scale': 0.03},
        {'name': 'turn', 'kind': 'cartesian_delta', 'unit': 'rad', 'scale': 0.1},
    ]
    axes = {'forward': 'y', 'turn': 'rz'}
    contract = finger(
        channels=channels, kinematics={'urdf': str(find_urdf(finger())), 'tool': 'tip',
                                       'axes': axes}
    )  # fmt: skip
    path = scene_of(contract).tool_path(
        chunk_of(contract, [[0.01, 0.1], [0.02, 0.1]]), contract.home_positions
    )
    np.testing.assert_allclose(path - path[0], [[0, 0, 0], [0, 0.01, 0], [0, 0.03, 0]], atol=1e-12)


def test_a_description_of_another_robot_is_refused():
    contract = finger()
    other = description_text(contract).replace('joint_2', 'elbow')
    with pytest.raises(UrdfError, match="joints of 'finger' and of its description do not fit"):
        Scene(contract, other)


def test_a_box_has_twelve_edges_of_its_three_lengths():
    edges = box_edges(np.array([0.0, -1, 0]), np.array([1.0, 1, 0.5])).reshape(12, 2, 3)
    lengths = sorted(np.linalg.norm(edges[:, 1] - edges[:, 0], axis=1))
    np.testing.assert_allclose(lengths, [0.5] * 4 + [1.0] * 4 + [2.0] * 4)


def test_a_users_description_gets_the_names_of_the_contract(tmp_path):
    contract = load_contract('panda')
    own = description_text(contract)
    path = tmp_path / 'fr3.urdf'
    path.write_text(own.replace('panda_', 'fr3_'))
    text = description_text(contract, str(path))
    theirs, ours = Scene(contract, text), Scene(contract, own)
    q = contract.home_positions
    for a, b in zip(theirs.moving_frames(q), ours.moving_frames(q), strict=True):
        assert (a.parent, a.child) == (b.parent, b.child)
        np.testing.assert_allclose(a.T, b.T, atol=1e-12)
    assert 'fr3_' not in text
    # One with another joint is left as it is, and refused by name.
    path.write_text(own.replace('panda_joint4', 'elbow').replace('panda_', 'fr3_'))
    with pytest.raises(UrdfError, match=r"no joint 'panda_joint1'.*fr3_joint1"):
        Scene(contract, description_text(contract, str(path)))


XACRO = """<?xml version="1.0"?>
<robot name="finger" xmlns:xacro="http://www.ros.org/wiki/xacro">
  <xacro:arg name="kind" default="box"/>
  <link name="$(arg kind)"/>
</robot>
"""


def test_a_users_xacro_is_expanded_with_its_arguments(tmp_path):
    pytest.importorskip('xacro')
    path = tmp_path / 'robot.urdf.xacro'
    path.write_text(XACRO)
    assert '<link name="box"/>' in description_text(finger(), str(path))
    assert '<link name="ball"/>' in description_text(finger(), f'{path} kind:=ball')


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('nowhere.urdf', 'nowhere.urdf cannot be read: No such file'),
        ('nowhere.urdf.xacro', 'cannot be read'),
        ('{folder}/bad.xacro', 'bad.xacro cannot be expanded: '),
        ('{folder}/bad.xacro hand', "'hand' is no argument of a xacro; write name:=value"),
        ('robot.urdf hand:=true', 'robot.urdf is no .xacro and takes no arguments'),
    ],
)
def test_a_description_that_cannot_be_used_is_named(tmp_path, given, message):
    pytest.importorskip('xacro')
    (tmp_path / 'bad.xacro').write_text('<robot xmlns:xacro="http://x"><xacro:nothing/></robot>')
    with pytest.raises(UrdfError, match=message):
        description_text(finger(), given.format(folder=tmp_path))
