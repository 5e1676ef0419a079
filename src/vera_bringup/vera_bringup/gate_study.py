"""`vera study gate`: are bad plans stopped, and good ones not?

What is normal is learned from plans of episodes that ended well; no bad plan takes part. Then plans
of other episodes are judged, as they are and spoilt in each of the ways of `planted_plans`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from vera_bringup.honesty_study import auroc
from vera_bringup.planted_plans import PLANTED, Dream, collect, plant, studied
from vera_bringup.statistics import wilson
from vera_core.contract import Contract
from vera_core.gates import GateEntry
from vera_core.normal import Normal
from vera_core.seeds import mix
from vera_jidm.plan_gate import action_signals
from vera_jidm.registry import make_translator
from vera_planner.motion import plan_motion
from vera_planner.plan_checks import ENOUGH, frame_signals, rests, unrealised

if TYPE_CHECKING:
    from vera_core.seams import Image
    from vera_jidm.translator import JacobianTranslator

Signals = dict[str, float]
CALIBRATE, TEST = 7_100_001, 7_100_002
WITNESSES = ENOUGH - 1
# Of good plans, by their frames and by their actions each; both together stay below 5%.
FALSE_STOPS = 0.01
NOT_TRUE = 0.02  # of good plans that may be said not to have come true
MUST_STOP, MAY_STOP = 0.9, 0.05
GOOD = 'good'
BLOCKED, ELSEWHERE = 'the robot is blocked', 'the robot follows another plan'


@dataclass(frozen=True)
class Sample:
    """A plan as both judges see it.

    Attributes:
        kind: GOOD or one of PLANTED.
        frames: signals of its frames, by the number of candidates, from 1.
        actions: signals of its translation; None where one candidate's frames alone stop it, so
            that nobody translates it.
        rests: whether it rests, and so is judged beside all candidates however many are asked for.
    """

    kind: str
    frames: tuple[Signals, ...]
    actions: Signals | None
    rests: bool = False

    def beside(self, candidates: int) -> Signals:
        """The signals of its frames when so many candidates are asked for."""
        return self.frames[-1 if self.rests else candidates - 1]


@dataclass(frozen=True)
class Study:
    """What the study found.

    Attributes:
        entry: the thresholds.
        samples: of the test.
        outcomes: kind of outcome -> shares of the dreamt change that did not come true.
    """

    entry: GateEntry
    samples: list[Sample]
    outcomes: dict[str, list[float]]


def sample(
    translator: JacobianTranslator,
    dream: Dream,
    kind: str,
    frames: Image,
    normal: Normal | None = None,
) -> Sample:
    """The signals of `frames` in place of the dream's own; translated unless `normal` objects."""
    by_frames = tuple(
        frame_signals(dream.anchor, frames, list(dream.witnesses[:n]))
        for n in range(len(dream.witnesses) + 1)
    )
    found = Sample(kind, by_frames, None, rests(dream.anchor, frames))
    if normal is not None and normal.score(found.beside(1))[0] > normal.threshold:
        return found
    explanation = translator.explain(dream.anchor, frames[: dream.executed])[1]
    return replace(found, actions=action_signals(explanation))


def samples(
    translator: JacobianTranslator,
    dreams: Sequence[Dream],
    kinds: Sequence[str],
    seed: int,
    normal: Normal | None = None,
) -> list[Sample]:
    """Each dream as it is, and spoilt in each of `kinds` where that makes a difference."""
    out = []
    for index, dream in enumerate(tqdm(dreams, desc='judging', unit='plan')):
        out.append(sample(translator, dream, GOOD, dream.frames, normal))
        for kind in kinds:
            frames = plant(dream, kind, mix(seed, index))
            if frames is not None:
                out.append(sample(translator, dream, kind, frames, normal))
    return out


def outcomes(dreams: Sequence[Dream]) -> dict[str, list[float]]:
    """How much of each dream did not come true: as it was, and had it gone otherwise."""
    out: dict[str, list[float]] = {GOOD: [], BLOCKED: [], ELSEWHERE: []}
    for dream in dreams:
        if not len(dream.came):
            continue
        came, last = dream.came[-1], dream.executed - 1
        dreamt = dream.frames[last]
        out[GOOD].append(unrealised(dream.anchor, dreamt, came))
        if plan_motion(dream.anchor, dreamt) >= dream.visible:
            out[BLOCKED].append(unrealised(dream.anchor, dreamt, dream.anchor))
        other = plant(dream, 'other goal', 0)
        if other is not None and plan_motion(dreamt, other[last]) >= dream.visible:
            out[ELSEWHERE].append(unrealised(dream.anchor, other[last], came))
    return out


