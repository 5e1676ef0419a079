"""Wan transformers and autoencoders by layout, and the one call that sampler and training share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vera_planner.wan.layouts import IMAGE_TOKENS, LayoutError, WanLayout

# Normalisation of the latents of Wan 2.2's autoencoder, from its published configuration; that of
# Wan 2.1 is diffusers' default.
_MEAN_22 = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813,
    0.0891, 0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108,
    -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313,
    -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944,
    0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_STD_22 = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip

FLOW_STEPS = 1000  # a model's timestep is 1000 times the flow time
# Below it, clean latents become a velocity as at it: an error divided by a small level would be
# all that a training listens to.
LOWEST_LEVEL = 0.2


class DenoiserInputError(ValueError):
    """Tensors that do not fit the model; the message names both shapes."""


def transformer_config(layout: WanLayout) -> dict[str, Any]:
    """What diffusers builds the transformer of a layout from."""
    config: dict[str, Any] = {
        'patch_size': layout.patch,
        'num_attention_heads': layout.heads,
        'attention_head_dim': layout.dim // layout.heads,
        'in_channels': layout.in_channels,
        'out_channels': layout.out_channels,
        'text_dim': layout.text_dim,
        'freq_dim': layout.freq_dim,
        'ffn_dim': layout.ffn,
        'num_layers': layout.layers,
        'cross_attn_norm': True,
        'qk_norm': 'rms_norm_across_heads',
        'eps': 1e-6,
        'image_dim': layout.image_dim,
        'added_kv_proj_dim': None if layout.image_dim is None else layout.dim,
        'rope_max_seq_len': 1024,
        'pos_embed_seq_len': None,
    }
    if layout.family == 'skyreels':
        config['inject_sample_info'] = layout.sample_info
    return config


def transformer_class(layout: WanLayout) -> Any:
    """The class of diffusers that is built for a layout."""
    import diffusers

    name = (
        'SkyReelsV2Transformer3DModel' if layout.family == 'skyreels' else 'WanTransformer3DModel'
    )
    return getattr(diffusers, name)


def vae_config(layout: WanLayout) -> dict[str, Any]:
    """What diffusers builds the autoencoder of a layout from."""
    encoder, decoder = layout.vae_widths
    config: dict[str, Any] = {
        'base_dim': encoder,
        'decoder_base_dim': decoder,
        'z_dim': layout.latent_channels,
        'scale_factor_temporal': layout.stride[0],
        'scale_factor_spatial': layout.stride[1],
    }
    if layout.vae == 'wan2.2':
        config |= {
            'is_residual': True,
            'in_channels': 3 * layout.pixel_patch**2,
            'out_channels': 3 * layout.pixel_patch**2,
            'patch_size': layout.pixel_patch,
            'latents_mean': list(_MEAN_22),
            'latents_std': list(_STD_22),
        }
    return config


def build_transformer(
    layout: WanLayout,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
) -> Any:
    """A transformer with random weights.

    Args:
        layout: its size.
        device: where it is made; 'meta' costs no memory.
        dtype: of the weights, except for those that diffusers keeps in float32.
        seed: of the weights; torch's own generator if None.

    Returns:
        WanTransformer3DModel or SkyReelsV2Transformer3DModel, in evaluation mode.
    """
    return _build(transformer_class(layout), transformer_config(layout), device, dtype, seed)


def build_vae(
    layout: WanLayout,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
) -> Any:
    """An AutoencoderKLWan with random weights, in evaluation mode; arguments as above.

    Raises:
        LayoutError: a layout without an autoencoder.
    """
    import diffusers

    if layout.vae == 'pixels':
        raise LayoutError(f'layout {layout.name} has no autoencoder; its latents are pixels')

    return _build(diffusers.AutoencoderKLWan, vae_config(layout), device, dtype, seed)


def _build(
    kind: Any,
    config: dict[str, Any],
    device: str | torch.device,
    dtype: torch.dtype,
    seed: int | None,
) -> Any:
    where = torch.device(device)
    devices = [where] if where.type == 'cuda' else []
    with torch.random.fork_rng(devices=devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        with where:
            model = kind(**config)
    return cast(model, dtype).eval()


def cast(model: Any, dtype: torch.dtype) -> Any:
    """Change the weights' type in place, except for those that diffusers wants in float32."""
    keep = tuple(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        exempt = any(part in keep for part in name.split('.'))
        parameter.data = parameter.data.to(torch.float32 if exempt else dtype)
    return model


class WanDenoiser(nn.Module):
    """Velocity of noised latents: a Wan transformer with one noise level for each latent frame.

    Wan's own forward pass takes one level per video; one level per frame is diffusion forcing
    (arXiv 2407.01392), which asks for no new layer: levels are spread over a frame's tokens.

    Args:
        transformer: WanTransformer3DModel or SkyReelsV2Transformer3DModel, or one wrapped for
            adapters or for several processes.
        layout: its size.

    Attributes:
        compute_device: where the forward pass runs, if not where the weights lie (offloading).
    """

    def __init__(self, transformer: Any, layout: WanLayout) -> None:
        super().__init__()
        self.transformer = transformer
        self.layout = layout
        self.compute_device: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where the inputs are wanted."""
        return self.compute_device or next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the transformer computes."""
        return getattr(self.transformer, 'dtype', torch.float32)

    def forward(
        self,
        latents: torch.Tensor,
        levels: torch.Tensor,
        text: torch.Tensor,
        image: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict v = eps - z (Eq. 7).

        Args:
            latents: [B, C, F, h, w], C the layout's latent channels, h and w even.
            levels: float [B, F], flow time of each latent frame: 0 clean, 1 noise.
            text: [B, L, D], L at most the layout's text_length; padded with zeros here.
            image: CLIP tokens [B, 257, image_dim] for layouts with an image branch, zeros if None;
                ignored by the others.

        Returns:
            Velocity [B, C, F, h, w], float32.

        Raises:
            DenoiserInputError: shapes that do not fit each other or the layout.
        """
        self._check(latents, levels, text, image)
        layout, dtype = self.layout, self.dtype
        batch, channels, frames, height, width = latents.shape
        hidden = latents.to(dtype)
        if layout.in_channels > channels:
            zeros = hidden.new_zeros(batch, layout.in_channels - channels, frames, height, width)
            hidden = torch.cat([hidden, zeros], dim=1)
        words = nn.functional.pad(text.to(dtype), (0, 0, 0, layout.text_length - text.shape[1]))
        timesteps = levels.to(torch.float32) * FLOW_STEPS
        extra: dict[str, Any] = {}
        if layout.image_dim is not None:
            if image is None:
                image = hidden.new_zeros(batch, IMAGE_TOKENS, layout.image_dim)
            extra['encoder_hidden_states_image'] = image.to(dtype)
        if layout.family == 'skyreels':
            extra['enable_diffusion_forcing'] = True
            if layout.sample_info:
                # 0: 16 Hz, the slower of the two rates it knows. One entry for the whole batch:
                # with one for each, diffusers takes batches of one only.
                extra['fps'] = [0]
        else:
            tokens = (height // layout.patch[1]) * (width // layout.patch[2])
            timesteps = timesteps.repeat_interleave(tokens, dim=1)
        velocity = self.transformer(
            hidden,
            timestep=timesteps,
            encoder_hidden_states=words,
            return_dict=False,
            **extra,
        )[0]
        put_out: torch.Tensor = velocity.float()
        if layout.predicts == 'velocity':
            return put_out
        clean = put_out if layout.predicts == 'clean' else put_out + latents[:, :, :1]
        return (latents - clean) / levels[:, None, :, None, None].clamp_min(LOWEST_LEVEL)

    def _check(
        self,
        latents: torch.Tensor,
        levels: torch.Tensor,
        text: torch.Tensor,
        image: torch.Tensor | None,
    ) -> None:
        layout = self.layout
        if latents.ndim != 5 or latents.shape[1] != layout.latent_channels:
            raise DenoiserInputError(
                f'latents {list(latents.shape)}; expected [B, {layout.latent_channels}, F, h, w]'
            )
        batch, _, frames, height, width = latents.shape
        if height % layout.patch[1] or width % layout.patch[2]:
            raise DenoiserInputError(
                f'latents of {height} x {width}; rows and columns must be multiples of '
                f'{layout.patch[1]} and {layout.patch[2]}: pixels of '
                f'{layout.stride[1] * layout.patch[1]} and {layout.stride[2] * layout.patch[2]}'
            )
        if levels.shape != (batch, frames):
            raise DenoiserInputError(
                f'levels {list(levels.shape)}; expected [{batch}, {frames}], one for each frame'
            )
        if (
            text.ndim != 3
            or text.shape[0] != batch
            or text.shape[1] > layout.text_length
            or text.shape[2] != layout.text_dim
        ):
            raise DenoiserInputError(
                f'text {list(text.shape)}; expected [{batch}, at most {layout.text_length}, '
                f'{layout.text_dim}]'
            )
        expected = (batch, IMAGE_TOKENS, layout.image_dim)
        if image is not None and layout.image_dim is not None and tuple(image.shape) != expected:
            raise DenoiserInputError(f'image {list(image.shape)}; expected {list(expected)}')
