"""Trains planners of the Wan family by diffusion forcing: one program for every size.

A window is K context latents and M future ones (`vera_planner.wan.training_data`). All context has
one noise level, all future another; the first context latent is clean now and then, and the loss
is on the future (Eq. 7). On several GPUs: `torchrun --nproc_per_node 8 .venv/bin/vera train video
...` or `accelerate launch`, on several machines likewise; `fsdp` in the recipe spreads weights.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vera_core.checkpoint import write_atomic
from vera_core.seams import Image
from vera_planner.wan import checkpoints
from vera_planner.wan.layouts import WanLayout
from vera_planner.wan.model import WanDenoiser, build_transformer, build_vae, cast
from vera_planner.wan.recipe import Fsdp, Noise, Optimiser, Recipe, RecipeError
from vera_planner.wan.sampler import NEGATIVE_PROMPT, sample_future
from vera_planner.wan.text import MiniLmText
from vera_planner.wan.training_data import (
    Batch,
    Batches,
    Encoders,
    LatentBatches,
    VideoBatches,
    normal,
    precompute,
)
from vera_planner.wan.training_state import (
    Average,
    gathered,
    load_state,
    plain_transformer,
    save_state,
    unwrapped,
)

SMALL = 200e6  # weights; smaller models are written in float32, others in the recipe's precision
CHANGED = 0.1  # of a latent's deviation: what counts as moving for the recipe's emphasis
PICTURES = 4  # windows in a grid of samples
log = logging.getLogger(__name__)


@dataclass
class Frozen:
    """What a training begins with and does not change.

    Attributes:
        denoiser: with the weights to begin with, float32.
        vae: None for layouts of pixels, or where latents are precomputed.
        encoders: None where latents are precomputed.
        parts: of `planner.json`: where autoencoder and encoders are.
        source: of the weights, with its revision; '' for random ones.
        licence: of the weights; '' for random ones.
    """

    denoiser: WanDenoiser
    vae: Any
    encoders: Encoders | None
    parts: dict[str, Any]
    source: str = ''
    revision: str = ''
    licence: str = ''


def open_frozen(
    recipe: Recipe, device: torch.device, *, encoders: bool, weights: bool = True
) -> Frozen:
    """Weights to begin with, and the autoencoder and encoders if they are needed.

    Without `weights` the transformer is but a shape.

    Raises:
        CheckpointError: `init` or `autoencoder` cannot be used.
        RecipeError: `init` has another layout, or the layout's autoencoder is nowhere named.
    """
    size = recipe.size
    if recipe.init is not None:
        info = checkpoints.locate(recipe.init, recipe.revision)
        if not same_network(info.layout, size):
            raise RecipeError(
                f'{recipe.init} is a {info.layout.name}; the recipe says layout: {size.name}'
            )
        transformer = (
            checkpoints.load_transformer(info, torch.float32)
            if weights
            else build_transformer(size, 'meta')
        )
        found = Frozen(
            WanDenoiser(transformer, size),
            None,
            None,
            _absolute(info),
            info.source or str(info.folder),
            info.revision,
            info.licence,
        )
    else:
        info = None
        transformer = build_transformer(size, 'cpu' if weights else 'meta', seed=recipe.seed)
        found = Frozen(WanDenoiser(transformer, size), None, None, {})
    if recipe.autoencoder is not None:
        info = checkpoints.locate(recipe.autoencoder, recipe.revision)
        found.parts |= _absolute(info)
    if not encoders:
        return found
    if size.vae != 'pixels':
        if info is not None:
            found.vae = checkpoints.load_vae(info, device)
        elif size.hub_id:
            raise RecipeError(
                f'layout {size.name} needs an autoencoder: set `init` or `autoencoder`, e.g. to '
                f'{size.hub_id}@COMMIT; or precompute the latents'
            )
        else:
            log.warning('autoencoder of random weights: plans of this planner show nothing')
            found.vae = build_vae(size, device, seed=recipe.seed)
    if size.text == 'minilm':
        text: Any = MiniLmText(size.text_length)
    else:
        if info is None:
            raise RecipeError(
                f'layout {size.name} needs a text encoder: set `init` or `autoencoder`, e.g. to '
                f'{size.hub_id}@COMMIT; or precompute the latents'
            )
        text = checkpoints.load_text(info, torch.bfloat16)
        text.device = device
    image = None
    if size.image_dim is not None and info is not None:
        image = checkpoints.load_image(info, torch.bfloat16)
        image.model.to(device)
    found.encoders = Encoders(recipe, found.vae, text, image)
    return found


def same_network(a: WanLayout, b: WanLayout) -> bool:
    """Whether weights of one layout fit the other."""
    keys = (
        'dim', 'ffn', 'heads', 'layers', 'in_channels', 'out_channels', 'text_dim', 'freq_dim',
        'image_dim', 'patch', 'family', 'sample_info', 'predicts',
    )  # fmt: skip
    return all(getattr(a, key) == getattr(b, key) for key in keys)


def _absolute(info: Any) -> dict[str, Any]:
    return {
        name: str((info.folder / entry).absolute()) if isinstance(entry, str) else entry
        for name, entry in info.parts.items()
    }


def training_levels(
    noise: Noise, indices: tuple[int, ...], seed: int, context: int, look_ahead: int
) -> Tensor:
    """Flow times [B, K + M] of the samples: t' = s t / (1 + (s - 1) t), t uniform in 0..1."""
    levels = torch.empty(len(indices), context + look_ahead)
    for row, index in zip(levels, indices, strict=True):
        rng = np.random.default_rng([seed, 5, index])
        past, future, clean = rng.random(3)
        row[:context] = _shifted(past, noise.shift)
        row[context:] = _shifted(future, noise.shift)
        if clean < noise.clean_first:
            row[0] = 0.0
    return levels


