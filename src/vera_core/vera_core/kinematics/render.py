"""Which link each pixel shows, and how far away: rays for primitives, a depth buffer for meshes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vera_core.kinematics.camera import NEAR, PINHOLE, Camera
from vera_core.kinematics.shapes import Box, Cylinder, Mesh, Shape, Sphere
from vera_core.kinematics.transforms import Float, apply, inverse
from vera_core.kinematics.tree import KinematicTree, Posture

NOTHING = -1
# Pairs of triangle and pixel that are tested at a time, to bound the memory.
_PAIRS = 2_000_000
# How far outside of a triangle its edges still count [share of it]: no cracks between neighbours.
_SEAM = 1e-9


@dataclass(frozen=True, eq=False)
class Surface:
    """What a camera sees of a robot.

    Attributes:
        link: int64 [H, W], place of the link in the tree's `link_names`; -1 where there is none.
        depth: float64 [H, W] m along the optical axis; infinite where there is no link.
    """

    link: NDArray[np.int64]
    depth: Float

    def points(self, camera: Camera) -> Float:
        """Points of the optical frame, float64 [P, 3], of the pixels that show a link."""
        v, u = np.nonzero(self.link >= 0)
        origin, direction = camera.rays(u.astype(np.float64), v.astype(np.float64))
        return origin + self.depth[v, u][:, None] * direction


class Painter:
    """Draws link numbers and depth of a robot.

    Args:
        tree: of the robot.

    Raises:
        UrdfError: a mesh is missing or damaged.
    """

    def __init__(self, tree: KinematicTree) -> None:
        self._tree = tree
        self._parts = [
            (i, origin, shape)
            for i, name in enumerate(tree.link_names)
            for origin, shape in tree.urdf.parts(name)
        ]

    @property
    def visible_links(self) -> tuple[str, ...]:
        """Links that have a shape."""
        return tuple(dict.fromkeys(self._tree.link_names[i] for i, _, _ in self._parts))

    def paint(self, posture: Posture, camera: Camera) -> Surface:
        """What `camera` sees of one posture, at its pixel centres."""
        link = np.full((camera.height, camera.width), NOTHING, np.int64)
        depth = np.full((camera.height, camera.width), np.inf)
        to_camera = inverse(optical_frame(self._tree, posture, camera))
        for i, origin, shape in self._parts:
            pose = to_camera @ posture.links[i] @ origin
            if isinstance(shape, Mesh):
                area, z = _rasterise(apply(pose, shape.triangles), camera)
            else:
                area = _extent(pose[:3, 3], shape.radius_around, camera)
                z = _cast(shape, pose, camera, area)
            nearer = z < depth[area]
            depth[area][nearer] = z[nearer]
            link[area][nearer] = i
        return Surface(link, depth)

    def assign(
        self, posture: Posture, camera: Camera, depth: Float, tolerance: float = 0.02
    ) -> Surface:
        """A measured depth image, each pixel given to the nearest link.

        Args:
            posture: when it was taken.
            camera: that took it.
            depth: float64 [H, W] m along the optical axis; 0, NaN or infinite where unknown.
            tolerance: [m] from the nearest surface beyond which a pixel shows no link.
        """
        link = np.full(depth.shape, NOTHING, np.int64)
        known = np.isfinite(depth) & (depth > 0)
        v, u = np.nonzero(known)
        origin, direction = camera.rays(u.astype(np.float64), v.astype(np.float64))
        points = origin + depth[v, u][:, None] * direction
        to_camera = inverse(optical_frame(self._tree, posture, camera))
        best = np.full(len(points), tolerance)
        owner = np.full(len(points), NOTHING, np.int64)
        for i, part, shape in self._parts:
            pose = to_camera @ posture.links[i] @ part
            near = np.linalg.norm(points - pose[:3, 3], axis=-1) < shape.radius_around + best
            if not near.any():
                continue
            gap = np.abs(shape.distance(apply(inverse(pose), points[near])))
            mine = np.flatnonzero(near)[gap < best[near]]
            owner[mine] = i
            best[mine] = gap[gap < best[near]]
        link[v, u] = owner
        return Surface(link, np.where(link >= 0, depth, np.inf))


def optical_frame(tree: KinematicTree, posture: Posture, camera: Camera) -> Float:
    """Pose of a camera's optical frame in the root frame, T float64 [..., 4, 4]."""
    T: Float = posture.links[..., tree.link_index(camera.link), :, :] @ camera.mount
    return T


Area = tuple[slice, slice]


def _extent(centre: Float, radius: float, camera: Camera) -> Area:
    """Pixels that a sphere can cover; all of them where it reaches up to the camera."""
    f = np.asarray(camera.focal)
    if camera.model == PINHOLE:
        if centre[2] + radius <= NEAR:
            return slice(0, 0), slice(0, 0)
        near = centre[2] - radius
        if near <= NEAR:
            return slice(0, camera.height), slice(0, camera.width)
        # The box around the sphere projects inside the shadows of its near and far faces.
        corners = np.stack([(centre[:2] + s * radius) / z for s in (-1, 1)
                            for z in (near, centre[2] + radius)])
    else:
        corners = np.stack([centre[:2] - radius, centre[:2] + radius])
    pixels = corners * f + np.asarray(camera.centre)
    return _box(pixels.min(0), pixels.max(0), camera)


