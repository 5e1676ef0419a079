"""What the graph tests share: domains of their own, `vera` processes, patience."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from vera_bringup.environment import PARTICIPANTS, free_participants

FIRST_DOMAIN = 50  # up to 100: clear of the ports that the system hands out by itself
_used = (os.getpid() % 25) * 2


def unique_domain() -> int:
    """A ROS domain on which nobody is, not even another run of the tests."""
    global _used
    for _ in range(50):
        _used += 1
        domain = FIRST_DOMAIN + _used % 50
        if free_participants(domain) == PARTICIPANTS:
            return domain
    raise RuntimeError('no free ROS domain for the tests')


class Vera:
    """A running `vera` command, with everything it has said so far."""

    def __init__(self, *args: str, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.cwd = cwd
        self.process = subprocess.Popen(
            [*self.command(), *args],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def command(self) -> list[str]:
        """What runs before the arguments."""
        return [sys.executable, '-m', 'vera_bringup.cli']

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def text(self) -> str:
        return '\n'.join(line for _, line in self.lines)

    def wait_for(self, pattern: str, timeout: float = 60.0, since: float = 0.0) -> float:
        """Moment [s, monotonic] of the first line after `since` that matches."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for moment, line in list(self.lines):
                if moment >= since and re.search(pattern, line):
                    return moment
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f'{pattern!r} was not said within {timeout} s:\n{self.text}')

    def end(self, number: int = signal.SIGINT, timeout: float = 30.0) -> int:
        """Signal only the command itself, as a terminal's Ctrl-C would not."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 60.0) -> int:
        """Exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'still running after {timeout} s:\n{self.text}') from None
        self._reader.join(5)
        return code

    def kill(self) -> None:
        """Whatever happened, leave nothing."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def vera(*args: str, cwd: Path, timeout: float = 60.0, **env: str) -> tuple[int, str]:
    """Run a `vera` command to its end: exit code and everything it said."""
    command = Vera(*args, cwd=cwd, env=env)
    try:
        return command.wait(timeout), command.text
    finally:
        command.kill()


def processes_of(run_dir: Path) -> dict[str, int]:
    """Living processes whose command line names a file of this run, by node name."""
    found = {}
    for entry in Path('/proc').iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / 'cmdline').read_text().split('\0')
            state = (entry / 'stat').read_text().rpartition(')')[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != 'Z' and any(str(run_dir) in word for word in words):
            name = next((w.split(':=')[1] for w in words if w.startswith('__node:=')), entry.name)
            found[name] = int(entry.name)
    return found