def _shifted(t: float, shift: float) -> float:
    return shift * t / (1 + (shift - 1) * t)


def forcing_loss(
    model: Callable[..., Tensor],
    batch: Batch,
    levels: Tensor,
    noise: Tensor,
    emphasis: float = 0.0,
) -> Tensor:
    """Eq. 7: mean squared error of v = eps - z over the future latents.

    Args:
        model: WanDenoiser, or one wrapped for several processes.
        batch: clean latents z, and what the model is told.
        levels: [B, K + M], flow time t of each latent frame.
        noise: eps, of the shape of the latents; z_t = (1 - t) z + t eps.
        emphasis: extra weight of latents that differ from the newest context latent; the weights'
            mean is 1.

    Returns:
        A scalar with its gradient.
    """
    k, z = batch.context, batch.latents
    t = levels[:, None, :, None, None]
    predicted = model((1 - t) * z + t * noise, levels, batch.text, batch.image)
    error = (predicted - (noise - z))[:, :, k:] ** 2
    if emphasis:
        change = (z[:, :, k:] - z[:, :, k - 1 : k]).abs().amax(1, keepdim=True) > CHANGED
        weight = 1 + emphasis * change
        error = error * weight / weight.mean((1, 2, 3, 4), keepdim=True)
    return error.mean()


