"""When the controller began each plan, as far as its status says: to lay dreams beside reality."""

from __future__ import annotations

from vera_core.clocks import seconds_to_ns


class Executions:
    """Remembers what the controller said it was executing."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}

    def note(self, goal_id: int, plan_seq: int, now: int, remaining: float) -> None:
        """One status: `remaining` s of this plan are left at `now` ns."""
        key = goal_id, plan_seq
        end, _ = self._seen.get(key, (now + seconds_to_ns(remaining), now))
        self._seen[key] = end, now

    def of(self, goal_id: int, plan_seq: int, anchor: int, duration: int) -> tuple[int, int]:
        """When this plan began, and for how long it was followed at least [ns].

        A robot at rest begins a late plan when it arrives, not at its anchor.

        Args:
            goal_id: of the plan.
            plan_seq: likewise.
            anchor: its stamp, ns.
            duration: of its committed frames, ns.
        """
        end, last = self._seen.get((goal_id, plan_seq), (0, 0))
        # In servo mode chunks are short, and end long before the plan does.
        first = max(anchor, end - duration)
        return first, max(0, last - first)


__all__ = ['Executions']
