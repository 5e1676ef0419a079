"""Trains the compact planner with diffusion forcing; the loss is on the future frames only."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  torch's own convention
from tqdm import tqdm

from vera_core.checkpoint import CheckpointInfo, find_checkpoint, write_checkpoint
from vera_planner.clips import ClipDataset
from vera_planner.compact import to_signal
from vera_planner.diffusion import NoiseConfig, noised, sample, training_levels
from vera_planner.network import NetworkConfig, VideoNetwork, build
from vera_planner.text import shared_encoder

LICENCE = 'Apache-2.0'


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: folders of training clips, one for each embodiment; held_out: of validation clips.
        out: folder for state, curve and checkpoint.
        shares: of the steps for each folder; equal if empty. All windows of a step are of one
            folder, so canvases of different sizes need no padding.
        steps: optimiser steps of `batch` windows each.
        moving: extra weight of pixels that change between the anchor and the target frame.
        init: checkpoint whose weights training starts from; None: from the seed.
    """

    data: tuple[Path, ...]
    held_out: tuple[Path, ...]
    out: Path
    shares: tuple[float, ...] = ()
    name: str = 'compact_finger'
    steps: int = 16000
    batch: int = 16
    lr: float = 6e-4
    warmup: int = 200
    ema: float = 0.998
    moving: float = 8.0
    seed: int = 0
    threads: int = 1
    bf16: bool = True
    validate_every: int = 250
    init: Path | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)

    def __post_init__(self) -> None:
        if not self.data or len(self.data) != len(self.held_out):
            raise ValueError('every folder of training clips needs one of held-out clips')
        if self.shares and len(self.shares) != len(self.data):
            raise ValueError(f'{len(self.shares)} shares for {len(self.data)} folders of clips')
        if any(share <= 0 for share in self.shares):
            raise ValueError(f'shares {self.shares}: each must be positive')


# Where little moves, what moves still counts for about half: up to this extra weight.
MOST_MOVING = 64.0
COARSE = (4, 8)  # px: sides of the cells of the coarser pictures


def video_loss(predicted: Tensor, target: Tensor, anchor: Tensor, moving: float) -> Tensor:
    """Charbonnier loss with emphasis on pixels that move, per window [B]."""
    change = (target - anchor[:, None]).abs().amax(2, keepdim=True) > 0.08
    b, m, _, h, w = change.shape
    near = F.max_pool2d(change.float().reshape(b * m, 1, h, w), 3, 1, 1).view(b, m, 1, h, w)
    share = near.mean((1, 2, 3, 4), keepdim=True)
    extra = (1 / share.clamp_min(1e-6)).clamp(min=moving, max=max(moving, MOST_MOVING))
    weight = 1 + extra * near
    error = torch.sqrt((predicted - target) ** 2 + 1e-4) - 1e-2
    loss = (weight * error).mean((1, 2, 3, 4)) / weight.mean((1, 2, 3, 4))
    # A small thing painted beside where it should be overlaps it only in a coarser picture.
    for cells in COARSE:
        off = F.avg_pool2d((predicted - target).flatten(0, 1), cells).unflatten(0, (b, m))
        there = F.avg_pool2d(weight.flatten(0, 1), cells).unflatten(0, (b, m))
        error = torch.sqrt(off**2 + 1e-4) - 1e-2
        loss = loss + (there * error).mean((1, 2, 3, 4)) / there.mean((1, 2, 3, 4))
    return loss


