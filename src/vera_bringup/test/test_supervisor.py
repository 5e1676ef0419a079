"""Processes without ROS: started, watched, restarted within bounds, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from vera_bringup.node_table import NodeSpec
from vera_bringup.supervisor import Escalation, RestartPolicy, Supervisor, describe_exit

SCRIPTS = {
    # Ends at the first polite signal.
    'steady': 'import time\nprint("steady is up", flush=True)\ntime.sleep(600)',
    'crasher': 'import sys\nprint("oh no", flush=True)\nsys.exit(7)',
    'misconfigured': 'import sys\nprint("no such checkpoint", flush=True)\nsys.exit(2)',
    # Ignores every signal it can, and has a child that does too.
    'stubborn': """
        import signal, subprocess, sys, time
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        child = subprocess.Popen(['sleep', '600'])
        print('child', child.pid, flush=True)
        time.sleep(600)
    """,
}


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    folder = tmp_path / 'prefix' / 'lib' / 'fake'
    folder.mkdir(parents=True)
    for name, body in SCRIPTS.items():
        path = folder / name
        path.write_text(f'#!{sys.executable}\n{textwrap.dedent(body)}\n')
        path.chmod(0o755)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path / 'prefix'))
    return tmp_path


class Run:
    """A supervisor in a thread, and what it said."""

    def __init__(self, folder: Path, *names: str, **kwargs) -> None:
        essential = kwargs.pop('essential', True)
        table = [NodeSpec('fake', n, n, 'vera', {'x': 1}, essential=essential) for n in names]
        self.lines: list[tuple[float, str, str]] = []
        self.folder = folder
        self.supervisor = Supervisor(table, dict(os.environ), folder / 'run', self._note, **kwargs)
        self.result: bool | None = None
        self._thread = threading.Thread(target=self._go)
        self._thread.start()

    def _go(self) -> None:
        self.result = self.supervisor.run()

    def _note(self, source: str, line: str) -> None:
        self.lines.append((time.monotonic(), source, line))

    def wait_for(self, source: str, text: str, timeout: float = 15.0) -> float:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for moment, s, line in list(self.lines):
                if s == source and text in line:
                    return moment
            time.sleep(0.01)
        raise AssertionError(f'{source} never said {text!r}: {self.lines}')

    def stop(self) -> bool | None:
        self.supervisor.request_stop()
        return self.join()

    def join(self) -> bool | None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.result


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        # A zombie that nobody reaps in a container counts as gone.
        return ') Z ' in Path(f'/proc/{pid}/stat').read_text()
    except FileNotFoundError:
        return True


def soon_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while not gone(pid):
        assert time.monotonic() < deadline, f'process {pid} still runs'
        time.sleep(0.02)


def test_starts_prefixes_logs_and_stops(prefix):
    run = Run(prefix, 'steady')
    run.wait_for('steady', 'steady is up')
    pid = run.supervisor.pids()['steady']
    assert run.stop() is True
    assert gone(pid)
    assert 'steady is up' in (prefix / 'run' / 'log' / 'steady.log').read_text()
    parameters = (prefix / 'run' / 'parameters' / 'steady.yaml').read_text()
    assert 'ros__parameters' in parameters


def test_a_dead_node_is_reported_within_a_second_and_restarted(prefix):
    run = Run(prefix, 'steady')
    run.wait_for('steady', 'steady is up')
    first = run.supervisor.pids()['steady']
    killed = time.monotonic()
    os.kill(first, signal.SIGKILL)
    reported = run.wait_for('vera', 'steady died (killed by SIGKILL)')
    assert reported - killed < 1.0
    deadline = time.monotonic() + 5
    while run.supervisor.pids().get('steady', first) == first:
        assert time.monotonic() < deadline, 'not restarted'
        time.sleep(0.02)
    assert run.supervisor.restarts() == {'steady': 1}
    assert run.stop() is True


def test_gives_up_after_three_restarts_and_says_so(prefix):
    run = Run(prefix, 'steady', 'crasher', policy=RestartPolicy(3, 60, 0.01))
    assert run.join() is False
    assert 'crasher died again (exit code 7): 4 deaths' in run.supervisor.failure
    assert run.supervisor.restarts()['crasher'] == 3
    assert run.supervisor.pids() == {}


def test_a_node_that_is_not_essential_takes_nothing_down(prefix):
    run = Run(prefix, 'crasher', essential=False, policy=RestartPolicy(1, 60, 0.01))
    run.wait_for('vera', 'going on without it')
    assert run.stop() is True


def test_a_configuration_error_is_not_retried(prefix):
    run = Run(prefix, 'misconfigured')
    assert run.join() is False
    assert 'misconfigured cannot run as configured' in run.supervisor.failure
    assert run.supervisor.restarts()['misconfigured'] == 0
    assert any(line == 'no such checkpoint' for _, _, line in run.lines)


def test_stubborn_processes_and_their_children_are_killed(prefix):
    run = Run(prefix, 'stubborn', escalation=Escalation(0.3, 0.3))
    run.wait_for('stubborn', 'child')
    child = int(next(line for _, s, line in run.lines if s == 'stubborn').split()[1])
    pid = run.supervisor.pids()['stubborn']
    assert run.stop() is True
    assert gone(pid)
    soon_gone(child)  # SIGKILL is sent, but nobody waits for a grandchild
    assert any('sending SIGKILL' in line for _, s, line in run.lines if s == 'vera')


def test_a_second_request_hurries(prefix):
    run = Run(prefix, 'stubborn', escalation=Escalation(30, 30))
    run.wait_for('stubborn', 'child')
    begin = time.monotonic()
    run.supervisor.request_stop()
    run.supervisor.request_stop()
    assert run.join() is True
    assert time.monotonic() - begin < 5


def test_nothing_outlives_a_killed_supervisor(prefix):
    program = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from vera_bringup.node_table import NodeSpec
        from vera_bringup.supervisor import Supervisor
        def report(source, line):
            print(source, line, supervisor.pids().get('steady'), flush=True)
        table = [NodeSpec('fake', 'steady', 'steady', 'vera')]
        supervisor = Supervisor(table, dict(os.environ), Path(sys.argv[1]), report)
        supervisor.run()
    """)
    process = subprocess.Popen(
        [sys.executable, '-c', program, str(prefix / 'run')], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline().split()[-1])
    assert not gone(pid)
    process.kill()
    process.wait()
    soon_gone(pid)
    process.stdout.close()


@pytest.mark.parametrize(
    ('code', 'text'), [(3, 'exit code 3'), (-9, 'killed by SIGKILL'), (-99, 'killed by signal 99')]
)
def test_describe_exit(code, text):
    assert describe_exit(code) == text
