"""Numbers of an evaluation: a rate with its uncertainty, and why episodes failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        coverage: largest share of the goal that was covered; NaN where none is to be covered.
        duration: simulated seconds.
        replan_ms: what each plan took, from the context to the frames.
        chunks: (anchor [ns since the start], values float64 [K, n]) of each action chunk.
        commands: float64 [ticks, joints], every set-point; first tick first.
        rejected: of each plan that the gate stopped, or only reported, the signal against it.
        dreams: of each executed plan, whether its dream was right (dream_judge); () if not judged.
        realised: of each executed plan, the share of the dreamt change that came true.
        came_true: whether that is as much as of good plans.
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
    chunks: tuple[tuple[int, NDArray[np.float64]], ...] = field(default=(), repr=False)
    commands: NDArray[np.float64] | None = field(default=None, repr=False)
    rejected: tuple[str, ...] = ()
    dreams: tuple[bool, ...] = ()
    realised: tuple[float, ...] = ()
    came_true: tuple[bool, ...] = ()

    @property
    def success(self) -> bool:
        """Whether the instructed object was reached: see vera_drivers.sim_world."""
        return self.outcome == REACHED


    @property
    def dream_success(self) -> bool:
        """Whether more than half of its executed plans were right."""
        return 2 * sum(self.dreams) > len(self.dreams)

    @property
    def execution_success(self) -> bool:
        """Whether more than half of them came true."""
        return 2 * sum(self.came_true) > len(self.came_true)


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
        **_gate_rates([r for r in results if r.dreams or r.rejected]),
        **_coverage_rates([r.coverage for r in results if not math.isnan(r.coverage)]),
    }


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

    compared = [r for r in judged if r.came_true]
    return {
        'dream_success': rate([r.dream_success for r in judged]),
        'execution_success': rate([r.execution_success for r in compared]),
        'success_where_dream_right': rate([r.success for r in judged if r.dream_success]),
        'success_where_dream_wrong': rate([r.success for r in judged if not r.dream_success]),
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
