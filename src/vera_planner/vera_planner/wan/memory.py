"""What a planner needs in memory, where its parts go, and what happens when the GPU is full.

Levels of offloading, in the order in which they are tried; none changes a plan:

- 'none': everything on the GPU;
- 'text': the encoders of words and pictures compute on the CPU; their results are cached;
- 'group': the transformer's weights stay in main memory, and one block at a time is on the GPU.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from vera_planner.wan.layouts import LAYOUTS, WanLayout
from vera_planner.wan.model import build_transformer, build_vae

LEVELS = ('none', 'text', 'group')
UMT5_WEIGHTS = 5_680_910_336  # of the published UMT5-XXL encoder, 4096 channels
CLIP_WEIGHTS = 630_766_080  # of CLIP ViT-H/14's vision tower
RESERVE = 1.05  # allocator, fragments
GB = 1e9

T = TypeVar('T')
log = logging.getLogger(__name__)


class MemoryNeedError(RuntimeError):
    """More memory is needed than there is; the message gives both numbers and the cures."""


@dataclass(frozen=True)
class Need:
    """Bytes that a planner takes.

    Attributes:
        transformer, vae, text, image: weights.
        block: one transformer block, which 'group' keeps on the GPU twice: at work and on its way.
        activations: the larger of a denoising step's and of decoding's, an estimate.
    """

    transformer: int
    vae: int
    text: int
    image: int
    block: int
    activations: int

    def on_device(self, level: str = 'none') -> int:
        """Bytes on the device that computes."""
        base = self.vae + self.activations
        if level == 'group':
            return round(RESERVE * (base + 2 * self.block))
        extra = self.text + self.image if level == 'none' else 0
        return round(RESERVE * (base + self.transformer + extra))

    def in_ram(self, level: str = 'none') -> int:
        """Bytes of main memory beside a GPU: what is offloaded."""
        offloaded = 0 if level == 'none' else self.text + self.image
        return offloaded + (self.transformer if level == 'group' else 0)

    def __str__(self) -> str:
        """The parts, in GB."""
        parts = [
            f'{name} {size / GB:.1f}'
            for name, size in (
                ('transformer', self.transformer),
                ('autoencoder', self.vae),
                ('text encoder', self.text),
                ('image encoder', self.image),
                ('activations', self.activations),
            )
            if size >= 0.05 * GB
        ]
        return ', '.join(parts) or 'less than 0.1'


def estimate(
    layout: WanLayout,
    dtype: torch.dtype,
    *,
    height: int = 128,
    width: int = 576,
    latents: int = 10,
    branches: int = 3,
    text: bool = True,
) -> Need:
    """What a layout needs to make plans.

    Args:
        layout: its size.
        dtype: of transformer and encoders; the autoencoder computes in float32.
        height: of the canvas [px].
        width: of the canvas [px].
        latents: context and look-ahead, N + M.
        branches: passes that share one batch: 3 with both guidances.
        text: the text encoder is loaded here.
    """
    transformer = build_transformer(layout, 'meta', dtype)
    block = sum(_bytes(p) for p in transformer.blocks[0].parameters())
    size = dtype.itemsize
    vae, decoding = 0, 0
    if layout.vae != 'pixels':
        vae = sum(_bytes(p) for p in build_vae(layout, 'meta').parameters())
        # Measured: 55 float32 channels for each of the decoder's first width, at each pixel; among
        # them two frames that every causal convolution keeps.
        decoding = (height * width // layout.pixel_patch**2) * layout.vae_widths[1] * 55 * 4
    rows, columns = height // layout.stride[1], width // layout.stride[2]
    tokens = branches * latents * math.ceil(rows / 2) * math.ceil(columns / 2)
    # Per token: the six modulations in both types, residual streams in float32, the hidden layer.
    denoising = tokens * (layout.dim * (6 * (size + 4) + 10 * 4) + 2 * layout.ffn * size)
    published = layout.text == 'umt5' and layout.text_dim == 4096  # others are small
    words = UMT5_WEIGHTS * size if text and published else 0
    return Need(
        transformer=sum(_bytes(p) for p in transformer.parameters()),
        vae=vae,
        text=words,
        image=CLIP_WEIGHTS * size if layout.image_dim == 1280 else 0,
        block=block,
        activations=max(denoising, decoding),
    )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == 'cuda':
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def choose_level(
    need: Need, device: torch.device, offload: str, layout: WanLayout, dtype: torch.dtype
) -> str:
    """The first level that fits, or the one asked for if it does.

    Args:
        need: of the planner.
        device: where it computes; on the CPU there is nothing to offload to.
        offload: 'auto' or one of LEVELS.
        layout: for the message.
        dtype: for the message.

    Raises:
        MemoryNeedError: none fits; the message says what would.
        ValueError: an unknown level.
    """
    if offload not in ('auto', *LEVELS):
        raise ValueError(f'offload {offload!r}; known: auto, {", ".join(LEVELS)}')
    free = free_memory(device)
    if device.type != 'cuda':
        if need.on_device() <= free:
            return 'none'
        raise MemoryNeedError(_advice(need, 'none', free, 0, device, layout, dtype))
    ram = free_memory(torch.device('cpu'))
    for level in LEVELS if offload == 'auto' else (offload,):
        if need.on_device(level) <= free and need.in_ram(level) <= ram:
            return level
    level = LEVELS[-1] if offload == 'auto' else offload
    raise MemoryNeedError(_advice(need, level, free, ram, device, layout, dtype))


def _advice(
    need: Need,
    level: str,
    free: int,
    ram: int,
    device: torch.device,
    layout: WanLayout,
    dtype: torch.dtype,
) -> str:
    said = f'{layout.name} in {str(dtype).removeprefix("torch.")}'
    text = (
        f'{said} needs {need.on_device(level) / GB:.1f} GB on {device} with offload={level!r} '
        f'({need} GB in all); {free / GB:.1f} GB are free'
    )
    if device.type == 'cuda':
        text += (
            f'. Of main memory it needs {need.in_ram(level) / GB:.1f} GB; {ram / GB:.1f} are free'
        )
    cures = []
    if device.type == 'cuda':
        cures += [
            f'offload={other!r} ({need.on_device(other) / GB:.1f} GB on the GPU, '
            f'{need.in_ram(other) / GB:.1f} GB of main memory)'
            for other in LEVELS
            if need.on_device(other) <= free and need.in_ram(other) <= ram
        ]
    if dtype == torch.float32:
        cures.append('dtype bfloat16, half as much')
    smaller = [
        other.name
        for other in LAYOUTS.values()
        if other.hub_id and 4 * _weights(other) <= _weights(layout)
    ]
    cures.append(f'a smaller size: {", ".join([*smaller, "compact"])}')
    cures.append("a planner on another machine (`vera serve planner` there, planner 'remote' here)")
    return f'{text}. Cures: {"; ".join(cures)}'


def _weights(layout: WanLayout) -> int:
    """Roughly the number of a transformer's weights."""
    return layout.layers * layout.dim * (8 * layout.dim + 2 * layout.ffn)


