"""Self-play for the J-IDM: random small motions of a simulated robot, seen by its cameras.

The simulator and the J-IDM do not know each other; they meet here, in files.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vera_core import canvas
from vera_core.contract import Channel, Contract, Joint, SimSpec, load_contract
from vera_jidm import dataset, training
from vera_jidm.dataset import Transitions
from vera_sim import FingerEnv, make_environment

SHARD = 500
# A transition lasts one frame period; the demonstrated motions reach 0.1 rad.
MAX_DELTA = 0.12
_LOG = logging.getLogger(__name__)


def contract_with_joints(contract: Contract, joints: int) -> Contract:
    """The contract of the same simulated finger with another number of joints.

    Channel and joint settings repeat those of the last joint.
    """
    if contract.sim is None or contract.sim.environment != 'finger':
        raise ValueError(
            f'embodiment {contract.embodiment!r} has a fixed number of joints; leave --joints out'
        )
    if joints == len(contract.joints):
        return contract
    names = [f'joint_{i + 1}' for i in range(joints)]
    channel, joint = contract.channels[-1], contract.joints[-1]
    channels: list[Channel] = []
    limits: list[Joint] = []
    for i, name in enumerate(names):
        like = contract.channels[min(i, len(contract.channels) - 1)] if i == 0 else channel
        channels.append(dataclasses.replace(like, name=name, joint=name))
        base = contract.joints[0] if i == 0 else joint
        limits.append(dataclasses.replace(base, name=name))
    home = float(np.mean(list(contract.home.values()))) * len(contract.joints) / joints
    sim = SimSpec(
        contract.sim.environment,
        contract.sim.physics_rate,
        {**contract.sim.options, 'joints': joints},
    )
    return dataclasses.replace(
        contract,
        channels=tuple(channels),
        joints=tuple(limits),
        home=dict.fromkeys(names, home),
        sim=sim,
        defaults=dataclasses.replace(
            contract.defaults, planner_checkpoint=None, translator_checkpoint=None
        ),
    )


def collect(
    contract: Contract,
    folder: Path,
    transitions: int,
    seed: int = 0,
    *,
    max_delta: float = MAX_DELTA,
    analytic: bool = True,
) -> int:
    """Write `transitions` self-play transitions to `folder`; shards that are there are kept.

    Joint angles are uniform within the limits, each joint then moves by up to `max_delta` [rad];
    every transition has a scene of its own.

    Args:
        contract: of a simulated embodiment.
        folder: of the shards, see vera_jidm.dataset.
        transitions: at least this many, in shards of 500.
        seed: of everything random.
        max_delta: largest change of a joint in one transition [rad].
        analytic: also store the simulator's own flow.

    Returns:
        Number of transitions written now.

    Raises:
        ValueError: no simulated environment, or a folder with shards of another recipe.
    """
    if contract.sim is None:
        raise ValueError(f'embodiment {contract.embodiment!r} has no simulated environment')
    if transitions < 1:
        raise ValueError(f'{transitions} transitions; ask for at least one')
    folder = Path(folder)
    camera = contract.cameras[0]
    env = make_environment(contract.sim.environment, contract.sim.options, camera.height)
    meta: dict[str, Any] = {
        'contract': contract.action_fields(),
        'source': f'self-play of the simulated {contract.sim.environment}',
        'options': contract.sim.options,
        'max_delta': max_delta,
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
        data = _play(env, contract, rng, count, max_delta, analytic)
        dataset.write_shard(path, data, mine)
        written += count
    return written


def _play(
    env: FingerEnv,
    contract: Contract,
    rng: np.random.Generator,
    count: int,
    max_delta: float,
    analytic: bool,
) -> Transitions:
    height, width = contract.canvas.height, contract.canvas.width
    name = contract.cameras[0].name
    columns = [env.joint_names.index(channel.joint or '') for channel in contract.channels]
    before = np.empty((count, height, width, 3), np.uint8)
    after = np.empty_like(before)
    actions = np.empty((count, len(columns)), np.float32)
    flow = np.zeros((count, height, width, 2), np.float16) if analytic else None
    back = np.zeros_like(flow) if flow is not None else None
    for i in range(count):
        env.reset(int(rng.integers(1 << 62)))
        q0, q1 = env.self_play(rng, max_delta)
        before[i] = canvas.tile({name: env.render_at(q0)}, contract)
        after[i] = canvas.tile({name: env.render_at(q1)}, contract)
        actions[i] = (q1 - q0)[columns]
        if flow is not None and back is not None:
            # The simulator's view fills the square at the left of the canvas.
            flow[i, :, :height] = env.analytic_flow(q0, q1, height)[0]
            back[i, :, :height] = env.analytic_flow(q1, q0, height)[0]
    return Transitions(before, after, actions, flow, back)


def train_idm(
    embodiment: str = 'finger',
    *,
    joints: int | None = None,
    transitions: int = 4000,
    held_out: int = 500,
    data: Path | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """What `vera train idm` does: self-play where it is missing, then training.

    Args:
        embodiment: contract, a name or a path.
        joints: of the simulated finger, if not the contract's.
        transitions: how many to train on.
        held_out: how many to measure with.
        data: folder of the self-play (`train/` and `heldout/` in it); made if need be.
        seed: of the data and of the training.
        options: see vera_jidm.training.main_train.

    Returns:
        The metrics on held-out transitions.
    """
    contract = load_contract(embodiment)
    if joints is not None:
        contract = contract_with_joints(contract, joints)
    n = len(contract.channels)
    folder = data or Path('data') / f'selfplay_{contract.embodiment}{n}_s{seed}'
    # The held-out scenes come from a seed of their own, whatever the training's is.
    collect(contract, folder / 'train', transitions, seed)
    collect(contract, folder / 'heldout', held_out, seed + 1_000_003)
    _LOG.info('self-play is in %s', folder)
    return training.main_train(
        contract, data=folder / 'train', held_out=folder / 'heldout', seed=seed, **options
    )
