"""`vera bench control`: the controller's own process beside planners that use every core."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np

from vera_bringup.control_bench import JITTER_MS, STOP_MS, ControlReport, report
from vera_bringup.environment import graph_environment
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import check_domain
from vera_controller.ticker import hurry
from vera_core.contract import load_contract

NAMESPACE = 'control_bench'
PLANNER = 'from vera_bringup.control_bench import imagine_for_ever as run; run()'


def run(embodiment: str, seconds: float, planners: int, as_json: bool, domain: str | None) -> None:
    """Measure and print; CommandError(FAILED) where a promise is not kept."""
    found = measure(embodiment, seconds, planners, check_domain(domain))
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        print(
            f'{embodiment}: {found.ticks} set-points, {found.stops} stops, {planners} planner(s) '
            f'beside, {found.plans} plans\n'
            f'jitter of set-points: p50 {found.jitter_p50} ms, p99 {found.jitter_p99} ms, '
            f'max {found.jitter_max} ms\n'
            f'from stop to braking: p50 {found.taken_p50} ms, max {found.taken_max} ms\n'
            f'from there to standing still: p50 {found.braking_p50} ms, '
            f'max {found.braking_max} ms\n'
            f'from stop to standing still: p50 {found.hold_p50} ms, max {found.hold_max} ms'
        )
    if found.jitter_p99 > JITTER_MS or found.taken_max > STOP_MS:
        raise CommandError(
            f'promised: jitter p99 <= {JITTER_MS:g} ms, stop to braking <= {STOP_MS:g} ms; is '
            'this machine busy with something else, or without real-time priority?',
            Exit.FAILED,
        )


def measure(embodiment: str, seconds: float, planners: int, domain: int) -> ControlReport:
    """One run.

    Raises:
        CommandError: the controller does not start or does not answer.
    """
    from vera_bringup.nodes.control_client import ControlClient

    contract = load_contract(embodiment)
    environment = graph_environment(domain)
    command = [
        *(sys.executable, '-m', 'vera_controller.nodes.controller_node', '--ros-args'),
        *('-r', f'__ns:=/{NAMESPACE}', '-p', f'contract:={embodiment}', '-p', 'robot:=topic'),
    ]
    plans: list[int] = []
    with contextlib.ExitStack() as stack:
        for _ in range(planners):
            planner = stack.enter_context(_process([sys.executable, '-c', PLANNER], environment))
            assert planner.stdout is not None
            if not planner.stdout.readline():
                raise CommandError('the planner beside it does not start', Exit.FAILED)
            threading.Thread(
                target=lambda out=planner.stdout: plans.extend(1 for _ in out), daemon=True
            ).start()
        stack.enter_context(_process(command, environment, quiet=False))
        hurry()  # only now: this process plays the robot, and planners must not inherit that
        client = stack.enter_context(ControlClient(domain, NAMESPACE, contract))
        client.measure(seconds)
        done = len(plans)
    try:
        return report(
            np.array(client.stamps), np.array(client.positions), client.calls, client.taken,
            contract.control.period, done,
        )
    except ValueError as error:
        raise CommandError(str(error), Exit.FAILED) from error


@contextlib.contextmanager
def _process(
    command: list[str], environment: dict[str, str], quiet: bool = True
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE if quiet else None
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
