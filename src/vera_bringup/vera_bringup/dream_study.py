"""`vera study dreams`: does success in the planner's own dreams tell success in reality?

Each variant of planner and translator is run twice from the same starts with the same words: in
the simulator, and in a long dream, where each plan begins at the frames that the last one imagined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_bringup.evaluation import EPISODE_FRAMES
from vera_bringup.lockstep import LockstepLoop, episode_seed, instruction
from vera_bringup.piece_judge import PieceJudge
from vera_bringup.statistics import pearson, rank_violation, wilson
from vera_core.gates import PlanRejectedError
from vera_core.seams import Plan, Translation
from vera_core.seeds import mix, plan_seed
from vera_drivers.sim_world import make_world
from vera_planner.goal import GoalKeeper, SettleRule
from vera_planner.planning import PlanRequest, imagine

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.contract import Contract
    from vera_core.seams import Image, VideoPlanner
    from vera_drivers.sim_world import SimWorld


@dataclass(frozen=True)
class Variant:
    """A planner and a translator, as they are or spoilt.

    Attributes:
        name: for people.
        checkpoint: of the planner; '' for the contract's. steps: of sampling; 0 for the usual.
        wrong: share of the plans that are asked for another object of the scene.
        frozen: share of the plans that show nothing but the last frame.
        noise: of each action, standard deviation in units of the channel's scale.
        gain: what the actions are multiplied with.
    """

    name: str
    checkpoint: str = ''
    steps: int = 0
    wrong: float = 0.0
    frozen: float = 0.0
    noise: float = 0.0
    gain: float = 1.0

    @property
    def seen_in_dreams(self) -> bool:
        """Whether it differs in the planner alone; a dream has no actions."""
        return not self.noise and self.gain == 1


FINGER = (
    Variant('as shipped'),
    Variant('1 sampling step', steps=1),
    Variant('in pixels', 'compact_finger'),
    Variant('in pixels, 1 step', 'compact_finger', steps=1),
    Variant('30% wrong words', wrong=0.3),
    Variant('60% wrong words', wrong=0.6),
    Variant('wrong words', wrong=1.0),
    Variant('in pixels, 50% wrong', 'compact_finger', wrong=0.5),
    Variant('50% frozen', frozen=0.5),
    Variant('75% frozen', frozen=0.75),
    Variant('noisy actions', noise=1.5),
    Variant('weak actions', gain=0.2),
)
PUSHT = (
    Variant('as shipped'),
    Variant('1 sampling step', steps=1),
    Variant('50% frozen', frozen=0.5),
    Variant('75% frozen', frozen=0.75),
    Variant('frozen', frozen=1.0),
    Variant('noisy actions', noise=0.6),
    Variant('weak actions', gain=0.35),
)
VARIANTS = {'finger': FINGER, 'pusht': PUSHT}


class SpoiltPlanner:
    """A planner that sometimes plans for something else, or nothing; by the plan's seed alone."""

    def __init__(self, planner: VideoPlanner, variant: Variant, world: SimWorld) -> None:
        self._planner, self._variant, self._world = planner, variant, world
        self.planner_id, self.checkpoint_hash = planner.planner_id, planner.checkpoint_hash

    def plan(self, context: Image, prompt: str, *, seed: int = 0, warm_start: Any = None) -> Plan:
        """As the planner's own, or spoilt."""
        luck = np.random.default_rng(mix(seed, 5)).random(3)
        if luck[0] < self._variant.wrong:
            prompt = self._other(prompt, luck[2])
        plan = self._planner.plan(context, prompt, seed=seed, warm_start=warm_start)
        if luck[1] < self._variant.frozen:
            still = np.repeat(context[-1:], len(plan.frames), axis=0)
            return replace(plan, frames=still, warm_start=None)
        return plan

    def _other(self, prompt: str, luck: float) -> str:
        target = self._world.env.parse(prompt)
        others = [name for name in self._world.env.objects if name != target]
        return prompt.replace(str(target), others[int(luck * len(others))]) if target else prompt


