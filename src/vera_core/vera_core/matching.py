"""Things of several sources matched by their stamps, with how well that works.

The first source leads: each of its things is matched with the nearest one of every other source.
That keeps the leader's rate and needs no phase between the sources; how far their stamps lie apart
is measured and told. Pure: it knows no images, no clock and no ROS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from vera_core.clocks import NS_PER_S

T = TypeVar('T')

KEPT = 8  # things of each source that wait for those of the others
WINDOW = 512  # newest sets that the quantiles are about
# A source so many periods behind the newest of all has stopped, or its clock is another one.
LATE_PERIODS = 3


@dataclass(frozen=True)
class Match(Generic[T]):
    """One thing of every source.

    Attributes:
        items: by source.
        stamp: of the leader's [ns].
        skew: newest minus oldest stamp [ns].
    """

    items: dict[str, T]
    stamp: int
    skew: int


@dataclass(frozen=True)
class MatchStats:
    """How well the sources meet.

    Attributes:
        sets: sets made since the beginning.
        dropped: things of the leader that were left out, by the source that had no match.
        skew_p50: median skew of the newest sets [s]; NaN before the first.
        skew_p99: their 99th percentile [s].
        problem: which source is missing, silent or far off in time; '' when all is well.
    """

    sets: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    skew_p50: float = float('nan')
    skew_p99: float = float('nan')
    problem: str = ''


class Matcher(Generic[T]):
    """Gives the newest set whose stamps lie within `max_skew`.

    Args:
        periods: source -> nanoseconds between its things; the first one leads.
        max_skew: most nanoseconds between the oldest and the newest of one set.

    Raises:
        ValueError: no source, or a number that is not positive.
    """

    def __init__(self, periods: Mapping[str, int], max_skew: int) -> None:
        if not periods or min(periods.values()) <= 0:
            raise ValueError(f'periods are {dict(periods)} ns; each source needs a positive one')
        if max_skew <= 0:
            raise ValueError(f'max_skew is {max_skew} ns; it must be positive')
        self._periods = dict(periods)
        self._max_skew = max_skew
        self._leader, *self._others = periods
        self._waiting: dict[str, deque[tuple[int, T]]] = {
            name: deque(maxlen=KEPT) for name in periods
        }
        self._newest: dict[str, int] = {}
        self._skews: deque[int] = deque(maxlen=WINDOW)
        self._sets = 0
        self._dropped = dict.fromkeys(self._others, 0)

    @property
    def sources(self) -> Sequence[str]:
        """All sources, the leader first."""
        return tuple(self._periods)

    def add(self, source: str, stamp: int, item: T) -> Match[T] | None:
        """Take one thing; returns the newest set if there is a new one.

        Args:
            source: where it comes from.
            stamp: of its acquisition [ns].
            item: kept until it is matched or too old.

        Raises:
            KeyError: an unknown source.
        """
        queue = self._waiting[source]
        newest = self._newest.get(source)
        if newest is not None and stamp < newest:
            # The clock was set back: nothing kept belongs to what comes now.
            self._newest.clear()
            for waiting in self._waiting.values():
                waiting.clear()
        self._newest[source] = stamp
        if source == self._leader and len(queue) == KEPT:
            self._drop(self._latest())  # pushed out unmatched
        queue.append((stamp, item))
        found: Match[T] | None = None
        while self._waiting[self._leader]:
            match = self._match(*self._waiting[self._leader][0])
            if match is None:
                break
            self._waiting[self._leader].popleft()
            if isinstance(match, str):
                self._drop(match)
            else:
                found = match
                self._sets += 1
                self._skews.append(match.skew)
        return found

    def stats(self) -> MatchStats:
        """How well the sources met so far."""
        p50, p99 = (
            np.quantile(self._skews, (0.5, 0.99)) / NS_PER_S if self._skews else (np.nan, np.nan)
        )
        return MatchStats(self._sets, dict(self._dropped), float(p50), float(p99), self.problem())

    def problem(self) -> str:
        """Which source is missing, silent or far off in time, in words; '' when all is well."""
        if len(self._periods) == 1 or not self._newest:
            return ''
        told = []
        latest = max(self._newest.values())
        for name, period in self._periods.items():
            stamp = self._newest.get(name)
            if stamp is None:
                told.append(f'nothing from {name!r} yet')
            elif latest - stamp > max(LATE_PERIODS * period, self._max_skew):
                behind = (latest - stamp) / NS_PER_S
                told.append(
                    f'{name!r} is {behind:.2f} s behind: it has stopped, or its clock is off'
                )
        return '; '.join(told)

    def _match(self, stamp: int, item: T) -> Match[T] | str | None:
        """The set of a thing of the leader; the source that has no match; None: wait for it."""
        chosen = {self._leader: (stamp, item)}
        for name in self._others:
            queue = self._waiting[name]
            # Until then a nearer one may still come.
            patience = min(self._max_skew, self._periods[name] // 2)
            if not queue or queue[-1][0] < stamp - patience:
                return None
            chosen[name] = min(queue, key=lambda kept: abs(kept[0] - stamp))
        for name, (other, _) in chosen.items():
            if abs(other - stamp) > self._max_skew:
                return name
        stamps = [kept[0] for kept in chosen.values()]
        skew = max(stamps) - min(stamps)
        if skew > self._max_skew:
            # Each is near enough to the leader, but one is before it and another behind.
            return max(self._others, key=lambda name: abs(chosen[name][0] - stamp))
        return Match({name: kept[1] for name, kept in chosen.items()}, stamp, skew)

    def _latest(self) -> str:
        """The source that others wait for."""
        return min(self._others, key=lambda name: self._newest.get(name, -1), default='')

    def _drop(self, culprit: str) -> None:
        if culprit:
            self._dropped[culprit] += 1


__all__ = ['Match', 'MatchStats', 'Matcher']
