"""Latents without an autoencoder, for sizes so small that pixels themselves are cheap enough."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_core.seams import Image
from vera_planner.wan.latents import LatentError


class PixelCodec:
    """A codec (see vera_planner.wan.latents) that only folds 4 x 4 pixels into 48 channels.

    Every frame is one latent, and views need no boxes: nothing looks beyond its own pixels.
    """

    channels = 48
    time_stride = 1
    stride = 4

    def encode(self, frames: Image) -> Tensor:
        """Fold canvases.

        Args:
            frames: uint8 [F, H, W, 3].

        Returns:
            float32 [48, F, H / 4, W / 4] in -1..1, on the CPU.

        Raises:
            LatentError: another type or shape.
        """
        if (
            frames.dtype != np.uint8
            or frames.ndim != 4
            or frames.shape[-1] != 3
            or not len(frames)
            or frames.shape[1] % self.stride
            or frames.shape[2] % self.stride
        ):
            raise LatentError(
                f'frames are {frames.dtype} {list(frames.shape)}; expected uint8 [F >= 1, H, W, 3] '
                f'with H and W multiples of {self.stride}'
            )
        signal = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
        return F.pixel_unshuffle(signal / 127.5 - 1, self.stride).transpose(0, 1).contiguous()

    def decode(self, latents: Tensor, keep: int) -> Image:
        """Unfold the last `keep` of latents float32 [48, F, h, w] to uint8 [keep, H, W, 3].

        Raises:
            LatentError: latents of another shape, or `keep` out of range.
        """
        if latents.ndim != 4 or latents.shape[0] != self.channels:
            raise LatentError(f'latents are {list(latents.shape)}; expected [48, F, h, w]')
        if not 1 <= keep <= latents.shape[1]:
            raise LatentError(f'keep = {keep} of {latents.shape[1]} latents')
        signal = F.pixel_shuffle(latents[:, -keep:].float().cpu().transpose(0, 1), self.stride)
        levels = ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())


__all__ = ['PixelCodec']
