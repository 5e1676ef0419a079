"""Muon for the weight matrices, AdamW for the rest, as one optimiser.

Muon (K. Jordan et al., 2024) replaces the momentum of a weight matrix by the nearest orthogonal
one, so that every direction of the matrix learns at the same pace. On these small networks it has
a third of AdamW's error after 400 steps (docs/results/finger_study.md). PyTorch's own
takes no convolutions and no mixture with AdamW, and a training's state is one optimiser's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz iteration towards the orthogonal factor; coefficients of the paper.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# An orthogonal step of an m x n matrix has this rms over sqrt(max(m, n)): about AdamW's.
_RMS = 0.2
# Smaller matrices, such as the last layer for a few channels, are AdamW's: a matrix with few rows
# has no directions to balance, and the gain is too much for it.
_SMALLEST = 600


class MuonAdamW(torch.optim.Optimizer):
    """Muon on matrices (convolutions too) of more than 600 numbers, AdamW on the rest.

    Args:
        parameters: to train.
        lr: of AdamW; Muon's is `gain` times that, with steps scaled to the size of AdamW's.
        gain: see lr.
        momentum: of Muon, Nesterov.
        betas, eps: of AdamW.
        weight_decay: of AdamW; Muon's is `matrix_decay`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        *,
        gain: float = 10.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
        matrix_decay: float = 1e-2,
    ) -> None:
        every = [p for p in parameters if p.requires_grad]
        matrices = [p for p in every if p.ndim >= 2 and p.numel() > _SMALLEST]
        rest = [p for p in every if p.ndim < 2 or p.numel() <= _SMALLEST]
        groups = [
            {'params': matrices, 'matrix': True, 'gain': gain, 'weight_decay': matrix_decay},
            {'params': rest, 'matrix': False, 'gain': 1.0, 'weight_decay': weight_decay},
        ]
        defaults = {'lr': lr, 'momentum': momentum, 'betas': betas, 'eps': eps}
        super().__init__([g for g in groups if g['params']], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; `closure` is not supported."""
        if closure is not None:
            raise ValueError('this optimiser takes no closure')
        for group in self.param_groups:
            update = self._orthogonal if group['matrix'] else self._adam
            rate = group['lr'] * group['gain']
            for p in group['params']:
                if p.grad is not None:
                    p.mul_(1 - rate * group['weight_decay'])
                    p.add_(update(p, group), alpha=-rate)

    def _orthogonal(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if not state:
            state['momentum'] = torch.zeros_like(p)
        momentum: Tensor = state['momentum']
        momentum.lerp_(p.grad, 1 - group['momentum'])  # type: ignore[arg-type]
        ahead = p.grad.lerp(momentum, group['momentum'])  # type: ignore[union-attr]
        step = orthogonalize(ahead.flatten(1))
        return step.view_as(p) * (_RMS * max(step.shape) ** 0.5)

    def _adam(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if not state:
            state.update(
                step=torch.zeros(()), mean=torch.zeros_like(p), square=torch.zeros_like(p)
            )
        state['step'] += 1
        first, second = group['betas']
        state['mean'].lerp_(p.grad, 1 - first)
        state['square'].lerp_(p.grad.square(), 1 - second)  # type: ignore[union-attr]
        t = float(state['step'])
        root = (state['square'] / (1 - second**t)).sqrt_().add_(group['eps'])
        return state['mean'] / (1 - first**t) / root


def orthogonalize(matrix: Tensor) -> Tensor:
    """About U V' of the singular value decomposition U S V'; singular values in 0.7..1.2.

    Args:
        matrix: [m, n]; zero stays zero.
    """
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
