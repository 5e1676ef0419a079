"""A path through equally spaced points in time."""

from __future__ import annotations

from dataclasses import dataclass

from vera_controller.limits import Vector


@dataclass(frozen=True)
class Polyline:
    """Straight lines from knot to knot.

    Attributes:
        start: time of the first knot [ns]; period: between knots [ns].
        knots: float64 [K + 1, n].
    """

    start: int
    period: int
    knots: Vector

    @property
    def end(self) -> int:
        """Time of the last knot [ns]."""
        return self.start + self.period * (len(self.knots) - 1)

    def at(self, time: int) -> Vector:
        """Position at `time` [ns], float64 [n]; before the first knot the first, likewise last."""
        if time <= self.start:
            return self.knots[0].copy()
        if time >= self.end:
            return self.knots[-1].copy()
        # Whole nanoseconds: the index is exact, however large the stamp.
        index, rest = divmod(time - self.start, self.period)
        share = rest / self.period
        here: Vector = self.knots[index] + share * (self.knots[index + 1] - self.knots[index])
        return here


__all__ = ['Polyline']
