"""Plans of a simulated robot as a planner made them, and bad ones planted among them.

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
from vera_bringup.evaluation import EPISODE_FRAMES
from vera_bringup.lockstep import LockstepLoop, episode_seed
from vera_core import canvas
from vera_core.contract import Contract
from vera_core.gates import PlanRejectedError
from vera_core.seams import Image, Plan, Translator, VideoPlanner
from vera_core.seeds import mix
from vera_planner.motion import plan_motion
from vera_planner.planning import warm_up
from vera_planner.registry import make_planner
from vera_sim import FingerEnv
from vera_sim.finger_kinematics import CANVAS
from vera_sim.finger_painter import DISC_RADIUS
from vera_sim.pusht import PushTEnv
from vera_sim.pusht_physics import TABLE

# Grey levels of `plan_motion` from which a difference counts: a tip that is one pixel of the canvas
# elsewhere; a pusher that is two.
VISIBLE = {'finger': 73.0, 'pusht': 20.0}
PLANTED = {
    'teleport': 'a disc, or the block, jumps by 6 to 40 px in one of the frames to be executed',
    'reversed': 'the frames in the opposite order: it begins at its end',
    'other goal': 'what the same planner imagines for another disc of the scene (PushT: no such)',
    'noise': 'every frame from one of these on with its own Gaussian noise of 10 to 40 grey levels',
    'frozen': 'copies of the anchor, half with noise up to 2 grey levels, where the expert moves',
}
JUMP = (6.0, 40.0)  # px of the canvas
_TRIES = 4


@dataclass(frozen=True)
class Dream:
    """One plan of a closed loop, and what could be known about it.

    Attributes:
        context: uint8 [T, H, W, 3]; the last one is the anchor.
        frames: uint8 [M, H, W, 3], the plan.
        witnesses: uint8 [n, M, H, W, 3], the same planner with the same words and other noise.
        other: uint8 [M, H, W, 3], with the words of another goal; None where there is none.
        expert, expert_other: uint8 [M, H, W, 3], what the expert would do for either goal.
        jump: float32 [M, H, W, 3], what changes in each frame when an object of the scene jumps.
        came: uint8 [j, H, W, 3], frames that came while the plan's last j committed frames were
            executed, j <= K; empty where the episode ended before.
        good: whether the episode reached its goal.
        visible: the embodiment's VISIBLE.
        committed: K, how many of the frames are executed; 0: all of them.
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
    visible: float = VISIBLE['finger']
    committed: int = 0

    @property
    def executed(self) -> int:
        """How many of the frames are executed."""
        return self.committed or len(self.frames)

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

    def _ask_again(self, context: Image, prompt: str, seed: int) -> Plan:
        """With other noise where the planner itself rejects what it made."""
        for k in range(_TRIES - 1):
            try:
                return self._ask(context, prompt, mix(seed, k) if k else seed)
            except PlanRejectedError:
                continue
        return self._ask(context, prompt, mix(seed, _TRIES))

    def plan(self, context: Image, prompt: str, *, seed: int = 0, warm_start: Any = None) -> Plan:
        plan = self._ask(context, prompt, seed)
        if self.loop is None:
            return plan
        world = self.loop.world
        env = world.env
        frames = len(plan.frames)
        target = env.parse(prompt)
        rng = np.random.default_rng(seed)
        others = [name for name in env.objects if name != target]
        other = expert_other = None
        if target is not None and others:
            words = prompt.replace(target, others[int(rng.integers(len(others)))])
            other = self._ask_again(context, words, seed).frames
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
                    [self._ask_again(context, prompt, mix(seed, 1 + i)).frames
                     for i in range(self._witnesses)], np.uint8
                ).reshape(self._witnesses, *plan.frames.shape),
                other=other,
                expert=world.expert_future(prompt, self.stamp, frames),
                expert_other=expert_other,
                jump=_jump(env, self.loop.contract, target, frames, rng),
                came=context[:0],
                visible=VISIBLE[studied(self.loop.contract)],
                committed=self.loop.contract.video.committed,
            )
        )
        return plan


def _jump(
    env: Any, contract: Contract, target: str | None, frames: int, rng: np.random.Generator
) -> Any:
    """What a jump of an object changes in each frame while the expert moves, float32 [M, H, W, 3].

    Zero where no visible jump was found.
    """
    name = contract.cameras[0].name

    def tiled(views: list[Any]) -> Any:
        return np.stack([canvas.tile({name: view}, contract) for view in views]).astype(np.float32)

    draw = _disc_jumps if isinstance(env, FingerEnv) else _block_jumps
    jumps = draw(env, target, frames, rng)
    before = tiled(next(jumps))
    for _, views in zip(range(100), jumps, strict=False):
        changed = tiled(views) - before
        if (np.abs(changed).max(-1) > LEVELS).sum(axis=(1, 2)).min() >= SEEN:
            return changed
    return np.zeros_like(before)


