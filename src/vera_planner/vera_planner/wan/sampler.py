"""Sampling of future latents behind a context: UniPC on the future slice, with two guidances.

Each step asks the model for up to three velocities of the same noised future: with words and
history (c), with the negative words (n), and with a history of pure noise (h). Their sum is

    v = (1 + g_l + g_h) v_c - g_l v_n - g_h v_h

with g_l the text guidance and g_h the history guidance (history guidance: arXiv 2502.06764). Only
the future is stepped; the context stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

FLOW_STEPS = 1000
# The grid of Wan's own solver, before the shift: from 0.999 in equal steps towards 0.
FIRST_LEVEL = 0.999

NEGATIVE_PROMPT = (
    'worst quality, low quality, jpeg artifacts, ugly, deformed, blurry, monotone, static, '
    'washed out, disfigured, poorly drawn, warping'
)


class SamplingError(ValueError):
    """Settings or latents that nothing can be sampled from; the message names them."""


class Denoiser(Protocol):
    """What `WanDenoiser` promises: velocity v = eps - z of noised latents."""

    def __call__(
        self, latents: Tensor, levels: Tensor, text: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """[B, C, F, h, w], levels [B, F] in 0..1, text [B, L, D] -> [B, C, F, h, w]."""


class SamplingHooks(Protocol):
    """What a step cache (caches.py) wants to know of the sampling."""

    def begin(self, first: int, steps: int) -> None:
        """A plan starts; its steps are `first` .. `steps` - 1."""

    def branch(self, name: str) -> AbstractContextManager[None]:
        """Around the forward pass of one branch, or of all at once."""

    def end(self) -> None:
        """The plan is done."""


def make_scheduler(steps: int, shift: float) -> Any:
    """UniPC (arXiv 2302.04867) on Wan's grid: t' = shift t / (1 + (shift - 1) t).

    Raises:
        SamplingError: no steps, or a shift that is not positive.
    """
    from diffusers import UniPCMultistepScheduler

    if steps < 1:
        raise SamplingError(f'{steps} sampling steps; at least 1 is needed')
    if not shift > 0:
        raise SamplingError(f'shift {shift}; it must be positive')
    scheduler: Any = UniPCMultistepScheduler(
        prediction_type='flow_prediction',
        use_flow_sigmas=True,
        num_train_timesteps=FLOW_STEPS,
        flow_shift=shift,
    )
    # diffusers' own grid ends at 1/1000 instead of 0: its last of 40 timesteps is 74, Wan's 71.
    scheduler.set_timesteps(sigmas=np.linspace(FIRST_LEVEL, 0.0, steps + 1)[:-1])
    return scheduler


def last_level(steps: int = 40, shift: float = 3.0) -> float:
    """Flow time of the last step, which is also the level a clean context is said to have."""
    return float(make_scheduler(steps, shift).timesteps[-1]) / FLOW_STEPS


def first_step(steps: int, strength: float) -> int:
    """The step at which a warm start of this strength begins: 1 starts from noise at step 0."""
    if not 0 < strength <= 1:
        raise SamplingError(f'strength {strength}; it lies above 0 and at most at 1')
    return min(steps - 1, round(steps * (1 - strength)))


@torch.inference_mode()
def sample_future(
    denoiser: Denoiser,
    context: Tensor,
    look_ahead: int,
    text: Tensor,
    negative: Tensor | None = None,
    *,
    steps: int = 40,
    shift: float = 3.0,
    text_guidance: float = 3.0,
    history_guidance: float = 2.0,
    context_level: float | Tensor | None = None,
    warm_start: Tensor | None = None,
    strength: float = 1.0,
    image: Tensor | None = None,
    generator: torch.Generator | None = None,
    batched: bool = True,
    hooks: SamplingHooks | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Sample M future latents behind Nc context latents.

    Args:
        denoiser: gives velocities.
        context: float32 [B, C, Nc, h, w], normalised latents; Nc >= 1, never copies.
        look_ahead: M >= 1.
        text: [B, L, D], or [1, L, D] for all.
        negative: likewise; needed with text guidance.
        steps: of the solver.
        shift: of its grid.
        text_guidance: g_l; 0 saves its forward pass.
        history_guidance: g_h; 0 saves its forward pass.
        context_level: flow time that the context is said to have: a number, or [Nc] or [B, Nc].
            None is that of the last step, as training slightly noises all but the first latent.
        warm_start: [B, C, M, h, w], a guess of the future, noised to the level that `strength`
            starts at.
        strength: share of the steps that are taken, 1 without a warm start.
        image: CLIP tokens [B, 257, 1280] for I2V models.
        generator: of all noise; drawn on its own device, so a seed means one plan everywhere.
        batched: all branches in one forward pass, or one after the other.
        hooks: a step cache.
        on_step: called after each step with its number.

    Returns:
        float32 [B, C, M, h, w] on the device of `context`.

    Raises:
        SamplingError: settings out of range, or shapes that do not fit each other.
    """
    if context.ndim != 5 or context.shape[2] < 1:
        raise SamplingError(f'context is {list(context.shape)}; expected [B, C, Nc >= 1, h, w]')
    if look_ahead < 1:
        raise SamplingError(f'look-ahead of {look_ahead} latents; at least 1 is needed')
    if text_guidance and negative is None:
        raise SamplingError('text guidance needs the negative words')
    scheduler = make_scheduler(steps, shift)
    b, c, n, h, w = context.shape
    device, start = context.device, 0

    def noise(*shape: int) -> Tensor:
        source = generator.device if generator is not None else device
        return torch.randn(*shape, generator=generator, device=source).to(device)

    future = noise(b, c, look_ahead, h, w)
    if warm_start is not None:
        if warm_start.shape != future.shape:
            raise SamplingError(
                f'warm start is {list(warm_start.shape)}; expected {list(future.shape)}'
            )
        start = first_step(steps, strength)
        sigma = float(scheduler.sigmas[start])
        future = (1 - sigma) * warm_start.to(future) + sigma * future
    scheduler.set_begin_index(start)

    level = float(scheduler.timesteps[-1]) / FLOW_STEPS if context_level is None else context_level
    past = torch.as_tensor(level, dtype=torch.float32, device=device).expand(b, n)
    no_past = torch.full((b, n), float(scheduler.timesteps[0]) / FLOW_STEPS, device=device)
    words = {'c': text.expand(b, -1, -1)}
    if text_guidance:
        assert negative is not None
        words['n'] = negative.expand(b, -1, -1)
    if history_guidance:
        words['h'] = words['c']
    weights = {'c': 1 + text_guidance + history_guidance, 'n': -text_guidance}
    weights['h'] = -history_guidance

    def predict(names: list[str], t: float) -> Tensor:
        """Velocities of the future, branch after branch along the batch."""
        now = torch.full((b, look_ahead), t, device=device)
        pasts = {'h': noise(b, c, n, h, w)} if 'h' in names else {}
        latents = [torch.cat([pasts.get(name, context), future], dim=2) for name in names]
        levels = [torch.cat([no_past if name == 'h' else past, now], dim=1) for name in names]
        cached = hooks.branch(''.join(names)) if hooks is not None else nullcontext()
        with cached:
            v = denoiser(torch.cat(latents), torch.cat(levels), *said[''.join(names)])
        return v[:, :, n:].float()

    if hooks is not None:
        hooks.begin(start, steps)
    names = list(words)
    # Words and picture of each forward pass: the same tensors at every step.
    said = {
        ''.join(group): (
            _joined([words[name] for name in group]),
            None if image is None else image.expand(b, -1, -1).repeat(len(group), 1, 1),
        )
        for group in ([names] if batched else [[name] for name in names])
    }
    for i, t in enumerate(scheduler.timesteps[start:], start=start):
        time = float(t) / FLOW_STEPS
        if batched:
            velocities = list(predict(names, time).chunk(len(names)))
        else:
            velocities = [predict([name], time) for name in names]
        velocity = sum(weights[name] * v for name, v in zip(names, velocities, strict=True))
        future = scheduler.step(velocity, t, future, return_dict=False)[0]
        if on_step is not None:
            on_step(i)
    if hooks is not None:
        hooks.end()
    return future


def _joined(texts: list[Tensor]) -> Tensor:
    """Along the batch; fewer words are padded with zeros, as the model would."""
    longest = max(text.shape[1] for text in texts)
    pad = torch.nn.functional.pad
    return torch.cat([pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts])


__all__ = [
    'NEGATIVE_PROMPT',
    'Denoiser',
    'SamplingError',
    'SamplingHooks',
    'first_step',
    'last_level',
    'make_scheduler',
    'sample_future',
]
