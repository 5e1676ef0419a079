"""The pieces planner's networks: a codec that cuts a picture into pieces, and a planner of motions.

The codec finds in one picture the mask and the pose of every piece. A frame of the future is the
picture with each moving piece shifted and turned as a whole, so texture and edges stay as they are
however far the plan reaches. The planner is a diffusion model over the motions of the pieces alone:
M frames of a few numbers in place of M pictures.

One network serves several embodiments. Each brings its ends: from its pieces to the shared trunk,
and back. Those seen from above by one camera have poses (`PoseEnds`), those seen by several cameras
have places in each view (view_pieces_network.ViewEnds).
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_planner.pieces_codec import Codec
from vera_planner.pieces_trunk import Ends, Trunk, waves
from vera_planner.view_pieces_network import ViewEnds, ViewShape

_OCTAVES = 6


@dataclass(frozen=True)
class PoseShape:
    """An embodiment that one camera sees from above.

    Attributes:
        pieces: names in the order in which they are painted.
        moving: those of them that ever move.
        context: frames of the past that are looked at.
        look_ahead: frames imagined.
    """

    pieces: tuple[str, ...]
    moving: tuple[str, ...]
    context: int = 4
    look_ahead: int = 16

    def __post_init__(self) -> None:
        strangers = sorted(set(self.moving) - set(self.pieces))
        if strangers:
            raise ValueError(f'moving piece {strangers[0]!r} is not among the pieces')


@dataclass(frozen=True)
class PiecesConfig:
    """Shape of a pieces planner.

    Attributes:
        shapes: of each embodiment.
        width: channels of the codec at half the canvas.
        tokens: width of a piece's token.
        hidden: width of the planner of motions; depth: its blocks; layers: of attention.
    """

    shapes: dict[str, PoseShape | ViewShape] = field(default_factory=dict)
    width: int = 24
    tokens: int = 128
    hidden: int = 384
    depth: int = 4
    layers: int = 3

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in a checkpoint."""
        plain = {'kind': 'pieces', **asdict(self)}
        for name, shape in self.shapes.items():
            plain['shapes'][name]['sees'] = 'poses' if isinstance(shape, PoseShape) else 'views'
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PiecesConfig:
        """The inverse of `to_dict`."""
        plain = {k: v for k, v in values.items() if k != 'kind'}
        shapes: dict[str, PoseShape | ViewShape] = {}
        for name, shape in plain.pop('shapes').items():
            given: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in shape.items() if k != 'sees'
            }
            poses = shape['sees'] == 'poses'
            shapes[name] = PoseShape(**given) if poses else ViewShape(**given)
        return cls(shapes=shapes, **plain)


class PoseEnds(Ends):
    """What an embodiment seen from above has of its own.

    Motions are in units of their spread, [B, M, moving, 3].
    """

    def __init__(self, shape: PoseShape, width: int, hidden: int) -> None:
        super().__init__()
        pieces, moving = shape.pieces, shape.moving
        k = len(pieces)
        own = 4 * _OCTAVES + 3 + 4 * (shape.context - 1)
        pair = 4 * (_OCTAVES + 1) + 2
        self.own = nn.Parameter(torch.randn(k, own, width) / own**0.5)
        self.bias = nn.Parameter(torch.randn(k, width) * 0.3)
        self.pair = nn.Parameter(torch.randn(k, k, pair, 48) / pair**0.5)
        self.pair_bias = nn.Parameter(torch.zeros(k, k, 48))
        self.pair_out = nn.Parameter(torch.randn(k, 48, width) / 48**0.5)
        self.gather = nn.Parameter(torch.randn(k, width, hidden) / (k * width) ** 0.5)
        self.moving = [pieces.index(name) for name in moving]
        self._attach((shape.look_ahead, len(moving), 3), hidden)
        # Spread of each number over the training's windows.
        self.scale: Tensor
        self.register_buffer('scale', torch.ones(self.coordinates))

    def encode(
        self,
        trunk: Trunk,
        past: Tensor,
        real: Tensor,
        there: Tensor,
        text: Tensor,
        canvas: tuple[int, int],
    ) -> Tensor:
        """The scene as one vector [B, hidden].

        Args:
            trunk: the shared one.
            past: poses [B, T, K, 3], the last one the anchor's.
            real: [B], how many frames of the past count; 1 is the anchor alone.
            there: bool [B, K], which pieces are in the picture.
            text: the sentence's embedding [B, 384].
            canvas: height and width, px.
        """
        height, width = canvas
        b, T, k, _ = past.shape
        half = height / 2
        past = torch.where(there[:, None, :, None], past, 0.0)
        now = past[:, -1]
        middle = past.new_tensor([width / 2, height / 2])
        at = (now[..., :2] - middle) / half
        cos, sin = now[..., 2].cos(), now[..., 2].sin()
        counts = torch.arange(T - 1, 0, -1, device=past.device) < real[:, None]
        counts = counts[:, :, None, None].expand(b, T - 1, k, 1).to(past)
        back = (past[:, :-1] - past[:, -1:]) * counts / past.new_tensor([4.0, 4.0, 0.2])
        before = torch.cat([back.clamp(-4, 4), counts], -1).transpose(1, 2).flatten(2)
        own = torch.cat(
            [waves(at, _OCTAVES), cos[..., None], sin[..., None], there[..., None].to(at), before],
            dim=-1,
        )
        tokens = torch.einsum('bkf,kfc->bkc', own, self.own) + self.bias
        # Where piece i is, seen from piece j.
        away = at[:, :, None] - at[:, None]
        cj, sj = cos[:, None], sin[:, None]
        local = torch.stack(
            [cj * away[..., 0] + sj * away[..., 1], cj * away[..., 1] - sj * away[..., 0]], -1
        )
        turn = now[:, :, None, 2] - now[:, None, :, 2]
        pair = torch.cat([waves(local / 2, _OCTAVES + 1), turn.cos()[..., None],
                          turn.sin()[..., None]], -1)  # fmt: skip
        seen = F.silu(torch.einsum('bijf,ijfc->bijc', pair, self.pair) + self.pair_bias)
        both = (there[:, :, None] & there[:, None])[..., None]
        tokens = tokens + torch.einsum('bic,icd->bid', (seen * both).sum(2), self.pair_out)
        x = trunk.read(tokens, there, self.words(text))
        pieces = x[:, :-1] * there[..., None]
        return trunk.scene(torch.einsum('bkc,kch->bh', pieces, self.gather), x[:, -1])

    def motions(self, clean: Tensor) -> Tensor:
        """Motions [B, M, moving, 3] in px and rad since the anchor."""
        return clean * self.scale


