"""Kinematics of the planar finger: joints, points, Jacobians, and its scripted expert's inverse.

Everything is in pixels of a 64 x 64 canvas, x right and y down, seen from above. Joint angles are
in radians, counter-clockwise positive on the screen (REP-103: the table's z axis points at the
camera); at zero every link points up the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

CANVAS = 64.0
BASE = np.array([32.0, 59.0])
REACH = 48.0
# The scripted expert: tip speed [px] and largest joint change [rad] per frame.
SPEED = 2.6
MAX_DQ = 0.1


def joint_limits(joints: int) -> tuple[Float, Float]:
    """Lower and upper limits [rad], float64 [joints] each.

    The first joint sweeps the half plane in front of the base; the others bend less the more
    there are, so that a random posture neither curls up nor leaves the picture.
    """
    first = 1.75
    rest = 2.4 if joints <= 3 else 2.4 * np.sqrt(2.0 / (joints - 1))
    high = np.array([first] + [rest] * (joints - 1))
    return -high, high


def points(q: Float) -> Float:
    """Base, joints and tip, float64 [joints + 1, 2], for joint angles [joints] or [B, joints]."""
    q = np.asarray(q, dtype=np.float64)
    angle = np.cumsum(q, axis=-1)
    length = REACH / q.shape[-1]
    step = length * np.stack([-np.sin(angle), -np.cos(angle)], axis=-1)
    base = np.broadcast_to(BASE, (*q.shape[:-1], 1, 2))
    return np.concatenate([base, BASE + np.cumsum(step, axis=-2)], axis=-2)


def tip_jacobian(q: Float) -> Float:
    """D tip / d q, float64 [2, joints], pixels per radian."""
    chain = points(q)
    arm = chain[-1] - chain[:-1]
    return np.stack([arm[:, 1], -arm[:, 0]])


def _towards(q: Float, goal: Float, speed: float, max_dq: float) -> Float:
    """Joint change that moves the tip straight towards `goal`, slower over the last pixels.

    Damped least squares with a pull of the null space towards a gently bent posture.
    """
    error = goal - points(q)[-1]
    distance = float(np.hypot(*error))
    wanted = error * min(speed / max(distance, 1e-9), 0.6)
    jac = tip_jacobian(q)
    pinv = jac.T @ np.linalg.inv(jac @ jac.T + 4.0 * np.eye(2))
    posture = -0.02 * q * min(1.0, distance / 6.0)
    dq = pinv @ wanted + posture - pinv @ (jac @ posture)
    dq *= min(1.0, max_dq / max(float(np.abs(dq).max()), 1e-9))
    low, high = joint_limits(len(q))
    return np.clip(q + dq, low, high) - q


def _straight(q: Float, goal: Float, frames: int) -> Float:
    path = np.empty((frames, len(q)))
    for k in range(frames):
        q = q + _towards(q, goal, SPEED, MAX_DQ)
        path[k] = q
    return path


def _nearest_reaching_posture(q: Float, goal: Float) -> Float | None:
    """Of the postures that reach `goal`, started from bends to either side, the nearest one."""
    low, high = joint_limits(len(q))
    aim = np.arctan2(-(goal - BASE)[0], -(goal - BASE)[1])
    bend = 2.0 / max(len(q) - 1, 1)
    best: Float | None = None
    for side in (-1.0, -0.4, 0.4, 1.0):
        guess = np.full(len(q), side * bend)
        guess[0] = aim - side * bend * (len(q) - 1) / 2
        guess = np.clip(guess, low, high)
        for _ in range(40):
            guess = guess + _towards(guess, goal, 8.0, 0.5)
        reached = np.hypot(*(points(guess)[-1] - goal)) < 1.0
        if reached and (best is None or np.abs(guess - q).max() < np.abs(best - q).max()):
            best = guess
    return best


def expert_path(q: Float, goal: Float, frames: int) -> Float:
    """Joint angles of the scripted expert's next `frames` frames, float64 [frames, joints].

    The tip goes straight to `goal` [px] at `SPEED`; where joint limits bar that way, the joints go
    straight to the nearest posture that reaches it.
    """
    q = np.asarray(q, dtype=np.float64)
    horizon = max(frames, 45)
    path = _straight(q, goal, horizon)
    if np.hypot(*(points(path[-1])[-1] - goal)) < 1.0:
        return path[:frames]
    posture = _nearest_reaching_posture(q, goal)
    if posture is None:
        return path[:frames]
    for k in range(frames):
        gap = posture - q
        step = gap * min(1.0, MAX_DQ / max(float(np.abs(gap).max()), 1e-9))
        swept = float(np.hypot(*(tip_jacobian(q) @ step)))
        q = q + step * min(1.0, 1.2 * SPEED / max(swept, 1e-9))
        path[k] = q
    return path[:frames]
