"""What the tests about the source tree itself share: where things are, and who imports what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / 'src'

PACKAGES = sorted(path.parent.name for path in SRC.glob('vera_*/package.xml'))
PYTHON_PACKAGES = [name for name in PACKAGES if (SRC / name / name / '__init__.py').exists()]


@dataclass(frozen=True)
class Import:
    """One import of a module under its full name, and where it stands."""

    module: str
    file: Path
    line: int
    at_import: bool
    """Whether it happens when the file is imported, and not only when a function is called."""

    def __str__(self) -> str:
        return f'{self.file}:{self.line} imports {self.module}'


def imports_of(path: Path, root: Path = ROOT) -> list[Import]:
    """Everything that a file imports, relative imports resolved, import_module('...') included."""
    tree = ast.parse(path.read_text(), filename=str(path))
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        for module in _modules(node, path):
            found.append(
                Import(module, path.relative_to(root), node.lineno, id(node) not in deferred)
            )
    return found


def _modules(node: ast.AST, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ''
        if node.level:
            # src/<package>/<package>/a/b.py: one dot is <package>.a
            inside = path.parts[path.parts.index('src') + 2 : -1] if 'src' in path.parts else ()
            parents = list(inside[: len(inside) - node.level + 1])
            base = '.'.join([*parents, base]) if base else '.'.join(parents)
        # `from vera_core import nodes` may import a module as well as a name
        yield base
        yield from (f'{base}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else None
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in ('import_module', '__import__') and isinstance(node.args[0].value, str):
            yield node.args[0].value


def modules_of(package: str, src: Path = SRC) -> list[Path]:
    """The Python files that a package installs; not its tests."""
    return sorted((src / package / package).rglob('*.py'))


def in_nodes(path: Path) -> bool:
    """Whether a file lies in a package's nodes/ folder, where ROS is at home."""
    return 'nodes' in path.parts[:-1]


def top(module: str) -> str:
    """The first name of a dotted one."""
    return module.split('.')[0]
