"""The image-space Jacobian network (Eq. 3), small enough for a CPU.

A convolutional U-Net on a quarter of the canvas' resolution; its last stage returns to half of it,
where full-resolution features of the stem sharpen the borders between links. The network sees the
pixel coordinates: a Jacobian depends on where a pixel is relative to each joint.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_jidm.models.base import JacobianConfig, JacobianNetwork

# Cells of the output are GRID x GRID pixels of the canvas.
GRID = 2


@dataclass(frozen=True)
class NetworkConfig(JacobianConfig):
    """Size of a network.

    Attributes:
        height, width: canvas in pixels, multiples of 16.
        stem: features at half resolution.
        widths: features of the trunk at 1/4, 1/8, 1/16 of the canvas.
        merge: features of the last stage, at half resolution.
    """

    family: ClassVar[str] = 'convolutional'

    stem: int = 16
    widths: tuple[int, ...] = (32, 64, 128)
    merge: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid != GRID:
            raise ValueError(f'grid is {self.grid}; this family has {GRID} px')
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
        self.head = nn.Conv2d(config.merge, 2 * config.channels + 3, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
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
        x = F.pixel_shuffle(self.unfold(F.silu(x)), 2)
        x = F.silu(self.merge(F.silu(torch.cat([x, fine], dim=1))))
        with torch.autocast(x.device.type, enabled=False):
            out = self.head(x.float())
        n = self.config.channels
        J = out[:, : 2 * n].unflatten(1, (n, 2))
        return J, F.softplus(out[:, 2 * n :]) + 1e-3
