"""Training of a translator from self-play: the J-IDM (Eq. 5) and the direct baselines.

Loss of the J-IDM: Charbonnier of J a - v over all cells, plus w_a |a_hat - a|^2 of the ridge solve,
ramped in after a warm-up (without it J becomes a mere dual of the solve and predicts no flow).
Every translator sees every pair in both directions of time, (o_t, a, v) and (o_t+1, -a, v_back),
with the same augmentation, schedule and averaging.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vera_core.checkpoint import write_checkpoint
from vera_core.contract import Contract, load_contract
from vera_jidm import direct
from vera_jidm.augment import photometric
from vera_jidm.dataset import (
    AnalyticSource,
    Batch,
    DatasetError,
    EstimatedSource,
    ShardFolder,
    TransitionStore,
)
from vera_jidm.direct import DirectNet, NoFlow, TrainedDirect, match
from vera_jidm.evaluation import Trained, evaluate
from vera_jidm.flow import ANALYTIC, make_flow
from vera_jidm.losses import DirectObjective, JacobianObjective, Objective, Sample
from vera_jidm.model import Scales, config_of, to_tensor
from vera_jidm.models.convolutional import GRID, JacobianNet, NetworkConfig
from vera_jidm.optimizer import MuonAdamW
from vera_jidm.progress import LearningCurve, load_state, save_state
from vera_jidm.recipe import TrainingConfig, TrainingError

_LOG = logging.getLogger(__name__)


@dataclass
class Trainer:
    """One training, step by step; every random number follows from (seed, step)."""

    config: TrainingConfig
    store: TransitionStore
    net: JacobianNet | DirectNet
    scales: Scales
    step: int = 0

    def __post_init__(self) -> None:
        self.objective: Objective = (
            DirectObjective(self.config, self.scales, self.net.config)
            if isinstance(self.net, DirectNet)
            else JacobianObjective(self.config, self.scales)
        )
        self.average = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        make = MuonAdamW if self.config.optimizer == 'muon' else torch.optim.AdamW
        self.optimizer: torch.optim.Optimizer = make(
            self.net.parameters(), lr=self.config.rate, weight_decay=self.config.decay,
            betas=(0.9, 0.99),
        )

    def advance(self) -> dict[str, float]:
        """One optimiser step; its losses. Raises TrainingError when the loss is not finite."""
        config = self.config
        losses = self.loss(self.store.batch(self.step))
        value = float(losses['loss'].detach())
        if not math.isfinite(value):
            raise TrainingError(
                f'the loss is {value} at step {self.step}; lower the rate (now {config.rate})'
            )
        for group in self.optimizer.param_groups:
            group['lr'] = config.learning_rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses['loss'].backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        self.optimizer.step()
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, tensor in self.net.state_dict().items():
                self.average[name].lerp_(tensor, 1 - decay)
        self.step += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss on a batch, both directions of time; 'loss' is what to minimise."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        images = torch.cat([to_tensor(batch.before), to_tensor(batch.after)])
        images = photometric(images, config.photometric, generator)
        before, after = images.chunk(2)
        a = torch.from_numpy(batch.actions / self.scales.action.astype(np.float32))
        return self.objective(self._run, Sample(before, after, a, batch), self.step)

    def _run(self, *inputs: Tensor | None) -> Any:
        """The network, in bfloat16 where that is wanted."""
        with torch.autocast('cpu', torch.bfloat16, enabled=self.config.bfloat16):
            return self.net(*inputs)

    def model(self, flow_id: str) -> Trained:
        """The averaged weights as a model."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(self.average)
        return self.objective.model(net, flow_id)


def make_network(
    config: TrainingConfig, contract: Contract
) -> JacobianNet | DirectNet:
    """The network of a recipe, with fresh weights; a baseline matches the J-IDM's parameters."""
    like = NetworkConfig(
        len(contract.channels), contract.canvas.height, contract.canvas.width,
        stem=config.stem, widths=config.widths, head=config.head,
        gradient_rows=config.gradient_rows,
    )
    if config.translator == 'jacobian':
        return JacobianNet(like)
    return DirectNet(
        match(like, config.translator, config.direct_head, config.direct_frames)
    )


