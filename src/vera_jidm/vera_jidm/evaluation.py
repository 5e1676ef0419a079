"""Held-out error of a translator over the actions' mean square, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vera_jidm import ridge as ridge_solve
from vera_jidm.dataset import AnalyticSource, Batch, EstimatedSource, ShardFolder, TransitionStore
from vera_jidm.direct import NO_FLOW, NoFlow, TrainedDirect
from vera_jidm.flow import ANALYTIC, make_flow, per_view
from vera_jidm.model import TrainedJacobian
from vera_jidm.models.convolutional import GRID

CHUNK = 50
MODES = ('paper', 'forward', 'stacked')
Trained = TrainedJacobian | TrainedDirect
Rows = NDArray[np.float64]


@dataclass
class Recovered:
    """What a model makes of B pairs.

    Attributes:
        actions: of each of the MODES, float64 [B, n], over their training deviation.
        residual: float64 [B] of the stacked solve, or None where there is no solve.
        wrong, power: sums of |J a - v|^2 and |v|^2, or None.
    """

    actions: dict[str, Rows]
    residual: Rows | None = None
    wrong: float | None = None
    power: float | None = None


def recover(model: Trained, batch: Batch, views: Tensor | None = None) -> Recovered:
    """Actions of the batch's pairs from its images and flow, in each of the MODES.

    `views` [3, h, w] is what the views let each row count (vera_jidm.views.row_weights).
    """
    if isinstance(model, TrainedDirect):
        first, second = model.recover_batch(batch)
        return Recovered({'paper': first, 'forward': first, 'stacked': (first + second) / 2})
    scales, gradient_rows = model.scales, model.net.config.gradient_rows
    a = torch.from_numpy(batch.actions / scales.action)
    systems = []
    wrong, power = 0.0, 0.0
    for images, v_px, trust, sign in (
        (batch.before, batch.flow.forward, batch.flow.weight_forward, 1),
        (batch.after, batch.flow.backward, batch.flow.weight_backward, -1),
    ):
        J, weight = model.grid(images)
        v = torch.from_numpy(v_px.astype(np.float64) / scales.flow)
        error = torch.einsum('bnchw,bn->bchw', J.double(), sign * a) - v
        wrong += float(error.square().sum())
        power += float(v.square().sum())
        seen = torch.ones_like(weight) if views is None else views.expand_as(weight)
        if sign > 0:
            plain = ridge_solve.exact_equations(J, v, seen, False)
        weight = weight * seen * torch.from_numpy(trust.astype(np.float32))[:, None]
        systems.append(ridge_solve.exact_equations(J, v, weight, gradient_rows))
    forward = systems[0]
    stacked = forward + ridge_solve.reverse(systems[1])
    solved = {
        mode: ridge_solve.solve(system, ridge=model.ridge, limit=scales.limit)
        for mode, system in zip(MODES, (plain, forward, stacked), strict=True)
    }
    return Recovered(
        {mode: solution.action.numpy() for mode, solution in solved.items()},
        solved['stacked'].residual.numpy(), wrong, power,
    )


def held_out_store(
    folder: ShardFolder, flow_id: str, flow: str, grid: int = GRID
) -> TransitionStore:
    """Held-out transitions with the flow of their clean images.

    Args:
        folder: of them.
        flow_id: of the model; 'none' needs no flow.
        flow: 'analytic' or an estimator's name.
        grid: pixels of the canvas in a cell's side.
    """
    source: AnalyticSource | EstimatedSource | NoFlow
    if flow_id == NO_FLOW:
        source = NoFlow(grid)
    elif flow == ANALYTIC:
        source = AnalyticSource(grid)
    else:
        source = EstimatedSource(per_view(make_flow(flow), folder.views, *folder.canvas), grid)
    return TransitionStore(folder, source, 1, 0)


def evaluate(
    model: Trained,
    folder: ShardFolder,
    flow: str,
    *,
    most: int | None = None,
    seed: int = 0,
    views: Tensor | None = None,
    store: TransitionStore | None = None,
) -> dict[str, Any]:
    """Mean square error of the recovered actions, over the mean square of each channel's actions.

    1.0 is what predicting zero gives. `paper` is Eq. 6 with J(o_t) and the forward flow alone,
    every row alike; `forward` weighs its rows and adds the gradient rows; `stacked` solves over
    both frames. A direct network answers (o_t, forward flow) in the first two and averages both
    directions of time in the third. The flow is of the clean images.

    Args:
        model: trained.
        folder: held-out transitions.
        flow: 'analytic' or an estimator's name; a model that sees no flow ignores it.
        most: use the first so many transitions only.
        seed: of the bootstrap.
        views: [3, h, w], what the views let each row of the solve count; everything counts unless
            given.
        store: from `held_out_store`, to read the transitions once only.

    Returns:
        n, flow_id, mse_<mode>, mse_<mode>_ci (95%, bootstrap over transitions), mse_<mode>_median,
        mse_<mode>_channels, relative_flow (|J a - v|^2 / |v|^2), residual_p50 and residual_p95 of
        the stacked solve; the last three are None for a direct network, which has no Jacobian.
    """
    store = store or held_out_store(folder, model.flow_id, flow, model.net.config.grid)
    rows = np.concatenate(
        [
            np.stack([np.full(n, s), np.arange(n)], axis=1)
            for s, n in enumerate(folder.lengths)
        ]
    )[:most]
    # A channel that never moves here is measured in the units of the training.
    unit = model.scales.action / np.where(
        folder.action_scale > 0, folder.action_scale, model.scales.action
    )
    squared: dict[str, list[Rows]] = {mode: [] for mode in MODES}
    residual: list[Rows] = []
    wrong, power = 0.0, 0.0
    for start in range(0, len(rows), CHUNK):
        batch = store.gather(rows[start : start + CHUNK])
        a = batch.actions / model.scales.action
        found = recover(model, batch, views)
        for mode, actions in found.actions.items():
            squared[mode].append(np.square((actions - a) * unit))
        if found.residual is not None:
            residual.append(found.residual)
            wrong += found.wrong or 0.0
            power += found.power or 0.0
    out: dict[str, Any] = {'n': len(rows), 'flow_id': store.flow_id}
    rng = np.random.default_rng(seed)
    for mode, parts in squared.items():
        errors = np.concatenate(parts)
        each = errors.mean(1)
        picks = rng.integers(0, len(each), (2000, len(each)))
        low, high = np.percentile(each[picks].mean(1), [2.5, 97.5])
        out[f'mse_{mode}'] = float(each.mean())
        out[f'mse_{mode}_ci'] = [float(low), float(high)]
        out[f'mse_{mode}_median'] = float(np.median(each))
        out[f'mse_{mode}_channels'] = [float(x) for x in errors.mean(0)]
    out |= dict.fromkeys(('relative_flow', 'residual_p50', 'residual_p95'))
    if residual:
        out['relative_flow'] = wrong / max(power, 1e-30)
        of = np.concatenate(residual)
        out['residual_p50'], out['residual_p95'] = (float(x) for x in np.percentile(of, [50, 95]))
    return out
