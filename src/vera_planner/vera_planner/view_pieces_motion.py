"""Motions of pieces in the pictures of several cameras: from tracks to motions, and to frames.

The motion of a piece in a view is affine: six numbers, the shift of its middle [px], and its linear
part minus the identity, times REACH px. Where the camera moves, the ground is a plane that moves by
a homography: eight numbers, the shifts of four points of the picture [px].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_planner.pieces_compose import fill

REACH = 10.0  # px from a piece's middle at which the numbers of its linear part are shifts in px
AFFINE, PLANE = 6, 8  # numbers
_LEAST = 0.05  # px^2: keeps what is seen edge-on from being stretched
_CORNERS = ((0.25, 0.2), (0.75, 0.2), (0.25, 0.6), (0.75, 0.6))  # of the picture: the four points


def affine_between(before: Tensor, after: Tensor) -> Tensor:
    """Motions [..., 6] from tracks [..., 8] at two moments; what is NaN stays so."""
    shift = after[..., :2] - before[..., :2]
    # The linear map that takes the axes nearest to where they are seen then, least squares. By
    # numbers: batched products of matrices this small are slow.
    x, y = before[..., 2:5], before[..., 5:8]
    dx, dy = after[..., 2:5] - x, after[..., 5:8] - y
    a = (x * x).sum(-1) + _LEAST
    b = (x * y).sum(-1)
    c = (y * y).sum(-1) + _LEAST
    det = a * c - b * b
    linear = []
    for d in (dx, dy):
        p, q = (d * x).sum(-1), (d * y).sum(-1)
        linear += [(p * c - q * b) / det, (q * a - p * b) / det]
    return torch.cat([shift, REACH * torch.stack(linear, -1)], -1)


def corners(size: tuple[int, int]) -> Tensor:
    """The four points of a picture of (height, width) px, [4, 2]."""
    return torch.tensor(_CORNERS) * torch.tensor([size[1], size[0]])


def plane_between(before: Tensor, after: Tensor, size: tuple[int, int]) -> Tensor:
    """Motions [..., 8] of a picture's four points, from homographies [..., 3, 3] of the plane."""
    points = corners(size).to(before)
    known = torch.cat([points, torch.ones_like(points[:, :1])], -1)
    moved = after @ torch.linalg.solve(before, known.mT.expand(*before.shape[:-2], 3, 4))
    seen = (moved[..., :2, :] / moved[..., 2:, :]).mT
    return (seen - points).flatten(-2)


def homography(motion: Tensor, size: tuple[int, int]) -> Tensor:
    """Homographies [B, 3, 3] of pictures from the motions [B, 8] of their four points."""
    points = corners(size).to(motion)
    x, y = points.T
    to = points + motion.unflatten(-1, (4, 2))
    u, v = to.unbind(-1)
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    x, y = x.expand_as(u), y.expand_as(u)
    rows = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
        ],
        dim=-2,
    )
    h = torch.linalg.solve(rows, torch.cat([u, v], -1))
    return torch.cat([h, torch.ones_like(h[:, :1])], -1).unflatten(-1, (3, 3))


def compose_view(
    anchor: Tensor,
    masks: Tensor,
    middles: Tensor,
    motion: Tensor,
    plane: Tensor | None = None,
) -> Tensor:
    """Frames of the future of one view.

    Args:
        anchor: [3, H, W].
        masks: [K, H, W] in 0..1, what is seen of each piece that moves, in the order in which
            they are painted. What is not among them stays, or goes with the plane.
        middles: [K, 2] px, of the pieces in the anchor.
        motion: [M, K, 6] since the anchor.
        plane: [M, 8], of the ground; it stays unless given.

    Returns:
        [M, 3, H, W].
    """
    K, height, width = masks.shape
    M = len(motion)
    covered = masks.sum(0).clamp(0, 1)
    free = ((1 - covered - 0.95) / 0.05).clamp(0, 1)
    # A little beyond the masks, where traces of what moved away would stay.
    free = 1 - F.max_pool2d(1 - free[None], 3, 1, 1)[0]
    inside = ((masks - 0.75) / 0.2).clamp(0, 1)
    sources = torch.cat([inside, free[None]])[:, None]
    colours = fill(anchor[None].expand(K + 1, -1, -1, -1), sources)
    left = F.max_pool2d((covered > 0.04).float()[None], 3, 1, 1)
    ground = anchor + left * (colours[K] - anchor)
    gy, gx = torch.meshgrid(
        torch.arange(height, dtype=anchor.dtype) + 0.5,
        torch.arange(width, dtype=anchor.dtype) + 0.5, indexing='ij',
    )  # fmt: skip
    half = anchor.new_tensor([width / 2, height / 2])
    frames = ground.expand(M, -1, -1, -1)
    if plane is not None:
        at = torch.stack([gx, gy, torch.ones_like(gx)], -1)
        back = torch.linalg.inv(homography(plane, (height, width)))
        source = torch.einsum('mij,hwj->mhwi', back, at)
        source = source[..., :2] / source[..., 2:].clamp_min(1e-3)
        frames = F.grid_sample(
            frames, source / half - 1, padding_mode='border', align_corners=False
        )
    eye = torch.eye(2, dtype=anchor.dtype)
    grid = torch.stack([gx, gy], -1)
    for k in range(K):
        linear = eye + motion[:, k, 2:].unflatten(-1, (2, 2)) / REACH
        back = torch.linalg.inv(linear)
        away = grid - (middles[k] + motion[:, k, :2])[:, None, None]
        source = (torch.einsum('mij,mhwj->mhwi', back, away) + middles[k]) / half - 1
        layer = torch.cat([colours[k], masks[k : k + 1]])[None].expand(M, -1, -1, -1)
        moved = F.grid_sample(layer, source, align_corners=False)
        colour = F.grid_sample(
            layer[:, :3], source, padding_mode='border', align_corners=False
        )
        frames = frames + moved[:, 3:] * (colour - frames)
    return frames
