"""What a training keeps: averaged weights, an exact state to resume from, weights to write."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from vera_core.checkpoint import write_atomic
from vera_planner.wan.layouts import WanLayout
from vera_planner.wan.model import build_transformer
from vera_planner.wan.recipe import Recipe, RecipeError

STATE = 'state'  # folder of weights and moments
PROGRESS = 'progress.json'  # in it
# What may be another at a resume without changing what the steps so far did.
FREE = ('name', 'save_every', 'validation', 'workers', 'sampling', 'licence')
ADAPTER = 'default'  # peft's name of the only one


class Average:
    """Running mean of the trained weights: mean <- decay mean + (1 - decay) weight."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.means = {n: p.detach().clone() for n, p in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step` (1 is the first); early steps are forgotten faster."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self.means.items():
            mean.lerp_(self._weights[name].detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, mean in self.means.items():
            weight = self._weights[name]
            now = weight.detach().clone()
            weight.copy_(mean)
            mean.copy_(now)


def save_state(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    progress: Mapping[str, Any],
    accelerator: Any,
) -> None:
    """Write trained weights, moments and averages; every process its part, whole or not at all.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    part, final = folder / f'{STATE}.part', folder / STATE
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    accelerator.wait_for_everyone()
    with _quiet():
        dcp.save(_state(model, optimiser, average), checkpoint_id=str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_atomic(part / PROGRESS, (json.dumps(progress, indent=1) + '\n').encode())
        old = folder / f'{STATE}.old'
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        part.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_state(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    recipe: Recipe,
    windows: int,
) -> dict[str, Any]:
    """Restore model, optimiser and average in place; returns the progress.

    Args:
        folder: as for `save_state`.
        model: prepared as then.
        optimiser: of its weights.
        average: of its weights.
        recipe: of this run.
        windows: of all processes in one step; another number would be another training.

    Raises:
        RecipeError: nothing to resume, a damaged state, or one of another recipe (it says where).
    """
    saved = folder / STATE
    if not saved.is_dir() and (folder / f'{STATE}.old').is_dir():
        saved = folder / f'{STATE}.old'  # cut short between two renames
    try:
        progress: dict[str, Any] = json.loads((saved / PROGRESS).read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise RecipeError(f'nothing to resume in {folder}; start without --resume') from None
    except (OSError, ValueError) as error:
        raise RecipeError(f'{saved} cannot be read ({error}); start without --resume') from error
    ours, theirs = _compared(recipe), _compared_dict(progress['recipe'])
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            raise RecipeError(
                f'{saved} was trained with {key} = {theirs.get(key)}, not {ours.get(key)}; start '
                'anew in another folder'
            )
    if progress['windows'] != windows:
        raise RecipeError(
            f'{saved} was trained with {progress["windows"]} windows per step, this would take '
            f'{windows}: change optimiser.batch or accumulate, or the number of processes'
        )
    state = _state(model, optimiser, average)
    try:
        with _quiet():
            dcp.load(state, checkpoint_id=str(saved))
    except Exception as error:  # it raises types of its own
        raise RecipeError(f'{saved} cannot be read ({error}); start without --resume') from error
    set_state_dict(
        model,
        optimiser,
        model_state_dict=state['model'],
        optim_state_dict=state['optimiser'],
        options=StateDictOptions(ignore_frozen_params=True, strict=False),
    )
    return progress


@contextmanager
def _quiet() -> Iterator[None]:
    """That there is but one process is no surprise."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'torch.distributed is disabled')
        yield


def _state(
    model: nn.Module, optimiser: torch.optim.Optimizer, average: Average | None
) -> dict[str, Any]:
    weights, moments = get_state_dict(
        model, optimiser, options=StateDictOptions(ignore_frozen_params=True)
    )
    state: dict[str, Any] = {'model': weights, 'optimiser': moments}
    if average is not None:
        state['average'] = average.means  # loaded in place
    return state


def _compared(recipe: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(recipe.to_dict()))
    return _compared_dict(found)


def _compared_dict(plain: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in plain.items() if key not in FREE}
    if found['optimiser']['schedule'] == 'constant':
        del found['steps']  # only the end of it
    return found


def unwrapped(model: nn.Module, accelerator: Any) -> Any:
    """The denoiser without what keeps processes in step; as it is where its weights are spread."""
    if accelerator.is_fsdp2:
        return model
    return accelerator.unwrap_model(model, keep_fp32_wrapper=True)


def gathered(model: nn.Module, accelerator: Any) -> dict[str, Tensor]:
    """All weights of the transformer, whole and on the CPU; nothing but on the main process."""
    full: dict[str, Any] = get_model_state_dict(
        unwrapped(model, accelerator),
        options=StateDictOptions(full_state_dict=True, cpu_offload=True),
    )
    if not accelerator.is_main_process:
        return {}
    prefix = 'transformer.'
    return {k.removeprefix(prefix): v for k, v in full.items() if k.startswith(prefix)}


def plain_transformer(weights: dict[str, Tensor], layout: WanLayout, recipe: Recipe) -> Any:
    """A transformer without adapters of these weights; adapters are merged into theirs.

    W + alpha / rank B A replaces W (arXiv 2106.09685).
    """
    merged: dict[str, Tensor] = {}
    for name, value in weights.items():
        if f'.lora_A.{ADAPTER}.' in name or f'.lora_B.{ADAPTER}.' in name:
            continue
        plain = name.replace('.base_layer.', '.')
        if plain != name and name.endswith('.weight') and recipe.lora is not None:
            stem = name.removesuffix('.base_layer.weight')
            down = weights[f'{stem}.lora_A.{ADAPTER}.weight'].float()
            up = weights[f'{stem}.lora_B.{ADAPTER}.weight'].float()
            value = value.float() + recipe.lora.alpha / recipe.lora.rank * (up @ down)
        merged[plain] = value
    transformer = build_transformer(layout, device='meta')
    rope = transformer.rope
    transformer.load_state_dict(merged, assign=True)
    # Its tables are computed, not stored.
    transformer.rope = type(rope)(rope.attention_head_dim, rope.patch_size, rope.max_seq_len)
    return transformer.eval().requires_grad_(False)


__all__ = [
    'Average', 'gathered', 'load_state', 'plain_transformer', 'save_state', 'unwrapped',
]  # fmt: skip
