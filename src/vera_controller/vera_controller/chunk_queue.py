"""From action chunks to a target for every moment: splicing by stamp, never by arrival order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vera_controller.limits import Vector
from vera_controller.polyline import Polyline
from vera_controller.waypoints import (
    ChunkRefusedError,
    ImplausibleChunkError,
    Route,
    UnsupportedChannelError,
    Waypoints,
)
from vera_core.clocks import ns_to_seconds, seconds_to_ns
from vera_core.state_history import HistoryError, StateHistory

if TYPE_CHECKING:
    from vera_core.chunk import ActionChunk
    from vera_core.contract import Contract

FADE_KNOTS = 10
# Share of the velocity limits at which a splice may move the target, on top of the chunk's own.
CATCH_UP = 0.5


@dataclass(frozen=True)
class Splice:
    """How a chunk was taken over.

    Attributes:
        discarded: whole actions that had passed at its arrival.
        notes: what is done less than asked, in words.
    """

    discarded: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Anchor:
    """What a route starts from.

    Attributes:
        positions: float64 [joints], measured at the stamp of the chunk.
        closed: bool [m], which of the moved joints was told to be closed then; None if unknown.
    """

    positions: Vector
    closed: NDArray[np.bool_] | None = None


class ChunkQueue:
    """The chunk being executed, and the fading end of the one before.

    A chunk anchored at t_a covers (t_a, t_a + K T]. Its path starts at the position measured at
    t_a: the deltas are relative to what the anchor frame shows, not to the set-point of that time.

    Args:
        contract: channels and velocity limits.
        history: measured states.
        fade: [s] over which the target moves from the old chunk to the new one; longer where they
            are further apart than CATCH_UP allows.
        margin: an action may not ask for more than velocity limit x period x margin.

    Raises:
        UnsupportedChannelError: a channel that cannot be executed.
        SafetyError: the kinematics that a channel needs cannot be used.
    """

    def __init__(
        self, contract: Contract, history: StateHistory, *, fade: float = 0.1, margin: float = 1.25
    ) -> None:
        self._contract = contract
        self._history = history
        self._fade_ns = seconds_to_ns(fade)
        self._waypoints = Waypoints(contract, margin)
        self._joint = self._waypoints.joints
        self._velocity = contract.velocity_limits[self._joint]
        low, high = contract.position_limits
        self._middle = (low + (high - low) / 2)[self._joint]
        self._told: Vector | None = None
        self._path: Polyline | None = None
        self._tail: Polyline | None = None
        self._goal_id: int | None = None
        self._newest: tuple[int, int] | None = None  # plan and part
        self._plan_seq = 0
        self._seen: int | None = None

    @property
    def goal_id(self) -> int | None:
        """The goal whose chunks are taken, or None."""
        return self._goal_id

    @property
    def plan_seq(self) -> int:
        """Plan of the chunk being executed; 0 if none."""
        return self._plan_seq if self._path else 0

    @property
    def stamp(self) -> int | None:
        """Anchor stamp of the chunk being executed [ns], or None."""
        return self._path.start if self._path else None

    @property
    def seen(self) -> int | None:
        """Stamp of the newest frame that the plan being executed was made from [ns], or None."""
        return self._seen if self._path else None

    def remaining(self, now: int) -> float:
        """Seconds left of the chunk being executed, 0 if none."""
        return max(0.0, ns_to_seconds(self._path.end - now)) if self._path else 0.0

    def expect(self, goal_id: int | None) -> None:
        """Take chunks of this goal only, from any plan on; drops what is there of another."""
        self.clear()
        self._goal_id = goal_id
        self._newest = None

    def forget(self) -> None:
        """The robot was moved by somebody else: what grippers were told is void."""
        self.clear()
        self._told = None

    def clear(self) -> None:
        """Drop the chunk being executed; older plans stay refused."""
        if self._path is not None:
            self._told = self._path.knots[-1]
        self._path = self._tail = None

    def check(self, chunk: ActionChunk, now: int) -> None:
        """Raise ChunkRefusedError for a chunk that is not for us, or comes too late.

        Args:
            chunk: what arrived.
            now: time of arrival [ns].
        """
        plan = f'plan {chunk.plan_seq}'
        if self._goal_id is None:
            raise ChunkRefusedError(f'{plan} serves goal {chunk.goal_id}, but no goal is active')
        if chunk.goal_id != self._goal_id:
            raise ChunkRefusedError(
                f'{plan} serves goal {chunk.goal_id}, but goal {self._goal_id} is active'
            )
        if self._newest is not None and (chunk.plan_seq, chunk.part) <= self._newest:
            raise ChunkRefusedError(
                f'{_name(chunk.plan_seq, chunk.part)} is not newer than {_name(*self._newest)}'
            )
        self._check_channels(chunk)
        shortest = self._contract.control.period
        if seconds_to_ns(chunk.period) < self._contract.control.period_ns:
            raise ChunkRefusedError(
                f'actions of {plan} last {chunk.period:g} s, less than one set-point of '
                f'{shortest:g} s'
            )
        end = chunk.stamp + seconds_to_ns(chunk.period) * chunk.steps
        if now >= end:
            raise ChunkRefusedError(
                f'{plan} has expired: its last action ended {ns_to_seconds(now - end):.3f} s ago'
            )
        # Parts are made from ever newer frames; but what waited for a robot at rest begins later
        # than its frame, and the part after it may be of a frame between.
        if self._path and not chunk.part and chunk.stamp < self._path.start:
            raise ChunkRefusedError(
                f'{plan} is stale: its anchor frame is '
                f'{ns_to_seconds(self._path.start - chunk.stamp):.3f} s older than that of '
                f'plan {self._plan_seq}, which is being executed'
            )

    def anchor(self, chunk: ActionChunk) -> Anchor:
        """Where the route of a chunk starts; ChunkRefusedError if that is not known."""
        try:
            positions = self._history.at(chunk.stamp)
        except HistoryError as error:
            raise ChunkRefusedError(
                f'where plan {chunk.plan_seq} starts is not known: {error}'
            ) from None
        told = self._told if self._path is None else self._path.at(chunk.stamp)
        return Anchor(positions, None if told is None else told < self._middle)

    def solve(self, chunk: ActionChunk, anchor: Anchor) -> Route:
        """The route of a chunk; touches nothing, so it needs no lock, and may take a while.

        Raises:
            ImplausibleChunkError: an action that no plan for this robot can mean.
        """
        return self._waypoints(chunk, anchor.positions, anchor.closed)

    def offer(
        self,
        chunk: ActionChunk,
        now: int,
        hold: Vector | None = None,
        *,
        still: bool = False,
        route: Route | None = None,
    ) -> Splice:
        """Take over a chunk.

        Args:
            chunk: what arrived.
            now: time of arrival [ns]; what the chunk says about the time before is discarded.
            hold: float64 [n] where the robot waits; faded from when there is no chunk to fade from.
            still: stand still at the anchor's position for as long as the chunk lasts, instead.
            route: what `solve` found; solved here unless given.

        Raises:
            ChunkRefusedError: it may not be executed; what is there goes on.
        """
        self.check(chunk, now)
        if still:
            here = self.anchor(chunk).positions[self._joint]
            route = Route(np.tile(here, (chunk.steps + 1, 1)))
        elif route is None:
            route = self.solve(chunk, self.anchor(chunk))
        path = Polyline(chunk.stamp, seconds_to_ns(chunk.period), route.knots)
        self._tail = self._fading(path, now, hold)
        self._path = path
        self._newest = (chunk.plan_seq, chunk.part)
        self._plan_seq, self._seen = chunk.plan_seq, chunk.seen
        return Splice(max(0, (now - chunk.stamp) // path.period), route.notes)

    def sample(self, time: int, hold: Vector) -> Vector | None:
        """The target at `time` [ns], or None when there is none any more.

        Args:
            time: when the robot should be there.
            hold: float64 [n] positions of the joints that no channel moves.
        """
        if self._path is None or time > self._path.end:
            return None
        target = hold.copy()
        target[self._joint] = self._mixed(time)
        return target

    def _mixed(self, time: int) -> Vector:
        assert self._path is not None
        new = self._path.at(time)
        tail = self._tail
        if tail is None or time >= tail.end:
            return new
        share = max(0, time - tail.start) / (tail.end - tail.start)
        old = tail.at(time)
        return old + share * (new - old)

    def _fading(self, new: Polyline, now: int, hold: Vector | None) -> Polyline | None:
        """What the target would have been without the new chunk, for as long as it fades."""
        if self._path is not None and now <= self._path.end:
            here = self._mixed(now)
        elif hold is not None:
            here = hold[self._joint]
        else:
            return None
        # A late chunk is ahead of the robot: it catches up at a part of its speed, in no lunge.
        gap = float((np.abs(new.at(now) - here) / self._velocity).max())
        step = max(self._fade_ns, seconds_to_ns(gap / CATCH_UP)) // FADE_KNOTS
        if step == 0:
            return None
        if self._path is None or now > self._path.end:
            return Polyline(now, step, np.stack([here] * (FADE_KNOTS + 1)))
        # Seen through a few knots, so that fading out of a fade needs no memory of both.
        knots = np.stack([self._mixed(now + i * step) for i in range(FADE_KNOTS + 1)])
        return Polyline(now, step, knots)

    def _check_channels(self, chunk: ActionChunk) -> None:
        known = self._contract.channel_names
        if len(set(chunk.channels)) != len(chunk.channels):
            raise ChunkRefusedError(f'a channel is named twice: {", ".join(chunk.channels)}')
        unknown = [name for name in chunk.channels if name not in known]
        if unknown:
            raise ChunkRefusedError(
                f'unknown channel {", ".join(unknown)}; {self._contract.embodiment} has '
                f'{", ".join(known)}'
            )
        missing = [name for name in known if name not in chunk.channels]
        if missing:
            raise ChunkRefusedError(f'channel {", ".join(missing)} is missing from the chunk')


def _name(plan_seq: int, part: int) -> str:
    return f'part {part} of plan {plan_seq}' if part else f'plan {plan_seq}'


__all__ = [
    'Anchor',
    'ChunkQueue',
    'ChunkRefusedError',
    'ImplausibleChunkError',
    'Splice',
    'UnsupportedChannelError',
]
