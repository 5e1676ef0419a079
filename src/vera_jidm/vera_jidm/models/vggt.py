"""A Jacobian head over the tokens of VGGT, or of any backbone that sees views jointly.

The backbone is the user's: nothing of VGGT is shipped or fetched, its weights are CC-BY-NC-4.0. A
factory, named as 'module:function', makes it; `facebook_vggt` below does for the package `vggt`
where the user has installed it. The head is the DPT of VGGT (arXiv 2503.11651) with 2 n outputs, as
the authors use it (their vggt_jacobian_field.py; paper App. B.3).
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_jidm.models.base import BackboneError
from vera_jidm.models.dpt import FACTORS, ResidualUnit, precisely, resampling
from vera_jidm.models.views import ViewsConfig, ViewsNetwork

FACEBOOK = 'vera_jidm.models.vggt:facebook_vggt'
# Licences that ask nothing of whoever runs the weights.
PERMISSIVE = ('Apache-2.0', 'MIT', 'BSD-2-Clause', 'BSD-3-Clause', 'CC-BY-4.0', 'CC0-1.0')
ACCEPTED = 'VERA_ACCEPT_LICENCE'
ALLOWED = 'VERA_BACKBONES'

log = logging.getLogger(__name__)


class Backbone(Protocol):
    """What a factory returns: an `nn.Module` with a licence.

    `backbone(images [B, V, 3, H, W] in 0..1)`, H and W multiples of the patch, gives the patch
    tokens of four layers, each [B, V, h w, D], row by row.
    """

    licence: str

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """See the class."""


@dataclass(frozen=True)
class VggtConfig(ViewsConfig):
    """Size of a network; the defaults are the authors' (their droid_vggt_jacobian.yaml).

    Attributes:
        backbone: its factory, 'module:function'.
        accepted: licence of the backbone that the user has accepted.
        freeze: whether the backbone keeps its weights.
        joint: whether the backbone sees all views of a moment together. The authors train so.
        patch, dim: of the backbone: pixels of a patch, width of the tokens.
        sizes: channels of the four maps.
        features: channels while fusing.
        positions: whether maps get a position embedding.
    """

    family: ClassVar[str] = 'vggt'

    full: bool = True
    learned_weights: bool = False
    backbone: str = FACEBOOK
    accepted: str = ''
    freeze: bool = False
    joint: bool = True
    patch: int = 14
    dim: int = 2048
    sizes: tuple[int, ...] = (256, 512, 1024, 1024)
    features: int = 256
    positions: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sizes) != len(FACTORS) or any(size % 4 for size in self.sizes):
            raise ValueError(f'sizes {list(self.sizes)} must be four multiples of 4')
        if self.features % 8:
            raise ValueError(f'features is {self.features}; it must be a multiple of 8')
        if self.learned_weights:
            raise ValueError('this family has no learned_weights; use confidence')


class Refine(nn.Module):
    """One step of the fusion, coarse to fine."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.skip = None if first else ResidualUnit(width, rectified=True)
        self.refine = ResidualUnit(width, rectified=True)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        """[B, C, ...] -> [B, C, *size]."""
        if self.skip is not None and finer is not None:
            x = x + self.skip(finer)
        x = F.interpolate(self.refine(x), size=size, mode='bilinear', align_corners=True)
        return self.out(x)


