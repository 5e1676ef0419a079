"""The ridge solve from flow to action (Eq. 4-6), as normal equations that can be stacked.

For one frame pair, J(o_t) a = v is a tall linear system: two rows a pixel, n unknowns. Only
A = J'WJ, b = J'Wv, c = v'Wv and the sum of W are kept, so stacking systems is adding them:
 - `paper` mode: Eq. 6 as it stands, the rows of J(o_t) and the forward flow, all alike; only rows
   that are no numbers, or of no view, are left out;
 - `stacked` mode, our extension: rows weighted by the network and by the flow's own consistency,
   and also J(o_t+1) a = -flow(o_t+1 -> o_t). The second-order terms of both halves have opposite
   signs and cancel;
 - gradient rows, our extension, in `stacked` mode: finite differences of J and of v over two
   cells. Errors of J are smooth along a link, so differences lose them; what they see is the
   rotation of the link.

Training differentiates `image_equations`. Everything else uses `exact_equations`: the same sums in
float64, so that not even a ridge of 1e-6 turns the rounding of J'WJ into an error of the action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vera_jidm.gram import row_sums

MODES = ('stacked', 'paper')
GRADIENT_GAIN = 4.0
# In normalised units J is of order one: below this, J'WJ says nothing about any channel.
_TINY = 1e-9
# Eigenvalue ratio of J'WJ under which some combination of channels cannot be seen.
_RANK = 1e-8
# Rows whose flow exceeds this [normalised units, i.e. multiples of the training rms] are dropped.
HUGE = 1e3


@dataclass(frozen=True)
class NormalEquations:
    """Sums over the rows of B systems with n unknowns.

    Attributes:
        A: [B, n, n] J'WJ; b: [B, n] J'Wv; c: [B] v'Wv; s: [B] sum of the weights.
        dropped: [B] share of the weight that was not finite or huge and was left out.
    """

    A: Tensor
    b: Tensor
    c: Tensor
    s: Tensor
    dropped: Tensor

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(
            self.A + other.A, self.b + other.b, self.c + other.c, self.s + other.s,
            torch.maximum(self.dropped, other.dropped),
        )


@dataclass(frozen=True)
class Solution:
    """Actions of B systems and how far they may be believed.

    Attributes:
        action: [B, n]; zero where not `usable`.
        residual: [B] ||J a - v|| / ||v|| over the weighted rows; 1 where not usable.
        observability: [B, n] diag(J'WJ) relative to the largest, 0..1.
        condition: [B] condition number of the regularised matrix.
        usable: bool [B]; False: rows missing, J zero, or the solve not finite.
        still: bool [B]; the rows' v is no larger than the noise: nothing moves.
        rank_deficient: bool [B]; some combination of channels moves no pixel; its share is 0.
        limited: bool [B]; the action exceeded the limit and was scaled down to it.
        size: [B], root mean square of v over the weighted rows.
    """

    action: Tensor
    residual: Tensor
    observability: Tensor
    condition: Tensor
    usable: Tensor
    still: Tensor
    rank_deficient: Tensor
    limited: Tensor
    size: Tensor


def normal_equations(J: Tensor, v: Tensor, weight: Tensor) -> NormalEquations:
    """Sum rows; those that are not finite, or huge, get weight zero.

    Args:
        J: [B, n, R].
        v: [B, R].
        weight: [B, R], not negative.
    """
    good = torch.isfinite(v) & (v.abs() < HUGE) & torch.isfinite(weight)
    good = good & torch.isfinite(J).all(dim=1)
    total = torch.nan_to_num(weight, nan=1.0, posinf=1.0, neginf=1.0).sum(-1)
    if not bool(good.all()):
        v = torch.where(good, v, torch.zeros_like(v))
        weight = torch.where(good, weight, torch.zeros_like(weight))
        J = torch.where(good[:, None], J, torch.zeros_like(J))
    s = weight.sum(-1)
    WJ = J * weight[:, None]
    return NormalEquations(
        A=WJ @ J.transpose(1, 2),
        b=(WJ @ v[..., None])[..., 0],
        c=(weight * v * v).sum(-1),
        s=s,
        dropped=1 - s / total.clamp_min(1e-12),
    )


def image_equations(
    J: Tensor, v: Tensor, weight: Tensor, gradient_rows: bool = True
) -> NormalEquations:
    """Normal equations of one direction of B frame pairs.

    Args:
        J: [B, n, 2, h, w].
        v: [B, 2, h, w].
        weight: [B, 3, h, w], for the values and for the differences in x and in y (one channel is
            enough without gradient rows).
        gradient_rows: whether the differences are rows too.
    """
    sums = None
    # Differences of smaller v cannot be huge; one row that is not finite makes the sums so.
    if not v.requires_grad and bool(v.abs().max() < HUGE / (2 * GRADIENT_GAIN)):
        sums = row_sums(J, v, weight, GRADIENT_GAIN, gradient_rows)
    if sums is not None and bool(torch.isfinite(sums).all()):
        n, s = J.shape[1], weight[:, 0].sum((1, 2))
        if gradient_rows:
            s = s + weight[:, 1, :, 1:-1].sum((1, 2)) + weight[:, 2, 1:-1].sum((1, 2))
        return NormalEquations(
            A=sums[:, :n, :n], b=sums[:, :n, n], c=sums[:, n, n], s=2 * s,
            dropped=torch.zeros_like(s),
        )
    pairs = weight[:, :1].expand(-1, 2, -1, -1)
    out = normal_equations(J.flatten(2), v.flatten(1), pairs.flatten(1))
    if not gradient_rows:
        return out
    for row, axis in ((1, -1), (2, -2)):
        dJ = _difference(J, axis) * GRADIENT_GAIN
        dv = _difference(v, axis) * GRADIENT_GAIN
        w = weight[:, row : row + 1].narrow(axis, 1, dv.shape[axis]).expand(-1, 2, -1, -1)
        out = out + normal_equations(dJ.flatten(2), dv.flatten(1), w.flatten(1))
    return out


def exact_equations(
    J: Tensor, v: Tensor, weight: Tensor, gradient_rows: bool = True
) -> NormalEquations:
    """What `image_equations` sums, in float64 and without gradients; three times faster.

    Args:
        J: [B, n, 2, h, w], of any floating type.
        v: [B, 2, h, w].
        weight: [B, 3, h, w], not negative; one channel is enough without gradient rows.
        gradient_rows: whether the differences are rows too.
    """
    B, n, _, h, w = J.shape
    gram = np.zeros((B, n + 1, n + 1))
    s, dropped = np.zeros(B), np.zeros(B)
    # Fresh memory of this size costs more than the sums; two buffers serve all.
    rows, spare = np.empty((n + 1, 2, h, w)), np.empty((n + 1) * 2 * h * w)
    weights = weight.detach().numpy().astype(np.float64)
    for i in range(B):
        rows[:n], rows[n] = J[i].detach().numpy(), v[i].detach().numpy()
        for group in range(3 if gradient_rows else 1):
            y, x = _MIDDLE[group]
            G, total, lost = _gram(rows, group, weights[i, group][y, x], spare)
            gram[i] += G
            s[i] += total
            dropped[i] = max(dropped[i], lost)
    sums = torch.from_numpy(gram)
    return NormalEquations(
        A=sums[:, :n, :n], b=sums[:, :n, n], c=sums[:, n, n],
        s=torch.from_numpy(s), dropped=torch.from_numpy(dropped),
    )


def direction_equations(
    J: tuple[Tensor, Tensor],
    weight: tuple[Tensor, Tensor],
    flow: tuple[Tensor, Tensor],
    trust: tuple[Tensor, Tensor],
    views: Tensor,
    *,
    mode: str,
    gradient_rows: bool,
) -> tuple[NormalEquations, ...]:
    """The systems of B frame pairs (o_t, o_t+1) in one of the MODES, float64.

    Args:
        J: of o_t and of o_t+1, [B, n, 2, h, w] each.
        weight: row weights of the network, [B, 3, h, w] each.
        flow: forward and backward, [B, 2, h, w] each, in the units of J.
        trust: consistency of the flow, [B, h, w] each, 0..1.
        views: [3, h, w], what the views let each row count (vera_jidm.views.row_weights).
        mode: see the module.
        gradient_rows: whether the network has weights for them.

    Returns:
        One system a direction of time: two in `stacked` mode, whose sum is to be solved, each with
        the action from o_t to o_t+1 as its unknown; one in `paper` mode.
    """
    if mode not in MODES:
        raise ValueError(f'no mode {mode!r}; there are {", ".join(MODES)}')
    if mode == 'paper':
        everywhere = views[None, :1].expand(len(J[0]), -1, -1, -1)
        return (exact_equations(J[0], flow[0], everywhere, gradient_rows=False),)
    there, back = (
        exact_equations(
            J[i], flow[i],
            # Likewise: this product is worth no second thread.
            torch.from_numpy(weight[i].numpy() * (trust[i][:, None].numpy() * views.numpy())),
            gradient_rows,
        )
        for i in (0, 1)
    )
    return there, reverse(back)


def pair_equations(
    J: tuple[Tensor, Tensor],
    weight: tuple[Tensor, Tensor],
    flow: tuple[Tensor, Tensor],
    trust: tuple[Tensor, Tensor],
    views: Tensor,
    *,
    mode: str,
    gradient_rows: bool,
) -> NormalEquations:
    """The sum of `direction_equations`: one system for each of the B pairs."""
    systems = direction_equations(
        J, weight, flow, trust, views, mode=mode, gradient_rows=gradient_rows
    )
    return systems[0] if len(systems) == 1 else systems[0] + systems[1]


def reverse(equations: NormalEquations) -> NormalEquations:
    """The same motion seen backwards in time: flow b -> a belongs to the action -a."""
    return NormalEquations(
        equations.A, -equations.b, equations.c, equations.s, equations.dropped
    )


def solve(
    equations: NormalEquations,
    *,
    ridge: float = 5e-5,
    limit: float | Tensor | None = None,
    noise: float = 0.0,
) -> Solution:
    """Minimise the weighted squares plus a ridge (Eq. 6).

    The ridge is relative to the mean diagonal of J'WJ, so neither the number of pixels nor the
    units matter: (A + ridge * tr(A) / n * I) a = b.

    Args:
        equations: of B systems.
        ridge: relative ridge, > 0. Above 1e-3 it shrinks weakly seen channels.
        limit: largest |a| of any channel, or of each, [n]; a longer action is scaled down until
            none exceeds its own, and flagged.
        noise: size of v that means nothing; the residual of smaller motions goes to zero.

    Raises:
        ValueError: `ridge` or `limit` is not a positive number.
    """
    if not 0 < ridge < float('inf'):
        raise ValueError(f'ridge is {ridge}; it must be a positive number')
    if limit is not None:
        most = torch.as_tensor(limit, dtype=equations.b.dtype, device=equations.b.device)
        if not bool((torch.isfinite(most) & (most > 0)).all()):
            raise ValueError(f'limit is {limit}; it must be a positive number')
    n = equations.b.shape[-1]
    scale = equations.s.clamp_min(1e-12)
    A = equations.A / scale[:, None, None]
    b = equations.b / scale[:, None]
    c = equations.c / scale
    trace = A.diagonal(dim1=-2, dim2=-1).mean(-1)
    usable = (
        (equations.s > 0) & (equations.dropped < 0.5) & (trace > _TINY)
        & torch.isfinite(A).all(-1).all(-1) & torch.isfinite(b).all(-1) & torch.isfinite(c)
    )
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    A = torch.where(usable[:, None, None], A, eye)
    b = torch.where(usable[:, None], b, torch.zeros_like(b))
    c = torch.where(usable, c, torch.ones_like(c))
    trace = torch.where(usable, trace, torch.ones_like(trace))
    regular = A + (ridge * trace)[:, None, None] * eye
    action = _linear(regular, b)

    finite = torch.isfinite(action).all(-1)
    usable = usable & finite
    action = torch.where(usable[:, None], action, torch.zeros_like(action))
    limited = torch.zeros_like(usable)
    if limit is not None:
        beyond = (action.detach().abs() / most).amax(-1)
        limited = beyond > 1
        action = action / beyond.clamp_min(1)[:, None]
    Aa = (A @ action[..., None])[..., 0]
    left = (c - 2 * (action * b).sum(-1) + (action * Aa).sum(-1)).clamp_min(0)
    share = (left / (c + noise**2).clamp_min(1e-30)).sqrt()
    residual = torch.where(usable, share, torch.ones_like(share))
    with torch.no_grad():
        diagonal = A.diagonal(dim1=-2, dim2=-1).clamp_min(0)
        observability = diagonal / diagonal.amax(-1, keepdim=True).clamp_min(_TINY)
        observability = torch.where(
            usable[:, None], observability, torch.zeros_like(observability)
        )
        eigen = _eigenvalues(A)
        shift = ridge * trace
        condition = (eigen[:, -1] + shift) / (eigen[:, 0].clamp_min(0) + shift)
        deficient = usable & (eigen[:, 0] < _RANK * eigen[:, -1])
        still = usable & (c <= noise**2)
    return Solution(
        action, residual, observability, condition, usable, still, deficient, limited,
        size=c.clamp_min(0).sqrt(),
    )


# Where the weight of a value, of a difference in x and of one in y is taken.
_MIDDLE = (
    (slice(None), slice(None)), (slice(None), slice(1, -1)), (slice(1, -1), slice(None)),
)


def _fill(rows: NDArray[np.float64], group: int, spare: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows [n + 1, 2, h, w], or their differences in x (group 1) or y (2), in the spare memory."""
    y, x = _MIDDLE[group]
    shape = rows[..., y, x].shape
    out = spare[: int(np.prod(shape))].reshape(shape)
    if group == 0:
        out[:] = rows
        return out
    ahead, behind = (rows[..., 2:], rows[..., :-2]) if group == 1 else (
        rows[..., 2:, :], rows[..., :-2, :]
    )
    with np.errstate(invalid='ignore', over='ignore'):
        np.subtract(ahead, behind, out=out)
        out *= GRADIENT_GAIN
    return out


def _gram(
    rows: NDArray[np.float64], group: int, weight: NDArray[np.float64], spare: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float]:
    """Weighted sum of the outer products of one group of rows, its weight as large as the group.

    Returns the sums [n + 1, n + 1], the sum of the weights, and the share of it that was dropped;
    rules as in `normal_equations`.
    """
    values = _fill(rows, group, spare)
    if weight.min() >= 0 and np.abs(values[-1]).max() < HUGE:
        with np.errstate(invalid='ignore', over='ignore'):
            values *= np.sqrt(weight)
            flat = values.reshape(len(rows), -1)
            # A matrix times its own transpose: BLAS does half of the work (syrk).
            sums = flat @ flat.T
        if np.isfinite(sums).all():
            return sums, 2 * float(weight.sum()), 0.0
        values = _fill(rows, group, spare)
    flat = values.reshape(len(rows), -1)
    each = np.broadcast_to(weight, values.shape[1:]).ravel()
    good = np.isfinite(flat).all(0) & (np.abs(flat[-1]) < HUGE) & np.isfinite(each)
    total = np.nan_to_num(each, nan=1.0, posinf=1.0, neginf=1.0).sum()
    each = np.where(good, each, 0.0)
    flat = np.where(good, flat, 0.0)
    sums = (flat * each) @ flat.T
    return sums, float(each.sum()), 1 - float(each.sum()) / max(float(total), 1e-12)


def _linear(A: Tensor, b: Tensor) -> Tensor:
    """Solutions of B systems, [B, n]."""
    if A.requires_grad or b.requires_grad or A.device.type != 'cpu':
        return torch.linalg.solve(A, b[..., None])[..., 0]
    # On matrices this small torch's threads wait for each other longer than they work.
    return torch.from_numpy(np.linalg.solve(A.numpy(), b[..., None].numpy())[..., 0])


def _eigenvalues(A: Tensor) -> Tensor:
    """Of B symmetric matrices, ascending, [B, n]."""
    if A.device.type != 'cpu':
        return torch.linalg.eigvalsh(A)
    return torch.from_numpy(np.linalg.eigvalsh(A.detach().numpy()))


def _difference(x: Tensor, axis: int) -> Tensor:
    """x[i + 1] - x[i - 1] along a spatial axis."""
    size = x.shape[axis]
    return x.narrow(axis, 2, size - 2) - x.narrow(axis, 0, size - 2)
