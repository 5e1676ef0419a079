"""Videos of PushT's scripted expert for the planner: pixels and sentences, no actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from vera_core import canvas
from vera_core.contract import Contract
from vera_planner.clips import ClipWriter
from vera_sim import make_environment, pusht
from vera_sim.pusht_expert import MARGIN, PushTExpert
from vera_sim.pusht_physics import TABLE, PushTState, coverage

FRAMES = 32
SHARD = 250
ENOUGH = 0.95  # coverage from which the block is left alone
STILL = 6  # frames after the last push: the plan of a block that is there stands still
LONGEST = 260  # steps of an episode
NOISE = 4.0  # units of the table: spread of a disturbed step
# The pusher stays where it is: what is named is not there, or is nothing at all.
UNRELATED: tuple[str, ...] = (
    'make me a sandwich',
    'open the window',
    'touch the red disc',
    'point at the blue circle',
    'what time is it?',
    'hello',
    'push the red cube',
    'turn off the light',
    'stack the blocks',
    'do nothing',
    'stay still',
    'asdf qwer',
)


def write_pusht_videos(contract: Contract, folder: Path, clips: int, seed: int) -> None:
    """Write `clips` captioned clips of `FRAMES` canvases to `folder`; resumes a part-made folder.

    Stretches of the expert's own motion, each after a few disturbed steps from which it recovers,
    so that the planner also sees where an imperfect execution leads; captions apply after them.
    4% name something absent, and the pusher stays.
    """
    assert contract.sim is not None
    recipe = {
        'expert': 'pusht',
        'options': contract.sim.options,
        'enough': ENOUGH,
        'noise': NOISE,
        'seed': seed,
    }
    writer = ClipWriter(folder, contract.visual_fields(), recipe)
    env = make_environment('pusht', contract.sim.options, contract.cameras[0].height)
    name = contract.cameras[0].name
    height, width = contract.canvas.height, contract.canvas.width
    asked = writer.group(list(pusht.TRAINING))
    unrelated = writer.group(list(UNRELATED))
    shards = -(-clips // SHARD)
    for shard in range(writer.shards_done, shards):
        rng = np.random.default_rng([seed, shard])
        frames = np.zeros((SHARD, FRAMES, height, width, 3), np.uint8)
        index = np.zeros((SHARD, 3), np.int32)
        found = 0
        with tqdm(total=SHARD, desc=f'videos, shard {shard + 1} of {shards}', unit='clip') as bar:
            while found < SHARD:
                for states, first in episode(env, rng)[: SHARD - found]:
                    group = asked
                    if rng.random() < 0.04:
                        states, group = [*states[: first + 1], *[states[first]] * 6], unrelated
                    for k, state in enumerate(states):
                        frames[found, k] = canvas.tile({name: env.render_scene(state)}, contract)
                    index[found] = len(states), first, group
                    found += 1
                    bar.update()
        writer.write(frames, index)


def episode(
    env: pusht.PushTEnv, rng: np.random.Generator
) -> list[tuple[list[PushTState], int]]:
    """Clips of one uniform start: states, and the index of the first that may be an anchor."""
    env.reset(int(rng.integers(1 << 31)))
    expert = PushTExpert()
    out: list[tuple[list[PushTState], int]] = []
    state = env.scene()
    steps, done = 0, False
    while not done and steps < LONGEST:
        states = [state]
        for _ in range(int(rng.integers(0, 6))):
            moved = expert.act(state) * rng.uniform(0.5, 1.2) + rng.normal(0, NOISE, 2)
            state = _move(env, state, moved)
            states.append(state)
        first = len(states) - 1
        expert.reset()  # what it began is over: a planner cannot know it either
        still = 0
        while len(states) < FRAMES and still < STILL:
            there = coverage(state.block) >= ENOUGH
            action = np.zeros(2) if there else expert.act(state)
            still = still + 1 if not action.any() else 0
            state = _move(env, state, action)
            states.append(state)
        done = still >= STILL
        steps += len(states)
        if len(states) - first >= 6:
            out.append((states, first))
    return out


def _move(env: pusht.PushTEnv, state: PushTState, action: np.ndarray) -> PushTState:
    """The state after a displacement [units of the table]; the pusher stays on the table."""
    goal = np.clip(state.pusher + action, MARGIN - 7, TABLE - MARGIN + 7)
    env.physics.set_state(state)
    env.physics.move(goal - state.pusher)
    return env.scene()