class SpoiltTranslator:
    """A translator whose actions are weaker, or off, than they should be."""

    def __init__(self, translator: Any, variant: Variant, contract: Contract) -> None:
        self._translator, self._variant = translator, variant
        self._scales = contract.channel_scales
        self._rng = np.random.default_rng(0)
        self.translator_id: str = translator.translator_id
        self.checkpoint_hash: str = translator.checkpoint_hash
        self.channels: tuple[str, ...] = translator.channels
        self.needs_state: bool = translator.needs_state

    def begin(self, seed: int) -> None:
        """An episode begins; its noise depends on its seed alone."""
        self._rng = np.random.default_rng(mix(seed, 6))

    def translate(self, anchor: Image, frames: Image, state: Any = None) -> Translation:
        """As the translator's own, spoilt."""
        found = self._translator.translate(anchor, frames, state)
        noise = self._rng.normal(0, 1, found.values.shape) * self._scales * self._variant.noise
        return replace(found, values=found.values * self._variant.gain + noise)


def dream(
    planner: VideoPlanner, contract: Contract, judge: PieceJudge, start: Image, prompt: str,
    goal_id: int, base_seed: int, frames: int,
) -> tuple[str, int]:
    """A long dream from one frame, as Algorithm 1 without a robot.

    Args:
        planner: each plan begins at the last frames that were imagined.
        contract: how many frames of each are taken.
        judge: has seen nothing yet.
        start: uint8 [H, W, 3].
        prompt: the goal in words.
        goal_id: as in the real episode, whose plans then have the same noise.
        base_seed: the same.
        frames: after so many the dream is over.

    Returns:
        The object that was reached in it, '' if none, and how many frames it lasted.
    """
    video = contract.video
    goals = GoalKeeper(SettleRule.of(contract))
    goals.begin(prompt)
    seen = [start]
    judge.see(start[None])
    while len(seen) <= frames and not judge.over:
        plans = goals.goal.plans
        request = PlanRequest(
            context=np.stack(seen[-video.context :]), anchor=0, prompt=prompt,
            seed=plan_seed(base_seed, goal_id, plans),
        )
        try:
            plan = imagine(planner, request, contract)
        except PlanRejectedError as error:
            if not goals.rejected(str(error)).active:
                break
            continue
        if not goals.planned(plan.motion, seen[-1]).active:
            break
        goals.accepted()
        left = frames - len(seen) + 1
        new = plan.frames[: min(video.committed, left)]
        seen += list(new)
        judge.see(new)
    return judge.reached, len(seen) - 1


def about(study: DreamStudy) -> dict[str, Any]:
    """What the rows of a study depend on."""
    names = ('checkpoint', 'steps', 'wrong', 'frozen', 'noise', 'gain')
    return {
        'study': 'dreams', 'embodiment': study.contract.embodiment, 'seed': study.seed,
        'frames': study.frames,
        'variants': {v.name: [getattr(v, name) for name in names] for v in study.variants},
    }


