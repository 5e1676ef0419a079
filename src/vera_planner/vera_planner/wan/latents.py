"""Canvases to latents and back, each view by itself.

The VAE of Wan is causal in time: 1 + 4k frames become 1 + k latents, the first of one frame, and
what a latent decodes to never depends on later latents. So decoding a prefix of a plan gives
exactly the frames that decoding all of it would give. Decoding from the middle would not: the
first latent decoded always counts as a single frame, and what came before is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vera_core.canvas import slots
from vera_core.contract import Contract
from vera_core.seams import Image

Box = tuple[int, int]


class LatentError(ValueError):
    """Frames or latents that the codec cannot take; the message names what is wrong with them."""


class Codec(Protocol):
    """Frames of the canvas to latents and back.

    Attributes:
        channels: C of the latents.
        time_stride: frames of each latent but the first.
    """

    channels: int
    time_stride: int

    def encode(self, frames: Image) -> Tensor:
        """uint8 [1 + s k, H, W, 3] -> float32 [C, 1 + k, h, w]."""

    def decode(self, latents: Tensor, keep: int) -> Image:
        """float32 [C, F, h, w] -> the frames of the last `keep` latents, uint8 [., H, W, 3]."""


def view_boxes(contract: Contract) -> tuple[Box, ...]:
    """Left edge and width [px] of what is encoded by itself: each view, then the black padding.

    The padding is cut into slots as wide as the last view, as if cameras were there that see
    nothing; what is left over is a narrower one.
    """
    widths = [s.stop - s.start for s in slots(contract).values()]
    return slot_boxes(widths, contract.canvas.width)


def slot_boxes(widths: Sequence[int], canvas_width: int) -> tuple[Box, ...]:
    """The boxes of a canvas [px] with views of these widths, as `view_boxes`."""
    filled = list(widths)
    while (free := canvas_width - sum(filled)) > 0:
        filled.append(min(filled[len(widths) - 1], free))
    return tuple((sum(filled[:i]), width) for i, width in enumerate(filled))


def usable_frames(count: int, time_stride: int, most: int) -> int:
    """How many of the newest `count` frames fill whole latents: 1 + s k, at most `most` latents.

    The oldest ones are dropped. A context is never filled up with copies: still frames in the
    past make still plans.
    """
    latents = 1 + max(0, count - 1) // time_stride
    return 1 + time_stride * (min(latents, most) - 1)


class LatentCodec:
    """The codec of an `AutoencoderKLWan`; latents are normalised to mean 0 and deviation 1.

    Args:
        vae: with its `latents_mean` and `latents_std` in its configuration.
        boxes: left edge and width [px] of each part of the canvas that is encoded by itself, in
            order and without gaps; the latents lie side by side in the same order. The whole
            canvas if None.
        device: where the VAE computes, if its weights lie elsewhere; theirs if None.
    """

    def __init__(
        self,
        vae: Any,
        boxes: Sequence[Box] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.boxes = tuple(boxes) if boxes is not None else None
        c = vae.config
        self.channels = int(c.z_dim)
        self.time_stride = int(c.scale_factor_temporal)
        self.stride = int(c.scale_factor_spatial)
        weight = next(vae.parameters())
        self._device = torch.device(device) if device is not None else weight.device
        self._dtype = weight.dtype
        shape = (1, self.channels, 1, 1, 1)
        self._mean = torch.tensor(c.latents_mean).view(shape).to(self._device)
        self._std = torch.tensor(c.latents_std).view(shape).to(self._device)

    @torch.inference_mode()
    def encode(self, frames: Image) -> Tensor:
        """Latents of the canvases, by the mode of the posterior.

        Args:
            frames: uint8 [1 + 4k, H, W, 3], oldest first.

        Returns:
            float32 [C, 1 + k, H / stride, W / stride] on the device of the VAE.

        Raises:
            LatentError: another number of frames, or a view that does not divide into latents.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise LatentError(
                f'frames are {frames.dtype} {list(frames.shape)}; expected uint8 [T, H, W, 3]'
            )
        if len(frames) == 0 or (len(frames) - 1) % self.time_stride:
            raise LatentError(
                f'{len(frames)} frames do not fill latents; 1 + {self.time_stride} k do'
            )
        boxes = self._boxes(frames.shape[1], frames.shape[2], self.stride)
        signal = torch.from_numpy(np.ascontiguousarray(frames)).to(self._device)
        signal = (signal.permute(3, 0, 1, 2).float() / 127.5 - 1).to(self._dtype)
        parts = [signal[..., left : left + width] for left, width in boxes]
        encoded = _grouped(parts, lambda x: self.vae.encode(x).latent_dist.mode().float())
        latents = torch.cat(encoded, dim=-1)
        return ((latents[None] - self._mean) / self._std)[0]

    @torch.inference_mode()
    def decode(self, latents: Tensor, keep: int) -> Image:
        """Frames of the last `keep` latents; those before them are decoded for their memory.

        Args:
            latents: float32 [C, F, h, w], from the first latent of the context on.
            keep: 1..F.

        Returns:
            uint8 [4 keep, H, W, 3]; with keep = F the first latent's one frame comes first:
            1 + 4 (F - 1) frames.

        Raises:
            LatentError: latents of another shape, or `keep` out of range.
        """
        if latents.ndim != 4 or latents.shape[0] != self.channels:
            raise LatentError(
                f'latents are {list(latents.shape)}; expected [{self.channels}, F, h, w]'
            )
        if not 1 <= keep <= latents.shape[1]:
            raise LatentError(f'keep = {keep} of {latents.shape[1]} latents')
        boxes = self._boxes(latents.shape[2] * self.stride, latents.shape[3] * self.stride, 1)
        scaled = latents.to(self._device)[None].float() * self._std + self._mean
        scaled = scaled[0].to(self._dtype)
        s = self.stride
        parts = [scaled[..., left // s : (left + width) // s] for left, width in boxes]
        decoded = _grouped(parts, lambda z: self.vae.decode(z, return_dict=False)[0])
        frames = keep * self.time_stride
        if keep == latents.shape[1]:
            frames -= self.time_stride - 1
        signal = torch.cat([part[:, -frames:] for part in decoded], dim=-1).float()
        levels = ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(levels.permute(1, 2, 3, 0).cpu().numpy())

    def _boxes(self, height: int, width: int, stride: int) -> tuple[Box, ...]:
        """The boxes of a canvas of this size; LatentError if they do not cover and divide it."""
        boxes = self.boxes or ((0, width),)
        edges = [0]
        for left, size in boxes:
            if left != edges[-1]:
                raise LatentError(f'views {list(boxes)} leave gaps or overlap at column {left}')
            edges.append(left + size)
        if edges[-1] != width:
            raise LatentError(f'views end at column {edges[-1]}; the canvas is {width} wide')
        if any(edge % stride for edge in (*edges, height)):
            raise LatentError(
                f'a canvas of {height} x {width} with views {list(boxes)} does not divide into '
                f'latents of {stride} x {stride} pixels; change canvas and crops in the contract'
            )
        return boxes


def _grouped(parts: list[Tensor], work: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`work` on [B, C, F, h, w] of parts [C, F, h, w], those of one width in one batch."""
    found: list[Tensor | None] = [None] * len(parts)
    for width in {part.shape[-1] for part in parts}:
        places = [i for i, part in enumerate(parts) if part.shape[-1] == width]
        results = work(torch.stack([parts[i] for i in places]))
        for place, result in zip(places, results, strict=True):
            found[place] = result
    return [part for part in found if part is not None]


__all__ = [
    'Box', 'Codec', 'LatentCodec', 'LatentError', 'slot_boxes', 'usable_frames', 'view_boxes',
]  # fmt: skip
