"""Real time for a simulation: how many physics steps are due, with a bound on catching up."""

from __future__ import annotations

from vera_core.clocks import NS_PER_S


class Pacer:
    """Counts the physics steps that real time asks for.

    A process that was held up catches up by at most `max_catch_up` seconds at once; what exceeds
    that is dropped and counted, so that a slow machine simulates slowly instead of falling ever
    further behind.

    Args:
        rate: physics steps per second [Hz].
        max_catch_up: seconds made up at once.
    """

    def __init__(self, rate: float, max_catch_up: float = 0.1) -> None:
        if not rate > 0:
            raise ValueError(f'the physics rate is {rate} Hz; it must be positive')
        self._period = NS_PER_S / rate
        self._most = max(1, int(max_catch_up * rate))
        self._origin = 0
        self._done = 0
        self.dropped = 0  # steps given up since the start

    @property
    def dropped_seconds(self) -> float:
        """Simulated time given up since the start [s]."""
        return self.dropped * self._period / NS_PER_S

    def start(self, now: int) -> None:
        """Nothing is due at `now`, ns of a monotonic clock; counts begin here."""
        self._origin = now
        self._done = 0
        self.dropped = 0

    def due(self, now: int) -> int:
        """Steps to make now, 0 to the bound."""
        total = int((now - self._origin) / self._period)
        steps = total - self._done
        if steps <= 0:
            return 0
        excess = max(0, steps - self._most)
        self._done = total
        self.dropped += excess
        return steps - excess

    def duration_ns(self, steps: int) -> int:
        """Nanoseconds that `steps` physics steps last."""
        return round(steps * self._period)

    def residue_ns(self, now: int) -> int:
        """Nanoseconds of `now` that the steps made so far do not reach."""
        return now - self._origin - round(self._done * self._period)


__all__ = ['Pacer']
