"""Losses that learners of pieces share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  torch's own convention


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels float32 [count] in [0.01, 1]; three in ten nearly pure noise."""
    level = torch.rand(count, generator=generator)
    pure = torch.rand(count, generator=generator) < 0.3
    return torch.where(pure, 1 - 0.05 * level, level).clamp_min(0.01)


def mask_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """By pixel, most where a piece is near, and by overlap (dice).

    Args:
        logits: float32 [B, K, H, W].
        target: masks in [0, 1], the same shape.
        known: float32 [B, K], 1 where the overlap counts.
    """
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    near = F.max_pool2d(target, 5, 1, 2)
    pixels = (plain * (0.05 + near)).mean()
    found = logits.sigmoid()
    both = (found * target).sum((2, 3))
    dice = 1 - (2 * both + 1) / (found.square().sum((2, 3)) + target.square().sum((2, 3)) + 1)
    return 10 * pixels + (dice * known).sum() / known.sum()
