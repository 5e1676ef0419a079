"""Flow on the CPU with OpenCV: dense inverse search (DIS), DIS refined in colour, Farneback."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Array, Image
from vera_jidm.flow.base import PairFlow
from vera_jidm.flow.refine import Refinement, refine
from vera_jidm.flow.sizes import resize_flow

Gray = NDArray[np.uint8]


class GrayFlow(PairFlow):
    """An estimator of grey images, one pair and direction at a time."""

    @abstractmethod
    def _gray_flow(self, a: Gray, b: Gray) -> Array:
        """Flow a -> b, float32 [H, W, 2] px, of two grey images uint8 [H, W]."""

    @abstractmethod
    def _prepare(self, image: Image) -> Gray:
        """The grey image, at the scale the estimator works on."""

    def _finish(self, flow: Array, a: Image, b: Image) -> Array:
        """Flow a -> b at the size of the images, from that of the prepared ones."""
        return resize_flow(flow, *a.shape[:2])

    def directions(self, a: Image, b: Image) -> tuple[Array, Array]:
        """Flow a -> b and b -> a, float32 [N, H, W, 2] px each."""
        forward = np.empty((*a.shape[:3], 2), np.float32)
        backward = np.empty_like(forward)
        # A frame that ends one pair often starts the next: convert it once.
        last: tuple[Image, Gray] | None = None
        for i in range(len(a)):
            if last is not None and np.array_equal(last[0], a[i]):
                gray_a = last[1]
            else:
                gray_a = self._prepare(a[i])
            gray_b = self._prepare(b[i])
            last = (b[i], gray_b)
            forward[i] = self._finish(self._gray_flow(gray_a, gray_b), a[i], b[i])
            backward[i] = self._finish(self._gray_flow(gray_b, gray_a), b[i], a[i])
        return forward, backward


_Self = TypeVar('_Self', bound='DisFlow')


class DisFlow(GrayFlow):
    """Dense inverse search (Kroeger et al. 2016, OpenCV) on an upscaled image.

    On small canvases the preset's stride and number of iterations lose a third to a half of the
    accuracy that a Jacobian solve needs; these settings were tuned for action error, about 12 ms
    per direction for a 64 x 64 canvas.

    Args:
        side: the shorter side is upscaled (cubic) by a whole factor to about this many pixels.
        finest_scale, patch, stride, gradient_steps, variational_steps: as in OpenCV.
    """

    _PATTERN = re.compile(r'dis-(\d+)-f(\d+)-p(\d+)-s(\d+)-g(\d+)-v(\d+)')

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

    def _prepare(self, image: Image) -> Gray:
        return _gray(image, max(1, round(self._side / min(image.shape[:2]))))

    def _gray_flow(self, a: Gray, b: Gray) -> Array:
        return np.asarray(self._dis.calc(a, b, None), np.float32)

    @classmethod
    def from_id(cls: type[_Self], flow_id: str) -> _Self | None:
        """The estimator of these very settings, or None for the id of another kind."""
        found = cls._PATTERN.fullmatch(flow_id)
        return cls._of(found) if found else None

    @classmethod
    def _of(cls: type[_Self], found: re.Match[str]) -> _Self:
        side, finest, patch, stride, gradient, variational = (int(x) for x in found.groups()[:6])
        return cls(
            side=side, finest_scale=finest, patch=patch, stride=stride, gradient_steps=gradient,
            variational_steps=variational,
        )


class RefinedDisFlow(DisFlow):
    """DIS, then a dense refinement in colour at the size of the canvas (vera_jidm.flow.refine).

    Args:
        refinement: its settings.
        side, finest_scale, patch, stride, gradient_steps, variational_steps: of DIS; it need only
            come within a pixel or two.
    """

    _PATTERN = re.compile(
        r'dis_lk-(\d+)-f(\d+)-p(\d+)-s(\d+)-g(\d+)-v(\d+)-n(\d+)-w([\d.]+)-d([\d.]+)-m([\d.]+)'
    )

    def __init__(
        self,
        *,
        side: int = 128,
        finest_scale: int = 0,
        patch: int = 8,
        stride: int = 3,
        gradient_steps: int = 32,
        variational_steps: int = 5,
        refinement: Refinement | None = None,
    ) -> None:
        super().__init__(
            side=side, finest_scale=finest_scale, patch=patch, stride=stride,
            gradient_steps=gradient_steps, variational_steps=variational_steps,
        )
        self._refinement = refinement or Refinement()
        self.flow_id = self.flow_id.replace('dis-', 'dis_lk-') + f'-{self._refinement}'

    def _finish(self, flow: Array, a: Image, b: Image) -> Array:
        return refine(a, b, super()._finish(flow, a, b), self._refinement)

    @classmethod
    def _of(cls, found: re.Match[str]) -> RefinedDisFlow:
        values = found.groups()
        side, finest, patch, stride, gradient, variational = (int(x) for x in values[:6])
        return cls(
            side=side, finest_scale=finest, patch=patch, stride=stride, gradient_steps=gradient,
            variational_steps=variational,
            refinement=Refinement(int(values[6]), *(float(x) for x in values[7:])),
        )


class FarnebackFlow(GrayFlow):
    """Polynomial expansion (OpenCV): three times cheaper than DIS, bleeds into the background."""

    def __init__(self, *, upscale: int = 2, window: int = 11, levels: int = 3) -> None:
        self.flow_id = f'farneback-x{upscale}-w{window}-l{levels}'
        self._upscale, self._window, self._levels = upscale, window, levels

    @classmethod
    def from_id(cls, flow_id: str) -> FarnebackFlow | None:
        """The estimator of these very settings, or None for the id of another kind."""
        found = re.fullmatch(r'farneback-x(\d+)-w(\d+)-l(\d+)', flow_id)
        if not found:
            return None
        upscale, window, levels = (int(x) for x in found.groups())
        return cls(upscale=upscale, window=window, levels=levels)

    def _prepare(self, image: Image) -> Gray:
        return _gray(image, self._upscale)

    def _gray_flow(self, a: Gray, b: Gray) -> Array:
        flow = cv2.calcOpticalFlowFarneback(
            a, b, np.zeros((*a.shape, 2), np.float32), 0.5, self._levels, self._window, 5, 5, 1.1, 0
        )
        return np.asarray(flow, np.float32)


def _gray(image: Image, scale: int) -> Gray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale > 1:
        size = (gray.shape[1] * scale, gray.shape[0] * scale)
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(gray, np.uint8)
