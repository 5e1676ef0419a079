"""The pose of a tool, how joints move it, and which joint positions bring it somewhere.

Poses are (R float64 [3, 3], p float64 [3] m) of the tool's frame in the root link's. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vera_core.kinematics.transforms import Float
from vera_core.kinematics.tree import KinematicTree
from vera_core.kinematics.urdf import MOVING, Urdf, UrdfError, read_urdf

# Of the damping: its part that stays, and its part that grows with the squared error.
# T. Sugihara, "Solvability-unconcerned inverse kinematics by the Levenberg-Marquardt method",
# IEEE T-RO 27(5), 2011.
_DAMPING = (1e-6, 0.5)
# A metre weighs as much as this many radians: half a metre is what a wrist turns about.
_METRE = 2.0
# Longest step of a joint in one iteration [rad or m].
_STEP = 0.3
# Spare joints go this share of their way to rest in each of so many iterations, and no further than
# this [rad or m]: they may take their time.
_PULL, _PULLS, _PULL_STEP = 0.1, 5, 0.02


@dataclass(frozen=True, eq=False)
class Solution:
    """What inverse kinematics found.

    Attributes:
        q: float64 [n] rad or m, within limits.
        error_p: distance of the tool from where it should be, m; over commanded axes only.
        error_r: angle, rad; likewise.
        converged: both errors are within the tolerance.
        manipulability: sqrt(det(J J^T)) at q, 0 where a direction is lost (Yoshikawa 1985).
    """

    q: Float
    error_p: float
    error_r: float
    converged: bool
    manipulability: float


class Arm:
    """Forward and inverse kinematics of one tool.

    Args:
        tree: the robot; its `joint_names` are the n joints of every q here. Joints that do not
            carry the tool, such as fingers, have columns of zeros and stay where they are.
        tool: link whose pose counts.
        limits: (low, high) float64 [n]; those of the URDF unless given.

    Raises:
        UrdfError: no such link, no joint moves it, or limits of another shape.
    """

    def __init__(
        self, tree: KinematicTree, tool: str, limits: tuple[ArrayLike, ArrayLike] | None = None
    ) -> None:
        self.tree, self.tool = tree, tool
        self.joint_names = tree.joint_names
        self._link = tree.link_index(tool)
        by = tree.moves(tool)
        if not by:
            raise UrdfError(f'no joint of {", ".join(self.joint_names)} moves link {tool!r}')
        self.moving: NDArray[np.bool_] = np.array([name in by for name in self.joint_names])
        of_urdf = np.array([tree.urdf.joints[name].limits for name in self.joint_names]).T
        low, high = of_urdf if limits is None else limits
        self.low, self.high = np.array(low, np.float64), np.array(high, np.float64)
        if not self.low.shape == self.high.shape == (len(self.joint_names),):
            raise UrdfError(f'limits of {self.low.size} joints; there are {len(self.joint_names)}')

    @classmethod
    def from_urdf(cls, source: str | Path | Urdf, joints: Sequence[str] | None, tool: str) -> Arm:
        """The arm of a URDF file (or its text): named joints, or all that move the tool."""
        urdf = source if isinstance(source, Urdf) else read_urdf(source)
        return cls(KinematicTree(urdf, _above(urdf, tool) if joints is None else joints), tool)

    def pose(self, q: ArrayLike) -> tuple[Float, Float]:
        """R [3, 3] and p [3] m of the tool at q [n]; UrdfError for another shape or NaN."""
        frame = self.tree.posture(np.asarray(q, np.float64)).links[self._link]
        return frame[:3, :3], frame[:3, 3]

    def jacobian(self, q: ArrayLike) -> Float:
        """Velocity [m/s] and angular velocity [rad/s] of the tool per joint rate, [6, n]."""
        return self.tree.frame_jacobian(self.tree.posture(np.asarray(q, np.float64)), self.tool)

    def solve(
        self,
        R: ArrayLike,
        p: ArrayLike,
        q0: ArrayLike,
        *,
        rest: ArrayLike | None = None,
        axes: Sequence[bool] | None = None,
        tolerance: tuple[float, float] = (1e-4, 1e-3),
        iterations: int = 100,
    ) -> Solution:
        """Joint positions near q0 that bring the tool to a pose; the nearest found otherwise.

        Damped least squares (Nakamura and Hanafusa 1986) with the damping of Sugihara 2011. A
        joint at its limit that would leave it is taken out of the step, so that the others do
        what can be done. Deterministic.

        Args:
            R: rotation [3, 3] that the tool should have.
            p: position [3] m.
            q0: where to start, float64 [n]; put within limits first.
            rest: float64 [n], posture that spare joints are drawn to on the way.
            axes: which of x, y, z, rx, ry, rz count; all unless given.
            tolerance: (m, rad) at which it stops.
            iterations: at most.

        Raises:
            UrdfError: a shape is wrong or a number is not finite.
        """
        R, p = np.asarray(R, np.float64), np.asarray(p, np.float64)
        finite = bool(np.isfinite(R).all() and np.isfinite(p).all())
        if R.shape != (3, 3) or p.shape != (3,) or not finite:
            raise UrdfError('a pose of the tool needs R [3, 3] and p [3], all finite')
        rows = np.ones(6, bool) if axes is None else np.asarray(axes, bool)
        weight = np.array([_METRE] * 3 + [1.0] * 3)[rows]
        q = np.clip(np.asarray(q0, np.float64), self.low, self.high)
        best: tuple[float, Float, Float, Float] | None = None
        stuck = 0
        for i in range(iterations + 1):
            posture = self.tree.posture(q)
            frame = posture.links[self._link]
            J = self.tree.frame_jacobian(posture, self.tool)[rows]
            error = np.concatenate([p - frame[:3, 3], _rotation_error(R, frame[:3, :3])])
            error = np.where(rows, error, 0.0)
            e = weight * error[rows]
            cost = float(e @ e)
            if best is None or cost < 0.999 * best[0]:
                best, stuck = (cost, q, error, J), 0
            else:
                # What no more than a thousandth improves will not be reached from here.
                stuck += 1
            if _within(error, tolerance) or i == iterations or stuck > 10:
                break
            pull = np.zeros_like(q)
            if rest is not None and i < _PULLS:
                way = _PULL * (np.asarray(rest, np.float64) - q)
                pull = np.clip(way, -_PULL_STEP, _PULL_STEP)
            q = self._step(q, weight[:, None] * J, e, cost, pull)
        assert best is not None
        _, q, error, J = best
        return Solution(
            q,
            float(np.linalg.norm(error[:3])),
            float(np.linalg.norm(error[3:])),
            _within(error, tolerance),
            manipulability(J),
        )

    def _step(self, q: Float, J: Float, e: Float, cost: float, pull: Float) -> Float:
        free = self.moving.copy()
        damping = _DAMPING[0] + _DAMPING[1] * cost
        step = np.zeros_like(q)
        # Each round takes out at least one joint, so there are few.
        for _ in range(q.size):
            F = J * free
            A = F @ F.T
            A.flat[:: len(A) + 1] += damping
            inside = pull * free
            step = F.T @ np.linalg.solve(A, e - F @ inside) + inside
            leaving = free & (
                ((q <= self.low) & (step < 0)) | ((q >= self.high) & (step > 0))
            )
            if not leaving.any():
                break
            free &= ~leaving
            step = np.zeros_like(q)
        longest = np.abs(step).max()
        if longest > _STEP:
            step = step * (_STEP / longest)
        return np.clip(q + step, self.low, self.high)


def manipulability(J: Float) -> float:
    """sqrt(det(J J^T)) of a Jacobian [m, n]; 0 if it has fewer columns than rows."""
    return float(np.sqrt(max(np.linalg.det(J @ J.T), 0.0))) if J.shape[0] <= J.shape[1] else 0.0


def _rotation_error(target: Float, now: Float) -> Float:
    """Rotation vector [3] rad in root axes that turns `now` into `target`."""
    D = target @ now.T
    v = np.array([D[2, 1] - D[1, 2], D[0, 2] - D[2, 0], D[1, 0] - D[0, 1]])
    sine, cosine = 0.5 * np.sqrt(v @ v), 0.5 * (D[0, 0] + D[1, 1] + D[2, 2] - 1)
    if sine > 1e-6:
        return v * (np.arctan2(sine, cosine) / (2 * sine))
    if cosine > 0:
        return 0.5 * v
    # Half a turn: any column of D + 1 lies along its axis.
    columns = D + np.eye(3)
    axis = columns[:, np.argmax(np.einsum('ij,ij->j', columns, columns))]
    return axis * (np.pi / np.sqrt(axis @ axis))


def _within(error: Float, tolerance: tuple[float, float]) -> bool:
    return bool(
        error[:3] @ error[:3] <= tolerance[0] ** 2 and error[3:] @ error[3:] <= tolerance[1] ** 2
    )


def _above(urdf: Urdf, link: str) -> list[str]:
    """Names of the moving joints between the root and a link, from the root on."""
    above = {joint.child: joint for joint in urdf.joints.values()}
    names: list[str] = []
    while link in above:
        joint = above[link]
        if joint.kind in MOVING and joint.mimic is None:
            names.insert(0, joint.name)
        link = joint.parent
    return names


__all__ = ['Arm', 'Solution', 'manipulability']
