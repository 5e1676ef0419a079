"""Tracks and pictures of the scripted experts, for the pieces planner; no actions, no joints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vera_core import canvas
from vera_core.contract import Contract
from vera_planner.pieces_data import PiecesWriter
from vera_sim import FingerEnv, language, make_environment, pusht
from vera_sim import pieces as sim_pieces
from vera_sim.finger_kinematics import MAX_DQ, expert_path, joint_limits, points
from vera_sim.finger_painter import PALETTE
from vera_sim.pusht_expert import MARGIN, ExpertConfig, PushTExpert
from vera_sim.pusht_painter import to_block
from vera_sim.pusht_physics import GOAL, TABLE, PushTState, coverage, to_world

FRAMES = 40  # of a clip
SHARD = 500  # clips
ENOUGH = 0.95  # coverage from which the block is left alone
LONGEST = 300  # steps of an episode of PushT
NOISE = 5.0  # units of the table: spread of a disturbed step
# Fewer contacts, straight pushes and a price on changing the contact: calm videos.
CALM = ExpertConfig(contacts=24, angles=(0.0,), overhead=6.0)
# The robot stays where it is: what is named is not there, or is nothing at all, or another robot's.
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
    'stack the blocks',
    'push the red cube',
    'do nothing',
    'stay still',
)

Clip = tuple[list[Any], int, list[str]]


def write_piece_videos(
    contract: Contract, folder: Path, clips: int, pictures: int, seed: int
) -> None:
    """Write `clips` clips' tracks and `pictures` pictures to `folder`; resumes a part-made folder.

    Many clips begin with a few frames of disturbed motion, so that the planner also sees where an
    imperfect execution leads; captions apply after them. 4-8% name something absent, and the robot
    stays.

    Raises:
        ValueError: there is no scripted expert of this embodiment.
        PiecesDataError: the folder holds something else.
    """
    maker = _maker(contract)
    writer = PiecesWriter(
        folder, maker.pieces, contract.visual_fields(), {'expert': maker.name, 'seed': seed}
    )
    if not writer.meta['pictures']:
        rng = np.random.default_rng([seed, 1 << 20])
        shown = [maker.picture(rng) for _ in tqdm(range(pictures), desc='pictures', mininterval=5)]
        frames, masks, poses = (np.stack(part) for part in zip(*shown, strict=True))
        writer.pictures(frames, masks, poses)
    shards = -(-clips // SHARD)
    for shard in tqdm(range(writer.shards_done, shards), desc='tracks', unit='shard'):
        rng = np.random.default_rng([seed, shard])
        found: list[Clip] = []
        while len(found) < SHARD:
            found += maker.clips(rng)
        write_clips(writer, found[:SHARD], maker.poses)


def write_clips(
    writer: PiecesWriter, clips: list[Clip], poses: Callable[[list[Any]], NDArray[np.float32]]
) -> None:
    """One shard of clips: what is there in each frame, the first anchor, the captions."""
    tracks = np.stack([poses(states) for states, _, _ in clips])
    # A turn goes on where it was, beyond half a turn too.
    turn = tracks[..., 2]
    tracks[..., 2] = np.where(np.isnan(turn), turn, np.unwrap(np.nan_to_num(turn), axis=1))
    index = np.array([[first, writer.group(said)] for _, first, said in clips], np.int32)
    writer.shard(tracks, index)


class FingerMaker:
    """Clips and pictures of the finger; a state is (joint angles, discs)."""

    name = 'finger'

    def __init__(self, contract: Contract) -> None:
        assert contract.sim is not None
        self.contract = contract
        self.joints = int(contract.sim.options['joints'])
        self.size = contract.canvas.height
        self.pieces = sim_pieces.finger_pieces(self.joints)
        self._envs = [
            FingerEnv(self.joints, discs, contract.cameras[0].height)
            for discs in range(1, len(PALETTE) + 1)
        ]

    def _scene(self, rng: np.random.Generator) -> FingerEnv:
        env = self._envs[int(rng.choice(len(self._envs), p=(0.1, 0.2, 0.3, 0.4)))]
        env.reset(int(rng.integers(1 << 62)))
        return env

    def poses(self, states: list[Any]) -> NDArray[np.float32]:
        """float32 [F, K, 3] of a clip's states, which share their discs."""
        q = np.array([q for q, _ in states])
        return sim_pieces.finger_poses(q, states[0][1], self.size)

    def picture(self, rng: np.random.Generator) -> tuple[Any, Any, Any]:
        """A frame, its masks and its poses: half of them anywhere, half with the tip at a disc."""
        env = self._scene(rng)
        q, _ = env.state()
        if rng.random() < 0.5:
            _, goal = env.discs[int(rng.integers(len(env.discs)))]
            path = expert_path(q, goal, 45)
            q = path[int(rng.integers(len(path)))]
        frame = canvas.tile({self.contract.cameras[0].name: env.render_at(q)}, self.contract)
        masks = sim_pieces.finger_masks(q, env.discs, self.size)
        return frame, masks, sim_pieces.finger_poses(q, env.discs, self.size)

    def clips(self, rng: np.random.Generator) -> list[Clip]:
        """One clip."""
        env = self._scene(rng)
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
        if rng.random() < 0.6:
            drift = rng.normal(0, 0.035, env.joints)
            for _ in range(int(rng.integers(1, 5))):
                guided = (expert_path(path[-1], goal, 1)[0] - path[-1]) * rng.random()
                step = np.clip(guided + drift + rng.normal(0, 0.02, env.joints), -MAX_DQ, MAX_DQ)
                path.append(np.clip(path[-1] + step, low, high))
        first = len(path) - 1
        if absent:
            path += [path[-1]] * (FRAMES - len(path))
            missing = [c for c in PALETTE if c not in env.objects]
            said = [*UNRELATED, *pusht.TRAINING]
            if missing and rng.random() < 0.6:
                said = _captions(str(rng.choice(missing)))
        else:
            path += list(expert_path(path[-1], goal, FRAMES - len(path)))
            said = _captions(target)
        return [([(q, env.discs) for q in path], first, said)]


