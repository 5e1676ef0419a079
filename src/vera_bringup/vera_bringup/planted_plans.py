"""Plans of the simulated finger as a planner made them, and bad ones planted among them.

An episode in lock-step is run as ever; beside each plan the same planner is asked again with other
noise (witnesses) and with the words of another goal, and the scripted expert tells what would have
been right. Each planted plan is one of these plans, spoilt in one way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from vera_bringup.corruptions import LEVELS, SEEN
from vera_bringup.lockstep import LockstepLoop, episode_seed
from vera_core import canvas
from vera_core.contract import Contract
from vera_core.seams import Image, Plan, Translator, VideoPlanner
from vera_core.seeds import mix
from vera_planner.planning import plan_motion, warm_up
from vera_planner.registry import make_planner
from vera_sim import FingerEnv
from vera_sim.finger_kinematics import CANVAS
from vera_sim.finger_painter import DISC_RADIUS

# Grey levels of `plan_motion`: a tip that is one pixel of the canvas elsewhere.
VISIBLE = 73.0
PLANTED = {
    'teleport': 'a disc jumps by 6 to 40 px in the middle of the plan',
    'reversed': 'the frames in the opposite order: it begins at its end',
    'other goal': 'what the same planner imagines for another disc of the scene',
    'noise': 'every frame from some frame on with its own Gaussian noise of 10 to 40 grey levels',
    'frozen': 'copies of the anchor, half with noise up to 2 grey levels, where the expert moves',
}
FRAMES = 60  # of an episode, as in `vera eval`


@dataclass(frozen=True)
class Dream:
    """One plan of a closed loop, and what could be known about it.

    Attributes:
        context: uint8 [T, H, W, 3]; the last one is the anchor.
        frames: uint8 [M, H, W, 3], the plan.
        witnesses: uint8 [n, M, H, W, 3], the same planner with the same words and other noise.
        other: uint8 [M, H, W, 3], with the words of another goal; None where there is none.
        expert, expert_other: uint8 [M, H, W, 3], what the expert would do for either goal.
        jump: float32 [M, H, W, 3], what changes in each frame when a disc of the scene jumps.
        came: uint8 [j, H, W, 3], frames that came while the plan's last j committed frames were
            executed, j <= K; empty where the episode ended before.
        good: whether the episode ended in the right disc.
    """

    context: Image
    frames: Image
    witnesses: Image
    other: Image | None
    expert: Image
    expert_other: Image | None
    jump: Any = field(repr=False)
    came: Image
    good: bool = False

    @property
    def anchor(self) -> Image:
        """uint8 [H, W, 3]."""
        return np.asarray(self.context[-1])


class _Asked:
    """A planner that is asked more than the loop asks, and keeps the answers."""

    def __init__(self, planner: VideoPlanner, witnesses: int) -> None:
        self._planner, self._witnesses = planner, witnesses
        self.planner_id, self.checkpoint_hash = planner.planner_id, planner.checkpoint_hash
        self.loop: LockstepLoop | None = None
        self.stamp = 0
        self.dreams: list[Dream] = []

    def anchor_at(self, stamp: int, horizon: int = 0) -> None:
        """Called before each plan; only an oracle hears of it."""
        self.stamp = stamp

    def _ask(self, context: Image, prompt: str, seed: int) -> Plan:
        anchor_at = getattr(self._planner, 'anchor_at', None)
        if anchor_at is not None:
            anchor_at(self.stamp, 0)
        return self._planner.plan(context, prompt, seed=seed)

    def plan(self, context: Image, prompt: str, *, seed: int = 0, warm_start: Any = None) -> Plan:
        plan = self._ask(context, prompt, seed)
        if self.loop is None:
            return plan
        world = self.loop.world
        env = world.env
        assert isinstance(env, FingerEnv)
        frames = len(plan.frames)
        target = env.parse(prompt)
        rng = np.random.default_rng(seed)
        others = [name for name in env.objects if name != target]
        other = expert_other = None
        if target is not None and others:
            words = prompt.replace(target, others[int(rng.integers(len(others)))])
            other = self._ask(context, words, seed).frames
            expert_other = world.expert_future(words, self.stamp, frames)
        if self.dreams:
            committed = self.loop.contract.video.committed
            came = context[-min(committed, len(context)) :]
            self.dreams[-1] = replace(self.dreams[-1], came=came)
        self.dreams.append(
            Dream(
                context=context,
                frames=plan.frames,
                witnesses=np.array(
                    [self._ask(context, prompt, mix(seed, 1 + i)).frames
                     for i in range(self._witnesses)], np.uint8
                ).reshape(self._witnesses, *plan.frames.shape),
                other=other,
                expert=world.expert_future(prompt, self.stamp, frames),
                expert_other=expert_other,
                jump=_jump(env, self.loop.contract, target, frames, rng),
                came=context[:0],
            )
        )
        return plan


def _jump(
    env: FingerEnv, contract: Contract, target: str | None, frames: int, rng: np.random.Generator
) -> Any:
    """What a jump of a disc changes in each frame while the expert moves, float32 [M, H, W, 3]."""
    q, dq = env.state()
    path = env.expert_joint_path(target or env.objects[0], frames, q)
    own = env.discs
    name = contract.cameras[0].name

    def pictures(discs: list[Any]) -> Any:
        env.set_scene(q, discs)
        return np.stack(
            [canvas.tile({name: env.render_at(pose)}, contract) for pose in path[-frames:]]
        ).astype(np.float32)

    before = pictures(own)
    changed = np.zeros_like(before)
    for _ in range(100):
        which = int(rng.integers(len(own)))
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(6, 40)
        new = own[which][1] + length * np.array([np.cos(angle), np.sin(angle)])
        if not ((new > DISC_RADIUS) & (new < CANVAS - DISC_RADIUS)).all():
            continue
        discs = [(n, new if i == which else p) for i, (n, p) in enumerate(own)]
        changed = pictures(discs) - before
        if (np.abs(changed).max(-1) > LEVELS).sum(axis=(1, 2)).min() >= SEEN:
            break
    env.set_scene(q, own)
    env.set_state(q, dq)
    return changed


def collect(
    contract: Contract,
    translator: Translator,
    planner: str,
    checkpoint: str | None,
    episodes: int,
    seed: int,
    witnesses: int = 1,
) -> Iterator[list[Dream]]:
    """The plans of each episode in lock-step, uniform starts.

    Raises:
        ValueError: an embodiment that is not the simulated finger, or a planner that is missing.
    """
    if contract.sim is None or contract.sim.environment != 'finger':
        raise ValueError(
            f'embodiment {contract.embodiment!r} is not the simulated finger, the only one among '
            'whose plans bad ones can be planted'
        )
    asked: list[_Asked] = []

    def make(provider: Any) -> Any:
        made = make_planner(planner, contract, checkpoint=checkpoint, provider=provider)
        warm_up(made, contract)
        asked.append(_Asked(made, witnesses))
        return asked[0]

    loop = LockstepLoop(contract, make, translator, seed)
    asked[0].loop = loop
    for index in range(episodes):
        asked[0].dreams = []
        result = loop.run(index, episode_seed(seed, index), False, FRAMES)
        yield [replace(dream, good=result.success) for dream in asked[0].dreams]


def _teleport(dream: Dream, rng: np.random.Generator) -> Image | None:
    begin = int(rng.integers(len(dream.frames)))
    if (np.abs(dream.jump[begin]).max(-1) > LEVELS).sum() < SEEN:
        return None
    frames = dream.frames.astype(np.float32)
    frames[begin:] += dream.jump[begin:]
    return _bytes(frames)


def _reversed(dream: Dream, rng: np.random.Generator) -> Image | None:
    if plan_motion(dream.frames[0], dream.frames[-1]) < VISIBLE:
        return None
    return np.ascontiguousarray(dream.frames[::-1])


def _other(dream: Dream, rng: np.random.Generator) -> Image | None:
    if dream.other is None or dream.expert_other is None:
        return None
    if plan_motion(dream.expert[-1], dream.expert_other[-1]) < VISIBLE:
        return None  # both goals lie in the same direction: it is a good plan, too
    return dream.other


def _noise(dream: Dream, rng: np.random.Generator) -> Image | None:
    begin = int(rng.integers(len(dream.frames)))
    blur, strength = rng.uniform(0, 1.5), rng.uniform(10, 40)
    frames = dream.frames.astype(np.float32)
    for frame in frames[begin:]:
        noise = rng.normal(0, 1, frame.shape)
        if blur > 0.3:
            noise = cv2.GaussianBlur(noise, (0, 0), blur)
        frame += strength * noise / noise.std()
    return _bytes(frames)


def _frozen(dream: Dream, rng: np.random.Generator) -> Image | None:
    if plan_motion(dream.anchor, dream.expert[-1]) < VISIBLE:
        return None  # standing still is right
    frames = np.repeat(dream.anchor[None], len(dream.frames), axis=0)
    if rng.random() < 0.5:
        return frames
    return _bytes(frames + rng.normal(0, rng.uniform(0, 2), frames.shape))


_PLANT: dict[str, Callable[[Dream, np.random.Generator], Image | None]] = {
    'teleport': _teleport, 'reversed': _reversed, 'other goal': _other, 'noise': _noise,
    'frozen': _frozen,
}


def plant(dream: Dream, kind: str, seed: int) -> Image | None:
    """The frames of a bad plan in place of a dream's, uint8 [M, H, W, 3].

    Args:
        dream: what to spoil.
        kind: one of PLANTED.
        seed: of place and strength.

    Returns:
        None where this kind would make no visible difference to what is right here.
    """
    return _PLANT[kind](dream, np.random.default_rng(seed))


def _bytes(frames: Any) -> Image:
    return np.clip(np.asarray(frames) + 0.5, 0, 255).astype(np.uint8)
