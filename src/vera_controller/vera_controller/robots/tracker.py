"""From set-points at 100 Hz to velocities that a 1 kHz loop can follow smoothly."""

from __future__ import annotations

import numpy as np

from vera_controller.limits import Vector

# 1/s. A tenth of what 100 set-points a second allow; measured against franky-sim: 1 mrad at most
# behind a sine of 0.3 rad at 0.25 Hz, no overshoot.
GAIN = 15.0
# Share of the velocity limits that catching up may take.
CATCH_UP = 0.3
# The time between two set-points is believed between these numbers of periods.
SHORTEST, LONGEST = 0.5, 5.0


class SetpointTracker:
    """v = (r_k - r_{k-1}) / dt + gain (r_{k-1} - q_d), within the limits.

    A set-point r_k is to be reached one period after it is given, so that r_{k-1} is where the arm
    should be now. q_d is where the arm's own controller wants to be: with it the feedback never
    fights the friction or the compliance of the arm.

    Args:
        velocity: limits, float64 [n], rad/s.
        period: s between set-points.
        gain: 1/s.
    """

    def __init__(self, velocity: Vector, period: float, gain: float = GAIN) -> None:
        self._limits = np.array(velocity, np.float64)
        self._period = period
        self._gain = gain
        self._last: Vector | None = None

    @property
    def last(self) -> Vector | None:
        """The set-point before, float64 [n]; None if there was none since `start`."""
        return self._last

    def start(self) -> None:
        """A new motion: the next set-point has none before it."""
        self._last = None

    def follow(self, target: Vector, desired: Vector, dt: float) -> tuple[Vector, Vector]:
        """The velocity to command now.

        Args:
            target: float64 [n] rad, to be reached one period from now.
            desired: float64 [n] rad, q_d of the arm.
            dt: s since the set-point before.

        Returns:
            float64 [n] rad/s within the limits; and the part of it that is no feedback.
        """
        last = target if self._last is None else self._last
        dt = min(max(dt, SHORTEST * self._period), LONGEST * self._period)
        forward = np.clip((target - last) / dt, -self._limits, self._limits)
        most = CATCH_UP * self._limits
        back = np.clip(self._gain * (last - desired), -most, most)
        self._last = np.array(target, np.float64)
        return np.clip(forward + back, -self._limits, self._limits), forward


__all__ = ['CATCH_UP', 'GAIN', 'SetpointTracker']