def add_adapters(transformer: Any, rank: int, alpha: int, targets: tuple[str, ...]) -> None:
    """Freeze a transformer and add LoRA to it, in float32.

    Raises:
        RecipeError: peft is not installed, or a target is in no block.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise RecipeError('training adapters needs peft: `pip install peft`') from error
    transformer.requires_grad_(False)
    for target in targets:
        if not any(name.endswith(target) for name, _ in transformer.named_modules()):
            raise RecipeError(f'lora.targets: no module {target!r} in the transformer')
    transformer.add_adapter(
        LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights='gaussian'
        )
    )
    for weight in transformer.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def checkpoint_blocks(transformer: Any, share: float) -> int:
    """Let this share of the blocks be computed twice; returns how many."""
    blocks = list(transformer.blocks)
    count = round(share * len(blocks))
    # Spread evenly: the memory of the others is then needed at different times.
    chosen = {id(blocks[i * len(blocks) // count]) for i in range(count)} if count else set()

    def run(block: Any, *arguments: Any) -> Any:
        if id(block) not in chosen:
            return block(*arguments)
        from torch.utils.checkpoint import checkpoint

        return checkpoint(block, *arguments, use_reentrant=False)

    if count:
        transformer.enable_gradient_checkpointing(run)
    return count


class Trainer:
    """One training among the processes that share it.

    Args:
        recipe: what to train.
        out: folder for state, curve, samples and planner.
        device: 'cpu' or 'cuda'; a GPU if there is one, unless told.
        command: the command line, kept in the planner.
        tensorboard: write event files into `out`, too.

    Raises:
        RecipeError, VideoDataError, CheckpointError: something of the recipe cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        device: str = '',
        command: str = '',
        tensorboard: bool = False,
    ) -> None:
        self.recipe, self.out, self.command = recipe, Path(out), command
        self.accelerator = make_accelerator(recipe, device)
        self.device = torch.device(self.accelerator.device)
        latents = Path(recipe.precomputed).expanduser() if recipe.precomputed else None
        # Samples and held-out videos need the encoders even where latents are precomputed.
        self.frozen = open_frozen(
            recipe, self.device, encoders=latents is None or recipe.validation is not None
        )
        self.batches: Batches
        if latents is not None:
            self.batches = LatentBatches(recipe, latents)
        else:
            assert self.frozen.encoders is not None
            self.batches = VideoBatches(recipe, self.frozen.encoders)
        self.held_out = self._held_out()
        transformer = self.frozen.denoiser.transformer
        transformer.train().requires_grad_(True)
        if recipe.lora is not None:
            if recipe.precision == 'bf16' and recipe.fsdp is None:
                cast(transformer, torch.bfloat16)  # it stays as it is; adapters are float32
            # The same adapters in every process, and in a run that resumes.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                add_adapters(
                    transformer, recipe.lora.rank, recipe.lora.alpha, recipe.lora.targets
                )
        checkpoint_blocks(transformer, recipe.gradient_checkpointing)
        trained = [p for p in self.frozen.denoiser.parameters() if p.requires_grad]
        self.optimiser: Any = make_optimiser(recipe.optimiser, trained)
        self.model: Any
        self.model, self.optimiser = self.accelerator.prepare(
            self.frozen.denoiser, self.optimiser
        )
        self.average = Average(self.model, recipe.ema) if recipe.ema is not None else None
        self.step = 0
        self.cpu_seconds = 0.0
        self.curve: list[dict[str, float]] = []
        self._writer: Any = None
        if tensorboard and self.accelerator.is_main_process:
            self._writer = _summary_writer(self.out)

    @property
    def windows(self) -> int:
        """Windows of all processes in one step."""
        o = self.recipe.optimiser
        return o.batch * o.accumulate * int(self.accelerator.num_processes)

    def resume(self) -> None:
        """Continue from the state in `out`; raises RecipeError where there is none that fits."""
        optimiser = self.optimiser.optimizer
        progress = load_state(
            self.out, self.model, optimiser, self.average, self.recipe, self.windows
        )
        self.step, self.curve = int(progress['step']), list(progress['curve'])
        self.cpu_seconds = float(progress['cpu_seconds'])

    def run(self) -> None:
        """Train to the last step; look at held-out windows and save on the way."""
        r = self.recipe
        accelerator = self.accelerator
        process, processes = int(accelerator.process_index), int(accelerator.num_processes)
        source = self.batches.iterate(self.step * r.optimiser.accumulate, process, processes)
        started = time.process_time() - self.cpu_seconds
        recent: list[Tensor] = []
        bar = tqdm(
            total=r.steps, initial=self.step, desc=f'train {r.name}', mininterval=5,
            disable=not accelerator.is_main_process,
        )  # fmt: skip
        while self.step < r.steps:
            recent.append(self.train_step([next(source) for _ in range(r.optimiser.accumulate)]))
            bar.update()
            last = self.step == r.steps
            look = r.validation is not None and self.step % r.validation.every == 0
            save = self.step % r.save_every == 0
            if not (look or save or last):
                continue
            self.cpu_seconds = time.process_time() - started
            loss = accelerator.reduce(torch.stack(recent).mean(), 'mean')
            row = {'step': float(self.step), 'loss': float(loss), 'cpu_seconds': self.cpu_seconds}
            recent.clear()
            if r.validation is not None and (look or last):
                row |= self.validate()
            self.curve.append(row)
            self._tell(row)
            bar.set_postfix({k: f'{v:.3g}' for k, v in row.items() if k not in ('step',)})
            if save or last:
                self.save()
                self.export()
        bar.close()

    def train_step(self, batches: list[Batch]) -> Tensor:
        """One optimiser step over its batches; this process's mean loss, without gradient."""
        r, accelerator = self.recipe, self.accelerator
        self.model.train()
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            whole = number == len(batches) - 1
            with nullcontext() if whole else accelerator.no_sync(self.model):
                loss = self._loss(batch, self.model)
                accelerator.backward(loss / len(batches))
            total += loss.detach() / len(batches)
        if not torch.isfinite(total):
            raise RecipeError(
                f'step {self.step + 1}: the loss is {float(total)}; lower optimiser.rate or set '
                'optimiser.clip, and go on with --resume'
            )
        if r.optimiser.clip is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), r.optimiser.clip)
        for group in self.optimiser.param_groups:
            group['lr'] = r.optimiser.learning_rate(self.step, r.steps)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        return total

    def _loss(self, batch: Batch, model: Any) -> Tensor:
        r = self.recipe
        shape = batch.latents.shape[1:]
        noise = torch.from_numpy(np.stack([normal(r.seed, i, shape) for i in batch.indices]))
        levels = training_levels(r.noise, batch.indices, r.seed, batch.context, r.look_ahead)
        return forcing_loss(
            self._in_precision(model),
            to_device(batch, self.device),
            levels.to(self.device),
            noise.to(self.device),
            r.emphasis,
        )

    def _in_precision(self, model: Any) -> Callable[..., Tensor]:
        """The model under autocast, which accelerate leaves out where weights are spread."""

        def run(*arguments: Any) -> Tensor:
            with self.accelerator.autocast():
                predicted: Tensor = model(*arguments)
            return predicted

        return run

    def _held_out(self) -> VideoBatches | None:
        v = self.recipe.validation
        if v is None or self.frozen.encoders is None:
            return None
        # Windows of their own, whatever the training's seed is.
        recipe = replace(self.recipe, seed=self.recipe.seed + 1_000_003)
        return VideoBatches(recipe, self.frozen.encoders, v.data)

    def validate(self) -> dict[str, float]:
        """Loss on held-out windows; PSNR [dB] of sampled futures of a single context frame.

        The PSNR is that of the first and of the last future frame, with the window's caption and
        with that of another window. The processes share the windows.
        """
        v = self.recipe.validation
        assert v is not None and self.held_out is not None
        with self.average.applied() if self.average is not None else nullcontext():
            self.model.eval()
            accelerator = self.accelerator
            processes = int(accelerator.num_processes)
            # As many for each: spread weights are gathered by all at once.
            mine = range(accelerator.process_index, -(-v.windows // processes) * processes,
                         processes)
            sums: dict[str, list[float]] = {}
            with torch.no_grad():
                for index in mine:
                    batch = self._held_out_batch(index, self.held_out.mixture.context)
                    loss = self._loss(batch, unwrapped(self.model, accelerator))
                    sums.setdefault('held_out_loss', []).append(float(loss))
            if v.sample_steps:
                for key, values in self._sample_held_out(mine, v.sample_steps).items():
                    sums[key] = values
            self.model.train()
        found = {}
        for key, values in sums.items():
            both = torch.tensor([sum(values), float(len(values))], device=self.device)
            both = accelerator.reduce(both, 'sum')
            found[key] = float(both[0] / both[1])
        return found

    def _held_out_batch(self, index: int, context: int) -> Batch:
        assert self.held_out is not None and self.frozen.encoders is not None
        window = self.held_out.mixture.window(index, context)
        return self.frozen.encoders.encode([window], context, [index])

    def _sample_held_out(self, mine: range, steps: int) -> dict[str, list[float]]:
        """PSNRs of this process's windows; the main one draws the first few, too."""
        assert self.held_out is not None and self.frozen.encoders is not None
        mixture, encoders = self.held_out.mixture, self.frozen.encoders
        found: dict[str, list[float]] = {}
        rows: list[Image] = []
        frames = self.recipe.size.stride[0] * self.recipe.look_ahead
        for index in mine:
            window = mixture.window(index, 1, first_anchor=True)
            other = next(
                (
                    caption
                    for i in range(index + 1, index + 50)
                    if (caption := mixture.window(i, 1, first_anchor=True).caption)
                    != window.caption
                ),
                None,
            )
            captions = {'right': window.caption, 'wrong': other or window.caption}
            truth = window.frames[1:]
            for label, caption in captions.items():
                said = replace(window, caption=caption)
                batch = encoders.encode([said], 1, [index])
                latents = self._sample(batch, steps)
                imagined = encoders.codec(window.widths).decode(
                    latents[0].float().cpu(), self.recipe.look_ahead
                )
                if label == 'wrong' and other is None:
                    continue
                for name, i in (('first', 0), ('last', frames - 1)):
                    key = f'psnr_{name}_{label}'
                    found.setdefault(key, []).append(psnr(imagined[i], truth[i]))
                if label == 'right' and len(rows) < 2 * PICTURES:
                    rows += [_strip(window.frames[0], truth), _strip(window.frames[0], imagined)]
        if rows and self.accelerator.is_main_process:
            self._draw(np.concatenate(rows))
        return found

    def _sample(self, batch: Batch, steps: int) -> Tensor:
        """Context and sampled future latents, [1, C, 1 + M, h, w]."""
        r, encoders = self.recipe, self.frozen.encoders
        assert encoders is not None
        batch = to_device(batch, self.device)
        settings = planner_sampling(r)
        text_guidance = float(settings.get('text_guidance', 3.0))
        negative = str(settings.get('negative', NEGATIVE_PROMPT))
        future = sample_future(
            self._in_precision(unwrapped(self.model, self.accelerator)),
            batch.latents[:, :, :1],
            r.look_ahead,
            batch.text,
            encoders.text(negative)[None].to(self.device) if text_guidance else None,
            steps=steps,
            shift=r.noise.shift,
            text_guidance=text_guidance,
            history_guidance=float(settings.get('history_guidance', 2.0)),
            context_level=settings.get('context_level'),
            image=batch.image,
            generator=torch.Generator().manual_seed(batch.indices[0]),
        )
        return torch.cat([batch.latents[:, :, :1], future], dim=2)

    def _draw(self, picture: Image) -> None:
        """Pairs of rows: what happened, what was imagined; one frame of context in front."""
        import cv2

        folder = self.out / 'samples'
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f'step_{self.step:07d}.png'
        cv2.imwrite(str(file), np.ascontiguousarray(picture[..., ::-1]))
        if self._writer is not None:
            self._writer.add_image('samples', picture, self.step, dataformats='HWC')

    def _tell(self, row: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.curve, indent=1) + '\n'
        write_atomic(self.out / 'curve.json', text.encode())
        if self._writer is not None:
            rate = self.recipe.optimiser.learning_rate(self.step - 1, self.recipe.steps)
            for key, value in {**row, 'rate': rate}.items():
                if key != 'step':
                    self._writer.add_scalar(key, value, self.step)
            self._writer.flush()

    def save(self) -> None:
        """State for an exact resume."""
        progress = {
            'step': self.step,
            'windows': self.windows,
            'cpu_seconds': self.cpu_seconds,
            'curve': self.curve,
            'recipe': self.recipe.to_dict(),
        }
        optimiser = self.optimiser.optimizer
        save_state(self.out, self.model, optimiser, self.average, progress, self.accelerator)

    def export(self) -> Path:
        """Write the planner, with averaged weights if there are some; its folder."""
        r = self.recipe
        folder = self.out / r.name
        # Written inside: on the CPU the gathered weights are the model's own memory.
        with self.average.applied() if self.average is not None else nullcontext():
            weights = gathered(self.model, self.accelerator)
            if self.accelerator.is_main_process:
                self._write(folder, weights)
        self.accelerator.wait_for_everyone()
        return folder

    def _write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        r = self.recipe
        small = sum(w.numel() for w in weights.values()) < SMALL
        kind = torch.float32 if small or r.precision == 'fp32' else torch.bfloat16
        elsewhere = {
            name: where
            for name, where in self.frozen.parts.items()
            if name != 'vae' or self.frozen.vae is None
        }
        checkpoints.write_planner(
            folder,
            WanDenoiser(cast(plain_transformer(weights, r.size, r), kind), r.size),
            self.frozen.vae,
            contract=self.batches.contract,
            sampling=planner_sampling(r),
            licence=self.frozen.licence or r.licence,
            source=self.frozen.source,
            revision=self.frozen.revision,
            parts=elsewhere,
            training={
                'command': self.command,
                'seed': r.seed,
                'steps': self.step,
                'windows_per_step': self.windows,
                'cpu_seconds': self.cpu_seconds,
                'recipe': r.to_dict(),
                'metrics': self.curve[-1] if self.curve else {},
            },
        )

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()


def planner_sampling(recipe: Recipe) -> dict[str, Any]:
    """Defaults of the sampler that go into `planner.json`."""
    return {
        'context': recipe.context,
        'look_ahead': recipe.look_ahead,
        'shift': recipe.noise.shift,
        **recipe.sampling,
    }


def make_accelerator(recipe: Recipe, device: str = '') -> Any:
    """The processes of this training, their device and precision.

    Raises:
        RecipeError: accelerate is not installed, or no such device.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise RecipeError(
            'training needs accelerate: `make setup`, or `pip install accelerate`'
        ) from error
    if device not in ('', 'cpu', 'cuda'):
        raise RecipeError(f'unknown device {device!r}; known: cpu, cuda')
    if device == 'cuda' and not torch.cuda.is_available():
        raise RecipeError(
            'device cuda is not there: no NVIDIA GPU, or a PyTorch without CUDA; or --device cpu'
        )
    plugin = None
    if recipe.fsdp is not None:
        if not torch.cuda.is_available() or device == 'cpu':
            raise RecipeError('fsdp spreads weights over GPUs; take it out to train on the CPU')
        plugin = fsdp_plugin(recipe, recipe.fsdp)
    return Accelerator(
        cpu=device == 'cpu' or not torch.cuda.is_available(),
        mixed_precision='bf16' if recipe.precision == 'bf16' else 'no',
        fsdp_plugin=plugin,
    )


def fsdp_plugin(recipe: Recipe, options: Fsdp) -> Any:
    """How accelerate spreads the weights: block by block, with FSDP2."""
    from accelerate import FullyShardedDataParallelPlugin

    policy = None
    if recipe.precision == 'bf16':
        policy = mixed_precision()
    skyreels = recipe.size.family == 'skyreels'
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=options.sharding == 'full',
        mixed_precision_policy=policy,
        auto_wrap_policy='transformer_based_wrap',
        transformer_cls_names_to_wrap=[
            'SkyReelsV2TransformerBlock' if skyreels else 'WanTransformerBlock'
        ],
        cpu_offload=options.cpu_offload,
    )


def mixed_precision() -> Any:
    """Weights in bfloat16 where they compute, gradients added up in float32.

    The denoiser casts its own inputs: in bfloat16 a noise level would have three digits.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16,
        reduce_dtype=torch.float32,
        output_dtype=torch.float32,
        cast_forward_inputs=False,
    )


