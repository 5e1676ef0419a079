"""What the reference pages are made of: see reference_pages.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTICE = '<!-- Made from the code by scripts/reference_pages.py: change it there. -->'


class PageError(Exception):
    """The code says something that these pages cannot show; the message names the place."""


def cell(text: object) -> str:
    """A text inside a table."""
    return str(text).replace('|', '\\|').replace('<', '&lt;').replace('\n', ' ').strip()


def code(text: object) -> str:
    """A literal inside a table; nothing if it is empty."""
    return f'`{text!s}`'.replace('|', '\\|') if str(text) else ''


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [' | '.join(head), '|'.join(['---'] * len(head))]
    lines += [' | '.join(row) for row in rows]
    return '\n'.join(f'| {line} |' if '---|' not in line else f'|{line}|' for line in lines) + '\n'


def show(value: Any) -> str:
    """A default, as YAML has it."""
    if isinstance(value, bool):
        return f'`{str(value).lower()}`'
    return 'empty' if value == '' else code(value)
