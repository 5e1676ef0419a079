"""Making rendered frames a bit like imagined ones, for every translator alike.

A translator meets o_t+k that a planner imagined: colours drift, edges soften, a latent code leaves
blotches, a compressed video its blocks. Every random number follows from the generator it is given,
and is drawn for the whole batch, so that several processes which share a batch see what one would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_core.seams import Image

# Strength 1 of each kind.
_GAIN, _OFFSET, _NOISE = 0.08, 0.04, 0.015
_WORST_QUALITY = 30  # of JPEG
_LEVELS = 32  # of the coarse picture that a latent code keeps
_BLOTCHES = 0.02


def degrade(image: Image, rng: np.random.Generator) -> Image:
    """A copy as a planner might have imagined it: a bit blurred, a bit noisy."""
    blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.9)))
    noisy = blurred + rng.normal(0, rng.uniform(0, 3), image.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """Strength of each kind; 0 = none.

    Attributes:
        colour: 1 = up to 8% gain and 4% offset of each colour.
        blur: 1 = half of the images, up to a binomial blur of 5 px.
        noise: 1 = up to 1.5% white noise.
        latent: 1 = half of the images lose up to half of what a picture of half the size, in 32
            levels, does not hold, and gain up to 2% noise in blotches of 4 px: what a VAE does.
        jpeg: 1 = half of the images, compressed at a quality of 30 to 95; 0.5 = at 62 to 95.
    """

    colour: float = 1.0
    blur: float = 1.0
    noise: float = 1.0
    latent: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if not 0 <= value <= 4:
                raise ValueError(f'augmentation {name} is {value}; it must lie in 0..4')

    def __call__(
        self, images: Tensor, generator: torch.Generator, part: slice | Tensor = slice(None)
    ) -> Tensor:
        """Augment each image on its own.

        Args:
            images: [N, 3, H, W], 0..1; the results may leave that range a little.
            generator: of every random number, all N images' whatever `part` is.
            part: the images to return, a slice or int64 indices.
        """
        n = len(images)
        out = images[part]

        def uniform(*shape: int) -> Tensor:
            return 2 * torch.rand(*shape, generator=generator) - 1

        if self.colour or self.blur or self.noise:
            gain, offset = uniform(n, 3, 1, 1)[part], uniform(n, 3, 1, 1)[part]
            share, level = uniform(n, 1, 1, 1)[part], torch.rand(n, 1, 1, 1, generator=generator)
            out = out * (1 + _GAIN * self.colour * gain) + _OFFSET * self.colour * offset
            if self.blur:
                out = _blend(out, share.clamp_min(0) * min(1.0, self.blur), _blurred)
            if self.noise:
                noise = torch.randn(images.shape, generator=generator)[part]
                out = out.addcmul(noise, _NOISE * self.noise * level[part])
        if self.latent:
            share, level = uniform(n, 1, 1, 1)[part], torch.rand(n, 1, 1, 1, generator=generator)
            out = _blend(out, share.clamp_min(0) * min(1.0, 0.5 * self.latent), _coarse)
            cells = (n, 3, *(max(1, size // 4) for size in images.shape[2:]))
            blotches = torch.randn(cells, generator=generator)[part]
            blotches = F.interpolate(blotches, images.shape[2:], mode='bilinear')
            out = out.addcmul(blotches, _BLOTCHES * self.latent * level[part] * (share > 0))
        if self.jpeg:
            chosen, quality = uniform(n)[part], torch.rand(n, generator=generator)[part]
            worst = 95 - (95 - _WORST_QUALITY) * min(1.0, self.jpeg)
            quality = 95 - (95 - worst) * quality
            out = _compressed(out, quality, chosen > 0)
        return out


def photometric(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Colour, blur and noise of one strength; see Augmentation."""
    if strength <= 0:
        return images
    return Augmentation(strength, strength, strength)(images, generator)


def _blend(images: Tensor, share: Tensor, effect: Callable[[Tensor], Tensor]) -> Tensor:
    """Move each image towards `effect` of it, where its share [N, 1, 1, 1] is above 0."""
    which = share.flatten().nonzero()[:, 0]
    if len(which) == 0:
        return images
    some = images[which]
    return images.index_copy(0, which, torch.lerp(some, effect(some), share[which]))


def _blurred(images: Tensor) -> Tensor:
    """Binomial blur, 5 px wide."""
    for axis in (2, 3):
        padding = (0, 0, 2, 2) if axis == 2 else (2, 2, 0, 0)
        wide = F.pad(images, padding, mode='replicate')
        a, b, c, d, e = (wide.narrow(axis, i, images.shape[axis]) for i in range(5))
        images = (a + e).add_(b + d, alpha=4).add_(c, alpha=6).mul_(1 / 16)
    return images


def _coarse(images: Tensor) -> Tensor:
    """What is left of images at half the size and in few levels."""
    small = F.avg_pool2d(images, 2, ceil_mode=True)
    small = (small * _LEVELS).round() / _LEVELS
    return F.interpolate(small, images.shape[2:], mode='bilinear')


def _compressed(images: Tensor, quality: Tensor, chosen: Tensor) -> Tensor:
    """JPEG of the chosen images and back."""
    out = images.clone()
    for i in chosen.nonzero()[:, 0].tolist():
        planar = (255 * images[i]).round().clamp(0, 255).to(torch.uint8)
        picture = np.ascontiguousarray(planar.permute(1, 2, 0).numpy()[..., ::-1])
        options = [cv2.IMWRITE_JPEG_QUALITY, round(float(quality[i]))]
        _, data = cv2.imencode('.jpg', picture, options)
        back = np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])
        out[i] = torch.from_numpy(back).permute(2, 0, 1).float() / 255
    return out
