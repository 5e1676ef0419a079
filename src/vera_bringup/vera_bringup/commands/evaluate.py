"""`vera eval`: runs the episodes and prints what came of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from vera_bringup.evaluation import (
    EXPERT,
    RANDOM,
    EvaluationOptions,
    episode_frames,
    evaluate,
    evaluation_contract,
)
from vera_bringup.exits import CommandError
from vera_bringup.statistics import EpisodeResult, summarise


def run(
    embodiment: str,
    options: EvaluationOptions,
    ros: bool,
    as_json: bool,
    domain: str | None,
    namespace: str,
    runs: Path,
) -> None:
    """Evaluate and print; the last line is JSON if asked for."""
    try:
        contract = evaluation_contract(
            embodiment, options.joints, options.coverage, options.task, options.colours,
            options.discs,
        )
        results: Iterator[EpisodeResult]
        if ros:
            from vera_bringup.ros_evaluation import evaluate_through_ros

            results = evaluate_through_ros(contract, options, domain, namespace, runs)
        else:
            results = evaluate(contract, options)
        begin = time.perf_counter()
        finished = list(_shown(results, options.episodes))
    except ValueError as error:
        # Contracts, organs and checkpoints refuse what does not fit with a ValueError in words.
        raise CommandError(str(error)) from error
    planner = options.planner or contract.defaults.planner
    report = {
        'embodiment': contract.embodiment,
        'joints': len(contract.joints),
        'planner': planner,
        # The expert's own actions, and random ones, are translated from nothing.
        'translator': 'none' if planner in (RANDOM, EXPERT) else (
            options.translator or contract.defaults.translator
        ),
        'mode': options.mode,
        'seed': options.seed,
        'held_out': options.held_out,
        'discs': contract.sim.options.get('discs') if contract.sim is not None else None,
        'ros': ros,
        'frames': episode_frames(contract, options),
        'seconds': round(time.perf_counter() - begin, 1),
        **summarise(finished),
    }
    _print(report)
    if as_json:
        print(json.dumps(report))


def _shown(results: Iterator[EpisodeResult], episodes: int) -> Iterator[EpisodeResult]:
    reached = 0
    with tqdm(total=episodes, unit='episode', disable=not sys.stderr.isatty()) as bar:
        for count, result in enumerate(results, 1):
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
        print(
            f'dream success {dream["rate"]:.1%} of {dream["n"]} episodes, execution success '
            f'{execution["rate"]:.1%} of {execution["n"]}; plans stopped: '
            f'{sum(report["rejected"].values())}'
        )
    for reason, count in report['failures'].items():
        print(f'  {count} x {reason}')
