"""The physics of PushT: a round pusher, a T-shaped block, four walls; quasi-static, on pymunk.

Constants, order of construction and integration are those of gym-pusht 0.1.8 (Apache-2.0), so that
the same actions give the same poses; a test holds both side by side. World units are gym-pusht's:
a table of 512 x 512, x right, y down, angles in rad. One unit is one millimetre in the contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pymunk
from numpy.typing import NDArray

Float = NDArray[np.float64]

TABLE = 512.0  # side of the table
WALL_LOW, WALL_HIGH, WALL_RADIUS = 5.0, 506.0, 2.0
PUSHER_RADIUS = 15.0
GOAL = (256.0, 256.0, np.pi / 4)  # pose of the block that is asked for: x, y, angle
SUBSTEP = 0.01  # s, of the physics
STEP = 0.1  # s, of an action: 10 Hz
STIFFNESS, DAMPING = 100.0, 20.0  # of the pusher's servo under position control, 1/s^2 and 1/s
MAX_VELOCITY = 512.0  # 1/s along each axis, under velocity control

# The T in its own frame: a bar of 120 x 30 and a stem of 30 x 90. Corners as gym-pusht lists them,
# which decides the order of the solver's contacts.
BAR: Float = np.array([[-60.0, 30.0], [60.0, 30.0], [60.0, 0.0], [-60.0, 0.0]])
STEM: Float = np.array([[-15.0, 30.0], [-15.0, 120.0], [15.0, 120.0], [15.0, 30.0]])
# The same T as one outline, clockwise on the screen.
OUTLINE: Float = np.array(
    [[-60.0, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30]]
)
AREA = 120.0 * 30.0 + 30.0 * 90.0


@dataclass(frozen=True)
class PushTState:
    """Where everything is.

    Attributes:
        pusher: float64 [2], centre. velocity: float64 [2], of the pusher, 1/s.
        block: float64 [3], x, y of the middle of the bar's outer edge, and angle [rad].
        block_velocity: float64 [3], of what the last contact gave it; lasts one substep.
    """

    pusher: Float
    block: Float
    velocity: Float
    block_velocity: Float

    @classmethod
    def at(
        cls, pusher: Sequence[float] | Float, block: Sequence[float] | Float
    ) -> PushTState:
        """At rest: pusher at (x, y), block at (x, y, angle)."""
        return cls(
            np.array(pusher, np.float64), np.array(block, np.float64), np.zeros(2), np.zeros(3)
        )


class PushTPhysics:
    """One table. Move the pusher with `servo`, `move` or `follow`; read `state`."""

    def __init__(self) -> None:
        self._build()

    def _build(self) -> None:
        self._space = pymunk.Space()
        self._space.gravity = (0, 0)
        # Nothing keeps a velocity from one substep to the next: the block stops when left alone.
        self._space.damping = 0.0
        low, high = WALL_LOW, WALL_HIGH
        for a, b in (
            ((low, high), (low, low)),
            ((low, low), (high, low)),
            ((high, low), (high, high)),
            ((low, high), (high, high)),
        ):
            self._space.add(pymunk.Segment(self._space.static_body, a, b, WALL_RADIUS))
        self._pusher = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self._pusher.position = (256, 400)
        self._space.add(self._pusher, pymunk.Circle(self._pusher, PUSHER_RADIUS))
        bar, stem = ([(float(x), float(y)) for x, y in part] for part in (BAR, STEM))
        # Both halves count with the moment of the bar.
        moment = pymunk.moment_for_poly(1, bar)
        self._block = pymunk.Body(1, moment + moment)
        shapes = [pymunk.Poly(self._block, bar), pymunk.Poly(self._block, stem)]
        self._block.center_of_gravity = (
            shapes[0].center_of_gravity + shapes[1].center_of_gravity
        ) / 2
        self._block.position = (256, 300)
        self._space.add(self._block, *shapes)

    def reset(self, seed: int) -> None:
        """The start that gym-pusht 0.1.8 draws from this seed: uniform pusher, block and angle."""
        rng = np.random.default_rng(seed)
        pusher = (int(rng.integers(50, 450)), int(rng.integers(50, 450)))
        block = (int(rng.integers(100, 400)), int(rng.integers(100, 400)))
        angle = float(rng.uniform(-np.pi, np.pi))
        self._build()
        self._pusher.position = pusher
        # In this order the turn is about the centre of mass and shifts the block's origin.
        self._block.position = block
        self._block.angle = angle
        self._space.step(SUBSTEP)

    def set_state(self, state: PushTState) -> None:
        """Put pusher and block exactly there."""
        self._pusher.position = (float(state.pusher[0]), float(state.pusher[1]))
        self._pusher.velocity = (float(state.velocity[0]), float(state.velocity[1]))
        self._block.angle = float(state.block[2])
        self._block.position = (float(state.block[0]), float(state.block[1]))
        vx, vy, turn = (float(v) for v in state.block_velocity)
        self._block.velocity = (vx, vy)
        self._block.angular_velocity = turn
        self._space.reindex_shapes_for_body(self._pusher)
        self._space.reindex_shapes_for_body(self._block)

    def state(self) -> PushTState:
        """Where everything is now."""
        block = self._block
        return PushTState(
            np.array(self._pusher.position, np.float64),
            np.array([*block.position, block.angle], np.float64),
            np.array(self._pusher.velocity, np.float64),
            np.array([*block.velocity, block.angular_velocity], np.float64),
        )

    def block_pose(self) -> tuple[float, float, float]:
        """The block's x, y, angle now."""
        x, y = self._block.position
        return x, y, self._block.angle

    def servo(self, target: Sequence[float] | Float, seconds: float = STEP) -> None:
        """Position control, as in gym-pusht: a critically damped servo pulls towards `target`.

        It lags a moving target by 0.2 s.
        """
        count, dt = _substeps(seconds)
        tx, ty = float(target[0]), float(target[1])
        for _ in range(count):
            (x, y), (vx, vy) = self._pusher.position, self._pusher.velocity
            self._pusher.velocity = (
                vx + (STIFFNESS * (tx - x) - DAMPING * vx) * dt,
                vy + (STIFFNESS * (ty - y) - DAMPING * vy) * dt,
            )
            self._space.step(dt)

    def move(self, delta: Sequence[float] | Float, seconds: float = STEP) -> None:
        """Velocity control: go by `delta` at constant speed, at most MAX_VELOCITY along an axis."""
        count, dt = _substeps(seconds)
        vx, vy = float(delta[0]) / seconds, float(delta[1]) / seconds
        most = MAX_VELOCITY
        self._pusher.velocity = (min(most, max(-most, vx)), min(most, max(-most, vy)))
        for _ in range(count):
            self._space.step(dt)

    def follow(self, target: Sequence[float] | Float, seconds: float) -> None:
        """Velocity control towards a position to be reached in `seconds`."""
        x, y = self._pusher.position
        self.move((float(target[0]) - x, float(target[1]) - y), seconds)

    def coverage(self) -> float:
        """Share of the goal that the block covers, 0..1."""
        return coverage(self.state().block)


