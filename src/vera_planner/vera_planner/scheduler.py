"""When to plan: a question of frames' stamps only, live and in lock-step alike."""

from __future__ import annotations

from vera_core.clocks import seconds_to_ns
from vera_core.contract import Contract


def replan_period(contract: Contract) -> float:
    """Time between the anchors of plans, live, s: half of what a plan commits."""
    return contract.video.committed * contract.video.frame_period / 2


class PlanScheduler:
    """Says when the next plan of a goal is due.

    A plan starts from the newest frame. The first is due at once; each later one when the newest
    frame is `gap_ns` younger than the last anchor. No clock is read: live, frames bring the time;
    in lock-step the simulation waits until the plan has been executed.

    Args:
        gap_ns: least distance of anchors, ns.
    """

    def __init__(self, gap_ns: int) -> None:
        if gap_ns <= 0:
            raise ValueError(f'plans need some distance, not {gap_ns} ns')
        self.gap_ns = gap_ns
        self._goal_id = 0
        self._anchor: int | None = None

    @classmethod
    def live(cls, replan_period: float) -> PlanScheduler:
        """Replan while the last plan is being executed: at most one per `replan_period` [s]."""
        return cls(seconds_to_ns(replan_period))

    @classmethod
    def lockstep(cls, contract: Contract) -> PlanScheduler:
        """Replan when the committed part of the last plan has been executed (Algorithm 1)."""
        return cls(contract.video.committed * contract.video.frame_period_ns)

    def due(self, goal_id: int, newest: int) -> bool:
        """Whether goal `goal_id` wants a plan from the frame with stamp `newest`."""
        if goal_id != self._goal_id or self._anchor is None:
            return True
        # A stamp before the anchor: the clock was set back or the simulation began anew.
        return newest >= self._anchor + self.gap_ns or newest < self._anchor

    def began(self, goal_id: int, anchor: int) -> None:
        """A plan of `goal_id` was begun from the frame with this stamp."""
        self._goal_id = goal_id
        self._anchor = anchor

    def again(self) -> None:
        """The last plan came to nothing: the next one is due at once."""
        self._anchor = None


__all__ = ['PlanScheduler', 'replan_period']
