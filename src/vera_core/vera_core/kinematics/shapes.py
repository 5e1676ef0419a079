"""What links look like: boxes, cylinders, spheres and triangle meshes.

Each shape lives in its own frame, centred as URDF says: a cylinder stands along z.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vera_core.kinematics.transforms import Float

# Pairs of point and triangle that are compared at a time, to bound the memory.
_PAIRS = 400_000


class ShapeError(ValueError):
    """A shape that cannot be; the message says why."""


@dataclass(frozen=True)
class Box:
    """Full side lengths [m]."""

    size: tuple[float, float, float]

    def __post_init__(self) -> None:
        _positive('box size', *self.size)

    @property
    def radius_around(self) -> float:
        """Of the sphere about the origin that holds the shape [m]."""
        return float(np.linalg.norm(self.size)) / 2

    def distance(self, points: Float) -> Float:
        """Of points [P, 3] to the surface, float64 [P] m; negative inside."""
        gap = np.abs(points) - np.asarray(self.size) / 2
        outside = np.linalg.norm(np.maximum(gap, 0), axis=-1)
        return np.asarray(outside + np.minimum(gap.max(-1), 0))


@dataclass(frozen=True)
class Cylinder:
    """Along z, centred [m]."""

    radius: float
    length: float

    def __post_init__(self) -> None:
        _positive('cylinder radius and length', self.radius, self.length)

    @property
    def radius_around(self) -> float:
        """Of the sphere about the origin that holds the shape [m]."""
        return float(np.hypot(self.radius, self.length / 2))

    def distance(self, points: Float) -> Float:
        """Of points [P, 3] to the surface, float64 [P] m; negative inside."""
        across = np.hypot(points[:, 0], points[:, 1]) - self.radius
        along = np.abs(points[:, 2]) - self.length / 2
        outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
        return np.asarray(outside + np.minimum(np.maximum(across, along), 0))


@dataclass(frozen=True)
class Sphere:
    """Radius [m]."""

    radius: float

    def __post_init__(self) -> None:
        _positive('sphere radius', self.radius)

    @property
    def radius_around(self) -> float:
        """Of the sphere about the origin that holds the shape [m]."""
        return self.radius

    def distance(self, points: Float) -> Float:
        """Of points [P, 3] to the surface, float64 [P] m; negative inside."""
        return np.asarray(np.linalg.norm(points, axis=-1) - self.radius)


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles, float64 [F, 3 corners, 3] m."""

    triangles: Float = field(repr=False)

    def __post_init__(self) -> None:
        t = self.triangles
        if t.ndim != 3 or t.shape[1:] != (3, 3) or not len(t):
            raise ShapeError(f'a mesh of shape {list(t.shape)}; expected [F, 3, 3] with F >= 1')
        if not np.isfinite(t).all():
            raise ShapeError('a corner of the mesh is not a finite number')

    @property
    def radius_around(self) -> float:
        """Of the sphere about the origin that holds the shape [m]."""
        return float(np.linalg.norm(self.triangles, axis=-1).max())

    def distance(self, points: Float) -> Float:
        """Of points [P, 3] to the nearest triangle, float64 [P] m; never negative.

        Compares every point with every triangle: thousands of both take seconds.
        """
        a, b, c = np.moveaxis(self.triangles, 1, 0)
        out = np.empty(len(points))
        step = max(1, _PAIRS // len(a))
        for i in range(0, len(points), step):
            out[i : i + step] = _to_triangles(points[i : i + step], a, b, c)
        return out


Shape = Box | Cylinder | Sphere | Mesh


def read_stl(path: Path, scale: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Mesh:
    """A mesh from an STL file, binary or ASCII.

    Args:
        path: of the file.
        scale: factor of each axis, as URDF's <mesh scale>.

    Raises:
        ShapeError: it cannot be read, or is no STL.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShapeError(f'mesh {path} cannot be read: {error.strerror}') from error
    count = int.from_bytes(data[80:84], 'little') if len(data) >= 84 else -1
    # A binary header may begin with 'solid' too; only the length tells for sure.
    if len(data) == 84 + 50 * count and count > 0:
        kind = np.dtype([('normal', '<f4', 3), ('corners', '<f4', (3, 3)), ('rest', '<u2')])
        corners = np.frombuffer(data, kind, count, 84)['corners'].astype(np.float64)
    elif data.lstrip()[:5].lower() == b'solid':
        corners = _ascii_corners(path, data)
    else:
        raise ShapeError(
            f'mesh {path} is no STL: {len(data)} bytes do not hold the {max(count, 0)} triangles '
            'of its header; export it again, as binary STL'
        )
    try:
        return Mesh(corners * np.asarray(scale))
    except ShapeError as error:
        raise ShapeError(f'mesh {path}: {error}') from error


def _ascii_corners(path: Path, data: bytes) -> Float:
    words = data.split()
    at = [i for i, word in enumerate(words) if word.lower() == b'vertex']
    if not at or len(at) % 3:
        raise ShapeError(f'mesh {path}: {len(at)} vertices make no triangles; export it again')
    try:
        values = [[float(word) for word in words[i + 1 : i + 4]] for i in at]
        return np.array(values, np.float64).reshape(-1, 3, 3)
    except ValueError as error:
        raise ShapeError(f'mesh {path}: a vertex is not three numbers: {error}') from error


def _to_triangles(p: Float, a: Float, b: Float, c: Float) -> Float:
    """Distance of each point [P, 3] to the nearest of the triangles a, b, c [F, 3]."""
    ab, ac = b - a, c - a
    ap = p[:, None] - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = d00 * d11 - d01 * d01
    flat = area <= 1e-12 * d00 * d11
    area = np.where(flat, 1.0, area)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inside = (v >= 0) & (w >= 0) & (v + w <= 1) & ~flat
    square = np.where(
        inside, np.square(ap - v[..., None] * ab - w[..., None] * ac).sum(-1), np.inf
    )
    for start, end in ((a, b), (b, c), (c, a)):
        along = end - start
        t = ((p[:, None] - start) * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-30)
        near = start + np.clip(t, 0, 1)[..., None] * along
        square = np.minimum(square, np.square(p[:, None] - near).sum(-1))
    return np.asarray(np.sqrt(square.min(1)))


def _positive(what: str, *values: float) -> None:
    if not all(np.isfinite(v) and v > 0 for v in values):
        text = ' x '.join(f'{v:g}' for v in values)
        raise ShapeError(f'{what}: {text} m; every one must be a positive number')


__all__ = ['Box', 'Cylinder', 'Mesh', 'Shape', 'ShapeError', 'Sphere', 'read_stl']
