"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, ERROR = 'ok', 'warning', 'error'


@dataclass(frozen=True)
class Finding:
    """What was found, why it matters, and what cures it.

    Attributes:
        check: what was looked at.
        level: ok; warning: works, but worse or not everything; error: in the way.
        found: what there is.
        why: why it matters.
        cure: a command or an action; empty where nothing is to be done.
    """

    check: str
    level: str
    found: str
    why: str = ''
    cure: str = ''
