"""Rotations, in one convention: the one place that turns one form of a rotation into another.

Quaternions are (x, y, z, w) as in ROS, of length 1 with w >= 0: one for each rotation. Matrices
turn column vectors, p_parent = R p_child. Rotation vectors are axis times angle [rad], no longer
than pi. Roll, pitch and yaw [rad] turn about the fixed axes x, y, z in this order, as in URDF.

The conversions are those of `tf_transformations` where a ROS installation has it, and of
`transforms3d` elsewhere; both give the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    import tf_transformations as _tf
except ImportError:
    _tf = None
    try:
        from transforms3d import euler as _euler
        from transforms3d import quaternions as _quaternions
    except ImportError as error:
        raise ImportError(
            'rotations need tf_transformations (ROS 2: sudo apt install '
            'ros-$ROS_DISTRO-tf-transformations) or transforms3d (pip install transforms3d)'
        ) from error

Float = NDArray[np.float64]

# A matrix may be so far from orthonormal: what rounding and printed calibrations leave.
ORTHONORMAL = 1e-4
# Below this angle [rad] the sine is its argument to the last bit.
SMALL = 1e-9


def quaternion_from_matrix(rotation: ArrayLike) -> Float:
    """(x, y, z, w), w >= 0, float64 [4], of R [3, 3].

    Raises:
        ValueError: not a rotation: wrong shape, not finite, not orthonormal, or a reflection.
    """
    R = _matrix(rotation)
    if _tf is not None:
        q = np.asarray(_tf.quaternion_from_matrix(_homogeneous(R)), np.float64)
    else:
        q = np.roll(_quaternions.mat2quat(R), -1)
    return _canonical(q)


def matrix_from_quaternion(xyzw: ArrayLike) -> Float:
    """R float64 [3, 3] of a quaternion (x, y, z, w); its length is taken out.

    Raises:
        ValueError: not four finite numbers, or zero.
    """
    q = _unit(xyzw)
    if _tf is not None:
        return np.array(_tf.quaternion_matrix(q), np.float64)[:3, :3]
    return np.array(_quaternions.quat2mat(np.roll(q, 1)), np.float64)


def rotation_vector(rotation: ArrayLike) -> Float:
    """Axis times angle [rad], float64 [3], of R [3, 3]; exact near zero and near half a turn.

    Raises:
        ValueError: as `quaternion_from_matrix`.
    """
    return rotation_vector_from_quaternion(quaternion_from_matrix(rotation))


def matrix_from_rotation_vector(vector: ArrayLike) -> Float:
    """R = exp([v]x), float64 [3, 3], of axis times angle [rad] [3].

    Raises:
        ValueError: not three finite numbers.
    """
    return matrix_from_quaternion(quaternion_from_rotation_vector(vector))


def quaternion_from_rotation_vector(vector: ArrayLike) -> Float:
    """(x, y, z, w), w >= 0, of axis times angle [rad] [3]; ValueError as above."""
    v = _numbers(vector, 3, 'rotation vector')
    angle = math.hypot(*v)
    # sin(a/2)/a, whose limit is 1/2.
    factor = 0.5 if angle < SMALL else math.sin(angle / 2) / angle
    return _canonical(np.array([*(factor * v), math.cos(angle / 2)]))


def rotation_vector_from_quaternion(xyzw: ArrayLike) -> Float:
    """Axis times angle [rad], float64 [3], of a quaternion (x, y, z, w); ValueError as above."""
    q = _canonical(_unit(xyzw))
    sine = math.hypot(*q[:3])
    factor = 2.0 if sine < SMALL else 2 * math.atan2(sine, q[3]) / sine
    return factor * q[:3]


def matrix_from_rpy(rpy: ArrayLike) -> Float:
    """R = Rz(yaw) Ry(pitch) Rx(roll), float64 [3, 3], of (roll, pitch, yaw) [rad].

    Raises:
        ValueError: not three finite numbers.
    """
    angles = _numbers(rpy, 3, 'roll, pitch, yaw')
    if _tf is not None:
        return np.array(_tf.euler_matrix(*angles, axes='sxyz'), np.float64)[:3, :3]
    return np.array(_euler.euler2mat(*angles, axes='sxyz'), np.float64)


def rpy_from_matrix(rotation: ArrayLike) -> Float:
    """(roll, pitch, yaw) [rad], float64 [3], of R [3, 3]; at pitch +-pi/2 yaw is zero.

    Raises:
        ValueError: as `quaternion_from_matrix`.
    """
    R = _matrix(rotation)
    if _tf is not None:
        return np.array(_tf.euler_from_matrix(_homogeneous(R), axes='sxyz'), np.float64)
    return np.array(_euler.mat2euler(R, axes='sxyz'), np.float64)


def _numbers(values: Any, n: int, what: str) -> Float:
    array = np.asarray(values, np.float64)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise ValueError(f'{np.asarray(values).tolist()} is no {what}: {n} finite numbers make one')
    return array


def _unit(xyzw: ArrayLike) -> Float:
    q = _numbers(xyzw, 4, 'quaternion (x, y, z, w)')
    length = math.hypot(*q)
    if length < SMALL:
        raise ValueError(f'{q.tolist()} is no rotation; no turn at all is [0, 0, 0, 1]')
    return q / length


def _canonical(q: Float) -> Float:
    """The one with w > 0 of the two of a rotation; at w = 0 the first other number decides."""
    leading = next((value for value in (q[3], *q[:3]) if value != 0), 1.0)
    # Adding zero makes -0 a 0.
    return (q if leading > 0 else -q) + 0.0


def _matrix(rotation: ArrayLike) -> Float:
    R = np.asarray(rotation, np.float64)
    if R.shape != (3, 3) or not np.isfinite(R).all():
        raise ValueError(f'a rotation is 3 x 3 finite numbers, not {np.shape(rotation)}')
    error = float(np.abs(R @ R.T - np.eye(3)).max())
    if error > ORTHONORMAL:
        raise ValueError(f'no rotation: R R^T differs from the identity by {error:.2g}')
    if np.linalg.det(R) < 0:
        raise ValueError('no rotation but a reflection: its determinant is negative')
    return R


def _homogeneous(R: Float) -> Float:
    T = np.eye(4)
    T[:3, :3] = R
    return T


__all__ = [
    'matrix_from_quaternion',
    'matrix_from_rotation_vector',
    'matrix_from_rpy',
    'quaternion_from_matrix',
    'quaternion_from_rotation_vector',
    'rotation_vector',
    'rotation_vector_from_quaternion',
    'rpy_from_matrix',
]
