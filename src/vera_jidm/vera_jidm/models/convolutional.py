"""The image-space Jacobian network (Eq. 3), small enough for a CPU.

A convolutional U-Net on a quarter of the canvas' resolution; its last stage returns to half of it,
where full-resolution features of the stem sharpen the borders between links. The network sees the
pixel coordinates: a Jacobian depends on where a pixel is relative to each joint.

Two heads:
 - `pixel`: every cell names its own J.
 - `affine`: every coarse cell (4 x 4 pixels) names J at its centre and how J changes around it, as
   on a rigid link; every fine cell chooses among the nine coarse cells next to it, or none, by a
   softmax. Borders stay sharp, and within a link J is as smooth as the motion of a rigid body: that
   is what the gradient rows of the solve live on.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_jidm.models.base import JacobianConfig, JacobianNetwork

# Cells of the output are GRID x GRID pixels of the canvas, or averages over larger ones.
GRID = 2
GRIDS = (GRID, 2 * GRID, 4 * GRID)
HEADS = ('pixel', 'affine')
# The softmax of the affine head: nine coarse cells, and none.
_CHOICES = 10


@dataclass(frozen=True)
class NetworkConfig(JacobianConfig):
    """Size of a network.

    Attributes:
        height, width: canvas in pixels, multiples of 16.
        stem: features at half resolution.
        widths: features of the trunk at 1/4, 1/8, 1/16 of the canvas.
        merge: features of the last stage, at half resolution.
        head: 'pixel' or 'affine', see above.
    """

    family: ClassVar[str] = 'convolutional'

    stem: int = 16
    widths: tuple[int, ...] = (32, 64, 128)
    merge: int = 24
    head: str = 'pixel'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in HEADS:
            raise ValueError(f'no head {self.head!r}; there are {", ".join(HEADS)}')
        if self.grid not in GRIDS:
            known = ', '.join(map(str, GRIDS))
            raise ValueError(f'grid is {self.grid}; this family has {known} px')
        step = 4 * 2 ** (len(self.widths) - 1)
        for name in ('height', 'width'):
            value = getattr(self, name)
            if value < step or value % step:
                raise ValueError(f'canvas {name} is {value} px; it must be a multiple of {step}')


class Residual(nn.Module):
    """Two 3x3 convolutions around an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return x + y


class JacobianNet(JacobianNetwork):
    """The network of this file; input and output as in `JacobianNetwork`."""

    family = 'convolutional'
    config: NetworkConfig
    coordinates: Tensor
    offsets: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        widths, stem = config.widths, config.stem
        self.stem1 = nn.Conv2d(5, stem, 4, stride=2, padding=1)
        self.stem2 = nn.Conv2d(stem, widths[0], 4, stride=2, padding=1)
        self.encode = nn.ModuleList(Residual(c) for c in widths)
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in steps)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in steps)
        self.decode = nn.ModuleList(Residual(a) for a, _ in steps)
        self.unfold = nn.Conv2d(widths[0], 4 * stem, 1)
        self.merge = nn.Conv2d(2 * stem, config.merge, 3, padding=1)
        outputs = 2 * config.channels if config.head == 'pixel' else _CHOICES
        self.head = nn.Conv2d(config.merge, outputs + 3, 1)
        last = [self.head]
        if config.head == 'affine':
            self.local = nn.Conv2d(widths[0], 6 * config.channels, 1)
            last.append(self.local)
            self.register_buffer('offsets', _offsets(), persistent=False)
        for layer in last:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        y = torch.linspace(-1, 1, config.height)[:, None].expand(-1, config.width)
        x = torch.linspace(-1, 1, config.width)[None].expand(config.height, -1)
        self.register_buffer('coordinates', torch.stack([x, y])[None], persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `JacobianNetwork`."""
        b = images.shape[0]
        x = torch.cat([4 * images - 2, self.coordinates.expand(b, -1, -1, -1)], dim=1)
        fine = self.stem1(x)
        x = self.stem2(F.silu(fine))
        skips = []
        for i, block in enumerate(self.encode):
            x = block(x)
            if i < len(self.down):
                skips.append(x)
                x = self.down[i](x)
        for i in reversed(range(len(self.down))):
            x = F.interpolate(self.up[i](x), scale_factor=2.0) + skips[i]
            x = self.decode[i](x)
        coarse = x
        x = F.pixel_shuffle(self.unfold(F.silu(x)), 2)
        x = F.silu(self.merge(F.silu(torch.cat([x, fine], dim=1))))
        n, pool = self.config.channels, self.config.grid // GRID
        with torch.autocast(x.device.type, enabled=False):
            out = self.head(x.float())
            if self.config.head == 'affine':
                J = self._choose(self.local(coarse.float()), out[:, :_CHOICES]).flatten(1, 2)
                weights = out[:, _CHOICES:]
            else:
                J, weights = out[:, : 2 * n], out[:, 2 * n :]
            if pool > 1:
                J, weights = F.avg_pool2d(J, pool), F.avg_pool2d(weights, pool)
        return J.unflatten(1, (n, 2)), self.row_weights(weights)

    def _choose(self, local: Tensor, choice: Tensor) -> Tensor:
        """Fine J from coarse affine models.

        Args:
            local: [B, 6 n, h, w]: slope along x, slope along y [per coarse cell] and value of J.
            choice: [B, 10, 2 h, 2 w] logits: the nine coarse cells around, row by row, and none.

        Returns:
            J [B, n, 2, 2 h, 2 w].
        """
        b, _, h, w = local.shape
        m = 2 * self.config.channels
        around = F.pad(local, (1, 1, 1, 1), mode='replicate').permute(0, 2, 3, 1)
        models = torch.stack(
            [around[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], dim=3
        )
        share = choice.softmax(1)[:, : _CHOICES - 1].reshape(b, _CHOICES - 1, h, 2, w, 2)
        share = share.permute(0, 2, 4, 3, 5, 1).reshape(b * h * w, 4, _CHOICES - 1, 1)
        # Each fine cell's value is linear in the nine models, 27 numbers each.
        basis = (share * self.offsets).flatten(2)
        fine = torch.bmm(basis, models.reshape(b * h * w, 3 * (_CHOICES - 1), m))
        fine = fine.view(b, h, w, 2, 2, m).permute(0, 5, 1, 3, 2, 4)
        return fine.reshape(b, m // 2, 2, 2 * h, 2 * w)


def _offsets() -> Tensor:
    """From each of the 9 coarse centres to each of the 4 fine cells: (x, y, 1), [4, 9, 3].

    In coarse cells, coarse and fine cells row by row.
    """
    out = torch.ones(2, 2, 3, 3, 3)
    for row, column, dy, dx in itertools.product((0, 1), (0, 1), range(3), range(3)):
        out[row, column, dy, dx, 0] = (column - 0.5) / 2 - (dx - 1)
        out[row, column, dy, dx, 1] = (row - 0.5) / 2 - (dy - 1)
    return out.view(4, 9, 3)
