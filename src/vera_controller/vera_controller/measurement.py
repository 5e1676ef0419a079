"""What is known about where the robot is, and whether it can be believed."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from vera_controller.limits import Limits, Vector
from vera_core.clocks import NS_PER_S, Watchdog, ns_to_seconds
from vera_core.state_history import StateHistory

if TYPE_CHECKING:
    from vera_core.clocks import Clock
    from vera_core.contract import Contract
    from vera_core.seams import RobotState

# Stamps may step back this far [ns] without meaning that a clock was set.
DISORDER_NS = NS_PER_S // 2
# Distances, as seconds at the velocity limit. A joint that moved further between two states was
# moved by something else; one that is further from its set-point does not follow.
JUMP_S, FOLLOW_S = 0.1, 0.25


class News(Enum):
    """What a joint state means for the motion in progress."""

    NORMAL = 'normal'
    OLD = 'old'  # out of order or a repetition: ignored
    UNUSABLE = 'unusable'
    BACK = 'back'  # its clock was set back: what was planned is void
    MOVED = 'moved'  # the robot is elsewhere: so are the set-points
    EPISODE = 'episode'  # lock-step: time jumped, a new episode began


class Measurement:
    """The measured states, the watchdog over them, and the set-points to compare them with.

    Attributes:
        history: measured positions by stamp.
        stamp: of the newest state [ns]; None before the first.
        positions: newest, float64 [n]; None before the first.
        watchdog: fed by every good state.
    """

    def __init__(self, contract: Contract, limits: Limits, clock: Clock, lockstep: bool) -> None:
        self._limits = limits
        self._lockstep = lockstep
        self._period_ns = contract.control.period_ns
        timeout = contract.control.state_timeout
        self.history = StateHistory(max_gap=timeout)
        self.watchdog = Watchdog(timeout, clock)
        self.positions: Vector | None = None
        self._sent = StateHistory(maxlen=1024, max_gap=float(NS_PER_S))

    @property
    def stamp(self) -> int | None:
        """Stamp of the newest state that counts [ns], or None."""
        return self.history.newest

    def take(self, state: RobotState) -> tuple[News, str]:
        """Note a measured state; what it means, and why in words."""
        positions = np.array(state.positions, dtype=np.float64)
        names = self._limits.names
        if positions.shape != (len(names),):
            return News.UNUSABLE, f'joint state of shape {positions.shape} for {len(names)} joints'
        bad = np.flatnonzero(~np.isfinite(positions))
        if bad.size:
            return News.UNUSABLE, f'joint state: {names[bad[0]]} is at {positions[bad[0]]}'
        news, why = self._compare(state.stamp, positions)
        if news is News.OLD:
            return news, why
        if news is not News.NORMAL:
            self.history.clear()
        self.history.add(state.stamp, positions)
        self.positions = positions
        self.watchdog.feed()
        return news, why

    def stale(self) -> str | None:
        """Why no motion may rely on the joint states, in words; None if it may."""
        if self._lockstep or not self.watchdog.expired:
            return None
        timeout = f'{self.watchdog.timeout:g} s'
        if self.watchdog.fed:
            return f'joint states are stale: none for more than {timeout}'
        return f'no joint states for {timeout}; does anything publish them?'

    def sent(self, stamp: int, positions: Vector) -> None:
        """Note a set-point."""
        newest = self._sent.newest
        if newest is not None and stamp < newest - DISORDER_NS:
            self._sent.clear()  # the clock was set back: those were of another time
            newest = None
        if newest is None or stamp > newest:
            self._sent.add(stamp, positions)

    def forget_sent(self) -> None:
        """The set-points so far have nothing to do with those to come."""
        self._sent.clear()

    def not_following(self) -> str | None:
        """Which joint is far from where its set-point was at the time of the newest state."""
        oldest, newest = self._sent.oldest, self._sent.newest
        if oldest is None or newest is None or self.positions is None:
            return None
        if self.stamp is None or self.stamp < oldest:
            return None
        lag = np.abs(self.positions - self._sent.at(min(self.stamp, newest)))
        lag[self._limits.gripper] = 0.0  # it stops where the thing is that it grips
        far = np.flatnonzero(lag > FOLLOW_S * self._limits.velocity)
        if not far.size:
            return None
        i = int(far[0])
        return (
            f'{self._limits.names[i]} is {lag[i]:.2f} away from its set-point; '
            'something holds it, or the robot does not listen'
        )

    def _compare(self, stamp: int, positions: Vector) -> tuple[News, str]:
        if self.stamp is None or self.positions is None:
            return News.NORMAL, ''
        step = stamp - self.stamp
        if self._lockstep:
            if 0 < step <= 2 * self._period_ns:
                return News.NORMAL, ''
            return News.EPISODE, 'a new episode'
        if -DISORDER_NS <= step <= 0:
            return News.OLD, ''
        if step < 0:
            back = ns_to_seconds(-step)
            return News.BACK, f'the stamps of the joint states went back by {back:.1f} s'
        moved = np.abs(positions - self.positions)
        seconds = min(ns_to_seconds(step), self.watchdog.timeout) + JUMP_S
        moved[self._limits.gripper] = 0.0  # what it held may have gone
        far = np.flatnonzero(moved > seconds * self._limits.velocity)
        if not far.size:
            return News.NORMAL, ''
        i = int(far[0])
        return (
            News.MOVED,
            f'{self._limits.names[i]} jumped by {moved[i]:.2f} between two joint states',
        )


__all__ = ['DISORDER_NS', 'Measurement', 'News']
