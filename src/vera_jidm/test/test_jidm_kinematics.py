"""URDF, forward kinematics and geometric Jacobians: worked cases, the Panda, finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jidm_robots import ARM_JOINTS, PANDA, READY, arm_urdf, hand_urdf, joint, visual

from vera_core.kinematics.shapes import Box, Cylinder, Mesh, ShapeError, Sphere, read_stl
from vera_core.kinematics.transforms import (
    inverse,
    rotation_about,
    rotation_from_quaternion,
    rotation_from_rpy,
    transform,
)
from vera_core.kinematics.tree import KinematicTree
from vera_core.kinematics.urdf import UrdfError, read_urdf

TWO_LINKS = (
    '<robot name="two"><link name="a"/>'
    + joint('one', 'a', 'b', xyz='0 0 1')
    + '<link name="b"/>'
    + joint('two', 'b', 'c', 'prismatic', xyz='2 0 0', axis='0 0 2')
    + '<link name="c"/></robot>'
)


def dh(a, d, alpha, theta):
    """One step of the modified (Craig's) convention."""
    ca, sa, ct, st_ = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
    return np.array(
        [
            [ct, -st_, 0, a],
            [st_ * ca, ct * ca, -sa, -d * sa],
            [st_ * sa, ct * sa, ca, d * ca],
            [0, 0, 0, 1],
        ]
    )


def test_two_links_by_hand():
    tree = KinematicTree(read_urdf(TWO_LINKS))
    posture = tree.posture(np.array([np.pi / 2, 0.5]))
    # A quarter turn about z takes the arm of 2 m along x to y; the slide lifts by 0.5 m.
    end = posture.links[tree.link_index('c'), :3, 3]
    np.testing.assert_allclose(end, [0, 2, 1.5], atol=1e-12)
    J = tree.frame_jacobian(posture, 'c')
    np.testing.assert_allclose(J[:, 0], [-2, 0, 0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(J[:, 1], [0, 0, 1, 0, 0, 0], atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-2.8, 2.8), min_size=7, max_size=7))
def test_the_panda_is_where_its_published_parameters_put_it(q):
    tree = KinematicTree(read_urdf(arm_urdf()), ARM_JOINTS)
    posture = tree.posture(np.array(q))
    T = np.eye(4)
    for i, (a, d, alpha) in enumerate(PANDA):
        T = T @ dh(a, d, alpha, q[i])
        ours = posture.links[tree.link_index(f'link_{i + 1}')]
        np.testing.assert_allclose(ours, T, atol=1e-9)
    hand = T @ transform(None, [0, 0, 0.107])
    np.testing.assert_allclose(posture.links[tree.link_index('hand')], hand, atol=1e-9)


def test_the_panda_at_zero():
    tree = KinematicTree(read_urdf(arm_urdf()), ARM_JOINTS)
    hand = tree.posture(np.zeros(7)).links[tree.link_index('hand')]
    np.testing.assert_allclose(hand[:3, 3], [0.088, 0, 0.333 + 0.316 + 0.384 - 0.107], atol=1e-12)
    np.testing.assert_allclose(hand[:3, :3], np.diag([1.0, -1.0, -1.0]), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-2.8, 2.8), min_size=8, max_size=8), st.integers(0, 2**31))
def test_jacobians_agree_with_finite_differences(q, seed):
    """Of points on every link, fingers that slide and mimic included."""
    rng = np.random.default_rng(seed)
    tree = KinematicTree(read_urdf(arm_urdf()), [*ARM_JOINTS, 'left'])
    q = np.array([*q[:7], abs(q[7]) / 100])
    links = np.arange(len(tree.link_names))
    local = rng.uniform(-0.2, 0.2, (len(links), 3))

    def points(at):
        T = tree.posture(at).links
        return (T[:, :3, :3] @ local[..., None])[..., 0] + T[:, :3, 3]

    posture, h = tree.posture(q), 1e-6
    J = tree.point_jacobian(posture, links, points(q))
    for j in range(len(q)):
        step = h * np.eye(len(q))[j]
        slope = (points(q + step) - points(q - step)) / (2 * h)
        np.testing.assert_allclose(J[:, :, j], slope, atol=1e-8)
        T0, T1 = (tree.posture(q + s * step).links[tree.link_index('hand')] for s in (-1, 1))
        spin = (T1 - T0)[:3, :3] @ posture.links[tree.link_index('hand')][:3, :3].T / (2 * h)
        omega = np.array([spin[2, 1], spin[0, 2], spin[1, 0]])
        np.testing.assert_allclose(tree.frame_jacobian(posture, 'hand')[3:, j], omega, atol=1e-8)


