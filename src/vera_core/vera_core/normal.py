"""What is normal: numbers of which larger is worse, on one scale learned from good examples.

Each number becomes -log10 of the share of good examples that look worse; the score is the largest.
Nothing is assumed about what may go wrong, and no bad example is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
# Fewer good examples say nothing about the few per cent that may be flagged.
LEAST = 50
_GRID = np.linspace(0, 0.95, 20)


@dataclass(frozen=True)
class Tail:
    """Distribution of one number over good examples: quantiles, and an exponential tail.

    Attributes:
        quantiles: float64 [20], at 0, 0.05 .. 0.95.
        excess: mean of what lies above the last quantile, minus it.
    """

    quantiles: Float
    excess: float

    @classmethod
    def of(cls, values: Float) -> Tail:
        """From values [N]."""
        quantiles = np.quantile(values, _GRID)
        above = values[values > quantiles[-1]] - quantiles[-1]
        floor = 1e-3 * max(float(np.abs(quantiles).max()), 1e-9)
        return cls(quantiles, max(float(above.mean()) if len(above) else 0.0, floor))

    def rarity(self, values: Float) -> Float:
        """-log10 of the share of good examples with a larger value."""
        inside = -np.log10(1 - np.interp(values, self.quantiles, _GRID))
        beyond = np.maximum(values - self.quantiles[-1], 0) / self.excess
        return np.asarray(inside + beyond * np.log10(np.e))

    def at(self, share: float) -> float:
        """The value that a share (below 0.05) of the examples exceeds."""
        return float(self.quantiles[-1] + self.excess * np.log((1 - _GRID[-1]) / share))


@dataclass(frozen=True)
class Normal:
    """What is normal for the plans of one planner.

    Attributes:
        tails: signal -> its distribution over good plans.
        threshold: of the score.
        count: good plans it was made from.
    """

    tails: dict[str, Tail]
    threshold: float
    count: int

    @classmethod
    def of(cls, good: Sequence[Mapping[str, float]], false_alarms: float) -> Normal:
        """From the signals of good plans; a signal that some of them lack is left out.

        Args:
            good: name -> value, one mapping a plan.
            false_alarms: share of good plans that may be above the threshold, below 0.05.

        Raises:
            ValueError: fewer than LEAST plans.
        """
        if len(good) < LEAST:
            raise ValueError(f'{len(good)} good plans; what is normal needs at least {LEAST}')
        names = [name for name in good[0] if all(name in signals for signals in good)]
        tails = {name: Tail.of(np.array([signals[name] for signals in good])) for name in names}
        made = cls(tails, float('inf'), len(good))
        scores = np.array([made.score(signals)[0] for signals in good])
        return cls(tails, Tail.of(scores).at(false_alarms), len(good))

    def score(self, signals: Mapping[str, float]) -> tuple[float, str]:
        """The largest -log10 of the share of good plans that look worse, and in which signal.

        A signal that is no number counts as infinitely rare; one that was not learned, or is
        missing, does not count.
        """
        worst, name = 0.0, ''
        for known, tail in self.tails.items():
            if known not in signals:
                continue
            value = float(signals[known])
            rarity = float(tail.rarity(np.array(value))) if np.isfinite(value) else float('inf')
            if rarity >= worst:
                worst, name = rarity, known
        return worst, name

    def to_dict(self) -> dict[str, Any]:
        """For a JSON."""
        return {
            'count': self.count,
            'threshold': self.threshold,
            'tails': {
                name: {'quantiles': tail.quantiles.tolist(), 'excess': tail.excess}
                for name, tail in self.tails.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normal:
        """From a JSON; ValueError when it is not what `to_dict` gives."""
        try:
            made = cls(
                {
                    str(name): Tail(np.array(t['quantiles'], np.float64), float(t['excess']))
                    for name, t in values['tails'].items()
                },
                float(values['threshold']),
                int(values['count']),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f'what is normal: {error} is missing or wrong') from error
        if any(tail.quantiles.shape != _GRID.shape or not tail.excess > 0
               for tail in made.tails.values()) or not made.threshold > 0:
            raise ValueError('what is normal: its numbers do not fit')
        return made