def _shift(rng: np.random.Generator) -> Any:
    """A jump, float64 [2] px of the canvas."""
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(*JUMP) * np.array([np.cos(angle), np.sin(angle)])


def _disc_jumps(
    env: FingerEnv, target: str | None, frames: int, rng: np.random.Generator
) -> Iterator[list[Any]]:
    """Camera images while the expert moves; then the same with one disc or another elsewhere."""
    q, dq = env.state()
    path = env.expert_joint_path(target or env.objects[0], frames, q)
    own = env.discs

    def pictures(discs: list[Any]) -> list[Any]:
        env.set_scene(q, discs)
        views = [env.render_at(pose) for pose in path[-frames:]]
        env.set_scene(q, own)
        env.set_state(q, dq)
        return views

    yield pictures(own)
    while True:
        which = int(rng.integers(len(own)))
        new = own[which][1] + _shift(rng)
        if ((new > DISC_RADIUS) & (new < CANVAS - DISC_RADIUS)).all():
            yield pictures([(n, new if i == which else p) for i, (n, p) in enumerate(own)])


def _block_jumps(
    env: PushTEnv, target: str | None, frames: int, rng: np.random.Generator
) -> Iterator[list[Any]]:
    """The same for the block of PushT."""
    states = env.expert_states(frames)
    yield [env.render_scene(state) for state in states]
    margin = 60.0  # units of the table: most of the block stays on it
    while True:
        shift = np.append(_shift(rng) * TABLE / env.size, 0.0)
        moved = [replace(state, block=state.block + shift) for state in states]
        places = np.array([state.block[:2] for state in moved])
        if ((places > margin) & (places < TABLE - margin)).all():
            yield [env.render_scene(state) for state in moved]


def studied(contract: Contract) -> str:
    """The environment of a robot among whose plans bad ones can be planted.

    Raises:
        ValueError: another robot.
    """
    name = contract.sim.environment if contract.sim is not None else ''
    if name not in VISIBLE:
        raise ValueError(
            f'embodiment {contract.embodiment!r} is none of those among whose plans bad ones can '
            f'be planted: the simulated {", ".join(VISIBLE)}'
        )
    return name


def collect(
    contract: Contract,
    translator: Translator,
    planner: str,
    checkpoint: str | None,
    episodes: int,
    seed: int,
    witnesses: int = 1,
) -> Iterator[list[Dream]]:
    """The plans of each episode in lock-step: a uniform start, and a second goal from there.

    As it is used: most goals begin where the one before ended, with the tip on a disc.

    Raises:
        ValueError: an embodiment without VISIBLE, or a planner that is missing.
    """
    frames = EPISODE_FRAMES[studied(contract)]
    asked: list[_Asked] = []

    def make(provider: Any) -> Any:
        made = make_planner(planner, contract, checkpoint=checkpoint, provider=provider)
        warm_up(made, contract)
        asked.append(_Asked(made, witnesses))
        return asked[0]

    loop = LockstepLoop(contract, make, translator, seed)
    asked[0].loop = loop
    for index in range(episodes):
        found: list[Dream] = []
        for run in (loop.run, loop.run_on):
            asked[0].dreams = []
            result = run(index, episode_seed(seed, index), False, frames)
            if result is not None:
                found += [replace(dream, good=result.success) for dream in asked[0].dreams]
        yield found


def _teleport(dream: Dream, rng: np.random.Generator) -> Image | None:
    begin = int(rng.integers(dream.executed))
    if (np.abs(dream.jump[begin]).max(-1) > LEVELS).sum() < SEEN:
        return None
    frames = dream.frames.astype(np.float32)
    frames[begin:] += dream.jump[begin:]
    return _bytes(frames)


def _reversed(dream: Dream, rng: np.random.Generator) -> Image | None:
    if plan_motion(dream.frames[0], dream.frames[-1]) < dream.visible:
        return None
    return np.ascontiguousarray(dream.frames[::-1])


def _other(dream: Dream, rng: np.random.Generator) -> Image | None:
    if dream.other is None or dream.expert_other is None:
        return None
    if plan_motion(dream.expert[-1], dream.expert_other[-1]) < dream.visible:
        return None  # both goals lie in the same direction: it is a good plan, too
    return dream.other


def _noise(dream: Dream, rng: np.random.Generator) -> Image | None:
    begin = int(rng.integers(dream.executed))
    blur, strength = rng.uniform(0, 1.5), rng.uniform(10, 40)
    frames = dream.frames.astype(np.float32)
    for frame in frames[begin:]:
        noise = rng.normal(0, 1, frame.shape)
        if blur > 0.3:
            noise = cv2.GaussianBlur(noise, (0, 0), blur)
        frame += strength * noise / noise.std()
    return _bytes(frames)


def _frozen(dream: Dream, rng: np.random.Generator) -> Image | None:
    if plan_motion(dream.anchor, dream.expert[-1]) < dream.visible:
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
