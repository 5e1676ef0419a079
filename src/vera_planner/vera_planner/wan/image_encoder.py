"""The image branch of I2V models: CLIP ViT-H/14 of the oldest context frame, as Wan reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vera_core.seams import Image
from vera_planner.wan.layouts import IMAGE_TOKENS

# CLIP's own normalisation of RGB in 0..1.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoderError(ValueError):
    """A frame or an encoder that does not fit; the message says what was expected."""


class ImageEncoder:
    """One canvas to CLIP tokens: the hidden states before the last block.

    The canvas is resized to CLIP's square without cropping, so that no view is lost.

    Args:
        model: CLIPVisionModel of transformers.
        dim: channels of a token, as the layout's `image_dim`.
        device: where it computes; where its weights are if None.

    Raises:
        ImageEncoderError: the model gives other tokens than the transformer reads.
    """

    def __init__(self, model: Any, dim: int, device: str | torch.device | None = None) -> None:
        size = model.config
        tokens = (size.image_size // size.patch_size) ** 2 + 1
        if size.hidden_size != dim or tokens != IMAGE_TOKENS:
            raise ImageEncoderError(
                f'the image encoder gives {tokens} tokens of {size.hidden_size} channels; the '
                f'model wants {IMAGE_TOKENS} of {dim}'
            )
        self.dim = dim
        self.model = model.eval().requires_grad_(False)
        self.size = int(size.image_size)
        self._device = None if device is None else torch.device(device)

    @torch.inference_mode()
    def __call__(self, frame: Image) -> torch.Tensor:
        """Uint8 [H, W, 3] -> float32 [257, dim] on the CPU.

        Raises:
            ImageEncoderError: another type or shape of frame.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
            raise ImageEncoderError(
                f'frame is {frame.dtype} {list(frame.shape)}; expected uint8 [H, W, 3]'
            )
        weight = next(self.model.parameters())
        device = self._device or weight.device
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None]
        pixels = torch.nn.functional.interpolate(
            pixels.float() / 255, size=(self.size, self.size), mode='bicubic', align_corners=False
        )
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        found = self.model(((pixels - mean) / std).to(weight.dtype), output_hidden_states=True)
        return found.hidden_states[-2][0].float().cpu()