def make_optimiser(
    options: Optimiser, weights: Sequence[Tensor]
) -> torch.optim.Optimizer:
    """AdamW as the recipe says."""
    return torch.optim.AdamW(
        weights, lr=options.rate, betas=options.betas, weight_decay=options.weight_decay
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model computes."""
    return replace(
        batch,
        latents=batch.latents.to(device),
        text=batch.text.to(device),
        image=None if batch.image is None else batch.image.to(device),
    )


def psnr(a: Image, b: Image) -> float:
    """Peak signal-to-noise ratio [dB] of two images, uint8."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * float(np.log10(255**2 / max(error, 1e-3)))


def _strip(first: Image, frames: Image) -> Image:
    """A row of frames uint8 [H, (1 + F) W, 3] with a thin line below."""
    row = np.concatenate([first, *frames], axis=1)
    return np.concatenate([row, np.full((2, *row.shape[1:]), 255, np.uint8)])


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RecipeError(
            'event files need tensorboard: `pip install tensorboard`; or leave --tensorboard out'
        ) from error
    return SummaryWriter(str(folder))


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = '',
    command: str = '',
    tensorboard: bool = False,
) -> dict[str, Any]:
    """What `vera train video` does: train, and write state, curve, samples and planner to `out`.

    Returns:
        The planner's folder and the last row of the curve.

    Raises:
        RecipeError: the recipe cannot be trained, or there is nothing to resume.
        VideoDataError: videos cannot be used.
        CheckpointError: weights to begin with cannot be used.
    """
    trainer = Trainer(recipe, out, device=device, command=command, tensorboard=tensorboard)
    if resume:
        trainer.resume()
    elif (Path(out) / 'state').exists():
        raise RecipeError(f'{out} holds a training; go on with --resume, or name another --out')
    try:
        trainer.run()
    finally:
        trainer.close()
    row = trainer.curve[-1] if trainer.curve else {}
    return {'planner': str(Path(out) / recipe.name), **row}


def precompute_latents(recipe: Recipe, device: str = '') -> dict[str, Any]:
    """What `vera train video --precompute` does: fill the folder that `precomputed` names.

    Returns:
        The folder, and how many windows this process encoded.

    Raises:
        As `train`.
    """
    if recipe.precomputed is None:
        raise RecipeError('precomputed: is missing; name the folder that the latents go to')
    accelerator = make_accelerator(replace(recipe, fsdp=None), device)
    frozen = open_frozen(recipe, torch.device(accelerator.device), encoders=True, weights=False)
    assert frozen.encoders is not None
    folder = Path(recipe.precomputed).expanduser()
    done = precompute(
        recipe, frozen.encoders, folder, accelerator.process_index, accelerator.num_processes
    )
    accelerator.wait_for_everyone()
    return {'precomputed': str(folder), 'windows': done}


__all__ = [
    'Trainer', 'add_adapters', 'checkpoint_blocks', 'forcing_loss',
    'fsdp_plugin', 'open_frozen', 'precompute_latents', 'psnr', 'train', 'training_levels',
]  # fmt: skip
