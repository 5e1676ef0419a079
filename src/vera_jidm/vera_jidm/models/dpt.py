"""Dense prediction from the tokens of a vision transformer (DPT, arXiv 2103.13413).

`Neck` reassembles tokens of four blocks into maps of four sizes and fuses them from coarse to fine.
Then one of the three heads that the authors have used (their idm/jacobian/models/): `FusionHead`
keeps all four maps until the prediction (their `dpt_vggt_fusion`, App. B.3 of the paper),
`PlainHead` looks at the finest alone (`dpt`), `PyramidHead` goes back from fine to coarse
(`dpt_v2`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

# Sizes of the four maps, relative to the grid of patches.
FACTORS = (4.0, 2.0, 1.0, 0.5)


def resampling(width: int, factor: float) -> nn.Module:
    """A layer that makes a map `factor` times as large; 4, 2, 1 or 0.5."""
    if factor > 1:
        return nn.ConvTranspose2d(width, width, int(factor), stride=int(factor))
    if factor == 1:
        return nn.Identity()
    return nn.Conv2d(width, width, 3, stride=round(1 / factor), padding=1)


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU.

    Args:
        width: channels.
        rectified: whether the shortcut starts after the first ReLU. It does in the authors' and in
            VGGT's heads, whose ReLU works in place, and so their weights expect it.
    """

    def __init__(self, width: int, rectified: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.rectified = rectified

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        y = F.relu(x)
        return self.conv2(F.relu(self.conv1(y))) + (y if self.rectified else x)


class Reassemble(nn.Module):
    """Tokens [B, 1 + h w, D] of one block -> a map [B, C, factor h, factor w]."""

    def __init__(self, dim: int, width: int, factor: float) -> None:
        super().__init__()
        self.readout = nn.Linear(2 * dim, dim)
        self.projection = nn.Conv2d(dim, width, 1)
        self.resize = resampling(width, factor)

    def forward(self, tokens: Tensor, patches: tuple[int, int]) -> Tensor:
        """See the class; `patches` is (h, w)."""
        image = tokens[:, 1:]
        whole = tokens[:, :1].expand_as(image)
        image = F.gelu(self.readout(torch.cat([image, whole], dim=-1)))
        return self.resize(self.projection(image.mT.unflatten(-1, patches)))


class Fusion(nn.Module):
    """Adds a finer map, refines, doubles the size."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.skip = None if first else ResidualUnit(width)
        self.refine = ResidualUnit(width)
        self.projection = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        """[B, C, h, w] -> [B, C, 2 h, 2 w]."""
        if self.skip is not None and finer is not None:
            if finer.shape != x.shape:
                finer = _to_size(finer, x.shape[-2:])
            x = x + self.skip(finer)
        x = F.interpolate(self.refine(x), scale_factor=2, mode='bilinear', align_corners=True)
        return self.projection(x)


class Neck(nn.Module):
    """Tokens of four blocks -> four fused maps, coarse to fine.

    Args:
        dim: of the tokens.
        sizes: channels of the four reassembled maps.
        width: channels of the fused maps.
    """

    def __init__(self, dim: int, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.reassemble = nn.ModuleList(
            Reassemble(dim, size, factor) for size, factor in zip(sizes, FACTORS, strict=True)
        )
        self.convs = nn.ModuleList(
            nn.Conv2d(size, width, 3, padding=1, bias=False) for size in sizes
        )
        self.fuse = nn.ModuleList(Fusion(width, first=i == 0) for i in range(len(sizes)))

    def forward(self, tokens: Sequence[Tensor], patches: tuple[int, int]) -> list[Tensor]:
        """Four times [B, 1 + h w, D] -> maps [B, width, ...]; `patches` is (h, w)."""
        maps = [
            conv(reassemble(t, patches))
            for t, reassemble, conv in zip(tokens, self.reassemble, self.convs, strict=True)
        ]
        fused = [self.fuse[0](maps[-1])]
        for finer, fuse in zip(maps[-2::-1], list(self.fuse)[1:], strict=True):
            fused.append(fuse(fused[-1], finer))
        return fused


class HeadFusion(nn.Module):
    """One step of `FusionHead`."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.skip = None if first else ResidualUnit(width, rectified=True)
        self.refine = ResidualUnit(width, rectified=True)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        """[B, C, ...] -> [B, C, *size]."""
        if self.skip is not None and finer is not None:
            x = x + self.skip(finer)
        return self.out(_to_size(self.refine(x), size))


class FusionHead(nn.Module):
    """Four maps, coarse to fine -> a dense prediction.

    Args:
        dim: channels of the maps.
        outputs: channels of the prediction.
        width: channels while fusing.
        hidden: channels of the last hidden layer.
        bands: Fourier bands of the pixel coordinates that the last layers see; None: none at all.
    """

    def __init__(
        self, dim: int, outputs: int, *, width: int, hidden: int, bands: int | None, maps: int = 4
    ) -> None:
        super().__init__()
        self.bands = bands
        self.project = nn.ModuleList(nn.Conv2d(dim, width, 1) for _ in range(maps))
        self.fuse = nn.ModuleList(HeadFusion(width, first=i == 0) for i in range(maps))
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        extra = 0 if bands is None else 2 + 4 * bands
        self.hidden = nn.Conv2d(width + extra, hidden, 3, padding=1)
        self.predict = nn.Conv2d(hidden, outputs, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps [B, dim, ...] -> [B, outputs, *size]."""
        maps = [project(m) for m, project in zip(maps, self.project, strict=True)]
        x = maps[0]
        for i, fuse in enumerate(self.fuse):
            ahead = maps[min(i + 1, len(maps) - 1)]
            x = fuse(x, maps[i] if i else None, tuple(ahead.shape[-2:]))
        x = _to_size(self.smooth(x), size)
        if self.bands is not None:
            x = torch.cat([x, coordinates(size, self.bands, x).expand(len(x), -1, -1, -1)], dim=1)
        return precisely(self.predict, F.relu(self.hidden(x)))


class PlainHead(nn.Module):
    """The finest map -> a dense prediction, by three convolutions at the output's resolution."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(dim // 2, dim // 4, 3, padding=1)
        self.predict = nn.Conv2d(dim // 4, outputs, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps [B, dim, ...], coarse to fine -> [B, outputs, *size]."""
        x = F.relu(self.conv1(_to_size(maps[-1], size)))
        return precisely(self.predict, F.relu(self.conv2(x)))


class PyramidHead(nn.Module):
    """Adds the maps from fine to coarse, one shared block after each -> a dense prediction."""

    def __init__(self, dim: int, outputs: int, *, width: int, maps: int = 4) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(dim, width, 1) for _ in range(maps))
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.hidden = nn.Conv2d(width, width // 2, 3, padding=1)
        self.predict = nn.Conv2d(width // 2, outputs, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps [B, dim, ...], coarse to fine -> [B, outputs, *size]."""
        maps = [project(m) for m, project in zip(maps, self.project, strict=True)]
        x = maps[-1]
        for coarser in maps[-2::-1]:
            x = _to_size(x, coarser.shape[-2:]) + coarser
            x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return precisely(self.predict, F.relu(self.hidden(_to_size(x, size))))


def precisely(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer in float32, also within an autocast: what it gives is used as a measurement."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = layer(x.float())
    return out


def coordinates(size: tuple[int, int], bands: int, like: Tensor) -> Tensor:
    """[1, 2 + 4 bands, h, w]: x and y over -1..1, and their sines and cosines, bands doubling."""
    h, w = size
    y = torch.linspace(-1, 1, h, device=like.device)[:, None].expand(h, w)
    x = torch.linspace(-1, 1, w, device=like.device)[None].expand(h, w)
    maps = [x, y]
    for k in range(bands):
        f = math.pi * 2.0**k
        maps += [torch.sin(f * x), torch.cos(f * x), torch.sin(f * y), torch.cos(f * y)]
    return torch.stack(maps)[None].to(like.dtype)


def _to_size(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)
