"""Rotations and rigid transforms, as numpy arrays: R [..., 3, 3], T [..., 4, 4]."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def rotation_from_rpy(rpy: ArrayLike) -> Float:
    """R = Rz(yaw) Ry(pitch) Rx(roll), float64 [3, 3]; the fixed-axis angles of URDF [rad]."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(rpy), np.cos(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def rotation_from_quaternion(xyzw: ArrayLike) -> Float:
    """R of a quaternion (x, y, z, w), the order of ROS; its length is taken out.

    Raises:
        ValueError: the quaternion is zero or not finite.
    """
    q = np.asarray(xyzw, np.float64)
    length = np.linalg.norm(q)
    if not (np.isfinite(length) and length > 1e-9):
        raise ValueError(f'{list(q)} is no rotation; a quaternion (x, y, z, w) is not zero')
    x, y, z, w = q / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_about(axis: ArrayLike, angle: ArrayLike) -> Float:
    """R of a turn by `angle` [...] rad about a unit axis [3] (Rodrigues), float64 [..., 3, 3]."""
    x, y, z = np.asarray(axis, np.float64)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = np.asarray(angle, np.float64)[..., None, None]
    return np.eye(3) + np.sin(a) * K + (1 - np.cos(a)) * (K @ K)


def transform(rotation: ArrayLike | None = None, translation: ArrayLike | None = None) -> Float:
    """T float64 [..., 4, 4] of R [..., 3, 3] and t [..., 3]; what is left out is the identity."""
    R = np.eye(3) if rotation is None else np.asarray(rotation, np.float64)
    t = np.zeros(3) if translation is None else np.asarray(translation, np.float64)
    shape = np.broadcast_shapes(R.shape[:-2], t.shape[:-1])
    T = np.zeros((*shape, 4, 4))
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = R, t, 1
    return T


def inverse(T: Float) -> Float:
    """Inverse of rigid transforms, float64 [..., 4, 4]."""
    R = np.swapaxes(T[..., :3, :3], -1, -2)
    return transform(R, -(R @ T[..., :3, 3:])[..., 0])


def apply(T: Float, points: Float) -> Float:
    """Points [..., P, 3] moved by T [..., 4, 4]."""
    return points @ np.swapaxes(T[..., :3, :3], -1, -2) + T[..., None, :3, 3]


__all__ = [
    'Float',
    'apply',
    'inverse',
    'rotation_about',
    'rotation_from_quaternion',
    'rotation_from_rpy',
    'transform',
]
