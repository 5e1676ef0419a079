"""Corrections: videos of how the expert goes on from where the planner's own plans led.

A planner that only saw the expert's videos meets scenes in the loop that no video begins with. Here
its plans are followed in the simulator, and what the expert would do from scenes on the way becomes
further videos (DAgger). Tracks of the pieces, as in `piece_videos`; no actions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup.piece_videos import SHARD, Clip, PushTMaker, follow, write_clips
from vera_core.contract import Contract
from vera_planner.pieces_data import PiecesWriter
from vera_sim import pieces as sim_pieces
from vera_sim import pusht
from vera_sim.pusht_expert import PushTExpert
from vera_sim.pusht_physics import TABLE, PushTPhysics, PushTState, coverage

Float = NDArray[np.float32]
# Poses [B, T, K, 3] of the past, how many of its frames are real [B] -> the pusher's imagined way
# since the anchor [B, M, 2] px.
Imagine = Callable[[Float, NDArray[np.int64]], Float]

CONTEXT, COMMITTED = 4, 4
FIRST = 2000  # step of the training from which the planner's ways are worth correcting
HAND = 0.3  # px: spread of what the translator's actions miss in a frame


def drive(
    imagine: Imagine,
    starts: list[PushTState],
    frames: int,
    size: int,
    rng: np.random.Generator,
    noise: float = 0.1,
) -> list[list[PushTState]]:
    """Follow plans from several starts at once; the states that come, frame by frame.

    Args:
        imagine: the planner.
        starts: where the episodes begin.
        frames: of each episode; it ends earlier where the goal is covered.
        size: side of the pictures that poses count the pixels of.
        rng: of the disturbances.
        noise: px, spread of what the codec would see.
    """
    tables = []
    for start in starts:
        tables.append(PushTPhysics())
        tables[-1].set_state(start)
    ways = [[table.state()] for table in tables]
    scale = TABLE / size
    for _ in range(0, frames, COMMITTED):
        past = np.stack(
            [
                [sim_pieces.pusht_poses(way[max(0, len(way) - CONTEXT + k)], size)
                 for k in range(CONTEXT)]
                for way in ways
            ]
        )  # fmt: skip
        past[..., 1:, :] += rng.normal(size=past[..., 1:, :].shape) * (noise, noise, noise / 8)
        past[..., 2] = np.unwrap(past[..., 2], axis=1)
        real = np.array([min(CONTEXT, len(way)) for way in ways])
        path = imagine(past, real)[:, :COMMITTED]
        steps = np.diff(np.concatenate([np.zeros_like(path[:, :1]), path], 1), axis=1)
        for table, way, moves in zip(tables, ways, steps, strict=True):
            for step in moves:
                missed = rng.normal(0, HAND, 2) if np.linalg.norm(step) > HAND else np.zeros(2)
                here = table.state().pusher
                goal = np.clip(here + (step + missed) * scale, 15, TABLE - 15)
                table.move(goal - here)
                way.append(table.state())
    return ways


def best_coverage(way: list[PushTState]) -> float:
    """The most of the goal that the block covered on its way."""
    return max(coverage(state.block) for state in way)


def corrections(
    maker: PushTMaker, imagine: Imagine, clips: int, rng: np.random.Generator
) -> tuple[list[Clip], NDArray[np.float64]]:
    """Clips that begin on the planner's way, and the coverage that each episode reached.

    Args:
        maker: of PushT's clips.
        imagine: the planner.
        clips: how many, from a sixth as many episodes.
        rng: of starts and disturbances.
    """
    expert = PushTExpert(maker.expert)
    starts = []
    for _ in range(-(-clips // 6)):
        maker.start(rng)
        starts.append(maker.env.scene())
    ways = drive(imagine, starts, 200, maker.size, rng)
    reached = np.array([best_coverage(way) for way in ways])
    out: list[Clip] = []
    for way in ways:
        for at in rng.choice(len(way), 6, replace=False):
            states = way[max(0, at + 1 - CONTEXT) : at + 1]
            out.append(
                (follow(maker.env, expert, states), len(states) - 1, list(pusht.TRAINING))
            )
    return out[:clips], reached


def imagining(network: Any, text: NDArray[np.float32], size: int, seed: int) -> Imagine:
    """The planner of motions of a `PiecesNetwork` as PushT's `Imagine`.

    Args:
        network: the networks.
        text: of the sentence, float32 [384].
        size: side of the canvas, px.
        seed: of the noise.
    """
    import torch

    motion = network.motion
    generator = torch.Generator().manual_seed(seed)
    pusher = network.config.moving['pusht'].index('pusher')

    @torch.inference_mode()
    def imagine(past: Float, real: NDArray[np.int64]) -> Float:
        count = len(past)
        there = torch.ones(count, past.shape[2], dtype=torch.bool)
        words = torch.from_numpy(text)[None].expand(count, -1)
        scene = motion.encode(
            'pusht', torch.from_numpy(past), torch.from_numpy(real), there, words, (size, size)
        )
        path: Float = motion.sample('pusht', scene, 8, generator)[:, :, pusher, :2].numpy()
        return path

    return imagine


class Corrections:
    """Adds a shard of corrections to PushT's tracks at every validation of the training.

    Args:
        contract: of PushT.
        most: as many clips as this at most.
        seed: of starts and disturbances.
    """

    def __init__(self, contract: Contract, most: int, seed: int) -> None:
        self._maker = PushTMaker(contract)
        self._most = most
        self._seed = seed

    def __call__(self, trainer: Any) -> None:
        """The hook of `vera_planner.pieces_training.PiecesTrainer.run`."""
        data, step = trainer.data['pusht'], trainer.done['motion']
        writer = PiecesWriter(data.folder, data.pieces, data.meta['contract'], data.meta['recipe'])
        made = int(writer.meta.get('corrections', 0))
        if step < FIRST or made >= self._most:
            return
        text = trainer.encoder(pusht.TRAINING[0])
        imagine = imagining(trainer.average, text, self._maker.size, self._seed + step)
        rng = np.random.default_rng([self._seed, step])
        clips, reached = corrections(self._maker, imagine, SHARD, rng)
        writer.meta['corrections'] = made + len(clips)
        write_clips(writer, clips, self._maker.poses)
        data.reload()
        good = float((reached >= 0.82).mean())
        trainer.curve[-1]['followed_82'] = good
        trainer.curve[-1]['followed_738'] = float((reached >= 0.738).mean())
        log = logging.getLogger(__name__)
        log.info('%s', json.dumps({'corrections': made + len(clips), 'followed_82': good}))
