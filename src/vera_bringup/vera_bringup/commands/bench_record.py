"""`vera bench record`: a graph at work and three stand-in cameras, everything recorded."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from vera_bringup import recording_budget as budget
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import (
    GraphThread,
    check_domain,
    check_namespace,
    graph_lock,
    prepare,
)
from vera_bringup.node_table import GraphOptions
from vera_bringup.supervisor import Supervisor

CAMERA = 'vera_bringup.nodes.bench_node'
SPARE = 60.0  # s beside the measurement: start, discovery, end
CORES = 1.0  # promised: no more than this many
GOALS = 8.0  # s between goals: a graph at work makes plans


def run(
    embodiment: str,
    options: GraphOptions,
    seconds: float,
    cameras: int,
    jpeg: int,
    keep: bool,
    as_json: bool,
    domain: str | None,
    runs: Path,
) -> None:
    """Measure and print; CommandError(FAILED) where a promise is not kept."""
    with graph_lock(check_domain(domain), check_namespace(options.namespace)):
        prepared = prepare(embodiment, options, domain, runs)
        contract = prepared.contract
        share = budget.JPEG_SHARE if jpeg else 1.0
        rate = budget.estimate(contract).rate + cameras * 640 * 480 * 3 * 30 * share
        try:
            print(budget.check(prepared.run_dir, rate, seconds + SPARE), flush=True)
        except budget.BudgetError as error:
            raise CommandError(str(error)) from error
        bag = prepared.run_dir / 'bag'
        supervisor = Supervisor(
            prepared.table, prepared.environment, prepared.run_dir, lambda *_: None
        )
        with GraphThread(supervisor) as graph:
            report = _measure(prepared, graph, bag, seconds, cameras, jpeg)
    if not keep:
        shutil.rmtree(bag)
    print(
        f'{report["recorded"]} of {report["sent"]} camera frames recorded; of all topics '
        f'{report["lost"]} messages lost, {report["dropped"]} dropped\n'
        f'{report["messages"]} messages, {report["mb_per_s"]} MB/s; the recorder took '
        f'{report["cores"]} cores'
    )
    if as_json:
        print(json.dumps(report))
    missing = report['sent'] - report['recorded'] + report['lost'] + report['dropped']
    if missing or report['cores'] > CORES:
        raise CommandError(
            f'promised: nothing lost, at most {CORES:g} core; is this machine busy with something '
            'else?',
            Exit.FAILED,
        )


def _measure(
    prepared: Any, graph: GraphThread, bag: Path, seconds: float, cameras: int, jpeg: int
) -> dict[str, Any]:
    from vera_bringup.nodes.client import NoGraphError, VeraClient

    space = prepared.options.namespace
    names = [spec.name for spec in prepared.table]
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, '-m', *words],
            env=prepared.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    try:
        with VeraClient(prepared.domain, space, patience=15.0) as client:
            if not client.until(lambda: client.ready(names) or graph.down, 120.0) or graph.down:
                raise CommandError('the graph does not start', Exit.GRAPH_DOWN)
            recorder = start(
                *('vera_bringup.cli', 'record', '--out', str(bag), '--jpeg', str(jpeg)),
                *('--domain', str(prepared.domain), '--namespace', space, '--json'),
            )
            _await(recorder, 'recording into')
            sources = [
                start(
                    *(CAMERA, 'source', '--index', str(i), '--cameras', str(cameras)),
                    *('--seconds', str(seconds), '--width', '640', '--height', '480'),
                    *('--patience', str(SPARE)),
                )
                for i in range(cameras)
            ]
            client.spin(3.0)  # they have found the recorder
            usage = psutil.Process(recorder.pid)
            began, busy = time.monotonic(), sum(usage.cpu_times()[:2])
            number = 0
            while any(source.poll() is None for source in sources):
                with contextlib.suppress(NoGraphError):  # a laden machine may answer too late
                    client.reset_sim(number)
                    client.set_goal(_prompt(prepared.contract, number))
                number += 1
                client.until(lambda: all(s.poll() is not None for s in sources), GOALS)
                if time.monotonic() - began > seconds + SPARE:
                    raise CommandError('the cameras do not end', Exit.FAILED)
            took = time.monotonic() - began
            busy = sum(usage.cpu_times()[:2]) - busy
            recorder.send_signal(signal.SIGINT)
            said, _ = recorder.communicate(timeout=SPARE)
            if recorder.returncode:
                raise CommandError(f'the recorder failed: {said.strip()}', Exit.FAILED)
        sent = sum(_sent(source) for source in sources)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    counts = json.loads(said.strip().splitlines()[-1])
    return {
        'sent': sent,
        'recorded': _frames(bag, cameras),
        'messages': counts['messages'],
        'lost': sum(counts['lost'].values()),
        'dropped': sum(counts['dropped'].values()),
        'missing': {**counts['lost'], **counts['dropped']},
        'seconds': round(counts['seconds'], 1),
        'mb_per_s': round(counts['bytes'] / 1e6 / seconds, 1),
        'cores': round(busy / took, 2),
        'goals': number,
        'jpeg': jpeg,
    }


def _sent(source: subprocess.Popen[str]) -> int:
    said, _ = source.communicate()
    if source.returncode:
        raise CommandError(f'a stand-in camera failed: {said.strip()}', Exit.FAILED)
    return int(json.loads(said.strip().splitlines()[-1])['sent'])


def _prompt(contract: Any, number: int) -> str:
    from vera_bringup.demo import make_tasks

    return make_tasks(contract, 1, number)[0].prompt


def _await(process: subprocess.Popen[str], what: str) -> None:
    assert process.stdout is not None
    said = ''
    for line in process.stdout:
        said += line
        if what in line:
            return
    raise CommandError(f'the recorder does not start: {said.strip()}', Exit.FAILED)


def _frames(bag: Path, cameras: int) -> int:
    """How many different frames of the stand-in cameras are in the bag."""
    from mcap.reader import make_reader

    from vera_bringup import jpeg
    from vera_bringup.nodes.bench_node import topic

    wanted = [f'/{topic(i)}{end}' for i in range(cameras) for end in ('', jpeg.SUFFIX)]
    seen: set[tuple[int, bytes]] = set()
    for path in bag.glob('*.mcap'):
        with path.open('rb') as stream:
            for _, channel, message in make_reader(stream).iter_messages(wanted):
                # Stamp and number: the header that both types of image begin with.
                seen.add((channel.id, bytes(message.data[4:24])))
    return len(seen)
