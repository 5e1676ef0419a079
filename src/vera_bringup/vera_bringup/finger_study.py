"""The toy finger study (the paper's Fig. 5 and a column of Table 2), redone.

Held-out action error of the J-IDM, D-IDM + Flow and UniPi* as the number of joints grows at fixed
data, and as the data grows at five joints. Self-play as in our first trial: no discs, joint angles
within +-1.4 / sqrt(n) rad, motions of up to 0.05 rad a joint.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vera_bringup import selfplay
from vera_core.contract import load_contract

MODELS = ('jacobian', 'direct_flow', 'direct_pair')
LABELS = {
    'jacobian': 'J-IDM', 'direct_flow': 'D-IDM + Flow', 'direct_pair': 'UniPi* (image pair)'
}
ANALYTIC = 'analytic'
NO_FLOW = 'none'
FILE = selfplay.SHARD
HELD_OUT_SEED = 1_000_003
MAX_DELTA = 0.05
# What was best for the baselines on other self-play: (model, joints, flow, recipe).
_RATE = (('rate', 5e-4),)
_LOSS = (('direct_loss', 'smooth_l1'), *_RATE)
OWN: tuple[tuple[str, int, str, tuple[tuple[str, Any], ...]], ...] = (
    *(('direct_flow', 5, flow, recipe) for flow in (ANALYTIC, 'dis') for recipe in (_RATE, _LOSS)),
    ('direct_flow', 10, ANALYTIC, _RATE),
    ('direct_pair', 5, NO_FLOW, _RATE),
)
# 97.5% quantile of Student's t for 1, 2, ... degrees of freedom; the last stands for all above.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        model: of MODELS; joints: of the finger; n: transitions; flow: estimator, 'none' for
            `direct_pair`; seed: of self-play, weights and order.
        recipe: what differs from the default recipe.
    """

    model: str
    joints: int
    n: int
    flow: str
    seed: int
    recipe: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Of its files."""
        extra = ''.join(f'_{k}_{v}' for k, v in self.recipe)
        name = f'{self.model}_j{self.joints}_n{self.n}_{self.flow}_s{self.seed}{extra}'
        return re.sub(r'\W+', '_', name).rstrip('_')  # what a checkpoint may be called

    def __hash__(self) -> int:
        return hash(self.name)  # a recipe may hold a dict


@dataclass(frozen=True)
class FingerStudy:
    """What the study runs.

    Attributes:
        joints: degrees of freedom of the first sweep, at `transitions`.
        sizes: transitions of the second sweep, at `joint` joints.
        flows: estimators of both sweeps.
        spot_flows: further estimators, run at the `spots` only.
        spots: (joints, transitions) of `spot_flows`.
        models, seeds: trained in every cell.
        steps: of each training, the same for all; held_out: transitions to measure with.
        long_steps: of trainings that show what more steps would change; 0: none.
        long_spots: (joints, transitions) of those, with `flows`.
        own: whether the baselines are trained at their OWN rates, too, with `transitions`.
    """

    joints: tuple[int, ...] = (1, 2, 3, 4, 5, 8, 10)
    sizes: tuple[int, ...] = (128, 256, 512, 1000, 2000, 4000, 8000)
    joint: int = 5
    transitions: int = 4000
    flows: tuple[str, ...] = (ANALYTIC, 'dis')
    spot_flows: tuple[str, ...] = ('dis_lk',)
    spots: tuple[tuple[int, int], ...] = ((2, 4000), (5, 4000), (10, 4000))
    models: tuple[str, ...] = MODELS
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 400
    held_out: int = 500
    long_steps: int = 1200
    long_spots: tuple[tuple[int, int], ...] = ((5, 4000), (10, 4000))
    own: bool = True

    def __post_init__(self) -> None:
        for model in self.models:
            if model not in MODELS:
                raise ValueError(f'no model {model!r}; there are {", ".join(MODELS)}')
        if not self.seeds or not self.flows:
            raise ValueError('a study needs at least one seed and one flow')
        for value in (*self.sizes, self.transitions, self.steps, self.held_out):
            if value < 1:
                raise ValueError(f'{value} is no number of transitions or steps')

    def cells(self) -> list[Cell]:
        """Every training, the most telling first: all seeds of the main cell, then the sweeps."""
        main = (self.joint, self.transitions)
        points = [(j, self.transitions) for j in sorted(self.joints, reverse=True)]
        points += [(self.joint, n) for n in sorted(self.sizes, reverse=True)]
        order = [(main, seed) for seed in self.seeds]
        order += [(point, seed) for seed in self.seeds for point in points]
        out: dict[str, Cell] = {}
        for (joints, n), seed in order:
            also = self.spot_flows if (joints, n) in self.spots else ()
            for cell in self._of(joints, n, seed, (*self.flows, *also)):
                out.setdefault(cell.name, cell)
        for model, joints, flow, own in OWN if self.own else ():
            known = model in self.models and joints in self.joints
            for seed in self.seeds if known and flow in (NO_FLOW, *self.flows) else ():
                cell = Cell(model, joints, self.transitions, flow, seed, own)
                out.setdefault(cell.name, cell)
        recipe = (('steps', self.long_steps),)
        for joints, n in self.long_spots if self.long_steps else ():
            for seed in self.seeds:
                for cell in self._of(joints, n, seed, self.flows, recipe):
                    out.setdefault(cell.name, cell)
        return list(out.values())

    def _of(
        self, joints: int, n: int, seed: int, flows: Sequence[str],
        recipe: tuple[tuple[str, Any], ...] = (),
    ) -> list[Cell]:
        """Every model with every flow; `direct_pair` sees none."""
        return [
            Cell(m, joints, n, NO_FLOW if m == 'direct_pair' else flow, seed, recipe)
            for flow in flows for m in self.models
        ]


QUICK = FingerStudy(
    joints=(2, 5, 10), sizes=(500, 1000, 2000), transitions=2000, seeds=(0,), flows=(ANALYTIC,),
    spot_flows=('dis_lk',), spots=((5, 2000),), steps=150, held_out=300, long_steps=0,
    own=False,
)


@dataclass
class Runner:
    """Runs cells and keeps their rows: <out>/rows/<cell>.json; what is there is not run again.

    Attributes:
        out: folder of everything.
        steps, held_out: see FingerStudy.
        jobs: processes at once, one thread each.
        command: stored in the rows.
    """

    out: Path
    steps: int
    held_out: int
    jobs: int = 1
    command: str = ''
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Rows of the cells, in their order.

        Raises:
            ValueError: a row on disk is of another number of steps or transitions.
        """
        found = {cell: self._read(cell) for cell in cells}
        todo = [cell for cell in cells if found[cell] is None]
        os.environ.setdefault('OMP_NUM_THREADS', '1')
        bar = tqdm(total=len(cells), initial=len(cells) - len(todo), desc='trainings')
        with ProcessPoolExecutor(self.jobs, mp_context=get_context('spawn')) as pool:
            running: dict[Future[dict[str, Any]], Cell] = {}
            while todo or running:
                for cell in list(todo):
                    if len(running) >= self.jobs:
                        break
                    if not self._waits(cell, running.values()):
                        todo.remove(cell)
                        running[pool.submit(_run, self, cell)] = cell
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    cell = running.pop(future)
                    found[cell] = future.result()
                    bar.update()
                    bar.set_postfix_str(f'{cell.name} {found[cell]["mse"]:.4f}')  # type: ignore[index]
        bar.close()
        self.rows = [row for row in found.values() if row is not None]
        return self.rows

    def data(self, cell: Cell) -> Path:
        """Folder of a cell's self-play."""
        return self.out / 'data' / f'j{cell.joints}_n{cell.n}_s{cell.seed}'

    def _waits(self, cell: Cell, running: Iterable[Cell]) -> bool:
        """Whether another training is computing the estimated flow that this one needs."""
        flow = (cell.joints, cell.n, cell.seed, cell.flow)
        if cell.flow in (ANALYTIC, NO_FLOW):
            return False
        known = f'*_j{cell.joints}_n{cell.n}_{cell.flow}_s{cell.seed}*.json'
        return not any((self.out / 'rows').glob(known)) and any(
            flow == (c.joints, c.n, c.seed, c.flow) for c in running
        )

    def _path(self, cell: Cell) -> Path:
        return self.out / 'rows' / f'{cell.name}.json'

    def _read(self, cell: Cell) -> dict[str, Any] | None:
        path = self._path(cell)
        if not path.is_file():
            return None
        row: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        wanted = {'steps': self.steps, 'held_out': self.held_out}
        wanted |= {k: v for k, v in cell.recipe if k in wanted}
        if {k: row[k] for k in wanted} != wanted:
            raise ValueError(
                f'{path} is of {row["steps"]} steps and {row["held_out"]} held-out transitions; '
                'choose another --out, or delete it'
            )
        return row


