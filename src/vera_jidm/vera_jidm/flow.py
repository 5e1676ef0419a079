"""Optical flow on the CPU: DIS and Farneback behind the FlowEstimator seam.

A Jacobian trained on one estimator's flow is specific to it, biases included, so every estimator
carries a `flow_id` that names its settings; checkpoints store it and refuse another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Array, Image

ANALYTIC = 'analytic'
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
    def _gray_flow(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Array:
        """Flow a -> b, float32 [H, W, 2] px, of two grey images uint8 [H, W]."""

    @abstractmethod
    def _prepare(self, image: Image) -> NDArray[np.uint8]:
        """The grey image, at the scale the estimator works on."""

    def both(self, a: Image, b: Image) -> FlowPair:
        """Flow a -> b and b -> a of image pairs, uint8 [N, H, W, 3] each.

        Raises:
            FlowError: shapes that differ or are no batches of RGB images, or another type.
        """
        _check(a, b)
        n, h, w = a.shape[:3]
        forward = np.zeros((n, h, w, 2), np.float32)
        backward = np.zeros_like(forward)
        weight_forward = np.ones((n, h, w), np.float32)
        weight_backward = np.ones_like(weight_forward)
        # A frame that ends one pair often starts the next: convert it once.
        last: tuple[Image, NDArray[np.uint8]] | None = None
        for i in range(n):
            if last is not None and np.array_equal(last[0], a[i]):
                gray_a = last[1]
            else:
                gray_a = self._prepare(a[i])
            gray_b = self._prepare(b[i])
            last = (b[i], gray_b)
            forward[i] = self._to_canvas(self._gray_flow(gray_a, gray_b), h, w)
            backward[i] = self._to_canvas(self._gray_flow(gray_b, gray_a), h, w)
            weight_forward[i] = consistency(forward[i], backward[i])
            weight_backward[i] = consistency(backward[i], forward[i])
        return FlowPair(forward, backward, weight_forward, weight_backward)

    def __call__(self, a: Image, b: Image) -> tuple[Array, Array]:
        """Flow a -> b float32 [N, H, W, 2] px and its weight float32 [N, H, W], 0..1."""
        pair = self.both(a, b)
        return pair.forward, pair.weight_forward

    @staticmethod
    def _to_canvas(flow: Array, height: int, width: int) -> Array:
        """Area-average a flow field down to the canvas, in pixels of the canvas."""
        scale = flow.shape[0] / height
        if scale == 1:
            return flow
        small = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(small / scale, np.float32)


class DisFlow(PairFlow):
    """Dense inverse search (OpenCV) on an upscaled image.

    On small canvases the preset's stride and number of iterations lose a third to a half of the
    accuracy that a Jacobian solve needs; these settings were tuned for action error, about 12 ms
    per direction for a 64 x 64 canvas.

    Args:
        side: the shorter side is upscaled (cubic) by a whole factor to about this many pixels.
        finest_scale, patch, stride, gradient_steps, variational_steps: as in OpenCV.
    """

    def __init__(
        self,
        *,
        side: int = 256,
        finest_scale: int = 1,
        patch: int = 8,
        stride: int = 3,
        gradient_steps: int = 32,
        variational_steps: int = 20,
    ) -> None:
        self.flow_id = (
            f'dis-{side}-f{finest_scale}-p{patch}-s{stride}-g{gradient_steps}'
            f'-v{variational_steps}'
        )
        self._side = side
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        dis.setFinestScale(finest_scale)
        dis.setPatchSize(patch)
        dis.setPatchStride(stride)
        dis.setGradientDescentIterations(gradient_steps)
        dis.setVariationalRefinementIterations(variational_steps)
        self._dis = dis

    def _prepare(self, image: Image) -> NDArray[np.uint8]:
        return _gray(image, max(1, round(self._side / min(image.shape[:2]))))

    def _gray_flow(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Array:
        return np.asarray(self._dis.calc(a, b, None), np.float32)


class FarnebackFlow(PairFlow):
    """Polynomial expansion (OpenCV): three times cheaper than DIS, bleeds into the background."""

    def __init__(self, *, upscale: int = 2, window: int = 11, levels: int = 3) -> None:
        self.flow_id = f'farneback-x{upscale}-w{window}-l{levels}'
        self._upscale, self._window, self._levels = upscale, window, levels

    def _prepare(self, image: Image) -> NDArray[np.uint8]:
        return _gray(image, self._upscale)

    def _gray_flow(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Array:
        flow = cv2.calcOpticalFlowFarneback(
            a, b, np.zeros((*a.shape, 2), np.float32), 0.5, self._levels, self._window, 5, 5, 1.1, 0
        )
        return np.asarray(flow, np.float32)


def consistency(flow: Array, back: Array) -> Array:
    """Weight of each pixel from the forward-backward check, float32 [H, W], 0..1.

    1 / (1 + (e / s)^2) with e = |flow(p) + back(p + flow(p))| and s growing with the motion.

    Args:
        flow: float32 [H, W, 2] px.
        back: the same in the other direction.
    """
    h, w = flow.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    there = cv2.remap(
        back, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    error = np.square(flow + there).sum(-1)
    tolerance = np.square(_FB_FLOOR + _FB_SHARE * np.linalg.norm(flow, axis=-1))
    return np.asarray(1.0 / (1.0 + error / tolerance), np.float32)


ESTIMATORS: dict[str, Callable[[], PairFlow]] = {'dis': DisFlow, 'farneback': FarnebackFlow}


def make_flow(name: str) -> PairFlow:
    """An estimator by its short name ('dis') or by the full `flow_id` of its default settings.

    Raises:
        FlowError: unknown, or analytic (known only to a simulator).
    """
    if name == ANALYTIC:
        raise FlowError(
            'analytic flow is known only to a simulator and cannot be estimated from images; '
            'use a checkpoint trained on dis or farneback flow'
        )
    factory = ESTIMATORS.get(name.split('-')[0])
    if factory is None:
        raise FlowError(f'no flow estimator {name!r}; there are {", ".join(sorted(ESTIMATORS))}')
    flow = factory()
    if '-' in name and flow.flow_id != name:
        raise FlowError(f'flow {name!r} is asked for, this version has {flow.flow_id!r}')
    return flow


def _gray(image: Image, scale: int) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale > 1:
        size = (gray.shape[1] * scale, gray.shape[0] * scale)
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(gray, np.uint8)


def _check(a: Image, b: Image) -> None:
    for name, images in (('first', a), ('second', b)):
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise FlowError(
                f'the {name} images are {images.dtype} {images.shape}; expected uint8 [N, H, W, 3]'
            )
    if a.shape != b.shape:
        raise FlowError(f'image batches differ in shape: {a.shape} and {b.shape}')
    if min(a.shape[1:3]) < 16:
        raise FlowError(f'images of {a.shape[2]} x {a.shape[1]} px are too small for flow (16)')