class Trainer:
    """Holds all that an exact resume needs."""

    def __init__(self, config: TrainConfig) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        net = config.network
        self.clips = [ClipDataset(folder, net.context, net.look_ahead) for folder in config.data]
        shares = np.array(config.shares or [1.0] * len(self.clips))
        self.shares = shares / shares.sum()
        self.encoder = shared_encoder()
        self.network = build(net)
        self.init: CheckpointInfo | None = None
        if config.init is None:
            captions = [s for clips in self.clips for g in clips.meta['groups'] for s in g]
            self.network.standardise_text(
                torch.from_numpy(np.stack([self.encoder(s) for s in captions]))
            )
        else:
            self._begin_from(config.init)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.rng = np.random.default_rng(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.cpu_seconds = 0.0
        self.curve: list[dict[str, float]] = []

    def _begin_from(self, path: Path) -> None:
        self.init = find_checkpoint(str(path), kind='planner')
        weights = {k: torch.from_numpy(v).float() for k, v in self.init.tensors().items()}
        if self.init.config.get('layers', 0) != self.config.network.layers:
            # Another head begins anew, on the features of the old one.
            ours = self.network.state_dict()
            weights = {k: v for k, v in weights.items() if not k.startswith('head.')}
            weights |= {k: v for k, v in ours.items() if k.startswith('head.')}
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f'{path} is of another network: {error}') from error

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine to 2%."""
        c = self.config
        rise = min(1.0, (self.step + 1) / c.warmup)
        return c.lr * rise * (0.02 + 0.49 * (1 + math.cos(math.pi * self.step / c.steps)))

    def train_step(self) -> float:
        """One optimiser step; its loss."""
        c, net = self.config, self.config.network
        chosen = int(self.rng.choice(len(self.clips), p=self.shares)) if len(self.clips) > 1 else 0
        batch, history = self.clips[chosen].sample(self.rng, c.batch)
        frames = to_signal(batch.frames)
        text = torch.from_numpy(np.stack([self.encoder(s) for s in batch.sentences]))
        levels = training_levels(
            torch.from_numpy(history), net.context, net.look_ahead, c.noise, self.generator
        )
        noise = torch.randn(frames.shape, generator=self.generator)
        target, anchor = frames[:, net.context :], frames[:, net.context - 1]
        with torch.autocast('cpu', torch.bfloat16, enabled=c.bf16):
            predicted = self.network(noised(frames, levels, noise), levels, text)
        # Low noise leaves little to predict: weigh windows so that no level dominates.
        weight = 1 / (0.25 + levels[:, net.context :].mean(1))
        loss = (video_loss(predicted.float(), target, anchor, c.moving) * weight).mean()
        for group in self.optimiser.param_groups:
            group['lr'] = self.learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(c.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        return float(loss.detach())

    def run(self) -> None:
        """Train to the last step, validating and saving state on the way."""
        c = self.config
        recent: list[float] = []
        bar = tqdm(total=c.steps, initial=self.step, desc=f'train {c.name}', mininterval=5)
        started = time.process_time() - self.cpu_seconds
        while self.step < c.steps:
            recent.append(self.train_step())
            bar.update()
            if self.step % c.validate_every == 0 or self.step == c.steps:
                row = {'step': self.step, 'loss': float(np.mean(recent))}
                self.cpu_seconds = time.process_time() - started
                row['cpu_seconds'] = self.cpu_seconds
                for folder in c.held_out:
                    scores = validate(self.average, folder, self.encoder)
                    prefix = f'{_embodiment(folder)}_' if len(c.held_out) > 1 else ''
                    row |= {prefix + k: v for k, v in scores.items()}
                self.curve.append(row)
                recent.clear()
                bar.set_postfix({k: f'{v:.2f}' for k, v in row.items() if 'psnr' in k})
                self.save()

    def save(self) -> None:
        """State for an exact resume, and the curve so far."""
        out = Path(self.config.out)
        out.mkdir(parents=True, exist_ok=True)
        state = {
            'network': self.network.state_dict(),
            'average': self.average.state_dict(),
            'optimiser': self.optimiser.state_dict(),
            'step': self.step,
            'cpu_seconds': self.cpu_seconds,
            'generator': self.generator.get_state(),
            'curve': self.curve,
            'rng': json.dumps(self.rng.bit_generator.state),
        }
        part = out / 'state.part'
        torch.save(state, part)
        part.replace(out / 'state.pt')
        (out / 'curve.json').write_text(json.dumps(self.curve, indent=1))

    def resume(self) -> bool:
        """Continue from `out/state.pt` if it is there."""
        file = Path(self.config.out) / 'state.pt'
        if not file.is_file():
            return False
        state = torch.load(file, weights_only=True)
        self.network.load_state_dict(state['network'])
        self.average.load_state_dict(state['average'])
        self.optimiser.load_state_dict(state['optimiser'])
        self.generator.set_state(state['generator'])
        self.rng.bit_generator.state = json.loads(state['rng'])
        self.step, self.cpu_seconds = state['step'], state['cpu_seconds']
        self.curve = state['curve']
        return True

    def export(self, command: str) -> CheckpointInfo:
        """Write the averaged weights (float16) as a checkpoint."""
        c = self.config
        tensors = {
            k: v.detach().to(torch.float16).numpy() for k, v in self.average.state_dict().items()
        }
        plain = json.loads(json.dumps(asdict(c), default=str))
        recipes = [clips.meta['recipe'] | {'clips': len(clips)} for clips in self.clips]
        contracts = [clips.meta['contract'] for clips in self.clips]
        training = {
            'command': command,
            'seed': c.seed,
            'steps': self.step,
            'cpu_seconds': self.cpu_seconds,
            'data': recipes[0] if len(recipes) == 1 else recipes,
            'licence': LICENCE,
            'options': {k: v for k, v in plain.items() if k not in ('data', 'held_out', 'out')},
            'metrics': self.curve[-1] if self.curve else {},
        }
        if self.init is not None:
            training['began_from'] = {
                'name': self.init.name,
                'sha256': self.init.sha256,
                'training': self.init.training,
            }
        return write_checkpoint(
            Path(c.out) / f'{c.name}.safetensors',
            tensors,
            kind='planner',
            config=c.network.to_dict(),
            contract=contracts[0] if len(contracts) == 1 else {'any_of': contracts},
            training=training,
        )


def _embodiment(folder: Path) -> str:
    """Of a folder of clips: the environment that they were made in."""
    meta = json.loads((folder / 'clips.json').read_text(encoding='utf-8'))
    return str(meta['recipe'].get('expert', folder.name))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [dB] of signals in -1..1 over the last three axes."""
    return 10 * torch.log10(4 / ((a - b) ** 2).mean((-3, -2, -1)).clamp_min(1e-10))


