"""`vera study honesty`: do the honesty signals tell real motion from what cannot happen?

The translator's normal is learned from real self-play and from dreams that came true; then other
transitions and other dreams are judged. No corrupted frame takes part in the calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vera_bringup import corruptions
from vera_bringup.lockstep import LockstepLoop, episode_seed
from vera_bringup.statistics import wilson
from vera_core.contract import Contract
from vera_core.seams import Image, Translation
from vera_jidm.honesty import (
    SIGNALS,
    Calibration,
    KnownActions,
    calibrate,
    calibration_path,
)
from vera_jidm.registry import find_translator_checkpoint
from vera_jidm.translator import Explanation, JacobianTranslator
from vera_sim import make_environment

if TYPE_CHECKING:
    from vera_core.checkpoint import CheckpointInfo

Signals = dict[str, NDArray[np.float64]]
CHUNK = 10
# Scenes of the calibration, of the test, and of the actions; far apart from those of training.
CALIBRATE, TEST, ACTIONS = 7_000_001, 7_000_002, 7_000_003
MUST = {'teleport': 0.95, 'frozen': 0.95, 'noise': 0.95}
COMBINED = 'score'


@dataclass(frozen=True)
class Dream:
    """One plan: its signals (float64 [K] each), and whether its episode ended well."""

    signals: Signals
    good: bool


@dataclass(frozen=True)
class Study:
    """What the study found.

    Attributes:
        calibration: made from real motion and good dreams.
        real_only: made from real motion alone.
        signals: kind -> signals of its n transitions.
        dreams: of the test.
    """

    calibration: Calibration
    real_only: Calibration
    signals: dict[str, Signals]
    dreams: list[Dream]


class _Listener:
    """A translator that keeps what its plans looked like."""

    def __init__(self, translator: JacobianTranslator) -> None:
        self._translator = translator
        self.translator_id = translator.translator_id
        self.checkpoint_hash = translator.checkpoint_hash
        self.channels = translator.channels
        self.needs_state = translator.needs_state
        self.plans: list[Signals] = []

    def translate(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None = None
    ) -> Translation:
        translation, explanation = self._translator.explain(anchor, frames, state)
        self.plans.append(_signals(explanation))
        return translation


def _signals(explanation: Explanation) -> Signals:
    assert explanation.honesty is not None
    return explanation.honesty.signals


def transition_signals(translator: JacobianTranslator, before: Image, after: Image) -> Signals:
    """Signals of N frame pairs, uint8 [N, H, W, 3] each."""
    parts = [
        _signals(translator.explain_pairs(before[i : i + CHUNK], after[i : i + CHUNK])[1])
        for i in range(0, len(before), CHUNK)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in SIGNALS}


def self_play_actions(contract: Contract, count: int, seed: int) -> NDArray[np.float64]:
    """Actions of self-play, [count, n], for a checkpoint that does not hold their statistics."""
    assert contract.sim is not None
    env = make_environment(contract.sim.environment, contract.sim.options, 16)
    columns = [env.joint_names.index(channel.joint or '') for channel in contract.channels]
    rng = np.random.default_rng(seed)
    pairs = [env.self_play(rng) for _ in range(count)]
    return np.array([q1 - q0 for q0, q1 in pairs])[:, columns]


def collect_dreams(
    contract: Contract, translator: JacobianTranslator, planner: str, episodes: int, seed: int
) -> list[Dream]:
    """Plans of `episodes` episodes in lock-step, with what became of each episode."""
    from vera_planner.planning import warm_up
    from vera_planner.registry import make_planner

    def make(provider: Any) -> Any:
        made = make_planner(planner, contract, provider=provider)
        warm_up(made, contract)
        return made

    listener = _Listener(translator)
    loop = LockstepLoop(contract, make, listener, seed)
    out = []
    for index in tqdm(range(episodes), desc='dreams', unit='episode'):
        listener.plans.clear()
        result = loop.run(index, episode_seed(seed, index), False, 60)
        out += [Dream(signals, result.success) for signals in listener.plans]
    return out


def study(
    contract: Contract,
    *,
    checkpoint: str | None = None,
    planner: str = '',
    count: int = 500,
    episodes: int = 40,
    seed: int = 0,
) -> tuple[Study, CheckpointInfo]:
    """Calibrate, then test on other scenes.

    Args:
        contract: of the simulated finger.
        checkpoint: of the translator; the contract's unless named.
        planner: whose dreams; the contract's unless named.
        count: transitions of each kind, and as many real ones to calibrate with; at least 200.
        episodes: of dreams, to calibrate with and as many again to test with.
        seed: of everything.

    Raises:
        ValueError: an embodiment that cannot be studied, a checkpoint that does not fit.
    """
    info = find_translator_checkpoint(contract, checkpoint)
    stored = info.config.get('actions')
    before, after = corruptions.draw(contract, 'real', count, seed + CALIBRATE)
    actions = (
        KnownActions.from_dict(stored)
        if stored
        else KnownActions.of(self_play_actions(contract, 4000, seed + ACTIONS))
    )
    bare = JacobianTranslator.load(info, contract, calibrated=False, actions=actions)
    real = [transition_signals(bare, before, after)]
    planner = planner or contract.defaults.planner
    tuning = collect_dreams(contract, bare, planner, episodes, seed + CALIBRATE)
    good = [dream.signals for dream in tuning if dream.good]
    signals = {}
    for kind in tqdm(corruptions.KINDS, desc='transitions', unit='kind'):
        pair = corruptions.draw(contract, kind, count, seed + TEST)
        signals[kind] = transition_signals(bare, *pair)
    found = Study(
        calibrate(real, actions, info.short_hash, good),
        calibrate(real, actions, info.short_hash),
        signals,
        collect_dreams(contract, bare, planner, episodes, seed + TEST),
    )
    return found, info


def auroc(negative: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    """Area under the ROC curve: how often a positive is larger; ties count half."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, 'left') + np.searchsorted(order, positive, 'right')
    return float(below.mean() / (2 * len(negative)))


