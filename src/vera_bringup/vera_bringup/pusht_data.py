"""Self-play of PushT for the translators: random displacements at and around the block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vera_core import canvas
from vera_core.contract import Contract
from vera_jidm import dataset
from vera_jidm.dataset import Transitions
from vera_sim import make_environment

SHARD = 500
MAX_DELTA = 0.024  # m; the expert's steps reach 0.02


def collect(
    contract: Contract, folder: Path, transitions: int, seed: int, *, analytic: bool = True
) -> int:
    """Write self-play of the simulated PushT to `folder`; shards that are there are kept.

    Every transition has a scene of its own: a uniform block, the pusher beside it in half of them,
    then one displacement [m] of uniform length and direction, executed under velocity control.

    Args:
        contract: of PushT.
        folder: of the shards, see vera_jidm.dataset.
        transitions: at least this many, in shards of 500.
        seed: of everything random.
        analytic: also store the exact flow.

    Returns:
        Number of transitions written now.

    Raises:
        ValueError: another environment, or a folder with shards of another recipe.
    """
    if contract.sim is None or contract.sim.environment != 'pusht':
        raise ValueError(f'embodiment {contract.embodiment!r} is not the simulated PushT')
    if transitions < 1:
        raise ValueError(f'{transitions} transitions; ask for at least one')
    camera = contract.cameras[0]
    env = make_environment('pusht', contract.sim.options, camera.height)
    meta: dict[str, Any] = {
        'contract': contract.action_fields(),
        'source': 'self-play of the simulated pusht',
        'options': contract.sim.options,
        'max_delta': MAX_DELTA,
        'seed': seed,
        'licence': 'Apache-2.0, generated',
    }
    written = 0
    shards = -(-transitions // SHARD)
    for shard in tqdm(range(shards), desc=f'self-play to {folder.name}', unit='shard'):
        path = folder / f'shard_{shard:05d}.npz'
        count = min(SHARD, transitions - shard * SHARD)
        mine = {**meta, 'shard': shard, 'count': count}
        if path.is_file():
            _, found = dataset.read_shard(path)
            if found != json.loads(json.dumps(mine)):
                raise ValueError(
                    f'{path} was collected by another recipe; choose another folder or delete it'
                )
            continue
        rng = np.random.default_rng([seed, shard])
        dataset.write_shard(path, _play(env, contract, rng, count, analytic), mine)
        written += count
    return written


def _play(
    env: Any, contract: Contract, rng: np.random.Generator, count: int, analytic: bool
) -> Transitions:
    name = contract.cameras[0].name
    height, width = contract.canvas.height, contract.canvas.width
    columns = [env.joint_names.index(channel.joint or '') for channel in contract.channels]
    before = np.empty((count, height, width, 3), np.uint8)
    after = np.empty_like(before)
    actions = np.empty((count, len(columns)), np.float32)
    flow = np.zeros((count, height, width, 2), np.float16) if analytic else None
    back = np.zeros_like(flow) if flow is not None else None
    for i in range(count):
        play = env.self_play(rng, MAX_DELTA)
        before[i] = canvas.tile({name: env.render_scene(play.before)}, contract)
        after[i] = canvas.tile({name: env.render_scene(play.after)}, contract)
        actions[i] = play.action[columns]
        if flow is not None and back is not None:
            flow[i, :, :height] = env.analytic_flow(play.before, play.after, height)[0]
            back[i, :, :height] = env.analytic_flow(play.after, play.before, height)[0]
    return Transitions(before, after, actions, flow, back)
