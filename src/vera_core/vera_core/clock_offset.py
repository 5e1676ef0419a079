"""How far two clocks are apart, from questions and answers, as NTP does it.

Who asks at t0 (own clock), is answered with the other clock's t1, and hears that at t3 (own clock)
knows the other clock to be t1 - (t0 + t3) / 2 ahead, give or take half of the round trip t3 - t0:
the answer may have been given at any time between. The shortest of some round trips says most
(RFC 5905, clock filter).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from vera_core.clocks import ns_to_seconds

WINDOW = 16  # round trips of which the shortest counts


@dataclass(frozen=True)
class Offset:
    """Of another clock to ours.

    Attributes:
        seconds: how far it is ahead.
        uncertainty: half of the round trip, s.
    """

    seconds: float
    uncertainty: float

    def beyond(self, limit: float) -> bool:
        """Whether it is certainly more than `limit` seconds."""
        return abs(self.seconds) - self.uncertainty > limit

    def within(self, limit: float) -> bool:
        """Whether it is certainly at most `limit` seconds."""
        return abs(self.seconds) + self.uncertainty <= limit

    def agrees(self, other: Offset) -> bool:
        """Whether both can be true of the same clocks, which drift apart by 1 ms meanwhile."""
        apart = abs(self.seconds - other.seconds)
        return apart <= self.uncertainty + other.uncertainty + 1e-3

    def __str__(self) -> str:
        way = 'ahead of' if self.seconds < 0 else 'behind'
        size, margin = 1e3 * abs(self.seconds), 1e3 * self.uncertainty
        return f'{size:.1f} ms {way} it (give or take {margin:.1f} ms)'


class OffsetFilter:
    """Keeps the last round trips; their shortest is the estimate."""

    def __init__(self, window: int = WINDOW) -> None:
        self._trips: deque[Offset] = deque(maxlen=window)

    def add(self, asked: int, answered: int, heard: int) -> None:
        """One round trip; one that contradicts the others (a clock was set) makes them forgotten.

        Args:
            asked: t0, ns, our clock.
            answered: t1, ns, the other clock.
            heard: t3, ns, our clock.
        """
        if heard < asked:
            self._trips.clear()
            return
        half = ns_to_seconds(heard - asked) / 2
        trip = Offset(ns_to_seconds(answered - asked) - half, half)
        best = self.best
        if best is not None and not trip.agrees(best):
            self._trips.clear()
        self._trips.append(trip)

    def __len__(self) -> int:
        return len(self._trips)

    @property
    def best(self) -> Offset | None:
        """The estimate; None before the first answer."""
        return min(self._trips, key=lambda trip: trip.uncertainty, default=None)