class Placement:
    """Where the parts of a planner are; moves them when memory runs out.

    Args:
        parts: with `denoiser`, `vae`, `text` and `image` (the last three may be None), as
            `WanParts`.
        device: where it computes.
        level: one of LEVELS to begin with.
    """

    def __init__(self, parts: Any, device: torch.device, level: str = 'none') -> None:
        self.parts = parts
        self.device = device
        self.level = level
        self.can_offload = device.type != 'cpu'
        self._apply()

    def _apply(self) -> None:
        parts, device = self.parts, self.device
        beside = device if self.level == 'none' else torch.device('cpu')
        if hasattr(parts.text, 'device') and parts.text.device != beside:
            parts.text.release()
            parts.text.device = beside
        if parts.image is not None:
            parts.image.model.to(beside)
        if parts.vae is not None:
            parts.vae.to(device)
        if self.level == 'group':
            stream = device.type == 'cuda'
            parts.denoiser.transformer.to('cpu')
            parts.denoiser.transformer.enable_group_offload(
                onload_device=device,
                offload_device=torch.device('cpu'),
                offload_type='block_level',
                num_blocks_per_group=1,
                use_stream=stream,
                low_cpu_mem_usage=stream,  # pins a block at a time, not all of the weights
            )
            parts.denoiser.compute_device = device
        else:
            parts.denoiser.to(device)

    def lower(self) -> bool:
        """Go to the next level; False where there is none, or nothing to offload from."""
        place = LEVELS.index(self.level) + 1
        if place == len(LEVELS) or not self.can_offload:
            return False
        self.level = LEVELS[place]
        self._apply()
        _collect(self.device)
        return True

    def run(self, work: Callable[[], T]) -> T:
        """Call `work`, again at the next level each time the memory of the GPU is full.

        Args:
            work: without lasting effects until it returns; makes its own random generator, so that
                a second call gives what the first would have given.

        Raises:
            MemoryNeedError: full at the last level, too.
        """
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                reason = str(error).strip().splitlines()[0]
            # Outside the handler: the traceback holds the tensors that filled the memory.
            _collect(self.device)
            before = self.level
            try:
                lowered = self.lower()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                lowered = False  # main memory is full, too
            if not lowered:
                layout = self.parts.denoiser.layout
                need = estimate(layout, self.parts.denoiser.dtype)
                raise MemoryNeedError(
                    f'{layout.name} ran out of memory on {self.device} with offload={before!r} '
                    f'({reason}). At a canvas of 128 x 576 it needs about '
                    f'{need.on_device(before) / GB:.1f} GB there. Cures: a smaller canvas, fewer '
                    'context or look-ahead frames, guidance 0, or a smaller size'
                )
            log.warning(
                'memory of %s is full with offload=%s; going on with offload=%s, which is slower',
                self.device, before, self.level,
            )  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is full, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return 'out of memory' in text or "can't allocate memory" in text


def _collect(device: torch.device) -> None:
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