def validate(
    network: VideoNetwork, held_out: Path, encoder: Any, windows: int = 64, steps: int = 4
) -> dict[str, float]:
    """PSNR [dB] of held-out futures at episode start, with the right and with a wrong sentence."""
    c = network.config
    clips = ClipDataset(held_out, c.context, c.look_ahead)
    rng, generator = np.random.default_rng(99), torch.Generator().manual_seed(99)
    batch, _ = clips.sample(rng, windows, first_anchor=True)
    groups = clips.meta['groups']
    wrong = []
    for sentence in batch.sentences:
        others = [g for g in groups if sentence not in g]
        wrong.append(others[int(rng.integers(len(others)))][0])
    frames = to_signal(batch.frames)
    result: dict[str, float] = {}
    mode = network.training
    network.eval()
    for label, sentences in (('right', batch.sentences), ('wrong', wrong)):
        text = torch.from_numpy(np.stack([encoder(s) for s in sentences]))
        with torch.autocast('cpu', torch.bfloat16):
            future = torch.cat(
                [
                    sample(
                        network,
                        frames[i : i + 32, c.context - 1 : c.context],
                        text[i : i + 32],
                        slots=c.context,
                        look_ahead=c.look_ahead,
                        steps=steps,
                        generator=generator,
                    )
                    for i in range(0, windows, 32)
                ]
            )
        score = psnr(future, frames[:, c.context :]).mean(0)
        result[f'psnr1_{label}'] = float(score[0])
        result[f'psnr{c.look_ahead}_{label}'] = float(score[-1])
    network.train(mode)
    return result


def main_train(config: TrainConfig, command: str, *, resume: bool = True) -> CheckpointInfo:
    """What `vera train planner` does once the clips are there.

    Args:
        config: the run; `config.out` receives state, curve (JSON and PNG) and checkpoint.
        command: the command line, kept in the checkpoint.
        resume: continue a run that was cut short in the same folder.
    """
    trainer = Trainer(config)
    if resume:
        trainer.resume()
    trainer.run()
    plot_curve(trainer.curve, Path(config.out) / 'curve.png')
    return trainer.export(command)


def plot_curve(curve: list[dict[str, float]], file: Path) -> None:
    """The learning curve: loss, and PSNR with the right and a wrong sentence."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout='constrained')
    steps = [row['step'] for row in curve]
    left.plot(steps, [row['loss'] for row in curve])
    left.set(xlabel='step', ylabel='training loss', yscale='log')
    for key in sorted(k for k in curve[0] if 'psnr' in k) if curve else []:
        style = '-' if key.endswith('right') else '--'
        right.plot(steps, [row[key] for row in curve], style, label=_curve_label(key))
    right.set(xlabel='step', ylabel='PSNR at episode start [dB]')
    right.legend(frameon=False, fontsize=8, loc='center right')
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _curve_label(key: str) -> str:
    whose, _, what = key.rpartition('psnr')
    frame, asked = what.split('_')
    return f'{whose.replace("_", ": ")}frame {frame}, asked {asked}ly'
