"""`vera eval`: runs the episodes, keeps them, and says what came of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vera_bringup.evaluation import EvaluationOptions, about, check, evaluate, evaluation_contract
from vera_bringup.exits import CommandError
from vera_bringup.rows import Rows
from vera_bringup.statistics import EpisodeResult, from_row, summarise, to_row

if TYPE_CHECKING:
    from vera_core.contract import Contract


def run(
    embodiment: str,
    options: EvaluationOptions,
    ros: bool,
    as_json: bool,
    domain: str | None,
    namespace: str,
    runs: Path,
    out: Path | None = None,
    videos: int = 6,
) -> None:
    """Evaluate and print; the last line is JSON if asked for.

    Args:
        embodiment: a name or a contract file.
        options: what to evaluate.
        ros: through the node graph.
        as_json: numbers on the last line.
        domain: of the graph.
        namespace: of the graph.
        runs: folder of its logs.
        out: folder for rows, videos and page; what is there already is not run again.
        videos: of how many of the worst episodes.
    """
    begin = time.perf_counter()
    try:
        contract = evaluation_contract(
            embodiment, options.joints, options.coverage, options.task, options.colours,
            options.discs,
        )
        if ros:
            _check_ros(options)
        check(contract, options)
        options = replace(options, film=out is not None and videos > 0 and not ros)
        work = _Work(contract, options, ros, out, videos)

        def episodes(indices: Sequence[int]) -> Iterator[EpisodeResult]:
            if not ros:
                return evaluate(contract, options, indices)
            from vera_bringup.ros_evaluation import evaluate_through_ros

            return evaluate_through_ros(contract, options, domain, namespace, runs, indices)

        finished = work.run(episodes)
    except ValueError as error:
        # Contracts, organs and checkpoints refuse what does not fit with a ValueError in words.
        raise CommandError(str(error)) from error
    known = work.about
    report = {
        'embodiment': contract.embodiment,
        'joints': len(contract.joints),
        'planner': known['planner'],
        'translator': known['translator'],
        'mode': options.mode,
        'loop': options.loop,
        'planner_latency': options.latency,
        'seed': options.seed,
        'held_out': options.held_out,
        'discs': contract.sim.options.get('discs') if contract.sim is not None else None,
        'ros': ros,
        'frames': known['frames'],
        'seconds': round(time.perf_counter() - begin, 1),
        **summarise(finished),
    }
    _print(report)
    if out is not None:
        print(f'rows and page: {out}; open {work.page}')
    if as_json:
        print(json.dumps(report))


def _check_ros(options: EvaluationOptions) -> None:
    if options.loop != 'lockstep':
        raise ValueError('--ros runs in lock-step; leave --loop out, or see `vera up`')
    if options.ray:
        raise ValueError('--ros runs one graph on this machine; leave --ray out')


class _Work:
    """The episodes of one evaluation: those that are kept and those to be run."""

    def __init__(
        self, contract: Contract, options: EvaluationOptions, ros: bool, out: Path | None,
        videos: int,
    ) -> None:
        self.contract, self.options, self.out = contract, options, out
        self.about: dict[str, Any] = about(contract, options, ros)
        self.page = Path() if out is None else out / 'report.html'
        self._videos = videos

    def run(self, episodes: Any) -> list[EpisodeResult]:
        """All results, by their index."""
        count = self.options.episodes
        found: dict[int, EpisodeResult] = {}
        with ExitStack() as stack:
            rows = None if self.out is None else stack.enter_context(Rows(self.out, self.about))
            for row in rows.found if rows is not None else ():
                one = from_row(row)
                found[one.index] = one
            films = self._films(found)
            todo = [index for index in range(count) if index not in found]
            for result in self._shown(episodes(todo), found):
                if rows is not None:
                    rows.add(to_row(result))
                if films is not None:
                    films.take(result)
                found[result.index] = replace(result, film=None)
        finished = [found[index] for index in sorted(found)]
        if films is not None:
            from vera_bringup.report import write_report

            metres = self.contract.sim is not None and self.contract.sim.environment == 'panda'
            write_report(
                self.page, self.about, summarise(finished), finished, films.videos(),
                'm' if metres else 'px',
            )
        return finished

    def _films(self, found: dict[int, EpisodeResult]) -> Any:
        if self.out is None:
            return None
        from vera_bringup.episode_videos import WorstVideos

        period = self.contract.video.frame_period
        return WorstVideos(self.out / 'videos', self._videos, period, found.values())

    def _shown(
        self, results: Iterator[EpisodeResult], found: dict[int, EpisodeResult]
    ) -> Iterator[EpisodeResult]:
        total, known = max(self.options.episodes, len(found)), len(found)
        reached = sum(one.success for one in found.values())
        if known:
            print(f'{known} episodes were there already')
        hidden = not sys.stderr.isatty()
        with tqdm(total=total, initial=known, unit='episode', disable=hidden) as bar:
            for count, result in enumerate(results, known + 1):
                reached += result.success
                bar.set_postfix_str(f'reached {reached} of {count}')
                bar.update()
                yield result


def _print(report: dict) -> None:
    print(
        f'{report["planner"]} + {report["translator"]}, {report["joints"]} joints: success '
        f'{report["success_rate"]:.1%} of {report["n"]} '
        f'(95% interval {report["ci_low"]:.1%} to {report["ci_high"]:.1%}), '
        f'progress {report["progress"]:.2f}'
        + (f', wrong goal {report["wrong_rate"]:.1%}' if 'coverage_rates' not in report else '')
    )
    for row in report.get('coverage_rates', ()):
        print(
            f'  coverage >= {row["coverage"]:g}: {row["success_rate"]:.1%} '
            f'(95% interval {row["ci_low"]:.1%} to {row["ci_high"]:.1%})'
        )
    if report['replan_ms_p50'] is not None:
        p50, p95 = report['replan_ms_p50'], report['replan_ms_p95']
        print(f'{report["plans"]} plans, each {p50} ms (p50), {p95} ms (p95)')
    if 'dream_success' in report:
        dream, execution = report['dream_success'], report['execution_success']
        judged = ''
        if dream['n']:
            judged = f'dream success {dream["rate"]:.1%} of {dream["n"]} episodes, '
        print(
            f'{judged}execution success {execution["rate"]:.1%} of {execution["n"]}; '
            f'plans stopped: {sum(report["rejected"].values())}'
        )
    if report['clip_ratio'] is not None:
        print(
            f'plan age {_shown(report["plan_age_p50"])} s (p50), '
            f'{_shown(report["plan_age_p95"])} s (p95); {report["underruns"]} underruns; '
            f'jerk {_shown(report["jerk"])}; the safety filter changed '
            f'{report["clip_ratio"]:.1%} of the set-points'
        )
    for reason, count in report['failures'].items():
        print(f'  {count} x {reason}')


def _shown(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'
