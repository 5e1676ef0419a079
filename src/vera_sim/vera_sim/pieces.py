"""Pieces of the simulated pictures: where each one is, and the pixels that belong to it.

A piece is something that moves as a whole: a link, a disc, the pusher, the block. Its pose is x, y
[px of the picture, x right, y down, pixel centres at +0.5] and angle [rad, from x towards y]; the
mask says how much of each pixel is its own, 0..255, where another piece hides it too. This is what
a tracker and a segmenter would tell about a real video; no joint and no action is in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vera_sim.finger_kinematics import CANVAS, Float, points
from vera_sim.finger_painter import DISC_RADIUS, LINK_WIDTH, PALETTE
from vera_sim.pusht_painter import to_block
from vera_sim.pusht_physics import BAR, GOAL, PUSHER_RADIUS, STEM, TABLE, PushTState, to_world

Mask = NDArray[np.uint8]

PUSHT_PIECES = ('goal', 'pusher', 'block')  # in the order in which they are painted
# Centre of the T's area, in its own frame, units of the table.
_MIDDLE = np.array([0.0, (15 * 3600 + 75 * 2700) / 6300])
_EDGE = 2.0  # half the width of the block's outline


def finger_pieces(joints: int) -> tuple[str, ...]:
    """Names of the pieces of a finger's pictures, in the order in which they are painted."""
    return (*(f'disc_{name}' for name in PALETTE), *(f'link_{k + 1}' for k in range(joints)))


def finger_poses(q: Float, discs: list[tuple[str, Float]], size: int) -> NDArray[np.float32]:
    """Poses of `finger_pieces` at joint angles q [n] or [F, n], float32 [..., pieces, 3].

    A disc that is not in the scene is NaN; a link's pose is that of its middle.
    """
    q = np.asarray(q, np.float64)
    scale = size / CANVAS
    chain = points(q)
    along = np.diff(chain, axis=-2)
    poses = np.full((*q.shape[:-1], len(PALETTE) + q.shape[-1], 3), np.nan, np.float32)
    there = dict(discs)
    for i, name in enumerate(PALETTE):
        if name in there:
            poses[..., i, :2] = there[name] * scale
            poses[..., i, 2] = 0
    poses[..., len(PALETTE) :, :2] = (chain[..., :-1, :] + chain[..., 1:, :]) * (scale / 2)
    poses[..., len(PALETTE) :, 2] = np.arctan2(along[..., 1], along[..., 0])
    return poses


def finger_masks(q: Float, discs: list[tuple[str, Float]], size: int) -> Mask:
    """Pixels of `finger_pieces` in one picture, uint8 [pieces, size, size]."""
    at, scale = _centres(size, CANVAS), size / CANVAS
    masks = np.zeros((len(PALETTE) + len(q), size, size), np.uint8)
    there = dict(discs)
    for i, name in enumerate(PALETTE):
        if name in there:
            gap = np.hypot(*np.moveaxis(at - there[name], -1, 0)) - DISC_RADIUS
            masks[i] = _covered(gap * scale)
    chain = points(q)
    for k in range(len(q)):
        along = chain[k + 1] - chain[k]
        t = np.clip((at - chain[k]) @ along / (along @ along), 0, 1)
        away = at - chain[k] - t[..., None] * along
        gap = np.hypot(away[..., 0], away[..., 1]) - LINK_WIDTH / 2
        masks[len(PALETTE) + k] = _covered(gap * scale)
    return masks


def pusht_poses(state: PushTState, size: int) -> NDArray[np.float32]:
    """Poses of PUSHT_PIECES, float32 [3, 3]; the block's is that of the middle of its area."""
    scale = size / TABLE
    goal, block = (to_world(_MIDDLE, pose) * scale for pose in (GOAL, state.block))
    return np.array(
        [
            [*goal, GOAL[2]],
            [*(state.pusher * scale), 0.0],
            [*block, np.arctan2(np.sin(state.block[2]), np.cos(state.block[2]))],
        ],
        np.float32,
    )


def block_at(pose: Float, size: int) -> Float:
    """The block as PushTState has it, float64 [3], from its pose [3] in a picture of that size."""
    x, y, turn = np.asarray(pose, np.float64)
    middle = np.array([x, y]) * (TABLE / size)
    corner = middle - to_world(_MIDDLE, (0.0, 0.0, turn))
    return np.array([*corner, turn])


def pusht_masks(state: PushTState, size: int) -> Mask:
    """Pixels of PUSHT_PIECES in one picture, uint8 [3, size, size]."""
    at, scale = _centres(size, TABLE), size / TABLE
    pusher = np.hypot(*np.moveaxis(at - state.pusher, -1, 0)) - PUSHER_RADIUS
    gaps = np.stack([_tee(at, GOAL, 0.0), pusher, _tee(at, state.block, _EDGE)])
    return _covered(gaps * scale)


def _centres(size: int, side: float) -> Float:
    axis = (np.arange(size) + 0.5) * (side / size)
    grid: Float = np.stack(np.meshgrid(axis, axis), -1)
    return grid


def _covered(gap: Float) -> Mask:
    """Share of a pixel inside an outline that is `gap` [px] away, negative inside."""
    return np.round(np.clip(0.5 - gap, 0, 1) * 255).astype(np.uint8)


def _tee(at: Float, pose: Sequence[float] | Float, edge: float) -> Float:
    """Distance to a T's outline, negative inside; exact where it counts, near a side."""
    local = to_block(at, np.asarray(pose))
    gaps = []
    for part in (BAR, STEM):
        low, high = part.min(0) - edge, part.max(0) + edge
        gaps.append(np.maximum(low - local, local - high).max(-1))
    gap: Float = np.minimum(*gaps)
    return gap
