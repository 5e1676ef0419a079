"""Pictures of boxes, cylinders and spheres over a table, by rays, on the CPU alone.

Each shape is tested against the pixels of its bounding box in each view, all shapes of a kind at
once, so a picture is a few dozen numpy calls whatever is in it. The surface's own coordinates carry
a faint texture: optical flow needs something to hold on to. Depth, and what each pixel shows, come
with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.kinematics.camera import PINHOLE, Camera
from vera_core.kinematics.shapes import Box, Cylinder, Shape, Sphere
from vera_core.kinematics.transforms import Float, inverse

Single = NDArray[np.float32]
Image = NDArray[np.uint8]

NEAR = 0.01  # nothing nearer to the camera is seen [m]
TABLE, FLOOR = -1, -2  # what a pixel shows that shows no solid
AMBIENT = 0.5
FLOOR_HEIGHT = -0.74  # m, the table's top is at 0
_TEXELS = 400  # per metre of the table's texture
_SIGNS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
# Corners of a box that an edge joins: they differ in one sign.
_EDGES = np.array(
    [(i, j) for i in range(8) for j in range(i) if np.abs(_SIGNS[i] - _SIGNS[j]).sum() == 2]
).T
_SHADOW = 0.32
_SHADOW_BITS = 4


@dataclass(frozen=True, eq=False)
class Solid:
    """A shape that belongs to a body.

    Attributes:
        shape: box, cylinder or sphere.
        body: index of the body's frame.
        origin: T float64 [4, 4], of the shape in the body's frame.
        texture: strength of the pattern, 0..1 of the colour.
        grain: its spatial frequency [rad/m].
        casts: whether its shadow on the table is drawn.
    """

    shape: Shape
    body: int
    origin: Float
    texture: float = 0.1
    grain: float = 90.0
    casts: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.shape, (Box, Cylinder, Sphere)):
            raise ValueError(f'no rays for {type(self.shape).__name__}; use box, cylinder, sphere')

    @property
    def half(self) -> Float:
        """Half sides of the box that holds it, float64 [3] m."""
        if isinstance(self.shape, Box):
            return np.asarray(self.shape.size) / 2
        if isinstance(self.shape, Cylinder):
            return np.array([self.shape.radius, self.shape.radius, self.shape.length / 2])
        assert isinstance(self.shape, Sphere)
        return np.full(3, self.shape.radius)


@dataclass(frozen=True)
class Look:
    """How a scene is lit and painted.

    Attributes:
        light: unit vector towards the light, world frame.
        brightness: factor on everything.
        tint: of the light, RGB around 1.
        wood: RGB 0..255 of the table.
        floor: RGB 0..255.
        wall: RGB 0..255, above the horizon.
        wood_seed: which plank.
    """

    light: tuple[float, float, float] = (0.25, 0.3, 0.92)
    brightness: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    wood: tuple[float, float, float] = (186, 146, 102)
    floor: tuple[float, float, float] = (96, 100, 106)
    wall: tuple[float, float, float] = (172, 178, 184)
    wood_seed: int = 0


class RayPainter:
    """Draws solids over a table of `table` = (x0, x1, y0, y1) [m] at z = 0.

    Args:
        solids: what there is.
        table: extent of the table.
        samples: rays along each side of a pixel; 2 is anti-aliased.
    """

    def __init__(
        self,
        solids: Sequence[Solid],
        table: tuple[float, float, float, float] = (-0.35, 0.95, -0.65, 0.65),
        samples: int = 2,
    ) -> None:
        if not 1 <= samples <= 4:
            raise ValueError(f'{samples} rays along a side of a pixel; 1 to 4 are possible')
        self.solids = tuple(solids)
        self.table = table
        self.samples = samples
        self._body = np.array([s.body for s in solids])
        self._origin = np.stack([s.origin for s in solids])
        self._half = np.stack([s.half for s in solids])
        self._texture = np.array([s.texture for s in solids], np.float32)
        self._grain = np.array([s.grain for s in solids], np.float32)
        self._casts = np.flatnonzero([s.casts for s in solids])
        self._kinds = {
            kind: np.flatnonzero([isinstance(s.shape, kind) for s in solids])
            for kind in (Box, Cylinder, Sphere)
        }

    def paint(
        self,
        bodies: Float,
        cameras: Sequence[tuple[Camera, Float]],
        colours: NDArray,
        look: Look,
        shown: NDArray[np.bool_] | None = None,
    ) -> list[Image]:
        """All views.

        Args:
            bodies: T float64 [B, 4, 4], frames of the bodies in the world.
            cameras: each with T [4, 4] of its optical frame in the world; pinholes, all of one
                size.
            colours: RGB 0..255 [S, 3] of the solids.
            look: of the scene.
            shown: bool [S], which solids there are; all unless given.

        Returns:
            uint8 [H, W, 3] RGB for each camera.
        """
        return list(self.paint_with_owners(bodies, cameras, colours, look, shown)[0])

    def paint_with_owners(
        self,
        bodies: Float,
        cameras: Sequence[tuple[Camera, Float]],
        colours: NDArray,
        look: Look,
        shown: NDArray[np.bool_] | None = None,
    ) -> tuple[Image, NDArray[np.int64]]:
        """As `paint`, and which solid each ray meets.

        Returns:
            uint8 [V, H, W, 3] RGB; int64 [V, samples H, samples W], FLOOR where there is none.
        """
        frames = bodies[self._body] @ self._origin
        views = _Views(cameras, self.samples)
        _, owner, point = self._cast(frames, views, shown)
        shade = self._shade(frames, owner, point, colours, look)
        images = np.stack(self._compose(frames, views, owner, shade, look, shown))
        return images, owner.reshape(len(cameras), views.height, views.width)

    def measure(
        self,
        bodies: Float,
        cameras: Sequence[tuple[Camera, Float]],
        shown: NDArray[np.bool_] | None = None,
    ) -> list[tuple[NDArray[np.int64], Single]]:
        """What each pixel's centre shows, and how far away it is."""
        frames = bodies[self._body] @ self._origin
        views = _Views(cameras, 1)
        depth, owner, _ = self._cast(frames, views, shown)
        height, width = views.height, views.width
        out = []
        for i, (camera, pose) in enumerate(cameras):
            z = depth.reshape(-1, height, width)[i].copy()
            solid = owner.reshape(-1, height, width)[i].copy()
            table = _table_depth(camera, pose, self.table)
            bare = (solid < 0) & np.isfinite(table)
            z[bare], solid[bare] = table[bare], TABLE
            out.append((solid, z))
        return out

    # Rays -----------------------------------------------------------------------------------

    def _cast(
        self, frames: Float, views: _Views, shown: NDArray[np.bool_] | None
    ) -> tuple[Single, NDArray[np.int64], Single]:
        """Nearest hit of each ray: depth [V*h*w], solid (FLOOR if none), point [3, V*h*w] on it."""
        total = len(views.poses) * views.height * views.width
        depth = np.full(total, np.inf, np.float32)
        found = []
        visible = np.ones(len(self.solids), bool) if shown is None else shown
        for kind, which in self._kinds.items():
            which = which[visible[which]]
            if len(which):
                found.append(self._hits(kind, which, frames, views))
        for pixel, near, *_ in found:
            np.minimum.at(depth, pixel, near)
        owner = np.full(total, FLOOR, np.int64)
        point = np.empty((3, total), np.float32)
        for pixel, near, item, origin, box, ray, hit in found:
            win = np.flatnonzero(near == depth[pixel])
            at = pixel[win]
            owner[at] = item[win]
            point[:, at] = origin[:, box[win]] + near[win] * ray[:, hit[win]]
        return depth, owner, point

    def _hits(
        self, kind: type, which: NDArray[np.int64], frames: Float, views: _Views
    ) -> tuple[NDArray, Single, NDArray, Single, NDArray, Single, NDArray]:
        """Rays that meet solids of a kind.

        Returns:
            pixel, depth and solid of each of N hits; camera in the frame of the solid of each box
            [3, M] and the box of each hit; all rays [3, R] in those frames, and which ray hits.
        """
        frame = frames[which]
        rotation = frame[:, :3, :3]
        # [V, S, ...]: the camera in the frame of each solid, and the solid in the camera's.
        turn = np.einsum('sji,vjk->vsik', rotation, views.rotation)
        origin = np.einsum('sji,vsj->vsi', rotation, views.place[:, None] - frame[:, :3, 3])
        centre = -np.einsum('vsij,vsi->vsj', turn, origin)
        corners = centre[..., None, :] + np.einsum(
            'vsij,sci->vscj', turn, _SIGNS * self._half[which][:, None]
        )
        view, item, x0, y0, w, h = views.boxes(corners)
        area = w * h
        n = int(area.sum())
        rows = np.empty((15, len(view)), np.float32)
        rows[:9] = turn[view, item].reshape(-1, 9).T
        rows[9:12] = origin[view, item].T
        rows[12:15] = self._half[which][item].T
        which_box = np.repeat(np.arange(len(view), dtype=np.int32), area)
        nth = np.arange(n, dtype=np.int32) - np.repeat(
            (np.cumsum(area) - area).astype(np.int32), area
        )
        row, col = np.divmod(nth, np.repeat(w.astype(np.int32), area))
        # Row and column within the flat tables of all views.
        row += np.repeat((y0 + view * views.height).astype(np.int32), area)
        col += np.repeat((x0 + view * views.width).astype(np.int32), area)
        u, v = views.x.ravel()[col], views.y.ravel()[row]
        m = np.repeat(rows, area, axis=1)
        ray = m[0:9:3] * u
        ray += m[1:9:3] * v
        ray += m[2:9:3]
        with np.errstate(divide='ignore', invalid='ignore'):
            near, far = _FORMULAS[kind](m[9:12], ray, m[12:15])
            hit = np.flatnonzero((near < far) & (near > NEAR))
        box = which_box[hit]
        pixel = row[hit] * views.width + col[hit] - view[box] * views.width
        return pixel, near[hit], which[item[box]], rows[9:12], box, ray, hit

    # Colour ---------------------------------------------------------------------------------

    def _shade(
        self,
        frames: Float,
        owner: NDArray[np.int64],
        point: Single,
        colours: NDArray,
        look: Look,
    ) -> Single:
        """Colour and coverage of each ray, float32 [V*h*w, 4], premultiplied; 0 where nothing."""
        out = np.zeros((len(owner), 4), np.float32)
        on = np.flatnonzero(owner >= 0)
        item = owner[on]
        p = point[:, on]
        half = self._half.astype(np.float32)[item].T
        towards = np.asarray(look.light) @ frames[:, :3, :3]
        light = towards.astype(np.float32)[item].T
        # The face of a box that was hit is the one the point is nearest to; likewise the caps.
        share = np.abs(p) / half
        lit = np.empty(len(on), np.float32)
        round_ = np.zeros(len(self.solids), np.int64)
        round_[self._kinds[Cylinder]] = 1
        round_[self._kinds[Sphere]] = 2
        shape = round_[item]
        box = np.flatnonzero((shape == 0) | ((shape == 1) & (share[2] > 0.9995)))
        axis = np.where(shape[box] == 1, 2, share[:, box].argmax(0))
        lit[box] = np.sign(p[axis, box]) * light[axis, box]
        side = np.flatnonzero((shape == 1) & (share[2] <= 0.9995))
        lit[side] = (p[0, side] * light[0, side] + p[1, side] * light[1, side]) / half[0, side]
        ball = np.flatnonzero(shape == 2)
        lit[ball] = _dot(p[:, ball], light[:, ball]) / half[0, ball]
        # Light also comes back from the table, so that undersides keep their form.
        tone = AMBIENT + (1 - AMBIENT) * np.maximum(lit, 0) + 0.12 * np.minimum(lit, 0)
        k = self._grain[item]
        wave = np.sin(k * (p[0] + 0.6 * p[1]) + 0.7 * item) * np.sin(
            k * (0.8 * p[2] - 0.35 * p[0] + 0.45 * p[1]) + 1.3 * item
        )
        tone *= 1 + self._texture[item] * wave
        tone *= look.brightness
        paint = np.asarray(colours, np.float32) * np.asarray(look.tint, np.float32)
        out[on, :3] = np.minimum(paint[item] * tone[:, None], 255)
        out[on, 3] = 1
        return out

    def _compose(
        self,
        frames: Float,
        views: _Views,
        owner: NDArray[np.int64],
        shade: Single,
        look: Look,
        shown: NDArray[np.bool_] | None,
    ) -> list[Image]:
        height, width, s = views.height, views.width, self.samples
        layers = shade.reshape(-1, height, width, 4)
        casts = self._casts if shown is None else self._casts[shown[self._casts]]
        corners = frames[casts, None, :3, 3] + (
            (_SIGNS * self._half[casts][:, None]) @ frames[casts, :3, :3].swapaxes(-1, -2)
        )
        light = np.asarray(look.light)
        fallen = corners[..., :2] - corners[..., 2:] * (light[:2] / light[2])
        out = []
        for layer, (camera, pose) in zip(layers, views.given, strict=True):
            back = _background(
                look, self.table, tuple(camera.focal), tuple(camera.centre),
                camera.width, camera.height, pose.tobytes(),
            )
            back = back * (1 - _SHADOW * _shadow(camera, pose, fallen))[..., None]
            front = cv2.resize(layer, (camera.width, camera.height), interpolation=cv2.INTER_AREA) \
                if s > 1 else layer
            back *= 1 - front[..., 3:]
            back += front[..., :3]
            out.append(np.clip(back + 0.5, 0, 255).astype(np.uint8))
        return out