class MotionNetwork(nn.Module):
    """What pieces were seen to do and a sentence -> how they will move; a diffusion model.

    `encode` looks at the scene, once; `denoise` is the step of the diffusion.
    """

    def __init__(self, config: PiecesConfig) -> None:
        super().__init__()
        c = config
        self.trunk = Trunk(c.tokens, c.hidden, c.depth, c.layers)
        self.ends = nn.ModuleDict({
            name: PoseEnds(shape, c.tokens, c.hidden) if isinstance(shape, PoseShape)
            else ViewEnds(shape, c.tokens, c.hidden)
            for name, shape in c.shapes.items()
        })

    def poses(self, embodiment: str) -> PoseEnds:
        """What this embodiment, seen from above, has of its own."""
        ends = self.ends[embodiment]
        assert isinstance(ends, PoseEnds)
        return ends

    def views(self, embodiment: str) -> ViewEnds:
        """What this embodiment, seen by several cameras, has of its own."""
        ends = self.ends[embodiment]
        assert isinstance(ends, ViewEnds)
        return ends

    def _of(self, embodiment: str) -> Ends:
        ends = self.ends[embodiment]
        assert isinstance(ends, Ends)
        return ends

    def encode(self, embodiment: str, *seen: Any) -> Tensor:
        """The scene as one vector [B, hidden]; `seen` as the embodiment's ends have it."""
        return self._of(embodiment).encode(self.trunk, *seen)

    def denoise(self, embodiment: str, z: Tensor, level: Tensor, scene: Tensor) -> Tensor:
        """Clean coordinates of the motions, of noisy ones at levels [B] in 0..1."""
        ends = self._of(embodiment)
        out: Tensor = ends.leave(self.trunk.denoise(ends.enter(z.flatten(1)), level, scene))
        return out.view(z.shape)

    def sample(
        self, embodiment: str, scene: Tensor, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Motions since the anchor, as the embodiment's ends have them; Euler steps from noise."""
        ends = self._of(embodiment)
        z = torch.randn(len(scene), *ends.coordinates, generator=generator)
        clean = z
        for t, s in itertools.pairwise(torch.linspace(1, 0, steps + 1).tolist()):
            clean = self.denoise(embodiment, z, torch.full((len(scene),), t), scene)
            z = (1 - s) * clean + s * (z - (1 - t) * clean) / t
        return ends.motions(clean)


class PiecesNetwork(nn.Module):
    """Codec and planner of motions, as one checkpoint holds them."""

    def __init__(self, config: PiecesConfig) -> None:
        super().__init__()
        self.config = config
        pieces = {name: shape.pieces for name, shape in config.shapes.items()}
        self.codec = Codec(pieces, config.width)
        self.motion = MotionNetwork(config)
