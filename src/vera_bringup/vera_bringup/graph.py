"""From an embodiment's name to a running graph: checks before the start, one lock, one thread."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vera_bringup import recording_budget as budget
from vera_bringup.environment import DomainError, graph_environment, parse_domain, require_ports
from vera_bringup.exits import CommandError, Exit
from vera_bringup.node_table import (
    GraphOptions,
    NodeSpec,
    contract_overrides,
    elsewhere,
    node_table,
)
from vera_bringup.resources import ResourceError
from vera_bringup.supervisor import Supervisor, die_with_parent

if TYPE_CHECKING:
    from vera_core.contract import Contract

NAMESPACE = re.compile(r'[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*')
RECORDING_RESERVE = 512 * 2**20  # bytes that must be free before a recording starts
PROBE_TIMEOUT = 20.0  # s
READY_TIMEOUT = 120.0  # s
PROBE = [sys.executable, '-m', 'vera_bringup.nodes.probe']


@dataclass(frozen=True)
class Prepared:
    """Everything that is needed to start a graph, or this machine's part of one, checked.

    Attributes:
        elsewhere: names of the essential nodes that run on other machines.
    """

    contract: Contract
    options: GraphOptions
    table: tuple[NodeSpec, ...]
    environment: dict[str, str]
    domain: int
    run_dir: Path
    elsewhere: tuple[str, ...] = ()


def check_namespace(namespace: str) -> str:
    """The namespace without slashes around it; CommandError if ROS would refuse it."""
    bare = namespace.strip('/')
    if not NAMESPACE.fullmatch(bare):
        raise CommandError(
            f'--namespace {namespace!r}: letters, digits and underscores, beginning with a letter'
        )
    return bare


def check_domain(domain: str | int | None) -> int:
    """The ROS domain as a number; CommandError if there is no such domain."""
    try:
        return parse_domain(domain)
    except DomainError as error:
        raise CommandError(str(error)) from error


def new_run_dir(runs: Path) -> Path:
    """`runs/<stamp>`, created; a second one of the same second gets a suffix."""
    stamp = time.strftime('%Y-%m-%d_%H-%M-%S')
    for suffix in ['', *(f'_{i}' for i in range(2, 100))]:
        path = runs / (stamp + suffix)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise CommandError(
                f'cannot make {path}: {error.strerror}; choose another --runs'
            ) from error
        return path
    raise CommandError(f'{runs} already holds 99 runs of this second')


def check_disk(folder: Path, need: int = RECORDING_RESERVE) -> None:
    """CommandError unless `need` bytes are free where a recording is to go."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise CommandError(
            f'{folder} has {free / 2**20:.0f} MiB free; a recording needs {need / 2**20:.0f} MiB. '
            'Free some space, choose another --runs, or start without recording'
        )


def has_simulation(embodiment: str) -> bool:
    """Whether an embodiment can be simulated; CommandError for a contract that cannot be read."""
    from vera_core.contract import load_contract

    try:
        return load_contract(embodiment).sim is not None
    except ValueError as error:
        raise CommandError(str(error)) from error


def prepare(
    embodiment: str,
    options: GraphOptions,
    domain: str | int | None,
    runs: Path,
    record: bool = False,
    run_dir: Path | None = None,
) -> Prepared:
    """Check everything that can be checked before a process is started.

    Raises:
        CommandError: one message about the first thing that is wrong.
    """
    from vera_core.contract import load_contract

    options = options.changed(namespace=check_namespace(options.namespace))
    number = check_domain(domain)
    try:
        whole = load_contract(embodiment)
        names = {spec.name for spec in node_table(whole, options)}
        others = elsewhere(whole, options)
        contract = load_contract(embodiment, contract_overrides(whole, options))
        # Beside the nodes: this command and one more.
        require_ports(number, len(names) + record + 2)
        environment = graph_environment(number)
    except (ValueError, ResourceError) as error:  # of the contract, a domain or an option
        raise CommandError(str(error)) from error
    require_quiet(number, options.namespace, environment, names if options.part else None)
    run_dir = run_dir or new_run_dir(runs)
    if record:
        check_disk(run_dir)
        try:
            budget.check(run_dir, budget.estimate(contract).rate, None)
        except budget.BudgetError as error:
            raise CommandError(str(error)) from error
        options = options.changed(record=str((run_dir / 'bag').resolve()))
    name = str(Path(embodiment).resolve()) if embodiment.endswith(('.yaml', '.yml')) else embodiment
    table = node_table(whole, options, name)
    return Prepared(contract, options, table, environment, number, run_dir, others)


