"""What decides the outcome of a training, besides its data."""

from __future__ import annotations

import math
from dataclasses import dataclass

TRANSLATORS = ('jacobian', 'direct_flow', 'direct_pair')
_CHOICES = {
    'translator': TRANSLATORS,
    'direct_head': ('flatten', 'votes'),
    'direct_loss': ('mse', 'smooth_l1'),
    'optimizer': ('muon', 'adamw'),
    'head': ('pixel', 'affine'),
}


class TrainingError(ValueError):
    """A training that cannot start, resume or go on; the message says what to change."""


@dataclass(frozen=True)
class TrainingConfig:
    """What decides the outcome of a training, besides its data.

    Attributes:
        flow: 'dis', 'farneback' or 'analytic'.
        translator: 'jacobian', or the baselines 'direct_flow' and 'direct_pair'.
        direct_head, direct_frames: of the baselines, see vera_jidm.direct; 0 frames = as in the
            paper.
        direct_loss: 'mse' or 'smooth_l1' of their actions.
        steps, batch: optimiser steps, and pairs in each (two images a pair).
        seed: of weights, order and augmentation.
        optimizer: 'muon' (vera_jidm.optimizer) or 'adamw', which wants twice the rate.
        rate: peak learning rate of the one-cycle schedule; decay: of AdamW; clip: gradient norm.
        flow_weight, action_weight: of the two terms (w_a of Eq. 5).
        warm_up: share of the training without the action term; it is ramped in over as much again,
            twice.
        epsilon: of Charbonnier, in normalised flow.
        ridge: relative ridge of the solve.
        gradient_rows: whether differences of J and v are rows too.
        ema: decay of the averaged weights that are kept.
        photometric: strength of gain, offset, noise and blur on the network's images, 0 = none.
        degrade: share of the pairs whose flow is estimated on blurred, noisy copies.
        bfloat16: whether the convolutions run in bfloat16, 1.6 times faster where the CPU has it.
        stem, widths, head: of the network, see NetworkConfig.
        threads: of PyTorch.
        evaluate_every, save_every: steps between points of the curve, and between states.
    """

    flow: str = 'dis'
    translator: str = 'jacobian'
    direct_head: str = 'flatten'
    direct_frames: int = 0
    direct_loss: str = 'mse'
    steps: int = 2500
    batch: int = 32
    seed: int = 0
    optimizer: str = 'muon'
    rate: float = 1e-3
    decay: float = 1e-4
    clip: float = 1.0
    flow_weight: float = 2.0
    action_weight: float = 0.3
    warm_up: float = 0.1
    epsilon: float = 0.05
    ridge: float = 5e-5
    gradient_rows: bool = True
    ema: float = 0.995
    photometric: float = 1.0
    degrade: float = 0.25
    bfloat16: bool = True
    stem: int = 16
    widths: tuple[int, ...] = (32, 64, 128)
    head: str = 'affine'
    threads: int = 1
    evaluate_every: int = 250
    save_every: int = 250

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise TrainingError(
                    f'no {name} {getattr(self, name)!r}; there are {", ".join(known)}'
                )
        for name in ('steps', 'batch', 'threads', 'evaluate_every', 'save_every'):
            if getattr(self, name) < 1:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must be at least 1')
        for name in ('rate', 'epsilon', 'ridge', 'clip'):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must be positive')
        for name in ('warm_up', 'degrade', 'ema'):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must lie in 0..1')

    def learning_rate(self, step: int) -> float:
        """One cycle: cosine up over 15% of the training, cosine down to nearly nothing."""
        up = max(1.0, 0.15 * self.steps)
        if step < up:
            return self.rate * (0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * step / up)))
        share = min(1.0, (step - up) / max(1.0, self.steps - up))
        return self.rate * (1e-3 + (1 - 1e-3) * (0.5 + 0.5 * math.cos(math.pi * share)))

    def action_term(self, step: int) -> float:
        """w_a at this step: 0, a linear ramp, then `action_weight`."""
        begin, ramp = self.warm_up * self.steps, 2 * self.warm_up * self.steps
        if ramp == 0:
            return self.action_weight
        return self.action_weight * min(1.0, max(0.0, (step - begin) / ramp))
