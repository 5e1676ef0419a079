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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vera_core.checkpoint import write_checkpoint
from vera_core.contract import Contract, load_contract
from vera_jidm import direct
from vera_jidm.allocator import keep_freed_memory
from vera_jidm.board import Board
from vera_jidm.dataset import (
    AnalyticSource,
    Batch,
    DatasetError,
    EstimatedSource,
    ShardFolder,
    TransitionStore,
)
from vera_jidm.direct import DirectNet, NoFlow, TrainedDirect, match
from vera_jidm.evaluation import Trained, evaluate, held_out_store
from vera_jidm.flow import ANALYTIC, make_flow, per_view
from vera_jidm.honesty import KnownActions
from vera_jidm.losses import DirectObjective, JacobianObjective, Objective, Sample, Teacher
from vera_jidm.model import Scales, config_of, to_tensor
from vera_jidm.models import JacobianNetwork, build
from vera_jidm.models.convolutional import NetworkConfig
from vera_jidm.optimizer import MuonAdamW
from vera_jidm.pictures import jacobian_colours
from vera_jidm.processes import Processes
from vera_jidm.progress import LearningCurve, Progress, load_state, save_state
from vera_jidm.recipe import TrainingConfig, TrainingError
from vera_jidm.views import row_weights, view_boxes

_LOG = logging.getLogger(__name__)


Network = JacobianNetwork | DirectNet


@dataclass
class Trainer:
    """One training, step by step; every random number follows from (seed, step).

    Attributes:
        net: its weights are trained in place. average: what is kept of them, step by step.
        views: cells of each view [V, h, w], and rows: what they count in the solve [3, h, w].
        processes: that share each batch.
    """

    config: TrainingConfig
    store: TransitionStore
    net: Network
    scales: Scales
    step: int = 0
    views: Tensor | None = None
    rows: Tensor | None = None
    teacher: Teacher | None = None
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        config, device = self.config, self.processes.device
        parts = config.accumulate * self.processes.count
        if config.batch % parts:
            raise TrainingError(
                f'a batch of {config.batch} cannot be split into {parts} equal parts '
                f'({config.accumulate} a step in each of {self.processes.count} processes)'
            )
        self.net.to(device)
        self.objective: Objective = (
            DirectObjective(config, self.scales, self.net.config)
            if isinstance(self.net, DirectNet)
            else JacobianObjective(
                config, self.scales, teacher=self.teacher, mean=self.processes.mean,
                views=None if self.views is None else self.views.to(device),
                rows=None if self.rows is None else self.rows.to(device),
            )
        )
        self.average = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        make = MuonAdamW if config.optimizer == 'muon' else torch.optim.AdamW
        self.optimizer: torch.optim.Optimizer = make(
            [p for p in self.net.parameters() if p.requires_grad],
            lr=config.rate, weight_decay=config.decay, betas=(0.9, 0.99),
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == 'float16')

    def advance(self) -> dict[str, float]:
        """One optimiser step; its losses. Raises TrainingError when the loss is not finite."""
        config = self.config
        batch = self.store.batch(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for k in range(config.accumulate):
            losses = self.loss(batch, k)
            value = float(losses['loss'].detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f'the loss is {value} at step {self.step}; lower the rate (now {config.rate})'
                )
            self.scaler.scale(losses['loss'] / config.accumulate).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach()) / config.accumulate
        for group in self.optimizer.param_groups:
            group['lr'] = config.learning_rate(self.step)
        self.processes.mean_gradients(self.net.parameters())
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average()
        self.step += 1
        return sums

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, tensor in self.net.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, 1 - decay)
                else:
                    self.average[name].copy_(tensor)

    def loss(self, batch: Batch, part: int = 0) -> dict[str, Tensor]:
        """The terms of the loss on this process' `part` of a batch, both directions of time.

        'loss' is what to minimise.
        """
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        images = torch.cat([to_tensor(batch.before), to_tensor(batch.after)])
        n, parts = len(batch.actions), config.accumulate * self.processes.count
        if parts == 1:
            images = config.augmentation(images, generator)
        else:
            mine = torch.arange(part * self.processes.count + self.processes.index, n, parts)
            images = config.augmentation(images, generator, torch.cat([mine, mine + n]))
            batch = batch.rows(mine.numpy())
        sample = Sample.of(images, batch, self.scales, self.processes.device)
        return self.objective(self._run, sample, self.step)

    def _run(self, *inputs: Tensor | None) -> Any:
        """The network, in the precision that is wanted."""
        precision = getattr(torch, self.config.precision)
        device = self.processes.device.type
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            return self.net(*inputs)

    def model(self, flow_id: str, weights: dict[str, Tensor] | None = None) -> Trained:
        """The averaged weights, or others, as a model on the CPU."""
        net = copy.deepcopy(self.net).cpu()
        net.load_state_dict(self.average if weights is None else weights)
        return self.objective.model(net, flow_id)


