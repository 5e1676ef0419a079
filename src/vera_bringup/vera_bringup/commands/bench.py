"""`vera bench transport`: camera frames between processes, with and without our profile."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np

from vera_bringup.environment import graph_environment
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import check_domain

MODULE = 'vera_bringup.nodes.bench_node'
SPARE = 45.0  # s beside the measurement: start, discovery, end


def run(
    seconds: float,
    cameras: int,
    rate: float,
    width: int,
    height: int,
    compare: bool,
    as_json: bool,
    domain: str | None,
) -> None:
    """Measure and print; CommandError(FAILED) if frames were lost."""
    number = check_domain(domain)
    arguments = [
        *('--seconds', str(seconds), '--cameras', str(cameras), '--rate', str(rate)),
        *('--width', str(width), '--height', str(height)),
    ]
    print(f'{cameras} cameras {width}x{height} at {rate:g} Hz for {seconds:g} s', flush=True)
    report = _measure(arguments, cameras, seconds, graph_environment(number))
    print(_line('our profile', report), flush=True)
    if compare:
        plain = _measure(arguments, cameras, seconds, graph_environment(number, profile=''))
        print(_line("Fast DDS's own defaults", plain), flush=True)
        report |= {f'default_{key}': value for key, value in plain.items()}
    if as_json:
        print(json.dumps(report))
    if report['lost']:
        raise CommandError(f'{report["lost"]} frames lost', Exit.FAILED)


def _measure(
    arguments: list[str], cameras: int, seconds: float, environment: dict[str, str]
) -> dict[str, Any]:
    def start(*end: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, '-m', MODULE, *end, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    sink = start('sink')
    sources = [start('source', '--index', str(i)) for i in range(cameras)]
    processes = [*sources, sink]
    try:
        answers = [_answer(process, seconds + SPARE) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    sent = sum(answer['sent'] for answer in answers[:-1])
    latencies = np.array(answers[-1]['latencies_ns']) / 1e6
    p50, p99, worst = (
        (round(float(np.percentile(latencies, p)), 2) for p in (50, 99, 100))
        if len(latencies)
        else (None, None, None)
    )
    return {
        'lost': sent - sum(answers[-1]['received']),
        'sent': sent,
        'p50_ms': p50,
        'p99_ms': p99,
        'max_ms': worst,
    }


def _answer(process: subprocess.Popen[str], timeout: float) -> dict[str, Any]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise CommandError(
            f'the benchmark does not end within {timeout:.0f} s', Exit.FAILED
        ) from None
    if process.returncode != 0:
        raise CommandError(f'the benchmark failed: {err.strip() or "no message"}', Exit.FAILED)
    answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return answer


def _line(label: str, report: dict[str, Any]) -> str:
    return (
        f'{label}: {report["lost"]} of {report["sent"]} frames lost, '
        f'p50 {report["p50_ms"]} ms, p99 {report["p99_ms"]} ms'
    )