class PushTMaker:
    """Clips and pictures of PushT; a state is a PushTState."""

    name = 'pusht'

    def __init__(self, contract: Contract) -> None:
        assert contract.sim is not None
        self.contract = contract
        self.size = contract.canvas.height
        self.pieces = sim_pieces.PUSHT_PIECES
        env = make_environment('pusht', contract.sim.options, contract.cameras[0].height)
        assert isinstance(env, pusht.PushTEnv)
        self.env = env

    def poses(self, states: list[Any]) -> NDArray[np.float32]:
        """float32 [F, 3, 3] of a clip's states."""
        return np.stack([sim_pieces.pusht_poses(state, self.size) for state in states])

    def picture(self, rng: np.random.Generator) -> tuple[Any, Any, Any]:
        """A frame, its masks and its poses: half of them at the block, a third near the goal."""
        while True:
            self._start(rng)
            if rng.random() < 0.5:
                transition = self.env.self_play(rng)
                state = transition.after
                if rng.random() < 0.4:
                    near = np.array(GOAL) + rng.normal(0, (15, 15, 0.25))
                    pusher = to_world(to_block(state.pusher, state.block), near)
                    state = PushTState.at(pusher, near)
            else:
                state = self.env.scene()
            if (state.block[:2] > 20).all() and (state.block[:2] < TABLE - 20).all():
                break
        picture = self.env.render_scene(state)
        frame = canvas.tile({self.contract.cameras[0].name: picture}, self.contract)
        masks = sim_pieces.pusht_masks(state, self.size)
        return frame, masks, sim_pieces.pusht_poses(state, self.size)

    def _start(self, rng: np.random.Generator) -> None:
        """A uniform start; every fourth has the block near its goal."""
        self.env.reset(int(rng.integers(1 << 31)))
        if rng.random() < 0.25:
            near = np.array(GOAL) + rng.normal(0, (40, 40, 0.5))
            pusher = rng.uniform(50, 450, 2)
            self.env.set_scene(PushTState.at(pusher, near))
            self.env.physics.move((0.0, 0.0))  # overlapping pieces part

    def clips(self, rng: np.random.Generator) -> list[Clip]:
        """All clips of one episode of the expert, with disturbed steps at the start of each."""
        self._start(rng)
        expert = PushTExpert(CALM)
        out: list[Clip] = []
        state, steps, done = self.env.scene(), 0, False
        while not done and steps < LONGEST:
            states = [state]
            if out or rng.random() < 0.5:
                for _ in range(int(rng.integers(0, 6))):
                    moved = expert.act(state) * rng.uniform(0.3, 1.2) + rng.normal(0, NOISE, 2)
                    state = move(self.env, state, moved)
                    states.append(state)
            first = len(states) - 1
            states = follow(self.env, expert, states)
            out.append(_said(rng, states, first))
            steps += FRAMES - 17
            # The next one begins where this one has no whole future any more.
            state = states[FRAMES - 17]
            done = coverage(state.block) >= ENOUGH
        return out


def _said(rng: np.random.Generator, states: list[PushTState], first: int) -> Clip:
    if rng.random() < 0.04:
        stay = [states[first]] * (len(states) - first - 1)
        elsewhere = [said for colour in PALETTE for said in _captions(colour)]
        return [*states[: first + 1], *stay], first, [*UNRELATED, *elsewhere]
    return states, first, list(pusht.TRAINING)


def follow(
    env: pusht.PushTEnv, expert: PushTExpert, states: list[PushTState]
) -> list[PushTState]:
    """The states and what the expert, which remembers nothing, does next: FRAMES in all."""
    expert.reset()
    states = list(states)
    while len(states) < FRAMES:
        there = coverage(states[-1].block) >= ENOUGH
        action = np.zeros(2) if there else expert.act(states[-1])
        states.append(move(env, states[-1], action))
    return states


def move(env: pusht.PushTEnv, state: PushTState, action: NDArray[np.float64]) -> PushTState:
    """The state after a displacement [units of the table]; the pusher stays on the table."""
    goal = np.clip(state.pusher + action, MARGIN - 7, TABLE - MARGIN + 7)
    env.physics.set_state(state)
    env.physics.move(goal - state.pusher)
    return env.scene()


def _captions(colour: str) -> list[str]:
    return [t.format(c=colour) for t in language.TRAINING]


def _maker(contract: Contract) -> FingerMaker | PushTMaker:
    """What films the expert of this embodiment.

    Raises:
        ValueError: there is none.
    """
    environment = contract.sim.environment if contract.sim is not None else None
    if environment == 'finger':
        return FingerMaker(contract)
    if environment == 'pusht':
        return PushTMaker(contract)
    raise ValueError(
        f'there is no scripted expert of embodiment {contract.embodiment!r} to film; '
        'the pieces planner learns from finger and pusht'
    )
