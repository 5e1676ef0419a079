"""Pictures of PushT, and the exact optical flow between two of them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_sim.pusht_physics import (
    BAR,
    GOAL,
    PUSHER_RADIUS,
    STEM,
    TABLE,
    WALL_HIGH,
    WALL_LOW,
    Float,
    PushTState,
    to_world,
)

GOAL_COLOUR = (144, 238, 144)
BLOCK, BLOCK_LIGHT = (119, 136, 153), (143, 163, 184)
PUSHER, PUSHER_LIGHT = (65, 105, 225), (78, 126, 255)
WALL = (211, 211, 211)
_BORDER = 2  # half the width of the block's outline and of the walls
_RIM = 4  # width of the pusher's rim
_SIDE = int(TABLE)


class PushTPainter:
    """Draws the scene as gym-pusht does, on 512 x 512, then scales it to the picture's size.

    Args:
        size: side of the square picture, pixels.
        smooth: average over the area of each pixel, as a camera does. gym-pusht samples between
            four points instead, which makes edges jump on small pictures; False does so too.
    """

    def __init__(self, size: int, smooth: bool = True) -> None:
        if size < 32:
            raise ValueError(f'a picture of {size} px shows no pusher; make it 32 px or more')
        self.size = size
        self._smooth = smooth
        self._table = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
        for part in (BAR, STEM):
            corners = np.round(to_world(part, GOAL)).astype(np.int32)
            cv2.fillPoly(self._table, [corners], GOAL_COLOUR)

    def paint(self, state: PushTState) -> NDArray[np.uint8]:
        """RGB uint8 [size, size, 3]."""
        image = self._table.copy()
        x, y = (round(float(v)) for v in state.pusher)
        cv2.circle(image, (x, y), round(PUSHER_RADIUS), PUSHER, -1)
        cv2.circle(image, (x, y), round(PUSHER_RADIUS) - _RIM, PUSHER_LIGHT, -1)
        for part in (BAR, STEM):
            corners = np.round(to_world(part, state.block)).astype(np.int32)
            cv2.fillPoly(image, [corners], BLOCK_LIGHT)
            for i in range(4):
                _thick(image, corners[i], corners[(i + 1) % 4], BLOCK)
        low, high = int(WALL_LOW), int(WALL_HIGH)
        for a, b in (
            ((low, high), (low, low)),
            ((low, low), (high, low)),
            ((high, low), (high, high)),
            ((low, high), (high, high)),
        ):
            _thick(image, np.array(a), np.array(b), WALL)
        if self.size == _SIDE:
            return image
        shrinks = self._smooth and self.size < _SIDE
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (self.size, self.size), interpolation=way), np.uint8)


def _thick(
    image: NDArray[np.uint8],
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    colour: tuple[int, int, int],
) -> None:
    """A line with round ends."""
    start, end = (int(a[0]), int(a[1])), (int(b[0]), int(b[1]))
    cv2.line(image, start, end, colour, 2 * _BORDER)
    for point in (start, end):
        cv2.circle(image, point, _BORDER, colour, -1)


def analytic_flow(
    before: PushTState, after: PushTState, size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Exact flow between two pictures.

    Args:
        before: the scene in the first picture.
        after: in the second one.
        size: side of the pictures, pixels.

    Returns:
        Flow float32 [size, size, 2] px at the pixels of the first picture, and whether the point
        seen there is in the second picture too, bool [size, size].
    """
    scale = TABLE / size
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    at: Float = (pixels.astype(np.float64) + 0.5) * scale
    motion = np.zeros((size, size, 2))
    on_block = _in_block(at, before.block)
    local = to_block(at, before.block)
    motion[on_block] = (to_world(local, after.block) - at)[on_block]
    # The block is drawn over the pusher.
    on_pusher = _in_pusher(at, before) & ~on_block
    motion[on_pusher] = after.pusher - before.pusher
    there = at + motion
    hidden = _in_block(there, after.block) & ~on_block
    hidden |= _in_pusher(there, after) & ~on_pusher & ~on_block
    inside = ((there >= 0) & (there < TABLE)).all(-1)
    return (motion / scale).astype(np.float32), inside & ~hidden


def to_block(points: Float, pose: Float) -> Float:
    """Points [..., 2] of the table in the frame of a block at a pose (x, y, angle)."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    local: Float = (points - pose[:2]) @ np.array([[c, -s], [s, c]])
    return local


def _in_block(points: Float, pose: Float) -> NDArray[np.bool_]:
    x, y = np.moveaxis(to_block(points, pose), -1, 0)
    edge = float(_BORDER)
    bar = (np.abs(x) <= 60 + edge) & (y >= -edge) & (y <= 30 + edge)
    stem = (np.abs(x) <= 15 + edge) & (y >= 30 - edge) & (y <= 120 + edge)
    inside: NDArray[np.bool_] = bar | stem
    return inside


def _in_pusher(points: Float, state: PushTState) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (
        np.linalg.norm(points - state.pusher, axis=-1) <= PUSHER_RADIUS
    )
    return inside
