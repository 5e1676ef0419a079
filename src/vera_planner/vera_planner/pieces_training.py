"""Trains the pieces planner: the codec on pictures and masks, the motions on tracks.

One network for all embodiments: each step is about one of them, drawn by their shares.
"""

from __future__ import annotations

import copy
import json
import math
import re
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vera_core.checkpoint import CheckpointInfo, write_checkpoint
from vera_planner.pieces_learner import Learner, PoseLearner, PoseLearning
from vera_planner.pieces_network import PiecesConfig, PiecesNetwork
from vera_planner.training import LICENCE
from vera_planner.view_pieces_learner import ViewLearner, ViewLearning

PARTS = ('codec', 'motion')


@dataclass(frozen=True, kw_only=True)
class PiecesTraining:
    """One training run.

    Attributes:
        data: folder of tracks and pictures of each embodiment; held_out: for validation.
        out: folder for states, curves and checkpoint; name: of the checkpoint.
        parts: what is trained; the rest is as its state in `out` has it.
        codec_steps: of the codec; steps: of the planner of motions; as the learners have them if 0.
        shares: of the steps for each embodiment; as the learners have them if empty.
        codec_lr, lr: highest learning rates, after `warmup` steps. ema: of the averaged weights.
        validate_every: steps between looks at held-out data; the state is kept then, too.
        width: channels of the codec; tokens: width of a piece's token; hidden, depth, layers: of
            the planner of motions.
        poses: how embodiments seen from above are learned; views: those of several cameras.
    """

    data: dict[str, Path]
    held_out: dict[str, Path]
    out: Path
    name: str = 'pieces'
    parts: tuple[str, ...] = PARTS
    codec_steps: int = 0
    steps: int = 0
    shares: tuple[float, ...] = ()
    codec_lr: float = 2e-3
    lr: float = 1e-3
    warmup: int = 300
    ema: float = 0.999
    seed: int = 0
    threads: int = 1
    validate_every: int = 500
    width: int = 24
    tokens: int = 128
    hidden: int = 384
    depth: int = 4
    layers: int = 3
    poses: PoseLearning = field(default_factory=PoseLearning)
    views: ViewLearning = field(default_factory=ViewLearning)

    def __post_init__(self) -> None:
        if not self.data or self.data.keys() != self.held_out.keys():
            raise ValueError('every folder of training tracks needs one of held-out tracks')
        if self.shares and len(self.shares) != len(self.data):
            raise ValueError(f'{len(self.shares)} shares for {len(self.data)} folders of tracks')
        if any(share <= 0 for share in self.shares):
            raise ValueError(f'shares {self.shares}: each must be positive')


