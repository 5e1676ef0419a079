"""The oracle planner: PRIVILEGED. It does not imagine, it is told the scripted expert's future.

It is the upper bound of what any video planner can reach with a given translator. It asks the
simulation, so it exists only there; every plan of it carries the planner id `oracle`.
"""

from __future__ import annotations

from typing import Any, Protocol

from vera_core.contract import Contract
from vera_core.seams import Image, Plan


class FutureProvider(Protocol):
    """Where the oracle gets the future from: the simulated world, or the service of its node."""

    def __call__(self, prompt: str, anchor: int, frames: int, /) -> Image:
        """The expert's next `frames` canvases, uint8 [frames, H, W, 3], after stamp `anchor` [ns].

        Raises:
            PlanRefusedError: the prompt names nothing in the scene.
        """


class OraclePlanner:
    """A VideoPlanner that knows the future because the simulation tells it (privileged).

    Args:
        provider: gives the expert's future.
        contract: look_ahead and frame_period.
    """

    planner_id = 'oracle'
    checkpoint_hash = ''
    privileged = True

    def __init__(self, provider: FutureProvider, contract: Contract) -> None:
        self._provider = provider
        self._frames = contract.video.look_ahead
        self._period = contract.video.frame_period
        self._anchor: int | None = None
        self._wanted = self._frames

    def anchor_at(self, stamp: int, frames: int = 0) -> None:
        """The next plan's context ends at `stamp` [ns], which frames alone do not tell.

        `frames`: how many it has at least; the contract's look-ahead if that is more.
        """
        self._anchor = stamp
        self._wanted = max(self._frames, frames)

    def plan(
        self, context: Image, prompt: str, *, seed: int = 0, warm_start: Any = None
    ) -> Plan:
        """The expert's future; `context` and `seed` play no part.

        It takes no pending frames: its future begins where the robot really was, which need not be
        where they show it, and a plan whose first frame jumps asks for a motion that nobody meant.

        Raises:
            ValueError: `anchor_at` was not called.
            PlanRefusedError: the prompt names nothing in the scene.
        """
        if self._anchor is None:
            raise ValueError('the oracle needs anchor_at(stamp) before each plan')
        anchor, self._anchor = self._anchor, None
        frames = self._provider(prompt, anchor, self._wanted)
        return Plan(frames=frames, frame_period=self._period)


__all__ = ['FutureProvider', 'OraclePlanner']
