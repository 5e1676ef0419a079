"""`vera bench control`: how even set-points are, and how soon a stop works, beside a planner."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What the stack promises on a machine of its own [ms].
JITTER_MS, STOP_MS = 3.0, 50.0


@dataclass(frozen=True)
class ControlReport:
    """What was measured; times in ms.

    Attributes:
        ticks: set-points that came in a row.
        jitter_p50, jitter_p99, jitter_max: how far the times between them are from the period.
        stops: stops that were called in motion.
        taken_p50, taken_max: from the call to the first set-point that brakes, STOPPED.
        braking_p50, braking_max: from there to the first that stands still; that is speed divided
            by the limit of acceleration.
        hold_p50, hold_max: both together, from the call to standing still; up to a period too
            long, since the one that stands is the first that equals the one before.
        plans: that the planners beside it imagined meanwhile.
    """

    ticks: int
    jitter_p50: float
    jitter_p99: float
    jitter_max: float
    stops: int
    taken_p50: float
    taken_max: float
    braking_p50: float
    braking_max: float
    hold_p50: float
    hold_max: float
    plans: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def gaps(stamps: NDArray[np.int64], period: float) -> NDArray[np.float64]:
    """Times between the set-points of a motion, float64 [ticks] ms.

    Args:
        stamps: int [T] ns of the set-points. Between two motions there is silence; ten periods
            without one are no jitter but a fault.
        period: s of the set-points.
    """
    between = np.diff(stamps) / 1e6
    return np.asarray(between[between < 10e3 * period])


def report(
    stamps: NDArray[np.int64],
    positions: NDArray[np.float64],
    calls: list[int],
    taken: list[int],
    period: float,
    plans: int,
) -> ControlReport:
    """The numbers of a run.

    Args:
        stamps: int [T] ns, when the controller made each set-point, by its own clock.
        positions: float64 [T, n], the set-points.
        calls: ns, when stop was called.
        taken: ns, when the controller said STOPPED.
        period: s of the set-points.
        plans: see ControlReport.

    Raises:
        ValueError: too few set-points, or no stop, to say anything.
    """
    off = np.abs(gaps(stamps, period) - 1e3 * period)
    still, hold = [], []
    for call, taking in zip(calls, taken, strict=True):
        after = np.flatnonzero(stamps >= taking)[1:]
        standing = [i for i in after if np.array_equal(positions[i], positions[i - 1])]
        if standing:
            still.append((stamps[standing[0]] - taking) / 1e6)
            hold.append((stamps[standing[0]] - call) / 1e6)
    answers = [(t - c) / 1e6 for c, t in zip(calls, taken, strict=True)]
    if len(off) < 10 or not still:
        raise ValueError(f'{len(off)} set-points and {len(still)} stops are too few to measure')

    def at(values: Any, share: float) -> float:
        return round(float(np.quantile(values, share)), 2)

    return ControlReport(
        len(off), at(off, 0.5), at(off, 0.99), at(off, 1), len(answers), at(answers, 0.5),
        at(answers, 1), at(still, 0.5), at(still, 1), at(hold, 0.5), at(hold, 1), plans,
    )


def imagine_for_ever(threads: int | None = None) -> None:
    """Plan after plan with the compact planner, a line for each: for a process of its own."""
    from vera_core.contract import load_contract
    from vera_planner.registry import make_planner

    contract = load_contract('finger')
    planner = make_planner('compact', contract, threads=threads)
    shape = (contract.video.context, contract.canvas.height, contract.canvas.width, 3)
    context = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    seed = 0
    while True:
        planner.plan(context, 'touch the red disc', seed=seed)
        seed += 1
        print(seed, flush=True)


__all__ = ['JITTER_MS', 'STOP_MS', 'ControlReport', 'gaps', 'imagine_for_ever', 'report']
