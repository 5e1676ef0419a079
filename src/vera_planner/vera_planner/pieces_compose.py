"""Paints frames of the future: the picture with its moving pieces shifted and turned."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  torch's own convention


def fill(colour: Tensor, weight: Tensor) -> Tensor:
    """Colours [B, 3, H, W] where weight [B, 1, H, W] is 1; elsewhere those around, smoothly."""
    pyramid = [(colour * weight, weight)]
    while min(pyramid[-1][1].shape[2:]) >= 2:
        c, w = pyramid[-1]
        pyramid.append((F.avg_pool2d(c, 2), F.avg_pool2d(w, 2)))
    c, w = pyramid[-1]
    total = w.sum((2, 3), keepdim=True).clamp_min(1e-6)
    out = (c.sum((2, 3), keepdim=True) / total).expand_as(c)
    for c, w in reversed(pyramid):
        if out.shape[2:] != c.shape[2:]:
            out = F.interpolate(out, size=c.shape[2:], mode='bilinear', align_corners=False)
        known = (2 * w).clamp(0, 1)
        out = known * (c / w.clamp_min(1e-6)) + (1 - known) * out
    return out


def compose(
    anchor: Tensor, masks: Tensor, poses: Tensor, motion: Tensor, moving: list[int]
) -> Tensor:
    """Frames of the future: the anchor with its moving pieces shifted and turned.

    Args:
        anchor: [3, H, W].
        masks: [K, H, W] in 0..1, of all pieces in the order in which they are painted.
        poses: [K, 3] in the anchor.
        motion: [M, len(moving), 3], what is added to the poses since the anchor.
        moving: which pieces move.

    Returns:
        [M, 3, H, W].
    """
    K, height, width = masks.shape
    M = len(motion)
    # What is seen of each piece: those painted later hide it.
    above = torch.flip(torch.cumprod(torch.flip(1 - masks, [0]), 0), [0])
    hidden = torch.cat([above[1:], torch.ones_like(above[:1])])
    # Pixels at an edge show something of both sides: colours come from inside.
    seen = ((masks * hidden - 0.85) / 0.1).clamp(0, 1)
    free = ((above[0] - 0.95) / 0.05).clamp(0, 1)
    free = 1 - F.max_pool2d(1 - free[None], 3, 1, 1)[0]
    sources = torch.cat([seen, free[None]])[:, None]
    colours = fill(anchor[None].expand(K + 1, -1, -1, -1), sources)
    ground = colours[K]
    for k in range(K):
        if k not in moving:
            ground = ground + masks[k] * (colours[k] - ground)
    left = masks[moving].amax(0) if moving else torch.zeros_like(masks[0])
    # A little beyond the masks, where traces of what moved away would stay.
    left = F.max_pool2d(left[None], 5, 1, 2)
    ground = anchor + (8 * left).clamp(0, 1) * (ground - anchor)
    gy = torch.arange(height, dtype=anchor.dtype, device=anchor.device).view(1, height, 1) + 0.5
    gx = torch.arange(width, dtype=anchor.dtype, device=anchor.device).view(1, 1, width) + 0.5
    frames = ground.expand(M, -1, -1, -1)
    for m, k in enumerate(moving):
        shift, turn = motion[:, m, :2], motion[:, m, 2]
        x = gx - (poses[k, 0] + shift[:, 0]).view(M, 1, 1)
        y = gy - (poses[k, 1] + shift[:, 1]).view(M, 1, 1)
        cos, sin = turn.cos().view(M, 1, 1), turn.sin().view(M, 1, 1)
        from_x = (cos * x + sin * y + poses[k, 0]) * (2 / width) - 1
        from_y = (cos * y - sin * x + poses[k, 1]) * (2 / height) - 1
        layer = torch.cat([colours[k], masks[k : k + 1]])[None].expand(M, -1, -1, -1)
        moved = F.grid_sample(layer, torch.stack([from_x, from_y], -1), align_corners=False)
        # At the picture's rim a colour would fade into the black outside.
        colour = F.grid_sample(
            layer[:, :3], torch.stack([from_x, from_y], -1),
            padding_mode='border', align_corners=False,
        )  # fmt: skip
        frames = frames + moved[:, 3:] * (colour - frames)
    return frames