def _run(runner: Runner, cell: Cell) -> dict[str, Any]:
    """Self-play where it is missing, one training, one row."""
    import torch

    from vera_jidm import training

    torch.set_num_threads(1)
    contract = selfplay.contract_with_joints(load_contract('finger'), cell.joints)
    play: dict[str, Any] = {
        'max_delta': MAX_DELTA, 'span': 1.4 / math.sqrt(cell.joints), 'discs': 0
    }
    folder = runner.data(cell)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'lock').open('w') as lock:
        # Trainings that run at the same time share their self-play: the first one makes it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        _share_files(folder / 'train', runner.out / 'data', cell)
        selfplay.collect(contract, folder / 'train', cell.n, cell.seed, **play)
        selfplay.collect(
            contract, folder / 'heldout', runner.held_out, cell.seed + HELD_OUT_SEED, **play
        )
    trainings = runner.out / 'trainings'
    trainings.mkdir(parents=True, exist_ok=True)
    recipe: dict[str, Any] = {
        'steps': runner.steps, 'evaluate_every': max(1, runner.steps // 4),
        'save_every': 1_000_000, 'batch': min(32, cell.n),
        'flow': ANALYTIC if cell.flow == NO_FLOW else cell.flow,
        **dict(cell.recipe),
    }
    metrics = training.main_train(
        contract, data=folder / 'train', held_out=folder / 'heldout', out=trainings,
        name=cell.name, translator=cell.model, seed=cell.seed, command=runner.command, **recipe,
    )
    row = {
        'model': cell.model,
        'joints': cell.joints,
        'n': cell.n,
        'flow': cell.flow,
        'seed': cell.seed,
        'mse': metrics['mse_stacked'],
        'params': metrics['parameters'],
        'mse_ci': metrics['mse_stacked_ci'],
        'mse_one_direction': metrics['mse_forward'],
        'mse_eq6': metrics['mse_paper'],
        'mse_joints': metrics['mse_stacked_channels'],
        'relative_flow': metrics['relative_flow'],
        'train_seconds': metrics['train_seconds'],
        'steps': recipe['steps'],
        'held_out': runner.held_out,
        'recipe': dict(cell.recipe),
    }
    path = runner._path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(row, indent=1) + '\n', encoding='utf-8')
    part.replace(path)
    return row


