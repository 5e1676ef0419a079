"""What trainings of a codec and of a planner of motions share: steps, averages, states, losses."""

from __future__ import annotations

import copy
import json
import math
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  torch's own convention
from tqdm import tqdm

from vera_core.checkpoint import CheckpointInfo, write_checkpoint
from vera_planner.training import LICENCE

PARTS = ('codec', 'motion')


@dataclass(frozen=True, kw_only=True)
class PartsTraining:
    """What every such run is told.

    Attributes:
        out: folder for states, curves and checkpoint; name: of the checkpoint.
        parts: what is trained; the rest is as its state in `out` has it.
        codec_steps: of the codec, `codec_batch` pictures each, one view each.
        steps: of the planner of motions, `batch` windows each, `draws` noise levels for each.
        codec_lr, lr: highest learning rates, after `warmup` steps. ema: of the averaged weights.
        validate_every: steps between looks at held-out data; the state is kept then, too.
        width: channels of the codec; hidden, depth: of the planner of motions.
        look_ahead: frames imagined.
    """

    out: Path
    name: str
    parts: tuple[str, ...] = PARTS
    codec_steps: int
    codec_batch: int
    codec_lr: float = 2e-3
    steps: int
    batch: int
    draws: int = 2
    lr: float = 1e-3
    warmup: int
    ema: float
    seed: int = 0
    threads: int = 1
    validate_every: int
    width: int
    hidden: int
    depth: int
    look_ahead: int


class PartsTrainer(ABC):
    """Trains `network.codec`, then `network.motion`; each part has a state for an exact resume.

    Those who derive build their network between `__init__` and `_own`.
    """

    def __init__(self, config: PartsTraining) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        # Of each part its own, so that it is the same whatever was trained before it.
        self.rngs = {part: np.random.default_rng([config.seed, n]) for n, part in enumerate(PARTS)}
        self.generators = {part: torch.Generator().manual_seed(config.seed) for part in PARTS}
        self.done = dict.fromkeys(PARTS, 0)
        self.cpu_seconds = dict.fromkeys(PARTS, 0.0)
        self.curves: dict[str, list[dict[str, float]]] = {part: [] for part in PARTS}

    def _own(self, network: nn.Module) -> None:
        """Take a network whose measured buffers are set."""
        c = self.config
        self.average: Any = copy.deepcopy(network).requires_grad_(False)
        self._parts: dict[str, nn.Module] = {part: getattr(network, part) for part in PARTS}
        self._averages: dict[str, nn.Module] = {part: getattr(self.average, part) for part in PARTS}
        self.optimisers = {
            part: torch.optim.AdamW(
                self._parts[part].parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01
            )
            for part, rate in (('codec', c.codec_lr), ('motion', c.lr))
        }

    @abstractmethod
    def codec_step(self) -> float:
        """One optimiser step of the codec; its loss."""

    @abstractmethod
    def motion_step(self) -> float:
        """One optimiser step of the planner of motions; its loss."""

    @abstractmethod
    def validate(self, part: str) -> dict[str, float]:
        """Held-out errors of one part's averaged weights."""

    def _steps(self, part: str) -> int:
        return self.config.codec_steps if part == 'codec' else self.config.steps

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
            step = self.codec_step if part == 'codec' else self.motion_step
            recent: list[float] = []
            bar = tqdm(
                total=steps, initial=self.done[part], desc=f'{c.name}: {part}', mininterval=5
            )
            began = time.process_time() - self.cpu_seconds[part]
            while self.done[part] < steps:
                recent.append(step())
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

    def _export(
        self, command: str, *, data: Any, shape: dict[str, Any], contract: dict[str, Any]
    ) -> CheckpointInfo:
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
            'data': data,
            'licence': LICENCE,
            'options': {k: v for k, v in plain.items() if k not in ('data', 'held_out', 'out')},
            'metrics': metrics,
        }
        return write_checkpoint(
            Path(c.out) / f'{c.name}.safetensors', tensors, kind='planner', config=shape,
            contract=contract, training=training,
        )  # fmt: skip


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels float32 [count] in [0.01, 1]; three in ten nearly pure noise."""
    level = torch.rand(count, generator=generator)
    pure = torch.rand(count, generator=generator) < 0.3
    return torch.where(pure, 1 - 0.05 * level, level).clamp_min(0.01)


def mask_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """By pixel, most where a piece is near, and by overlap (dice).

    Args:
        logits: float32 [B, K, H, W].
        target: masks in [0, 1], the same shape.
        known: float32 [B, K], 1 where the overlap counts.
    """
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    near = F.max_pool2d(target, 5, 1, 2)
    pixels = (plain * (0.05 + near)).mean()
    found = logits.sigmoid()
    both = (found * target).sum((2, 3))
    dice = 1 - (2 * both + 1) / (found.square().sum((2, 3)) + target.square().sum((2, 3)) + 1)
    return 10 * pixels + (dice * known).sum() / known.sum()
