"""Self-play of PushT for the translators: random displacements at and around the block."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vera_bringup.selfplay import write_files
from vera_core import canvas
from vera_core.clocks import NS_PER_S
from vera_core.contract import Contract
from vera_jidm.episodes import Transitions
from vera_sim import make_environment

MAX_DELTA = 0.024  # m; the expert's steps reach 0.02
_EPISODE_NS = 2 * NS_PER_S  # from one transition to the next: each is an episode of its own


def collect(
    contract: Contract,
    folder: Path,
    transitions: int,
    seed: int,
    *,
    analytic: bool = True,
    max_delta: float = MAX_DELTA,
) -> int:
    """Write self-play of the simulated PushT to `folder`; files that are there are kept.

    Every transition has a scene of its own: a uniform block, the pusher beside it in half of them,
    then one displacement [m] of uniform length and direction, executed under velocity control.

    Args:
        contract: of PushT.
        folder: of the episode files, see docs/reference/episode-format.md.
        transitions: in files of 500.
        seed: of everything random.
        analytic: also store the exact flow.
        max_delta: longest displacement [m].

    Returns:
        Number of transitions written now.

    Raises:
        ValueError: another environment, a length that is none, or a folder with episodes of
            another recipe.
        OSError: the disk is full.
    """
    if contract.sim is None or contract.sim.environment != 'pusht':
        raise ValueError(f'embodiment {contract.embodiment!r} is not the simulated PushT')
    if not (np.isfinite(max_delta) and max_delta > 0):
        raise ValueError(f'max_delta is {max_delta} m; it must be a positive number')
    env = make_environment('pusht', contract.sim.options, contract.cameras[0].height)
    options = {**contract.sim.options, 'max_delta': max_delta, 'analytic': analytic}
    meta: dict[str, Any] = {
        'contract': contract.action_fields(),
        'joints': list(contract.joint_names),
        'source': 'self-play of the simulated pusht',
        'actions': 'commanded',
        'recipe': options,
        'seed': seed,
        'licence': 'Apache-2.0, generated',
    }
    play = partial(_play, env, contract, analytic, max_delta)
    return write_files(Path(folder), transitions, seed, meta, play)


def _play(
    env: Any,
    contract: Contract,
    analytic: bool,
    max_delta: float,
    rng: np.random.Generator,
    count: int,
    first: int,
) -> Transitions:
    name = contract.cameras[0].name
    height, width = contract.canvas.height, contract.canvas.width
    columns = [env.joint_names.index(channel.joint or '') for channel in contract.channels]
    joints = [env.joint_names.index(joint) for joint in contract.joint_names]
    before = np.empty((count, height, width, 3), np.uint8)
    after = np.empty_like(before)
    actions = np.empty((count, len(columns)), np.float32)
    positions = np.empty((count, 2, len(joints)))
    stamps = np.empty((count, 2), np.int64)
    flow = np.zeros((count, height, width, 2), np.float16) if analytic else None
    back = np.zeros_like(flow) if flow is not None else None
    for i in range(count):
        play = env.self_play(rng, max_delta)
        before[i] = canvas.tile({name: env.render_scene(play.before)}, contract)
        after[i] = canvas.tile({name: env.render_scene(play.after)}, contract)
        actions[i] = play.action[columns]
        positions[i] = [(s.pusher / 1000.0)[joints] for s in (play.before, play.after)]
        begin = NS_PER_S + (first + i) * _EPISODE_NS
        stamps[i] = begin, begin + contract.video.frame_period_ns
        if flow is not None and back is not None:
            flow[i, :, :height] = env.analytic_flow(play.before, play.after, height)[0]
            back[i, :, :height] = env.analytic_flow(play.after, play.before, height)[0]
    return Transitions(before, after, actions, flow, back, positions, stamps)
