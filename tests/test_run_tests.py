"""scripts/run_tests.py: what is counted, and what happens when a pytest hangs for good."""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType

import pytest

from source_tree import ROOT

PASSES = 'def test_it():\n    assert True\n'
FAILS = 'def test_it():\n    assert 1 == 2\n'
# The lock is held inside a C function that no signal handler can interrupt; pthread_mutex_lock
# twice, as a library that deadlocks does.
HANGS = """
import ctypes
from pathlib import Path

def test_hangs_the_first_time():
    mark = Path(__file__).with_name('been_here')
    if TIMES == 'always' or not mark.exists():
        mark.touch()
        mutex = ctypes.create_string_buffer(64)
        libc = ctypes.PyDLL(None)  # with the interpreter's lock held
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)
"""


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    monkeypatch.setenv('PYTEST_DISABLE_PLUGIN_AUTOLOAD', '1')  # each start is quicker
    spec = importlib.util.spec_from_file_location('run_tests', ROOT / 'scripts' / 'run_tests.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules['run_tests'] = module  # dataclasses ask for it
    spec.loader.exec_module(module)
    return module


def tree(folder, **tests):
    """A root with one package of tests for each text, and our way of ending a hang."""
    (folder / 'pytest.ini').write_text(
        '[pytest]\nfaulthandler_timeout = 2\nfaulthandler_exit_on_timeout = true\n'
        'addopts = --import-mode=importlib -p no:cacheprovider\n'
    )
    for name, text in tests.items():
        place = folder / 'src' / name / 'test'
        place.mkdir(parents=True)
        (place / f'test_{name}.py').write_text(text)
    (folder / 'tests').mkdir()
    return folder


def test_every_folder_of_tests_is_found(script):
    found = script.folders()
    assert found[0] in ('tests', 'src/vera_jidm/test', 'src/vera_planner/test')
    there = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob('src/*/test/test_*.py')}
    assert set(found) == there | {'tests'}


def test_a_failure_anywhere_is_a_failure(script, tmp_path, capsys):
    assert script.run([], tree(tmp_path, good=PASSES, bad=FAILS)) == 1
    text = capsys.readouterr().out
    assert 'assert 1 == 2' in text
    assert text.splitlines()[-1] == '1 passed, 1 failed, 0 skipped'


def test_folders_where_nothing_is_selected_do_no_harm(script, tmp_path, capsys):
    assert script.run(['-k', 'good'], tree(tmp_path, good=PASSES, bad=FAILS)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == '1 passed, 0 failed, 0 skipped'


def test_nothing_selected_anywhere_is_no_success(script, tmp_path):
    assert script.run(['-k', 'nothing'], tree(tmp_path, good=PASSES)) == 1


def test_a_hang_is_shown_ended_and_tried_once_more(script, tmp_path, capsys):
    root = tree(tmp_path, once="TIMES = 'once'" + HANGS, always="TIMES = 'always'" + HANGS)
    say = threading.Lock()
    first, second = script.run_folder('src/once/test', [], say, root)
    assert not first.whole
    assert 'Timeout (0:00:02)!' in first.output
    assert 'test_hangs_the_first_time' in first.output  # where it hung
    assert second.whole
    assert second.counts == {'passed': 1, 'failed': 0, 'skipped': 0}
    (root / 'src' / 'once' / 'test' / 'been_here').unlink()
    assert script.run([], root) == 1
    text = capsys.readouterr().out
    assert 'run_tests: not run to the end: src/always/test\n' in text
    assert 'run twice' in text
    assert text.splitlines()[-1] == '1 passed, 1 failed, 0 skipped'