class VggtHead(nn.Module):
    """Tokens of four layers -> a dense prediction and, if asked for, its confidence."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        c, half, eighth = config, config.features // 2, config.features // 8
        self.config = config
        self.norm = nn.LayerNorm(c.dim)
        self.projects = nn.ModuleList(nn.Conv2d(c.dim, size, 1) for size in c.sizes)
        self.resize = nn.ModuleList(
            resampling(size, factor) for size, factor in zip(c.sizes, FACTORS, strict=True)
        )
        self.convs = nn.ModuleList(
            nn.Conv2d(size, c.features, 3, padding=1, bias=False) for size in c.sizes
        )
        self.fuse = nn.ModuleList(Refine(c.features, first=i == 0) for i in range(len(c.sizes)))
        self.smooth = nn.Conv2d(c.features, half, 3, padding=1)
        self.hidden = nn.Conv2d(half, eighth, 3, padding=1)
        self.predict = nn.Conv2d(eighth, 2 * c.channels, 1)
        if c.confidence:
            self.confidence_hidden = nn.Conv2d(half, eighth, 3, padding=1)
            self.confidence = nn.Conv2d(eighth, 1, 1)

    def forward(self, tokens: Sequence[Tensor], patches: tuple[int, int]) -> Tensor:
        """Four times [B, h w, D] -> [B, 2 n (+ 1), patch h, patch w]; `patches` is (h, w)."""
        aspect = patches[1] / patches[0]
        maps = []
        for t, project, resize, conv in zip(
            tokens, self.projects, self.resize, self.convs, strict=True
        ):
            x = project(self.norm(t).mT.unflatten(-1, patches))
            maps.append(conv(resize(self._placed(x, aspect))))
        x = maps[-1]
        for i, fuse in enumerate(self.fuse):
            if i + 1 < len(maps):
                size = maps[-2 - i].shape[-2:]
            else:
                size = (2 * x.shape[-2], 2 * x.shape[-1])
            x = fuse(x, maps[-1 - i] if i else None, tuple(size))
        size = (patches[0] * self.config.patch, patches[1] * self.config.patch)
        x = F.interpolate(self.smooth(x), size=size, mode='bilinear', align_corners=True)
        x = self._placed(x, aspect)
        out = precisely(self.predict, F.relu(self.hidden(x)))
        if not self.config.confidence:
            return out
        confidence = precisely(self.confidence, F.relu(self.confidence_hidden(x)))
        return torch.cat([out, confidence], dim=1)

    def _placed(self, x: Tensor, aspect: float) -> Tensor:
        return x + 0.1 * position_embedding(x, aspect) if self.config.positions else x


def position_embedding(like: Tensor, aspect: float) -> Tensor:
    """[1, C, h, w]: sines and cosines of where a pixel is, C / 2 for x and C / 2 for y.

    The corners of the image lie at distance 1 from its middle; `aspect` is width over height.
    """
    c, h, w = like.shape[1:]
    diagonal = (1 + aspect**2) ** 0.5
    frequencies = 100.0 ** -(
        torch.arange(c // 4, dtype=torch.float64, device=like.device) / (c / 4)
    )

    def along(reach: float, count: int) -> Tensor:
        end = reach * (count - 1) / count
        place = torch.linspace(-end, end, count, device=like.device)
        angle = place.double()[:, None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1).to(like.dtype).mT

    x = along(aspect / diagonal, w)[:, None].expand(-1, h, -1)
    y = along(1 / diagonal, h)[:, :, None].expand(-1, -1, w)
    return torch.cat([x, y])[None]


class VggtJacobian(ViewsNetwork):
    """The network of this file; input and output as in `JacobianNetwork`.

    Args:
        config: of the network.
        backbone: in place of the one that the config's factory makes.

    Raises:
        BackboneError: the backbone cannot be made, states no licence, or its licence asks for an
            acceptance that is not there.
    """

    family = 'vggt'
    config: VggtConfig

    def __init__(self, config: VggtConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        made = backbone or make_backbone(config.backbone, config.accepted)
        self.backbone = cast(nn.Module, made)
        if config.freeze:
            self.backbone.requires_grad_(False)
        self.head = VggtHead(config)

    @property
    def outputs(self) -> int:
        """Channels that `field` gives; the last is the confidence if there is one."""
        return 2 * self.config.channels + self.config.confidence

    def field(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """See `ViewsNetwork`."""
        b, v, _, height, width = images.shape
        patch = self.config.patch
        flat = F.pad(
            images.flatten(0, 1), (0, -width % patch, 0, -height % patch), mode='replicate'
        )
        patches = (flat.shape[-2] // patch, flat.shape[-1] // patch)
        tokens = self.backbone(flat.unflatten(0, (b, v) if self.config.joint else (b * v, 1)))
        flat_tokens = [t.flatten(0, 1) for t in tokens]
        wanted = (b * v, patches[0] * patches[1], self.config.dim)
        if len(flat_tokens) != len(FACTORS) or any(t.shape != wanted for t in flat_tokens):
            raise BackboneError(
                f'the backbone gave tokens {[list(t.shape) for t in flat_tokens]}; the head wants '
                f'{len(FACTORS)} times {list(wanted)}'
            )
        out = self.head(flat_tokens, patches)[..., :height, :width]
        if out.shape[-2:] != size:
            out = F.interpolate(out, size=size, mode='area')
        return out.unflatten(0, (b, v))

    def _weights(self, cells: Tensor) -> Tensor:
        if not self.config.confidence:
            return super()._weights(cells)
        low, high = self.config.confidence_range
        confidence = (F.softplus(cells[:, -1:]) + 1e-4).clamp(low, high)
        return confidence.expand(-1, 3, -1, -1)


def make_backbone(factory: str, accepted: str = '') -> Backbone:
    """Call a factory and see to its licence.

    A checkpoint names its factory, and a name must not be enough to run code: any but our own must
    be listed in the environment variable VERA_BACKBONES.

    Args:
        factory: 'module:function'.
        accepted: licence that the user accepts; VERA_ACCEPT_LICENCE counts too.

    Raises:
        BackboneError: see the class above.
    """
    module, _, function = factory.partition(':')
    allowed = [FACEBOOK, *filter(None, os.environ.get(ALLOWED, '').split(','))]
    if not function:
        raise BackboneError(f'backbone {factory!r} is no factory; write it as module:function')
    if factory not in allowed:
        raise BackboneError(
            f'backbone {factory!r} is code that a file has named; if you trust it, set '
            f'{ALLOWED}={factory}'
        )
    try:
        backbone: Any = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise BackboneError(f'backbone {factory!r} cannot be made: {error}') from error
    licence = getattr(backbone, 'licence', '')
    if not licence:
        raise BackboneError(f'backbone {factory!r} states no licence; give it one: `.licence`')
    check_licence(licence, f'the backbone of {factory}', accepted)
    level = logging.INFO if licence in PERMISSIVE else logging.WARNING
    log.log(level, 'backbone %s, licence %s', factory, licence)
    return cast(Backbone, backbone)


def check_licence(licence: str, what: str, accepted: str = '') -> None:
    """Raise BackboneError unless a licence is permissive or accepted."""
    stated = {accepted, *os.environ.get(ACCEPTED, '').split(',')}
    if licence not in PERMISSIVE and licence not in stated:
        raise BackboneError(
            f'{what} is under {licence}, which restricts what it may be used for; if you accept '
            f'that, say so: `--accept-licence {licence}`, or {ACCEPTED}={licence}'
        )


class FacebookVggt(nn.Module):
    """The aggregator of the package `vggt`; tokens of four of its layers, without the special ones.

    Attributes:
        licence: of the weights.
    """

    licence = 'CC-BY-NC-4.0'

    def __init__(self, aggregator: nn.Module, layers: tuple[int, ...] = (4, 11, 17, 23)) -> None:
        super().__init__()
        self.aggregator = aggregator
        self.layers = layers

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone`."""
        tokens, start = self.aggregator(images)
        return [tokens[i][:, :, start:] for i in self.layers]


def facebook_vggt() -> FacebookVggt:
    """VGGT-1B's aggregator without its weights, which come from the checkpoint.

    Raises:
        BackboneError: the package is not installed.
    """
    try:
        vggt = importlib.import_module('vggt.models.vggt')
    except ImportError as error:
        raise BackboneError(
            'this checkpoint needs the package vggt, which is not on PyPI: '
            'pip install git+https://github.com/facebookresearch/vggt.git'
        ) from error
    model = vggt.VGGT(
        enable_camera=False, enable_point=False, enable_depth=False, enable_track=False
    )
    return FacebookVggt(model.aggregator)