def _box(low: Float, high: Float, camera: Camera) -> Area:
    size = (camera.width, camera.height)
    a = np.clip(np.floor(low), 0, size).astype(int)
    b = np.clip(np.ceil(high) + 1, 0, size).astype(int)
    return slice(a[1], max(a[1], b[1])), slice(a[0], max(a[0], b[0]))


def _cast(shape: Shape, pose: Float, camera: Camera, area: Area) -> Float:
    """Depth of a primitive at the pixels of an area, infinite where the ray misses it."""
    v, u = np.mgrid[area].astype(np.float64)
    if not u.size:
        return np.zeros(u.shape)
    origin, direction = camera.rays(u, v)
    R, t = pose[:3, :3], pose[:3, 3]
    # Row vectors times R are R^T times columns: into the frame of the shape.
    o, d = (origin - t) @ R, direction @ R
    with np.errstate(divide='ignore', invalid='ignore'):
        if isinstance(shape, Box):
            near, far = _slab(o, d, np.asarray(shape.size) / 2)
        elif isinstance(shape, Cylinder):
            side = _quadric(o[..., :2], d[..., :2], shape.radius)
            caps = _slab(o[..., 2:], d[..., 2:], np.array([shape.length / 2]))
            near, far = np.maximum(side[0], caps[0]), np.minimum(side[1], caps[1])
        elif isinstance(shape, Sphere):
            near, far = _quadric(o, d, shape.radius)
        else:
            raise TypeError(f'no rays for {type(shape).__name__}')
    hit = (near <= far) & (near > NEAR)
    return np.where(hit, near, np.inf)


def _slab(o: Float, d: Float, half: Float) -> tuple[Float, Float]:
    """Where rays enter and leave |x_i| <= half_i for all i."""
    still = np.abs(d) < 1e-15
    one, two = (-half - o) / d, (half - o) / d
    inside = np.abs(o) <= half
    low = np.where(still, np.where(inside, -np.inf, np.inf), np.minimum(one, two))
    high = np.where(still, np.where(inside, np.inf, -np.inf), np.maximum(one, two))
    return low.max(-1), high.min(-1)


def _quadric(o: Float, d: Float, radius: float) -> tuple[Float, Float]:
    """Where rays enter and leave |x| <= radius."""
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - radius**2
    root = np.sqrt(b * b - a * c)
    parallel = a < 1e-15
    inside = c <= 0
    near = np.where(parallel, np.where(inside, -np.inf, np.inf), (-b - root) / a)
    far = np.where(parallel, np.where(inside, np.inf, -np.inf), (-b + root) / a)
    # A miss is NaN; make it an empty interval, so that every comparison with it is False.
    return np.where(np.isnan(near), np.inf, near), np.where(np.isnan(far), -np.inf, far)


def _rasterise(triangles: Float, camera: Camera) -> tuple[Area, Float]:
    """Depth of triangles [F, 3, 3], optical frame, and the area of pixels it is given for.

    A triangle that reaches behind a pinhole is left out: keep meshes away from the camera.
    """
    perspective = camera.model == PINHOLE
    if perspective:
        triangles = triangles[(triangles[..., 2] > NEAR).all(-1)]
    pixels = camera.project(triangles) if len(triangles) else np.zeros((0, 3, 2))
    low, high = np.ceil(pixels.min(1)), np.floor(pixels.max(1))
    low = np.clip(low, 0, (camera.width, camera.height)).astype(int)
    high = np.clip(high, -1, (camera.width - 1, camera.height - 1)).astype(int)
    size = np.maximum(high - low + 1, 0)
    some = size.prod(1) > 0
    triangles, pixels, low, high, size = (x[some] for x in (triangles, pixels, low, high, size))
    if not len(pixels):
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0))
    left, top = low.min(0)
    right, bottom = high.max(0) + 1
    area = slice(int(top), int(bottom)), slice(int(left), int(right))
    depth = np.full((bottom - top, right - left), np.inf)
    counts = size.prod(1)
    start = 0
    for end in _chunks(counts):
        pick = np.arange(start, end)
        start = end
        which = np.repeat(pick, counts[pick])
        first = np.repeat(np.cumsum(counts[pick]) - counts[pick], counts[pick])
        nth = np.arange(len(which)) - first
        x = low[which, 0] + nth % size[which, 0]
        y = low[which, 1] + nth // size[which, 0]
        a, b, c = np.moveaxis(pixels[which], 1, 0)
        p = np.stack([x, y], -1)
        area2 = _cross(b - a, c - a)
        good = area2 != 0
        area2 = np.where(good, area2, 1.0)
        wb, wc = _cross(p - a, c - a) / area2, _cross(b - a, p - a) / area2
        wa = 1 - wb - wc
        good &= (wa >= -_SEAM) & (wb >= -_SEAM) & (wc >= -_SEAM)
        za, zb, zc = triangles[which, :, 2].T
        if perspective:
            z = 1 / (wa / za + wb / zb + wc / zc)
        else:
            z = wa * za + wb * zb + wc * zc
        np.minimum.at(depth, (y[good] - top, x[good] - left), z[good])
    return area, depth


def _chunks(counts: NDArray[np.integer]) -> list[int]:
    """Ends of runs whose counts add up to about _PAIRS at most."""
    group = np.cumsum(counts) // _PAIRS
    return [*(np.flatnonzero(np.diff(group)) + 1).tolist(), len(counts)]


def _cross(a: Float, b: Float) -> Float:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


__all__ = ['NOTHING', 'Painter', 'Surface', 'optical_frame']
