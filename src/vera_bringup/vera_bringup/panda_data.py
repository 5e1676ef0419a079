"""Self-play of the simulated Panda for the translators: small motions of tool and fingers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vera_bringup.selfplay import write_files
from vera_core import canvas
from vera_core.clocks import NS_PER_S
from vera_core.contract import Contract
from vera_core.kinematics.motion import MeasuredMotion
from vera_core.rotations import matrix_from_rotation_vector
from vera_jidm.episodes import Transitions
from vera_sim import make_environment

# Of one transition; the expert's steps reach 0.025 m and 0.15 rad about the vertical.
MAX_SHIFT, MAX_TURN, MAX_TILT = 0.035, 0.2, 0.1  # m, rad, rad
# Where the tool is put, half of the time [m]; else it is where the expert passes by.
_PLACES = ((0.3, 0.68), (-0.32, 0.32), (0.01, 0.4))
_TWIST, _LEAN = 1.2, 0.12  # rad: of the hand about the vertical, and of its axis from it
_PASSED = 30  # frames of the expert that may have gone by
_EPISODE_NS = 2 * NS_PER_S  # from one transition to the next: each is an episode of its own
_HOLD = 5  # set-points of 0.01 s that let a posture settle


def collect(contract: Contract, folder: Path, transitions: int, seed: int) -> int:
    """Write self-play of the simulated Panda to `folder`; files that are there are kept.

    Every transition has a scene of its own. In half of them the tool is anywhere over the table,
    in the others where the scripted expert has come in some of its steps, so that cubes are
    touched, gripped and carried. Then one random move is executed for one frame period, as plain
    inverse kinematics would; the action is what the joints really did.

    Args:
        contract: of the simulated Panda.
        folder: of the episode files, see docs/reference/episode-format.md.
        transitions: in files of 500.
        seed: of everything random.

    Returns:
        Number of transitions written now.

    Raises:
        ValueError: another environment, or a folder with episodes of another recipe.
        OSError: the disk is full.
    """
    if contract.sim is None or contract.sim.environment != 'panda':
        raise ValueError(f'embodiment {contract.embodiment!r} is not the simulated Panda')
    options = {**contract.sim.options, 'task': 'any'}
    env = make_environment('panda', options, contract.cameras[0].height)
    meta: dict[str, Any] = {
        'contract': contract.action_fields(),
        'joints': list(contract.joint_names),
        'source': 'self-play of the simulated panda',
        'actions': 'measured',
        'recipe': {
            'options': options, 'shift': MAX_SHIFT, 'turn': MAX_TURN, 'tilt': MAX_TILT,
        },
        'seed': seed,
        'licence': 'Apache-2.0, generated',
    }
    play = partial(_play, env, contract, MeasuredMotion(contract))
    return write_files(Path(folder), transitions, seed, meta, play)


def _play(
    env: Any,
    contract: Contract,
    motion: MeasuredMotion,
    rng: np.random.Generator,
    count: int,
    first: int,
) -> Transitions:
    shape = (count, contract.canvas.height, contract.canvas.width, 3)
    before, after = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    actions = np.empty((count, len(contract.channels)), np.float32)
    joints = [env.joint_names.index(joint) for joint in contract.joint_names]
    positions = np.empty((count, 2, len(joints)))
    stamps = np.empty((count, 2), np.int64)
    for i in range(count):
        _somewhere(env, rng)
        positions[i, 0] = env.state()[0][joints]
        before[i] = canvas.tile(env.render_views(), contract)
        _move(env, rng)
        positions[i, 1] = env.state()[0][joints]
        after[i] = canvas.tile(env.render_views(), contract)
        actions[i] = motion.between(*positions[i])
        begin = NS_PER_S + (first + i) * _EPISODE_NS
        stamps[i] = begin, begin + contract.video.frame_period_ns
    return Transitions(before, after, actions, positions=positions, stamps=stamps)


def _somewhere(env: Any, rng: np.random.Generator) -> None:
    """A new scene, and the arm somewhere in it."""
    from vera_sim.panda_expert import tool_rotation

    env.reset(int(rng.integers(1 << 62)))
    if rng.random() < 0.5:
        target = str(rng.choice(env.objects))
        env.set_scene(env.expert_states(target, int(rng.integers(1, _PASSED)))[-1])
        return
    for _ in range(20):
        place = np.array([rng.uniform(*bounds) for bounds in _PLACES])
        twist = rng.uniform(-_TWIST, _TWIST)
        lean = matrix_from_rotation_vector(rng.uniform(-_LEAN, _LEAN, 3) * (1, 1, 0))
        found = env.arm.solve(lean @ tool_rotation(twist), place, env.state()[0][:7])
        if found.converged:
            break
    opening = rng.choice([0.0, 1.0, rng.random()]) * 0.04
    q = np.array([*found.q, opening])
    env.set_state(q)
    for _ in range(_HOLD):
        env.step(q, 0.01)


def _move(env: Any, rng: np.random.Generator) -> None:
    """One random move of a frame period; fingers open, shut or stay."""
    from vera_sim.panda_expert import Move

    q = env.state()[0]
    shift = rng.normal(size=3)
    shift *= MAX_SHIFT * rng.random() / np.linalg.norm(shift)
    turn = rng.uniform(-1, 1, 3) * (MAX_TILT, MAX_TILT, MAX_TURN)
    turn *= rng.random() < 0.7
    # Of the tool; the table stops it from going lower.
    shift[2] = max(shift[2], 0.006 - env.arm.pose(q[:7])[1][2])
    gripper = float(rng.choice([0.0, 1.0, q[7] / 0.04], p=[0.25, 0.25, 0.5]))
    for command in env.setpoints(Move(shift, turn, gripper), q, q):
        env.step(command, 0.01)
