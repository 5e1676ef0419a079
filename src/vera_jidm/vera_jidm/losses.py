"""What the networks are trained on: Eq. 5 for the J-IDM, action error for the direct ones.

Eq. 5 sums over pixels. `reduction='sum'` does that (over cells and both components, mean over the
batch); 'mean', the default as in the authors' code, is that sum over 2 h w, so `flow_weight` means
the same at every resolution. The other options are practical variants of the authors' code (image
Jacobian trainer): weights of moving pixels, balance of views, a robust inverse term, flow
gradients, edge-aware total variation of J, and confidence; and a teacher, which is ours.
"""

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
from vera_jidm.direct import DirectConfig, TrainedDirect, pair_images
from vera_jidm.model import Scales, TrainedJacobian
from vera_jidm.recipe import TrainingConfig

# The network, in the precision of the training.
Run = Callable[..., Any]
# Mean over the processes that share a batch.
Mean = Callable[[Tensor], Tensor]
# Analytic J of both frames of a batch, [2 B, n, 2, h, w], px per unit of each channel.
Teacher = Callable[[Batch], Tensor]

# Recovered actions beyond this [training deviations] say only that they are far off.
_FAR = 10.0


@dataclass(frozen=True)
class Sample:
    """A batch as a loss wants it; everything twice is o_t with forward flow, then o_t+1, backward.

    Attributes:
        before, after: augmented images, [B, 3, H, W], 0..1.
        a: [B, n], actions over their training deviation.
        v: [2 B, 2, h, w], flow over its training rms.
        trust: [2 B, h, w], the estimator's weights, 0..1.
        batch: where they are from.
    """

    before: Tensor
    after: Tensor
    a: Tensor
    v: Tensor
    trust: Tensor
    batch: Batch

    @classmethod
    def of(
        cls, images: Tensor, batch: Batch, scales: Scales, device: str | torch.device = 'cpu'
    ) -> Sample:
        """From a batch and its augmented images [2 B, 3, H, W]."""
        flow = batch.flow
        motion = np.concatenate([flow.forward, flow.backward]).astype(np.float32) / scales.flow
        weights = np.concatenate([flow.weight_forward, flow.weight_backward])
        actions = batch.actions / scales.action.astype(np.float32)
        a, v, trust = (
            torch.from_numpy(x.astype(np.float32)).to(device) for x in (actions, motion, weights)
        )
        before, after = images.to(device).chunk(2)
        return cls(before, after, a, v, trust, batch)