class _Views:
    """Cameras and their rays, `samples` along each side of a pixel."""

    def __init__(self, cameras: Sequence[tuple[Camera, Float]], samples: int) -> None:
        first = cameras[0][0]
        for camera, _ in cameras:
            if camera.model != PINHOLE or (camera.width, camera.height) != (
                first.width, first.height,
            ):
                raise ValueError('all cameras of a picture are pinholes of one size')
        self.given = tuple(cameras)
        self.width, self.height = first.width * samples, first.height * samples
        self.poses = np.stack([pose for _, pose in cameras])
        self.rotation, self.place = self.poses[:, :3, :3], self.poses[:, :3, 3]
        focal = np.array([c.focal for c, _ in cameras]) * samples
        centre = (np.array([c.centre for c, _ in cameras]) + 0.5) * samples - 0.5
        self.focal, self.centre = focal, centre
        self.x = ((np.arange(self.width) - centre[:, :1]) / focal[:, :1]).astype(np.float32)
        self.y = ((np.arange(self.height) - centre[:, 1:]) / focal[:, 1:]).astype(np.float32)

    def boxes(self, corners: Float) -> tuple[NDArray, ...]:
        """Pixels that hold each solid in each view: view, solid, left, top, width, height [M].

        `corners`: float64 [V, S, 8, 3], optical frames.
        """
        z = corners[..., 2]
        behind, partly = (z < NEAR).all(-1), (z < NEAR).any(-1)
        pixels = self._pixels(corners, np.arange(len(corners))[:, None, None])
        low, high = pixels.min(-2), pixels.max(-2)
        for v, s in zip(*np.nonzero(partly & ~behind), strict=True):
            # What sticks out before the camera: corners there, and where edges come through.
            one, two = corners[v, s, _EDGES[0]], corners[v, s, _EDGES[1]]
            with np.errstate(divide='ignore', invalid='ignore'):
                share = (NEAR - one[:, 2]) / (two[:, 2] - one[:, 2])
            through = (share >= 0) & (share <= 1)
            out = one[through] + share[through, None] * (two - one)[through]
            seen = self._pixels(np.concatenate([out, corners[v, s][z[v, s] >= NEAR]]), v)
            low[v, s], high[v, s] = seen.min(0), seen.max(0)
        size = np.array([self.width, self.height])
        first = np.clip(np.ceil(low), 0, size).astype(int)
        extent = np.maximum(np.clip(np.floor(high) + 1, 0, size).astype(int) - first, 0)
        extent[behind] = 0
        view, item = np.nonzero(extent.prod(-1))
        first, extent = first[view, item], extent[view, item]
        return view, item, first[:, 0], first[:, 1], extent[:, 0], extent[:, 1]

    def _pixels(self, points: Float, view: NDArray | int) -> Float:
        scale, shift = self.focal[view], self.centre[view]
        return np.asarray(points[..., :2] / np.maximum(points[..., 2:], NEAR) * scale + shift)


