"""What the exit codes of `vera` mean."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    FAILED = 1  # it ran, but what was asked for did not come about
    BAD_INPUT = 2  # nothing was started: wrong option, contract, checkpoint or domain
    NO_GRAPH = 3  # no running graph answered
    BUSY = 4  # another graph already runs on this domain and namespace
    GRAPH_DOWN = 5  # a node could not be kept alive
    INTERRUPTED = 130  # Ctrl-C before the end


HELP = """Exit codes: 0 done; 1 ran, but what was asked for did not come about; 2 bad input, nothing
started; 3 no running graph answers; 4 another graph runs here; 5 a node could not be kept alive;
130 interrupted."""


class CommandError(Exception):
    """Ends a command with one clear message and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code
