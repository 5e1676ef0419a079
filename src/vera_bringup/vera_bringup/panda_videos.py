"""Tracks and pictures of the Panda's scripted expert, for its planner; no actions, no joints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vera_core.contract import Contract
from vera_planner.view_pieces_data import ScenesWriter
from vera_sim import language, make_environment, panda_tasks, pusht
from vera_sim.finger_painter import PALETTE
from vera_sim.panda import TICK, PandaEnv
from vera_sim.panda_expert import Move, decide
from vera_sim.panda_pieces import PIECES, PandaPieces, another_look
from vera_sim.panda_scene import feasible

FRAMES = 48  # of a clip, the first one where the goal begins
SHARD, SHOWN = 50, 100  # clips and pictures of a file
LOOKS = 2  # cameras that see each clip
BURST = (0.4, 0.06)  # chance that a disturbance begins: at the first frame, at another
# Share of the clips.
TASKS = {'touch': 0.12, 'push': 0.26, 'press': 0.08, 'lift': 0.18, 'stack': 0.22, 'bowl': 0.14}
_SHIFT, _TURN = 0.014, 0.06  # m, rad: spread of a disturbed move


def write_scenes(contract: Contract, folder: Path, clips: int, pictures: int, seed: int) -> None:
    """Write `clips` clips, seen by LOOKS sets of cameras each, and `pictures` pictures to `folder`.

    What is there is kept. In most clips the tool is led astray here and there, so that the planner
    sees where an imperfect execution leads; what is to be imagined is the expert's own.

    Raises:
        PiecesDataError: the folder holds something else.
    """
    assert contract.sim is not None
    options = {**contract.sim.options, 'task': 'any', 'colours': 'training'}
    env = make_environment('panda', options, contract.cameras[0].height)
    assert isinstance(env, PandaEnv)
    maker = _Maker(env)
    writer = ScenesWriter(folder, _meta(contract, seed))
    parts = [('pictures', n) for n in range(-(-pictures // SHOWN))]
    parts += [('clips', n) for n in range(-(-clips // SHARD))]
    for kind, n in tqdm(parts, desc=f'{Path(folder).name}', unit='file'):
        name = f'{kind}_{n:04d}'
        if writer.has(name):
            continue
        rng = np.random.default_rng([seed, kind == 'clips', n])
        rows = (
            maker.pictures(rng, SHOWN) if kind == 'pictures'
            else [clip for _ in range(SHARD) for clip in maker.clip(rng)]
        )
        writer.write(name, {key: np.stack([row[key] for row in rows]) for key in rows[0]})


def _families() -> list[tuple[str, list[str]]]:
    """Phrasings of each kind of goal, with {a} and {b} for colours of cubes."""
    found = []
    for task in TASKS:
        others = {'push': list(panda_tasks.DIRECTIONS), 'stack': ['{b}']}.get(task, [''])
        for other in others:
            goal = panda_tasks.Goal(task, '{a}', other)
            said = [goal.phrase(template) for template in panda_tasks.TRAINING[task]]
            found.append((_family(task, other), said))
    return found


def _family(task: str, other: str) -> str:
    return f'push {other}' if task == 'push' else task


def _meta(contract: Contract, seed: int) -> dict[str, Any]:
    from vera_bringup.piece_videos import UNRELATED

    colours = list(panda_tasks.COLOURS)
    # What it does not learn calls for nothing.
    still = [text for text in UNRELATED if text not in ('stack the blocks', 'push the red cube')]
    still += [t.format(c=colour) for colour in PALETTE for t in language.TRAINING[:8]]
    still += list(pusht.TRAINING)
    return {
        'contract': contract.visual_fields(),
        'recipe': {'expert': 'panda', 'seed': seed, 'frames': FRAMES, 'looks': LOOKS},
        'views': list(contract.camera_names),
        'moving_view': 'wrist',
        'pieces': list(PIECES),
        'kin': [f'cube_{colour}' for colour in colours],
        'words': colours,
        'fixtures': ['bowl', 'button'],
        'families': [list(family) for family in _families()],
        'still': still,
    }


class _Maker:
    """Clips and pictures of one environment."""

    def __init__(self, env: PandaEnv) -> None:
        self.env, self.pieces = env, PandaPieces(env)
        self._families = [name for name, _ in _families()]
        self._colours = list(panda_tasks.COLOURS)

    def _goal(self, rng: np.random.Generator, tasks: tuple[str, ...]) -> panda_tasks.Goal:
        env = self.env
        while True:
            env.tasks = tasks
            env.reset(int(rng.integers(1 << 62)))
            possible = [
                goal for goal in env._goals.values()
                if goal.task == env.task and feasible(goal, env.scene_info)
            ]
            if possible:
                return possible[int(rng.integers(len(possible)))]

    def _act(self, goal: panda_tasks.Goal, rng: np.random.Generator, astray: bool) -> None:
        env = self.env
        move = decide(goal, env.situation())
        if astray:
            shift = move.shift * rng.uniform(0.2, 1.2) + rng.normal(0, _SHIFT, 3) * rng.random()
            turn = move.turn * rng.uniform(0.2, 1.2) + rng.normal(0, _TURN, 3) * (0.3, 0.3, 1)
            low = 0.008 - env.situation().tool[1][2]
            shift[2] = max(shift[2], low)
            move = Move(shift, turn, move.gripper)
        q = env._data.qpos[:8].copy()
        for command in env.setpoints(move, q, env._data.ctrl[:8].copy()):
            env.step(command, TICK)

    def clip(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        """One episode as LOOKS sets of cameras see it."""
        task = list(TASKS)[int(rng.choice(len(TASKS), p=list(TASKS.values())))]
        goal = self._goal(rng, (task,))
        calm = rng.random() < 0.2
        frames, clean, left = [], [], 0
        for _ in range(FRAMES):
            frames.append(self.pieces.frames(self.env.scene()))
            clean.append(left == 0)
            if left:
                left -= 1
            elif not calm and rng.random() < BURST[len(frames) > 1]:
                left = int(rng.integers(1, 4))
            self._act(goal, rng, left > 0)
        # A frame is clean if the move that led to it was the expert's.
        family = self._families.index(_family(goal.task, goal.other))
        a = self._colours.index(goal.cube) if goal.cube else -1
        b = self._colours.index(goal.other) if goal.task == 'stack' else -1
        out = []
        for k in range(LOOKS):
            scene = self.env.scene_info
            if k:
                scene = another_look(scene, rng, self.env.size)
            found = [self.pieces.tracks(f, scene) for f in frames]
            out.append({
                'tracks': np.stack([t for t, _ in found]),
                'plane': np.stack([p[-1] for _, p in found]),
                'turns': np.stack([self.pieces.turns(f, scene) for f in frames]),
                'clean': np.array(clean),
                'asked': np.array([family, a, b]),
            })
        return out

    def pictures(self, rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
        """Pictures on the expert's ways, disturbed ones too, of all tasks."""
        out: list[dict[str, Any]] = []
        while len(out) < count:
            goal = self._goal(rng, panda_tasks.TASKS)
            for _ in range(4):
                for _ in range(int(rng.integers(0, 8))):
                    self._act(goal, rng, rng.random() < 0.3)
                frames = self.pieces.frames(self.env.scene())
                scene = another_look(self.env.scene_info, rng, self.env.size)
                images, labels = self.pieces.picture(frames, scene)
                out.append({
                    'frames': images,
                    'labels': labels,
                    'middles': self.pieces.tracks(frames, scene)[0][..., :2],
                    'turns': self.pieces.turns(frames, scene),
                })
        return out[:count]
