"""What a training of a Wan planner is made of: one YAML for every size.

A recipe of the tiny size becomes that of the 14B one by another `layout` (and weights to begin
with): nothing else depends on the size. Defaults are those of VERA's planner (appendix A.1 of its
paper, and its code).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vera_core.contract_reader import Checked, ContractError, Document, build, read_document
from vera_planner.video_data.mixture import SourceSpec
from vera_planner.wan.layouts import LAYOUTS, LayoutError, WanLayout, find_layout

AT_LEAST_1 = {'min': 1}
POSITIVE = {'above': 0}
NOT_NEGATIVE = {'min': 0}
# Attention and feed-forward of every block.
LORA_TARGETS = ('to_q', 'to_k', 'to_v', 'to_out.0', 'ffn.net.0.proj', 'ffn.net.2')
PRECISIONS = ('fp32', 'bf16')
SCHEDULES = ('constant', 'cosine')
SHARDING = ('full', 'grad')


class RecipeError(ValueError):
    """A recipe that cannot be trained; the message names file, key and cure."""


@dataclass(frozen=True)
class CanvasSize(Checked):
    """Pixels of the canvas; what the views of a source leave free on the right is black."""

    height: int = field(metadata=AT_LEAST_1)
    width: int = field(metadata=AT_LEAST_1)


@dataclass(frozen=True)
class Noise(Checked):
    """How training noises its windows (Eq. 7, diffusion forcing).

    Attributes:
        shift: t' = shift t / (1 + (shift - 1) t) for t uniform in 0..1.
        clean_first: probability that the first context latent is clean; the others have one level.
        full_context: probability of N context latents; otherwise uniform in 1 .. N - 1.
        drop_caption: probability of an empty caption, for guidance without negative words.
    """

    shift: float = field(default=3.0, metadata=POSITIVE)
    clean_first: float = field(default=0.5, metadata=NOT_NEGATIVE)
    full_context: float = field(default=0.5, metadata=NOT_NEGATIVE)
    drop_caption: float = field(default=0.0, metadata=NOT_NEGATIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('clean_first', 'full_context', 'drop_caption'):
            if getattr(self, name) > 1:
                raise ContractError('is a probability, at most 1', name)


@dataclass(frozen=True)
class Optimiser(Checked):
    """AdamW and the batches.

    Attributes:
        rate: learning rate; warm_up: steps to reach it, linearly.
        schedule: constant, or cosine: half a cosine to 2% at the last step.
        clip: largest norm of the gradient; None leaves it alone.
        batch: windows on each process at a time; accumulate: times per step.
    """

    rate: float = field(default=6e-6, metadata=POSITIVE)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = field(default=0.05, metadata=NOT_NEGATIVE)
    warm_up: int = field(default=1000, metadata=NOT_NEGATIVE)
    schedule: str = 'constant'
    clip: float | None = field(default=None, metadata=POSITIVE)
    batch: int = field(default=1, metadata=AT_LEAST_1)
    accumulate: int = field(default=4, metadata=AT_LEAST_1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self.schedule, SCHEDULES, 'schedule')
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ContractError(f'are {list(self.betas)}; each lies in 0 .. 1', 'betas')

    def learning_rate(self, step: int, steps: int) -> float:
        """Of step number `step` (0 is the first) of `steps`."""
        rise = min(1.0, (step + 1) / (self.warm_up + 1))
        if self.schedule == 'constant':
            return self.rate * rise
        fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
        return self.rate * rise * (0.02 + 0.98 * fall)


@dataclass(frozen=True)
class Lora(Checked):
    """Adapters (arXiv 2106.09685) instead of all weights; they are merged into what is written."""

    rank: int = field(default=64, metadata=AT_LEAST_1)
    alpha: int = field(default=64, metadata=AT_LEAST_1)
    targets: tuple[str, ...] = LORA_TARGETS


@dataclass(frozen=True)
class Fsdp(Checked):
    """How weights are spread over several GPUs.

    Attributes:
        sharding: full: weights, gradients and moments; grad: weights stay gathered in a step.
        cpu_offload: what is not in use waits in the computer's memory.
    """

    sharding: str = 'full'
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        _one_of(self.sharding, SHARDING, 'sharding')


@dataclass(frozen=True)
class Validation(Checked):
    """Windows that training never sees.

    Attributes:
        data: their sources.
        windows: how many; every: steps between looks.
        sample_steps: of the sampler, for the PSNR and the pictures; 0: only the loss.
    """

    data: tuple[SourceSpec, ...]
    windows: int = field(default=16, metadata=AT_LEAST_1)
    every: int = field(default=2000, metadata=AT_LEAST_1)
    sample_steps: int = field(default=10, metadata=NOT_NEGATIVE)


@dataclass(frozen=True)
class Recipe(Checked):
    """A training, whole.

    Attributes:
        name: of the planner.
        layout: size, one of vera_planner.wan.layouts.LAYOUTS.
        steps: optimiser steps.
        canvas: size of the canvas.
        frame_period: seconds between frames.
        context: N, most context latents; look_ahead: M, future latents; committed: of those, the
            ones that are executed before the next plan.
        data: sources of videos.
        init: planner that training begins with, a folder or a hub id; None: random weights.
        revision: of a hub id in `init`: a commit.
        autoencoder: folder or hub id with a `vae/`, for `init: null`; needed by sizes with a VAE
            unless the latents are precomputed.
        precomputed: folder that `vera train video --precompute` filled; training then needs
            neither videos nor autoencoder nor text encoder.
        windows: how many are precomputed.
        sampling: defaults of the sampler by its argument names, as `steps` or `text_guidance`; they
            are written into the planner.
        emphasis: extra weight in the loss of latents that change; 0 is the paper's.
        lora: None trains all weights.
        gradient_checkpointing: share of the blocks that are computed twice instead of remembered.
        ema: decay of averaged weights, which are then what is written; None: no average.
        save_every: steps between states to resume from, and planners written.
        workers: processes that read videos ahead of the training.
    """

    name: str
    layout: str
    steps: int = field(metadata=AT_LEAST_1)
    canvas: CanvasSize
    frame_period: float = field(metadata=POSITIVE)
    data: tuple[SourceSpec, ...]
    context: int = field(default=6, metadata=AT_LEAST_1)
    look_ahead: int = field(default=4, metadata=AT_LEAST_1)
    committed: int = field(default=1, metadata=AT_LEAST_1)
    init: str | None = None
    revision: str | None = None
    autoencoder: str | None = None
    precomputed: str | None = None
    windows: int = field(default=10000, metadata=AT_LEAST_1)
    noise: Noise = field(default_factory=Noise)
    optimiser: Optimiser = field(default_factory=Optimiser)
    sampling: dict[str, Any] = field(default_factory=dict)
    emphasis: float = field(default=0.0, metadata=NOT_NEGATIVE)
    lora: Lora | None = None
    precision: str = 'bf16'
    gradient_checkpointing: float = field(default=0.5, metadata=NOT_NEGATIVE)
    ema: float | None = field(default=None, metadata=POSITIVE)
    fsdp: Fsdp | None = None
    validation: Validation | None = None
    save_every: int = field(default=2000, metadata=AT_LEAST_1)
    seed: int = field(default=0, metadata=NOT_NEGATIVE)
    workers: int = field(default=0, metadata=NOT_NEGATIVE)
    licence: str = 'Apache-2.0'

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            layout = find_layout(self.layout)
        except LayoutError as error:
            raise ContractError(f'{error}', 'layout') from None
        _one_of(self.precision, PRECISIONS, 'precision')
        if not self.data:
            raise ContractError('is empty; at least one source is needed', 'data')
        if self.committed > self.look_ahead:
            raise ContractError(
                f'is {self.committed}; only {self.look_ahead} are looked ahead', 'committed'
            )
        for name in ('gradient_checkpointing', 'ema'):
            value = getattr(self, name)
            if value is not None and value > 1:
                raise ContractError(f'is {value}; it is at most 1', name)
        multiple = self.multiple
        for name in ('height', 'width'):
            if getattr(self.canvas, name) % multiple:
                raise ContractError(
                    f'is {getattr(self.canvas, name)} px; tokens of {layout.name} need a multiple '
                    f'of {multiple}',
                    f'canvas.{name}',
                )

    @property
    def size(self) -> WanLayout:
        """The layout that `layout` names."""
        return LAYOUTS[self.layout]

    @property
    def multiple(self) -> int:
        """Rows and columns of the canvas [px] that one token stands for."""
        size = self.size
        return size.stride[1] * size.patch[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `build_recipe` makes it again."""
        found: dict[str, Any] = _plain(dataclasses.asdict(self))
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _one_of(value: str, known: tuple[str, ...], key: str) -> None:
    if value not in known:
        raise ContractError(f'is {value!r}; known: {", ".join(known)}', key)


def build_recipe(data: Mapping[str, Any]) -> Recipe:
    """The recipe of plain data; raises RecipeError."""
    document = Document('recipe', dict(data))
    return _build(document)


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: of the YAML file.
        overrides: values over those of the file: nested mappings or dotted keys.

    Raises:
        RecipeError: one message with file, line and key for whatever is wrong.
    """
    try:
        document = read_document(path)
        if overrides:
            document.override(overrides)
    except ContractError as error:
        raise RecipeError(str(error).replace('a contract', 'a recipe')) from error
    return _build(document)


def _build(document: Document) -> Recipe:
    try:
        return build(Recipe, document.data)
    except ContractError as error:
        where = document.where(error.key)
        raise RecipeError(f'{where}: {error.key}: {error.message}') from None


__all__ = [
    'Fsdp', 'Lora', 'Noise', 'Optimiser', 'Recipe', 'RecipeError', 'Validation', 'build_recipe',
    'load_recipe',
]  # fmt: skip