def auroc_interval(
    negative: NDArray[np.float64], positive: NDArray[np.float64], seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """95% bootstrap interval, both classes drawn anew."""
    rng = np.random.default_rng(seed)
    n, p = len(negative), len(positive)
    areas = [
        auroc(negative[rng.integers(0, n, n)], positive[rng.integers(0, p, p)])
        for _ in range(draws)
    ]
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


def rows(found: Study, seed: int = 0) -> list[dict[str, Any]]:
    """Plain data: one row a kind and signal (`score` is all of them), false alarms, dreams."""
    out: list[dict[str, Any]] = []
    calibration = found.calibration
    scores = {k: calibration.score(s, plan=False)[0] for k, s in found.signals.items()}
    for kind in corruptions.RANGES:
        for name in (COMBINED, *SIGNALS):
            pick = scores if name == COMBINED else {k: s[name] for k, s in found.signals.items()}
            area = auroc(pick['real'], pick[kind])
            low, high = auroc_interval(pick['real'], pick[kind], seed)
            row = {'kind': kind, 'signal': name, 'n': len(pick[kind]), 'seed': seed,
                   'auroc': area, 'auroc_low': low, 'auroc_high': high}
            if name == COMBINED:
                row['caught'] = float((pick[kind] > calibration.threshold).mean())
            out.append(row)
    flagged = int((scores['real'] > calibration.threshold).sum())
    out.append(_alarms('real transitions', flagged, len(scores['real']), seed))
    good = [dream.signals for dream in found.dreams if dream.good]
    for label, judge in (('', calibration), (', calibrated on real motion alone', found.real_only)):
        steps = [judge.score(s)[0] > judge.threshold for s in good]
        flat = np.concatenate(steps)
        out.append(_alarms(f'steps of good dreams{label}', int(flat.sum()), len(flat), seed))
        plans = sum(bool(s.any()) for s in steps)
        out.append(_alarms(f'good dreams{label}', plans, len(steps), seed))
    return out


def _alarms(what: str, flagged: int, n: int, seed: int) -> dict[str, Any]:
    low, high = wilson(flagged, n)
    return {'kind': what, 'signal': COMBINED, 'n': n, 'seed': seed, 'false_alarms': flagged / n,
            'low': low, 'high': high}


def failures(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is below what must be reached."""
    return [
        f'{row["kind"]}: AUROC {row["auroc"]:.3f}, must be {MUST[row["kind"]]}'
        for row in table
        if row['signal'] == COMBINED and row['kind'] in MUST and row['auroc'] < MUST[row['kind']]
    ]


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The tables of docs/results/honesty.md."""
    lines = [
        '| in the second frame | n | AUROC (95%) | caught at the threshold | best single signal |',
        '|---|---|---|---|---|',
    ]
    for kind, text in corruptions.RANGES.items():
        mine = [row for row in table if row['kind'] == kind]
        whole = next(row for row in mine if row['signal'] == COMBINED)
        best = max((row for row in mine if row is not whole), key=lambda row: row['auroc'])
        lines.append(
            f'| **{kind}**: {text} | {whole["n"]} | {whole["auroc"]:.4f} '
            f'({whole["auroc_low"]:.4f}-{whole["auroc_high"]:.4f}) | {100 * whole["caught"]:.1f}% '
            f'| `{best["signal"]}` {best["auroc"]:.3f} |'
        )
    lines += ['', '| AUROC of each signal alone | ' + ' | '.join(corruptions.RANGES) + ' |',
              '|---' * (1 + len(corruptions.RANGES)) + '|']
    for name in SIGNALS:
        areas = [
            next(r['auroc'] for r in table if r['kind'] == kind and r['signal'] == name)
            for kind in corruptions.RANGES
        ]
        lines.append(f'| `{name}` | ' + ' | '.join(f'{area:.3f}' for area in areas) + ' |')
    lines += ['', '| false alarms | n | share (95%) |', '|---|---|---|']
    lines += [
        f'| {row["kind"]} | {row["n"]} | {100 * row["false_alarms"]:.1f}% '
        f'({100 * row["low"]:.1f}-{100 * row["high"]:.1f}%) |'
        for row in table
        if 'false_alarms' in row
    ]
    return '\n'.join(lines) + '\n'


def draw_curves(found: Study, table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """ROC curves of the score, and the scores themselves."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    calibration = found.calibration
    scores = {k: calibration.score(s, plan=False)[0] for k, s in found.signals.items()}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    lowest = 0.95
    for i, kind in enumerate(corruptions.RANGES):
        levels = np.sort(np.concatenate([scores['real'], scores[kind]]))[::-1]
        false = 1 - np.searchsorted(np.sort(scores['real']), levels, 'left') / len(scores['real'])
        true = 1 - np.searchsorted(np.sort(scores[kind]), levels, 'left') / len(scores[kind])
        area = next(
            r['auroc'] for r in table if r['kind'] == kind and r['signal'] == COMBINED
        )
        label = f'{kind} {area:.4f}'
        left.step([0.0, *false], [0.0, *true], where='post', color=f'C{i + 2}', label=label)
        lowest = min(lowest, float(np.interp(0.01, false, true)))
    left.set(xlabel='real transitions flagged', ylabel='corrupted ones flagged',
             title='ROC of the score: its upper left corner')
    left.set_xscale('symlog', linthresh=0.01)
    left.set_xlim(0, 1)
    left.set_ylim(lowest - 0.05, 1.005)
    ticks = [0, 0.002, 0.01, 0.1, 1]
    left.set_xticks(ticks, [f'{100 * tick:g}%' for tick in ticks])
    left.legend(title='AUROC', loc='lower right')
    dreams = [d.signals for d in found.dreams if d.good]
    series = {'real': scores['real'],
              'good dreams': np.concatenate([calibration.score(s)[0] for s in dreams])}
    series |= {kind: scores[kind] for kind in corruptions.RANGES}
    for i, values in enumerate(series.values()):
        jitter = np.random.default_rng(i).uniform(-0.3, 0.3, len(values))
        right.scatter(np.maximum(values, 0.03), i + jitter, s=2, alpha=0.5, color=f'C{i}')
    right.axvline(calibration.threshold, color='black', linewidth=1)
    right.set(yticks=range(len(series)), yticklabels=list(series), xscale='log',
              xlabel='score; line: threshold', title='every transition')
    right.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def save_calibration(found: Study, info: CheckpointInfo) -> Path:
    """Write the calibration beside its checkpoint."""
    path = calibration_path(info)
    found.calibration.save(path)
    return path
