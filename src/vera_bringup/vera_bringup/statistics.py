"""Numbers of an evaluation: a rate with its uncertainty, and why episodes failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

CAME_TRUE = 0.5
JERK_S = 0.05  # set-points are this far apart where their jerk is taken
Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution

# Of a goal that is to be covered. VERA counts an episode from 0.738 on (a reward of 0.9 of 0.82),
# its environment from 0.82 on, and gym-pusht from 0.95 on.
COVERAGES = (0.738, 0.82, 0.95)

REACHED = 'reached'
WRONG = 'another goal was reached first'
RESTED = 'the plan came to rest elsewhere'
NO_MOTION = 'the plan showed no motion'
TIME = 'not reached in time'
STOPPED = 'the controller stopped'
IMPLAUSIBLE = 'too many plans in a row were rejected'


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        index: of the episode; seed: of its scene.
        prompt: the goal in words; target: the object it means.
        outcome: REACHED or why not.
        progress: share of the way to the object, 0..1, at the end; see SimWorld.progress.
        duration: simulated seconds.
        replan_ms: what each plan took, from the context to the frames.
        coverage: largest share of the goal that was covered; NaN where none is to be covered.
        reached: the object that was reached, '' if none. left: from the object at the end, as
            the environment's distances: pixels of the canvas, of the Panda metres.
        reason: what goal keeper or controller said last.
        plan_ages: age of the plan being executed, every 0.1 s [s].
        underruns: times the actions ran out; in lock-step time waits instead.
        jerk: root mean square over the set-points, see `jerk_squares`; NaN if nothing moved.
        setpoints: sent to the robot; clipped: those of them that the safety filter changed.
        rejected: of each plan that the gate stopped, or only reported, the signal against it.
        dreams: of each executed plan, whether its dream was right (dream_judge); () if not judged.
        realised: of each executed plan, the share of the dreamt change that came true.
        chunks: (anchor [ns since the start], values float64 [K, n]) of each action chunk.
        commands: float64 [ticks, joints], every set-point; first tick first.
        film: uint8 [F, 2, H, W, 3], of each frame period what was seen and what had been dreamt.
    """

    index: int
    seed: int
    prompt: str
    target: str
    outcome: str
    progress: float
    duration: float
    replan_ms: tuple[float, ...] = ()
    coverage: float = float('nan')
    reached: str = ''
    left: float = float('nan')
    reason: str = ''
    plan_ages: tuple[float, ...] = field(default=(), repr=False)
    underruns: int = 0
    jerk: float = float('nan')
    setpoints: int = 0
    clipped: int = 0
    rejected: tuple[str, ...] = ()
    dreams: tuple[bool, ...] = ()
    realised: tuple[float, ...] = ()
    chunks: tuple[tuple[int, NDArray[np.float64]], ...] = field(default=(), repr=False)
    commands: NDArray[np.float64] | None = field(default=None, repr=False)
    film: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def success(self) -> bool:
        """Whether the instructed object was reached: see vera_drivers.sim_world."""
        return self.outcome == REACHED

    @property
    def came_true(self) -> tuple[bool, ...]:
        """Of each executed plan, whether at least half of the dreamt change came true."""
        return tuple(share >= CAME_TRUE for share in self.realised)

    @property
    def dream_success(self) -> bool:
        """Whether more than half of its executed plans were right."""
        return 2 * sum(self.dreams) > len(self.dreams)

    @property
    def execution_success(self) -> bool:
        """Whether more than half of them came true."""
        return 2 * sum(self.came_true) > len(self.came_true)


_NOT_KEPT = ('chunks', 'commands', 'film')


