"""How often callbacks run and how long they take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class CallbackStats:
    """What one callback did between two readings.

    Attributes:
        name: of the callback.
        total: calls since the beginning; calls: since the last reading.
        rate: Hz; mean_ms and max_ms: duration; max_gap_ms: longest time between two starts.
        errors: calls that raised, since the beginning.
    """

    name: str
    total: int
    calls: int
    rate: float
    mean_ms: float
    max_ms: float
    max_gap_ms: float
    errors: int


class _Window:
    def __init__(self) -> None:
        self.total = self.errors = self.calls = 0
        self.busy = self.longest = self.gap = 0.0
        self.last_start: float | None = None


class CallbackMonitor:
    """Times callbacks; safe from several threads.

    Args:
        now: seconds, monotonic; tests give their own.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()
        self._since = now()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """`with monitor('on_image'): ...` counts and times one call."""
        start = self._now()
        failed = True
        try:
            yield
            failed = False
        finally:
            self._record(name, start, self._now() - start, failed)

    def _record(self, name: str, start: float, duration: float, failed: bool) -> None:
        with self._lock:
            window = self._windows.setdefault(name, _Window())
            if window.last_start is not None:
                window.gap = max(window.gap, start - window.last_start)
            window.last_start = start
            window.total += 1
            window.calls += 1
            window.errors += failed
            window.busy += duration
            window.longest = max(window.longest, duration)

    def read(self) -> list[CallbackStats]:
        """Statistics since the last reading, one for each callback that ever ran."""
        with self._lock:
            now = self._now()
            elapsed, self._since = max(now - self._since, 1e-9), now
            stats = []
            for name, window in self._windows.items():
                stats.append(
                    CallbackStats(
                        name=name,
                        total=window.total,
                        calls=window.calls,
                        rate=window.calls / elapsed,
                        mean_ms=1e3 * window.busy / max(window.calls, 1),
                        max_ms=1e3 * window.longest,
                        max_gap_ms=1e3 * window.gap,
                        errors=window.errors,
                    )
                )
                window.calls = 0
                window.busy = window.longest = window.gap = 0.0
        return stats
