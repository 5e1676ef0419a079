"""Dense refinement of a flow field in colour (Lucas and Kanade 1981, iterated with warping).

DIS sees grey patches of several pixels; on a thin link most of them hold two links or the table,
and the answer is a mixture. Here every pixel solves its own two equations over a window of about a
pixel, from all three channels: links that look alike in grey differ in colour. What does not match
once warped (a pixel that is hidden in one of the images) counts less.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vera_core.seams import Array, Image
from vera_jidm.flow.base import pixel_grid

# A pixel may not wander further than this in one step [px].
_STEP = 1.5


@dataclass(frozen=True)
class Refinement:
    """Settings of the refinement.

    Attributes:
        steps: of warping and solving.
        window: standard deviation of the Gaussian window [px].
        damping: added to the diagonal of the structure tensor [grey levels^2 per px^2]; where there
            is no texture it keeps the flow that came in.
        misfit: brightness difference at which a pixel counts half [grey levels].
    """

    steps: int = 4
    window: float = 1.2
    damping: float = 30.0
    misfit: float = 12.0

    def __str__(self) -> str:
        return f'n{self.steps}-w{self.window:g}-d{self.damping:g}-m{self.misfit:g}'


def refine(a: Image, b: Image, flow: Array, settings: Refinement) -> Array:
    """Flow a -> b, better than the one that came in.

    Args:
        a: uint8 [H, W, 3].
        b: uint8 [H, W, 3].
        flow: float32 [H, W, 2] px, first guess.
        settings: see there.

    Returns:
        float32 [H, W, 2] px.
    """
    first, second = a.astype(np.float32), b.astype(np.float32)
    x, y = pixel_grid(*a.shape[:2])
    out = flow.copy()
    for _ in range(settings.steps):
        warped = cv2.remap(
            second, x + out[..., 0], y + out[..., 1], cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        change = warped - first
        mean = (first + warped) * 0.5
        dx = cv2.Scharr(mean, cv2.CV_32F, 1, 0, scale=1 / 32)
        dy = cv2.Scharr(mean, cv2.CV_32F, 0, 1, scale=1 / 32)
        fits = 1.0 / (1.0 + np.square(change).sum(-1) / settings.misfit**2)
        xx, xy, yy, xt, yt = (
            cv2.GaussianBlur(np.einsum('ijk,ijk->ij', p, q) * fits, (0, 0), settings.window)
            for p, q in ((dx, dx), (dx, dy), (dy, dy), (dx, change), (dy, change))
        )
        xx, yy = xx + settings.damping, yy + settings.damping
        share = 1.0 / (xx * yy - xy * xy)
        out[..., 0] += np.clip((xy * yt - yy * xt) * share, -_STEP, _STEP)
        out[..., 1] += np.clip((xy * xt - xx * yt) * share, -_STEP, _STEP)
    return out
