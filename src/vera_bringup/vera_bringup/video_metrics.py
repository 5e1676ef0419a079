"""How alike two videos are: PSNR of our own; SSIM, LPIPS and FVD by maintained libraries.

What is not installed is left out and named, with the cure; nothing of it is needed to run VERA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vera_core.seams import Image

# Two batches of images uint8 [N, H, W, 3] -> float64 [N].
FrameMetric = Callable[['Image', 'Image'], NDArray[np.float64]]
# Two sets of videos uint8 [N, F, H, W, 3] -> a number.
SetMetric = Callable[['Image', 'Image'], float]

FVD_FRAMES = 10  # the networks of FVD see at least so many


@dataclass(frozen=True)
class VideoMetrics:
    """What can be measured here.

    Attributes:
        frames: by name, of pairs of frames. sets: by name, of two sets of videos.
        missing: by name, why and how to get it.
    """

    frames: dict[str, FrameMetric] = field(default_factory=dict)
    sets: dict[str, SetMetric] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def find_metrics() -> VideoMetrics:
    """The metrics whose libraries can be imported and used."""
    found = VideoMetrics(frames={'psnr': psnr})
    for name, make in (('ssim', _ssim), ('lpips', _lpips)):
        try:
            found.frames[name] = make()
        except _NotHereError as error:
            found.missing[name] = str(error)
    try:
        found.sets['fvd'] = _fvd()
    except _NotHereError as error:
        found.missing['fvd'] = str(error)
    return found


class _NotHereError(Exception):
    """A library is missing or does not work; the message says how to get it."""


def psnr(a: Image, b: Image) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of pairs of images uint8 [N, H, W, 3], float64 [N], dB."""
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-6))


def _tensor(images: Image) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1).float() / 255


def _ssim() -> FrameMetric:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure as measure
    except (ImportError, RuntimeError, OSError) as error:
        raise _NotHereError(f'needs torchmetrics (pip install torchmetrics): {error}') from None

    def ssim(a: Image, b: Image) -> NDArray[np.float64]:
        found: Any = measure(_tensor(a), _tensor(b), reduction='none', data_range=1.0)
        return np.atleast_1d(found.double().numpy())

    return ssim


def _lpips() -> FrameMetric:
    try:
        import lpips as library

        network = library.LPIPS(net='alex', verbose=False).eval()
    except (ImportError, RuntimeError, OSError) as error:
        raise _NotHereError(
            'needs lpips and a torchvision that fits this torch (pip install lpips torchvision), '
            f'and weights that they download: {error}'
        ) from None

    def lpips(a: Image, b: Image) -> NDArray[np.float64]:
        import torch

        with torch.inference_mode():
            found = network(2 * _tensor(a) - 1, 2 * _tensor(b) - 1)
        return np.atleast_1d(found.double().flatten().numpy())

    return lpips


def _fvd() -> SetMetric:
    try:
        from cdfvd import fvd as library

        network = library.cdfvd('i3d', device='cpu')
    except (ImportError, RuntimeError, OSError) as error:
        raise _NotHereError(
            'needs cd-fvd (pip install cd-fvd; a part of it is under a licence of NVIDIA for '
            f'non-commercial use), and weights that it downloads: {error}'
        ) from None

    def fvd(real: Image, dreamt: Image) -> float:
        if real.shape[1] < FVD_FRAMES:
            return float('nan')
        return float(network.compute_fvd(real, dreamt))

    return fvd
