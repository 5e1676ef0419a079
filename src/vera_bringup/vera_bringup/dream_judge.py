"""Was the dream right? Judged by the simulation, so that dream and execution fail apart.

A dream is right if its last frame is closer to what the scripted expert would do for the goal than
to everything else it could be: what the expert would do for each other goal of the scene, and that
nothing happens. What decides are the pixels in which the two differ. Privileged: nothing in the
control path may use it.
"""

from __future__ import annotations

import numpy as np

from vera_core.seams import Image
from vera_drivers.sim_world import SimWorld, make_world

VISIBLE = 8.0  # grey levels, mean over the colours, from which two pixels differ


class DreamJudge:
    """Decodes dreams by the nearest of the expert's futures.

    It asks the expert of a world of its own: an expert may remember what it was asked, and what
    the robot's world does must not depend on who watches.

    Args:
        world: in the state in which the plan was asked for, or still remembering it.
    """

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._own = make_world(world.contract)

    def right(self, prompt: str, anchor: int, start: Image, frames: Image) -> bool | None:
        """Whether a dream shows the goal's own future, or nothing else that differs from it.

        Args:
            prompt: one of the environment's phrasings.
            anchor: stamp of the plan's beginning [ns].
            start: uint8 [H, W, 3], the anchor frame.
            frames: uint8 [K, H, W, 3].

        Returns:
            None where the words name no goal of the scene.
        """
        world = self._world
        target = world.env.parse(prompt)
        if target is None:
            return None
        if self._own.seed != world.seed:
            self._own.reset(world.seed, 0)
        state = world.kept_state(anchor)
        own = self._own.expert_view(target, len(frames), state)
        others = [start]
        for name in getattr(world.env, 'askable', world.env.objects):
            if name != target:
                others.append(self._own.expert_view(name, len(frames), state))
        return all(nearer(frames[-1], own, other) for other in others)


def nearer(image: Image, own: Image, other: Image) -> bool:
    """Whether an image is nearer to `own` than to `other` where those two differ visibly.

    All uint8 [H, W, 3]. True where they differ nowhere.
    """
    a, b, c = (x.astype(np.int16) for x in (image, own, other))
    where = np.abs(b - c).mean(axis=-1) >= VISIBLE
    return bool(np.abs(a - b)[where].sum() <= np.abs(a - c)[where].sum())
