"""A gripper that takes commands, not set-points, and takes its time: it has threads of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

# A set-point that stood still for so long [s] is meant.
SETTLE_S = 0.05
# Below and above these shares of the range nobody asks for exactly that opening: they grip, or
# let go, and the gripper may begin before the set-point has arrived.
CLOSED, OPEN = 0.25, 0.75
# m of one finger: smaller changes are no command.
DEADBAND = 0.002
# m of one finger: further from where it was sent the gripper did not obey.
OBEYED = 0.005
# Of the measured opening, s. The hand itself tells it about 30 times a second.
POLL_S = 0.05
# m/s of the opening, what the hand can do.
FASTEST = 0.1
JOIN_S = 2.0
# s between two attempts to reach a hand that does not answer.
RETRY_S = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """What the gripper is to do: move to an opening of one finger [m], or grip."""

    opening: float
    grasp: bool = False


class Intent:
    """Finds the commands in a stream of set-points, pure.

    Set-points of a finger ramp from one opening to the next at the limit of the safety filter; a
    command for each of them would make the hand stutter.

    Args:
        widest: m, the largest opening of one finger.
    """

    def __init__(self, widest: float) -> None:
        self._widest = widest
        self._last: Command | None = None
        self._target = 0.0
        self._since = 0.0

    def update(self, opening: float, measured: float, now: float) -> Command | None:
        """The command that follows from a set-point at `now` [s], or None.

        Args:
            opening: m of one finger, to be reached.
            measured: m of one finger. A set-point where the fingers are is no command: they may
                hold something there.
            now: s.
        """
        if self._last is None:
            # Motions begin where the fingers are: nothing to do.
            self._last = Command(opening)
            self._target, self._since = opening, now
            return None
        if abs(opening - self._target) > 1e-6:
            self._since = now
        rising, self._target = opening > self._target, opening
        wanted: Command | None = None
        if opening < CLOSED * self._widest:
            # Once it grips it grips: pressing harder is not what a smaller opening means.
            if not self._last.grasp and not rising and self._apart(opening):
                wanted = Command(0.0, grasp=True)
        elif opening > OPEN * self._widest and rising and self._last.opening < opening:
            wanted = Command(self._widest)
        elif (
            now - self._since >= SETTLE_S
            and (self._last.grasp or self._apart(opening))
            and abs(opening - measured) > DEADBAND
        ):
            wanted = Command(opening)
        if wanted is not None and wanted == self._last:
            return None
        self._last = wanted or self._last
        return wanted

    def _apart(self, opening: float) -> bool:
        return self._last is not None and abs(opening - self._last.opening) > DEADBAND


class GripperLink(Protocol):
    """A gripper as the library of an arm gives it; openings in m of one finger."""

    def measure(self) -> tuple[float, bool]:
        """Opening, and whether something is held."""

    def move(self, opening: float, speed: float) -> bool:
        """Go there at `speed` [m/s of one finger]; blocks; whether it says that it did."""

    def grasp(self, speed: float, force: float) -> bool:
        """Close until `force` [N]; blocks; whether it says that it did."""


class GripperThread:
    """Executes the newest command and measures the opening, each in a thread of its own.

    Nothing here ever waits for the hand but these two threads. A command that comes while another
    is executed waits for its end, less than a second; of several the newest counts.

    Args:
        link: connected.
        widest: m, of one finger.
        speed: m/s, of one finger.
        force: N.
        on_fault: called with what is wrong, in words.
    """

    def __init__(
        self,
        link: GripperLink,
        *,
        widest: float,
        speed: float,
        force: float,
        on_fault: Callable[[str], Any],
    ) -> None:
        self._link = link
        self._speed = min(speed, FASTEST / 2)
        self._force = force
        self._on_fault = on_fault
        self._intent = Intent(widest)
        self._widest = widest
        self._next: Command | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._opening, self._velocity = self._measure()[0], 0.0

    @property
    def measured(self) -> tuple[float, float]:
        """Opening of one finger [m], and its velocity [m/s]; waits for nothing."""
        return self._opening, self._velocity

    def start(self) -> None:
        """Begin to work."""
        for work in (self._execute, self._watch):
            thread = threading.Thread(target=work, name=f'gripper{work.__name__}', daemon=True)
            thread.start()
            self._threads.append(thread)

    def target(self, opening: float) -> None:
        """A set-point of one finger [m]; waits for nothing."""
        command = self._intent.update(opening, self._opening, time.monotonic())
        if command is not None:
            self._next = command
            self._wake.set()

    def forget(self) -> None:
        """Drop a command that has not begun; what is held stays held."""
        self._next = None

    def close(self) -> None:
        """End the threads."""
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=JOIN_S)

    def _execute(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            command, self._next = self._next, None
            if command is None or self._closing.is_set():
                continue
            try:
                # It has been seen to report success without having moved: look, and ask again.
                if not (self._do(command) or self._next or self._do(command)):
                    log.warning(
                        'gripper: sent to %.3f m, it is at %.3f m', command.opening, self._opening
                    )
            except Exception as error:
                self._on_fault(f'gripper: {error}')

    def _do(self, command: Command) -> bool:
        if command.grasp:
            self._link.grasp(self._speed, self._force)
        else:
            self._link.move(command.opening, self._speed)
        opening, held = self._measure()
        return held or abs(opening - command.opening) <= OBEYED

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._closing.wait(POLL_S):
            try:
                opening, now = self._measure()[0], time.monotonic()
            except Exception as error:
                # Again and again: a controller that was reset meanwhile must hear it, too.
                self._on_fault(f'gripper: {error}')
                self._velocity = 0.0
                self._closing.wait(RETRY_S)
                continue
            self._velocity = (opening - self._opening) / max(now - before, 1e-3)
            self._opening, before = opening, now

    def _measure(self) -> tuple[float, bool]:
        opening, held = self._link.measure()
        # The hand measures a little beyond its ends.
        return min(max(opening, 0.0), self._widest), held


__all__ = ['Command', 'GripperLink', 'GripperThread', 'Intent']
