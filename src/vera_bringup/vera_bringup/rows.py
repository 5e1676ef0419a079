"""Rows on disk as they come, so that long work goes on where it was ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

ABOUT, ROWS = 'about.json', 'rows.jsonl'


class RowsError(ValueError):
    """The folder holds other rows, or none that can be read; the message says what to do."""


class Rows:
    """The rows of one piece of work in a folder: `about.json` says which, `rows.jsonl` has them.

    A line that was cut off, as by kill -9, is made again.

    Args:
        folder: created.
        about: what the rows depend on, plain data; those of another one are not mixed in.

    Attributes:
        found: the rows that were there, in the order in which they came.

    Raises:
        RowsError: the folder holds rows of something else.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        about = dict(json.loads(json.dumps(about)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RowsError(f'{folder} cannot be a folder for rows: {error.strerror}') from None
        known = folder / ABOUT
        if known.exists():
            check_same(json.loads(known.read_text(encoding='utf-8')), about, folder)
        elif (folder / ROWS).exists():
            raise RowsError(f'{folder / ROWS} belongs to something else; choose another folder')
        else:
            text = json.dumps({'hash': digest(about), **about}, indent=1)
            partial = known.with_suffix('.partial')
            partial.write_text(text, encoding='utf-8')
            partial.replace(known)
        self.found: list[dict[str, Any]] = []
        whole = 0
        if (folder / ROWS).exists():
            for line in (folder / ROWS).read_bytes().splitlines(keepends=True):
                try:
                    row = json.loads(line) if line.endswith(b'\n') else None
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    break
                self.found.append(row)
                whole += len(line)
        self._file = (folder / ROWS).open('ab')
        self._file.truncate(whole)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row; it is on disk when this returns."""
        self._file.write(json.dumps(row).encode() + b'\n')
        self._file.flush()

    def close(self) -> None:
        """No more rows."""
        self._file.close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def digest(about: Any) -> str:
    """First 16 hex digits of the SHA-256 of plain data."""
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def check_same(old: Mapping[str, Any], about: Mapping[str, Any], folder: Path) -> None:
    """Raise RowsError naming what differs, unless the rows there are of the same work."""
    if old.get('hash') == digest(about):
        return
    names = sorted(k for k in {*old, *about} - {'hash'} if old.get(k) != about.get(k))
    shown = '; '.join(f'{k}: {_short(old.get(k))} there, {_short(about.get(k))} now' for k in names)
    raise RowsError(
        f'{folder} holds rows of something else ({shown or "its about.json was changed"}); '
        'choose another folder'
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else digest(value)
