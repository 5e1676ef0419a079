"""Diffusion forcing: one noise level per frame, clean or partly noised context, noised future.

A frame at level t is (1 - t) z + t eps, z in -1..1 and t in 0..1 (rectified flow; t = 1 is noise).
Context that does not exist is pure noise at level 1: the network learns to do without it, so that
a cold start needs no copied frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseConfig:
    """How training draws noise levels.

    Attributes:
        drop_history: probability that all context but the anchor is pure noise; without it the
            planner extrapolates the motion it sees and ignores the words.
        clean_context: probability that the context is clean rather than slightly noised.
        noisy_context: the highest level of slightly noised context.
        pure_future: probability that the whole future starts from nearly pure noise, as the
            first step of sampling does.
    """

    drop_history: float = 0.7
    clean_context: float = 0.6
    noisy_context: float = 0.25
    pure_future: float = 0.45


def training_levels(
    history: Tensor, context: int, look_ahead: int, config: NoiseConfig, generator: torch.Generator
) -> Tensor:
    """Noise levels [B, T + M] for windows that have `history` [B] real context frames."""
    b = len(history)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    keep = torch.where(
        uniform(b) < config.drop_history,
        torch.ones(b, dtype=torch.long),
        1 + (uniform(b) * context).long().clamp(max=context - 1),
    ).minimum(history)
    age = torch.arange(context - 1, -1, -1)
    past = uniform(b, 1) * config.noisy_context * (uniform(b, 1) >= config.clean_context)
    past = past.expand(b, context).clone()
    past[:, -1] *= (uniform(b) < 0.5).float()  # the anchor is what the warp copies from
    past[age >= keep[:, None]] = 1.0
    shared, own = uniform(b, 1).expand(b, look_ahead), uniform(b, look_ahead)
    future = torch.where(uniform(b, 1) < 0.5, shared, own)
    pure = uniform(b, 1) < config.pure_future
    future = torch.where(pure, 1 - 0.1 * uniform(b, look_ahead), future)
    return torch.cat([past, future], dim=1)


def noised(frames: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
    """Frames [B, F, 3, H, W] at their levels [B, F]."""
    t = levels[..., None, None, None]
    return (1 - t) * frames + t * noise


@torch.inference_mode()
def sample(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    context: Tensor,
    text: Tensor,
    *,
    slots: int,
    look_ahead: int,
    steps: int,
    generator: torch.Generator,
    context_levels: Tensor | None = None,
) -> Tensor:
    """Future frames [B, M, 3, H, W] in -1..1, by `steps` Euler steps from noise.

    `context` is [B, k, 3, H, W], 1 <= k <= `slots`, oldest first; missing slots become noise.
    `context_levels` [k] noise it, 0 = clean; all clean if None.
    """
    b, have, *pixel = context.shape
    given = torch.zeros(have) if context_levels is None else context_levels
    past = torch.randn(b, slots, *pixel, generator=generator)
    past[:, slots - have :] = noised(context, given.expand(b, have), past[:, slots - have :])
    levels = torch.ones(b, slots + look_ahead)
    levels[:, slots - have : slots] = given
    z = torch.randn(b, look_ahead, *pixel, generator=generator)
    clean = z
    grid = torch.linspace(1, 0, steps + 1)
    for t, s in itertools.pairwise(grid):
        levels[:, slots:] = t
        frames = torch.cat([past, z], dim=1)
        clean = network(frames, levels, text)
        noise = (z - (1 - t) * clean) / t
        z = (1 - s) * clean + s * noise
    return clean.clamp(-1, 1)
