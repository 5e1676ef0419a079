"""Where the robot was when a frame was taken."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from vera_core.clocks import ns_to_seconds, seconds_to_ns

Vector = NDArray[np.float64]


class HistoryError(LookupError):
    """A time about which nothing is known; the message says how far it is from what is."""


class StateHistory:
    """Measured positions of the recent past, asked for by stamp.

    Args:
        maxlen: states remembered.
        max_gap: [s] longest gap between two states that is still interpolated.
    """

    def __init__(self, maxlen: int = 4096, max_gap: float = 0.5) -> None:
        if maxlen < 2:
            raise ValueError(f'a history of {maxlen} states cannot interpolate; use 2 or more')
        self._maxlen = maxlen
        self._max_gap_ns = seconds_to_ns(max_gap)
        self._stamps: list[int] = []
        self._positions: list[Vector] = []

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def newest(self) -> int | None:
        """Stamp of the newest state [ns], or None."""
        return self._stamps[-1] if self._stamps else None

    @property
    def oldest(self) -> int | None:
        """Stamp of the oldest state remembered [ns], or None."""
        return self._stamps[0] if self._stamps else None

    def add(self, stamp: int, positions: Vector) -> None:
        """Remember float64 [n] positions measured at `stamp`.

        Raises:
            ValueError: not newer than the newest.
        """
        if self._stamps and stamp <= self._stamps[-1]:
            raise ValueError(
                f'state at {stamp} ns is not newer than the last one at {self._stamps[-1]} ns'
            )
        self._stamps.append(stamp)
        self._positions.append(positions)
        # Cut rarely: taking from the front of a list moves all of it.
        if len(self._stamps) >= 2 * self._maxlen:
            del self._stamps[: -self._maxlen]
            del self._positions[: -self._maxlen]

    def at(self, stamp: int) -> Vector:
        """Positions at `stamp`, float64 [n], interpolated between the states around it.

        Raises:
            HistoryError: before the oldest, after the newest, or in a gap.
        """
        if not self._stamps:
            raise HistoryError('no joint state is known yet')
        first, last = self._stamps[0], self._stamps[-1]
        if stamp < first:
            raise HistoryError(
                f'it is {ns_to_seconds(first - stamp):.3f} s older than the oldest joint state'
            )
        if stamp > last:
            raise HistoryError(
                f'it is {ns_to_seconds(stamp - last):.3f} s newer than the newest joint state'
            )
        i = bisect_left(self._stamps, stamp)
        if self._stamps[i] == stamp:
            return self._positions[i].copy()
        before, after = self._stamps[i - 1], self._stamps[i]
        if after - before > self._max_gap_ns:
            raise HistoryError(
                f'it lies in a gap of {ns_to_seconds(after - before):.2f} s without joint states'
            )
        share = (stamp - before) / (after - before)
        return self._positions[i - 1] + share * (self._positions[i] - self._positions[i - 1])

    def clear(self) -> None:
        """Forget everything."""
        self._stamps.clear()
        self._positions.clear()


__all__ = ['HistoryError', 'StateHistory']
