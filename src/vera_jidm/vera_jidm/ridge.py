"""The ridge solve from flow to action (Eq. 4-6), as normal equations that can be stacked.

For one frame pair, J(o_t) a = v is a tall linear system: two rows a pixel, n unknowns. Only
A = J'WJ, b = J'Wv, c = v'Wv and the sum of W are kept, so stacking systems is adding them:
 - `paper` mode: rows of J(o_t) and the forward flow alone (Eq. 6);
 - `stacked` mode, our extension: also J(o_t+1) a = -flow(o_t+1 -> o_t). The second-order terms of
   both halves have opposite signs and cancel;
 - gradient rows, our extension: finite differences of J and of v over two cells. Errors of J are
   smooth along a link, so differences lose them; what they see is the rotation of the link.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    """

    action: Tensor
    residual: Tensor
    observability: Tensor
    condition: Tensor
    usable: Tensor
    still: Tensor
    rank_deficient: Tensor
    limited: Tensor


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


def reverse(equations: NormalEquations) -> NormalEquations:
    """The same motion seen backwards in time: flow b -> a belongs to the action -a."""
    return NormalEquations(
        equations.A, -equations.b, equations.c, equations.s, equations.dropped
    )


def solve(
    equations: NormalEquations,
    *,
    ridge: float = 5e-5,
    limit: float | None = None,
    noise: float = 0.0,
) -> Solution:
    """Minimise the weighted squares plus a ridge (Eq. 6).

    The ridge is relative to the mean diagonal of J'WJ, so neither the number of pixels nor the
    units matter: (A + ridge * tr(A) / n * I) a = b.

    Args:
        equations: of B systems.
        ridge: relative ridge, > 0. Above 1e-3 it shrinks weakly seen channels.
        limit: largest |a| of any channel; a longer action is scaled down to it and flagged.
        noise: size of v that means nothing; the residual of smaller motions goes to zero.

    Raises:
        ValueError: `ridge` or `limit` is not a positive number.
    """
    if not 0 < ridge < float('inf'):
        raise ValueError(f'ridge is {ridge}; it must be a positive number')
    if limit is not None and not 0 < limit < float('inf'):
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
    action = torch.linalg.solve(regular, b[..., None])[..., 0]

    finite = torch.isfinite(action).all(-1)
    usable = usable & finite
    action = torch.where(usable[:, None], action, torch.zeros_like(action))
    limited = torch.zeros_like(usable)
    if limit is not None:
        largest = action.detach().abs().amax(-1)
        limited = largest > limit
        action = action * (limit / largest.clamp_min(limit))[:, None]
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
        eigen = torch.linalg.eigvalsh(A)
        shift = ridge * trace
        condition = (eigen[:, -1] + shift) / (eigen[:, 0].clamp_min(0) + shift)
        deficient = usable & (eigen[:, 0] < _RANK * eigen[:, -1])
        still = usable & (c <= noise**2)
    return Solution(
        action, residual, observability, condition, usable, still, deficient, limited
    )


def _difference(x: Tensor, axis: int) -> Tensor:
    """x[i + 1] - x[i - 1] along a spatial axis."""
    size = x.shape[axis]
    return x.narrow(axis, 2, size - 2) - x.narrow(axis, 0, size - 2)
