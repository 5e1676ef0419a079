"""`vera bench cockpit`: a simulated graph at work, in turns without and with a cockpit beside."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from sensor_msgs.msg import JointState

from vera_bringup.cockpit_bench import MOST, CockpitReport, Phase, draw, report
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import (
    GraphThread,
    Prepared,
    check_domain,
    check_namespace,
    graph_lock,
    prepare,
)
from vera_bringup.node_table import GraphOptions
from vera_bringup.nodes.client import VeraClient
from vera_bringup.supervisor import Supervisor
from vera_core.nodes.convert import stamp_from_msg

if TYPE_CHECKING:
    from vera_core.contract import Contract

START, SETTLE = 120.0, 3.0  # s until all is there; s from there to the measurement
GOAL_S = 15.0  # s for a goal, then the next
VIEWERS = ('socket', 'browser', 'none')
CHROMIUM = ('chromium', 'chromium-browser', 'google-chrome')
# Without a GPU the 3-D view would be painted by the two cores that are measured.
FLAGS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-3d-apis', '--no-first-run',
    '--disable-background-networking', '--disable-dev-shm-usage', '--remote-debugging-port=0',
)  # fmt: skip


def run(
    embodiment: str,
    options: GraphOptions,
    viewer: str,
    seconds: float,
    pairs: int,
    picture: Path | None,
    as_json: bool,
    domain: str | None,
    runs: Path,
) -> None:
    """Measure and print; CommandError(FAILED) where the promise is not kept."""
    if viewer not in VIEWERS:
        raise CommandError(f'--viewer {viewer!r}: it is one of {", ".join(VIEWERS)}')
    if viewer == 'browser' and _chromium() is None:
        raise CommandError(
            f'--viewer browser: none of {", ".join(CHROMIUM)} is installed '
            '(Debian: apt install chromium); --viewer socket needs none'
        )
    with graph_lock(check_domain(domain), check_namespace(options.namespace)):
        # The port is any: another cockpit may be there.
        prepared = prepare(
            embodiment, options.changed(use_cockpit=True, cockpit_port=0), domain, runs
        )
        without, beside = _measure(prepared, viewer, seconds, pairs)
    period = prepared.contract.control.period
    try:
        found = report(without, beside, period)
    except ValueError as error:
        raise CommandError(str(error), Exit.FAILED) from error
    if picture is not None:
        draw(without, beside, period, picture)
    print(_words(found, viewer))
    if as_json:
        print(json.dumps(found.to_dict()))
    if not found.kept:
        raise CommandError(
            f'promised: rate and jitter change by at most {MOST:.0%}; is this machine busy with '
            'something else?',
            Exit.FAILED,
        )


def _words(found: CockpitReport, viewer: str) -> str:
    low, high = found.jitter_interval
    return (
        f'without / with a cockpit (viewer: {viewer}), {found.pairs} phases each\n'
        f'set-points a second: {found.rate[0]} / {found.rate[1]}, ratio {found.rate_ratio}\n'
        f'jitter p50 {found.jitter_p50[0]} / {found.jitter_p50[1]} ms, p99 {found.jitter_p99[0]} / '
        f'{found.jitter_p99[1]} ms, ratio {found.jitter_ratio} (95%: {low}-{high})\n'
        f'underruns {found.underruns[0]} / {found.underruns[1]} in {found.goals[0]} / '
        f'{found.goals[1]} goals; the cockpit took {found.cockpit_cores} cores, the viewer '
        f'{found.viewer_cores}'
    )


def _measure(
    prepared: Prepared, viewer: str, seconds: float, pairs: int
) -> tuple[list[Phase], list[Phase]]:
    (cockpit,) = (spec for spec in prepared.table if spec.name == 'cockpit')
    table = tuple(spec for spec in prepared.table if spec is not cockpit)
    supervisor = Supervisor(table, prepared.environment, prepared.run_dir, lambda *_: None)
    alone = replace(prepared, table=(cockpit,))
    phases: dict[bool, list[Phase]] = {False: [], True: []}
    with (
        GraphThread(supervisor) as graph,
        _Client(prepared.domain, prepared.options.namespace, prepared.contract) as client,
    ):
        names = [spec.name for spec in table]
        if not client.until(lambda: client.ready(names) or graph.down, START) or graph.down:
            raise CommandError('the graph does not start', Exit.GRAPH_DOWN)
        for pair in range(pairs):
            # One after the other, then the other way round: what drifts makes no difference.
            for watched in (False, True) if pair % 2 == 0 else (True, False):
                with _cockpit(alone, viewer, client) if watched else contextlib.nullcontext() as it:
                    client.work(SETTLE, 1000 * pair)
                    usage = _Usage(it or {})
                    underruns = client.underruns
                    goals = client.work(seconds, 1000 * pair)
                    stamps = np.array(client.stamps, np.int64)
                    phases[watched].append(
                        Phase(stamps, client.underruns - underruns, goals, **usage.cores())
                    )
                print(f'{pair + 1} of {pairs}, {"with" if watched else "without"}', flush=True)
                if graph.down:
                    raise CommandError(graph.supervisor.failure, Exit.GRAPH_DOWN)
    return phases[False], phases[True]


class _Client(VeraClient):
    """Keeps the graph at work and notes when each set-point was made."""

    def __init__(self, domain: int, namespace: str, contract: Contract) -> None:
        super().__init__(domain, namespace, patience=15.0)
        self._contract = contract
        self.stamps: list[int] = []

    def __enter__(self) -> _Client:
        super().__enter__()
        # As deep as it takes: late is this process, not the set-point.
        self.node.create_subscription(JointState, 'joint_commands', self._on_command, 1000)
        return self

    def _on_command(self, message: JointState) -> None:
        self.stamps.append(stamp_from_msg(message))

    @property
    def underruns(self) -> int:
        """Of the controller, since it started."""
        return self.controller.underruns if self.controller else 0

    def work(self, seconds: float, seed: int) -> int:
        """Scene after scene and goal after goal, for so long; how many goals. Anew: `stamps`."""
        from vera_bringup.demo import make_tasks

        self.stamps.clear()
        end = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end:
            (task,) = make_tasks(self._contract, 1, seed + count)
            self.reset_sim(task.seed)
            goal = self.set_goal(task.prompt).goal_id
            count += 1

            def over(goal: int = goal) -> bool:
                return self.goal_ended(goal) or time.monotonic() > end

            self.until(over, GOAL_S)
        return count

    def looked_at(self) -> bool:
        """Whether the cockpit listens to the cameras: it does so only while somebody looks."""
        camera = self.node.resolve_topic_name(self._contract.cameras[0].topic)
        found = self.node.get_subscriptions_info_by_topic(camera)
        return any(one.node_name == 'cockpit' for one in found)


class _Usage:
    """Processor time of processes and their children from here on."""

    def __init__(self, roots: dict[str, int]) -> None:
        self._roots, self._begin = roots, time.monotonic()
        self._before = {name: _busy(pid) for name, pid in roots.items()}

    def cores(self) -> dict[str, float]:
        """`<name>_cores` of each."""
        took = time.monotonic() - self._begin
        return {f'{n}_cores': (_busy(p) - self._before[n]) / took for n, p in self._roots.items()}


def _busy(pid: int) -> float:
    total = 0.0
    for process in (root := psutil.Process(pid), *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:2])
    return total


@contextlib.contextmanager
def _cockpit(prepared: Prepared, viewer: str, client: _Client) -> Iterator[dict[str, int]]:
    """A cockpit that is looked at; the process ids of both."""
    said: list[str] = []
    supervisor = Supervisor(
        prepared.table, prepared.environment, prepared.run_dir, lambda _, line: said.append(line)
    )

    def address() -> str:
        found = [re.search(r'cockpit: (http\S+)', line) for line in said]
        return next((one[1] for one in found if one), '')

    with GraphThread(supervisor) as graph, contextlib.ExitStack() as stack:
        if not client.until(lambda: bool(address()) or graph.down, START) or graph.down:
            raise CommandError('the cockpit does not start:\n' + '\n'.join(said), Exit.GRAPH_DOWN)
        processes = {'cockpit': supervisor.pids()['cockpit']}
        if viewer != 'none':
            process = stack.enter_context(_viewer(viewer, address()))
            if not client.until(client.looked_at, START):
                raise CommandError('nobody sees the cockpit', Exit.FAILED)
            processes['viewer'] = process.pid
        yield processes


@contextlib.contextmanager
def _viewer(viewer: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        program = _chromium()
        if viewer == 'browser' and program is not None:
            command = [program, *FLAGS, f'--user-data-dir={profile}', address]
        else:
            code = 'import sys; from vera_bringup.cockpit_bench import look; look(sys.argv[1])'
            command = [sys.executable, '-c', code, address]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        children = []
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in children:
                with contextlib.suppress(psutil.Error):
                    child.kill()


def _chromium() -> str | None:
    return next((found for name in CHROMIUM if (found := shutil.which(name))), None)
