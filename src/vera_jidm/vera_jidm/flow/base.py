"""What every flow estimator promises: both directions of a batch, and how far to trust each pixel.

Flow is float32 in pixels of the images that went in, x to the right and y down.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Array, Image

Mask = NDArray[np.bool_]
ANALYTIC = 'analytic'
# No estimator sees anything in less [px].
SMALLEST = 16
# Forward-backward disagreement [px] at which a pixel's weight has halved: a floor and a share of
# the motion itself.
_FB_FLOOR = 0.25
_FB_SHARE = 0.1


class FlowError(ValueError):
    """Images that no flow can be computed from, or an estimator that cannot be had."""


@dataclass(frozen=True)
class FlowPair:
    """Flow of N image pairs in both directions.

    Attributes:
        forward: float32 [N, H, W, 2] px, a -> b, at the pixels of a.
        backward: float32 [N, H, W, 2] px, b -> a, at the pixels of b.
        weight_forward: float32 [N, H, W], 0..1, trust in `forward`.
        weight_backward: float32 [N, H, W], 0..1, trust in `backward`.
    """

    forward: Array
    backward: Array
    weight_forward: Array
    weight_backward: Array


class PairFlow(ABC):
    """A FlowEstimator that computes both directions; their disagreement gives the weights."""

    flow_id: str = ''

    @abstractmethod
    def directions(self, a: Image, b: Image) -> tuple[Array, Array]:
        """Flow a -> b and b -> a, float32 [N, H, W, 2] px each, of N >= 1 checked image pairs."""

    def both(self, a: Image, b: Image) -> FlowPair:
        """Flow a -> b and b -> a of image pairs, uint8 [N, H, W, 3] each.

        A pixel has weight 0 and no flow where the estimate is no finite number, and weight 0 where
        it leads out of the picture: there is nothing to check it against, and what moves by the
        size of the picture is no motion of a robot.

        Raises:
            FlowError: shapes that differ or are no batches of RGB images, or another type.
        """
        check_images(a, b)
        if len(a) == 0:
            empty = np.zeros((*a.shape[:3], 2), np.float32)
            return FlowPair(empty, empty, empty[..., 0], empty[..., 0])
        forward, backward = self.directions(a, b)
        for flow in (forward, backward):
            if flow.shape != (*a.shape[:3], 2):
                raise FlowError(
                    f'{self.flow_id} gave flow {list(flow.shape)} for images {list(a.shape)}'
                )
        return trusted(forward, backward)

    def __call__(self, a: Image, b: Image) -> tuple[Array, Array]:
        """Flow a -> b float32 [N, H, W, 2] px and its weight float32 [N, H, W], 0..1."""
        pair = self.both(a, b)
        return pair.forward, pair.weight_forward


def trusted(forward: Array, backward: Array) -> FlowPair:
    """Both directions, float [N, H, W, 2] px each, with the weights of the forward-backward check.

    What is not finite becomes zero flow of weight 0; what leaves the picture gets weight 0.
    """
    forward, known = _finite(forward)
    backward, known_back = _finite(backward)
    there = np.stack([consistency(f, g) for f, g in zip(forward, backward, strict=True)])
    back = np.stack([consistency(g, f) for f, g in zip(forward, backward, strict=True)])
    return FlowPair(
        forward, backward,
        there * (known & _stays(forward)), back * (known_back & _stays(backward)),
    )


def consistency(flow: Array, back: Array) -> Array:
    """Weight of each pixel from the forward-backward check, float32 [H, W], 0..1.

    1 / (1 + (e / s)^2) with e = |flow(p) + back(p + flow(p))| and s growing with the motion.

    Args:
        flow: float32 [H, W, 2] px.
        back: the same in the other direction.
    """
    x, y = pixel_grid(*flow.shape[:2])
    there = cv2.remap(
        back, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    error = np.square(flow + there).sum(-1)
    tolerance = np.square(_FB_FLOOR + _FB_SHARE * np.linalg.norm(flow, axis=-1))
    return np.asarray(1.0 / (1.0 + error / tolerance), np.float32)


def pixel_grid(height: int, width: int) -> tuple[Array, Array]:
    """Coordinates of the pixels, float32 [H, W] each: x, y."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def check_images(a: Image, b: Image) -> None:
    """Raise FlowError unless both are uint8 [N, H, W, 3] of one shape and large enough."""
    for name, images in (('first', a), ('second', b)):
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise FlowError(
                f'the {name} images are {images.dtype} {images.shape}; expected uint8 [N, H, W, 3]'
            )
    if a.shape != b.shape:
        raise FlowError(f'image batches differ in shape: {a.shape} and {b.shape}')
    if min(a.shape[1:3]) < SMALLEST:
        raise FlowError(
            f'images of {a.shape[2]} x {a.shape[1]} px are too small for flow ({SMALLEST})'
        )


def _finite(flow: Array) -> tuple[Array, Mask]:
    known: Mask = np.asarray(np.isfinite(flow).all(-1))
    clean = np.where(known[..., None], flow, 0) if not known.all() else flow
    return np.asarray(clean, np.float32), known


def _stays(flow: Array) -> Mask:
    """Where p + flow(p) is still in the picture, bool [N, H, W]."""
    h, w = flow.shape[1:3]
    x, y = pixel_grid(h, w)
    to_x, to_y = x + flow[..., 0], y + flow[..., 1]
    return np.asarray(
        (to_x >= -0.5) & (to_x <= w - 0.5) & (to_y >= -0.5) & (to_y <= h - 0.5)
    )