def to_row(result: EpisodeResult) -> dict[str, Any]:
    """An episode as plain data for a line of JSON, without its arrays; NaN becomes None."""
    names = [f.name for f in fields(EpisodeResult) if f.name not in _NOT_KEPT]
    row = {name: getattr(result, name) for name in names}
    return {
        key: None if isinstance(value, float) and math.isnan(value) else _plain(value)
        for key, value in row.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def from_row(row: dict[str, Any]) -> EpisodeResult:
    """The inverse of `to_row`; raises ValueError for a row of something else."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else math.nan if value is None else value
        for key, value in row.items()
    }
    try:
        return EpisodeResult(**values)
    except TypeError as error:
        raise ValueError(f'a row is not of an episode: {error}') from None


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a rate.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The ends are exact where rounding would leave a hair.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def pearson(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Pearson's correlation of pairs, and its 95% interval by Fisher's z; NaN where undefined.

    The interval needs four pairs; it takes them as drawn from a normal distribution in two
    dimensions, which is an approximation.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    if len(x) < 2 or not x.std() or not y.std():
        return (math.nan,) * 3
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if len(x) < 4:
        return r, math.nan, math.nan
    if abs(r) > 1 - 1e-12:
        return r, r, r
    half = Z95 / math.sqrt(len(x) - 3)
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def rank_violation(predicted: Sequence[float], real: Sequence[float]) -> float:
    """Mean over the policies of the largest real difference that a wrong order costs, 0..1.

    The mean maximum rank violation of Li et al., Evaluating Real-World Robot Manipulation Policies
    in Simulation, 2024.
    """
    p, r = np.asarray(predicted, float), np.asarray(real, float)
    wrong = (p[:, None] < p) != (r[:, None] < r)
    return float((np.abs(r[:, None] - r) * wrong).max(axis=1).mean())


def jerk_squares(path: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    """Mean squared jerk of the joints at each set-point, in their (unit/s^3)^2.

    Args:
        path: float64 [ticks, joints], set-points.
        period: between them [s].

    Returns:
        float64 [J], from set-points JERK_S apart; empty if there are fewer than four.
    """
    every = max(1, round(JERK_S / period))
    third = np.diff(path[::every], n=3, axis=0) / (every * period) ** 3
    return np.square(third).mean(axis=1) if len(third) else np.zeros(0)


def root_mean(squares: NDArray[np.float64]) -> float:
    """Root of the mean; NaN of nothing."""
    return float(np.sqrt(squares.mean())) if len(squares) else float('nan')


def summarise(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Plain data, with the keys that `vera eval --json` promises."""
    n = len(results)
    successes = sum(r.success for r in results)
    low, high = wilson(successes, n)
    replans = np.array([ms for r in results for ms in r.replan_ms])
    p50, p95 = (
        (round(float(np.percentile(replans, p)), 2) for p in (50, 95))
        if len(replans)
        else (None, None)
    )
    failures = Counter(r.outcome for r in results if not r.success)
    return {
        'success_rate': round(successes / n, 4) if n else 0.0,
        'n': n,
        'ci_low': round(low, 4),
        'ci_high': round(high, 4),
        'progress': round(float(np.mean([r.progress for r in results])), 4) if n else 0.0,
        'wrong_rate': round(failures[WRONG] / n, 4) if n else 0.0,
        'replan_ms_p50': p50,
        'replan_ms_p95': p95,
        'plans': len(replans),
        'failures': dict(failures.most_common()),
        'seconds_to_goal': _rounded(
            np.median([r.duration for r in results if r.success]) if successes else None
        ),
        **_motion(results),
        **_gate_rates([r for r in results if r.dreams or r.realised or r.rejected]),
        **_coverage_rates([r.coverage for r in results if not math.isnan(r.coverage)]),
    }


def _motion(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """How the robot moved: numbers over all episodes together, None where nothing is known."""
    ages = np.concatenate([np.zeros(0), *(np.array(r.plan_ages) for r in results)])
    sent = sum(r.setpoints for r in results)
    moved = [r for r in results if not math.isnan(r.jerk)]
    minutes = sum(r.duration for r in results if r.setpoints) / 60
    # Each episode's mean square counts as long as it lasted.
    weights = np.array([r.setpoints for r in moved], float)
    square = np.average([r.jerk**2 for r in moved], weights=weights) if weights.sum() else None
    p50, p95 = np.percentile(ages, (50, 95)) if len(ages) else (None, None)
    return {
        'plan_age_p50': _rounded(p50),
        'plan_age_p95': _rounded(p95),
        'underruns': sum(r.underruns for r in results) if sent else None,
        'underruns_per_minute': _rounded(
            sum(r.underruns for r in results) / minutes if minutes else None
        ),
        'jerk': _rounded(None if square is None else math.sqrt(square)),
        'clip_ratio': _rounded(sum(r.clipped for r in results) / sent if sent else None),
    }


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


def _gate_rates(judged: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Dream and execution apart; {} where no plan was judged."""
    if not judged:
        return {}

    def rate(hits: Sequence[bool]) -> dict[str, Any]:
        low, high = wilson(sum(hits), len(hits))
        return {
            'rate': round(sum(hits) / max(len(hits), 1), 4), 'n': len(hits),
            'ci_low': round(low, 4), 'ci_high': round(high, 4),
        }

    compared = [r for r in judged if r.realised]
    dreamt = [r for r in judged if r.dreams]
    return {
        'dream_success': rate([r.dream_success for r in dreamt]),
        'execution_success': rate([r.execution_success for r in compared]),
        'success_where_dream_right': rate([r.success for r in dreamt if r.dream_success]),
        'success_where_dream_wrong': rate([r.success for r in dreamt if not r.dream_success]),
        'rejected': dict(Counter(name for r in judged for name in r.rejected).most_common()),
    }


def _coverage_rates(best: Sequence[float]) -> dict[str, Any]:
    """Success at each of COVERAGES, from the largest coverage of each episode; {} without any."""
    if not best:
        return {}
    rates = []
    for coverage in COVERAGES:
        hits = sum(value >= coverage for value in best)
        low, high = wilson(hits, len(best))
        rates.append(
            {
                'coverage': coverage,
                'success_rate': round(hits / len(best), 4),
                'ci_low': round(low, 4),
                'ci_high': round(high, 4),
            }
        )
    return {'mean_best_coverage': round(float(np.mean(best)), 4), 'coverage_rates': rates}
