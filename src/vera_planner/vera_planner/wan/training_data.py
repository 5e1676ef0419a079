"""Batches to train a Wan planner on: windows of video to latents and tokens, now or beforehand.

Batch number i has the same K and the same windows in every run: both come from the recipe's seed
and i alone. With P processes, process p takes the p-th of P equal parts of each batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vera_core.checkpoint import write_atomic
from vera_planner.video_data.mixture import Grid, Mixture, SourceSpec, Window
from vera_planner.video_data.sources import VideoDataError
from vera_planner.wan.image_encoder import ImageEncoder
from vera_planner.wan.latents import Codec, LatentCodec, slot_boxes
from vera_planner.wan.pixels import PixelCodec
from vera_planner.wan.recipe import Recipe
from vera_planner.wan.text import TextEncoder

DESCRIPTION = 'latents.json'
SHARD = 64  # windows; all of one shard have one K


@dataclass(frozen=True)
class Batch:
    """What one pass of the model is trained on.

    Attributes:
        latents: float32 [B, C, K + M, h, w], clean, context first.
        context: K.
        text: float32 [B, L, D].
        image: CLIP tokens float32 [B, 257, image_dim] of the first frames, or None.
        indices: numbers of the samples; their noise comes from these.
    """

    latents: Tensor
    context: int
    text: Tensor
    image: Tensor | None
    indices: tuple[int, ...]


class Batches(Protocol):
    """Batches by number."""

    contract: dict[str, Any] | None

    def iterate(self, first: int, process: int, processes: int) -> Iterator[Batch]:
        """This process's part of batch number `first`, of the next one, and so on for ever."""


def grid_of(recipe: Recipe) -> Grid:
    """What the windows of a recipe look like."""
    return Grid(
        height=recipe.canvas.height,
        width=recipe.canvas.width,
        multiple=recipe.multiple,
        frame_period=recipe.frame_period,
        context=recipe.context,
        look_ahead=recipe.look_ahead,
        time_stride=recipe.size.stride[0],
    )


def draw_context(recipe: Recipe, batch: int, longest: int) -> int:
    """K of batch number `batch`: N with its probability, otherwise uniform in 1 .. N - 1."""
    rng = np.random.default_rng([recipe.seed, 1, batch])
    if longest == 1 or rng.random() < recipe.noise.full_context:
        return longest
    return int(rng.integers(1, longest))


def indices_of(recipe: Recipe, batch: int, process: int, processes: int) -> range:
    """Numbers of the samples of this process in batch number `batch`."""
    size = recipe.optimiser.batch
    first = (batch * processes + process) * size
    return range(first, first + size)


class Encoders:
    """Everything frozen that turns windows into what the model sees.

    Args:
        recipe: of the training.
        vae: AutoencoderKLWan; None for layouts of pixels.
        text: words to tokens.
        image: frames to CLIP tokens; None for layouts without an image branch.
    """

    def __init__(
        self, recipe: Recipe, vae: Any, text: TextEncoder, image: ImageEncoder | None
    ) -> None:
        self._recipe, self._vae, self.text, self.image = recipe, vae, text, image
        self._codecs: dict[tuple[int, ...], Codec] = {}

    def codec(self, widths: tuple[int, ...]) -> Codec:
        """The codec of a canvas with views of these widths [px]."""
        if self._vae is None:
            return PixelCodec()
        if widths not in self._codecs:
            boxes = slot_boxes(widths, self._recipe.canvas.width)
            self._codecs[widths] = LatentCodec(self._vae, boxes)
        return self._codecs[widths]

    def latents(self, window: Window) -> Tensor:
        """float32 [C, K + M, h, w] on the CPU."""
        return self.codec(window.widths).encode(window.frames).float().cpu()

    def encode(self, windows: Sequence[Window], context: int, indices: Sequence[int]) -> Batch:
        """A batch of windows with K = `context`."""
        captions = [
            '' if _without_caption(self._recipe, i) else window.caption
            for i, window in zip(indices, windows, strict=True)
        ]
        return Batch(
            latents=torch.stack([self.latents(window) for window in windows]),
            context=context,
            text=torch.stack([self.text(caption) for caption in captions]),
            image=None
            if self.image is None
            else torch.stack([self.image(window.frames[0]) for window in windows]),
            indices=tuple(indices),
        )


