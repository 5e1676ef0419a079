"""Time: integer nanoseconds everywhere, a clock that tests can hold, and a watchdog.

Watchdogs run on the monotonic clock; data carries the stamps of its acquisition.
"""

from __future__ import annotations

import math
import time
from typing import Any, Protocol, runtime_checkable

NS_PER_S = 1_000_000_000


def to_ns(stamp: Any) -> int:
    """Nanoseconds of anything like builtin_interfaces/Time or Duration, or of an rclpy Time.

    Args:
        stamp: has `sec` and `nanosec`, or `nanoseconds`.

    Raises:
        TypeError: it has neither.
    """
    if hasattr(stamp, 'nanosec') and hasattr(stamp, 'sec'):
        return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)
    if hasattr(stamp, 'nanoseconds'):
        return int(stamp.nanoseconds)
    raise TypeError(
        f'{type(stamp).__name__} is no stamp: it has neither sec and nanosec nor nanoseconds'
    )


def from_ns(ns: int) -> tuple[int, int]:
    """(sec, nanosec) of integer nanoseconds, as builtin_interfaces/Time wants them."""
    sec, nanosec = divmod(int(ns), NS_PER_S)
    return sec, nanosec


def seconds_to_ns(seconds: float) -> int:
    """Nearest whole nanosecond; raises ValueError for a number that is not finite."""
    if not math.isfinite(seconds):
        raise ValueError(f'{seconds} s is no time')
    return round(seconds * NS_PER_S)


def ns_to_seconds(ns: int) -> float:
    """Seconds as a float: for durations and display, never for stamps."""
    return ns / NS_PER_S


@runtime_checkable
class Clock(Protocol):
    """What tells the time."""

    def now(self) -> int:
        """Integer nanoseconds since an arbitrary start."""


class MonotonicClock:
    """The machine's monotonic clock: it never jumps, whatever NTP does."""

    def now(self) -> int:
        """Integer nanoseconds since an arbitrary start."""
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves only when told: for tests and for lock-step."""

    def __init__(self, now: int = 0) -> None:
        self._now = int(now)

    def now(self) -> int:
        """The time it was last set to."""
        return self._now

    def advance(self, ns: int) -> int:
        """Move forward by `ns` >= 0 nanoseconds and return the new time."""
        return self.set(self._now + int(ns))

    def set(self, now: int) -> int:
        """Move to `now`; raises ValueError when that is in the past."""
        if now < self._now:
            raise ValueError(f'time never goes backwards: {now} ns is before {self._now} ns')
        self._now = int(now)
        return self._now


class Watchdog:
    """Expires when it has not been fed for `timeout` seconds.

    It counts from its construction, so that something that never arrives expires too.
    """

    def __init__(self, timeout: float, clock: Clock | None = None) -> None:
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f'a watchdog needs a positive timeout, not {timeout} s')
        self.timeout = timeout
        self._timeout_ns = seconds_to_ns(timeout)
        self._clock = clock if clock is not None else MonotonicClock()
        self._since = self._clock.now()
        self._fed = False

    @property
    def fed(self) -> bool:
        """Whether anything arrived since the construction or the last reset."""
        return self._fed

    @property
    def age(self) -> float:
        """Seconds since it was last fed, or since it began to wait."""
        return ns_to_seconds(self._clock.now() - self._since)

    @property
    def expired(self) -> bool:
        """Whether more than `timeout` seconds went by unfed."""
        return self._clock.now() - self._since > self._timeout_ns

    def feed(self) -> None:
        """Something arrived."""
        self._since = self._clock.now()
        self._fed = True

    def reset(self) -> None:
        """Begin to wait afresh."""
        self._since = self._clock.now()
        self._fed = False
