"""A thread that ticks at absolute times, its jitter, and real-time priority where permitted."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Threads of Python take turns this often [s]; a tick waits for at most one turn of each other.
SWITCH_S = 0.0005
# Of SCHED_FIFO: above all normal processes, below the threads of the kernel.
PRIORITY = 10
# Ticks that the statistics are about.
REMEMBERED = 1000


@dataclass(frozen=True)
class Jitter:
    """How far the times between ticks were from the period: ms, over the last `ticks` of them."""

    ticks: int
    p50: float
    p99: float
    worst: float


class Ticker:
    """Calls `tick` every `period` seconds in a thread of its own.

    Times are absolute, so errors do not add up. A tick that lasts longer than its period is not
    made up for: the next is at the next full period.

    Args:
        tick: called with nothing.
        period: s.
        failed: called with what `tick` raised; the thread ends then.
    """

    def __init__(
        self, tick: Callable[[], None], period: float, failed: Callable[[BaseException], None]
    ) -> None:
        self._tick, self._period, self._failed = tick, period, failed
        self._starts: deque[float] = deque(maxlen=REMEMBERED + 1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='ticks', daemon=True)

    def start(self) -> None:
        """Begin; the first tick is now."""
        self._thread.start()

    def stop(self) -> None:
        """End after the tick in progress; safe to call twice, and before `start`."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def jitter(self) -> Jitter | None:
        """Of the last ticks, or None before there are two."""
        starts = np.array(self._starts)
        if len(starts) < 2:
            return None
        off = 1e3 * np.abs(np.diff(starts) - self._period)
        return Jitter(len(off), *(float(np.quantile(off, q)) for q in (0.5, 0.99, 1.0)))

    def _run(self) -> None:
        begin, count = time.monotonic(), 0
        while not self._stop.is_set():
            now = time.monotonic()
            self._starts.append(now)
            try:
                self._tick()
            except BaseException as error:  # whatever it is, a thread must say why it ends
                self._failed(error)
                return
            count = max(count + 1, int((time.monotonic() - begin) / self._period) + 1)
            # time.sleep is exact to tens of microseconds; an Event waits by polling with the GIL.
            wait = begin + count * self._period - time.monotonic()
            if wait > 0:
                time.sleep(wait)


def hurry() -> str:
    """Make this process answer fast: short turns of threads, real-time priority; how it went.

    To be called before there are threads: they inherit the priority.
    """
    sys.setswitchinterval(SWITCH_S)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except (OSError, AttributeError) as error:
        return (
            f'set-points have normal priority ({error}); for real-time priority give the user '
            'the right to it: rtprio in /etc/security/limits.d'
        )
    return f'set-points have real-time priority {PRIORITY} (SCHED_FIFO)'


__all__ = ['Jitter', 'Ticker', 'hurry']