def _without_caption(recipe: Recipe, index: int) -> bool:
    if not recipe.noise.drop_caption:
        return False
    return bool(np.random.default_rng([recipe.seed, 2, index]).random() < recipe.noise.drop_caption)


class VideoBatches:
    """Batches read from the videos and encoded while training.

    Raises:
        VideoDataError: a source that cannot be used.
    """

    def __init__(
        self, recipe: Recipe, encoders: Encoders, sources: Sequence[SourceSpec] | None = None
    ) -> None:
        self._recipe, self._encoders = recipe, encoders
        self.mixture = Mixture(
            recipe.data if sources is None else sources, grid_of(recipe), recipe.seed
        )
        self.contract = self.mixture.contract()

    def iterate(self, first: int, process: int, processes: int) -> Iterator[Batch]:
        """See Batches; windows are read ahead by `recipe.workers` processes."""
        order = _Order(self._recipe, self.mixture.context, first, process, processes)
        loader = torch.utils.data.DataLoader(
            _Windows(self.mixture),
            batch_sampler=order,
            num_workers=self._recipe.workers,
            collate_fn=_together,
        )
        for windows, context, indices in loader:
            yield self._encoders.encode(windows, context, indices)


class _Order:
    def __init__(
        self, recipe: Recipe, longest: int, first: int, process: int, processes: int
    ) -> None:
        self._arguments = recipe, longest, first, process, processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        recipe, longest, batch, process, processes = self._arguments
        while True:
            context = draw_context(recipe, batch, longest)
            yield [(i, context) for i in indices_of(recipe, batch, process, processes)]
            batch += 1


class _Windows(torch.utils.data.Dataset):
    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int, Window]:
        return *key, self._mixture.window(*key)


def _together(items: list[tuple[int, int, Window]]) -> tuple[list[Window], int, list[int]]:
    return [item[2] for item in items], items[0][1], [item[0] for item in items]


