"""The action chunk: K consecutive actions, in the units and by the channel names of a contract."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class ChunkError(ValueError):
    """A chunk that may not be executed; the message names what is wrong with it."""


@dataclass(frozen=True)
class ActionChunk:
    """Actions that follow an anchor frame.

    Attributes:
        stamp: acquisition time of the anchor frame o_t, integer nanoseconds.
        goal_id: goal served; plan_seq: plan it was translated from.
        channels: n channel names of the contract.
        period: seconds that one action lasts.
        values: float64 [K, n], unit of each channel as in the contract.
        residual: float32 [K], ridge residual relative to the flow.
        observability: float32 [n], diag(J'WJ) of each channel relative to the largest.
        part: counts the chunks that one plan gives in servo mode; 0 is the only one.
        observed: stamp of the newest frame that its plan was made from, integer nanoseconds;
            the anchor's if None.

    Raises:
        ChunkError: a shape that does not fit, or a number that is not finite.
    """

    stamp: int
    goal_id: int
    plan_seq: int
    channels: tuple[str, ...]
    period: float
    values: NDArray[np.float64]
    residual: NDArray[np.float32]
    observability: NDArray[np.float32]
    translator_id: str = ''
    model_hash: str = ''
    latency: float = 0.0
    part: int = 0
    observed: int | None = None

    def __post_init__(self) -> None:
        n = len(self.channels)
        k = len(self.values)
        if k == 0 or self.values.shape != (k, n):
            raise ChunkError(
                f'values have shape {self.values.shape}; expected [K >= 1, n = {n}] '
                f'for channels {", ".join(self.channels)}'
            )
        shapes = {
            'residual': (self.residual.shape, (k,)),
            'observability': (self.observability.shape, (n,)),
        }
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise ChunkError(f'{name} has shape {found}; expected {expected}')
        bad = ~np.isfinite(self.values)
        if bad.any():
            step, column = (int(i) for i in np.argwhere(bad)[0])
            raise ChunkError(
                f'action {step} of channel {self.channels[column]!r} is not a finite number'
            )
        if not (np.isfinite(self.period) and self.period > 0):
            raise ChunkError(f'period is {self.period} s; it must be positive')

    @property
    def steps(self) -> int:
        """K, the number of actions."""
        return len(self.values)

    @property
    def seen(self) -> int:
        """Stamp of the newest frame that its plan was made from [ns]."""
        return self.stamp if self.observed is None else self.observed

    @property
    def duration(self) -> float:
        """Seconds from the anchor to the end of the last action."""
        return self.steps * self.period
