"""What was seen and what had been dreamt for that moment, frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vera_core.contract import Contract
    from vera_core.seams import Image
    from vera_drivers.sim_world import SimWorld


class Film:
    """Of one episode.

    Args:
        contract: how far apart the frames are.
    """

    def __init__(self, contract: Contract) -> None:
        self._period = contract.video.frame_period_ns
        self._next: int | None = None
        self._pairs: list[tuple[Image, Image]] = []
        self._anchor: int = 0
        self._dreamt: Image | None = None

    def see(self, world: SimWorld) -> None:
        """Keep this moment if a frame is due."""
        if self._next is None:
            self._next = world.stamp
        if world.stamp < self._next:
            return
        self._next += self._period
        self._pairs.append((world.canvas(), self._dream_of(world.stamp, world)))

    def _dream_of(self, stamp: int, world: SimWorld) -> Image:
        if self._dreamt is None:
            return world.canvas()
        k = round((stamp - self._anchor) / self._period) - 1
        frame: Image = self._dreamt[int(np.clip(k, 0, len(self._dreamt) - 1))]
        return frame

    def dream(self, anchor: int, frames: Image) -> None:
        """A plan that is executed from now on; uint8 [K, H, W, 3], the first due a period later."""
        self._anchor, self._dreamt = anchor, frames

    def frames(self) -> Image:
        """uint8 [F, 2, H, W, 3]: seen, dreamt (the same before the first plan)."""
        return np.array([np.stack(pair) for pair in self._pairs], np.uint8)
