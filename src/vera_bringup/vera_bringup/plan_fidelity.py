"""How near plans are to those that they stand for.

PSNR of the committed frames; SSIM where torchmetrics is installed, LPIPS where that package is and
its backbone can be downloaded (requirements/speed.txt); with trained weights the squared error of
the actions that the translator makes of them, in units of the channels' scales; of Wan planners
how far the latents are off.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vera_bringup.words import psnr
from vera_core.seams import Image, Plan

Measure = Callable[[Image, Image], float]


@dataclass(frozen=True)
class Scene:
    """Frames uint8 [T, H, W, 3] of the expert at work, oldest first, and what it was asked for."""

    context: Image
    prompt: str


class Comparison:
    """Plans against those of the full variant.

    Args:
        given: the scenes.
        actions: frames [K, H, W, 3] behind an anchor -> actions [K, n] in units of their scales;
            None with random weights.
        committed: K.
    """

    def __init__(
        self,
        given: Sequence[Scene],
        actions: Callable[[Image, Image], NDArray[np.float64]] | None,
        committed: int,
    ) -> None:
        self._given, self._actions, self._committed = given, actions, committed
        self._wanted: list[Plan] = []
        optional = {'ssim': _ssim(), 'lpips': _lpips()}
        self._measures: dict[str, Measure] = {'psnr_db': psnr}
        self._measures |= {name: one for name, one in optional.items() if one is not None}

    def take_reference(self, plans: Sequence[Plan]) -> None:
        """These are the plans to compare with."""
        self._wanted = list(plans)

    def row(self, plans: Sequence[Plan]) -> dict[str, float]:
        """psnr_db, ssim, lpips, latent_error and action_mse, as far as they can be had; means."""
        count, both = self._committed, list(zip(plans, self._wanted, strict=True))
        pairs = [(plan.frames[:count], wanted.frames[:count]) for plan, wanted in both]
        found = {
            name: float(np.mean([measure(a, b) for a, b in pairs]))
            for name, measure in self._measures.items()
        }
        if all(plan.warm_start is not None for plan, _ in both):
            latents = [(p.warm_start.latents, w.warm_start.latents) for p, w in both]
            found['latent_error'] = float(np.mean([(a - b).norm() / b.norm() for a, b in latents]))
        if self._actions is not None:
            errors = [
                (self._actions(s.context[-1], a) - self._actions(s.context[-1], b)) ** 2
                for s, (a, b) in zip(self._given, pairs, strict=True)
            ]
            found['action_mse'] = float(np.mean(errors))
        return found


def _ssim() -> Measure | None:
    """Mean structural similarity of two stacks of frames, 1 where they are equal."""
    if importlib.util.find_spec('torchmetrics') is None:
        return None
    measure = importlib.import_module(
        'torchmetrics.functional.image'
    ).structural_similarity_index_measure
    return lambda a, b: float(measure(_signal(a), _signal(b), data_range=2.0))


def _lpips() -> Measure | None:
    if importlib.util.find_spec('lpips') is None:
        return None
    lpips = importlib.import_module('lpips')
    try:
        network = lpips.LPIPS(net='alex', verbose=False)
    except Exception:  # its backbone is downloaded
        return None

    @torch.inference_mode()
    def distance(a: Image, b: Image) -> float:
        return float(network(_signal(a), _signal(b)).mean())

    return distance


def _signal(frames: Image) -> torch.Tensor:
    """uint8 [F, H, W, 3] to float32 [F, 3, H, W] in -1..1."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


__all__ = ['Comparison', 'Scene']
