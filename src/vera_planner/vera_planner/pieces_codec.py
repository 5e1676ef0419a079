"""The codec of the pieces planner: which pixels of a picture belong to each piece, and its pose.

Poses are x, y [px of the canvas, pixel centres at +0.5] and angle [rad, from x towards y].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  torch's own convention

CELL = 4  # px: side of the cells that vote for poses
VOTE = 8.0  # px that a vote of 1 means
FAINT = 0.25  # of a mask: below it a pixel does not count for the pose
DIVISOR = 16  # sides of a canvas are multiples of it


def check_canvas(height: int, width: int) -> None:
    """Refuse a canvas [px] that the coarsest cells do not divide.

    Raises:
        ValueError: names the canvas and what would fit.
    """
    if min(height, width) < DIVISOR or height % DIVISOR or width % DIVISOR:
        raise ValueError(f'canvas {height}x{width}: both must be multiples of {DIVISOR}')


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, before),
            nn.SiLU(),
            nn.Conv2d(before, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.body(x)
        return out


class Codec(nn.Module):
    """Pictures -> masks and votes of the pieces; a U-Net with one pair of heads per embodiment.

    forward(pictures [B, 3, H, W] in -1..1, embodiment)
    -> mask logits [B, K, H, W], votes [B, K, 4, H / 4, W / 4].

    Args:
        pieces: of each embodiment, in the order in which they are painted.
        width: channels at half the canvas.
    """

    def __init__(self, pieces: dict[str, tuple[str, ...]], width: int) -> None:
        super().__init__()
        c = width
        widths = (c, 2 * c, 3 * c, 4 * c)
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, c, 3, padding=1))
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            self.shrink.append(nn.Conv2d(before, width, 2, stride=2) if i else nn.Identity())
            # Half the canvas costs most: one convolution down and one up.
            self.down.append(nn.Sequential(*(_Block(width, width) for _ in range(2 * (i > 0)))))
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        for i in (2, 1, 0):
            self.grow.append(nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2))
            both = 2 * widths[i]
            last = nn.Sequential(nn.SiLU(), nn.Conv2d(both, widths[i], 3, padding=1))
            self.up.append(_Block(both, widths[i]) if i else last)
        self.masks = nn.ModuleDict()
        self.votes = nn.ModuleDict()
        for name, names in pieces.items():
            self.masks[name] = nn.Sequential(
                nn.SiLU(), nn.Conv2d(c, 4 * len(names), 3, padding=1), nn.PixelShuffle(2)
            )
            self.votes[name] = nn.Sequential(nn.SiLU(), nn.Conv2d(2 * c, 4 * len(names), 1))
            # px: area from which a piece counts as seen; set from the training's masks.
            self.register_buffer(f'least_{name}', torch.ones(len(names)))

    def forward(self, pictures: Tensor, embodiment: str) -> tuple[Tensor, Tensor]:
        x = self.stem(pictures)
        skips = []
        for shrink, stage in zip(self.shrink, self.down, strict=True):
            x = stage(shrink(x))
            skips.append(x)
        votes = x
        for i, grow, stage in zip((2, 1, 0), self.grow, self.up, strict=True):
            x = stage(torch.cat([grow(x), skips[i]], dim=1))
            if i == 1:
                votes = self.votes[embodiment](x)
        masks = self.masks[embodiment](x)
        return masks.float(), votes.float().unflatten(1, (masks.shape[1], 4))

    def least(self, embodiment: str) -> Tensor:
        """Area [px] from which each piece counts as seen, [K]."""
        least: Tensor = self.get_buffer(f'least_{embodiment}')
        return least


def count_votes(masks: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    """Places [B, K, 2] and directions [B, K, 2], of length 1 where all cells of a piece agree.

    Args:
        masks: [B, K, H, W] in 0..1.
        votes: [B, K, 4, H / 4, W / 4]: each cell says where the piece's middle is, and cosine and
            sine of its angle.
    """
    # Faint traces far away would pull the middle there.
    weight = F.avg_pool2d(F.relu(masks - FAINT), CELL) + 1e-6
    weight = weight / weight.sum((2, 3), keepdim=True)
    h, w = weight.shape[2:]
    x = (torch.arange(w, device=masks.device) + 0.5) * CELL
    y = (torch.arange(h, device=masks.device) + 0.5) * CELL
    seen = (weight[:, :, None] * votes).sum((3, 4))
    middle = torch.stack([(weight.sum(2) * x).sum(2), (weight.sum(3) * y).sum(2)], dim=-1)
    return middle + VOTE * seen[:, :, :2], seen[:, :, 2:]


def read_poses(masks: Tensor, votes: Tensor) -> Tensor:
    """Poses [B, K, 3] from masks and votes, see `count_votes`."""
    at, way = count_votes(masks, votes)
    return torch.cat([at, torch.atan2(way[..., 1:], way[..., :1])], dim=-1)
