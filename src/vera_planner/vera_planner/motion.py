"""How much a plan moves: one number for the end of a goal and for the gate."""

from __future__ import annotations

import numpy as np

from vera_core.seams import Image

MOVING_SHARE = 0.01  # of the pixels: those that changed most tell whether anything moves


def plan_motion(anchor: Image, last: Image) -> float:
    """How much a plan moves, grey levels 0..255; the definition of `Plan.motion`.

    Mean absolute change of the 1% most changed pixels; a pixel's change is the mean over its
    channels.

    Args:
        anchor: uint8 [H, W, 3], o_t.
        last: uint8 [H, W, 3], the last frame of the plan.
    """
    change = np.abs(last.astype(np.int16) - anchor.astype(np.int16)).mean(axis=-1).ravel()
    count = max(1, round(MOVING_SHARE * change.size))
    return float(np.partition(change, -count)[-count:].mean())


__all__ = ['plan_motion']
