"""Calibrated cameras: where a point is seen, and how its pixel moves when the point does.

Optical frames as in ROS: x right, y down, z forward. Pixel centres lie at whole numbers, so the
left edge of an image is at u = -0.5. Images are rectified: there is no lens distortion here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vera_core.kinematics.transforms import Float

PINHOLE, ORTHOGRAPHIC = 'pinhole', 'orthographic'
MODELS = (PINHOLE, ORTHOGRAPHIC)
# Nothing nearer to a pinhole than this is seen [m].
NEAR = 1e-3


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera.

    Attributes:
        model: 'pinhole': u = fx x / z + cx; 'orthographic': u = fx x + cx.
        focal: (fx, fy), pixels, or pixels per metre if orthographic.
        centre: (cx, cy), pixels.
        width, height: of the image, pixels.
        mount: T float64 [4, 4], optical frame in the frame of `link`.
        link: that carries the camera; its images move with it.
    """

    model: str
    focal: tuple[float, float]
    centre: tuple[float, float]
    width: int
    height: int
    mount: Float
    link: str

    def cropped(
        self, x: int, y: int, width: int, height: int, to_width: int, to_height: int
    ) -> Camera:
        """The camera whose image is a part of this one's, scaled to another size.

        Args:
            x: left edge of the part, pixels of this camera.
            y: its upper edge.
            width: of the part.
            height: of the part.
            to_width: width that it is scaled to, by area averaging.
            to_height: height, likewise.
        """
        sx, sy = to_width / width, to_height / height
        return Camera(
            self.model,
            (self.focal[0] * sx, self.focal[1] * sy),
            # Edges map to edges, not centres to centres.
            ((self.centre[0] + 0.5 - x) * sx - 0.5, (self.centre[1] + 0.5 - y) * sy - 0.5),
            to_width, to_height, self.mount, self.link,
        )

    def rays(self, u: Float, v: Float) -> tuple[Float, Float]:
        """Origins and directions [..., 3] of the rays through pixels, optical frame.

        Directions have z = 1: the ray parameter is the depth along z [m].
        """
        x, y = (u - self.centre[0]) / self.focal[0], (v - self.centre[1]) / self.focal[1]
        zero, one = np.zeros_like(x), np.ones_like(x)
        if self.model == PINHOLE:
            return np.zeros((*x.shape, 3)), np.stack([x, y, one], -1)
        return np.stack([x, y, zero], -1), np.stack([zero, zero, one], -1)

    def project(self, points: Float) -> Float:
        """Pixels [..., 2] of points [..., 3] of the optical frame; z > 0 unless orthographic."""
        xy = points[..., :2]
        if self.model == PINHOLE:
            xy = xy / points[..., 2:]
        return xy * np.asarray(self.focal) + np.asarray(self.centre)

    def project_jacobian(self, points: Float) -> Float:
        """D pixel / d point, float64 [..., 2, 3] px/m, at points [..., 3] of the optical frame."""
        fx, fy = self.focal
        out = np.zeros((*points.shape[:-1], 2, 3))
        if self.model == ORTHOGRAPHIC:
            out[..., 0, 0], out[..., 1, 1] = fx, fy
            return out
        x, y, z = np.moveaxis(points, -1, 0)
        out[..., 0, 0], out[..., 0, 2] = fx / z, -fx * x / z**2
        out[..., 1, 1], out[..., 1, 2] = fy / z, -fy * y / z**2
        return out


__all__ = ['MODELS', 'NEAR', 'ORTHOGRAPHIC', 'PINHOLE', 'Camera']
