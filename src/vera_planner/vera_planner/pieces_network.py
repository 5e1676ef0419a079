"""The pieces planner's networks: a codec that cuts a picture into pieces, and a planner of motions.

The codec finds in one picture the mask and the pose of every piece. A frame of the future is the
picture with each moving piece shifted and turned as a whole, so texture and edges stay as they are
however far the plan reaches. The planner is a diffusion model over the motions of the pieces alone:
M frames of a few numbers in place of M pictures. Poses are x, y [px of the canvas, pixel centres at
+0.5] and angle [rad, from x towards y].
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_planner.text import DIM as TEXT_DIM

CELL = 4  # px: side of the cells that vote for poses
VOTE = 8.0  # px that a vote of 1 means
FAINT = 0.25  # of a mask: below it a pixel does not count for the pose
DIVISOR = 16  # sides of a canvas are multiples of it
_OCTAVES = 6


@dataclass(frozen=True)
class PiecesConfig:
    """Shape of a pieces planner.

    Attributes:
        pieces: of each embodiment: names in the order in which they are painted.
        moving: of each embodiment: those of them that ever move.
        context: frames of the past that are looked at.
        look_ahead: frames imagined.
        width: channels of the codec at half the canvas.
        tokens: width of a piece's token.
        hidden: width of the planner of motions; depth: its blocks.
    """

    pieces: dict[str, tuple[str, ...]] = field(default_factory=dict)
    moving: dict[str, tuple[str, ...]] = field(default_factory=dict)
    context: int = 4
    look_ahead: int = 16
    width: int = 24
    tokens: int = 128
    hidden: int = 384
    depth: int = 4

    def __post_init__(self) -> None:
        for name, moving in self.moving.items():
            strangers = sorted(set(moving) - set(self.pieces.get(name, ())))
            if strangers:
                raise ValueError(f'{name}: moving piece {strangers[0]!r} is not among its pieces')

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in a checkpoint."""
        return {'kind': 'pieces', **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PiecesConfig:
        """The inverse of `to_dict`."""
        plain = {k: v for k, v in values.items() if k != 'kind'}
        for key in ('pieces', 'moving'):
            plain[key] = {name: tuple(pieces) for name, pieces in plain[key].items()}
        return cls(**plain)


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
    """

    def __init__(self, config: PiecesConfig) -> None:
        super().__init__()
        c = config.width
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
        for name, pieces in config.pieces.items():
            self.masks[name] = nn.Sequential(
                nn.SiLU(), nn.Conv2d(c, 4 * len(pieces), 3, padding=1), nn.PixelShuffle(2)
            )
            self.votes[name] = nn.Sequential(nn.SiLU(), nn.Conv2d(2 * c, 4 * len(pieces), 1))
            # px: area from which a piece counts as seen; set from the training's masks.
            self.register_buffer(f'least_{name}', torch.ones(len(pieces)))

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


def _waves(values: Tensor, octaves: int) -> Tensor:
    """Sines and cosines of coordinates [..., D] -> [..., D * 2 * octaves]."""
    angle = values[..., None] * (torch.pi / 2 * 2.0 ** torch.arange(octaves, device=values.device))
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)


class _Attention(nn.Module):
    """Attention and MLP over the tokens of the pieces and of the sentence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        x = x + self.out(h.transpose(1, 2).reshape(b, n, c))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _Ends(nn.Module):
    """What an embodiment has of its own: from its pieces to the shared network and back."""

    def __init__(self, config: PiecesConfig, embodiment: str) -> None:
        super().__init__()
        pieces, moving = config.pieces[embodiment], config.moving[embodiment]
        k, width, hidden = len(pieces), config.tokens, config.hidden
        own = 4 * _OCTAVES + 3 + 4 * (config.context - 1)
        pair = 4 * (_OCTAVES + 1) + 2
        self.own = nn.Parameter(torch.randn(k, own, width) / own**0.5)
        self.bias = nn.Parameter(torch.randn(k, width) * 0.3)
        self.pair = nn.Parameter(torch.randn(k, k, pair, 48) / pair**0.5)
        self.pair_bias = nn.Parameter(torch.zeros(k, k, 48))
        self.pair_out = nn.Parameter(torch.randn(k, 48, width) / 48**0.5)
        self.gather = nn.Parameter(torch.randn(k, width, hidden) / (k * width) ** 0.5)
        self.moving = [pieces.index(name) for name in moving]
        numbers = config.look_ahead * len(moving) * 3
        self.enter = nn.Linear(numbers, hidden)
        self.leave = nn.Linear(hidden, numbers)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        # Spread of each number over the training's windows; mean and spread of its sentences.
        self.scale: Tensor
        self.text_mean: Tensor
        self.text_scale: Tensor
        self.register_buffer('scale', torch.ones(config.look_ahead, len(moving), 3))
        self.register_buffer('text_mean', torch.zeros(TEXT_DIM))
        self.register_buffer('text_scale', torch.full((TEXT_DIM,), TEXT_DIM**0.5))


class MotionNetwork(nn.Module):
    """Poses of the past and a sentence -> motions of the moving pieces; a diffusion model.

    `encode` looks at the scene, once; `denoise` is the step of the diffusion. Motions are in units
    of their spread, [B, M, moving, 3].
    """

    def __init__(self, config: PiecesConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.tokens, config.hidden
        self.ends = nn.ModuleDict({name: _Ends(config, name) for name in config.pieces})
        self.text = nn.Linear(TEXT_DIM, width)
        self.layers = nn.ModuleList([_Attention(width) for _ in range(3)])
        self.text_out = nn.Linear(width, hidden)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden))
        self.level = nn.Sequential(nn.Linear(16, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.films = nn.ModuleList(nn.Linear(hidden, 2 * hidden) for _ in range(config.depth))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden))
            for _ in range(config.depth)
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(hidden, elementwise_affine=False) for _ in range(config.depth)
        )
        self.last = nn.LayerNorm(hidden)

    def of(self, embodiment: str) -> _Ends:
        """What this embodiment has of its own."""
        ends = self.ends[embodiment]
        assert isinstance(ends, _Ends)
        return ends

    def encode(
        self,
        embodiment: str,
        past: Tensor,
        real: Tensor,
        there: Tensor,
        text: Tensor,
        canvas: tuple[int, int],
    ) -> Tensor:
        """The scene as one vector [B, hidden].

        Args:
            embodiment: whose pieces these are.
            past: poses [B, T, K, 3], the last one the anchor's.
            real: [B], how many frames of the past count; 1 is the anchor alone.
            there: bool [B, K], which pieces are in the picture.
            text: the sentence's embedding [B, 384].
            canvas: height and width, px.
        """
        ends = self.of(embodiment)
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
            [_waves(at, _OCTAVES), cos[..., None], sin[..., None], there[..., None].to(at), before],
            dim=-1,
        )
        tokens = torch.einsum('bkf,kfc->bkc', own, ends.own) + ends.bias
        # Where piece i is, seen from piece j.
        away = at[:, :, None] - at[:, None]
        cj, sj = cos[:, None], sin[:, None]
        local = torch.stack(
            [cj * away[..., 0] + sj * away[..., 1], cj * away[..., 1] - sj * away[..., 0]], -1
        )
        turn = now[:, :, None, 2] - now[:, None, :, 2]
        pair = torch.cat([_waves(local / 2, _OCTAVES + 1), turn.cos()[..., None],
                          turn.sin()[..., None]], -1)  # fmt: skip
        seen = F.silu(torch.einsum('bijf,ijfc->bijc', pair, ends.pair) + ends.pair_bias)
        both = (there[:, :, None] & there[:, None])[..., None]
        tokens = tokens + torch.einsum('bic,icd->bid', (seen * both).sum(2), ends.pair_out)
        words = ((text - ends.text_mean) * ends.text_scale).clamp(-4, 4)
        x = torch.cat([tokens, self.text(words)[:, None]], dim=1)
        known = torch.cat([there, torch.ones_like(there[:, :1])], dim=1)
        for layer in self.layers:
            x = layer(x, known)
        pieces = x[:, :-1] * there[..., None]
        scene = torch.einsum('bkc,kch->bh', pieces, ends.gather) + self.text_out(x[:, -1])
        out: Tensor = self.condition(scene)
        return out

    def denoise(self, embodiment: str, z: Tensor, level: Tensor, scene: Tensor) -> Tensor:
        """The clean motions [B, M, moving, 3] of noisy ones at levels [B] in 0..1."""
        ends = self.of(embodiment)
        angle = level[:, None] * torch.exp(torch.linspace(0, 5, 8, device=z.device))
        cond = F.silu(scene + self.level(torch.cat([angle.sin(), angle.cos()], -1)))
        x = ends.enter(z.flatten(1)) + scene
        for film, norm, block in zip(self.films, self.norms, self.blocks, strict=True):
            scale, shift = film(cond).chunk(2, -1)
            x = x + block(norm(x) * (1 + scale) + shift)
        out: Tensor = ends.leave(self.last(x)).view(z.shape)
        return out

    def sample(
        self, embodiment: str, scene: Tensor, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Motions [B, M, moving, 3] in px and rad since the anchor, by Euler steps from noise."""
        scale = self.of(embodiment).scale
        z = torch.randn(len(scene), *scale.shape, generator=generator)
        clean = z
        for t, s in itertools.pairwise(torch.linspace(1, 0, steps + 1).tolist()):
            clean = self.denoise(embodiment, z, torch.full((len(scene),), t), scene)
            z = (1 - s) * clean + s * (z - (1 - t) * clean) / t
        return clean * scale


class PiecesNetwork(nn.Module):
    """Codec and planner of motions, as one checkpoint holds them."""

    def __init__(self, config: PiecesConfig) -> None:
        super().__init__()
        self.config = config
        self.codec = Codec(config)
        self.motion = MotionNetwork(config)
