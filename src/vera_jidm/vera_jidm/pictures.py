"""Flow and Jacobians as pictures: hue is the direction, brightness the size."""

from __future__ import annotations

import cv2
import numpy as np

from vera_core.seams import Array, Image


def flow_colours(flow: Array, reach: float | None = None) -> Image:
    """Colour wheel: right is red, down is yellow-green, left is cyan, up is violet; still is white.

    Args:
        flow: float32 [H, W, 2] px.
        reach: length that is drawn in full colour; the 99th percentile unless given.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    flow = _drawable(flow)
    length = np.hypot(flow[..., 0], flow[..., 1])
    if reach is None:
        reach = max(float(np.percentile(length, 99)), 0.25)
    angle = np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360
    hsv = np.empty((*flow.shape[:2], 3), np.uint8)
    hsv[..., 0] = (angle / 2).astype(np.uint8) % 180
    hsv[..., 1] = (255 * np.clip(length / reach, 0, 1)).astype(np.uint8)
    hsv[..., 2] = 255
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def jacobian_colours(jacobian: Array, scale: int = 1, reach: float | None = None) -> Image:
    """One colour map for each channel, side by side, with a common scale.

    Args:
        jacobian: float32 [h, w, 2, n].
        scale: pixels drawn for each cell.
        reach: as in `flow_colours`.

    Returns:
        uint8 [h * scale, n * w * scale, 3] RGB.
    """
    if reach is None:
        length = np.linalg.norm(np.nan_to_num(jacobian), axis=2)
        reach = max(float(np.percentile(length, 99.5)), 1e-6)
    maps = [flow_colours(jacobian[..., k], reach) for k in range(jacobian.shape[-1])]
    return np.ascontiguousarray(np.concatenate(maps, 1).repeat(scale, 0).repeat(scale, 1))


def flow_strip(flow: Array) -> Image:
    """Colour wheels of K flow fields [K, H, W, 2], side by side with one scale."""
    flow = _drawable(flow)
    reach = max(float(np.percentile(np.linalg.norm(flow, axis=-1), 99)), 0.25)
    return np.ascontiguousarray(np.concatenate([flow_colours(f, reach) for f in flow], axis=1))


def _drawable(flow: Array) -> Array:
    """Zero where it is no number or longer than any picture is wide."""
    flow = np.nan_to_num(flow, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    return np.where(np.abs(flow).max(-1, keepdims=True) < 1e4, flow, np.float32(0))
