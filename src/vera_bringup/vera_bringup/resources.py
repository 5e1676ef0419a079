"""Where things lie: configuration and launch files, executables, message definitions."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from vera_core.contract_files import share_folders, source_root


class ResourceError(FileNotFoundError):
    """Something that should be installed is not; the message says what and how to get it."""

    def __str__(self) -> str:
        return str(self.args[0])


def prefixes() -> list[Path]:
    """Installation prefixes, nearest first: AMENT_PREFIX_PATH, then this Python's own prefix."""
    named = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    own = Path(sys.prefix)
    found = [Path(p) for p in named if p]
    if (own / 'share' / 'ament_index').is_dir():
        found.append(own)
    return list(dict.fromkeys(found))


def resource(*parts: str) -> Path:
    """A file of `config/` or `launch/`, in the source tree or in an installation.

    Raises:
        ResourceError: it is nowhere; the message lists where it was looked for.
    """
    root = source_root()
    shares = [*([root] if root else []), *share_folders()]
    tried = [share.joinpath(*parts) for share in shares]
    for path in tried:
        if path.is_file():
            return path
    places = ', '.join(str(p) for p in tried)
    name = '/'.join(parts)
    raise ResourceError(f'{name} is not installed (looked at {places}); run `make setup`')


def executable(package: str, name: str) -> list[str]:
    """Command line of a node: the installed executable, or the module of a source tree.

    Raises:
        ResourceError: the package has no such node.
    """
    for prefix in prefixes():
        path = prefix / 'lib' / package / name
        if path.is_file() and os.access(path, os.X_OK):
            return [str(path)]
    module = f'{package}.nodes.{name}'
    try:
        known = find_spec(module) is not None
    except ModuleNotFoundError:
        known = False
    if not known:
        raise ResourceError(f'no executable {name!r} in package {package!r}; run `make setup`')
    return [sys.executable, '-m', module]


def message_definition(type_name: str) -> str | None:
    """Text of `package/msg/Name`'s .msg file, or None if no installation has it."""
    package, kind, name = type_name.split('/')
    for prefix in prefixes():
        path = prefix / 'share' / package / kind / f'{name}.msg'
        if path.is_file():
            return path.read_text(encoding='utf-8')
    return None
