"""Starts a node table as processes, watches over them, and leaves nothing running.

Pure process handling: no rclpy, one thread, no daemon. Each node is the leader of its own process
group, so a Ctrl-C at the terminal reaches only the supervisor, which then stops the nodes in an
order of its own; the kernel ends them should the supervisor itself be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from vera_bringup.node_table import NodeSpec, parameter_yaml
from vera_bringup.resources import executable

POLL = 0.05  # s between looks at the processes; a death is reported within this
CONFIGURATION_ERROR = 2  # exit code of a node whose configuration can never work
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

Report = Callable[[str, str], None]  # (node or 'vera', line)


@dataclass(frozen=True)
class RestartPolicy:
    """At most `restarts` in `window` seconds for each node, `delay` seconds after its death."""

    restarts: int = 3
    window: float = 60.0
    delay: float = 0.3


@dataclass(frozen=True)
class Escalation:
    """Seconds granted after SIGTERM and after SIGINT, before SIGKILL.

    SIGTERM first: a node treats both alike, but one that is still importing its libraries ends
    silently on SIGTERM and with a traceback on SIGINT.
    """

    terminate: float = 7.0
    interrupt: float = 1.0


@dataclass
class _Child:
    spec: NodeSpec
    command: list[str]
    log: IO[str]
    process: subprocess.Popen[bytes] | None = None
    partial: bytes = b''
    deaths: deque[float] = field(default_factory=deque)
    restart_at: float | None = None
    given_up: bool = False
    restarts: int = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None


def describe_exit(code: int) -> str:
    """'exit code 3' or 'killed by SIGKILL'."""
    if code >= 0:
        return f'exit code {code}'
    with contextlib.suppress(ValueError):
        return f'killed by {signal.Signals(-code).name}'
    return f'killed by signal {-code}'


def die_with_parent() -> None:
    """In the child: the kernel sends SIGTERM when the supervisor's thread is gone."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Supervisor:
    """Runs the processes of one graph.

    Args:
        table: processes; started in this order, stopped all at once.
        environment: of every process.
        run_dir: `log/<node>.log` and `parameters/<node>.yaml` are written below it.
        report: called with (source, line) for each line of a node and each event of ours.
        policy: bounds of restarting.
        escalation: patience while stopping.
        log_level: passed to the nodes; '' leaves it to them.

    Attributes:
        failure: why the graph went down by itself, or '' if it was asked to.
    """

    def __init__(
        self,
        table: Sequence[NodeSpec],
        environment: Mapping[str, str],
        run_dir: Path,
        report: Report,
        policy: RestartPolicy | None = None,
        escalation: Escalation | None = None,
        log_level: str = '',
    ) -> None:
        self._environment = dict(environment)
        self._report = report
        self._policy = policy or RestartPolicy()
        self._escalation = escalation or Escalation()
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self.failure = ''
        run_dir = run_dir.resolve()  # a process's command line says which run it belongs to
        (run_dir / 'log').mkdir(parents=True, exist_ok=True)
        (run_dir / 'parameters').mkdir(exist_ok=True)
        self._own_log = (run_dir / 'log' / 'vera.log').open('a', encoding='utf-8', buffering=1)
        self._children: list[_Child] = []
        for spec in table:
            file = run_dir / 'parameters' / f'{spec.name}.yaml'
            file.write_text(parameter_yaml(spec.parameters), encoding='utf-8')
            command = executable(spec.package, spec.executable)
            command += spec.ros_arguments(str(file), log_level)
            log = (run_dir / 'log' / f'{spec.name}.log').open('a', encoding='utf-8', buffering=1)
            self._children.append(_Child(spec, command, log))

    # -- for other threads and signal handlers ------------------------------------------------

    def request_stop(self) -> None:
        """Ask `run` to stop the graph and return; a second time: without patience."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def pids(self) -> dict[str, int]:
        """Process ids of the living nodes, by node name."""
        return {c.spec.name: c.process.pid for c in self._children if c.process and c.alive}

    def restarts(self) -> dict[str, int]:
        """How often each node was restarted."""
        return {c.spec.name: c.restarts for c in self._children}

    # -- life ---------------------------------------------------------------------------------

    def run(self) -> bool:
        """Start everything, watch until stopped, stop everything.

        Returns:
            True if it ended because it was asked to; else `failure` says why.
        """
        try:
            for child in self._children:
                if self._stop.is_set():
                    break
                self._start(child)
            while not self._stop.is_set() and not self.failure:
                self._read(POLL)
                self._watch()
        finally:
            self._shut_down()
        return not self.failure

    def _say(self, text: str) -> None:
        self._own_log.write(f'{time.strftime("%H:%M:%S")} {text}\n')
        self._report('vera', text)

    def _start(self, child: _Child) -> None:
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        assert child.process.stdout is not None
        os.set_blocking(child.process.stdout.fileno(), False)
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _read(self, timeout: float) -> None:
        """Pass on what the nodes wrote; returns after `timeout` or at the first output."""
        if not self._selector.get_map():
            time.sleep(timeout)
            return
        for key, _ in self._selector.select(timeout):
            child: _Child = key.data
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                data = b'\n' if child.partial else b''
            *lines, child.partial = (child.partial + data).split(b'\n')
            for line in lines:
                text = line.decode('utf-8', errors='replace').rstrip()
                child.log.write(text + '\n')
                self._report(child.spec.name, text)

    def _watch(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._bury(child, now)
            elif child.restart_at is not None and now >= child.restart_at:
                child.restart_at = None
                child.restarts += 1
                self._start(child)

    def _bury(self, child: _Child, now: float) -> None:
        """A node died though nobody asked it to: restart it, or give up."""
        assert child.process is not None
        code = child.process.returncode
        self._read(0)
        self._kill_group(child.process.pid, signal.SIGKILL)  # what it may have started
        child.process = None
        name, how = child.spec.name, describe_exit(code)
        while child.deaths and now - child.deaths[0] > self._policy.window:
            child.deaths.popleft()
        child.deaths.append(now)
        if child.spec.window:
            self._give_up(child, f'{name} was closed ({how})')
        elif code == CONFIGURATION_ERROR:
            self._give_up(child, f'{name} cannot run as configured ({how}); its message is above')
        elif len(child.deaths) > self._policy.restarts:
            self._give_up(
                child,
                f'{name} died again ({how}): {len(child.deaths)} deaths in '
                f'{self._policy.window:.0f} s; not restarting it any more',
            )
        else:
            child.restart_at = now + self._policy.delay
            self._say(
                f'{name} died ({how}); restarting it '
                f'({len(child.deaths)} of {self._policy.restarts} in {self._policy.window:.0f} s)'
            )

    def _give_up(self, child: _Child, reason: str) -> None:
        child.given_up = True
        if child.spec.essential:
            self.failure = reason
            self._say(f'{reason}; stopping the graph')
        else:
            self._say(f'{reason}; going on without it')

    # -- the end ------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        steps = (
            (signal.SIGTERM, self._escalation.terminate),
            (signal.SIGINT, self._escalation.interrupt),
            (signal.SIGKILL, 5.0),
        )
        for number, patience in steps:
            living = [c for c in self._children if c.alive]
            if not living:
                break
            if number != signal.SIGTERM:
                names = ', '.join(c.spec.name for c in living)
                self._say(f'still running: {names}; sending {number.name}')
            for child in living:
                assert child.process is not None
                self._kill_group(child.process.pid, number)
            self._wait(patience, hurry=number != signal.SIGKILL)
        for child in self._children:
            if child.process is not None:
                # The leader is gone; nothing of its group may outlive it.
                self._kill_group(child.process.pid, signal.SIGKILL)
        self._read(0)
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        for child in self._children:
            child.log.close()
        self._own_log.close()
        self._selector.close()

    def _wait(self, patience: float, hurry: bool) -> None:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self._read(POLL)
            for child in self._children:
                if child.process is not None:
                    child.process.poll()
            if not any(c.alive for c in self._children) or (hurry and self._hurry.is_set()):
                return

    @staticmethod
    def _kill_group(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
