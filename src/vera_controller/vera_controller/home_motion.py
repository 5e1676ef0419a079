"""The slow way home."""

from __future__ import annotations

import numpy as np

from vera_controller.limits import Limits, Vector
from vera_controller.polyline import Polyline
from vera_core.clocks import seconds_to_ns

# Every joint arrives at the same time, the slowest at this share of its velocity limit.
SPEED = 0.25
# Home is reached when the set-point is this close to it [rad or m].
ARRIVED = 1e-6


class HomeMotion:
    """A straight line in joint space, from the set-point at its first sample to the home pose.

    Args:
        home: float64 [n].
        limits: of the robot.
        period_ns: between set-points.
        speed: share of the velocity limits.
    """

    def __init__(self, home: Vector, limits: Limits, period_ns: int, speed: float = SPEED) -> None:
        self._home = np.clip(home, limits.low, limits.high)
        self._velocity = speed * limits.velocity
        self._period_ns = period_ns
        self._path: Polyline | None = None

    def sample(self, time: int, set_point: Vector) -> Vector | None:
        """The target at `time` [ns], or None once `set_point`, the last one, has arrived."""
        if self._path is None:
            seconds = float((np.abs(self._home - set_point) / self._velocity).max())
            duration = max(seconds_to_ns(seconds), self._period_ns)
            start = time - self._period_ns
            self._path = Polyline(start, duration, np.stack([set_point, self._home]))
        arrived = bool((np.abs(set_point - self._home) <= ARRIVED).all())
        return None if arrived and time > self._path.end else self._path.at(time)


__all__ = ['HomeMotion']
