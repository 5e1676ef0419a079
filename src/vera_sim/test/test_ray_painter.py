"""The painter: what it draws is where geometry says, in colour, depth and shadow."""

from __future__ import annotations

import numpy as np
import pytest

from vera_core.kinematics.camera import Camera
from vera_core.kinematics.shapes import Box, Cylinder, Mesh, Sphere
from vera_core.kinematics.transforms import rotation_from_rpy, transform
from vera_sim.ray_painter import FLOOR, TABLE, Look, RayPainter, Solid

SIZE = 48
LOOK = Look()


def _above(height: float = 1.0) -> tuple[Camera, np.ndarray]:
    """A camera that looks straight down from above the origin; picture's right is x."""
    R = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    camera = Camera('pinhole', (60.0, 60.0), (23.5, 23.5), SIZE, SIZE, np.eye(4), '')
    return camera, transform(R, [0, 0, height])


def _aslant() -> tuple[Camera, np.ndarray]:
    R = rotation_from_rpy([-2.1, 0.1, 0.3])
    camera = Camera('pinhole', (60.0, 62.0), (23.0, 24.0), SIZE, SIZE, np.eye(4), '')
    return camera, transform(R, -0.9 * R[:, 2] + [0.05, 0.0, 0.15])


SOLIDS = (
    Solid(Box((0.2, 0.12, 0.1)), 0, transform(rotation_from_rpy([0.3, 0.2, 0.5]), [0.1, 0, 0.1])),
    Solid(Cylinder(0.06, 0.2), 0, transform(rotation_from_rpy([1.0, 0.4, 0]), [-0.15, 0.1, 0.15])),
    Solid(Sphere(0.08), 1, transform(None, [0.0, -0.2, 0.1])),
)
BODIES = np.stack([np.eye(4), transform(None, [0.05, 0.0, 0.02])])


def _distances(point: np.ndarray) -> np.ndarray:
    """Of a point of the world from the surface of each solid."""
    found = []
    for solid in SOLIDS:
        T = BODIES[solid.body] @ solid.origin
        found.append(solid.shape.distance(((point - T[:3, 3]) @ T[:3, :3])[None])[0])
    return np.array(found)


@pytest.mark.parametrize('view', [_above(), _aslant()])
def test_every_pixel_shows_the_first_surface_on_its_ray(view):
    camera, pose = view
    ((solid, depth),) = RayPainter(SOLIDS).measure(BODIES, [view])
    assert {0, 1, 2} <= set(np.unique(solid))
    for v, u in np.ndindex(SIZE, SIZE):
        ray = pose[:3, :3] @ camera.rays(np.float64(u), np.float64(v))[1]
        if solid[v, u] >= 0:
            at = _distances(pose[:3, 3] + depth[v, u] * ray)
            assert abs(at[solid[v, u]]) < 2e-5
            # Nothing of another solid is before it.
            before = _distances(pose[:3, 3] + 0.98 * depth[v, u] * ray)
            assert before.min() > -1e-3
        elif solid[v, u] == TABLE:
            assert abs((pose[:3, 3] + depth[v, u] * ray)[2]) < 1e-5
        else:
            assert solid[v, u] == FLOOR
            assert np.isinf(depth[v, u])


def test_a_solid_that_reaches_behind_the_camera_is_seen_where_it_is_before_it():
    camera, pose = _above()
    # A long bar through the camera's plane, to the right of its axis.
    bar = Solid(Box((0.04, 0.04, 3.0)), 0, transform(None, [0.2, 0, 0.9]))
    ((solid, _),) = RayPainter([bar]).measure(np.eye(4)[None], [(camera, pose)])
    assert (solid[:, 24:] == 0).any()
    assert not (solid[:, :24] == 0).any()


def test_colours_light_and_smooth_edges():
    view = _above()
    top = Solid(Box((0.3104, 0.3, 0.02)), 0, transform(None, [0, 0, 0.01]), texture=0.0)
    red = np.array([[200.0, 20.0, 20.0]])
    lit = RayPainter([top]).paint(np.eye(4)[None], [view], red, LOOK)[0]
    dim = RayPainter([top]).paint(np.eye(4)[None], [view], red, Look(brightness=0.5))[0]
    middle = lit[20:28, 20:28]
    assert (middle[..., 0] > 150).all()
    assert (middle[..., 1] < 40).all()
    assert np.allclose(dim[24, 24].astype(float), lit[24, 24] / 2, atol=1.5)
    # Its edge runs through column 14, at 14.0: half of that pixel is table.
    assert lit[24, 13, 1] > 90
    assert 40 < lit[24, 14, 1] < 90


def test_the_pattern_belongs_to_the_surface():
    """A cube that moves by whole pixels takes its texture along."""
    camera, pose = _above()
    depth = 1.0 - 0.1
    step = depth / 60.0  # of one pixel at the height of the cube's top
    cube = Solid(Box((0.2, 0.2, 0.1)), 0, transform(None, [0, 0, 0.05]), texture=0.3, grain=60.0)
    paint = RayPainter([cube], samples=1)
    white = np.array([[220.0, 220.0, 220.0]])
    one = paint.paint(np.eye(4)[None], [(camera, pose)], white, LOOK)[0]
    moved = transform(None, [4 * step, 0, 0])[None]
    two = paint.paint(moved, [(camera, pose)], white, LOOK)[0]
    inner = one[19:29, 18:28].astype(int)
    assert inner.std() > 3
    assert np.abs(two[19:29, 22:32].astype(int) - inner).max() <= 2


def test_a_shadow_falls_on_the_table_away_from_the_light():
    view = _above()
    look = Look(light=(-0.6, 0.0, 0.8))
    ball = Solid(Sphere(0.03), 0, transform(None, [0, 0, 0.2]), casts=True)
    bare = Solid(Sphere(0.03), 0, transform(None, [0, 0, 0.2]))
    white = np.array([[200.0, 200.0, 200.0]])
    images = [
        RayPainter([s]).paint(np.eye(4)[None], [view], white, look)[0].astype(int)
        for s in (ball, bare)
    ]
    darker = (images[1] - images[0]).sum(-1) > 30
    assert darker.any()
    # The light comes from the left, from -x: its shadow lies 0.15 m to the right.
    u = np.nonzero(darker)[1].mean()
    assert u == pytest.approx(23.5 + 60 * 0.15, abs=2)


def test_what_is_not_shown_is_not_there():
    view = _above()
    shown = np.array([True, False, True])
    paint = RayPainter(SOLIDS)
    ((solid, _),) = paint.measure(BODIES, [view], shown)
    assert 1 not in solid
    assert 0 in solid


def test_mistakes_are_named():
    mesh = Mesh(np.zeros((1, 3, 3)))
    with pytest.raises(ValueError, match='no rays for Mesh'):
        Solid(mesh, 0, np.eye(4))
    with pytest.raises(ValueError, match='rays along a side'):
        RayPainter(SOLIDS, samples=0)
    small = Camera('pinhole', (60.0, 60.0), (11.5, 11.5), 24, 24, np.eye(4), '')
    with pytest.raises(ValueError, match='of one size'):
        RayPainter(SOLIDS).measure(BODIES, [_above(), (small, np.eye(4))])