def calibrate(
    names: tuple[str, str, str, str],
    tuning: Sequence[Sample],
    came: Sequence[float],
) -> GateEntry:
    """Thresholds from good plans alone.

    Args:
        names: planner, its hash, translator, its hash.
        tuning: good samples.
        came: of the same plans, how much did not come true.

    Raises:
        ValueError: fewer than 50 plans.
    """
    # All numbers of candidates at once: a plan is judged with one of them.
    frames = [{k: v for one in s.frames for k, v in one.items()} for s in tuning]
    return GateEntry(
        *names,
        frames=Normal.of(frames, FALSE_STOPS),
        actions=Normal.of([s.actions for s in tuning if s.actions is not None], FALSE_STOPS),
        realised=Normal.of([{'unrealised': share} for share in came], NOT_TRUE),
    )


def study(
    contract: Contract,
    *,
    planner: str = '',
    planner_checkpoint: str | None = None,
    checkpoint: str | None = None,
    episodes: int = 50,
    seed: int = 0,
) -> Study:
    """Calibrate on half as many episodes as are tested on, with other scenes.

    Args:
        contract: of the simulated finger or of PushT.
        planner: whose plans; the contract's unless named.
        planner_checkpoint: the same.
        checkpoint: of the Jacobian translator; the contract's unless named.
        episodes: of the test.
        seed: of everything.

    Raises:
        ValueError: an embodiment that cannot be studied, checkpoints that do not fit, or too few
            good plans.
    """
    studied(contract)
    translator: Any = make_translator('jacobian', contract, checkpoint)
    planner = planner or contract.defaults.planner
    found: list[list[Dream]] = []
    for offset, count in ((CALIBRATE, (episodes + 1) // 2), (TEST, episodes)):
        runs = collect(
            contract, translator, planner, planner_checkpoint, count, seed + offset, WITNESSES
        )
        dreams = [
            dream
            for episode in tqdm(runs, desc='episodes', total=count, unit='episode')
            for dream in episode
        ]
        found.append([dream for dream in dreams if dream.good])
    from vera_planner.registry import make_planner

    made = make_planner(
        planner, contract, checkpoint=planner_checkpoint, provider=lambda *_: None
    )
    names = (
        made.planner_id, made.checkpoint_hash, translator.translator_id, translator.checkpoint_hash
    )
    return judged(translator, names, found[0], found[1], seed)


def judged(
    translator: JacobianTranslator,
    names: tuple[str, str, str, str],
    tuning: Sequence[Dream],
    test: Sequence[Dream],
    seed: int,
) -> Study:
    """Calibrate on good dreams and judge others."""
    entry = calibrate(names, samples(translator, tuning, (), seed), outcomes(tuning)[GOOD])
    found = samples(translator, test, tuple(PLANTED), seed, entry.frames)
    return Study(entry, found, outcomes(test))


def scores(entry: GateEntry, one: Sample, candidates: int) -> tuple[float, float, str]:
    """Score over threshold by frames and by actions, above 1 is stopped; and the worse signal."""
    frames, by_frames = entry.frames.score(one.beside(candidates))
    actions, by_actions = entry.actions.score(one.actions or {})
    f, a = frames / entry.frames.threshold, actions / entry.actions.threshold
    return f, a, by_frames if f >= a else by_actions


def rows(found: Study) -> list[dict[str, Any]]:
    """Plain data: one row a kind and number of candidates, then one an outcome."""
    out: list[dict[str, Any]] = []
    for candidates in range(1, WITNESSES + 2):
        worst: dict[str, list[float]] = {}
        for kind in (GOOD, *PLANTED):
            mine = [s for s in found.samples if s.kind == kind]
            table = [scores(found.entry, s, candidates) for s in mine]
            worst[kind] = [max(f, a) for f, a, _ in table]
            stopped = [name for f, a, name in table if max(f, a) > 1]
            low, high = wilson(len(stopped), len(mine))
            counts = {name: stopped.count(name) for name in sorted(set(stopped))}
            out.append({
                'kind': kind, 'candidates': candidates, 'n': len(mine),
                'stopped': len(stopped) / max(len(mine), 1), 'low': low, 'high': high,
                'by_frames': sum(f > 1 for f, _, _ in table) / max(len(mine), 1),
                'auroc': auroc(np.array(worst[GOOD]), np.array(worst[kind]))
                if kind != GOOD and mine and worst[GOOD] else None,
                'signals': dict(sorted(counts.items(), key=lambda item: -item[1])),
            })
    for kind, shares in found.outcomes.items():
        flagged = sum(
            found.entry.realised.score({'unrealised': share})[0] > found.entry.realised.threshold
            for share in shares
        )
        low, high = wilson(flagged, len(shares))
        out.append({
            'outcome': kind, 'n': len(shares), 'said_not_true': flagged / max(len(shares), 1),
            'low': low, 'high': high,
            'median': float(np.median(shares)) if shares else None,
        })
    return out


def failures(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is short of what must be reached with three candidates."""
    out = []
    for row in table:
        if row.get('candidates') != WITNESSES + 1:
            continue
        if row['kind'] == GOOD:
            if row['stopped'] > MAY_STOP:
                out.append(f'{row["stopped"]:.1%} of good plans are stopped, may be {MAY_STOP:.0%}')
        elif row['n'] and row['stopped'] < MUST_STOP:
            out.append(f'{row["kind"]}: {row["stopped"]:.1%} stopped, must be {MUST_STOP:.0%}')
    return out


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The tables of docs/results/plan_gate.md."""
    share = '{:.1f}% ({:.1f}-{:.1f})'.format
    lines = [
        '| plan | n | stopped, 1 candidate | 2 | 3 | AUROC (3) | what spoke against it (3) |',
        '|---|---|---|---|---|---|---|',
    ]
    for kind in (GOOD, *PLANTED):
        mine = [row for row in table if row.get('kind') == kind]
        last = mine[-1]
        if not last['n']:
            continue  # an embodiment without such plans
        named = ', '.join(f'`{name}` {count}' for name, count in last['signals'].items())
        cells = [share(*(100 * row[k] for k in ('stopped', 'low', 'high'))) for row in mine]
        what = f': {PLANTED[kind]}' if kind in PLANTED else ': of episodes that ended well'
        lines.append(
            f'| **{kind}**{what} | {last["n"]} | {" | ".join(cells)} | '
            + (f'{last["auroc"]:.4f}' if last['auroc'] is not None else '')
            + f' | {named} |'
        )
    lines += ['', '| after execution | n | median unrealised | said not to have come true |',
              '|---|---|---|---|']
    for row in table:
        if 'outcome' in row and row['n']:
            middle = '' if row['median'] is None else f'{row["median"]:.2f}'
            told = share(*(100 * row[k] for k in ('said_not_true', 'low', 'high')))
            lines.append(f'| {row["outcome"]} | {row["n"]} | {middle} | {told} |')
    return '\n'.join(lines) + '\n'


def draw(found: Study, path: Path) -> None:
    """ROC of each kind with three candidates, and every score."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    worst = {
        kind: np.array([
            max(scores(found.entry, s, WITNESSES + 1)[:2]) for s in found.samples if s.kind == kind
        ])
        for kind in (GOOD, *PLANTED)
        if any(s.kind == kind for s in found.samples)
    }
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    good = np.sort(worst[GOOD])
    for i, kind in enumerate(kind for kind in worst if kind != GOOD):
        levels = np.sort(np.concatenate([good, worst[kind]]))[::-1]
        false = 1 - np.searchsorted(good, levels, 'left') / len(good)
        true = 1 - np.searchsorted(np.sort(worst[kind]), levels, 'left') / len(worst[kind])
        left.step([0.0, *false], [0.0, *true], where='post', color=f'C{i + 1}', label=kind)
    left.plot(MAY_STOP, MUST_STOP, 'k+', markersize=12, label='must be above and left of')
    left.set(xlabel='good plans stopped', ylabel='planted ones stopped', xlim=(-0.005, 0.2),
             ylim=(0.6, 1.005), title='ROC: its upper left corner')
    left.legend(loc='lower right')
    for i, (_, values) in enumerate(worst.items()):
        jitter = np.random.default_rng(i).uniform(-0.3, 0.3, len(values))
        right.scatter(np.clip(values, 0.05, 1e3), i + jitter, s=3, alpha=0.6, color=f'C{i}')
    right.axvline(1, color='black', linewidth=1)
    right.set(yticks=range(len(worst)), yticklabels=list(worst), xscale='log',
              xlabel='score over threshold; right of the line: stopped', title='every plan')
    right.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