def _share_files(train: Path, root: Path, cell: Cell) -> None:
    """Take whole files of self-play, and their flow, from a larger set of the same seed."""
    whole = cell.n // FILE
    if train.is_dir() or not whole:
        return
    for other in sorted(root.glob(f'j{cell.joints}_n*_s{cell.seed}/train')):
        if int(other.parent.name.split('_n')[1].split('_')[0]) < cell.n:
            continue
        names = [f'shard_{i:05d}' for i in range(whole)]
        if not all((other / f'{name}.mcap').is_file() for name in names):
            continue
        (train / 'flow').mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy2(other / f'{name}.mcap', train)
            for cache in (other / 'flow').glob(f'{name}.*'):
                shutil.copy2(cache, train / 'flow')
        return


# --- what the rows say -----------------------------------------------------------------------


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of positive values, and its 95% interval (Student's t of the logarithms).

    One value has no interval: both ends are nan.
    """
    logs = np.log(np.maximum(values, 1e-12))
    mean = float(logs.mean())
    if len(logs) < 2:
        return math.exp(mean), math.nan, math.nan
    quantile = STUDENT[min(len(logs) - 1, len(STUDENT)) - 1]
    half = quantile * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def select(
    rows: Iterable[dict[str, Any]],
    model: str,
    flow: str,
    recipe: dict[str, Any] | None = None,
    **wanted: int,
) -> dict[tuple[int, int], dict[int, float]]:
    """(joints, n) -> seed -> MSE of a model; `direct_pair` sees no flow, so fits every flow."""
    out: dict[tuple[int, int], dict[int, float]] = {}
    for row in rows:
        fits = row['model'] == model and row['flow'] in (flow, NO_FLOW)
        fits = fits and row['recipe'] == (recipe or {})
        if fits and all(row[k] == v for k, v in wanted.items()):
            out.setdefault((row['joints'], row['n']), {})[row['seed']] = row['mse']
    return dict(sorted(out.items()))


def ratios(
    rows: Sequence[dict[str, Any]], model: str, flow: str, recipe: dict[str, Any] | None = None
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """(joints, n) -> MSE of a model over the J-IDM's, paired by seed, with its interval."""
    ours, theirs = (select(rows, m, flow, recipe) for m in ('jacobian', model))
    out = {}
    for point, seeds in theirs.items():
        both = sorted(set(seeds) & set(ours.get(point, {})))
        if both:
            out[point] = spread([seeds[s] / ours[point][s] for s in both])
    return out


def data_needed(
    rows: Sequence[dict[str, Any]], model: str, flow: str, joints: int
) -> list[dict[str, Any]]:
    """How many times the J-IDM's transitions a model needs for the J-IDM's error.

    From the geometric means over the seeds, the model's curve interpolated linearly in logarithms.

    Returns:
        For each n of the J-IDM: n, mse, and `times`; None where the model does not reach that
        error with the most data there is, `more_than` then says how many times that is.
    """
    curve = [
        (n, spread(list(v.values()))[0])
        for (_, n), v in select(rows, model, flow, joints=joints).items()
    ]
    out: list[dict[str, Any]] = []
    for (_, n), seeds in select(rows, 'jacobian', flow, joints=joints).items():
        mse = spread(list(seeds.values()))[0]
        times, more = None, None
        for (n0, m0), (n1, m1) in itertools.pairwise(curve):
            if m0 >= mse >= m1 and m0 > m1:
                share = math.log(m0 / mse) / math.log(m0 / m1)
                times = math.exp(math.log(n0) + share * math.log(n1 / n0)) / n
                break
        if times is None and curve and min(m for _, m in curve) > mse:
            more = curve[-1][0] / n
        out.append({'n': n, 'mse': mse, 'times': times, 'more_than': more})
    return out


def markdown(
    rows: Sequence[dict[str, Any]], flow: str, recipe: dict[str, Any] | None = None
) -> str:
    """The table of a flow: rows of (joints, n), models across, ratios to the J-IDM."""
    columns = {m: select(rows, m, flow, recipe) for m in MODELS}
    points = sorted({p for c in columns.values() for p in c})
    lines = [
        ('| joints | transitions | J-IDM | D-IDM + Flow | UniPi* | D-IDM + Flow / J-IDM | '
        'UniPi* / J-IDM |'),
        '|---|---|---|---|---|---|---|',
    ]
    times = {m: ratios(rows, m, flow, recipe) for m in MODELS[1:]}
    for point in points:
        if point not in columns['jacobian']:
            continue
        cells = [
            _text(spread(list(columns[m][point].values()))) if point in columns[m] else '-'
            for m in MODELS
        ]
        cells += [_text(times[m][point], 2) if point in times[m] else '-' for m in MODELS[1:]]
        lines.append(f'| {point[0]} | {point[1]} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _text(value: tuple[float, float, float], digits: int = 4) -> str:
    middle, low, high = value
    text = f'{middle:.{digits}f}'
    return text if math.isnan(low) else f'{text} ({low:.{digits}f}-{high:.{digits}f})'


def plot(rows: Sequence[dict[str, Any]], study: FingerStudy, path: Path) -> None:
    """Both sweeps, one row of plots for each flow: every seed a dot, lines through the means."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    every = (*study.flows, *study.spot_flows)
    flows = [f for f in every if any(r['flow'] == f for r in rows)]
    figure, axes = plt.subplots(
        len(flows), 2, figsize=(11, 4.2 * len(flows)), squeeze=False, layout='constrained'
    )
    for row, flow in enumerate(flows):
        for column, (name, fixed) in enumerate(
            (('joints', {'n': study.transitions}), ('transitions', {'joints': study.joint}))
        ):
            axis = axes[row][column]
            if len(select(rows, 'jacobian', flow, None, **fixed)) < 2:
                axis.axis('off')
                continue
            for model, colour in zip(MODELS, ('#0b6e4f', '#d1495b', '#6c757d'), strict=True):
                found = select(rows, model, flow, None, **fixed)
                x = [p[column] for p in found]
                axis.plot(
                    x, [spread(list(v.values()))[0] for v in found.values()], '-', color=colour,
                    label=LABELS[model],
                )
                for at, seeds in zip(x, found.values(), strict=True):
                    axis.plot([at] * len(seeds), list(seeds.values()), 'o', color=colour, ms=4)
            axis.set_yscale('log')
            if column:
                axis.set_xscale('log')
                axis.minorticks_off()
                axis.set_xticks(study.sizes, [str(n) for n in study.sizes])
            axis.set_xlabel(name)
            axis.set_ylabel('held-out action MSE')
            axis.set_title(
                f'{flow} flow, '
                + (f'{study.joint} joints' if column else f'{study.transitions} transitions')
            )
            axis.grid(alpha=0.3, which='both')
            axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def as_plain(study: FingerStudy) -> dict[str, Any]:
    """For the JSON beside the rows."""
    return asdict(study)