class PiecesTrainer:
    """Trains the codec, then the motions; each has a state of its own for an exact resume."""

    def __init__(self, config: PiecesTraining) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = c = config
        self.learners = {name: _learner(name, c) for name in c.data}
        self.shape = PiecesConfig(
            shapes={name: learner.shape for name, learner in self.learners.items()},
            width=c.width, tokens=c.tokens, hidden=c.hidden, depth=c.depth, layers=c.layers,
        )  # fmt: skip
        self.network = PiecesNetwork(self.shape)
        self.network.codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for learner in self.learners.values():
            learner.measure(self.network)
        self.average: PiecesNetwork = copy.deepcopy(self.network).requires_grad_(False)
        self._parts: dict[str, nn.Module] = {part: getattr(self.network, part) for part in PARTS}
        self._averages: dict[str, nn.Module] = {part: getattr(self.average, part) for part in PARTS}
        # Of each part its own, so that it is the same whatever was trained before it.
        self.rngs = {part: np.random.default_rng([c.seed, n]) for n, part in enumerate(PARTS)}
        self.generators = {part: torch.Generator().manual_seed(c.seed) for part in PARTS}
        self.optimisers = {
            part: torch.optim.AdamW(
                self._parts[part].parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01
            )
            for part, rate in (('codec', c.codec_lr), ('motion', c.lr))
        }
        self.done = dict.fromkeys(PARTS, 0)
        self.cpu_seconds = dict.fromkeys(PARTS, 0.0)
        self.curves: dict[str, list[dict[str, float]]] = {part: [] for part in PARTS}

    def step(self, part: str) -> float:
        """One optimiser step of a part, about one of the embodiments; its loss."""
        rng, generator = self.rngs[part], self.generators[part]
        shares = np.array(
            self.config.shares or [learner.STEPS[part] for learner in self.learners.values()],
            float,
        )
        name = list(self.learners)[int(rng.choice(len(shares), p=shares / shares.sum()))]
        learner = self.learners[name]
        if part == 'codec':
            loss = learner.codec_loss(self.network, rng)
        else:
            loss = learner.motion_loss(self.network, rng, generator)
        self._update(part, loss)
        return float(loss.detach())

    def validate(self, part: str) -> dict[str, float]:
        """Held-out errors of one part's averaged weights, of all embodiments."""
        return {
            f'{name}_{key}': value
            for name, learner in self.learners.items()
            for key, value in learner.validate(self.average, part).items()
        }

    def _steps(self, part: str) -> int:
        given = self.config.codec_steps if part == 'codec' else self.config.steps
        return given or sum(learner.STEPS[part] for learner in self.learners.values())

    def _update(self, part: str, loss: Tensor) -> None:
        c, step, module = self.config, self.done[part], self._parts[part]
        rise = min(1.0, (step + 1) / c.warmup)
        fall = 0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, step / self._steps(part))))
        optimiser = self.optimisers[part]
        for group in optimiser.param_groups:
            group['lr'] = (c.codec_lr if part == 'codec' else c.lr) * rise * fall
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        self.done[part] = step + 1
        decay = min(c.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            mean = self._averages[part].parameters()
            for kept, now in zip(mean, module.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)

    def run(self) -> None:
        """Train the parts that are asked for to the last step, validating and saving on the way."""
        c = self.config
        for part in c.parts:
            steps = self._steps(part)
            recent: list[float] = []
            bar = tqdm(
                total=steps, initial=self.done[part], desc=f'{c.name}: {part}', mininterval=5
            )
            began = time.process_time() - self.cpu_seconds[part]
            while self.done[part] < steps:
                recent.append(self.step(part))
                bar.update()
                if self.done[part] % c.validate_every == 0 or self.done[part] == steps:
                    self.cpu_seconds[part] = time.process_time() - began
                    row = {f'{part}_step': self.done[part], f'{part}_loss': float(np.mean(recent))}
                    row['cpu_seconds'] = self.cpu_seconds[part]
                    row |= self.validate(part)
                    self.curves[part].append(row)
                    recent.clear()
                    bar.write(json.dumps({k: round(v, 3) for k, v in row.items()}))
                    self.save(part)

    def save(self, part: str) -> None:
        """State of a part for an exact resume, and its curve so far."""
        out = Path(self.config.out)
        out.mkdir(parents=True, exist_ok=True)
        state = {
            'network': self._parts[part].state_dict(),
            'average': self._averages[part].state_dict(),
            'optimiser': self.optimisers[part].state_dict(),
            'done': self.done[part],
            'cpu_seconds': self.cpu_seconds[part],
            'generator': self.generators[part].get_state(),
            'rng': json.dumps(self.rngs[part].bit_generator.state),
            'curve': self.curves[part],
        }
        file = out / f'{part}.part'
        torch.save(state, file)
        file.replace(out / f'{part}.pt')
        (out / f'curve_{part}.json').write_text(
            json.dumps(self.curves[part], indent=1), encoding='utf-8'
        )

    def resume(self) -> None:
        """Continue from the states that are there."""
        for part in PARTS:
            file = Path(self.config.out) / f'{part}.pt'
            if not file.is_file():
                continue
            state = torch.load(file, weights_only=True)
            self._parts[part].load_state_dict(state['network'])
            self._averages[part].load_state_dict(state['average'])
            self.optimisers[part].load_state_dict(state['optimiser'])
            self.done[part], self.cpu_seconds[part] = state['done'], state['cpu_seconds']
            self.curves[part] = state['curve']
            self.generators[part].set_state(state['generator'])
            self.rngs[part].bit_generator.state = json.loads(state['rng'])

    def export(self, command: str) -> CheckpointInfo:
        """Write the averaged weights (float16) as a checkpoint."""
        c = self.config
        tensors = {
            k: v.detach().to(torch.float16).numpy() for k, v in self.average.state_dict().items()
        }
        plain = json.loads(json.dumps(asdict(replace(c, parts=PARTS)), default=str))
        metrics: dict[str, float] = {}
        for part in PARTS:
            for row in self.curves[part][-1:]:
                metrics |= {k: v for k, v in row.items() if k != 'cpu_seconds'}
        training = {
            'command': command,
            'seed': c.seed,
            'steps': self.done,
            'cpu_seconds': self.cpu_seconds,
            'data': [learner.recipe for learner in self.learners.values()],
            'licence': LICENCE,
            'options': {k: v for k, v in plain.items() if k not in ('data', 'held_out', 'out')},
            'metrics': metrics,
        }
        return write_checkpoint(
            Path(c.out) / f'{c.name}.safetensors', tensors, kind='planner',
            config=self.shape.to_dict(),
            contract={'any_of': [learner.contract for learner in self.learners.values()]},
            training=training,
        )  # fmt: skip


def _learner(name: str, config: PiecesTraining) -> Learner:
    data, held_out = config.data[name], config.held_out[name]
    if (Path(data) / 'scenes.json').is_file():
        return ViewLearner(name, data, held_out, config.views)
    return PoseLearner(name, data, held_out, config.poses)


def main_train(config: PiecesTraining, command: str, *, resume: bool = True) -> CheckpointInfo:
    """What `vera train planner` does once tracks and pictures are there.

    Args:
        config: the run; `config.out` receives states, curves (JSON and PNG) and checkpoint.
        command: the command line, kept in the checkpoint.
        resume: continue a run that was cut short in the same folder.
    """
    trainer = PiecesTrainer(config)
    if resume:
        trainer.resume()
    trainer.run()
    plot_curves(trainer.curves, Path(config.out) / 'curve.png')
    return trainer.export(command)


def plot_curves(curves: dict[str, list[dict[str, float]]], file: Path) -> None:
    """The learning curves: the codec's masks, and how far imagined pieces are from the expert's."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout='constrained')
    for ax, part, wanted in zip(axes, PARTS, (r'_iou$', r'^[^_]+_px\d+(_wrong)?$'), strict=True):
        rows = curves[part]
        keys = [key for key in (rows[-1] if rows else ()) if re.search(wanted, key)]
        colours: dict[str, str] = {}
        for key in keys:
            plain = key.removesuffix('_wrong')
            colour = colours.setdefault(plain, f'C{len(colours)}')
            ax.plot(
                [row[f'{part}_step'] for row in rows], [row[key] for row in rows],
                '--' if key.endswith('wrong') else '-', color=colour,
                label=key.replace('_', ' ') if key == plain else None,
            )  # fmt: skip
        ax.set(xlabel=f'step of the {part}')
        if rows:
            ax.legend(frameon=False, fontsize=7, loc='center left', bbox_to_anchor=(1.0, 0.5))
    axes[0].set(ylabel='masks: intersection over union')
    axes[1].set(
        ylabel='distance from the expert [px]', yscale='log',
        title='dashed: asked for something else',
    )  # fmt: skip
    axes[1].title.set_fontsize(8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
