"""Held-out error of a J-IDM, in units of the actions' variance, with bootstrap intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vera_jidm import ridge as ridge_solve
from vera_jidm.dataset import AnalyticSource, EstimatedSource, ShardFolder, TransitionStore
from vera_jidm.flow import ANALYTIC, make_flow
from vera_jidm.model import TrainedJacobian
from vera_jidm.models.convolutional import GRID

CHUNK = 50


def evaluate(
    model: TrainedJacobian,
    folder: ShardFolder,
    flow: str,
    *,
    most: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean square error of the recovered actions over unit-variance actions.

    1.0 is what predicting zero gives. `paper` is Eq. 6 with J(o_t) alone, `stacked` uses both
    frames. The flow is of the clean images.

    Args:
        model: trained.
        folder: held-out transitions.
        flow: 'analytic' or an estimator's name.
        most: use the first so many transitions only.
        seed: of the bootstrap.

    Returns:
        n, mse_<mode>, mse_<mode>_ci (95%, bootstrap over transitions), mse_<mode>_channels,
        relative_flow (|J a - v|^2 / |v|^2), residual_p50 and residual_p95 of the stacked solve.
    """
    source = (
        AnalyticSource(GRID) if flow == ANALYTIC else EstimatedSource(make_flow(flow), GRID)
    )
    store = TransitionStore(folder, source, 1, 0)
    rows = np.concatenate(
        [
            np.stack([np.full(n, s), np.arange(n)], axis=1)
            for s, n in enumerate(folder.lengths)
        ]
    )[:most]
    squared: dict[str, list[NDArray[np.float64]]] = {'paper': [], 'stacked': []}
    residual: list[NDArray[np.float64]] = []
    wrong, power = 0.0, 0.0
    scales = model.scales
    for start in range(0, len(rows), CHUNK):
        batch = store.gather(rows[start : start + CHUNK])
        a = torch.from_numpy(batch.actions / scales.action)
        equations = []
        for images, v_px, trust, sign in (
            (batch.before, batch.flow.forward, batch.flow.weight_forward, 1),
            (batch.after, batch.flow.backward, batch.flow.weight_backward, -1),
        ):
            J, weight = (x.double() for x in model.grid(images))
            v = torch.from_numpy(v_px.astype(np.float64) / scales.flow)
            weight = weight * torch.from_numpy(trust.astype(np.float64))[:, None]
            error = torch.einsum('bnchw,bn->bchw', J, sign * a) - v
            wrong += float(error.square().sum())
            power += float(v.square().sum())
            rows_of = ridge_solve.image_equations(J, v, weight, model.net.config.gradient_rows)
            equations.append(rows_of if sign > 0 else ridge_solve.reverse(rows_of))
        for mode, system in (('paper', equations[0]), ('stacked', equations[0] + equations[1])):
            solution = ridge_solve.solve(system, ridge=model.ridge, limit=scales.limit)
            squared[mode].append((solution.action - a).square().numpy())
            if mode == 'stacked':
                residual.append(solution.residual.numpy())
    out: dict[str, Any] = {'n': len(rows), 'flow_id': source.flow_id}
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
    out['relative_flow'] = wrong / max(power, 1e-30)
    of = np.concatenate(residual)
    out['residual_p50'], out['residual_p95'] = (float(x) for x in np.percentile(of, [50, 95]))
    return out