def precompute(
    recipe: Recipe, encoders: Encoders, folder: Path, process: int = 0, processes: int = 1
) -> int:
    """Encode `recipe.windows` windows once, so that training needs only the transformer.

    Shards that are there are kept, so an interrupted run goes on. Of several processes each
    writes its own shards.

    Returns:
        How many windows this process encoded.

    Raises:
        VideoDataError: a source that cannot be used, or a folder of another recipe.
        OSError: the disk is full, or the folder cannot be written.
    """
    from safetensors.torch import save

    videos = VideoBatches(recipe, encoders)
    described = {
        **_identity(recipe), 'windows': recipe.windows, 'context': videos.mixture.context,
        'contract': videos.contract,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / DESCRIPTION
    if file.is_file():
        found = json.loads(file.read_text(encoding='utf-8'))
        _compare(found, {**described, 'windows': found.get('windows')}, folder)
    write_atomic(file, (json.dumps(described, indent=1) + '\n').encode())
    mine = range(process, -(-recipe.windows // SHARD), processes)
    done = 0
    for number in tqdm(mine, desc='encode shards', mininterval=5, disable=process > 0):
        target = folder / f'shard_{number:06d}.safetensors'
        if target.is_file():
            continue
        context = draw_context(recipe, number, videos.mixture.context)
        indices = range(number * SHARD, min((number + 1) * SHARD, recipe.windows))
        windows = [videos.mixture.window(i, context) for i in indices]
        # The empty one is for training without words; its place is 0.
        captions = ['', *sorted({window.caption for window in windows})]
        tensors = {
            'latents': torch.stack([encoders.latents(w) for w in windows]).half(),
            'captions': torch.tensor([captions.index(w.caption) for w in windows]),
        }
        for i, caption in enumerate(captions):
            tokens = encoders.text(caption)
            used = int(tokens.any(1).nonzero().max()) + 1 if tokens.any() else 1
            tensors[f'text.{i}'] = tokens[:used].half().contiguous()
        if encoders.image is not None:
            tensors['image'] = torch.stack([encoders.image(w.frames[0]) for w in windows]).half()
        write_atomic(target, save(tensors, {'context': str(context)}))
        done += len(windows)
    return done


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What latents depend on."""
    size = recipe.size
    return {
        'vae': size.vae, 'text': size.text, 'text_dim': size.text_dim,
        'text_length': size.text_length, 'image_dim': size.image_dim,
        'autoencoder': recipe.autoencoder or recipe.init,
        'canvas': {'height': recipe.canvas.height, 'width': recipe.canvas.width},
        'frame_period': recipe.frame_period, 'look_ahead': recipe.look_ahead,
    }  # fmt: skip


def _compare(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    for key, value in wanted.items():
        if found.get(key) != value:
            raise VideoDataError(
                f'{folder} was precomputed with {key} = {found.get(key)}; this recipe says '
                f'{value}. Precompute into another folder'
            )


class LatentBatches:
    """Batches of windows that `precompute` encoded.

    Args:
        recipe: of the training.
        folder: that was filled.

    Raises:
        VideoDataError: nothing there, shards missing, or those of another recipe.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        from safetensors import safe_open

        self._recipe = recipe
        try:
            described = json.loads((folder / DESCRIPTION).read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise VideoDataError(
                f'{folder} holds no precomputed latents ({error}); fill it with '
                '`vera train video --precompute`'
            ) from error
        wanted = _identity(recipe)
        # Weights to begin with may be others than those whose autoencoder was used.
        del wanted['autoencoder']
        _compare(described, wanted, folder)
        self.contract: dict[str, Any] | None = described['contract']
        files = sorted(folder.glob('shard_*.safetensors'))
        expected = -(-int(described['windows']) // SHARD)
        if len(files) != expected:
            raise VideoDataError(
                f'{folder} holds {len(files)} of {expected} shards; run `vera train video '
                '--precompute` to its end'
            )
        # K -> (file, row) of each window.
        self._rows: dict[int, list[tuple[Path, int]]] = {}
        for file in files:
            with safe_open(str(file), 'pt') as shard:
                context = int(shard.metadata()['context'])
                count = shard.get_slice('captions').get_shape()[0]
            if context <= recipe.context:
                self._rows.setdefault(context, []).extend((file, row) for row in range(count))
        if not self._rows:
            raise VideoDataError(f'{folder}: every window has more than {recipe.context} latents '
                                 'of context; precompute anew')
        self._lengths = sorted(self._rows)

    def iterate(self, first: int, process: int, processes: int) -> Iterator[Batch]:
        """See Batches."""
        batch = first
        while True:
            wanted = draw_context(self._recipe, batch, self._lengths[-1])
            # A small folder may lack some lengths.
            context = min(self._lengths, key=lambda k: (abs(k - wanted), k))
            indices = indices_of(self._recipe, batch, process, processes)
            yield self._read(context, indices)
            batch += 1

    def _read(self, context: int, indices: Sequence[int]) -> Batch:
        from safetensors import safe_open

        rows = self._rows[context]
        latents, texts, images = [], [], []
        for index in indices:
            rng = np.random.default_rng([self._recipe.seed, 3, index])
            file, row = rows[int(rng.integers(len(rows)))]
            with safe_open(str(file), 'pt') as shard:
                latents.append(shard.get_slice('latents')[row].float())
                caption = int(shard.get_slice('captions')[row])
                if _without_caption(self._recipe, index):
                    caption = 0
                tokens = shard.get_tensor(f'text.{caption}').float()
                missing = self._recipe.size.text_length - len(tokens)
                texts.append(torch.nn.functional.pad(tokens, (0, 0, 0, missing)))
                if self._recipe.size.image_dim is not None:
                    images.append(shard.get_slice('image')[row].float())
        return Batch(
            latents=torch.stack(latents),
            context=context,
            text=torch.stack(texts),
            image=torch.stack(images) if images else None,
            indices=tuple(indices),
        )


def normal(seed: int, index: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Standard normal noise of one sample, float32; the same in every process."""
    rng = np.random.default_rng([seed, 4, index])
    return rng.standard_normal(tuple(shape), dtype=np.float32)


__all__ = [
    'Batch', 'Batches', 'Encoders', 'LatentBatches', 'VideoBatches', 'draw_context', 'grid_of',
    'indices_of', 'normal', 'precompute',
]  # fmt: skip