def test_postures_come_in_batches():
    tree = KinematicTree(read_urdf(hand_urdf()))
    q = np.random.default_rng(1).uniform(-1, 1, (3, 2, 16))
    batch = tree.posture(q)
    assert batch.links.shape == (3, 2, 17, 4, 4)
    np.testing.assert_allclose(batch.links[1, 1], tree.posture(q[1, 1]).links, atol=1e-14)
    np.testing.assert_allclose(batch.axes[2, 0], tree.posture(q[2, 0]).axes, atol=1e-14)


def test_mimic_joints_follow_and_lend_their_column():
    tree = KinematicTree(read_urdf(arm_urdf()), [*ARM_JOINTS, 'left'])
    open_, closed = (tree.posture(np.array([*READY, x])) for x in (0.04, 0.0))
    apart = [
        np.linalg.norm(
            p.links[tree.link_index('left_finger'), :3, 3]
            - p.links[tree.link_index('right_finger'), :3, 3]
        )
        for p in (open_, closed)
    ]
    np.testing.assert_allclose(apart, [0.08, 0.0], atol=1e-12)
    left, right = (tree.frame_jacobian(closed, f'{side}_finger') for side in ('left', 'right'))
    np.testing.assert_allclose(right[:3, 7], -left[:3, 7], atol=1e-12)


def test_a_chain_of_mimics_multiplies():
    text = (
        '<robot name="r"><link name="a"/><link name="b"/><link name="c"/><link name="d"/>'
        + joint('p', 'a', 'b')
        + joint('q', 'b', 'c', more='<mimic joint="p" multiplier="2" offset="0.1"/>')
        + joint('r', 'c', 'd', more='<mimic joint="q" multiplier="-3" offset="0.2"/>')
        + '</robot>'
    )
    tree = KinematicTree(read_urdf(text))
    assert tree.joint_names == ('p',)
    p = 0.3
    R = tree.posture(np.array([p])).links[tree.link_index('d')][:3, :3]
    q = 2 * p + 0.1
    turn = p + q + (-3 * q + 0.2)
    np.testing.assert_allclose(R, rotation_about([0, 0, 1], turn), atol=1e-12)
    np.testing.assert_allclose(tree.frame_jacobian(tree.posture(np.array([p])), 'd')[5], 1 + 2 - 6)


def test_joints_that_are_not_asked_for_rest_inside_their_limits():
    text = TWO_LINKS.replace('lower="-2.9" upper="2.9"', 'lower="0.5" upper="1"')
    tree = KinematicTree(read_urdf(text), ['one'])
    end = tree.posture(np.zeros(1)).links[tree.link_index('c'), :3, 3]
    np.testing.assert_allclose(end, [2, 0, 1.5], atol=1e-12)
    assert tree.moves('c') == ('one',)
    assert tree.moves('a') == ()


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (['joint_8'], "no joint 'joint_8' in the URDF; did you mean"),
        (['flange'], "joint 'flange' is fixed"),
        (['right'], "joint 'right' mimics 'left'; name that one instead"),
    ],
    ids=str,
)
def test_joints_that_cannot_be_moved_are_refused(names, words):
    with pytest.raises(UrdfError, match=words):
        KinematicTree(read_urdf(arm_urdf()), names)


@pytest.mark.parametrize('q', [np.zeros(3), np.full(7, np.nan)], ids=['three', 'nan'])
def test_a_posture_of_another_robot_is_refused(q):
    with pytest.raises(UrdfError, match='joint'):
        KinematicTree(read_urdf(arm_urdf()), ARM_JOINTS).posture(q)


