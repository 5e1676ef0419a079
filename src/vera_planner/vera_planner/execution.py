"""What is known about the execution of the plans so far, so that the next one can continue them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vera_core.clocks import NS_PER_S
from vera_core.contract import Contract
from vera_core.seams import Image

# A plan that nobody has begun this long [ns] after it was sent will not be executed any more.
GRACE_NS = 2 * NS_PER_S


@dataclass(frozen=True)
class Pending:
    """Frames of the plans before that are still to be executed when the next plan comes.

    Attributes:
        frames: uint8 [P, H, W, 3], P >= 1, imagined.
        anchor: when the last of them is due [ns]; the next plan starts there.
        observed: the last time on their grid that has been seen [ns]; one frame period before
            the first of them.
    """

    frames: Image
    anchor: int
    observed: int


class Execution:
    """Fed with the plans sent and with what the controller says; reads no clock.

    Args:
        contract: frame period, context, and limits: how long the robot takes to brake.
    """

    def __init__(self, contract: Contract) -> None:
        self._period = contract.video.frame_period_ns
        # One seen frame stays in the context.
        self._most = contract.video.context - 1
        self._brake = round(NS_PER_S * max(j.velocity / j.acceleration for j in contract.joints))
        self.forget()
        self._running = False
        self._stopped_at: int | None = None

    def forget(self) -> None:
        """A new goal: nothing planned so far will be executed."""
        self._timeline: list[tuple[int, Image]] = []
        self._continued = False
        self._seq: int | None = None
        self._sent_at = 0
        self._begun = False

    def sent(
        self, plan_seq: int, anchor: int, frames: Image, now: int, *, continued: bool = False
    ) -> None:
        """A plan went out whose frames follow `anchor` [ns].

        Args:
            plan_seq: its number.
            anchor: stamp of the frame it begins at [ns].
            frames: uint8 [K, H, W, 3].
            now: stamp of the newest frame [ns].
            continued: whether it was made from pending frames.
        """
        kept = [(due, frame) for due, frame in self._timeline if now < due <= anchor]
        new = [(anchor + (k + 1) * self._period, frame) for k, frame in enumerate(frames)]
        self._timeline = kept + new
        self._continued = continued
        self._seq, self._sent_at, self._begun = plan_seq, now, False

    def heard(self, running: bool, plan_seq: int, stamp: int) -> None:
        """The controller said at `stamp` [ns] whether it executes, and which plan."""
        if self._running and not running:
            self._stopped_at = stamp
        self._running = running
        if running and self._seq is not None and plan_seq >= self._seq:
            self._begun = True

    def over(self, newest: int) -> bool:
        """Whether the frame of stamp `newest` shows the robot at rest after the last plan."""
        if self._seq is None:
            return True
        if self._running:
            return False
        if not self._begun:
            return newest >= self._sent_at + GRACE_NS
        return self._stopped_at is None or newest >= self._stopped_at + self._brake

    def rested(self, since: int) -> bool:
        """Whether the robot has executed nothing since `since` [ns]."""
        if self._running:
            return False
        return self._stopped_at is None or self._stopped_at + self._brake <= since

    def pending(self, newest: int, latency_ns: int) -> Pending | None:
        """What will be executed until a plan that is asked for now can be there.

        At most one frame less than the context, so that the planner also sees what is real: with a
        latency beyond that, the first part of the next plan has passed when it comes. And only
        frames that were imagined from seen ones: what is imagined from imagined frames, plan after
        plan, blurs and strays from the robot. So every other plan begins at what is seen.

        Args:
            newest: stamp of the newest frame [ns].
            latency_ns: until the plan's actions are there [ns].

        Returns:
            None if nothing is being executed, the plan will be there at once, or the last plan
            continued pending frames itself.
        """
        ahead = [(due, frame) for due, frame in self._timeline if due > newest]
        if not self._running or self._continued or not ahead or latency_ns <= 0:
            return None
        wanted = sum(due < newest + latency_ns for due, _ in ahead) + 1
        chosen = ahead[: min(wanted, self._most)]
        if not chosen:
            return None
        return Pending(
            frames=np.stack([frame for _, frame in chosen]),
            anchor=chosen[-1][0],
            observed=chosen[0][0] - self._period,
        )


class Latency:
    """How long plans take to become actions: the longest of the last few.

    Too long an estimate makes a plan wait for its anchor, too short a one wastes its beginning.
    """

    def __init__(self, count: int = 4) -> None:
        self._count = count
        self._recent: list[int] = []

    def add(self, ns: int) -> None:
        """One plan took so long [ns]."""
        self._recent = [*self._recent, ns][-self._count :]

    @property
    def ns(self) -> int:
        """The estimate [ns]; 0 before the first plan."""
        return max(self._recent, default=0)


__all__ = ['Execution', 'Latency', 'Pending']
