"""What the networks are trained on: Eq. 5 for the J-IDM, action error for the direct ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_jidm import ridge as ridge_solve
from vera_jidm.dataset import Batch
from vera_jidm.direct import DirectConfig, TrainedDirect, flow_rows, pair_images
from vera_jidm.model import Scales, TrainedJacobian
from vera_jidm.recipe import TrainingConfig

# The network, in the precision of the training.
Run = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """A batch as a loss wants it.

    Attributes:
        before, after: augmented images, [B, 3, H, W], 0..1.
        a: [B, n], actions over their training deviation.
        batch: where they are from; its flow is on the grid, px.
    """

    before: Tensor
    after: Tensor
    a: Tensor
    batch: Batch


class JacobianObjective:
    """Eq. 5, both directions of time."""

    def __init__(self, config: TrainingConfig, scales: Scales) -> None:
        self.config, self.scales = config, scales

    def __call__(self, net: Run, sample: Sample, step: int) -> dict[str, Tensor]:
        """The terms of the loss at a step; 'loss' is their sum."""
        config, flow = self.config, sample.batch.flow
        J, weight = net(torch.cat([sample.before, sample.after]))
        v_px = np.concatenate([flow.forward, flow.backward])
        v = torch.from_numpy(v_px.astype(np.float32) / self.scales.flow)
        trust = np.concatenate([flow.weight_forward, flow.weight_backward])
        weight = weight * torch.from_numpy(trust.astype(np.float32))[:, None]
        signed = torch.cat([sample.a, -sample.a])

        error = torch.einsum('bnchw,bn->bchw', J, signed) - v
        flow_loss = ((error.square() + config.epsilon**2).sqrt() - config.epsilon).mean()
        with torch.no_grad():
            relative = error.square().sum() / v.square().sum()
        total = config.flow_weight * flow_loss
        out = {'flow': flow_loss, 'relative_flow': relative}
        strength = config.action_term(step)
        if strength > 0:
            action_loss = self._action_loss(J, v, weight, sample.a)
            total = total + strength * action_loss / (1 + 0.3 * action_loss.detach())
            out['action'] = action_loss
        return {'loss': total, **out}

    def _action_loss(self, J: Tensor, v: Tensor, weight: Tensor, a: Tensor) -> Tensor:
        """Mean square error of the solve: each direction alone, and both stacked."""
        n = len(a)
        both = ridge_solve.image_equations(J, v, weight, self.config.gradient_rows)
        first = ridge_solve.NormalEquations(*(x[:n] for x in _fields(both)))
        second = ridge_solve.reverse(
            ridge_solve.NormalEquations(*(x[n:] for x in _fields(both)))
        )
        return _mix(
            [
                (ridge_solve.solve(e, ridge=self.config.ridge).action - a).square().mean()
                for e in (first, second, first + second)
            ]
        )

    def model(self, net: Any, flow_id: str) -> TrainedJacobian:
        """The network as a model."""
        return TrainedJacobian(net, self.scales, flow_id, self.config.ridge)


class DirectObjective:
    """Error of the action of a direct network, both directions of time."""

    def __init__(self, config: TrainingConfig, scales: Scales, network: DirectConfig) -> None:
        self.config, self.scales, self.network = config, scales, network

    def __call__(self, net: Run, sample: Sample, step: int) -> dict[str, Tensor]:
        """'loss' as configured; 'action' is the mean square error, whatever the loss is."""
        images = pair_images(self.network, sample.before, sample.after)
        rows, f = None, sample.batch.flow
        if self.network.sees_flow:
            rows = flow_rows(
                (f.forward, f.backward), (f.weight_forward, f.weight_backward), self.scales.flow
            )
        first, second = net(images, rows).chunk(2)
        pairs = [(first, sample.a), (second, -sample.a), ((first - second) / 2, sample.a)]
        square = _mix([F.mse_loss(*pair) for pair in pairs])
        if self.config.direct_loss == 'mse':
            return {'loss': square, 'action': square}
        return {'loss': _mix([F.smooth_l1_loss(*p) for p in pairs]), 'action': square}

    def model(self, net: Any, flow_id: str) -> TrainedDirect:
        """The network as a model."""
        return TrainedDirect(net, self.scales, flow_id)


Objective = JacobianObjective | DirectObjective


def _mix(errors: list[Tensor]) -> Tensor:
    """Forward alone, backward alone, and both together, which counts as much as those two."""
    return (errors[0] + errors[1]) / 4 + errors[2] / 2


def _fields(e: ridge_solve.NormalEquations) -> tuple[Tensor, ...]:
    return e.A, e.b, e.c, e.s, e.dropped