class DreamStudy:
    """All variants of one embodiment, loaded once.

    Args:
        contract: of the simulated finger or of PushT.
        seed: of starts, words and noise.
        names: of the variants; all unless given.

    Raises:
        ValueError: no such embodiment or variant, or a checkpoint that does not fit.
    """

    def __init__(self, contract: Contract, seed: int, names: Sequence[str] = ()) -> None:
        environment = contract.sim.environment if contract.sim is not None else ''
        if environment not in VARIANTS:
            raise ValueError(
                f'dreams of {contract.embodiment!r} cannot be judged by their pieces; '
                f'there are {", ".join(VARIANTS)}'
            )
        known = {variant.name: variant for variant in VARIANTS[environment]}
        for name in names:
            if name not in known:
                raise ValueError(f'no variant {name!r}; there are {"; ".join(known)}')
        self.variants = [known[name] for name in names or known]
        self.contract, self.seed = contract, seed
        self.frames = EPISODE_FRAMES[environment]
        from vera_bringup.piece_judge import load_judge_planner
        from vera_jidm.registry import make_translator

        self._eyes = load_judge_planner(contract)
        self._translator = make_translator(
            contract.defaults.translator, contract, None, mode='stacked'
        )
        self._planners: dict[tuple[str, int], VideoPlanner] = {}
        self._world = make_world(contract)
        self._loops: dict[str, tuple[LockstepLoop, SpoiltTranslator]] = {}

    def _planner(self, variant: Variant, world: SimWorld) -> SpoiltPlanner:
        from vera_planner.registry import make_planner

        key = (variant.checkpoint, variant.steps)
        if key not in self._planners:
            self._planners[key] = make_planner(
                'compact', self.contract, checkpoint=variant.checkpoint or None,
                steps=variant.steps or None, threads=1,
            )
        return SpoiltPlanner(self._planners[key], variant, world)

    def row(self, variant: Variant, index: int) -> dict[str, Any]:
        """One start: dreamt, done, and how the frames of what was done are judged."""
        seed = episode_seed(self.seed, index)
        world = self._world
        world.reset(seed, world.next_episode())
        prompt, target = instruction(world, seed, held_out=False)
        dreamt, length = dream(
            self._planner(variant, world), self.contract, PieceJudge(self._eyes, world),
            world.canvas(), prompt, index + 1, self.seed, self.frames,
        )
        loop, translator = self._loop(variant)
        translator.begin(seed)
        result = loop.run(index, seed, False, self.frames)
        judge = PieceJudge(self._eyes, world)
        assert result.film is not None
        # The episode ends at the first frame that counts; the arm rests, and goes on doing so.
        judge.see(np.concatenate([result.film[:, 0], result.film[-1:, 0], result.film[-1:, 0]]))
        return {
            'variant': variant.name, 'index': index, 'seed': seed, 'target': target,
            'dreamt': dreamt, 'dream_frames': length, 'reached': result.reached,
            'judged': judge.reached, 'outcome': result.outcome,
        }

    def _loop(self, variant: Variant) -> tuple[LockstepLoop, SpoiltTranslator]:
        if variant.name not in self._loops:
            translator = SpoiltTranslator(self._translator, variant, self.contract)
            loop = LockstepLoop(
                self.contract, None, translator, self.seed, judge=False, film=True
            )
            # The variant's planner asks the loop's own world what else is there.
            loop._planner = self._planner(variant, loop.world)
            self._loops[variant.name] = loop, translator
        return self._loops[variant.name]

    def rows(self, starts: int, known: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
        """Rows that are not known yet: all variants of a start, then the next start."""
        done = {(row['variant'], row['index']) for row in known}
        for index in range(starts):
            for variant in self.variants:
                if (variant.name, index) not in done:
                    yield self.row(variant, index)


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a variant: success in dreams and in reality with Wilson intervals, 0..1."""
    out = []
    for name in dict.fromkeys(row['variant'] for row in rows):
        mine = [row for row in rows if row['variant'] == name]
        n = len(mine)
        found: dict[str, Any] = {'variant': name, 'n': n}
        for key, what in (('dream', 'dreamt'), ('real', 'reached')):
            hits = sum(row[what] == row['target'] for row in mine)
            low, high = wilson(hits, n)
            found |= {key: hits / n, f'{key}_low': low, f'{key}_high': high}
        same = [(r['dreamt'] == r['target']) == (r['reached'] == r['target']) for r in mine]
        found['same'] = sum(same) / n
        out.append(found)
    return out


def summary(rows: Sequence[dict[str, Any]], variants: Sequence[Variant]) -> dict[str, Any]:
    """How well dreams tell reality: over the variants of the planner, and over all of them."""
    known = {variant.name: variant for variant in variants}
    out: dict[str, Any] = {}
    for key, which in (
        ('planners', lambda name: known[name].seen_in_dreams), ('all', lambda name: True),
    ):
        mine = [row for row in table(rows) if which(row['variant'])]
        dreams, real = ([row[k] for row in mine] for k in ('dream', 'real'))
        r, low, high = pearson(dreams, real)
        out[key] = {
            'variants': len(mine), 'r': r, 'r_low': low, 'r_high': high,
            'rank_violation': rank_violation(dreams, real) if mine else float('nan'),
            'bias': float(np.mean(np.subtract(dreams, real))) if mine else float('nan'),
        }
    right = sum((r['judged'] == r['target']) == (r['reached'] == r['target']) for r in rows)
    low, high = wilson(right, len(rows))
    out['judge'] = {'agrees': right / max(len(rows), 1), 'low': low, 'high': high, 'n': len(rows)}
    return out


def markdown(rows: Sequence[dict[str, Any]], found: dict[str, Any]) -> str:
    """The tables, for people."""
    lines = [
        '| variant | n | success in dreams | in reality | same verdict |', '|---|---|---|---|---|'
    ]
    for row in table(rows):
        cells = [
            f'{row[k]:.0%} ({100 * row[f"{k}_low"]:.0f}-{100 * row[f"{k}_high"]:.0f})'
            for k in ('dream', 'real')
        ]
        lines.append(f'| {row["variant"]} | {row["n"]} | {cells[0]} | {cells[1]} | '
                     f'{row["same"]:.0%} |')
    lines += ['', '| over | variants | Pearson r (95%) | rank violation | dreams minus reality |',
              '|---|---|---|---|---|']
    for key, words in (('planners', 'variants of the planner'), ('all', 'all variants')):
        row = found[key]
        lines.append(
            f'| {words} | {row["variants"]} | {row["r"]:.2f} ({row["r_low"]:.2f} to '
            f'{row["r_high"]:.2f}) | {row["rank_violation"]:.3f} | {row["bias"]:+.2f} |'
        )
    judge = found['judge']
    lines += ['', (
        'On frames of real episodes the judge of the dreams says what the simulator says in '
        f'{judge["agrees"]:.1%} (95%: {100 * judge["low"]:.1f}-{100 * judge["high"]:.1f}) '
        f'of {judge["n"]}.'
    ), '']
    return '\n'.join(lines)


def draw(
    rows: Sequence[dict[str, Any]], variants: Sequence[Variant], found: dict[str, Any], path: Path
) -> None:
    """Success in reality over success in dreams, one point a variant, with intervals."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    known = {variant.name: variant for variant in variants}
    figure, axes = plt.subplots(figsize=(7.2, 6.0))
    axes.plot([0, 1], [0, 1], color='0.8', linewidth=1, zorder=0)
    names: dict[tuple[float, float], list[str]] = {}
    for row in table(rows):
        variant = known[row['variant']]
        bars = {
            f'{axis}err': [[row[key] - row[f'{key}_low']], [row[f'{key}_high'] - row[key]]]
            for axis, key in (('x', 'dream'), ('y', 'real'))
        }
        colour = '#2a6fdb' if variant.seen_in_dreams else '#d9662b'
        axes.errorbar(
            row['dream'], row['real'], **bars, fmt='o', color=colour, ecolor=colour + '55',
            markersize=6, capsize=0,
        )
        names.setdefault((row['dream'], row['real']), []).append(row['variant'])
    for place, same in names.items():
        # Not into the name of a neighbour on the right.
        left = any(0 < x - place[0] < 0.25 and abs(y - place[1]) < 0.05 for x, y in names)
        axes.annotate(
            '\n'.join(same), place, xytext=(-7 if left else 7, -5), va='top',
            ha='right' if left else 'left', textcoords='offset points', fontsize=8, color='0.25',
        )
    r = found['planners']
    axes.set_title(
        f'blue: planners, r = {r["r"]:.2f} ({r["r_low"]:.2f} to {r["r_high"]:.2f}); '
        'orange: spoilt translator', fontsize=9,
    )
    axes.set_xlabel('success in dreams')
    axes.set_ylabel('success in the simulator')
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_aspect('equal')
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