def _clash(domain: int, namespace: str) -> CommandError:
    return CommandError(
        f'another graph already runs on ROS domain {domain} in namespace /{namespace}; '
        'stop it, or choose another with --domain N (or --namespace NAME)',
        Exit.BUSY,
    )


@contextlib.contextmanager
def graph_lock(domain: int, namespace: str, part: bool = False) -> Iterator[None]:
    """Hold this machine's lock of a domain and namespace; CommandError(BUSY) if it is held.

    Parts of a graph share it: that no two of them have the same node is asked of the network.
    """
    folder = Path(tempfile.gettempdir()) / f'vera-{os.getuid()}'
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f'domain-{domain}-{namespace.replace("/", "-")}.lock'
    with path.open('w') as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if part else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _clash(domain, namespace) from None
        yield


def require_quiet(
    domain: int, namespace: str, environment: dict[str, str], names: set[str] | None = None
) -> None:
    """CommandError(BUSY) if nodes of this namespace are already on the domain.

    The lock knows only of graphs that `vera` started here; this asks the network itself. A part
    of a graph minds only nodes that have one of its own `names`.
    """
    try:
        done = subprocess.run(
            [*PROBE, '--namespace', namespace],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(
            f'ROS does not answer on domain {domain} within {PROBE_TIMEOUT:.0f} s; '
            'try another with --domain N'
        ) from None
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or ['no message'])[-1]
        raise CommandError(f'ROS does not start on domain {domain}: {last}')
    found = set(json.loads(lines[-1])['nodes'])
    if found & names if names is not None else found:
        raise _clash(domain, namespace)


class GraphThread:
    """A supervisor in a thread of its own, for commands that also talk to the graph.

    The same thread starts all processes and lives until they are gone: the kernel ends them when
    the thread that started them ends.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._thread = threading.Thread(target=supervisor.run, name='supervisor')

    def __enter__(self) -> GraphThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.request_stop()
        self._thread.join()

    @property
    def down(self) -> bool:
        """Whether the graph has ended, by itself or not."""
        return not self._thread.is_alive()


class ReadyLine:
    """Says once that all nodes of a graph work; a helper process asks the network.

    A context manager around the supervisor's run.
    """

    def __init__(self, prepared: Prepared, report: Callable[[str, str], None]) -> None:
        names = [spec.name for spec in prepared.table if spec.awaited]
        space = prepared.options.namespace
        where = ['--namespace', space, '--nodes', ','.join(names)]
        self._command = [*PROBE, *where, '--seconds', str(READY_TIMEOUT)]
        self._environment = prepared.environment
        self._report = report
        flags = f' --domain {prepared.domain}' if prepared.domain else ''
        flags += f' --namespace {space}' if space != 'vera' else ''
        self._text = (
            'all nodes are ready; give the robot a goal with '
            f'`vera goal "touch the red disc"{flags}`; Ctrl-C ends all'
        )
        if prepared.elsewhere:
            self._text = (
                f'{", ".join(names)} ready here; {", ".join(prepared.elsewhere)}: on other '
                'machines; Ctrl-C ends what runs here'
            )

    def __enter__(self) -> ReadyLine:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _wait(self) -> None:
        self._process.communicate()
        if self._process.returncode == 0:
            self._report('vera', self._text)


def console_report(quiet: tuple[str, ...] = ()) -> Callable[[str, str], None]:
    """A supervisor's report function that prints `[node] line`; `quiet` nodes only to their log."""

    def report(source: str, line: str) -> None:
        if line and source not in quiet:
            print(f'[{source}] {line}', flush=True)

    return report
