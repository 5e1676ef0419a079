"""What all embodiments share in the planner of motions: reading the scene, and denoising."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_planner.text import DIM as TEXT_DIM


def waves(values: Tensor, octaves: int) -> Tensor:
    """Sines and cosines of coordinates [..., D] -> [..., D * 2 * octaves]."""
    angle = values[..., None] * (torch.pi / 2 * 2.0 ** torch.arange(octaves, device=values.device))
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)


class Attention(nn.Module):
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


class Trunk(nn.Module):
    """Tokens of pieces and a sentence -> the scene; noisy motions and the scene -> clean ones.

    Args:
        width: of a token.
        hidden: of what is denoised.
        depth: blocks that denoise.
        layers: of attention.
    """

    def __init__(self, width: int, hidden: int, depth: int, layers: int) -> None:
        super().__init__()
        self.text = nn.Linear(TEXT_DIM, width)
        self.layers = nn.ModuleList(Attention(width) for _ in range(layers))
        self.text_out = nn.Linear(width, hidden)
        self.condition = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden)
        )
        self.level = nn.Sequential(nn.Linear(16, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.films = nn.ModuleList(nn.Linear(hidden, 2 * hidden) for _ in range(depth))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden))
            for _ in range(depth)
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(hidden, elementwise_affine=False) for _ in range(depth)
        )
        self.last = nn.LayerNorm(hidden)

    def read(self, tokens: Tensor, there: Tensor, words: Tensor) -> Tensor:
        """Tokens [B, K + 1, width], the sentence's last, that have looked at each other.

        Args:
            tokens: of the pieces, [B, K, width].
            there: bool [B, K], which of them count.
            words: the sentence [B, 384], in units of its spread.
        """
        x = torch.cat([tokens, self.text(words.clamp(-4, 4))[:, None]], dim=1)
        counts = torch.cat([there, torch.ones_like(there[:, :1])], dim=1)
        for layer in self.layers:
            x = layer(x, counts)
        return x

    def scene(self, pieces: Tensor, sentence: Tensor) -> Tensor:
        """The scene [B, hidden] of what is gathered from pieces [B, hidden] and the sentence."""
        out: Tensor = self.condition(pieces + self.text_out(sentence))
        return out

    def denoise(self, x: Tensor, level: Tensor, scene: Tensor) -> Tensor:
        """What is in noisy motions [B, hidden] at levels [B] in 0..1."""
        angle = level[:, None] * torch.exp(torch.linspace(0, 5, 8, device=x.device))
        cond = F.silu(scene + self.level(torch.cat([angle.sin(), angle.cos()], -1)))
        x = x + scene
        for film, norm, block in zip(self.films, self.norms, self.blocks, strict=True):
            scale, shift = film(cond).chunk(2, -1)
            x = x + block(norm(x) * (1 + scale) + shift)
        out: Tensor = self.last(x)
        return out


class Ends(nn.Module):
    """What an embodiment has of its own: from its pieces to the trunk, and back to its motions.

    Attributes:
        coordinates: shape of the motions as they are denoised, without the batch.
        enter, leave: between those and the trunk.
    """

    coordinates: tuple[int, ...]
    text_mean: Tensor
    text_scale: Tensor

    def _attach(self, coordinates: tuple[int, ...], hidden: int) -> None:
        """The last of what is built: to the trunk and back, and the spread of the sentences."""
        self.coordinates = coordinates
        numbers = math.prod(coordinates)
        self.enter = nn.Linear(numbers, hidden)
        self.leave = nn.Linear(hidden, numbers)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer('text_mean', torch.zeros(TEXT_DIM))
        self.register_buffer('text_scale', torch.full((TEXT_DIM,), TEXT_DIM**0.5))

    def measure_words(self, sentences: Tensor) -> None:
        """Take mean and spread of the training's sentences, embeddings [S, 384]."""
        self.text_mean.copy_(sentences.mean(0))
        self.text_scale.copy_(1 / sentences.std(0).clamp_min(0.01))

    def words(self, text: Tensor) -> Tensor:
        """Embeddings [B, 384] in units of their spread."""
        return (text - self.text_mean) * self.text_scale

    @abstractmethod
    def encode(self, trunk: Trunk, *seen: Any) -> Tensor:
        """The scene as one vector [B, hidden]."""

    @abstractmethod
    def motions(self, clean: Tensor) -> Tensor:
        """Motions since the anchor, of clean coordinates."""