def _box_hits(o: Single, d: Single, half: Single) -> tuple[Single, Single]:
    """Where rays o + t d [3, N] enter and leave |x_i| <= half_i."""
    inverted = 1 / d
    middle = -o * inverted
    reach = half * np.abs(inverted)
    low, high = middle - reach, middle + reach
    return (
        np.maximum(np.maximum(low[0], low[1]), low[2]),
        np.minimum(np.minimum(high[0], high[1]), high[2]),
    )


def _cylinder_hits(o: Single, d: Single, half: Single) -> tuple[Single, Single]:
    """Along z, radius half[0], half length half[2]."""
    a = d[0] * d[0] + d[1] * d[1]
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1] - half[0] * half[0]
    root = np.sqrt(b * b - a * c)
    inverted = 1 / d[2]
    middle, reach = -o[2] * inverted, half[2] * np.abs(inverted)
    # A miss is NaN, and every comparison with it is False.
    return np.maximum((-b - root) / a, middle - reach), np.minimum((-b + root) / a, middle + reach)


def _sphere_hits(o: Single, d: Single, half: Single) -> tuple[Single, Single]:
    a, b = _dot(d, d), _dot(o, d)
    root = np.sqrt(b * b - a * (_dot(o, o) - half[0] * half[0]))
    return (-b - root) / a, (-b + root) / a


