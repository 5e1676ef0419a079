"""Which part of the actions, and of the joints' range, a data set has seen: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import Contract
from vera_jidm.episodes import read_shard

BINS = 10
LEAST = 0.01  # share of all transitions that fills a bin
THIN = 0.6  # of the bins: below it more data is worth while


@dataclass(frozen=True)
class Covered:
    """Of one channel, or of one joint.

    Attributes:
        name: of it. unit: of `low` and `high`.
        low, high: what was reached.
        share: of actions: bins between -p99 and p99 of the size that hold at least LEAST of the
            transitions; of joints: the range visited, as a share of the limits.
    """

    name: str
    unit: str
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class Coverage:
    """Of a data set: transitions, channels' actions, joints (none if they were not recorded)."""

    transitions: int
    channels: tuple[Covered, ...]
    joints: tuple[Covered, ...]

    def text(self) -> str:
        """A table for people, and what is thin in it."""
        lines = [f'{"channel":<22} {"smallest":>9} {"largest":>9}   bins filled']
        lines += [
            f'{c.name:<22} {c.low:>9.3g} {c.high:>9.3g} {c.unit:<5} {round(c.share * BINS)} of '
            f'{BINS}'
            for c in self.channels
        ]
        if self.joints:
            lines.append(f'{"joint":<22} {"lowest":>9} {"highest":>9}   of its range')
            lines += [
                f'{c.name:<22} {c.low:>9.3g} {c.high:>9.3g} {c.unit:<5} {c.share:.0%}'
                for c in self.joints
            ]
        thin = [c.name for c in self.channels if c.share < THIN]
        if thin:
            lines.append(f'thin: {", ".join(thin)}; more transitions, or a larger --max-delta')
        return '\n'.join(lines)


def coverage_of(folder: Path, contract: Contract) -> Coverage:
    """Read a folder of episode files.

    Raises:
        DatasetError: a damaged file.
        ValueError: none there.
    """
    actions, positions = [], []
    for path in sorted(folder.glob('*.mcap')):
        data, _ = read_shard(path)
        actions.append(data.actions)
        if data.positions is not None:
            positions.append(data.positions.reshape(-1, data.positions.shape[-1]))
    if not actions:
        raise ValueError(f'{folder} holds no episodes')
    units = [channel.unit for channel in contract.channels]
    channels = _channels(contract.channel_names, units, np.concatenate(actions))
    joints: tuple[Covered, ...] = ()
    if positions:
        joints = _joints(contract, np.concatenate(positions))
    return Coverage(sum(map(len, actions)), channels, joints)


def _channels(
    names: Sequence[str], units: Sequence[str], actions: NDArray[np.float32]
) -> tuple[Covered, ...]:
    found = []
    for name, unit, column in zip(names, units, actions.T, strict=True):
        reach = float(np.quantile(np.abs(column), 0.99))
        share = 0.0
        if reach > 0:
            counts, _ = np.histogram(column, BINS, (-reach, reach))
            share = float((counts >= max(1, LEAST * len(column))).mean())
        found.append(Covered(name, unit, float(column.min()), float(column.max()), share))
    return tuple(found)


def _joints(contract: Contract, positions: NDArray[np.float64]) -> tuple[Covered, ...]:
    low, high = contract.position_limits
    least, most = positions.min(0), positions.max(0)
    share = (most - least) / (high - low)
    return tuple(
        Covered(name, '', float(least[i]), float(most[i]), float(share[i]))
        for i, name in enumerate(contract.joint_names)
    )


__all__ = ['Coverage', 'Covered', 'coverage_of']
