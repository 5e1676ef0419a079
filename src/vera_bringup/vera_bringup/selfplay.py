"""Self-play for the J-IDM: random small motions of a simulated robot, seen by its cameras.

The simulator and the J-IDM do not know each other; they meet here, in files.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vera_core import canvas
from vera_core.clocks import NS_PER_S
from vera_core.contract import Channel, Contract, Joint, SimSpec, load_contract
from vera_jidm import dataset, episodes
from vera_jidm.episodes import Transitions
from vera_sim import FingerEnv, make_environment
from vera_sim.finger_kinematics import joint_limits
from vera_sim.finger_urdf import finger_urdf

SHARD = 500
# A transition lasts one frame period; the demonstrated motions reach 0.1 rad.
MAX_DELTA = 0.12
RESERVE = 64 * 2**20  # bytes of the disk that stay free
# How the source of episodes that `collect` makes begins.
SIMULATED = 'self-play of the simulated'
_LOG = logging.getLogger(__name__)


def contract_with_joints(contract: Contract, joints: int) -> Contract:
    """The contract of the same simulated finger with another number of joints.

    Channel settings and speed limits repeat those of the last joint; position limits are those of
    the simulated finger with so many joints.

    Raises:
        ValueError: another embodiment, or a number that the finger cannot have.
    """
    if not 1 <= joints <= 20:
        raise ValueError(f'the finger has 1 to 20 joints, not {joints}')
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
    low, high = joint_limits(joints)
    limits = [
        dataclasses.replace(limit, position=(float(a), float(b)))
        for limit, a, b in zip(limits, low, high, strict=True)
    ]
    # Bent as much in all as the contract's home, but by no more than one joint can.
    home = float(np.mean(list(contract.home.values()))) * len(contract.joints) / joints
    home = min(home, 0.8 * float(high.min()))
    sim = SimSpec(
        contract.sim.environment,
        contract.sim.physics_rate,
        {**contract.sim.options, 'joints': joints},
    )
    kinematics = contract.kinematics
    if kinematics is not None:
        kinematics = dataclasses.replace(kinematics, urdf=finger_urdf(joints))
    return dataclasses.replace(
        contract,
        channels=tuple(channels),
        joints=tuple(limits),
        home=dict.fromkeys(names, home),
        sim=sim,
        kinematics=kinematics,
        defaults=dataclasses.replace(
            contract.defaults, planner_checkpoint=None, translator_checkpoint=None
        ),
    )


@dataclass(frozen=True)
class Play:
    """How the simulated finger plays.

    Attributes:
        max_delta: largest change of a joint in one transition [rad].
        span: joint angles stay within +-span [rad] and the limits; None: the limits alone.
        frames: of one episode, a scene with a walk of `frames` - 1 transitions; 2 is a scene for
            every transition.
        discs: on the table; None: as many as the contract says.
        analytic: also store the simulator's own flow.
    """

    max_delta: float = MAX_DELTA
    span: float | None = None
    frames: int = 2
    discs: int | None = None
    analytic: bool = True

    def __post_init__(self) -> None:
        for name, value in (('max_delta', self.max_delta), ('span', self.span)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f'{name} is {value} rad; it must be a positive number')
        if self.frames < 2:
            raise ValueError(f'an episode of {self.frames} frames has no transition; ask for 2')


def collect(
    contract: Contract,
    folder: Path,
    transitions: int,
    seed: int = 0,
    *,
    max_delta: float | None = None,
    span: float | None = None,
    frames: int = 2,
    discs: int | None = None,
    analytic: bool = True,
) -> int:
    """Write `transitions` self-play transitions of a simulated embodiment to `folder`.

    Of the finger: joint angles are uniform within the limits, each joint then moves by up to
    `max_delta` [rad]. PushT and the Panda have recipes of their own, see pusht_data, panda_data.
    Files that are there are kept, so that an interrupted collection goes on where it was and a
    smaller one grows; the first transitions of a seed are always the same.

    Args:
        contract: of a simulated embodiment.
        folder: of the episode files, see docs/reference/episode-format.md.
        transitions: in files of 500.
        seed: of everything random.
        max_delta: largest change of a joint in one transition [rad], of PushT the longest
            displacement [m]; None: 0.12 rad, 0.024 m.
        span: finger: joint angles stay within +-span [rad]; None: within the limits.
        frames: finger: of one episode; 2 is a scene for every transition.
        discs: finger: on the table; None: as many as the contract says.
        analytic: also store the simulator's own flow.

    Returns:
        Number of transitions written now.

    Raises:
        ValueError: no such simulation, an option that it does not know, or a folder with episodes
            of another recipe.
        OSError: the disk is full.
    """
    if contract.sim is None:
        raise ValueError(
            f'embodiment {contract.embodiment!r} has no simulated environment; '
            'use `vera collect --live` with a real robot'
        )
    if contract.sim.environment == 'pusht':
        from vera_bringup import pusht_data

        _only_max_delta(span, frames, discs)
        most = pusht_data.MAX_DELTA if max_delta is None else max_delta
        return pusht_data.collect(
            contract, folder, transitions, seed, analytic=analytic, max_delta=most
        )
    if contract.sim.environment == 'panda':
        from vera_bringup import panda_data

        _only_max_delta(span, frames, discs)
        if max_delta is not None:
            raise ValueError('max_delta is one joint angle; leave it out with the Panda')
        return panda_data.collect(contract, folder, transitions, seed)
    if contract.sim.environment != 'finger':
        raise ValueError(f'self-play of {contract.sim.environment!r} is not made by this recipe')
    play = Play(MAX_DELTA if max_delta is None else max_delta, span, frames, discs, analytic)
    options = {**contract.sim.options, **({} if discs is None else {'discs': discs})}
    env: FingerEnv = make_environment('finger', options, contract.cameras[0].height)
    meta: dict[str, Any] = {
        'contract': contract.action_fields(),
        'joints': list(contract.joint_names),
        'source': f'{SIMULATED} finger',
        'actions': 'measured',
        'recipe': {'options': options, **dataclasses.asdict(play)},
        'seed': seed,
        'licence': 'Apache-2.0, generated',
    }
    return write_files(Path(folder), transitions, seed, meta, partial(_play, env, contract, play))


def _only_max_delta(span: float | None, frames: int, discs: int | None) -> None:
    given = (('span', span, None), ('frames', frames, 2), ('discs', discs, None))
    for name, value, usual in given:
        if value != usual:
            raise ValueError(f'{name} is for the simulated finger; leave it out here')


def write_files(
    folder: Path,
    transitions: int,
    seed: int,
    meta: dict[str, Any],
    play: Callable[[np.random.Generator, int, int], Transitions],
) -> int:
    """Write what `play` makes into files of 500 transitions; whole files that are there are kept.

    Args:
        folder: of the episode files; made.
        transitions: in all.
        seed: file i is played with a generator of (seed, i), so that it can be made alone.
        meta: of every file: contract, source, recipe; files of other meta are refused.
        play: (generator, number of transitions, number of those in the files before) -> them; the
            first ones must not depend on how many are asked for.

    Returns:
        Number of transitions written now.

    Raises:
        ValueError: nothing asked for, or a folder with more episodes or of another recipe.
        OSError: the disk is full.
    """
    if transitions < 1:
        raise ValueError(f'{transitions} transitions; ask for at least one')
    folder.mkdir(parents=True, exist_ok=True)
    meta = json.loads(json.dumps(meta))
    files = [episodes.read_info(path) for path in sorted(folder.glob('*.mcap'))]
    names = [f'shard_{i:05d}.mcap' for i in range(-(-transitions // SHARD))]
    for file in files:
        differs = sorted(
            key
            for key in {*file.meta, *meta} - {'shard'}
            if file.meta.get(key) != meta.get(key)
        )
        if differs:
            raise ValueError(
                f'{file.path} was collected by another recipe ({", ".join(differs)} differ); '
                'choose another folder or delete it'
            )
    kept = {file.path.name: file for file in files}
    counts = [min(SHARD, transitions - i * SHARD) for i in range(len(names))]
    have = sum(file.count for file in files)
    foreign = set(kept) - set(names)
    if foreign or have > transitions:
        raise ValueError(
            f'{folder} already holds {have} transitions, more than the {transitions} asked for; '
            'choose another folder or delete it'
        )
    written = 0
    wanted = [i for i, name in enumerate(names) if name not in kept or kept[name].count < counts[i]]
    for i in tqdm(wanted, desc=f'self-play to {folder.name}', unit='file', disable=None):
        data = play(np.random.default_rng([seed, i]), counts[i], i * SHARD)
        _check_disk(folder, data, sum(counts[k] for k in wanted if k >= i))
        info = episodes.write_shard(folder / names[i], data, {**meta, 'shard': i})
        kept[names[i]] = info
        written += info.count
    complete = [kept[name] for name in names]
    episodes.write_bag(folder, complete)
    if written or not (folder / episodes.STATISTICS).is_file():
        dataset.ShardFolder(folder)  # counts once what every training asks for
    return written


def _check_disk(folder: Path, data: Transitions, left: int) -> None:
    """Raise OSError unless what is left to be written fits, at half of its raw size."""
    raw = sum(
        a.nbytes for a in (data.before, data.after, data.flow, data.flow_back) if a is not None
    )
    need = int(raw / len(data.actions) * left / 2) + RESERVE
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(
            f'{folder} has {free / 2**20:.0f} MiB free; {left} transitions need about '
            f'{need / 2**20:.0f} MiB. Free some space or choose another folder; what is written '
            'stays'
        )


def _play(
    env: FingerEnv,
    contract: Contract,
    play: Play,
    rng: np.random.Generator,
    count: int,
    first: int,
) -> Transitions:
    height, width = contract.canvas.height, contract.canvas.width
    name = contract.cameras[0].name
    columns = [env.joint_names.index(channel.joint or '') for channel in contract.channels]
    joints = [env.joint_names.index(joint) for joint in contract.joint_names]
    before = np.empty((count, height, width, 3), np.uint8)
    after = np.empty_like(before)
    actions = np.empty((count, len(columns)), np.float32)
    positions = np.empty((count, 2, len(joints)))
    stamps = np.empty((count, 2), np.int64)
    flow = np.zeros((count, height, width, 2), np.float16) if play.analytic else None
    back = np.zeros_like(flow) if flow is not None else None
    period = contract.video.frame_period_ns
    # Whole seconds for every episode, and one of nothing between two.
    episode_ns = (-(-(play.frames - 1) * period // NS_PER_S) + 1) * NS_PER_S
    for i in range(count):
        episode, step = divmod(i, play.frames - 1)
        if step == 0:
            env.reset(int(rng.integers(1 << 62)))
            q0, q1 = env.self_play(rng, play.max_delta, span=play.span)
            before[i] = canvas.tile({name: env.render_at(q0)}, contract)
        else:
            q0, q1 = env.self_play(rng, play.max_delta, span=play.span, start=q1)
            before[i] = after[i - 1]
        after[i] = canvas.tile({name: env.render_at(q1)}, contract)
        actions[i] = (q1 - q0)[columns]
        positions[i] = q0[joints], q1[joints]
        begin = NS_PER_S + (first + episode) * episode_ns + step * period
        stamps[i] = begin, begin + period
        if flow is not None and back is not None:
            # The simulator's view fills the square at the left of the canvas.
            flow[i, :, :height] = env.analytic_flow(q0, q1, height)[0]
            back[i, :, :height] = env.analytic_flow(q1, q0, height)[0]
    return Transitions(before, after, actions, flow, back, positions, stamps)


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
        data: folder of the self-play (`train/` and `heldout/` in it); made if need be. Episodes
            that do not come from a simulator are taken as they are, all of them.
        seed: of the data and of the training.
        options: see vera_jidm.training.main_train.

    Returns:
        The metrics on held-out transitions.
    """
    from vera_jidm import training

    contract = load_contract(embodiment)
    if joints is not None:
        contract = contract_with_joints(contract, joints)
    n = len(contract.channels)
    folder = data or Path('data') / f'selfplay_{contract.embodiment}{n}_s{seed}'
    # The held-out scenes come from seeds of their own, whatever the training's is. What stops a
    # training early must not be what it is measured with.
    parts = [('train', transitions, seed), ('heldout', held_out, seed + 1_000_003)]
    if options.get('early_stop'):
        parts.append(('validation', min(200, held_out), seed + 2_000_003))
        options.setdefault('validation', folder / 'validation')
    for name, count, own_seed in parts:
        if not _holds_other_data(folder / name):
            collect(contract, folder / name, count, own_seed)
    _LOG.info('self-play is in %s', folder)
    return training.main_train(
        contract, data=folder / 'train', held_out=folder / 'heldout', seed=seed, **options
    )


def _holds_other_data(folder: Path) -> bool:
    """Whether somebody else's episodes are there: recorded live, or written by hand."""
    first = next(iter(sorted(folder.glob('*.mcap'))), None)
    if first is None:
        return False
    source = str(episodes.read_info(first).meta.get('source', ''))
    return not source.startswith(SIMULATED)
