"""The compact planner's networks: a U-Net and a transformer with the same input and output.

Both take T + M noisy frames with one noise level each (diffusion forcing) and a sentence
embedding, and return the M clean future frames. A frame is painted as the anchor frame moved by a
predicted flow, or in pieces that move as wholes, blended with predicted colour where the anchor
cannot know: the arm keeps its texture, which is what the translator's optical flow lives on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_planner.text import DIM as TEXT_DIM

STEM = 4  # canvas pixels per cell of the coarse grid


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a compact planner; `kind` is 'unet' or 'transformer'.

    The canvas is the one that it was trained on first; as a convolutional network it takes any
    other whose sides are multiples of 16 px. With `layers`, a frame is made of so many pieces
    of the anchor, each moved as a whole; with 0 a dense flow moves every pixel on its own.
    """

    kind: str = 'unet'
    width: int = 96
    depth: int = 2
    context: int = 4
    look_ahead: int = 4
    height: int = 64
    canvas_width: int = 64
    layers: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in a checkpoint."""
        return asdict(self)


def build(config: NetworkConfig) -> VideoNetwork:
    """The network, laid out in memory as convolutions on a CPU like it."""
    network = VideoNetwork(config)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_canvas(height: int, width: int) -> None:
    """Refuse a canvas [px] that the coarsest cells do not divide.

    Raises:
        ValueError: names the canvas and what would fit.
    """
    cell = 4 * STEM
    if height < cell or width < cell or height % cell or width % cell:
        raise ValueError(f'canvas {height}x{width}: both must be multiples of {cell}')


def level_features(levels: Tensor, dim: int = 16) -> Tensor:
    """Sines and cosines of noise levels [B, F] in 0..1 -> [B, F * dim]."""
    scale = torch.exp(torch.linspace(0, 5, dim // 2, device=levels.device))
    angle = levels[..., None] * scale
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(1)


class FilmBlock(nn.Module):
    """Residual block of two 3x3 convolutions, scaled and shifted by the conditioning vector."""

    def __init__(self, width_in: int, width: int, cond: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(cond, 2 * width)
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(cond)[..., None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class SelfAttention(nn.Module):
    """Residual self-attention over the cells of a feature map."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        y = F.scaled_dot_product_attention(q.mT, k.mT, v.mT)
        return x + self.out(y.mT.reshape(b, c, h, w))


class GoalAttention(nn.Module):
    """Where in the anchor frame the sentence points: soft attention over coarse cells.

    Returns planes [B, 3, h, w] (attention, and each cell's offset from its centre of mass) and a
    vector [B, 2 + value] (that centre and the attended feature). Learned from the video loss alone.
    """

    def __init__(self, key: int = 32, value: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, 48, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, key + value, 1),
        )
        self.query = nn.Linear(TEXT_DIM, key)
        self.key = key

    def forward(self, anchor: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(anchor)
        b, _, h, w = features.shape
        keys, values = features[:, : self.key], features[:, self.key :]
        score = torch.einsum('bc,bchw->bhw', self.query(text), keys)
        weight = score.flatten(1).softmax(-1).view(b, h, w)
        y = torch.linspace(-1, 1, h, device=anchor.device).view(1, h, 1).to(weight)
        x = torch.linspace(-1, 1, w, device=anchor.device).view(1, 1, w).to(weight)
        cy, cx = (weight * y).sum((1, 2)), (weight * x).sum((1, 2))
        dy = (y - cy.view(b, 1, 1)).expand(b, h, w)
        dx = (x - cx.view(b, 1, 1)).expand(b, h, w)
        seen = torch.einsum('bhw,bchw->bc', weight, values)
        planes = torch.stack([weight * 16, dx, dy], dim=1)
        return planes, torch.cat([cx[:, None], cy[:, None], seen], dim=1)


class WarpHead(nn.Module):
    """Coarse features -> M frames: anchor warped by a predicted flow, blended with colour."""

    def __init__(self, width: int, look_ahead: int, per_cell: bool) -> None:
        super().__init__()
        self.look_ahead = look_ahead
        out = look_ahead * 6
        if per_cell:
            self.up: nn.Module = nn.Sequential(
                nn.Conv2d(width, out * STEM * STEM, 1), nn.PixelShuffle(STEM)
            )
            last = self.up[0]
        else:
            self.up = nn.Sequential(
                nn.Conv2d(width, 48 * 4, 1),
                nn.PixelShuffle(2),
                nn.SiLU(),
                nn.Conv2d(48, 48, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(48, out * 4, 3, padding=1),
                nn.PixelShuffle(2),
            )
            last = self.up[-2]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, std=1e-3)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, anchor: Tensor) -> Tensor:
        b, _, height, width = anchor.shape
        m = self.look_ahead
        y = self.up(features).float().reshape(b * m, 6, height, width)
        flow, blend, colour = y[:, :2] * 8, torch.sigmoid(y[:, 2:3] - 2), y[:, 3:]
        gy = torch.linspace(-1, 1, height, device=y.device).view(1, height, 1)
        gx = torch.linspace(-1, 1, width, device=y.device).view(1, 1, width)
        grid = torch.stack(
            [gx + flow[:, 0] * (2 / (width - 1)), gy + flow[:, 1] * (2 / (height - 1))], dim=-1
        )
        source = anchor.float().repeat_interleave(m, 0)
        warped = F.grid_sample(source, grid, padding_mode='border', align_corners=True)
        return ((1 - blend) * warped + blend * colour).view(b, m, 3, height, width)


