#!/usr/bin/env python3
"""Run the tests: a pytest for each folder of them, two at a time.

    python scripts/run_tests.py [options of pytest]

A test that hangs inside a library cannot be interrupted from Python. pytest's faulthandler then
prints where every thread is and ends that pytest (`faulthandler_timeout` in pyproject.toml); the
folder is run once more, and the summary says so. Exit code: 0 if every test passed, else 1.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JOBS = 2
NO_TESTS = 5  # pytest's exit code where nothing was selected
ENDED = (0, 1, NO_TESTS)  # by itself; anything else is a crash or a wrong option
WRONG_OPTION = 4
COUNTS = ('passed', 'failed', 'skipped')


@dataclass
class Outcome:
    """Of one pytest.

    Attributes:
        folder: of the tests. code: pytest's exit code. output: all that it printed.
        counts: of COUNTS; empty if it was ended before it could write its report.
        seconds: it took.
    """

    folder: str
    code: int
    output: str
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether it came to its own end."""
        return self.code == NO_TESTS or (self.code in ENDED and bool(self.counts))


def folders(root: Path = ROOT) -> list[str]:
    """Every folder of tests, the one with the most test files first."""
    found = [root / 'tests', *root.glob('src/*/test')]
    found.sort(key=lambda folder: -len(list(folder.glob('test_*.py'))))
    return [str(folder.relative_to(root)) for folder in found]


def read_report(path: Path) -> dict[str, int]:
    """Counts of a JUnit report; empty if there is none or only a part of one."""
    try:
        suites = list(ElementTree.parse(path).getroot().iter('testsuite'))
    except (FileNotFoundError, ElementTree.ParseError):
        return {}
    total = {
        name: sum(int(suite.get(name, 0)) for suite in suites)
        for name in ('tests', 'failures', 'errors', 'skipped')
    }
    failed = total['failures'] + total['errors']
    passed = total['tests'] - failed - total['skipped']
    return {'passed': max(passed, 0), 'failed': failed, 'skipped': total['skipped']}


def run_pytest(folder: str, options: Sequence[str], root: Path = ROOT) -> Outcome:
    """One pytest over one folder."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / 'report.xml'
        command = [sys.executable, '-m', 'pytest', folder, *options, f'--junitxml={report}']
        done = subprocess.run(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors='replace', check=False,
        )
        counts = read_report(report)
    return Outcome(folder, done.returncode, done.stdout, time.monotonic() - began, counts)


def run_folder(
    folder: str, options: Sequence[str], say: threading.Lock, root: Path = ROOT
) -> list[Outcome]:
    """A folder's pytest, and another one if the first was ended by a hang or a crash."""
    outcomes = []
    for attempt in range(2):
        outcome = run_pytest(folder, options, root)
        outcomes.append(outcome)
        with say:
            print(outcome.output, end='')
            print(f'run_tests: {folder}: {outcome.seconds:.0f} s', flush=True)
            if outcome.whole or outcome.code == WRONG_OPTION:
                break
            again = '; it is run once more' if attempt == 0 else ''
            print(
                f'run_tests: {folder}: pytest was ended by a hang or a crash (exit code '
                f'{outcome.code}){again}', flush=True,
            )
    return outcomes


def run(options: Sequence[str], root: Path = ROOT, jobs: int = JOBS) -> int:
    """All folders.

    Returns:
        0 if something was run and everything passed, 1 otherwise.
    """
    began = time.monotonic()
    say = threading.Lock()
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda f: run_folder(f, options, say, root), folders(root)))
    last = [outcomes[-1] for outcomes in found]
    total = {name: sum(o.counts.get(name, 0) for o in last) for name in COUNTS}
    broken = [o.folder for o in last if not o.whole]
    repeated = [outcomes[0].folder for outcomes in found if len(outcomes) > 1]
    print(f'run_tests: {time.monotonic() - began:.0f} s in all')
    if repeated:
        print(f'run_tests: run twice, since the first run hung or crashed: {", ".join(repeated)}')
    if broken:
        print(f'run_tests: not run to the end: {", ".join(broken)}')
    total['failed'] += len(broken)
    print(', '.join(f'{total[name]} {name}' for name in COUNTS), flush=True)
    return 0 if total['passed'] and not total['failed'] else 1


def main() -> int:
    """A path among the options: one plain pytest over it."""
    options = sys.argv[1:]
    if any(Path(word.split('::')[0]).exists() for word in options if not word.startswith('-')):
        command = [sys.executable, '-m', 'pytest', *options]
        print(shlex.join(command), flush=True)
        os.chdir(ROOT)
        return subprocess.run(command, check=False).returncode
    return run(options)


if __name__ == '__main__':
    sys.exit(main())
