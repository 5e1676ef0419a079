"""Making rendered frames a bit like imagined ones."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_core.seams import Image


def degrade(image: Image, rng: np.random.Generator) -> Image:
    """A copy as a planner might have imagined it: a bit blurred, a bit noisy."""
    blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.9)))
    noisy = blurred + rng.normal(0, rng.uniform(0, 3), image.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def photometric(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random gain, offset, noise and blur: imagined frames are a bit of each.

    Args:
        images: [N, 3, H, W], 0..1.
        strength: 0 = none, 1 = up to 8% gain, 4% offset, 1.5% noise, and blur on half of them.
        generator: of every random number.
    """
    if strength <= 0:
        return images
    n = len(images)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator) - 1

    gain, offset = 1 + 0.08 * strength * uniform(n, 3, 1, 1), 0.04 * strength * uniform(n, 3, 1, 1)
    out = images * gain + offset
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    rows = kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5)
    soft = F.conv2d(F.pad(out, (2, 2, 0, 0), mode='replicate'), rows, groups=3)
    soft = F.conv2d(F.pad(soft, (0, 0, 2, 2), mode='replicate'), rows.transpose(2, 3), groups=3)
    share = uniform(n, 1, 1, 1).clamp_min(0) * min(1.0, strength)
    out = out + share * (soft - out)
    level = 0.015 * strength * torch.rand(n, 1, 1, 1, generator=generator)
    return out + level * torch.randn(out.shape, generator=generator)