class LayerHead(nn.Module):
    """Coarse features -> M frames: pieces of the anchor that turn and shift, over a background.

    Each piece has a mask in the anchor frame, and for each future frame a rotation about the mask's
    centre and a shift. What a piece leaves behind is painted. A small thing that moves by more than
    its own size stays whole, which a dense flow has to learn pixel by pixel.

    forward(features [B, C, H / 4, W / 4], anchor [B, 3, H, W]) -> [B, M, 3, H, W].
    """

    HIDDEN = 32
    FAR = 40.0  # logit of a mask outside the picture, negative
    SHARP = 3.0  # a pixel belongs to one piece: hedging between them would paint ghosts
    SHIFT, TURN = 4.0, 0.2  # px and rad per frame that an output of 1 means

    def __init__(self, width: int, look_ahead: int, layers: int) -> None:
        super().__init__()
        self.look_ahead, self.layers = look_ahead, layers
        self.up = nn.Sequential(
            nn.Conv2d(width, self.HIDDEN * 4, 1), nn.PixelShuffle(2), nn.SiLU()
        )
        self.paint = nn.Sequential(
            nn.Conv2d(self.HIDDEN + 12, 48, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, (layers + 3) * 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        # For each piece its mean motion, and what each frame differs from it.
        self.motion = nn.Sequential(
            nn.Linear(2 * width + 2, 128), nn.SiLU(), nn.Linear(128, 3 * (look_ahead + 1))
        )
        last = self.motion[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, anchor: Tensor) -> Tensor:
        fine = torch.cat([self.up(features), F.pixel_unshuffle(anchor, 2)], dim=1)
        y = self.paint(fine).float()
        with torch.autocast(features.device.type, enabled=False):
            return self._compose(y, features.float(), anchor.float())

    def _compose(self, y: Tensor, features: Tensor, anchor: Tensor) -> Tensor:
        b, _, height, width = anchor.shape
        k, m = self.layers, self.look_ahead
        logits, colour = y[:, :k] * self.SHARP, y[:, k:]
        masks = F.softmax(F.pad(logits, (0, 0, 0, 0, 1, 0)), dim=1)[:, 1:]
        gx = torch.arange(width, device=y.device, dtype=y.dtype)
        gy = torch.arange(height, device=y.device, dtype=y.dtype)
        area = masks.sum((2, 3)).clamp_min(1e-3)
        centre = torch.stack(
            [(masks.sum(2) * gx).sum(2) / area, (masks.sum(3) * gy).sum(2) / area], dim=-1
        )
        size = centre.new_tensor([width - 1, height - 1])
        shift, turn = self._motion(features, masks, centre * (2 / size) - 1)
        # Where in the anchor each pixel of a frame comes from, if it belongs to this piece.
        x = gx.view(1, 1, 1, 1, width) - (centre[:, :, None, 0] + shift[..., 0])[..., None, None]
        y_ = gy.view(1, 1, 1, height, 1) - (centre[:, :, None, 1] + shift[..., 1])[..., None, None]
        cos, sin = turn.cos()[..., None, None], turn.sin()[..., None, None]
        source = torch.stack(
            [
                cos * x + sin * y_ + centre[:, :, 0].view(b, k, 1, 1, 1),
                cos * y_ - sin * x + centre[:, :, 1].view(b, k, 1, 1, 1),
            ],
            dim=-1,
        )
        grid = (source * (2 / size) - 1).view(b * k, m * height, width, 2)
        piece = torch.cat(
            [
                anchor[:, None].expand(b, k, 3, height, width) + 1,
                logits[:, :, None] + self.FAR,
            ],
            dim=2,
        ).reshape(b * k, 4, height, width)
        moved = F.grid_sample(piece, grid, padding_mode='zeros', align_corners=True)
        moved = moved.view(b, k, 4, m, height, width)
        share = F.softmax(F.pad(moved[:, :, 3] - self.FAR, (0, 0, 0, 0, 0, 0, 1, 0)), dim=1)
        # Paint only where a piece was: elsewhere it would draw what may come instead of moving it.
        ground = anchor + masks.sum(1, keepdim=True) * (colour - anchor)
        frames = share[:, :1] * ground[:, :, None] + torch.einsum(
            'bkmhw,bkcmhw->bcmhw', share[:, 1:], moved[:, :, :3] - 1
        )
        return frames.transpose(1, 2)

    def _motion(self, features: Tensor, masks: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Shift [B, K, M, 2] in px and turn [B, K, M] in rad since the anchor."""
        b, k = masks.shape[:2]
        coarse = F.avg_pool2d(masks, STEM)
        inside = torch.einsum('bkhw,bchw->bkc', coarse, features)
        inside = inside / coarse.sum((2, 3)).clamp_min(1e-3)[..., None]
        all_over = features.mean((2, 3))[:, None].expand(b, k, -1)
        out = self.motion(torch.cat([inside, all_over, centre], dim=-1)).view(b, k, -1, 3)
        path = (out[:, :, :1] + out[:, :, 1:]).cumsum(2)
        return path[..., :2] * self.SHIFT, path[..., 2] * self.TURN


class VideoNetwork(nn.Module):
    """Noisy frames, their noise levels and a sentence -> the clean future frames.

    forward(frames [B, T+M, 3, H, W] in -1..1, levels [B, T+M] in 0..1, text [B, 384])
    -> [B, M, 3, H, W]. The anchor is frame T - 1; the warp reads it as it is given.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        check_canvas(config.height, config.canvas_width)
        self.config = config
        frames = config.context + config.look_ahead
        # Sentences of one task differ little; standardised over the training captions they do.
        self.text_mean: Tensor
        self.text_scale: Tensor
        self.register_buffer('text_mean', torch.zeros(TEXT_DIM))
        self.register_buffer('text_scale', torch.full((TEXT_DIM,), TEXT_DIM**0.5))
        self.goal = GoalAttention()
        cond = 256
        self.condition = nn.Sequential(
            nn.Linear(frames * 16 + TEXT_DIM + 34, cond),
            nn.SiLU(),
            nn.Linear(cond, cond),
            nn.SiLU(),
        )
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(STEM),
            nn.Conv2d(frames * 3 * STEM * STEM, config.width, 1),
        )
        body = {'unet': UnetBody, 'transformer': TransformerBody}[config.kind]
        self.body = body(config, cond)
        self.head: nn.Module
        if config.layers:
            self.head = LayerHead(config.width, config.look_ahead, config.layers)
        else:
            self.head = WarpHead(config.width, config.look_ahead, config.kind == 'transformer')

    def standardise_text(self, captions: Tensor) -> None:
        """Take mean and spread of the training captions' embeddings [S, 384]."""
        self.text_mean.copy_(captions.mean(0))
        self.text_scale.copy_(1 / captions.std(0).clamp_min(0.01))

    def forward(self, frames: Tensor, levels: Tensor, text: Tensor) -> Tensor:
        b, f, c, h, w = frames.shape
        anchor = frames[:, self.config.context - 1]
        text = ((text - self.text_mean) * self.text_scale).clamp(-4, 4)
        planes, where = self.goal(anchor, text)
        cond = self.condition(torch.cat([level_features(levels), text, where], dim=1))
        x = self.stem(frames.reshape(b, f * c, h, w))
        out: Tensor = self.head(self.body(x, planes, cond), anchor)
        return out


class Stage(nn.ModuleList):
    """Blocks of one resolution, one after the other."""

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        for block in self:
            x = block(x, cond)
        return x


class UnetBody(nn.Module):
    """Three levels (cells of 4, 8 and 16 px) with attention on the two coarser ones."""

    def __init__(self, config: NetworkConfig, cond: int) -> None:
        super().__init__()
        c = config.width
        widths = (c, c * 3 // 2, c * 2)
        self.merge = nn.Conv2d(c + 3, c, 3, padding=1)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        previous = c
        for i, width in enumerate(widths):
            self.shrink.append(nn.Conv2d(previous, width, 2, stride=2) if i else nn.Identity())
            self.down.append(Stage([FilmBlock(width, width, cond) for _ in range(config.depth)]))
            previous = width
        self.middle = SelfAttention(widths[2])
        self.coarse = SelfAttention(widths[1])
        self.grow = nn.ModuleList()
        self.up = nn.ModuleList()
        for i in (1, 0):
            self.grow.append(nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2))
            blocks = [FilmBlock(2 * widths[i], widths[i], cond)]
            blocks += [FilmBlock(widths[i], widths[i], cond) for _ in range(config.depth - 1)]
            self.up.append(Stage(blocks))

    def forward(self, x: Tensor, planes: Tensor, cond: Tensor) -> Tensor:
        x = self.merge(torch.cat([x, planes.to(x)], dim=1))
        skips = []
        for i, (shrink, stage) in enumerate(zip(self.shrink, self.down, strict=True)):
            x = stage(shrink(x), cond)
            if i == 1:
                x = self.coarse(x)
            skips.append(x)
        x = self.middle(x)
        for grow, stage, skip in zip(self.grow, self.up, (skips[1], skips[0]), strict=True):
            x = stage(torch.cat([grow(x), skip], dim=1), cond)
        return x


class TransformerBody(nn.Module):
    """A diffusion transformer over coarse cells, adaptively normalised by the conditioning."""

    def __init__(self, config: NetworkConfig, cond: int) -> None:
        super().__init__()
        c = config.width
        cells = (config.height // STEM) * (config.canvas_width // STEM)
        self.merge = nn.Conv2d(c + 3, c, 1)
        self.position = nn.Parameter(torch.randn(1, cells, c) * 0.02)
        self.blocks = nn.ModuleList([TransformerBlock(c, cond) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(c)

    def forward(self, x: Tensor, planes: Tensor, cond: Tensor) -> Tensor:
        x = self.merge(torch.cat([x, planes.to(x)], dim=1))
        b, c, h, w = x.shape
        tokens = x.flatten(2).mT + self.position
        for block in self.blocks:
            tokens = block(tokens, cond)
        return self.norm(tokens).mT.reshape(b, c, h, w)


class TransformerBlock(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the conditioning (adaLN-zero)."""

    def __init__(self, width: int, cond: int) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.modulate = nn.Linear(cond, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate='tanh'), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        b, n, c = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(cond)[:, None].chunk(6, -1)
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + gate1 * self.out(h)
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.mlp(h)
