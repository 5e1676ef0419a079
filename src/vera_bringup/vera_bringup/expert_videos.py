"""Videos of the scripted expert for the planner's training: pixels and sentences, no actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from vera_core import canvas
from vera_core.contract import Contract
from vera_planner.clips import ClipWriter
from vera_sim import FingerEnv, language, make_environment
from vera_sim.finger_kinematics import MAX_DQ, expert_path, joint_limits, points
from vera_sim.finger_painter import PALETTE

FRAMES = 24
SHARD = 500
# The arm stays where it is: what is named is not there, or is nothing at all.
UNRELATED: tuple[str, ...] = (
    'make me a sandwich',
    'open the window',
    'what time is it?',
    'sing a song',
    'hello',
    'water the plants',
    'turn off the light',
    'pick up the phone',
    'close the door',
    'touch the purple disc',
    'touch the white square',
    'go to the black dot',
    'play some music',
    'reach the orange disc',
    'move to the pink circle',
    'touch the grey disc',
    'clean the floor',
    'read a book',
    'find my keys',
    'the weather is nice',
    'fold the towel',
    'asdf qwer',
    'touch the brown circle',
    'reach the elephant',
    'drive to work',
    'do nothing',
    'stay still',
)


def write_expert_videos(contract: Contract, folder: Path, clips: int, seed: int) -> None:
    """Write `clips` captioned clips of `FRAMES` canvases to `folder`; resumes a part-made folder.

    Half of the clips begin with a few frames of disturbed motion, so that the planner also sees
    where an imperfect execution leads; captions apply after them. 8% name something absent.
    """
    if contract.sim is None:
        raise ValueError(f'embodiment {contract.embodiment!r} has no simulated environment')
    if contract.sim.environment == 'pusht':
        from vera_bringup.pusht_videos import write_pusht_videos

        write_pusht_videos(contract, folder, clips, seed)
        return
    if contract.sim.environment != 'finger':
        raise ValueError(f'there is no scripted expert of {contract.sim.environment!r} to film')
    recipe = {'expert': contract.sim.environment, 'options': contract.sim.options, 'seed': seed}
    writer = ClipWriter(folder, contract.visual_fields(), recipe)
    env = make_environment(
        contract.sim.environment, contract.sim.options, contract.cameras[0].height
    )
    shards = -(-clips // SHARD)
    for shard in tqdm(range(writer.shards_done, shards), desc='expert videos', unit='shard'):
        rng = np.random.default_rng([seed, shard])
        height, width = contract.canvas.height, contract.canvas.width
        frames = np.zeros((SHARD, FRAMES, height, width, 3), np.uint8)
        index = np.zeros((SHARD, 3), np.int32)
        for i in range(SHARD):
            path, first, sentences = _clip(env, rng)
            for k, q in enumerate(path):
                frames[i, k] = canvas.tile({contract.cameras[0].name: env.render_at(q)}, contract)
            index[i] = len(path), first, writer.group(sentences)
        writer.write(frames, index)


def _clip(env: FingerEnv, rng: np.random.Generator) -> tuple[np.ndarray, int, list[str]]:
    """Joint path [F, n] of one clip, its first anchor, and its captions."""
    env.reset(int(rng.integers(1 << 62)))
    target = str(rng.choice(list(env.objects)))
    goal = dict(env.discs)[target]
    absent = rng.random() < 0.08
    q, _ = env.state()
    if not absent and rng.random() < 0.5:
        # Begin somewhere along the way rather than always where an episode starts.
        on_the_way = expert_path(q, goal, 45)
        arrival = int(np.argmax(np.linalg.norm(points(on_the_way)[:, -1] - goal, axis=1) < 1.0))
        q = on_the_way[min(int(rng.integers(arrival + 2)), len(on_the_way) - 1)]
    path = [q]
    low, high = joint_limits(env.joints)
    if rng.random() < 0.5:
        drift = rng.normal(0, 0.035, env.joints)
        for _ in range(int(rng.integers(1, 4))):
            guided = (expert_path(path[-1], goal, 1)[0] - path[-1]) * rng.random()
            step = np.clip(guided + drift + rng.normal(0, 0.02, env.joints), -MAX_DQ, MAX_DQ)
            path.append(np.clip(path[-1] + step, low, high))
    first = len(path) - 1
    if absent:
        path += [path[-1]] * 6
        missing = [c for c in PALETTE if c not in env.objects]
        if missing and rng.random() < 0.6:
            return np.array(path), first, _captions(missing[0])
        return np.array(path), first, list(UNRELATED)
    future = expert_path(path[-1], goal, FRAMES - len(path))
    distance = np.linalg.norm(points(future)[:, -1] - goal, axis=1)
    arrival = int(np.argmax(distance < 1.0)) if (distance < 1.0).any() else len(future)
    # Not much more than an arrival's worth of standing still.
    future = future[: max(arrival + 6, 8)]
    return np.concatenate([np.array(path), future]), first, _captions(target)


def _captions(colour: str) -> list[str]:
    return [t.format(c=colour) for t in language.TRAINING]
