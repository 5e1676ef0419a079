"""The PushT study: action error of three translators, and the loop closed with an oracle planner.

The oracle is the scripted expert: at every replan it starts from the true state and its next
frames are rendered. The translator sees the newest real frame and those frames, nothing else; its
actions are executed under velocity control, clipped as in VERA's PushT (0.512 m/s along an axis).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vera_bringup import pusht_data
from vera_bringup.statistics import COVERAGES as THRESHOLDS
from vera_bringup.statistics import wilson
from vera_core.checkpoint import find_checkpoint
from vera_core.contract import Contract
from vera_core.seams import Image, Translator

MODELS = ('jacobian', 'direct_flow', 'direct_pair')
EXPERT = 'expert'  # the expert's own actions: what the frames could give at best
HORIZONS = (200, 300)  # steps: VERA allows 200, gym-pusht 300
HELD_OUT_SEED = 1_000_003
UNITS = 1000.0  # of the table, per metre

Float = NDArray[np.float64]


@dataclass(frozen=True)
class StudyOptions:
    """What decides the outcome of the study.

    Attributes:
        transitions, held_out: self-play to train on and to measure with.
        steps, batch: of each training, the same for all. seeds: of the trainings.
        models: which translators to train and measure.
        episodes: uniform starts; `seed` + i is the start of episode i.
        plan: frames the oracle imagines; execute: actions taken before the next plan.
    """

    transitions: int = 3000
    held_out: int = 400
    steps: int = 400
    batch: int = 16
    seeds: tuple[int, ...] = (0,)
    models: tuple[str, ...] = MODELS
    episodes: int = 100
    seed: int = 2026
    plan: int = 3
    execute: int = 3

    def __post_init__(self) -> None:
        for name in ('transitions', 'held_out', 'steps', 'batch', 'plan', 'execute'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be at least 1')
        if self.execute > self.plan:
            raise ValueError(
                f'{self.execute} actions are to be executed of a plan of {self.plan} frames'
            )
        for model in self.models:
            if model not in MODELS:
                raise ValueError(f'no model {model!r}; there are {", ".join(MODELS)}')


# --- the trainings ---------------------------------------------------------------------------


def train_models(
    contract: Contract, options: StudyOptions, out: Path, *, threads: int = 1, command: str = ''
) -> list[dict[str, Any]]:
    """Self-play, then one training for each model and seed; what is there already is kept.

    Returns:
        Rows: model, joints, n, flow, seed, mse (both frames) and its 95% interval, params.
    """
    if not options.models:
        return []
    from vera_jidm import training

    data = out / 'data'
    pusht_data.collect(contract, data / 'train', options.transitions, 0)
    pusht_data.collect(contract, data / 'heldout', options.held_out, HELD_OUT_SEED)
    rows = []
    for model in options.models:
        for seed in options.seeds:
            name = checkpoint_name(model, seed)
            path = out / f'{name}.safetensors'
            if not path.is_file():
                training.main_train(
                    contract,
                    data=data / 'train',
                    held_out=data / 'heldout',
                    out=out,
                    name=name,
                    resume=any(out.glob(f'{name}.state*')),
                    command=command,
                    translator=model,
                    steps=options.steps,
                    batch=options.batch,
                    evaluate_every=100,
                    save_every=100,
                    seed=seed,
                    stem=16,
                    widths=(16, 32, 64),
                    threads=threads,
                )
            rows.append(training_row(path, model, seed, len(contract.channels)))
    return rows


def checkpoint_name(model: str, seed: int) -> str:
    """Name of the checkpoint of a model and seed in the folder of the study."""
    return f'{"jidm" if model == "jacobian" else model}_pusht_s{seed}'


def training_row(path: Path, model: str, seed: int, channels: int) -> dict[str, Any]:
    """What a checkpoint's JSON says about its held-out error."""
    info = find_checkpoint(str(path), None, kind='idm')
    metrics = info.training['metrics']
    return {
        'study': 'pusht',
        'model': model,
        'joints': channels,
        'n': info.training['data']['transitions'],
        'flow': metrics['flow_id'],
        'seed': seed,
        'mse': metrics['mse_stacked'],
        'mse_ci': metrics['mse_stacked_ci'],
        'mse_median': metrics['mse_stacked_median'],
        'mse_paper': metrics['mse_paper'],
        'params': sum(int(np.prod(v.shape)) for v in info.tensors().values()),
        'train_seconds': metrics['train_seconds'],
    }


