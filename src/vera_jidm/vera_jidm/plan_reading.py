"""From a VisualPlan message to images, and from its translation to a chunk: pure.

The translator's node and the replay of recordings go through here, so that both make the same.
Messages are duck-typed: rclpy's, or those of a reader of bags.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vera_core.chunk import ActionChunk
from vera_core.clocks import to_ns
from vera_core.contract import Contract
from vera_core.image_codec import decode
from vera_core.seams import Image, Translation
from vera_jidm.translator import TranslationError

# Relative difference of two frame periods that counts as the same.
_SAME_PERIOD = 1e-3


def plan_images(plan: Any, contract: Contract) -> tuple[Image, list[Image]]:
    """Anchor uint8 [H, W, 3] and candidates uint8 [K, H, W, 3], the plan's own first.

    Raises:
        TranslationError: a plan that does not fit the contract.
        ImageError: a picture that cannot be read.
    """
    views, period = tuple(plan.views), contract.video.frame_period
    if views != contract.camera_names:
        raise TranslationError(
            f'it shows views {", ".join(views) or "(none)"}; the contract has '
            f'{", ".join(contract.camera_names)}'
        )
    if not abs(plan.frame_period - period) <= _SAME_PERIOD * period:
        raise TranslationError(
            f'its frame period is {plan.frame_period} s; the contract says {period} s'
        )
    if not 1 <= plan.committed <= len(plan.frames):
        raise TranslationError(
            f'{plan.committed} frames are committed of {len(plan.frames)} imagined'
        )
    if len(plan.alternatives) % plan.committed:
        raise TranslationError(
            f'{len(plan.alternatives)} frames of alternatives are no multiple of the '
            f'{plan.committed} committed ones'
        )
    frames = [*plan.frames[: plan.committed], *plan.alternatives]
    sizes = sorted({(int(f.height), int(f.width)) for f in frames})
    if len(sizes) > 1:
        raise TranslationError(f'its frames differ in size (height, width): {sizes}')
    stacked = np.stack([decode(frame) for frame in frames])
    return decode(plan.anchor), list(stacked.reshape(-1, plan.committed, *stacked.shape[1:]))


def plan_chunk(
    plan: Any, translation: Translation, translator: Any, latency: float = 0.0
) -> ActionChunk:
    """The chunk of a translated plan; `latency` [s] from its arrival to now."""
    return ActionChunk(
        stamp=to_ns(plan.header.stamp),
        goal_id=int(plan.goal_id),
        plan_seq=int(plan.plan_seq),
        channels=translator.channels,
        period=float(plan.frame_period),
        values=translation.values,
        residual=translation.residual,
        observability=translation.observability,
        translator_id=translator.translator_id,
        model_hash=translator.checkpoint_hash,
        latency=latency,
        observed=to_ns(plan.observed) or None,
    )


__all__ = ['plan_chunk', 'plan_images']
