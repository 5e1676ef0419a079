"""Cameras and the depth buffer: worked cases, rays against triangles, measured depth."""

import numpy as np
import pytest
from jidm_robots import ARM_JOINTS, READY, arm_urdf, hand_urdf, looking_at
from test_jidm_kinematics import binary_stl, box_mesh

from vera_core.kinematics import render
from vera_core.kinematics.camera import MODELS, Camera
from vera_core.kinematics.render import Painter
from vera_core.kinematics.shapes import Box
from vera_core.kinematics.transforms import rotation_from_rpy, transform
from vera_core.kinematics.tree import KinematicTree
from vera_core.kinematics.urdf import read_urdf


def camera(model='pinhole', focal=60.0, size=(64, 48), mount=None, link='a'):
    if model == 'orthographic':
        focal /= 2
    centre = ((size[0] - 1) / 2, (size[1] - 1) / 2)
    mount = np.eye(4) if mount is None else mount
    return Camera(model, (focal, focal), centre, *size, mount, link)


def scene(shape, xyz='0 0 2', rpy='0 0 0'):
    urdf = read_urdf(
        f'<robot name="s"><link name="a"/><joint name="j" type="fixed"><parent link="a"/>'
        f'<child link="b"/><origin xyz="{xyz}" rpy="{rpy}"/></joint><link name="b"><visual>'
        f'<geometry>{shape}</geometry></visual></link></robot>'
    )
    tree = KinematicTree(urdf)
    return tree, tree.posture(np.zeros(0))


def test_a_sphere_is_a_disc_with_its_front_at_the_right_depth():
    tree, posture = scene('<sphere radius="0.5"/>')
    view = camera(size=(65, 65))
    surface = Painter(tree).paint(posture, view)
    assert surface.depth[32, 32] == pytest.approx(1.5)
    # Its outline lies where rays touch it: sin of the half angle is 0.5 / 2.
    radius = 60 * np.tan(np.arcsin(0.25))
    v, u = np.mgrid[:65, :65] - 32
    inside = np.hypot(u, v) < radius
    np.testing.assert_array_equal(surface.link >= 0, inside)
    assert (surface.link[inside] == tree.link_index('b')).all()
    on_it = np.linalg.norm(surface.points(view) - [0, 0, 2], axis=-1)
    np.testing.assert_allclose(on_it, 0.5, atol=1e-9)


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('shape', ['<box size="1 0.7 0.5"/>',
                                   '<cylinder radius="0.4" length="0.9"/>',
                                   '<sphere radius="0.5"/>'])  # fmt: skip
def test_what_is_drawn_lies_on_the_surface_and_hides_nothing_nearer(model, shape):
    tree, posture = scene(shape, '0.2 -0.1 2', '0.5 0.8 0.3')
    view = camera(model)
    surface = Painter(tree).paint(posture, view)
    assert 100 < (surface.link >= 0).sum() < 3000
    ((_, solid),) = tree.urdf.parts('b')
    T = posture.links[tree.link_index('b')]

    def gap(points):
        return solid.distance((points - T[:3, 3]) @ T[:3, :3])

    np.testing.assert_allclose(gap(surface.points(view)), 0, atol=1e-9)
    # Walking along every ray, nothing solid comes before the drawn depth, and a hit means a pixel.
    v, u = np.mgrid[:48, :64].astype(float)
    origin, direction = view.rays(u, v)
    touched = np.zeros(u.shape, bool)
    for z in np.linspace(1.0, 3.0, 201):
        inside = gap((origin + z * direction).reshape(-1, 3)).reshape(u.shape) < -1e-9
        assert (surface.depth[inside] < z).all()
        touched |= inside
    assert (surface.link[touched] >= 0).all()


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('pairs', [10, 2_000_000], ids=['in pieces', 'at once'])
def test_a_mesh_of_a_box_looks_like_the_box(tmp_path, monkeypatch, model, pairs):
    monkeypatch.setattr(render, '_PAIRS', pairs)
    file = binary_stl(tmp_path / 'box.stl', box_mesh(Box((1.0, 0.75, 0.5))).triangles)
    view = camera(model)
    drawn = []
    for shape in ('<box size="1 0.75 0.5"/>', f'<mesh filename="{file}"/>'):
        tree, posture = scene(shape, '0.2 -0.1 2', '0.5 0.8 0.3')
        drawn.append(Painter(tree).paint(posture, view))
    box, mesh = drawn
    np.testing.assert_array_equal(mesh.link, box.link)
    seen = box.link >= 0
    np.testing.assert_allclose(mesh.depth[seen], box.depth[seen], rtol=1e-6)