# --- the loop --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PushTEpisode:
    """One episode of the closed loop.

    Attributes:
        seed: of the start.
        coverage: after each step, from the start on; it ends above 0.95 or at the last horizon.
        error: mean square of executed minus imagined displacement over that of the imagined one.
    """

    seed: int
    coverage: tuple[float, ...]
    error: float

    def best(self, horizon: int) -> float:
        """Largest coverage within that many steps."""
        return max(self.coverage[: horizon + 1])


@dataclass
class Moment:
    """One plan of the loop: what was imagined, and what came of it.

    Attributes:
        step: of the anchor. imagined, real: frames uint8 [k, H, W, 3], the first `execute` steps.
    """

    step: int
    imagined: Image
    real: Image


def run_episode(
    contract: Contract,
    env: Any,
    translator: Translator | None,
    seed: int,
    options: StudyOptions,
    *,
    horizon: int = HORIZONS[-1],
    watch: Callable[[Moment], None] | None = None,
) -> PushTEpisode:
    """One start, planned by the oracle until the goal is covered or time is up.

    Args:
        contract: of PushT.
        env: made by vera_sim.make_environment.
        translator: None executes the expert's own actions.
        seed: of the start.
        options: lengths of plan and execution.
        horizon: steps.
        watch: gets every plan and what came of it; rendering that takes time.
    """
    from vera_core import canvas

    name = contract.cameras[0].name

    def view(image: Image) -> Image:
        return canvas.tile({name: image}, contract)

    expert = env.expert
    env.reset(seed)
    covered = [env.coverage()]
    wrong, power = 0.0, 0.0
    while len(covered) <= horizon and covered[-1] <= THRESHOLDS[-1]:
        state = env.scene()
        moves, states, memory = expert.foresee(state, options.plan)
        values = moves
        frames = None
        if translator is not None:
            frames = np.stack([view(env.render_scene(s)) for s in states])
            translation = translator.translate(view(env.render()), frames)
            values = translation.values * UNITS
        real = []
        for move, wanted in zip(values[: options.execute], moves, strict=False):
            env.physics.move(move)
            wrong += float(np.square(move - wanted).sum())
            power += float(np.square(wanted).sum())
            covered.append(env.coverage())
            if watch is not None:
                real.append(view(env.render()))
            if covered[-1] > THRESHOLDS[-1] or len(covered) > horizon:
                break
        if watch is not None and frames is not None:
            watch(Moment(len(covered) - 1, frames[: len(real)], np.stack(real)))
        expert.push = memory[options.execute - 1]
    return PushTEpisode(seed, tuple(round(c, 4) for c in covered), wrong / max(power, 1e-12))


def run_loop(
    contract: Contract,
    translator: Translator | None,
    options: StudyOptions,
    path: Path,
    label: str,
) -> list[PushTEpisode]:
    """All episodes; those that `path` (JSON lines) holds already are not run again.

    Raises:
        ValueError: `path` was written with other options.
    """
    from vera_sim import make_environment

    assert contract.sim is not None
    head = {
        'translator': label,
        'checkpoint': getattr(translator, 'checkpoint_hash', ''),
        'plan': options.plan,
        'execute': options.execute,
    }
    done = _read_episodes(path, head)
    env = make_environment('pusht', contract.sim.options, contract.cameras[0].height)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not done and not path.is_file():
        path.write_text(json.dumps(head) + '\n')
    seeds = [options.seed + i for i in range(options.episodes)]
    bar = tqdm(seeds, desc=f'{label} in the loop', unit='episode')
    for seed in bar:
        if seed not in done:
            done[seed] = run_episode(contract, env, translator, seed, options)
            with path.open('a') as file:
                file.write(json.dumps(asdict(done[seed])) + '\n')
        so_far = [done[s] for s in seeds if s in done]
        rate = np.mean([e.best(HORIZONS[0]) >= 0.82 for e in so_far])
        bar.set_postfix({'coverage >= .82': f'{rate:.2f}'})
    return [done[seed] for seed in seeds]


def _read_episodes(path: Path, head: dict[str, Any]) -> dict[int, PushTEpisode]:
    if not path.is_file():
        return {}
    lines = path.read_text().splitlines()
    if not lines or json.loads(lines[0]) != head:
        raise ValueError(
            f'{path} holds episodes of another checkpoint or plan; move it away or choose another '
            '--out'
        )
    episodes = {}
    for line in lines[1:]:
        values = json.loads(line)
        episodes[values['seed']] = PushTEpisode(
            values['seed'], tuple(values['coverage']), values['error']
        )
    return episodes


