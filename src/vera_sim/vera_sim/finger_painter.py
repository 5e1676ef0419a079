"""Pictures of the finger, and the exact optical flow and image Jacobian of those pictures."""

from __future__ import annotations

import colorsys
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_sim.finger_kinematics import CANVAS, REACH, Float, points

LINK_WIDTH = 9.0
DISC_RADIUS = 5.0
PALETTE: dict[str, tuple[int, int, int]] = {
    'red': (222, 48, 44),
    'green': (46, 172, 72),
    'blue': (48, 92, 226),
    'yellow': (240, 204, 40),
}


class FingerPainter:
    """Draws the arm and its discs at any size, anti-aliased.

    Args:
        joints: number of links.
        size: side of the square picture in pixels.
    """

    def __init__(self, joints: int, size: int) -> None:
        self.joints = joints
        self.size = size
        self.scale = size / CANVAS
        self._patches = [self._link_patch(k) for k in range(joints)]

    @cached_property
    def background(self) -> NDArray[np.uint8]:
        """A pale, low-contrast table, uint8 [S, S, 3]."""
        noise = np.random.default_rng(7).normal(size=(16, 16, 3))
        cloth = cv2.resize(noise, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        return np.clip(216 + 5.0 * cloth, 0, 255).astype(np.uint8)

    def _link_patch(self, k: int) -> NDArray[np.float32]:
        """Premultiplied RGBA of link k lying along +x, 0..255, with the joint at the margin."""
        s = self.scale
        length, half = REACH / self.joints * s, LINK_WIDTH * s / 2
        margin = half + 2
        w, h = int(np.ceil(length + 2 * margin)) + 1, int(np.ceil(2 * margin)) + 1
        x = np.arange(w)[None] - margin
        y = np.arange(h)[:, None] - margin
        outside = np.hypot(x - np.clip(x, 0, length), y) - half
        alpha = np.clip(0.5 - outside, 0, 1)
        # Hues away from the discs' (purple, cyan, brown ...), so that words can name the discs.
        hue = (0.78, 0.5, 0.06)[k % 3] + 0.03 * (k // 3)
        base = np.array(colorsys.hsv_to_rgb(hue % 1, 0.42, 0.62)) * 255
        u, v = x / s, y / s
        wave = np.sin(u * 1.15 + 2.1 * k) * np.cos(v * 0.95 + 0.7 * k)
        stripe = np.sin(u * 0.55 - v * 0.6 + k)
        tone = 0.82 + 0.3 * wave + 0.16 * stripe
        rgb = np.clip(base * tone[..., None], 0, 255)
        pin = np.clip(1.6 * s - np.hypot(x, y) + 0.5, 0, 1)[..., None]
        rgb = rgb * (1 - pin) + 40 * pin
        if k == self.joints - 1:
            ball = np.clip(2.4 * s - np.hypot(x - length, y) + 0.5, 0, 1)[..., None]
            rgb = rgb * (1 - ball) + 250 * ball
        return (np.dstack([rgb, np.full_like(alpha, 255)]) * alpha[..., None]).astype(np.float32)

    def paint(self, q: Float, discs: list[tuple[str, Float]]) -> NDArray[np.uint8]:
        """RGB uint8 [S, S, 3]; `discs` are (colour name, centre in canvas pixels)."""
        image = self.background.copy()
        shift = 4
        for name, centre in discs:
            # Pixel centres sit at +0.5 in canvas units; cv2 counts them at integers.
            at = np.round((np.asarray(centre) * self.scale - 0.5) * (1 << shift)).astype(int)
            radius = round(DISC_RADIUS * self.scale * (1 << shift))
            cv2.circle(
                image, (int(at[0]), int(at[1])), radius, PALETTE[name], -1, cv2.LINE_AA, shift
            )
        canvas = image.astype(np.float32)
        chain = points(q)
        for k in range(self.joints):
            self._blend(canvas, self._patches[k], chain[k], chain[k + 1] - chain[k])
        return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)

    def _blend(
        self, canvas: NDArray[np.float32], patch: NDArray[np.float32], joint: Float, along: Float
    ) -> None:
        s, margin = self.scale, LINK_WIDTH * self.scale / 2 + 2
        c, sn = along / np.linalg.norm(along)
        origin = joint * s - 0.5
        reach = margin + 1
        ends = np.stack([origin, origin + along * s])
        lo = np.maximum(np.floor(ends.min(0) - reach).astype(int), 0)
        hi = np.minimum(np.ceil(ends.max(0) + reach).astype(int) + 1, self.size)
        if (hi <= lo).any():
            return
        # Destination pixel d in the region -> patch: R^T (d + lo - origin) + margin.
        offset = lo - origin
        affine = np.array(
            [
                [c, sn, c * offset[0] + sn * offset[1] + margin],
                [-sn, c, -sn * offset[0] + c * offset[1] + margin],
            ]
        )
        layer = cv2.warpAffine(
            patch,
            affine,
            (int(hi[0] - lo[0]), int(hi[1] - lo[1])),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        region = canvas[lo[1] : hi[1], lo[0] : hi[0]]
        region *= 1 - layer[..., 3:] / 255
        region += layer[..., :3]


@lru_cache(maxsize=8)
def _pixel_grid(size: int) -> Float:
    """Centres of the pixels in canvas units, float64 [S, S, 2]; read-only."""
    axis = (np.arange(size) + 0.5) * (CANVAS / size)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    grid.flags.writeable = False
    return grid


def link_map(q: Float, size: int, at: Float | None = None) -> NDArray[np.int64]:
    """Which link is seen at each pixel, int [S, S]; -1 for the table. Distal links lie on top."""
    where = (_pixel_grid(size) if at is None else at).reshape(-1, 2)
    x, y = np.ascontiguousarray(where.T)
    chain = points(q)
    owner = np.full(len(where), -1)
    half = LINK_WIDTH / 2
    for k in range(len(chain) - 1):
        along = chain[k + 1] - chain[k]
        # Only pixels near the link can be its own; a little more, for the rounding.
        low = np.minimum(chain[k], chain[k + 1]) - half - 1e-6
        high = np.maximum(chain[k], chain[k + 1]) + half + 1e-6
        near = np.flatnonzero((x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1]))
        mine = where[near]
        t = np.clip((mine - chain[k]) @ along / (along @ along), 0, 1)
        gap = np.linalg.norm(mine - chain[k] - t[..., None] * along, axis=-1)
        owner[near[gap <= half]] = k
    return owner.reshape((size, size) if at is None else at.shape[:-1])


def analytic_flow(q0: Float, q1: Float, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Exact flow from posture q0 to q1.

    Returns:
        flow float32 [S, S, 2] in pixels of the size, and visible bool [S, S]: whether the point
        seen at q0 is still seen at q1.
    """
    grid, owner = _pixel_grid(size), link_map(q0, size)
    a, b = points(q0), points(q1)
    turn = np.cumsum(q1) - np.cumsum(q0)
    moved = grid.copy()
    for k in range(len(turn)):
        c, s = np.cos(turn[k]), np.sin(turn[k])
        rotation = np.array([[c, s], [-s, c]])
        mine = owner == k
        moved[mine] = (grid[mine] - a[k]) @ rotation.T + b[k]
    visible = link_map(q1, size, moved) == owner
    return ((moved - grid) * (size / CANVAS)).astype(np.float32), visible


def analytic_jacobian(q: Float, size: int) -> NDArray[np.float32]:
    """Exact image Jacobian d pixel / d q, float32 [S, S, 2, joints], pixels per radian (Eq. 3)."""
    grid, owner, chain = _pixel_grid(size), link_map(q, size), points(q)
    jac = np.zeros((size, size, 2, len(q)), dtype=np.float32)
    for j in range(len(q)):
        arm = (grid - chain[j]) * (size / CANVAS)
        turn = np.stack([arm[..., 1], -arm[..., 0]], axis=-1)
        jac[..., j] = np.where((owner >= j)[..., None], turn, 0)
    return jac
