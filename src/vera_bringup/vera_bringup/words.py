"""Does the plan obey the words? The dream against the expert, asked rightly and wrongly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vera_bringup import pusht_videos
from vera_bringup.expert_videos import UNRELATED
from vera_core import canvas
from vera_core.contract import Contract
from vera_core.seams import Image, VideoPlanner
from vera_core.seeds import mix
from vera_planner.motion import plan_motion
from vera_sim import language, make_environment, panda_tasks
from vera_sim.finger_painter import PALETTE
from vera_sim.panda import PandaEnv


@dataclass(frozen=True)
class Obedience:
    """What `measure` found, over n scenes at the start of an episode.

    Attributes:
        right, wrong: float64 [n, M], PSNR [dB] of each imagined frame against the expert's future
            when asked for what the expert did, and for another object of the scene; where there
            is no other one, for something that is not there.
        moving: float64 [n], `Plan.motion` when asked for what the expert did.
        absent: float64 [n], the same when asked for something that is not there.
    """

    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    moving: NDArray[np.float64]
    absent: NDArray[np.float64]

    def gap(self, samples: int = 2000) -> tuple[float, float, float]:
        """Mean of right minus wrong at the last frame [dB], with a 95% bootstrap interval."""
        difference = (self.right - self.wrong)[:, -1]
        rng = np.random.default_rng(0)
        means = rng.choice(difference, (samples, len(difference))).mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        return float(difference.mean()), float(low), float(high)


def measure(
    planner: VideoPlanner, contract: Contract, scenes: int, seed: int = 0, progress: bool = False
) -> Obedience:
    """Ask rightly and wrongly in `scenes` scenes, in phrasings that training never saw.

    The planner sees one frame, as at a cold start.

    Raises:
        ValueError: no such simulation.
    """
    if contract.sim is None:
        raise ValueError(f'embodiment {contract.embodiment!r} has no simulated environment')
    camera = contract.cameras[0]
    several = len(contract.cameras) > 1
    env: Any = make_environment(contract.sim.environment, contract.sim.options, camera.height)
    right: list[list[float]] = []
    wrong: list[list[float]] = []
    moving: list[float] = []
    absent: list[float] = []
    for index in tqdm(range(scenes), desc='scenes', disable=not progress):
        env.reset(mix(seed, index, 77))
        rng = np.random.default_rng(mix(seed, index))
        asked, *questions = _questions(env, rng)
        now = canvas.tile(
            env.render_views() if several else {camera.name: env.render()}, contract
        )
        rightly, wrongly, nothing = (
            planner.plan(now[None], words, seed=index).frames for words in questions
        )
        future = [
            canvas.tile(image if several else {camera.name: image}, contract)
            for image in env.expert_rollout(asked, len(rightly))
        ]
        for frames, scores in ((rightly, right), (wrongly, wrong)):
            scores.append([psnr(a, b) for a, b in zip(frames, future, strict=True)])
        moving.append(plan_motion(now, rightly[-1]))
        absent.append(plan_motion(now, nothing[-1]))
    return Obedience(*(np.array(v) for v in (right, wrong, moving, absent)))


def _questions(env: Any, rng: np.random.Generator) -> tuple[str, str, str, str]:
    """What is asked for; and asked for it, for something else, and for what is not there."""
    if len(env.objects) == 1:
        said = env.instruction(rng, held_out=True)
        other, nothing = rng.permutation(list(pusht_videos.UNRELATED))[:2]
        return said.target, said.text, str(other), str(nothing)
    if isinstance(env, PandaEnv):
        asked = str(rng.choice(env.askable))
        other = str(rng.choice([name for name in env.objects if name != asked]))
        goal = env.goal_of(asked)
        template = str(rng.choice(panda_tasks.HELD_OUT[goal.task]))
        missing = [c for c in panda_tasks.COLOURS if c not in env.scene_info.colours]
        absent = replace(goal, cube=str(rng.choice(missing)))
        goals = (goal, env.goal_of(other), absent)
        right, wrong, nothing = (one.phrase(template) for one in goals)
        return asked, right, wrong, nothing
    asked, other = (str(name) for name in rng.permutation(list(env.objects))[:2])
    template = str(rng.choice(language.HELD_OUT))
    missing = [c for c in PALETTE if c not in env.objects]
    phrase = str(rng.choice([template.format(c=c) for c in missing] + list(UNRELATED[:6])))
    return asked, template.format(c=asked), template.format(c=other), phrase


def psnr(a: Image, b: Image) -> float:
    """Peak signal-to-noise ratio of two uint8 images [dB]."""
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return 10 * float(np.log10(255**2 / max(error, 1e-6)))
