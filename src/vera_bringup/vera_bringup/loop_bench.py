"""`vera bench loop`: how a robot gets on with a slow planner, by the way the loop is closed."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_bringup.statistics import wilson
from vera_bringup.timed_loop import MODES, TimedEpisode, TimedLoop, Timing
from vera_core.contract import load_contract

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.contract import Contract


@dataclass(frozen=True)
class LoopBenchOptions:
    """What to measure.

    Attributes:
        embodiments: names of simulated ones.
        modes: of MODES. latencies: of the planner [s].
        episodes: scenes for each row, the same ones for all.
        planner: compact or oracle; '' for the contract's.
        pending: tell the planner the frames still to be executed, if it can use them.
        horizon: [s] that plans reach; None for what the latency needs.
        servo_rate: Hz. jobs: processes; the result does not depend on it.
    """

    embodiments: tuple[str, ...] = ('finger',)
    modes: tuple[str, ...] = MODES
    latencies: tuple[float, ...] = (0.0, 0.5, 2.0, 5.0)
    episodes: int = 20
    seed: int = 2026
    planner: str = ''
    planner_checkpoint: str = ''
    pending: bool = True
    horizon: float | None = None
    servo_rate: float = 10.0
    jobs: int = 1

    def timings(self) -> list[Timing]:
        """One for each row of an embodiment.

        Raises:
            ValueError: an unknown mode, a latency that is none, a rate out of range.
        """
        return [
            Timing(mode, latency, self.pending, self.horizon, self.servo_rate)
            for mode, latency in itertools.product(self.modes, self.latencies)
        ]


def make_timed_loop(contract: Contract, options: LoopBenchOptions) -> TimedLoop:
    """The loop with its organs loaded.

    Raises:
        ValueError: an unknown organ, or a checkpoint that is missing or does not fit.
    """
    from vera_jidm.registry import make_translator
    from vera_planner.registry import make_planner

    def planner(provider: Any) -> Any:
        return make_planner(
            options.planner or contract.defaults.planner,
            contract,
            checkpoint=options.planner_checkpoint or None,
            provider=provider,
            threads=1 if options.jobs > 1 else None,
        )

    translator = make_translator(contract.defaults.translator, contract, None)
    return TimedLoop(contract, planner, translator, options.seed)


def measure(options: LoopBenchOptions) -> Iterator[dict[str, Any]]:
    """Rows as they come, in the order of embodiments, modes and latencies.

    Raises:
        ValueError: before the first row, if something does not fit.
    """
    timings = options.timings()
    contracts = [load_contract(name) for name in options.embodiments]
    for contract in contracts:
        tasks = [(timing, index) for timing in timings for index in range(options.episodes)]
        found = _all(contract, options, tasks)
        for timing in timings:
            episodes = list(itertools.islice(found, options.episodes))
            yield row(contract.embodiment, timing, episodes)


def _all(
    contract: Contract, options: LoopBenchOptions, tasks: Sequence[tuple[Timing, int]]
) -> Iterator[TimedEpisode]:
    if options.jobs == 1:
        _load(contract, options)
        yield from map(_one, tasks)
        return
    # A forked torch may hang; each process loads its own organs once.
    context = multiprocessing.get_context('spawn')
    with context.Pool(options.jobs, _load, (contract, options)) as pool:
        yield from pool.imap(_one, tasks)


_WORKER: list[tuple[TimedLoop, int]] = []


def _load(contract: Contract, options: LoopBenchOptions) -> None:
    _WORKER[:] = [(make_timed_loop(contract, options), options.seed)]


def _one(task: tuple[Timing, int]) -> TimedEpisode:
    from vera_bringup.lockstep import episode_seed

    timing, index = task
    loop, seed = _WORKER[0]
    return loop.run(episode_seed(seed, index), timing)


def row(embodiment: str, timing: Timing, episodes: Sequence[TimedEpisode]) -> dict[str, Any]:
    """The numbers of some episodes as plain data, as `vera bench loop --json` promises.

    Shares and rates are of the sums over all episodes; `jerk` is the root mean square over their
    set-points, in the joints' unit/s^3; a number that nothing could be measured for is None.
    """
    n = len(episodes)
    successes = sum(e.success for e in episodes)
    low, high = wilson(successes, n)
    way = sum(e.way for e in episodes)
    goal_time = sum(e.goal_time for e in episodes)
    ages = np.concatenate([e.ages for e in episodes])
    jerk = np.concatenate([e.jerks for e in episodes])

    def rounded(value: Any) -> float | None:
        return None if value is None else round(float(value), 4)

    return {
        'embodiment': embodiment,
        'mode': timing.mode,
        'latency': timing.latency,
        'success_rate': round(successes / n, 4),
        'ci_low': round(low, 4),
        'ci_high': round(high, 4),
        'n': n,
        'moving_fraction': rounded(sum(e.moving for e in episodes) / way if way else None),
        'jerk': rounded(np.sqrt(jerk.mean()) if len(jerk) else None),
        'plan_age_p50': rounded(np.percentile(ages, 50) if len(ages) else None),
        'plan_age_p95': rounded(np.percentile(ages, 95) if len(ages) else None),
        'underruns_per_minute': rounded(
            60 * sum(e.underruns for e in episodes) / goal_time if goal_time else None
        ),
        'idle_fraction': rounded(
            sum(e.idle for e in episodes) / goal_time if goal_time else None
        ),
        'seconds': rounded(np.mean([e.duration for e in episodes])),
        'plans': rounded(np.mean([e.plans for e in episodes])),
        'blind_steps': rounded(np.mean([e.fallbacks for e in episodes])),
    }


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Success and share of time in motion over the latency, one line for each mode."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    embodiments = list(dict.fromkeys(r['embodiment'] for r in rows))
    modes = list(dict.fromkeys(r['mode'] for r in rows))
    figure, axes = plt.subplots(
        2, len(embodiments), figsize=(4.2 * len(embodiments), 5.2), squeeze=False, sharey='row'
    )
    for column, embodiment in zip(axes.T, embodiments, strict=True):
        for offset, mode in enumerate(modes):
            mine = [r for r in rows if (r['embodiment'], r['mode']) == (embodiment, mode)]
            mine.sort(key=lambda r: r['latency'])
            x = np.array([r['latency'] for r in mine]) + 0.04 * offset
            rate = np.array([r['success_rate'] for r in mine])
            ends = np.array([[r['ci_low'], r['ci_high']] for r in mine]).T
            bars = np.abs(ends - rate)
            column[0].errorbar(x, rate, yerr=bars, marker='o', capsize=2, label=mode)
            moving = [r['moving_fraction'] for r in mine]
            column[1].plot(x, np.array(moving, float), marker='o', label=mode)
        column[0].set_title(f'{embodiment}, n = {mine[0]["n"]}')
        column[1].set_xlabel('latency of the planner [s]')
        for axis in column:
            axis.set_ylim(-0.03, 1.03)
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel('success')
    axes[1, 0].set_ylabel('share of time in motion')
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