def _dot(a: Single, b: Single) -> Single:
    # Three rows: numpy's own sum over so short an axis takes ten times as long.
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


_FORMULAS = {Box: _box_hits, Cylinder: _cylinder_hits, Sphere: _sphere_hits}


# The table and what is behind it ---------------------------------------------------------------


def _plane_matrix(camera: Camera, pose: Float, height: float) -> Float:
    """From points (x, y, 1) of the plane z = height to pixels, a homography float64 [3, 3]."""
    to_camera = inverse(pose)
    K = np.array(
        [[camera.focal[0], 0, camera.centre[0]], [0, camera.focal[1], camera.centre[1]], [0, 0, 1]]
    )
    points = np.column_stack([to_camera[:3, 0], to_camera[:3, 1],
                              to_camera[:3, 2] * height + to_camera[:3, 3]])
    return np.asarray(K @ points)


def _table_depth(
    camera: Camera, pose: Float, table: tuple[float, float, float, float]
) -> Single:
    """Depth of the bare table, infinite where a ray misses it, float32 [H, W]."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    ray = camera.rays(u, v)[1] @ pose[:3, :3].T
    with np.errstate(divide='ignore', invalid='ignore'):
        t = -pose[2, 3] / ray[..., 2]
        at = pose[:2, 3] + t[..., None] * ray[..., :2]
    x0, x1, y0, y1 = table
    on = (t > NEAR) & (at[..., 0] > x0) & (at[..., 0] < x1) & (at[..., 1] > y0) & (at[..., 1] < y1)
    return np.where(on, t, np.inf).astype(np.float32)


@lru_cache(maxsize=16)
def _wood(seed: int, width: int, height: int) -> Single:
    """Planks with grain: brightness around 1, float32 [height, width]."""
    rng = np.random.default_rng([17, seed])
    # Grain runs along the columns: noise that is long in one direction, in two sizes.
    tone = np.zeros((height, width), np.float32)
    for cells, strength in (
        ((6, 40), 0.05), ((24, 90), 0.035), ((10, 10), 0.03), ((70, 240), 0.035)
    ):
        noise = rng.normal(size=(cells[0], cells[1])).astype(np.float32)
        tone += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    planks = 8
    edges = np.linspace(0, width, planks + 1).astype(int)
    for i, (a, b) in enumerate(pairwise(edges)):
        tone[:, a:b] += rng.normal() * 0.045
        tone[:, a : a + 2] -= 0.16
        cut = int(rng.integers(height // 5, 4 * height // 5))
        tone[cut : cut + 2, a:b] -= 0.14
        tone[cut:, a:b] += rng.normal() * 0.03 * (i % 2 + 1)
    return 1 + tone


@lru_cache(maxsize=1)
def _tiles() -> Single:
    """A tiled floor: brightness around 1, float32 [400, 400]."""
    rng = np.random.default_rng(5)
    noise = cv2.resize(rng.normal(size=(40, 40)).astype(np.float32), (400, 400))
    lines = ((np.indices((400, 400)) % 50) < 2).any(0)
    return np.asarray(1 + 0.06 * noise - 0.18 * lines, np.float32)


@lru_cache(maxsize=8)
def _background(
    look: Look,
    table: tuple[float, float, float, float],
    focal: tuple[float, float],
    centre: tuple[float, float],
    width: int,
    height: int,
    pose_bytes: bytes,
) -> Single:
    """Table, floor and wall without anything on them, float32 [H, W, 3]; not to be written to."""
    pose = np.frombuffer(pose_bytes, np.float64).reshape(4, 4)
    camera = Camera(PINHOLE, focal, centre, width, height, np.eye(4), '')
    light = np.asarray(look.tint, np.float32) * look.brightness
    out = np.empty((height, width, 3), np.float32)
    v, u = np.mgrid[:height, :width].astype(np.float64)
    down = (camera.rays(u, v)[1] @ pose[:3, :3].T)[..., 2]
    out[:] = np.asarray(look.wall, np.float32)
    floor = down < -0.05
    if floor.any():
        # Texels of 2 cm, the middle of the texture under the table.
        place = np.array([[0.02, 0, -3.7], [0, 0.02, -4.0], [0, 0, 1]])
        H = _plane_matrix(camera, pose, FLOOR_HEIGHT) @ place
        warped = cv2.warpPerspective(
            _tiles(), H, (width, height), flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT, borderValue=1.0,
        )
        out[floor] = warped[floor, None] * np.asarray(look.floor, np.float32)
    x0, x1, y0, y1 = table
    columns, rows = round((y1 - y0) * _TEXELS), round((x1 - x0) * _TEXELS)
    place = np.array([[0, 1 / _TEXELS, x0], [1 / _TEXELS, 0, y0], [0, 0, 1]])
    H = _plane_matrix(camera, pose, 0.0) @ place
    warped = cv2.warpPerspective(
        _wood(look.wood_seed, columns, rows), H, (width, height), flags=cv2.INTER_LINEAR
    )
    cover = np.isfinite(_table_depth(camera, pose, table))
    out[cover] = warped[cover, None] * np.asarray(look.wood, np.float32)
    out *= light * (AMBIENT + (1 - AMBIENT) * look.light[2])
    return out


def _shadow(camera: Camera, pose: Float, fallen: Float) -> Single:
    """Coverage 0..1 [H, W] of the table by shadows, whose corners are `fallen` [S, 8, 2] m."""
    mask = np.zeros((camera.height, camera.width), np.uint8)
    H = _plane_matrix(camera, pose, 0.0)
    seen = fallen @ H[:, :2].T + H[:, 2]
    scale = 1 << _SHADOW_BITS
    for corners in seen:
        if (corners[:, 2] < NEAR).any():
            continue
        pixels = corners[:, :2] / corners[:, 2:]
        if np.abs(pixels).max() > 4 * max(camera.width, camera.height):
            continue
        hull = cv2.convexHull(np.round(pixels * scale).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, _SHADOW_BITS)
    return cv2.blur(mask, (3, 3)).astype(np.float32) / np.float32(255)


__all__ = ['FLOOR', 'TABLE', 'Look', 'RayPainter', 'Solid']