def _substeps(seconds: float) -> tuple[int, float]:
    count = max(1, round(seconds / SUBSTEP))
    return count, seconds / count


def to_world(points: Float, pose: Sequence[float] | Float) -> Float:
    """Points [..., 2] of the block's frame at a pose (x, y, angle), float64 [..., 2]."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    turned: Float = points @ np.array([[c, s], [-s, c]]) + np.asarray(pose[:2], np.float64)
    return turned


_GOAL_PARTS = [to_world(part, GOAL) for part in (BAR, STEM)]


def coverage(block: Sequence[float] | Float) -> float:
    """Share of the goal's area that a block at this pose covers, 0..1."""
    parts = [to_world(part, block) for part in (BAR, STEM)]
    return sum(overlap(a, b) for a in parts for b in _GOAL_PARTS) / AREA


def overlap(a: Float, b: Float) -> float:
    """Area of the intersection of two convex polygons, float64 [n, 2] each, any orientation."""
    if (a.max(0) <= b.min(0)).any() or (b.max(0) <= a.min(0)).any():
        return 0.0
    points = [(float(x), float(y)) for x, y in a]
    corners = [(float(x), float(y)) for x, y in b]
    if _area(corners) < 0:
        corners.reverse()
    for i, (x0, y0) in enumerate(corners):
        x1, y1 = corners[(i + 1) % len(corners)]
        dx, dy = x1 - x0, y1 - y0
        # Keep what lies left of this edge (Sutherland and Hodgman).
        sides = [dx * (y - y0) - dy * (x - x0) for x, y in points]
        kept: list[tuple[float, float]] = []
        for k, (point, side) in enumerate(zip(points, sides, strict=True)):
            before, was = points[k - 1], sides[k - 1]
            if (side >= 0) != (was >= 0):
                t = was / (was - side)
                kept.append(
                    (
                        before[0] + t * (point[0] - before[0]),
                        before[1] + t * (point[1] - before[1]),
                    )
                )
            if side >= 0:
                kept.append(point)
        if len(kept) < 3:
            return 0.0
        points = kept
    return abs(_area(points))


def _area(points: list[tuple[float, float]]) -> float:
    total = 0.0
    for i, (x1, y1) in enumerate(points):
        x0, y0 = points[i - 1]
        total += x0 * y1 - x1 * y0
    return total / 2
