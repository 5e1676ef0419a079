"""The `vera` command is quick to start, helps, and means something with its exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from vera_bringup.cli import app

COMMANDS = [
    [], ['up'], ['goal'], ['stop'], ['reset'], ['status'], ['demo'], ['eval'], ['collect'],
    ['train'], ['train', 'idm'], ['train', 'planner'], ['bench'], ['bench', 'transport'],
    ['bench', 'remote'], ['models'], ['models', 'import'], ['serve'], ['serve', 'planner'],
]  # fmt: skip


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_every_command_has_help(command):
    result = CliRunner().invoke(app, [*command, '--help'])
    assert result.exit_code == 0
    assert 'Usage' in result.output


def test_exit_codes_are_documented():
    output = CliRunner().invoke(app, ['--help']).output
    assert 'Exit codes' in output


@pytest.mark.parametrize(
    'command', [['fly'], ['up'], ['up', 'finger', '--seed', 'x'], ['eval', 'finger', '--jobs', '0']]
)
def test_wrong_usage_is_exit_code_2(command):
    assert CliRunner().invoke(app, command).exit_code == 2


def test_starting_imports_nothing_heavy():
    program = (
        'import sys, vera_bringup.cli;'
        "heavy = {'rclpy', 'torch', 'cv2', 'matplotlib', 'transformers'} & set(sys.modules);"
        'sys.exit(str(heavy) if heavy else 0)'
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
