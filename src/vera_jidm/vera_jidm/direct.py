"""Direct inverse dynamics: networks that name the action without a Jacobian, to compare with.

`direct_flow` (the paper's D-IDM + Flow) sees an image and the flow to the next one, `direct_pair`
(UniPi*) sees both images. They have what the J-IDM has: its trunk, pixel coordinates,
full-resolution features, flow at half resolution with the estimator's weights beside it, both
directions of time, and as many parameters (`match`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_core.checkpoint import CheckpointError, CheckpointInfo
from vera_jidm.dataset import Batch, GridFlow, Transitions
from vera_jidm.model import Scales, to_tensor
from vera_jidm.models.base import JacobianConfig
from vera_jidm.models.convolutional import GRID, JacobianNet, NetworkConfig, Residual

KINDS = ('direct_flow', 'direct_pair')
HEADS = ('flatten', 'votes')
NO_FLOW = 'none'
# Parameters may differ by this much from the J-IDM's.
TOLERANCE = 0.05
# Numbers that the flatten head reads.
_READ = 1024


@dataclass(frozen=True)
class DirectConfig(JacobianConfig):
    """Size of a direct network.

    Attributes:
        height, width: canvas in pixels, multiples of 16.
        kind: 'direct_flow' or 'direct_pair'.
        head: 'flatten' reads the coarsest features through one hidden layer; 'votes' takes them
            back to half resolution as the J-IDM does, where every cell votes for each channel and
            says how much its vote counts.
        frames: images in the input, 1 or 2. UniPi* needs 2; D-IDM + Flow has 1 in the paper.
        stem, widths, merge: as in the J-IDM.
        hidden: width of the flatten head.
    """

    family: ClassVar[str] = 'direct'

    kind: str = 'direct_flow'
    head: str = 'flatten'
    frames: int = 1
    stem: int = 16
    widths: tuple[int, ...] = (32, 64, 128)
    merge: int = 24
    hidden: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise ValueError(f'no direct translator {self.kind!r}; there are {", ".join(KINDS)}')
        if self.head not in HEADS:
            raise ValueError(f'no head {self.head!r}; there are {", ".join(HEADS)}')
        if self.frames not in (1, 2) or (self.kind == 'direct_pair' and self.frames != 2):
            raise ValueError(f'frames is {self.frames}; {self.kind} cannot work with that')
        # The J-IDM's own check of the canvas.
        NetworkConfig(self.channels, self.height, self.width, stem=self.stem, widths=self.widths)

    @property
    def sees_flow(self) -> bool:
        """Whether flow is an input."""
        return self.kind == 'direct_flow'


class DirectNet(nn.Module):
    """Images and flow -> action.

    `forward(images [B, 3 * frames, H, W] in 0..1, flow [B, 3, H/2, W/2])` gives actions [B, n] over
    their training deviation. `flow` holds the two components over their training rms and the
    estimator's weight; None for `direct_pair`.
    """

    coordinates: Tensor

    def __init__(self, config: DirectConfig) -> None:
        super().__init__()
        self.config = config
        widths, stem = config.widths, config.stem
        self.stem1 = nn.Conv2d(3 * config.frames + 2, stem, 4, stride=2, padding=1)
        fine = stem
        if config.sees_flow:
            self.flow1 = nn.Conv2d(3, stem, 3, padding=1)
            fine += stem
        self.stem2 = nn.Conv2d(fine, widths[0], 4, stride=2, padding=1)
        self.encode = nn.ModuleList(Residual(c) for c in widths)
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in steps)
        if config.head == 'flatten':
            shrink = 4 * 2 ** (len(widths) - 1)
            cells = (config.height // shrink) * (config.width // shrink)
            kept = max(4, min(32, _READ // cells))
            self.squeeze = nn.Conv2d(widths[-1], kept, 1)
            self.hidden = nn.Linear(kept * cells, config.hidden)
            self.head: nn.Module = nn.Linear(config.hidden, config.channels)
        else:
            self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in steps)
            self.decode = nn.ModuleList(Residual(a) for a, _ in steps)
            self.unfold = nn.Conv2d(widths[0], 4 * stem, 1)
            self.merge = nn.Conv2d(stem + fine, config.merge, 3, padding=1)
            self.head = nn.Conv2d(config.merge, 2 * config.channels, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        y = torch.linspace(-1, 1, config.height)[:, None].expand(-1, config.width)
        x = torch.linspace(-1, 1, config.width)[None].expand(config.height, -1)
        self.register_buffer('coordinates', torch.stack([x, y])[None], persistent=False)

    def forward(self, images: Tensor, flow: Tensor | None = None) -> Tensor:
        """See the class."""
        x = torch.cat([4 * images - 2, self.coordinates.expand(len(images), -1, -1, -1)], dim=1)
        fine = self.stem1(x)
        if self.config.sees_flow:
            fine = torch.cat([fine, self.flow1(flow)], dim=1)
        x = self.stem2(F.silu(fine))
        skips = []
        for i, block in enumerate(self.encode):
            x = block(x)
            if i < len(self.down):
                skips.append(x)
                x = self.down[i](x)
        if self.config.head == 'flatten':
            x = F.silu(self.hidden(F.silu(self.squeeze(F.silu(x))).flatten(1)))
            with torch.autocast(x.device.type, enabled=False):
                out: Tensor = self.head(x.float())
            return out
        for i in reversed(range(len(self.down))):
            x = F.interpolate(self.up[i](x), scale_factor=2.0) + skips[i]
            x = self.decode[i](x)
        x = F.pixel_shuffle(self.unfold(F.silu(x)), 2)
        x = F.silu(self.merge(F.silu(torch.cat([x, fine], dim=1))))
        with torch.autocast(x.device.type, enabled=False):
            votes, say = self.head(x.float()).flatten(2).chunk(2, dim=1)
        return (votes * say.softmax(-1)).sum(-1)

    @property
    def parameters_count(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def match(like: NetworkConfig, kind: str, head: str = 'flatten', frames: int = 0) -> DirectConfig:
    """The direct network that has as many parameters as a J-IDM.

    Args:
        like: of the J-IDM; stem, trunk and last stage are taken from it.
        kind: 'direct_flow' or 'direct_pair'.
        head: 'flatten' (its hidden width is searched) or 'votes' (the J-IDM's own last stage, of
            another width where that is too large).
        frames: images in the input; 0 = as in the paper.

    Raises:
        ValueError: it does not come within 5%.
    """
    found = DirectConfig(
        like.channels, like.height, like.width, kind=kind, head=head,
        frames=frames or (2 if kind == 'direct_pair' else 1),
        stem=like.stem, widths=like.widths, merge=like.merge, hidden=1,
    )
    field = 'hidden' if head == 'flatten' else 'merge'
    with torch.device('meta'):
        wanted = JacobianNet(like).parameters_count
        count = DirectNet(found).parameters_count
        if head == 'flatten' or abs(count - wanted) > TOLERANCE * wanted:
            width = getattr(found, field)
            each = DirectNet(replace(found, **{field: width + 1})).parameters_count - count
            found = replace(found, **{field: max(1, width + round((wanted - count) / each))})
            count = DirectNet(found).parameters_count
    if abs(count - wanted) > TOLERANCE * wanted:
        raise ValueError(
            f'{kind} with head {head!r} has {count} parameters at the nearest, the J-IDM {wanted}; '
            'give the J-IDM another stem or other widths'
        )
    return found


class NoFlow:
    """The flow source of a network that sees none: zeros of weight zero."""

    flow_id = NO_FLOW

    def __init__(self, grid: int = GRID) -> None:
        self._grid = grid
        self.key = f'{NO_FLOW}.x{grid}'

    def ready(self, path: Path) -> bool:
        """There is nothing to compute."""
        return True

    def __call__(self, path: Path, data: Transitions) -> GridFlow:
        """Zeros for a shard."""
        n, h, w = data.before.shape[:3]
        flow = np.zeros((n, 2, h // self._grid, w // self._grid), np.float16)
        return GridFlow(flow, flow, flow[:, 0], flow[:, 0])


class TrainedDirect:
    """A trained direct network with its units.

    Attributes:
        flow_id: estimator whose flow it was trained on; 'none' for `direct_pair`.
    """

    def __init__(self, net: DirectNet, scales: Scales, flow_id: str) -> None:
        self.net = net.eval()
        self.scales = scales
        self.flow_id = flow_id

    @torch.inference_mode()
    def recover(
        self, before: Tensor, after: Tensor, flow: Tensor | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Actions of B frame pairs in units of their training deviation, float64 [B, n] twice.

        Args:
            before: images o_t [B, 3, H, W], 0..1.
            after: images o_t+1.
            flow: from `flow_rows`; `direct_pair` needs none.

        Returns:
            From o_t and the forward flow, and from o_t+1 and the backward flow (sign turned).
        """
        images = pair_images(self.net.config, before, after)
        first, second = self.net(images, flow).double().chunk(2)
        return first.numpy(), -second.numpy()

    def recover_batch(
        self, batch: Batch
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same of a batch."""
        rows = None
        if self.net.config.sees_flow:
            f = batch.flow
            rows = flow_rows(
                (f.forward, f.backward), (f.weight_forward, f.weight_backward), self.scales.flow
            )
        return self.recover(to_tensor(batch.before), to_tensor(batch.after), rows)


def pair_images(config: DirectConfig, before: Tensor, after: Tensor) -> Tensor:
    """The network's images, both directions of time: [2 B, 3 * frames, H, W]."""
    first, second = torch.cat([before, after]), torch.cat([after, before])
    return first if config.frames == 1 else torch.cat([first, second], dim=1)


def flow_rows(
    flow: Sequence[NDArray[Any]], trust: Sequence[NDArray[Any]], scale: float
) -> Tensor:
    """The network's flow and weight, both directions: float32 [2 B, 3, h, w].

    Args:
        flow: forward and backward, [B, 2, h, w] px each.
        trust: of both, [B, h, w] each, 0..1.
        scale: of the flow, px.
    """
    v = np.concatenate(flow).astype(np.float32) / np.float32(scale)
    return torch.from_numpy(
        np.concatenate([v, np.concatenate(trust).astype(np.float32)[:, None]], axis=1)
    )


def config_of(model: TrainedDirect) -> dict[str, Any]:
    """The `config` of a checkpoint."""
    return {
        'translator': model.net.config.kind,
        'network': model.net.config.to_dict(),
        'scales': model.scales.to_dict(),
        'flow_id': model.flow_id,
    }


def load_direct(info: CheckpointInfo) -> TrainedDirect:
    """Build what a checkpoint describes.

    Raises:
        CheckpointError: it is none of a direct translator, or its weights do not fit.
    """
    try:
        kind = str(info.config.get('translator', 'jacobian'))
        if kind not in KINDS:
            raise CheckpointError(f'{info.path.name} is of translator {kind!r}, not a direct one')
        net = DirectNet(DirectConfig.from_dict(info.config['network']))
        scales = Scales.from_dict(info.config['scales'])
        flow_id = str(info.config['flow_id'])
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'{info.path.name}: its config is wrong: {error}') from error
    weights = {k: torch.from_numpy(np.array(v)) for k, v in info.tensors().items()}
    if not all(bool(torch.isfinite(v).all()) for v in weights.values()):
        raise CheckpointError(f'{info.path.name}: a weight is not a finite number; train it again')
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f'{info.path.name}: weights do not fit: {error}') from error
    return TrainedDirect(net, scales, flow_id)