MISTAKES = {
    'no XML': ('<robot', 'broken XML'),
    'a DOCTYPE': ('<!DOCTYPE r [<!ENTITY a "b">]><robot name="r"><link name="&a;"/></robot>',
                  'DOCTYPE has no place'),
    'another document': ('<sdf/>', 'outermost element is <sdf>'),
    'xacro': ('<robot xmlns:xacro="http://www.ros.org/wiki/xacro"><xacro:arm/></robot>',
              'expand them first'),
    'no link': ('<robot/>', '0 links hang on no other'),
    'two roots': ('<robot><link name="a"/><link name="b"/></robot>', r'2 links .*\(a, b\)'),
    'twice': ('<robot><link name="a"/><link name="a"/></robot>', "link 'a' stands there twice"),
    'no name': ('<robot><link/></robot>', 'a <link> has no name'),
    'unknown link': ('<robot><link name="a"/>' + joint('j', 'a', 'b') + '</robot>',
                     "joint 'j' names link 'b', which is not there"),
    'two parents': ('<robot><link name="a"/><link name="b"/>' + joint('j', 'a', 'b')
                    + joint('k', 'a', 'b') + '</robot>', "'b' is the child of two joints"),
    'a loop': ('<robot><link name="r"/><link name="a"/><link name="b"/>' + joint('j', 'a', 'b')
               + joint('k', 'b', 'a') + '</robot>', 'hang in a loop'),
    'floating': (TWO_LINKS.replace('revolute', 'floating'), "'floating' is not supported"),
    'zero axis': (TWO_LINKS.replace('0 0 2', '0 0 0'), "joint 'two': its axis is zero"),
    'axis of two': (TWO_LINKS.replace('0 0 2', '0 2'), "xyz='0 2'>: 3 numbers are needed"),
    'limits': (TWO_LINKS.replace('lower="-2.9"', 'lower="3"'), 'limits are reversed'),
    'not finite': (TWO_LINKS.replace('xyz="2 0 0"', 'xyz="nan 0 0"'), '3 numbers are needed'),
    'mimic of nobody': (TWO_LINKS.replace('</joint>', '<mimic joint="x"/></joint>', 1),
                        "'one' mimics 'x', which is not there"),
    'a shape unknown': (f'<robot><link name="a">{visual("<cone/>")}</link></robot>',
                        '<cone> is unknown'),
    'a flat box': ('<robot><link name="a">' + visual('<box size="1 0 1"/>') + '</link></robot>',
                   'box size: 1 x 0 x 1 m'),
    'no geometry': ('<robot><link name="a"><visual/></link></robot>', 'has no geometry'),
}  # fmt: skip


@pytest.mark.parametrize('name', MISTAKES)
def test_each_mistake_in_a_urdf_is_named(name):
    text, words = MISTAKES[name]
    with pytest.raises(UrdfError, match=words) as caught:
        read_urdf(text)
    assert '\n' not in str(caught.value)


def test_joints_that_mimic_each_other_are_refused():
    text = TWO_LINKS.replace('</joint>', '<mimic joint="two"/></joint>', 1)
    at = text.rindex('</joint>')
    text = text[:at] + '<mimic joint="one"/>' + text[at:]
    with pytest.raises(UrdfError, match='joints one, two mimic each other'):
        KinematicTree(read_urdf(text))


def test_a_missing_urdf_is_named(tmp_path):
    with pytest.raises(UrdfError, match=r'none\.urdf cannot be read'):
        read_urdf(tmp_path / 'none.urdf')


def triangles():
    return np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 1]]], float)


def binary_stl(path, corners=None):
    corners = triangles() if corners is None else corners
    data = b'solid but binary'.ljust(80) + len(corners).to_bytes(4, 'little')
    for t in corners:
        data += np.zeros(3, '<f4').tobytes() + t.astype('<f4').tobytes() + b'\0\0'
    path.write_bytes(data)
    return path


def ascii_stl(path):
    lines = ['solid thing']
    for t in triangles():
        lines += ['facet normal 0 0 0', 'outer loop']
        lines += [f'vertex {x:g} {y:e} {z}' for x, y, z in t]
        lines += ['endloop', 'endfacet']
    path.write_text('\n'.join([*lines, 'endsolid thing']))
    return path


@pytest.mark.parametrize('write', [binary_stl, ascii_stl])
def test_meshes_binary_and_ascii(tmp_path, write):
    mesh = read_stl(write(tmp_path / 'm.stl'), (2.0, 1.0, 0.5))
    np.testing.assert_allclose(mesh.triangles, triangles() * [2, 1, 0.5])


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (b'', 'is no STL'),
        (b'x' * 200, 'is no STL'),
        (b'solid s\nendsolid', '0 vertices make no triangles'),
        (b'solid s\nvertex 1 2 a\nvertex 1 2 3\nvertex 1 2 3', 'not three numbers'),
    ],
    ids=['empty', 'noise', 'no facet', 'no number'],
)
def test_a_damaged_mesh_is_named(tmp_path, data, words):
    (tmp_path / 'm.stl').write_bytes(data)
    with pytest.raises(ShapeError, match=words):
        read_stl(tmp_path / 'm.stl')


