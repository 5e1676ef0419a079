"""Every node is a thin shell around a library that knows no ROS: only nodes/ imports rclpy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from source_tree import PYTHON_PACKAGES, ROOT, imports_of, in_nodes, modules_of, top


def offences(path: Path, root: Path = ROOT) -> list[str]:
    """What a file outside nodes/ imports and may not."""
    if in_nodes(path.relative_to(root)):
        return []
    wrong = []
    for item in imports_of(path, root):
        parts = item.module.split('.')
        if top(item.module) == 'rclpy':
            wrong.append(f'{item}: only nodes/ folders may')
        elif path.is_relative_to(root / 'src' / 'vera_bringup'):
            continue  # the commands talk to the graph, through its nodes/client.py
        elif item.at_import and top(item.module).startswith('vera_') and parts[1:2] == ['nodes']:
            wrong.append(f'{item}, and rclpy with it: import it inside the function that needs it')
    return wrong


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_only_nodes_import_rclpy(package: str) -> None:
    wrong = [text for path in modules_of(package) for text in offences(path)]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('import rclpy', 1),
        ('import rclpy.node as n', 1),
        ('from rclpy.node import Node', 2),
        ('def f():\n    import rclpy', 1),
        ('from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rclpy', 1),
        ("import importlib\nimportlib.import_module('rclpy')", 1),
        ('from vera_core.nodes import base', 2),
        ('from vera_core import nodes', 1),
        ('from .nodes import base', 2),
        ('def f():\n    from vera_core.nodes import base', 0),
        ('text = "import rclpy"', 0),
        ('import rclpython', 0),
    ],
)
def test_the_lint_itself_sees(text: str, expected: int, tmp_path: Path) -> None:
    folder = tmp_path / 'src' / 'vera_core' / 'vera_core'
    (folder / 'nodes').mkdir(parents=True)
    for path, count in ((folder / 'a.py', expected), (folder / 'nodes' / 'a.py', 0)):
        path.write_text(text + '\n')
        assert len(offences(path, tmp_path)) == count, (path, offences(path, tmp_path))


@pytest.mark.parametrize('package', [x for x in PYTHON_PACKAGES if x != 'vera_bringup'])
def test_libraries_load_without_ros(package: str) -> None:
    """What no lint can see: nothing that a library imports drags rclpy in behind its back."""
    names = []
    for path in modules_of(package):
        parts = path.relative_to(ROOT / 'src' / package).with_suffix('').parts
        if not in_nodes(path.relative_to(ROOT)) and parts[-1] != '__main__':
            names.append('.'.join(part for part in parts if part != '__init__'))
    code = (
        'import importlib, sys\n'
        f'for name in {names!r}:\n'
        '    importlib.import_module(name)\n'
        "    assert 'rclpy' not in sys.modules, name + ' loads rclpy'\n"
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