def train(
    config: TrainingConfig,
    contract: Contract,
    data: Path,
    held_out: Path,
    out: Path,
    name: str,
    *,
    resume: bool = False,
    command: str = '',
) -> dict[str, Any]:
    """Train, and write `<out>/<name>.safetensors` and `.json`, the curve and the state beside it.

    Args:
        config: the recipe.
        contract: must agree with the data's.
        data: folder of shards (vera_jidm.dataset) to train on.
        held_out: folder of shards to measure with.
        out: folder of everything written.
        name: of the checkpoint.
        resume: go on from `<name>.state.*` in `out`, exactly as if never interrupted.
        command: stored in the checkpoint, for whoever wants to make it again.

    Returns:
        Metrics on the held-out transitions.

    Raises:
        TrainingError, DatasetError: see their messages.
    """
    torch.set_num_threads(config.threads)
    folder, test = ShardFolder(data), ShardFolder(held_out)
    fields = json.loads(json.dumps(contract.action_fields()))
    for shards in (folder, test):
        if shards.contract != fields:
            raise DatasetError(
                f'{shards.folder} was collected under another contract than '
                f'{contract.embodiment!r} (channels, canvas or cameras differ); collect it again'
            )
    source: AnalyticSource | EstimatedSource | NoFlow
    if config.translator == 'direct_pair':
        source = NoFlow()
    elif config.flow == ANALYTIC:
        source = AnalyticSource(GRID)
    else:
        source = EstimatedSource(make_flow(config.flow), GRID, config.degrade, config.seed)
    store = TransitionStore(folder, source, config.batch, config.seed)
    flow_scale = store.prepare(lambda x: tqdm(list(x), desc=f'{source.flow_id} flow', unit='shard'))
    # Without flow there is no scale of it; 1 changes nothing.
    scales = Scales(folder.action_scale, folder.action_max, flow_scale or 1.0)

    torch.manual_seed(config.seed)
    net = make_network(config, contract)
    trainer = Trainer(config, store, net, scales)
    curve = LearningCurve(f'{name}: {source.flow_id} flow, {len(contract.channels)} channels')
    state = out / f'{name}.state'
    identity = {'config': _identity(config), 'data': folder.digest, 'flow_id': source.flow_id}
    if resume:
        trainer.step, trainer.average, curve.points, seconds = load_state(
            state, net, trainer.optimizer, identity
        )
    else:
        seconds = 0.0
    _LOG.info(
        '%s: %d weights, %d transitions, flow scale %.3f px',
        name, net.parameters_count, len(folder), scales.flow,
    )
    began = time.monotonic() - seconds

    def save() -> None:
        save_state(
            state, trainer.step, net, trainer.average, trainer.optimizer, curve.points,
            time.monotonic() - began, identity,
        )
        curve.write(out / f'{name}.curve')

    sums: dict[str, list[float]] = {}
    bar = tqdm(total=config.steps, initial=trainer.step, desc=name, unit='step')
    try:
        while trainer.step < config.steps:
            losses = trainer.advance()
            for key, value in losses.items():
                sums.setdefault(key, []).append(value)
            bar.update()
            done = trainer.step == config.steps
            if trainer.step % config.evaluate_every == 0 or done:
                quick = evaluate(trainer.model(source.flow_id), test, config.flow, most=200)
                point = {k: float(np.mean(v)) for k, v in sums.items()}
                sums.clear()
                curve.add(trainer.step, {**point, 'held_out': quick['mse_stacked']})
                bar.set_postfix(held_out=f'{quick["mse_stacked"]:.4f}')
            if trainer.step % config.save_every == 0 or done:
                save()
    except KeyboardInterrupt:
        save()
        _LOG.warning('stopped at step %d; go on with --resume', trainer.step)
        raise
    finally:
        bar.close()
    model = trainer.model(source.flow_id)
    metrics = evaluate(model, test, config.flow, seed=config.seed)
    metrics['train_seconds'] = round(time.monotonic() - began, 1)
    write_checkpoint(
        out / f'{name}.safetensors',
        {k: v.numpy() for k, v in model.net.state_dict().items()},
        kind='idm',
        config=_checkpoint_config(model),
        contract=fields,
        training={
            'command': command or ' '.join(sys.argv),
            'seed': config.seed,
            'steps': config.steps,
            'data': {'transitions': len(folder), 'digest': folder.digest, **folder.meta},
            'licence': 'Apache-2.0',
            'recipe': asdict(config),
            'metrics': metrics,
        },
    )
    metrics['parameters'] = net.parameters_count
    metrics['translator'] = config.translator
    curve.write(out / f'{name}.curve')
    _LOG.info('%s: held-out action MSE %.4f', name, metrics['mse_stacked'])
    return metrics


def _checkpoint_config(model: Trained) -> dict[str, Any]:
    if isinstance(model, TrainedDirect):
        return direct.config_of(model)
    return {
        'translator': 'jacobian',
        **config_of(model.net, model.scales, model.flow_id, model.ridge),
    }


def _identity(config: TrainingConfig) -> dict[str, Any]:
    """What must not change between a state and its resumption."""
    free = ('threads', 'evaluate_every', 'save_every')
    return {k: v for k, v in asdict(config).items() if k not in free}


def main_train(
    contract: Contract | str = 'finger',
    *,
    data: Path,
    held_out: Path,
    out: Path = Path('runs/train_idm'),
    name: str | None = None,
    resume: bool = False,
    command: str = '',
    **recipe: Any,
) -> dict[str, Any]:
    """What `vera train idm` calls once the self-play exists (vera_bringup.selfplay.train_idm).

    Args:
        contract: or the name of an embodiment.
        data: folder of shards to train on.
        held_out: folder of shards to measure with.
        out: where checkpoint, curve and state go.
        name: of the checkpoint; `jidm_<embodiment><n>` unless given (`direct_flow_...` or
            `direct_pair_...` for a baseline), `_<flow>` appended when that is not dis.
        resume: go on where a training of that name and recipe stopped.
        command: stored in the checkpoint.
        recipe: fields of TrainingConfig: translator (jacobian | direct_flow | direct_pair), flow
            (dis | farneback | analytic), steps, batch, seed, rate, gradient_rows, bfloat16,
            threads ...

    Returns:
        Metrics on the held-out transitions, plain data.

    Raises:
        TrainingError: an unknown or impossible option.
    """
    if not isinstance(contract, Contract):
        contract = load_contract(contract)
    unknown = sorted(set(recipe) - set(TrainingConfig.__dataclass_fields__))
    if unknown:
        known = ', '.join(TrainingConfig.__dataclass_fields__)
        raise TrainingError(f'no option {unknown[0]!r}; there are {known}')
    config = TrainingConfig(**recipe)
    if name is None:
        what = 'jidm' if config.translator == 'jacobian' else config.translator
        name = f'{what}_{contract.embodiment}{len(contract.channels)}'
        if config.translator != 'direct_pair' and config.flow != 'dis':
            name += f'_{config.flow}'
    return train(
        config, contract, Path(data), Path(held_out), Path(out), name, resume=resume,
        command=command,
    )
