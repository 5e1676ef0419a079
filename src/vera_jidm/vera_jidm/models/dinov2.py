"""The paper's DINOv2 Jacobian model (App. B.3): a frozen DINOv2-small, DPT neck, fusion head.

Only the blocks up to the last one that is read are built: the authors read the first four of twelve
(their dpt_config.py), so eight blocks are never computed. The transformer is ours, with names
that our checkpoints can rely on; its weights come through `transformers` (facebook/dinov2-small,
Apache-2.0), and a test holds it to that package's own forward pass.

One image of 128 x 128 px takes 1 s of one CPU thread and 260 MB at the input of 252 px, 0.35 s and
160 MB at 126 px (21.6 M parameters, 13.8 M of them trained).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_jidm.models.base import BackboneError
from vera_jidm.models.dpt import FACTORS, FusionHead, Neck, PlainHead, PyramidHead
from vera_jidm.models.views import ViewsConfig, ViewsNetwork

PATCH = 14
LICENCE = 'Apache-2.0'
HEADS = ('fusion', 'plain', 'pyramid')
# What the backbone was trained on: mean and deviation of each colour over ImageNet.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dinov2Config(ViewsConfig):
    """Size of a network; the defaults are the authors' (their pusht_vggt_fusion_uv.yaml).

    Attributes:
        backbone: folder or hub name that the backbone's weights come from when a training starts.
        revision: of that name; its newest if empty.
        freeze: whether the backbone keeps its weights.
        imagenet: whether images are brought to ImageNet's mean and deviation first. The authors do
            not, so their checkpoints need False.
        dim, heads, positions: of the backbone: width, attention heads, side of the grid of its
            position embeddings.
        stages: blocks whose tokens are read, counted from 1.
        neck: channels of the reassembled maps; neck_width: of the fused ones.
        head: 'fusion', 'plain' or 'pyramid', see `vera_jidm.models.dpt`.
        fusion, hidden: channels of the head and of its last layer ('plain' has its own).
        bands: Fourier bands of the coordinates that 'fusion' sees; None: it does not know where a
            pixel is.
    """

    family: ClassVar[str] = 'dinov2'

    backbone: str = 'facebook/dinov2-small'
    revision: str = ''
    freeze: bool = True
    imagenet: bool = True
    dim: int = 384
    heads: int = 6
    positions: int = 37
    stages: tuple[int, ...] = (1, 2, 3, 4)
    neck: tuple[int, ...] = (96, 96, 128, 128)
    neck_width: int = 256
    head: str = 'fusion'
    fusion: int = 128
    hidden: int = 64
    bands: int | None = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.input) < PATCH:
            raise ValueError(f'input is {list(self.input)} px; a patch alone has {PATCH}')
        if self.dim % self.heads:
            raise ValueError(f'dim is {self.dim}; it must be a multiple of heads, {self.heads}')
        if self.head not in HEADS:
            raise ValueError(f'no head {self.head!r}; there are {", ".join(HEADS)}')
        rising = all(a < b for a, b in zip((0, *self.stages), self.stages, strict=False))
        if len(self.stages) != len(FACTORS) or len(self.neck) != len(FACTORS) or not rising:
            raise ValueError(
                f'stages {list(self.stages)} and neck {list(self.neck)} must be four each, '
                'stages rising from 1'
            )


class Block(nn.Module):
    """One block of the transformer: attention and MLP, each scaled per channel."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.scale1 = nn.Parameter(torch.ones(dim))
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.scale2 = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> the same."""
        y = self.norm1(x)
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.scale1 * self.out(y)
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Dinov2(nn.Module):
    """The vision transformer, as many blocks as are read.

    `forward(images [B, 3, H, W])` gives the normalised tokens [B, 1 + h w, D] after each stage, the
    class token first, and (h, w). Pixels beyond the last whole patch are not seen.
    """

    def __init__(self, dim: int, heads: int, positions: int, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = stages
        self.patches = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, positions**2 + 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(max(stages)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """See the class."""
        x = self.patches(images)
        size = (x.shape[-2], x.shape[-1])
        x = torch.cat([self.cls.expand(len(x), -1, -1), x.flatten(2).mT], dim=1)
        x = x + self._positions(size)
        read = []
        for i, block in enumerate(self.blocks, start=1):
            x = block(x)
            if i in self.stages:
                read.append(self.norm(x))
        return read, size

    def _positions(self, size: tuple[int, int]) -> Tensor:
        """The position embeddings, resampled from the grid of the training to this one."""
        side = round((self.positions.shape[1] - 1) ** 0.5)
        if size == (side, side):
            return self.positions
        grid = self.positions[:, 1:].mT.unflatten(-1, (side, side)).float()
        grid = F.interpolate(grid, size=size, mode='bicubic', align_corners=False)
        return torch.cat([self.positions[:, :1], grid.flatten(2).mT], dim=1)


def _head(config: Dinov2Config, outputs: int) -> FusionHead | PlainHead | PyramidHead:
    if config.head == 'plain':
        return PlainHead(config.neck_width, outputs)
    if config.head == 'pyramid':
        return PyramidHead(config.neck_width, outputs, width=config.fusion)
    return FusionHead(
        config.neck_width, outputs, width=config.fusion, hidden=config.hidden, bands=config.bands
    )


class Dinov2Jacobian(ViewsNetwork):
    """The network of this file; input and output as in `JacobianNetwork`."""

    family = 'dinov2'
    config: Dinov2Config

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = Dinov2(config.dim, config.heads, config.positions, config.stages)
        self.backbone.requires_grad_(not config.freeze)
        self.neck = Neck(config.dim, config.neck, config.neck_width)
        self.head = _head(config, self.outputs)
        nn.init.normal_(self.head.predict.weight, std=0.02)
        nn.init.zeros_(self.head.predict.bias)  # type: ignore[arg-type]

    def field(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """See `ViewsNetwork`; each view is seen on its own."""
        flat = images.flatten(0, 1)
        if self.config.imagenet:
            mean, deviation = (flat.new_tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
            flat = (flat - mean) / deviation
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze):
            tokens, patches = self.backbone(flat)
        return self.head(self.neck(tokens, patches), size).unflatten(0, images.shape[:2])

    def load_backbone(self) -> None:
        """Fetch the pretrained transformer that the config names; says its licence.

        Raises:
            BackboneError: `transformers` is missing, the weights cannot be found, or do not fit.
        """
        source, revision = self.config.backbone, self.config.revision
        found = fetch(source, revision)
        weights = renamed(found, self.config.stages)
        try:
            self.backbone.load_state_dict(weights)
        except RuntimeError as error:
            raise BackboneError(f'{source} is no backbone for this network: {error}') from error
        log.info('backbone %s %s, licence %s', source, revision, LICENCE)


def fetch(source: str, revision: str = '') -> dict[str, Tensor]:
    """Weights of a DINOv2 by folder or hub name, as `transformers` names them.

    Raises:
        BackboneError: `transformers` is missing, or there are no such weights here.
    """
    try:
        from transformers import Dinov2Model
        from transformers.utils import logging as loading
    except ImportError as error:
        raise BackboneError(
            'DINOv2 comes through the package transformers, which is missing: '
            'pip install transformers'
        ) from error
    loading.disable_progress_bar()
    try:
        model, report = Dinov2Model.from_pretrained(
            str(Path(source).expanduser()) if Path(source).expanduser().exists() else source,
            revision=revision or None,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise BackboneError(
            f'no DINOv2 weights at {source!r} ({reason}); give a folder with config.json and '
            "model.safetensors, or fetch the hub's once where there is a network: "
            '`hf download facebook/dinov2-small`'
        ) from error
    # transformers would go on with random numbers where weights are missing.
    missing = sorted([*report['missing_keys'], *(str(k) for k in report['mismatched_keys'])])
    if missing:
        raise BackboneError(
            f'the DINOv2 weights at {source!r} lack {", ".join(missing[:4])}; fetch them again'
        )
    return dict(model.state_dict())


# Names in `transformers`: those up to 5.0, then those since.
NAMES = (
    (r'^embeddings\.cls_token$', 'cls'),
    (r'^embeddings\.position_embeddings$', 'positions'),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patches.'),
    (r'^encoder\.layer\.', 'blocks.'),
    (r'^layernorm\.', 'norm.'),
    (r'\.attention\.attention\.(query|key|value)\.', r'.\1.'),
    (r'\.attention\.output\.dense\.', '.out.'),
    (r'\.attention\.q_proj\.', '.query.'),
    (r'\.attention\.k_proj\.', '.key.'),
    (r'\.attention\.v_proj\.', '.value.'),
    (r'\.attention\.o_proj\.', '.out.'),
    (r'\.layer_scale(\d)\.lambda1$', r'.scale\1'),
    (r'\.mlp\.(fc\d)\.', r'.\1.'),
)


def renamed(weights: Mapping[str, Tensor], stages: tuple[int, ...]) -> dict[str, Tensor]:
    """Weights under the names of `Dinov2`, without the mask token and the blocks never read."""
    out = {}
    for name, value in weights.items():
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        block = re.match(r'blocks\.(\d+)\.', name)
        if name != 'embeddings.mask_token' and not (block and int(block[1]) >= max(stages)):
            out[name] = value
    return out
