"""Was the dream right? Judged by the simulation, so that dream and execution fail apart.

A dream is right if its last frame is closer to what the scripted expert would do for the goal than
to everything else it could be: what the expert would do for each other goal of the scene, and that
nothing happens. Privileged: nothing in the control path may use it.
"""

from __future__ import annotations

from vera_core.seams import Image
from vera_drivers.sim_world import SimWorld
from vera_planner.plan_checks import ROUNDING, difference


class DreamJudge:
    """Decodes dreams by the nearest of the expert's futures.

    Args:
        world: in the state in which the plan was asked for, or still remembering it.
    """

    def __init__(self, world: SimWorld) -> None:
        self._world = world

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
        own = world.expert_future(prompt, anchor, len(frames))[-1]
        others = [start]
        for name in world.env.objects:
            words = prompt.replace(target, name)
            if name != target and world.env.parse(words) == name:
                others.append(world.expert_future(words, anchor, len(frames))[-1])
        nearest = min(difference(frames[-1], other) for other in others)
        return difference(frames[-1], own) <= nearest + ROUNDING
