"""Where contracts and checkpoints lie, in a source tree and in an installation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from vera_core.contract_reader import ContractError, suggestion

SHARE = Path('share/vera_bringup')
SUFFIXES = ('.yaml', '.yml')


def _from_environment(variable: str) -> list[Path]:
    return [Path(part).expanduser() for part in os.environ.get(variable, '').split(':') if part]


def source_root() -> Path | None:
    """Root of the source tree that this module runs from, or None in an installation."""
    parents = Path(__file__).resolve().parents
    if len(parents) > 3 and parents[2].name == 'src' and (parents[3] / 'config').is_dir():
        return parents[3]
    return None


def share_folders() -> list[Path]:
    """share/vera_bringup of every installation prefix, nearest first."""
    prefixes = [*_from_environment('AMENT_PREFIX_PATH'), Path(sys.prefix)]
    return list(dict.fromkeys(prefix / SHARE for prefix in prefixes))


def embodiment_folders() -> list[Path]:
    """Where contracts are looked for, in order."""
    root = source_root()
    folders = [
        *_from_environment('VERA_CONFIG_PATH'),
        *([root / 'config' / 'embodiments'] if root else []),
        *(share / 'config' / 'embodiments' for share in share_folders()),
    ]
    return list(dict.fromkeys(folders))


def known_embodiments(folders: Iterable[Path] | None = None) -> dict[str, Path]:
    """Name -> file of every contract that can be named."""
    found: dict[str, Path] = {}
    for folder in embodiment_folders() if folders is None else folders:
        for suffix in SUFFIXES:
            for path in sorted(folder.glob(f'*{suffix}')):
                found.setdefault(path.stem, path)
    return found


def find_contract(name_or_path: str | Path) -> Path:
    """The file of an embodiment.

    Args:
        name_or_path: a name, or a path that ends in .yaml or .yml.

    Raises:
        ContractError: no such file; or an unknown name, with the known ones.
    """
    text = str(name_or_path).strip()
    if not text:
        raise ContractError(f'no embodiment given{suggestion("", known_embodiments())}')
    if text.endswith(SUFFIXES) or '/' in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise ContractError('there is no such contract file', where=text)
        return path
    folders = embodiment_folders()
    for folder in folders:
        for suffix in SUFFIXES:
            path = folder / f'{text}{suffix}'
            if path.is_file():
                return path
    raise ContractError(
        f'unknown embodiment {text!r}{suggestion(text, known_embodiments(folders))} (looked in '
        f'{", ".join(str(folder) for folder in folders)}; VERA_CONFIG_PATH adds folders)'
    )


def checkpoint_folders() -> list[Path]:
    """Where checkpoints are looked for, in order; VERA_CHECKPOINT_PATH adds folders in front."""
    root = source_root()
    folders = [
        *_from_environment('VERA_CHECKPOINT_PATH'),
        *([root / 'data' / 'checkpoints'] if root else []),
        *(share / 'checkpoints' for share in share_folders()),
    ]
    return list(dict.fromkeys(folders))
