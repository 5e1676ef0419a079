"""What decides the outcome of a training, besides its data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from vera_jidm.augment import Augmentation

TRANSLATORS = ('jacobian', 'direct_flow', 'direct_pair')
_CHOICES = {
    'translator': TRANSLATORS,
    'direct_head': ('flatten', 'votes'),
    'direct_loss': ('mse', 'smooth_l1'),
    'optimizer': ('muon', 'adamw'),
    'head': ('pixel', 'affine'),
    'scales': ('rms', 'p90'),
    'reduction': ('mean', 'sum'),
    'flow_loss': ('charbonnier', 'mse'),
    'inverse_loss': ('mse', 'smooth_l1'),
    'device': ('cpu', 'cuda'),
    'precision': ('bfloat16', 'float16', 'float32'),
}


class TrainingError(ValueError):
    """A training that cannot start, resume or go on; the message says what to change."""


@dataclass(frozen=True)
class TrainingConfig:
    """What decides the outcome of a training, besides its data.

    Attributes:
        flow: an estimator of vera_jidm.flow.make_flow ('dis', 'dis_lk', ...) or 'analytic'.
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
        scales: of actions and flow: 'rms' over everything, or 'p90' of what moves (authors' code).
        reduction, flow_loss: of the flow term: 'mean' or 'sum' (Eq. 5; 2 h w times the mean),
            'charbonnier' or 'mse'.
        moving_weight: of moving cells in the flow term (authors: 8); moving_threshold: of |v|,
            in normalised flow, above which a cell moves.
        balance_views: flow term over moving cells, views weighed by how little moves in them;
            min_active, max_view_weight: bounds of those weights.
        inverse_loss: 'mse', or 'smooth_l1' of actions clamped to 10 deviations (authors' code).
        flow_gradient, smoothness, confidence, teacher: weights of further terms of the J-IDM's
            loss, 0 = off: gradients of the flow (authors: 0.25), edge-aware total variation of J
            (0.05, with edge_beta 10), the logarithm of the confidence (1; the network then predicts
            one in place of the weight of its value rows), analytic J (needs a calibrated contract).
        ridge: relative ridge of the solve.
        gradient_rows: whether differences of J and v are rows too.
        ema: decay of the averaged weights that are kept.
        photometric: strength of all augmentation of the network's images, 0 = none; times colour,
            blur, noise, latent and jpeg, that of each kind, see vera_jidm.augment.
        degrade: share of the pairs whose flow is estimated on blurred, noisy copies.
        early_stop: end when the held-out error has not fallen at so many evaluations in a row, and
            keep the best averaged weights; 0 = off.
        accumulate: parts of a batch whose gradients are added up, for small memories.
        device: 'cpu' or 'cuda'.
        precision: of the convolutions; 'bfloat16' is 1.5 times faster where the CPU has it,
            'float16' scales its losses and needs CUDA.
        family: of the J-IDM's network, see vera_jidm.models; network: further fields of its config.
        stem, widths, head: of the convolutional one, see NetworkConfig.
        threads: of PyTorch.
        evaluate_every, save_every: steps between points of the curve, and between states.
    """

    flow: str = 'dis'
    translator: str = 'jacobian'
    direct_head: str = 'flatten'
    direct_frames: int = 0
    direct_loss: str = 'mse'
    steps: int = 1200
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
    scales: str = 'rms'
    reduction: str = 'mean'
    flow_loss: str = 'charbonnier'
    moving_weight: float = 1.0
    moving_threshold: float = 0.02
    balance_views: bool = False
    min_active: float = 0.01
    max_view_weight: float = 5.0
    inverse_loss: str = 'mse'
    flow_gradient: float = 0.0
    smoothness: float = 0.0
    edge_beta: float = 10.0
    confidence: float = 0.0
    teacher: float = 0.0
    ridge: float = 5e-5
    gradient_rows: bool = True
    ema: float = 0.995
    photometric: float = 1.0
    colour: float = 1.0
    blur: float = 1.0
    noise: float = 1.0
    latent: float = 0.0
    jpeg: float = 0.0
    degrade: float = 0.25
    early_stop: int = 0
    accumulate: int = 1
    device: str = 'cpu'
    precision: str = 'bfloat16'
    family: str = 'convolutional'
    network: dict[str, Any] = field(default_factory=dict)
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
        for name in ('steps', 'batch', 'threads', 'evaluate_every', 'save_every', 'accumulate'):
            if getattr(self, name) < 1:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must be at least 1')
        for name in ('rate', 'epsilon', 'ridge', 'clip', 'moving_weight', 'min_active'):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must be positive')
        for name in ('flow_weight', 'action_weight', 'moving_threshold', 'flow_gradient',
                     'smoothness', 'edge_beta', 'confidence', 'teacher', 'early_stop'):
            if not 0 <= getattr(self, name) < math.inf:
                raise TrainingError(f'{name} is {getattr(self, name)}; it cannot be negative')
        for name in ('warm_up', 'degrade', 'ema'):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must lie in 0..1')
        if self.max_view_weight < 1:
            raise TrainingError(f'max_view_weight is {self.max_view_weight}; it must be at least 1')
        if self.batch % self.accumulate:
            raise TrainingError(
                f'a batch of {self.batch} cannot be accumulated from {self.accumulate} equal parts'
            )
        if self.precision == 'float16' and self.device != 'cuda':
            raise TrainingError('precision float16 needs device cuda; take bfloat16 or float32')
        try:
            _ = self.augmentation
        except ValueError as error:
            raise TrainingError(str(error)) from error

    @property
    def augmentation(self) -> Augmentation:
        """Of the network's images."""
        each = (self.colour, self.blur, self.noise, self.latent, self.jpeg)
        return Augmentation(*(self.photometric * strength for strength in each))

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


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Fields of a recipe from texts like 'rate=5e-4', 'widths=16,32,64' or 'balance_views=true'.

    Raises:
        TrainingError: no such field, or a value of another type; it names the field.
    """
    out: dict[str, Any] = {}
    defaults = {f.name: getattr(TrainingConfig(), f.name) for f in fields(TrainingConfig)}
    for pair in pairs:
        name, found, text = pair.partition('=')
        name = name.strip().replace('-', '_')
        if not found or name not in defaults:
            known = ', '.join(defaults)
            raise TrainingError(f'no setting {pair!r}; write FIELD=VALUE with a field of {known}')
        kind = type(defaults[name])
        try:
            if kind is bool:
                out[name] = {'true': True, 'false': False}[text.strip().lower()]
            elif kind is tuple:
                out[name] = tuple(int(x) for x in text.split(','))
            elif kind is dict:
                out[name] = dict(json.loads(text))
            else:
                out[name] = kind(text)
        except (ValueError, KeyError, TypeError) as error:
            wanted = {tuple: 'whole numbers with commas', dict: 'a JSON object', bool: 'true or '
                      'false', int: 'a whole number', float: 'a number'}[kind]
            raise TrainingError(f'{name} is {text!r}; it must be {wanted}') from error
    return out