def test_the_nearer_link_hides_the_other_wherever_it_stands_in_the_file():
    tree = KinematicTree(read_urdf(arm_urdf()), ARM_JOINTS)
    posture = tree.posture(READY)
    eye = np.array([1.5, 0.7, 0.9])
    view = camera(focal=90.0, mount=transform(looking_at(eye, [0.3, 0, 0.4]), eye), link='base')
    painter = Painter(tree)
    surface = painter.paint(posture, view)
    assert len(np.unique(surface.link)) >= 8
    painter._parts.reverse()
    again = painter.paint(posture, view)
    np.testing.assert_array_equal(again.link, surface.link)
    np.testing.assert_array_equal(again.depth, surface.depth)


def test_nothing_behind_or_beside_the_camera_is_drawn(tmp_path):
    file = binary_stl(tmp_path / 'box.stl', box_mesh(Box((1.0, 1.0, 1.0))).triangles)
    for shape in ('<sphere radius="0.5"/>', f'<mesh filename="{file}"/>'):
        for place in ('0 0 -2', '9 0 2', '0 -9 2'):
            tree, posture = scene(shape, place)
            assert (Painter(tree).paint(posture, camera()).link == -1).all()


def test_a_part_of_a_picture_scaled_is_the_picture_of_the_cropped_camera():
    """Area averaging maps edges to edges; every second centre must agree with a direct drawing."""
    tree, posture = scene('<box size="1 0.7 0.5"/>', '0.1 0.1 2', '0.5 0.8 0.3')
    whole = camera(size=(192, 144), focal=180.0)
    part = whole.cropped(30, 15, 120, 90, 40, 30)
    big = Painter(tree).paint(posture, whole).link[15:105, 30:150]
    small = Painter(tree).paint(posture, part).link
    # With a factor of three, the middle pixel of each block is the centre of the small one.
    np.testing.assert_array_equal(small, big[1::3, 1::3])
    points = np.random.default_rng(0).uniform([-0.5, -0.5, 1], [0.5, 0.5, 3], (20, 3))
    expected = (whole.project(points) + 0.5 - [30, 15]) / 3 - 0.5
    np.testing.assert_allclose(part.project(points), expected, atol=1e-9)


@pytest.mark.parametrize('model', MODELS)
def test_projection_and_rays_are_inverse_and_its_slope_is_right(model):
    view = camera(model)
    rng = np.random.default_rng(0)
    u, v, z = rng.uniform(0, 60, 9), rng.uniform(0, 40, 9), rng.uniform(0.5, 3, 9)
    origin, direction = view.rays(u, v)
    points = origin + z[:, None] * direction
    np.testing.assert_allclose(view.project(points), np.stack([u, v], -1), atol=1e-9)
    J, h = view.project_jacobian(points), 1e-6
    for axis in range(3):
        step = h * np.eye(3)[axis]
        slope = (view.project(points + step) - view.project(points - step)) / (2 * h)
        np.testing.assert_allclose(J[..., axis], slope, rtol=1e-6, atol=1e-6)


def test_a_measured_depth_image_goes_to_the_nearest_links():
    tree = KinematicTree(read_urdf(hand_urdf()))
    posture = tree.posture(np.tile([0.1, 0.4, 0.3, 0.2], 4))
    mount = transform(rotation_from_rpy([np.pi, 0, -np.pi / 2]), [0.1, 0.0, 0.6])
    view = camera(focal=150.0, mount=mount, link='palm')
    painter = Painter(tree)
    surface = painter.paint(posture, view)
    seen = surface.link >= 0
    assert seen.sum() > 300
    rng = np.random.default_rng(0)
    depth = np.where(seen, surface.depth, 0.75)  # a table behind the hand
    depth[seen] += rng.normal(0, 5e-4, seen.sum())
    depth[0, :5], depth[1, :5] = np.nan, 0
    found = painter.assign(posture, view, depth, tolerance=0.01)
    same = found.link[seen] == surface.link[seen]
    # Neighbours overlap at the joints; there half a millimetre of noise decides.
    assert same.mean() > 0.93
    assert (found.link[~seen] == -1).mean() > 0.99
    assert (found.link[:2, :5] == -1).all()
    np.testing.assert_array_equal(found.depth[found.link >= 0], depth[found.link >= 0])
