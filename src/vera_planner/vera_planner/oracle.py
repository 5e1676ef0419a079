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

    def anchor_at(self, stamp: int) -> None:
        """The next plan starts from the state at `stamp` [ns]; frames alone do not tell it."""
        self._anchor = stamp

    def plan(
        self, context: Image, prompt: str, *, seed: int = 0, warm_start: Any = None
    ) -> Plan:
        """The expert's future; `context` and `seed` play no part.

        Raises:
            ValueError: `anchor_at` was not called.
            PlanRefusedError: the prompt names nothing in the scene.
        """
        if self._anchor is None:
            raise ValueError('the oracle needs anchor_at(stamp) before each plan')
        anchor, self._anchor = self._anchor, None
        return Plan(
            frames=self._provider(prompt, anchor, self._frames), frame_period=self._period
        )


__all__ = ['FutureProvider', 'OraclePlanner']
