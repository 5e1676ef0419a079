"""Sizes of the Wan family, as plain numbers: what a transformer and its autoencoder look like.

Published sizes are those of Wan 2.1 (arXiv 2503.20314), Wan 2.2 and SkyReels-V2. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

IMAGE_TOKENS = 257  # of CLIP ViT-H/14 at 224 x 224: 16 x 16 patches and the class token
# diffusers takes the last 512 tokens for the text where image tokens stand before them.
TEXT_LENGTH_WITH_IMAGE = 512

# name: latent channels, strides (time, height, width), pixel patch, width, decoder width.
_VAES: dict[str, tuple[int, tuple[int, int, int], int, int, int]] = {
    'wan2.1': (16, (4, 8, 8), 1, 96, 96),
    'wan2.2': (48, (4, 16, 16), 2, 160, 256),
    # No autoencoder: 4 x 4 pixels are the 48 channels of a latent, and each frame is one.
    'pixels': (48, (1, 4, 4), 1, 0, 0),
}


class LayoutError(ValueError):
    """A size that cannot be built; the message names the field and what it may be."""


@dataclass(frozen=True)
class WanLayout:
    """One size of the Wan family.

    Attributes:
        name: of the size; 'custom' where a checkpoint has one of its own.
        dim: width of the tokens; ffn: of the feed-forward's hidden layer.
        heads: attention heads; dim / heads is even and at least 12, for the rotary positions.
        layers: transformer blocks.
        in_channels: latent channels, and 20 zero channels of conditioning in I2V models (36).
        out_channels: latent channels of the velocity.
        text_dim: channels of a text token; text_length: tokens, padded with zeros.
        freq_dim: channels of the sinusoids of the noise level.
        image_dim: channels of a CLIP token; None where the model has no image branch.
        patch: latent frames, rows and columns of a token.
        vae: 'wan2.1' (16 channels, stride 4 x 8 x 8), 'wan2.2' (48 channels, stride 4 x 16 x 16)
            or 'pixels' (48 channels, stride 1 x 4 x 4; see vera_planner.wan.pixels).
        vae_width: channels of the autoencoder's first level; None for the published width.
        text: text encoder, 'umt5' or 'minilm'.
        family: 'wan' or 'skyreels' (trained with diffusion forcing; its own class in diffusers).
        sample_info: SkyReels' embedding of the frame rate is there.
        predicts: what the transformer puts out: 'velocity', as all published ones, 'clean'
            latents, or their 'change' from the window's first one, which must then be clean
            itself; the denoiser makes a velocity of either.
        licence: of the published weights; hub_id: where they are; '' where nothing is published.
    """

    name: str
    dim: int
    ffn: int
    heads: int
    layers: int
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    text_length: int = 512
    freq_dim: int = 256
    image_dim: int | None = None
    patch: tuple[int, int, int] = (1, 2, 2)
    vae: str = 'wan2.1'
    vae_width: int | None = None
    text: str = 'umt5'
    family: str = 'wan'
    sample_info: bool = False
    predicts: str = 'velocity'
    licence: str = ''
    hub_id: str = ''

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built, naming the field."""
        if self.vae not in _VAES:
            raise LayoutError(f'vae {self.vae!r}; known: {", ".join(_VAES)}')
        for name, known in (
            ('text', ('umt5', 'minilm')),
            ('family', ('wan', 'skyreels')),
            ('predicts', ('velocity', 'clean', 'change')),
        ):
            if getattr(self, name) not in known:
                raise LayoutError(f'{name} {getattr(self, name)!r}; known: {", ".join(known)}')
        if self.dim % self.heads or (self.dim // self.heads) % 2 or self.dim // self.heads < 12:
            raise LayoutError(
                f'dim {self.dim} and {self.heads} heads: a head needs an even width of at least 12'
            )
        if self.out_channels != self.latent_channels:
            raise LayoutError(
                f'out_channels {self.out_channels}; the {self.vae} autoencoder has '
                f'{self.latent_channels}'
            )
        if self.in_channels < self.latent_channels:
            raise LayoutError(
                f'in_channels {self.in_channels} are fewer than the {self.latent_channels} of the '
                f'{self.vae} autoencoder'
            )
        if self.image_dim is not None and self.text_length != TEXT_LENGTH_WITH_IMAGE:
            raise LayoutError(
                f'image_dim {self.image_dim} with text_length {self.text_length}; an image branch '
                f'needs {TEXT_LENGTH_WITH_IMAGE} tokens of text'
            )

    @property
    def latent_channels(self) -> int:
        """Channels of the latents, without the zero channels of I2V models."""
        return _VAES[self.vae][0]

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels that one latent stands for."""
        return _VAES[self.vae][1]

    @property
    def pixel_patch(self) -> int:
        """Rows and columns of pixels that the autoencoder folds into channels first."""
        return _VAES[self.vae][2]

    @property
    def vae_widths(self) -> tuple[int, int]:
        """Channels of the first level of the autoencoder's encoder and of its decoder."""
        encoder, decoder = _VAES[self.vae][3:]
        return (encoder, decoder) if self.vae_width is None else (self.vae_width, self.vae_width)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {**asdict(self), 'patch': list(self.patch)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WanLayout:
        """The inverse of `as_dict`.

        Raises:
            LayoutError: an unknown or missing field, or a size that cannot be built.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        missing = [n for n in ('name', 'dim', 'ffn', 'heads', 'layers') if n not in data]
        if unknown or missing:
            raise LayoutError(
                f'layout: unknown {", ".join(unknown) or "none"}; '
                f'missing {", ".join(missing) or "none"}'
            )
        values = dict(data)
        if 'patch' in values:
            values['patch'] = tuple(values['patch'])
        return cls(**values)


LAYOUTS: dict[str, WanLayout] = {
    layout.name: layout
    for layout in (
        # For tests, and for machines without a GPU: same architecture, MiniLM for the words.
        WanLayout(
            'tiny', 64, 256, 4, 2, text_dim=384, text_length=24, freq_dim=64, vae_width=8,
            text='minilm',
        ),
        WanLayout(
            'compact', 192, 768, 6, 5, text_dim=384, text_length=24, freq_dim=128, vae_width=12,
            text='minilm',
        ),
        # A token's 16 x 16 pixels have more channels than it has width: noise would not fit in.
        # Small models on pixels predict clean ones (arXiv 2511.13720); what stands still they need
        # not paint again.
        WanLayout(
            'compact-pixels', 192, 768, 6, 5, in_channels=48, out_channels=48, text_dim=384,
            text_length=24, freq_dim=64, patch=(1, 4, 4), vae='pixels', text='minilm',
            predicts='change',
        ),
        WanLayout(
            't2v-1.3b', 1536, 8960, 12, 30, licence='Apache-2.0',
            hub_id='Wan-AI/Wan2.1-T2V-1.3B-Diffusers',
        ),
        WanLayout(
            't2v-14b', 5120, 13824, 40, 40, licence='Apache-2.0',
            hub_id='Wan-AI/Wan2.1-T2V-14B-Diffusers',
        ),
        WanLayout(
            'i2v-14b', 5120, 13824, 40, 40, in_channels=36, image_dim=1280, licence='Apache-2.0',
            hub_id='Wan-AI/Wan2.1-I2V-14B-480P-Diffusers',
        ),
        WanLayout(
            'ti2v-5b', 3072, 14336, 24, 30, in_channels=48, out_channels=48, vae='wan2.2',
            licence='Apache-2.0', hub_id='Wan-AI/Wan2.2-TI2V-5B-Diffusers',
        ),
        WanLayout(
            'skyreels-df-1.3b', 1536, 8960, 12, 30, family='skyreels', sample_info=True,
            licence='Skywork Community License',
            hub_id='Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers',
        ),
    )
}  # fmt: skip


def find_layout(name: str) -> WanLayout:
    """The size called `name`.

    Raises:
        LayoutError: unknown; the message lists those that are known.
    """
    if name not in LAYOUTS:
        raise LayoutError(f'unknown size {name!r}; known: {", ".join(LAYOUTS)}')
    return LAYOUTS[name]