class JacobianObjective:
    """Eq. 5, both directions of time.

    Args:
        config: which terms, and their weights.
        scales: of the network's units.
        views: [V, h, w], 1 where a cell belongs to a view; one view of everything unless given.
        rows: [3, h, w], what the views let each row of the solve count; likewise.
        teacher: of J, needed when `config.teacher` > 0.
        mean: over the processes that share a batch.
    """

    def __init__(
        self,
        config: TrainingConfig,
        scales: Scales,
        *,
        views: Tensor | None = None,
        rows: Tensor | None = None,
        teacher: Teacher | None = None,
        mean: Mean = lambda x: x,
    ) -> None:
        if config.teacher > 0 and teacher is None:
            raise ValueError('a teacher term needs an analytic Jacobian')
        self.config, self.scales = config, scales
        self.views, self.teacher, self.mean = views, teacher, mean
        self.rows = None if rows is None or bool((rows == 1).all()) else rows

    def __call__(self, net: Run, sample: Sample, step: int) -> dict[str, Tensor]:
        """The terms of the loss at a step; 'loss' is their weighted sum."""
        config, v = self.config, sample.v
        images = torch.cat([sample.before, sample.after])
        J, learned = net(images)
        weight = learned * sample.trust[:, None]
        if self.rows is not None:
            weight = weight * self.rows
        signed = torch.cat([sample.a, -sample.a])
        predicted = torch.einsum('bnchw,bn->bchw', J, signed)
        error = predicted - v
        out = {'flow': self._flow_loss(error, v)}
        total = config.flow_weight * out['flow']
        with torch.no_grad():
            out['relative_flow'] = error.square().sum() / v.square().sum()
        if config.flow_gradient > 0:
            out['flow_gradient'] = gradient_loss(predicted, v, self.views, config.epsilon)
            total = total + config.flow_gradient * out['flow_gradient']
        if config.smoothness > 0:
            out['smoothness'] = edge_aware_variation(J, images, config.edge_beta)
            total = total + config.smoothness * out['smoothness']
        if config.confidence > 0:
            distance = penalty(error, config.flow_loss, config.epsilon).mean(1)
            out['confidence'] = confidence_loss(learned[:, 0], distance, config.confidence)
            total = total + out['confidence']
        if config.teacher > 0 and self.teacher is not None:
            unit = torch.from_numpy(self.scales.action / self.scales.flow).to(J)
            wanted = self.teacher(sample.batch).to(J) * unit[:, None, None, None]
            out['teacher'] = penalty(J - wanted, 'charbonnier', config.epsilon).mean()
            total = total + config.teacher * out['teacher']
        strength = config.action_term(step)
        if strength > 0:
            out['action'] = self._action_loss(J, v, weight, sample.a)
            ceiling = self.mean(out['action'].detach())
            total = total + strength * out['action'] / (1 + 0.3 * ceiling)
        return {'loss': total, **out}

    def _flow_loss(self, error: Tensor, v: Tensor) -> Tensor:
        config = self.config
        each = penalty(error, config.flow_loss, config.epsilon).mean(1)
        views = self._views(v)
        if config.balance_views:
            loss = balanced(
                each, v, views, config.moving_threshold, config.min_active,
                config.max_view_weight, self.mean,
            )
        else:
            weights = moving_weights(v, config.moving_weight, config.moving_threshold, views)
            loss = each.mean() if weights is None else (
                (each * weights).mean() / self.mean(weights.mean()).clamp_min(1e-6)
            )
        return loss * (v[0].numel() if config.reduction == 'sum' else 1)

    def _views(self, v: Tensor) -> Tensor:
        return v.new_ones(1, *v.shape[2:]) if self.views is None else self.views

    def _action_loss(self, J: Tensor, v: Tensor, weight: Tensor, a: Tensor) -> Tensor:
        """Error of the solve: each direction alone, and both stacked."""
        n, ridge = len(a), self.config.ridge
        both = ridge_solve.image_equations(J, v, weight, self.config.gradient_rows)
        first = ridge_solve.NormalEquations(*(x[:n] for x in _fields(both)))
        second = ridge_solve.reverse(
            ridge_solve.NormalEquations(*(x[n:] for x in _fields(both)))
        )
        return _mix(
            [
                inverse_loss(ridge_solve.solve(e, ridge=ridge).action, a, self.config.inverse_loss)
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
        rows = None
        if self.network.sees_flow:
            rows = torch.cat([sample.v, sample.trust[:, None]], dim=1)
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


def penalty(error: Tensor, kind: str, epsilon: float) -> Tensor:
    """Rho of Eq. 5, elementwise: 'charbonnier', zero at zero, or 'mse'."""
    if kind == 'mse':
        return error.square()
    return (error.square() + epsilon**2).sqrt() - epsilon


def moving_weights(
    v: Tensor, weight: float, threshold: float, views: Tensor
) -> Tensor | None:
    """Weight of each cell in the flow term, [B, h, w]; None where all are one.

    Args:
        v: [B, 2, h, w], flow over its rms.
        weight: of the cells where |v| exceeds the threshold; the others have 1.
        threshold: in multiples of the flow's rms.
        views: [V, h, w]; cells of no view (black padding) have weight 0.
    """
    inside = views.amax(0)
    if weight == 1 and bool((inside == 1).all()):
        return None
    moving = v.square().sum(1).sqrt() > threshold
    return torch.where(moving, weight, 1.0) * inside


def balanced(
    each: Tensor,
    v: Tensor,
    views: Tensor,
    threshold: float,
    min_active: float,
    max_weight: float,
    mean: Mean = lambda x: x,
) -> Tensor:
    """Mean over views of the loss over moving cells, each view weighed by its share of stillness.

    A view's weight is 1 over its share of moving cells, that share at least `min_active`, the
    weight at most `max_weight`; weights are then divided by their mean. A view where nothing moves
    counts with all its cells.

    Args:
        each: [B, h, w], loss of each cell.
        v: [B, 2, h, w], flow over its rms.
        views: [V, h, w], 0 or 1.
        threshold: of |v|, in multiples of the flow's rms.
        min_active: see above.
        max_weight: see above.
        mean: over the processes that share a batch.
    """
    moving = (v.square().sum(1).sqrt() > threshold).to(each.dtype)
    active = torch.einsum('bhw,vhw->v', moving, views)
    cells = views.sum((1, 2)) * len(v)
    active = mean(active)
    everything = (active == 0).to(each.dtype)
    chosen = torch.einsum('bhw,vhw->v', each * moving, views)
    fallback = torch.einsum('bhw,vhw->v', each, views)
    losses = torch.where(active > 0, chosen, fallback) / (active + everything * cells)
    weights = (1 / (active / cells).clamp_min(min_active)).clamp_max(max_weight)
    return (losses * weights / weights.mean()).mean()


def gradient_loss(
    predicted: Tensor, v: Tensor, views: Tensor | None, epsilon: float
) -> Tensor:
    """Charbonnier of the difference of flow gradients between neighbouring cells, x and y.

    Args:
        predicted: [B, 2, h, w].
        v: [B, 2, h, w].
        views: [V, h, w]; neighbours of different views do not count. None: all do.
        epsilon: of Charbonnier.
    """
    error = predicted - v
    total = error.new_zeros(())
    for axis in (2, 3):
        size = error.shape[axis] - 1
        d = error.narrow(axis, 1, size) - error.narrow(axis, 0, size)
        each = penalty(d, 'charbonnier', epsilon)
        if views is not None:
            k = axis - 1
            same = (views.narrow(k, 1, size) * views.narrow(k, 0, size)).amax(0)
            each = each * same / same.mean().clamp_min(1e-6)
        total = total + each.mean()
    return total


def edge_aware_variation(J: Tensor, images: Tensor, beta: float) -> Tensor:
    """Mean |difference of J| between neighbouring cells, x and y, less across edges of the picture.

    Each difference counts exp(-beta |difference of the picture|), mean over the colours.

    Args:
        J: [B, n, 2, h, w].
        images: [B, 3, H, W], 0..1; averaged over the cells.
        beta: 0 = plain total variation.
    """
    small = F.adaptive_avg_pool2d(images, (J.shape[3], J.shape[4]))
    total = J.new_zeros(())
    for axis in (-1, -2):
        size = J.shape[axis] - 1
        d = (J.narrow(axis, 1, size) - J.narrow(axis, 0, size)).abs()
        edge = (small.narrow(axis, 1, size) - small.narrow(axis, 0, size)).abs().mean(1)
        total = total + (d * torch.exp(-beta * edge)[:, None, None]).mean()
    return total


def confidence_loss(confidence: Tensor, distance: Tensor, weight: float) -> Tensor:
    """Aleatoric term, mean of conf * r - weight * log conf; least at conf = weight / r.

    Args:
        confidence: [B, h, w] > 0, clamped by the network: unclamped it grew without bound for the
            authors.
        distance: [B, h, w], r >= 0.
        weight: of the logarithm.
    """
    return (confidence * distance).mean() - weight * confidence.log().mean()


def inverse_loss(found: Tensor, a: Tensor, kind: str) -> Tensor:
    """Error of recovered actions [B, n]: 'mse', or 'smooth_l1' (beta 1) of what is not far off."""
    if kind == 'mse':
        return (found - a).square().mean()
    safe = torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0).clamp(-_FAR, _FAR)
    return F.smooth_l1_loss(safe, a)


def _mix(errors: list[Tensor]) -> Tensor:
    """Forward alone, backward alone, and both together, which counts as much as those two."""
    return (errors[0] + errors[1]) / 4 + errors[2] / 2


def _fields(e: ridge_solve.NormalEquations) -> tuple[Tensor, ...]:
    return e.A, e.b, e.c, e.s, e.dropped
