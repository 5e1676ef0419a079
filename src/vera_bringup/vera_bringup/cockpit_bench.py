"""`vera bench cockpit`: set-points of the same graph with and without a cockpit beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup.control_bench import gaps

MOST = 0.1  # promised: rate and jitter change by no more than this share
DRAWS = 2000  # of the bootstrap over pairs

Interval = tuple[float, float]
Gaps = NDArray[np.float64]


@dataclass(frozen=True)
class CockpitReport:
    """What was measured; of the pairs `without` and `beside`, in this order.

    Attributes:
        pairs: phases of each kind.
        ticks: times between two set-points of one motion.
        rate: set-points a second, while they come.
        jitter_p50, jitter_p99: ms that those times are away from the period.
        rate_ratio, jitter_ratio: beside / without, the latter of the p99; each with the interval
            that holds 95% of its bootstrap over the pairs.
        underruns: times that the actions ran out.
        goals: given; a graph that works ends them and gets the next.
        cockpit_cores, viewer_cores: taken meanwhile.
    """

    pairs: int
    ticks: tuple[int, int]
    rate: tuple[float, float]
    jitter_p50: tuple[float, float]
    jitter_p99: tuple[float, float]
    rate_ratio: float
    rate_interval: Interval
    jitter_ratio: float
    jitter_interval: Interval
    underruns: tuple[int, int]
    goals: tuple[int, int]
    cockpit_cores: float
    viewer_cores: float

    @property
    def kept(self) -> bool:
        """Whether rate and jitter are those without a cockpit, within MOST."""
        return self.rate_ratio >= 1 - MOST and self.jitter_ratio <= 1 + MOST

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Phase:
    """Some seconds of a graph at work.

    Attributes:
        stamps: int [T] ns, when the controller made each set-point, by its own clock.
        underruns, goals: as in CockpitReport.
        cockpit_cores, viewer_cores: 0 where there was none.
    """

    stamps: NDArray[np.int64]
    underruns: int
    goals: int
    cockpit_cores: float = 0.0
    viewer_cores: float = 0.0


def report(without: Sequence[Phase], beside: Sequence[Phase], period: float) -> CockpitReport:
    """Compare phases, the n-th of one kind with the n-th of the other.

    Args:
        without: phases without a cockpit.
        beside: as many with one.
        period: s of the set-points.

    Raises:
        ValueError: a phase in which hardly anything moved.
    """
    kinds = [[gaps(phase.stamps, period) for phase in phases] for phases in (without, beside)]
    if (fewest := min(len(found) for kind in kinds for found in kind)) < 100:
        raise ValueError(f'{fewest} set-points in a phase are too few to measure')
    off = [[np.abs(found - 1e3 * period) for found in kind] for kind in kinds]
    draws = np.random.default_rng(0).integers(0, len(without), (DRAWS, len(without)))

    def ratio(kind: list[list[Gaps]], number: Callable[[Gaps], float]) -> tuple[float, Interval]:
        def of(chosen: Sequence[int]) -> float:
            plain, laden = (number(np.concatenate([one[i] for i in chosen])) for one in kind)
            return laden / plain

        spread = np.quantile([of(chosen) for chosen in draws], (0.025, 0.975))
        return round(of(range(len(without))), 4), (round(spread[0], 4), round(spread[1], 4))

    def both(kind: list[list[Gaps]], number: Callable[[Gaps], float]) -> tuple[float, float]:
        plain, laden = (round(number(np.concatenate(one)), 3) for one in kind)
        return plain, laden

    rates, rate_interval = ratio(kinds, _rate)
    jitters, jitter_interval = ratio(off, _p99)
    return CockpitReport(
        pairs=len(without),
        ticks=(sum(map(len, kinds[0])), sum(map(len, kinds[1]))),
        rate=both(kinds, _rate),
        jitter_p50=both(off, lambda values: float(np.quantile(values, 0.5))),
        jitter_p99=both(off, _p99),
        rate_ratio=rates,
        rate_interval=rate_interval,
        jitter_ratio=jitters,
        jitter_interval=jitter_interval,
        underruns=(sum(p.underruns for p in without), sum(p.underruns for p in beside)),
        goals=(sum(p.goals for p in without), sum(p.goals for p in beside)),
        cockpit_cores=round(float(np.mean([p.cockpit_cores for p in beside])), 3),
        viewer_cores=round(float(np.mean([p.viewer_cores for p in beside])), 3),
    )


def _rate(values: Gaps) -> float:
    return float(1e3 / values.mean())


def _p99(values: Gaps) -> float:
    return float(np.quantile(values, 0.99))


def draw(without: Sequence[Phase], beside: Sequence[Phase], period: float, path: Path) -> None:
    """How many set-points are later or earlier than so many ms; a line for each phase."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout='constrained')
    for phases, colour, name in (
        (without, '#5d6670', 'without'), (beside, '#d98324', 'with a cockpit that is looked at')
    ):  # fmt: skip
        for i, phase in enumerate(phases):
            off = np.sort(np.abs(gaps(phase.stamps, period) - 1e3 * period))
            share = 100 * (1 - np.arange(len(off)) / len(off))
            axis.step(
                off, share, where='post', color=colour, lw=1, alpha=0.7, label='' if i else name
            )
    axis.set(
        xscale='log', yscale='log', xlabel='away from the period of set-points [ms]',
        ylabel='set-points that are further [%]', xlim=(1e-2, None),
    )
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def look(address: str) -> None:
    """Take what the page and its 3-D view are sent, until killed; `address` as http://host:port/."""
    import viser
    from websockets.asyncio.client import connect
    from websockets.typing import Subprotocol

    base = address.replace('http', 'ws', 1)

    async def read(path: str, *protocols: str) -> None:
        names = [Subprotocol(name) for name in protocols] or None
        async with connect(base + path, subprotocols=names, max_size=None, proxy=None) as link:
            async for _ in link:
                pass

    async def both() -> None:
        await asyncio.gather(read('live'), read('viser', f'viser-v{viser.__version__}'))

    asyncio.run(both())


__all__ = ['MOST', 'CockpitReport', 'Phase', 'draw', 'look', 'report']