def make_network(config: TrainingConfig, contract: Contract) -> Network:
    """The network of a recipe, with fresh weights; a baseline matches the J-IDM's parameters.

    Raises:
        TrainingError: no such family, or a network that cannot be.
        BackboneError: the pretrained part of a family cannot be had here.
    """
    size: dict[str, Any] = {
        'channels': len(contract.channels),
        'height': contract.canvas.height,
        'width': contract.canvas.width,
        'gradient_rows': config.gradient_rows,
    }
    if config.family == 'convolutional':
        size |= {'stem': config.stem, 'widths': config.widths, 'head': config.head}
    else:
        size['views'] = tuple((b.x0, b.y0, b.x1, b.y1) for b in view_boxes(contract))
    try:
        if config.translator != 'jacobian':
            if config.family != 'convolutional' or config.network:
                raise TrainingError(
                    f'{config.translator} is matched to the convolutional J-IDM; leave family and '
                    'network out'
                )
            like = NetworkConfig(**size)
            return DirectNet(
                match(like, config.translator, config.direct_head, config.direct_frames)
            )
        net = build(
            {'family': config.family, 'confidence': config.confidence > 0, **size, **config.network}
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error
    net.load_backbone()
    return net


def _views(contract: Contract, grid: int) -> tuple[Tensor, Tensor]:
    """Cells of each view [V, h, w], and what they count in the solve [3, h, w]."""
    boxes, canvas = view_boxes(contract), contract.canvas
    each = [row_weights([box], canvas.height, canvas.width, grid)[0] for box in boxes]
    rows = row_weights(boxes, canvas.height, canvas.width, grid)
    return torch.from_numpy((np.stack(each) > 0).astype(np.float32)), torch.from_numpy(rows)


def _teacher(contract: Contract, folder: ShardFolder, grid: int) -> Teacher:
    """Analytic J of a batch; see vera_jidm.analytic."""
    from vera_jidm.analytic import AnalyticJacobian, on_grid

    missing = [j.name for j in contract.joints if j.name not in folder.joints]
    if missing:
        raise DatasetError(
            f'{folder.folder} holds no positions of {missing[0]!r}, which a teacher needs; collect '
            'it again'
        )
    order = [folder.joints.index(joint.name) for joint in contract.joints]
    analytic = AnalyticJacobian.from_contract(contract)

    def teacher(batch: Batch) -> Tensor:
        assert batch.positions is not None
        states = np.concatenate([batch.positions[:, 0], batch.positions[:, 1]])[:, order]
        return torch.from_numpy(on_grid(analytic.jacobian(states), grid))

    return teacher


def train(
    config: TrainingConfig,
    contract: Contract,
    data: Path,
    held_out: Path,
    out: Path,
    name: str,
    *,
    validation: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    command: str = '',
) -> dict[str, Any]:
    """Train, and write `<out>/<name>.safetensors` and `.json`, the curve and the state beside it.

    Args:
        config: the recipe.
        contract: must agree with the data's.
        data: folder of episodes (vera_jidm.dataset) to train on.
        held_out: folder of episodes to measure with at the end.
        out: folder of everything written.
        name: of the checkpoint.
        validation: folder of episodes for the curve and for early stop; `held_out` unless given,
            and then an early stop has seen what it is measured with.
        resume: go on from `<name>.state.*` in `out`, exactly as if never interrupted.
        tensorboard: also write event files to `<name>.tensorboard`.
        command: stored in the checkpoint, for whoever wants to make it again.

    Returns:
        Metrics on the held-out transitions.

    Raises:
        TrainingError, DatasetError: see their messages.
    """
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    processes = Processes(config.device)
    folder, test = ShardFolder(data), ShardFolder(held_out)
    check = ShardFolder(validation) if validation else test
    fields = json.loads(json.dumps(contract.action_fields()))
    for shards in (folder, test, check):
        if shards.contract != fields:
            raise DatasetError(
                f'{shards.folder} was collected under another contract than '
                f'{contract.embodiment!r} (channels, canvas or cameras differ); collect it again'
            )
    torch.manual_seed(config.seed)
    net = make_network(config, contract)
    grid = net.config.grid
    source: AnalyticSource | EstimatedSource | NoFlow
    if config.translator == 'direct_pair':
        source = NoFlow(grid)
    elif config.flow == ANALYTIC:
        source = AnalyticSource(grid)
    else:
        flow = per_view(make_flow(config.flow), folder.views, *folder.canvas)
        source = EstimatedSource(flow, grid, config.degrade, config.seed)
    store = TransitionStore(folder, source, config.batch, config.seed)
    if not processes.main:
        processes.wait()  # the first one computes the flow, the others read it
    store.prepare(lambda x: tqdm(list(x), desc=f'{source.flow_id} flow', unit='file'))
    if processes.main:
        processes.wait()
    known = folder.statistics
    scales = Scales(
        known.action_scale(config.scales), folder.action_max,
        # Without flow there is no scale of it; 1 changes nothing.
        known.flow_scale(source.key, config.scales) or 1.0,
    )
    views, rows = _views(contract, grid)
    teacher = _teacher(contract, folder, grid) if config.teacher > 0 else None
    trainer = Trainer(
        config, store, net, scales, views=views, rows=rows, teacher=teacher, processes=processes
    )
    flow_id = source.flow_id
    run = _Run(
        trainer, flow_id, held_out_store(check, flow_id, config.flow, grid), check,
        LearningCurve(f'{name}: {flow_id} flow, {len(contract.channels)} channels'),
        out / name,
        {'config': _identity(config), 'data': folder.digest, 'flow_id': flow_id},
    )
    if resume:
        run.resume()
    if tensorboard and processes.main:
        run.board = Board(out / f'{name}.tensorboard', trainer.step)
    _LOG.info(
        '%s: %d weights, %d transitions, flow scale %.3f px',
        name, net.parameters_count, len(folder), scales.flow,
    )
    model = run.go()
    metrics = evaluate(model, test, config.flow, seed=config.seed, views=rows)
    metrics['train_seconds'] = round(run.seconds, 1)
    metrics['steps'] = trainer.step
    metrics['parameters'] = net.parameters_count
    metrics['translator'] = config.translator
    if not processes.main:
        return metrics
    write_checkpoint(
        out / f'{name}.safetensors',
        {k: v.numpy() for k, v in model.net.state_dict().items()},
        kind='idm',
        config=_checkpoint_config(model, folder),
        contract=fields,
        training={
            'command': command or ' '.join(sys.argv),
            'seed': config.seed,
            'steps': config.steps,
            'data': {'transitions': len(folder), 'digest': folder.digest, **folder.meta},
            'licence': folder.licence,
            'recipe': asdict(config),
            'metrics': metrics,
        },
    )
    run.curve.write(out / f'{name}.curve')
    _LOG.info('%s: held-out action MSE %.4f', name, metrics['mse_stacked'])
    return metrics


@dataclass
class _Run:
    """The loop around a trainer: curve, states, early stop, TensorBoard."""

    trainer: Trainer
    flow_id: str
    store: TransitionStore
    check: ShardFolder
    curve: LearningCurve
    path: Path
    identity: dict[str, Any]
    board: Board | None = None
    best: dict[str, Tensor] | None = None
    lowest: float = math.inf
    waited: int = 0
    spent: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._sums: dict[str, list[float]] = {}
        self._state = self.path.with_name(self.path.name + '.state')

    @property
    def seconds(self) -> float:
        """Spent so far, in all runs."""
        return self.spent + time.monotonic() - self._began

    def resume(self) -> None:
        """Go on where a state left off."""
        trainer = self.trainer
        found = load_state(self._state, trainer.net, trainer.optimizer, self.identity)
        trainer.step = found.step
        device = trainer.processes.device
        trainer.average = {k: v.to(device) for k, v in found.average.items()}
        trainer.scaler.load_state_dict(found.scaler)
        self.curve.points, self.spent = found.points, found.seconds
        self.best, self.lowest, self.waited = found.best, found.lowest, found.waited

    def save(self) -> None:
        """State and curve."""
        trainer = self.trainer
        if not trainer.processes.main:
            return
        progress = Progress(
            trainer.step, trainer.average, self.curve.points, self.seconds, self.best,
            self.lowest, self.waited, trainer.scaler.state_dict(),
        )
        save_state(self._state, trainer.net, trainer.optimizer, progress, self.identity)
        self.curve.write(self.path.with_name(self.path.name + '.curve'))

    def go(self) -> Trained:
        """To the end; the model to keep. A keyboard interrupt leaves a state to resume from."""
        trainer, config = self.trainer, self.trainer.config
        main = trainer.processes.main
        bar = tqdm(
            total=config.steps, initial=trainer.step, desc=self.path.name, unit='step',
            disable=not main,
        )
        try:
            while trainer.step < config.steps and not self._enough():
                for key, value in trainer.advance().items():
                    self._sums.setdefault(key, []).append(value)
                bar.update()
                done = trainer.step == config.steps
                if trainer.step % config.evaluate_every == 0 or done:
                    bar.set_postfix(held_out=f'{self._measure():.4f}')
                if trainer.step % config.save_every == 0 or done or self._enough():
                    self.save()
        except KeyboardInterrupt:
            self.save()
            _LOG.warning('stopped at step %d; go on with --resume', trainer.step)
            raise
        finally:
            bar.close()
            if self.board is not None:
                self.board.close()
        if self._enough():
            _LOG.info(
                '%s: no better for %d evaluations, stopped at step %d', self.path.name,
                self.waited, trainer.step,
            )
        return trainer.model(self.flow_id, self.best)

    def _enough(self) -> bool:
        return 0 < self.trainer.config.early_stop <= self.waited

    def _measure(self) -> float:
        """A point of the curve; the held-out error."""
        trainer, config = self.trainer, self.trainer.config
        error = 0.0
        if trainer.processes.main:
            model = trainer.model(self.flow_id)
            found = evaluate(
                model, self.check, config.flow, most=200, views=trainer.rows, store=self.store
            )
            error = float(found['mse_stacked'])
            point = {k: float(np.mean(v)) for k, v in self._sums.items()}
            self.curve.add(trainer.step, {**point, 'held_out': error})
            if self.board is not None:
                rate = config.learning_rate(trainer.step - 1)
                self.board.add(trainer.step, {**point, 'rate': rate})
                self.board.add(trainer.step, {'mse': error}, 'held_out')
                self._picture(model)
        self._sums.clear()
        error = trainer.processes.share(error)
        if config.early_stop > 0:
            self.waited += 1
            if error < self.lowest:
                self.lowest, self.waited = error, 0
                self.best = {k: v.detach().cpu().clone() for k, v in trainer.average.items()}
        return error

    def _picture(self, model: Trained) -> None:
        """The first held-out image's J, beside the image."""
        if isinstance(model, TrainedDirect) or self.board is None:
            return
        image = self.store.gather(np.zeros((1, 2), np.int64)).before
        J = model.grid(image)[0][0].permute(2, 3, 1, 0).numpy()
        maps = jacobian_colours(J, model.net.config.grid)
        self.board.picture(self.trainer.step, 'jacobian', np.concatenate([image[0], maps], axis=1))


def _checkpoint_config(model: Trained, folder: ShardFolder) -> dict[str, Any]:
    if isinstance(model, TrainedDirect):
        return direct.config_of(model)
    return {
        'translator': 'jacobian',
        **config_of(model.net, model.scales, model.flow_id, model.ridge),
        # Where an action lies among these is one of the honesty signals.
        'actions': KnownActions.of(folder.actions()).to_dict(),
    }


def _identity(config: TrainingConfig) -> dict[str, Any]:
    """What must not change between a state and its resumption."""
    free = {'threads', 'evaluate_every', 'save_every'}
    if config.early_stop > 0:
        free.remove('evaluate_every')
    return {k: v for k, v in asdict(config).items() if k not in free}


def main_train(
    contract: Contract | str = 'finger',
    *,
    data: Path,
    held_out: Path,
    out: Path = Path('runs/train_idm'),
    name: str | None = None,
    validation: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
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
            `direct_pair_...` for a baseline), `_<flow>` appended when that is not the default.
        validation: folder of shards for the curve and for early stop; `held_out` unless given.
        resume: go on where a training of that name and recipe stopped.
        tensorboard: also write event files to `<out>/<name>.tensorboard`.
        command: stored in the checkpoint.
        recipe: fields of TrainingConfig: translator (jacobian | direct_flow | direct_pair), flow
            (dis | farneback | analytic), steps, batch, seed, rate, gradient_rows, precision,
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
        if config.translator != 'direct_pair' and config.flow != TrainingConfig.flow:
            # Of raft_small:FILE, say, the name alone.
            name += f'_{config.flow.partition(":")[0]}'
    return train(
        config, contract, Path(data), Path(held_out), Path(out), name,
        validation=None if validation is None else Path(validation), resume=resume,
        tensorboard=tensorboard, command=command,
    )