def loop_rows(
    episodes: Sequence[PushTEpisode], label: str, options: StudyOptions
) -> list[dict[str, Any]]:
    """Success rates with Wilson intervals, one row for each horizon and threshold."""
    rows = []
    for horizon in HORIZONS:
        for threshold in THRESHOLDS:
            hits = sum(e.best(horizon) >= threshold for e in episodes)
            low, high = wilson(hits, len(episodes))
            rows.append(
                {
                    'study': 'pusht-loop',
                    'model': label,
                    'horizon': horizon,
                    'coverage': threshold,
                    'n': len(episodes),
                    'success_rate': hits / len(episodes),
                    'ci_low': low,
                    'ci_high': high,
                    'mean_best_coverage': float(np.mean([e.best(horizon) for e in episodes])),
                    'median_steps': float(np.median([len(e.coverage) - 1 for e in episodes])),
                    'action_error': float(np.mean([e.error for e in episodes])),
                    'seed': options.seed,
                    'plan': options.plan,
                    'execute': options.execute,
                }
            )
    return rows


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, one table for the trainings and one for the loops."""
    lines = []
    trained = [row for row in rows if row['study'] == 'pusht']
    if trained:
        lines += ['| model | seed | action MSE | 95% | Eq. 6 alone | weights |', '|---' * 6 + '|']
        for row in trained:
            low, high = row['mse_ci']
            lines.append(
                f'| {row["model"]} | {row["seed"]} | {row["mse"]:.4f} | {low:.4f}-{high:.4f} '
                f'| {row["mse_paper"]:.4f} | {row["params"] / 1e6:.2f} M |'
            )
        lines.append('')
    loops = [row for row in rows if row['study'] == 'pusht-loop']
    heads = [f'{h} steps, >= {c:g}' for h in HORIZONS for c in THRESHOLDS]
    if loops:
        lines += ['| loop | n | ' + ' | '.join(heads) + ' |', '|---' * (2 + len(heads)) + '|']
        for label in dict.fromkeys(row['model'] for row in loops):
            mine = [row for row in loops if row['model'] == label]
            cells = [
                f'{100 * r["success_rate"]:.0f}% ({100 * r["ci_low"]:.1f}-{100 * r["ci_high"]:.1f})'
                for r in mine
            ]
            lines.append(f'| {label} | {mine[0]["n"]} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


# --- pictures --------------------------------------------------------------------------------


def plot_loop(results: dict[str, Sequence[PushTEpisode]], path: Path) -> None:
    """How many episodes have reached each coverage by each step, one panel for each coverage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout='constrained')
    axes = figure.subplots(1, len(THRESHOLDS), sharey=True)
    steps = np.arange(HORIZONS[-1] + 1)
    for axis, threshold in zip(axes, THRESHOLDS, strict=True):
        for label, episodes in results.items():
            reached = [_first(e, threshold) for e in episodes]
            axis.plot(steps, [np.mean([r <= s for r in reached]) for s in steps], label=label)
        axis.axvline(HORIZONS[0], color='0.6', linewidth=0.8, linestyle=':')
        axis.set(title=f'coverage ≥ {threshold:g}', xlabel='steps of 0.1 s', ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    n = max(len(e) for e in results.values())
    axes[0].set_ylabel(f'share of {n} uniform starts')
    axes[-1].legend(loc='lower right')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _first(episode: PushTEpisode, threshold: float) -> float:
    """First step at which the coverage was reached; infinity if never."""
    at = np.flatnonzero(np.array(episode.coverage) >= threshold)
    return float(at[0]) if len(at) else np.inf


def picture_of_episode(
    contract: Contract, translator: Translator, seed: int, options: StudyOptions, path: Path,
    columns: int = 8,
) -> None:
    """The oracle's frames above what execution made of them, at moments spread over an episode."""
    import cv2

    from vera_sim import make_environment

    assert contract.sim is not None
    env = make_environment('pusht', contract.sim.options, contract.cameras[0].height)
    moments: list[Moment] = []
    run_episode(contract, env, translator, seed, options, watch=moments.append)
    picks = np.linspace(0, len(moments) - 1, min(columns, len(moments))).round().astype(int)
    chosen = [moments[i] for i in picks]
    rows = [
        np.concatenate([m.imagined[-1] for m in chosen], axis=1),
        np.concatenate([m.real[-1] for m in chosen], axis=1),
    ]
    image = np.concatenate(rows, axis=0)
    image = cv2.resize(image, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])