def mesh_robot(uri, collision=''):
    shape = f'<mesh filename="{uri}" scale="1 1 1"/>'
    return f'<robot name="m"><link name="a">{visual(shape)}{collision}</link></robot>'


def test_meshes_are_found_beside_the_urdf_and_by_package(tmp_path, monkeypatch):
    description = tmp_path / 'my_arm'
    (description / 'meshes').mkdir(parents=True)
    binary_stl(description / 'meshes' / 'a b.stl')
    (description / 'urdf').mkdir()
    for uri in ('../meshes/a b.stl', 'package://my_arm/meshes/a%20b.stl'):
        path = description / 'urdf' / 'arm.urdf'
        path.write_text(mesh_robot(uri))
        ((_, mesh),) = read_urdf(path).parts('a')
        assert len(mesh.triangles) == 2
    # From elsewhere only the environment can tell.
    text = mesh_robot('package://my_arm/meshes/a%20b.stl')
    with pytest.raises(UrdfError, match=r"link 'a': .*add the folder above my_arm to ROS_PACKAGE"):
        read_urdf(text).parts('a')
    monkeypatch.setenv('ROS_PACKAGE_PATH', str(tmp_path))
    assert read_urdf(text).parts('a')
    with pytest.raises(UrdfError, match='is relative, but the URDF is no file'):
        read_urdf(mesh_robot('meshes/a.stl')).parts('a')
    with pytest.raises(UrdfError, match='is not a file; copy it'):
        read_urdf(mesh_robot('https://somewhere/a.stl')).parts('a')


def test_collision_shapes_stand_in_for_meshes_of_other_formats():
    collision = visual('<sphere radius="0.3"/>').replace('visual', 'collision')
    ((_, shape),) = read_urdf(mesh_robot('a.dae', collision)).parts('a')
    assert shape == Sphere(0.3)
    with pytest.raises(UrdfError, match=r"link 'a': 'a\.dae' is no STL"):
        read_urdf(mesh_robot('a.dae')).parts('a')


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_distances_to_primitives_agree_with_their_meshes(point):
    """A box and its twelve triangles; a sphere; a cylinder against sampled points."""
    p = np.array([point])
    box = Box((1.0, 0.6, 0.4))
    assert np.isclose(abs(box.distance(p)[0]), box_mesh(box).distance(p)[0], atol=1e-9)
    assert np.isclose(Sphere(0.5).distance(p)[0], np.linalg.norm(p) - 0.5)
    cylinder = Cylinder(0.4, 1.0)
    t, z = np.meshgrid(np.linspace(0, 2 * np.pi, 400), np.linspace(-0.5, 0.5, 201))
    r = np.linspace(0, 0.4, 100)[:, None, None]
    side = np.stack([0.4 * np.cos(t), 0.4 * np.sin(t), z], -1).reshape(-1, 3)
    a, h = t[None, :1], np.array([-0.5, 0.5])[:, None, None, None]
    cap = np.broadcast_arrays(r * np.cos(a), r * np.sin(a), h)
    cap = np.stack(cap, -1).reshape(-1, 3)
    nearest = np.linalg.norm(np.concatenate([side, cap]) - p, axis=-1).min()
    assert np.isclose(abs(cylinder.distance(p)[0]), nearest, atol=6e-3)


def box_mesh(box):
    half = np.asarray(box.size) / 2
    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1, 1):
            corners = np.zeros((4, 3))
            corners[:, axis] = sign
            corners[:, u], corners[:, v] = (-1, 1, 1, -1), (-1, -1, 1, 1)
            faces += [corners[[0, 1, 2]] * half, corners[[0, 2, 3]] * half]
    return Mesh(np.array(faces))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_rotations_are_rotations(rpy):
    R = rotation_from_rpy(rpy)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    by_axes = (
        rotation_about([0, 0, 1], rpy[2]) @ rotation_about([0, 1, 0], rpy[1])
        @ rotation_about([1, 0, 0], rpy[0])
    )
    np.testing.assert_allclose(R, by_axes, atol=1e-12)
    T = transform(R, rpy)
    np.testing.assert_allclose(inverse(T) @ T, np.eye(4), atol=1e-12)


def test_quaternions_by_hand():
    s = np.sqrt(0.5)
    np.testing.assert_allclose(
        rotation_from_quaternion([0, 0, 2 * s, 2 * s]), rotation_about([0, 0, 1], np.pi / 2),
        atol=1e-12,
    )
    with pytest.raises(ValueError, match='is no rotation'):
        rotation_from_quaternion([0, 0, 0, 0])
