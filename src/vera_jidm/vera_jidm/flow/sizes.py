"""Flow and Jacobians at another resolution: values scale with the axis that they point along.

A planner's canvas, a flow estimator and a J-IDM may each work at a size of their own (the authors:
128, 256 and 252 px). A displacement of one pixel in x is W'/W pixels at width W', in y it is H'/H;
the two differ as soon as the aspect does. A row of J is a displacement per unit of action and
scales alike, so J a = v holds at every size.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Array
from vera_jidm.flow.base import FlowError


def resize_flow(flow: Array, height: int, width: int) -> Array:
    """Flow fields at another size, in pixels of that size.

    Averages over the area where an axis shrinks, interpolates linearly where it grows.

    Args:
        flow: float [..., H, W, 2] px.
        height: rows of the result.
        width: columns of the result.

    Returns:
        float32 [..., height, width, 2] px of the new size.

    Raises:
        FlowError: not [..., H, W, 2], or a size of no pixels.
    """
    if flow.ndim < 3 or flow.shape[-1] != 2:
        raise FlowError(f'flow is {list(flow.shape)}; expected [..., H, W, 2]')
    out = _resize(flow.reshape(-1, *flow.shape[-3:]), height, width)
    out *= _factors(flow.shape[-3:-1], height, width)
    return out.reshape(*flow.shape[:-3], height, width, 2)


def rescale_jacobian(J: Array, height: int, width: int) -> Array:
    """Image Jacobians at another size, in pixels of that size per unit of action.

    Args:
        J: float [..., H, W, 2, n] px per unit of each of the n channels.
        height: rows of the result.
        width: columns of the result.

    Returns:
        float32 [..., height, width, 2, n].

    Raises:
        FlowError: not [..., H, W, 2, n], or a size of no pixels.
    """
    if J.ndim < 4 or J.shape[-2] != 2:
        raise FlowError(f'J is {list(J.shape)}; expected [..., H, W, 2, n]')
    h, w, _, n = J.shape[-4:]
    planes = _resize(J.reshape(-1, h, w, 2 * n), height, width)
    out = planes.reshape(-1, height, width, 2, n) * _factors((h, w), height, width)[:, None]
    return np.asarray(out.reshape(*J.shape[:-4], height, width, 2, n), np.float32)


def _factors(old: tuple[int, ...], height: int, width: int) -> NDArray[np.float32]:
    """float32 [2], what x and y values are multiplied by."""
    return np.array([width / old[1], height / old[0]], np.float32)


def _resize(fields: Array, height: int, width: int) -> Array:
    """[N, H, W, C] -> float32 [N, height, width, C], values untouched."""
    if height < 1 or width < 1:
        raise FlowError(f'a size of {width} x {height} px; both must be at least 1')
    h, w = fields.shape[1:3]
    if (height, width) == (h, w):
        return np.array(fields, np.float32)
    if height >= h and width >= w:
        return _scale(fields, height, width, cv2.INTER_LINEAR)
    if height <= h and width <= w:
        return _scale(fields, height, width, cv2.INTER_AREA)
    # One axis shrinks (area), the other grows (linear).
    if width < w:
        return _scale(_scale(fields, h, width, cv2.INTER_AREA), height, width, cv2.INTER_LINEAR)
    return _scale(_scale(fields, height, w, cv2.INTER_AREA), height, width, cv2.INTER_LINEAR)


def _scale(fields: Array, height: int, width: int, mode: int) -> Array:
    n, c = fields.shape[0], fields.shape[-1]
    out = np.empty((n, height, width, c), np.float32)
    for i in range(n):
        # cv2 takes four channels at most, and drops an axis of length 1.
        for k in range(0, c, 4):
            part = np.ascontiguousarray(fields[i, ..., k : k + 4], np.float32)
            part = cv2.resize(part, (width, height), interpolation=mode)
            out[i, ..., k : k + 4] = part.reshape(height, width, -1)
    return out
