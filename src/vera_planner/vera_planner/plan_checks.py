"""What the frames of a plan tell about it, before any robot is asked.

Each signal is a number, larger is worse; grey levels are means over all pixels and channels, and d
is the mean absolute difference of two frames. With o_0 the anchor and o_1 .. o_M the plan:

    jump        max d(o_k-1, o_k): more changes at once than in any good plan
    noise       max over k of the same over the calmer half of the pixels, which hardly ever change
    back        max d(o_0, o_k) - d(o_0, o_M): the plan goes back to where it began, or begins at
                its end
    copy        1 / min d(o_k-1, o_k): frames that no generative model gives twice
    nearest_2   d at the last frame from the other candidate of two; nearest_3: from the nearest of
                two others or more. A plan of other words, or one that the planner doubts, has no
                neighbour.
    rest_2      motion (vera_planner.motion) of the other candidate of two, over the plan's own plus
                a little; rest_3: that of the one that moves least of two others or more. It rests
                where all others move; where the goal is reached they rest, too.

A plan that rests is believed only beside two others: with fewer candidates further ones are made.

After a plan was executed, `unrealised` compares it with the frames that came.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vera_core.contract import Contract
from vera_core.gates import (
    PlanRejectedError,
    Verdict,
    check_mode,
    find_gate,
    judge,
    warn_unmeasured,
)
from vera_core.normal import Normal
from vera_core.seams import Image, Plan, VideoPlanner
from vera_core.seeds import mix
from vera_planner.goal import SettleRule
from vera_planner.motion import plan_motion

# A difference below this [grey levels] is rounding.
ROUNDING = 0.25
# Frames that differ by less than this are copies, however little it is.
_COPY = 0.02
# Motion [grey levels of plan_motion] that nobody sees: the finger's tip by an eighth of a pixel.
_STILL = 10.0
ENOUGH = 3  # plans beside each other tell which of them is odd
WORDS = {
    'jump': 'too much changes from one frame to the next',
    'noise': 'its frames flicker where nothing moves',
    'back': 'it goes back to where it began',
    'copy': 'it repeats a frame',
    'nearest_2': 'the other candidate shows something else',
    'nearest_3': 'no other candidate shows the same',
    'rest_2': 'it rests where the other candidate moves',
    'rest_3': 'it rests where all other candidates move',
    'unrealised': 'the last plan did not come true',
}


def difference(a: Image, b: Image) -> float:
    """Mean absolute difference of two frames uint8 [H, W, 3], grey levels."""
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())


def _calm(a: Image, b: Image) -> float:
    """The same over the half of the pixels that change least."""
    change = np.abs(a.astype(np.int16) - b.astype(np.int16)).mean(axis=-1).ravel()
    half = max(1, change.size // 2)
    return float(np.partition(change, half - 1)[:half].mean())


def frame_signals(anchor: Image, frames: Image, others: Sequence[Image] = ()) -> dict[str, float]:
    """The signals of a plan.

    Args:
        anchor: uint8 [H, W, 3], o_0.
        frames: uint8 [M, H, W, 3], M >= 1.
        others: further candidates for the same plan, uint8 [M, H, W, 3] each.
    """
    steps = list(itertools.pairwise([anchor, *frames]))
    changes = [difference(a, b) for a, b in steps]
    far = [difference(anchor, frame) for frame in frames]
    out = {
        'jump': max(changes),
        'noise': max(ROUNDING, *(_calm(a, b) for a, b in steps)),
        'back': max(ROUNDING, max(far) - far[-1]),
        'copy': 1 / max(min(changes), _COPY),
    }
    if others:
        nearest = min(difference(frames[-1], other[-1]) for other in others)
        count = min(len(others) + 1, ENOUGH)
        out[f'nearest_{count}'] = max(ROUNDING, nearest)
        least = min(plan_motion(anchor, other[-1]) for other in others)
        out[f'rest_{count}'] = least / (plan_motion(anchor, frames[-1]) + _STILL)
    return out


def rests(anchor: Image, frames: Image) -> bool:
    """Whether a plan uint8 [M, H, W, 3] stays where it begins, as at the end of a goal."""
    return plan_motion(anchor, frames[-1]) < SettleRule.still_motion


def unrealised(anchor: Image, dreamt: Image, came: Image) -> float:
    """Share of a dreamt change that did not come true: 0 all of it did, 1 nothing happened.

    More than 1: something else happened. A dream of hardly any change is nearly always true.

    Args:
        anchor: uint8 [H, W, 3], where the plan began.
        dreamt: uint8 [H, W, 3], what it showed for a moment.
        came: uint8 [H, W, 3], what the cameras showed at that moment.
    """
    return difference(dreamt, came) / (difference(anchor, dreamt) + 1.0)


class PlanChecks:
    """Judges plans by their frames, and asks for several where there is to be a choice.

    Args:
        normal: of this planner's plans; None judges nothing.
        realised: of its plans against what came; None judges nothing.
        mode: 'on', 'report' or 'off', see vera_core.gates.
        candidates: plans to ask for at a time, with different noise; at least three where one of
            them rests, if that is judged.
    """

    def __init__(
        self,
        normal: Normal | None = None,
        realised: Normal | None = None,
        mode: str = 'on',
        candidates: int = 1,
    ) -> None:
        if candidates < 1:
            raise ValueError(f'{candidates} candidates; at least 1 is needed')
        check_mode(mode)
        self.normal = None if mode == 'off' else normal
        self.realised = None if mode == 'off' else realised
        self.enforce = mode == 'on'
        self.candidates = candidates

    @classmethod
    def of(
        cls, planner: VideoPlanner, contract: Contract, mode: str = 'on', candidates: int = 1
    ) -> PlanChecks:
        """With the thresholds that belong to this planner's weights, if any.

        Raises:
            GateError: the file of thresholds is damaged.
        """
        found = None
        if mode != 'off':
            key = (planner.planner_id, planner.checkpoint_hash)
            found = find_gate(contract.embodiment, key)
            if found is None and mode == 'on':
                warn_unmeasured(key)
        if found is None:
            return cls(None, None, mode, candidates)
        return cls(found.frames, found.realised, mode, candidates)

    def judge(self, anchor: Image, candidates: Sequence[Image]) -> tuple[Verdict, list[Verdict]]:
        """The verdict about the best of the candidates, and about each of them.

        Args:
            anchor: uint8 [H, W, 3].
            candidates: uint8 [M, H, W, 3] each.
        """
        if self.normal is None:
            return Verdict(), [Verdict() for _ in candidates]
        signals = [
            frame_signals(anchor, frames, [o for j, o in enumerate(candidates) if j != i])
            for i, frames in enumerate(candidates)
        ]
        each = [judge(self.normal, [one], WORDS, enforce=self.enforce) for one in signals]
        return judge(self.normal, signals, WORDS, enforce=self.enforce), each

    def _doubtful(self, anchor: Image, plans: Sequence[Plan]) -> bool:
        """Whether a plan rests, and others would tell if that is right."""
        known = self.normal is not None and f'rest_{ENOUGH}' in self.normal.tails
        return known and self.enforce and any(rests(anchor, plan.frames) for plan in plans)

    def came(self, anchor: Image, dreamt: Image, came: Image) -> tuple[float, Verdict]:
        """How much of a plan did not come true, and whether that is more than it may be."""
        share = unrealised(anchor, dreamt, came)
        return share, judge(self.realised, [{'unrealised': share}], WORDS, enforce=self.enforce)

    def ask(
        self,
        make: Callable[[int], Plan],
        anchor: Image,
        committed: Callable[[Plan], int],
        seed: int,
    ) -> Plan:
        """Ask for the candidates and keep those that may be executed, the first of them first.

        Args:
            make: a plan from a seed.
            anchor: uint8 [H, W, 3], where the plan begins.
            committed: K of a plan.
            seed: of the first candidate.

        Returns:
            The plan with `alternatives`, `disagreement` and `verdict`; its latency is that of all
            candidates.

        Raises:
            PlanRejectedError: none may be executed, or the planner itself rejected all of them.
            Exception: whatever else `make` raises.
        """
        plans: list[Plan] = []
        wanted, i = self.candidates, 0
        while i < wanted:
            try:
                plans.append(make(candidate_seed(seed, i)))
            except PlanRejectedError:
                if not plans and i + 1 == wanted:
                    raise
            i += 1
            if i == wanted and self._doubtful(anchor, plans):
                wanted = max(wanted, ENOUGH)
        verdict, each = self.judge(anchor, [plan.frames for plan in plans])
        if not verdict.accepted:
            raise PlanRejectedError(verdict)
        kept = [plan for plan, one in zip(plans, each, strict=True) if one.accepted]
        K = committed(kept[0])
        last = [plan.frames[K - 1] for plan in plans]
        pairs = [difference(a, b) for a, b in itertools.combinations(last, 2)]
        return replace(
            kept[0],
            latency=sum(plan.latency for plan in plans),
            alternatives=np.stack([plan.frames[:K] for plan in kept[1:]])
            if kept[1:]
            else None,
            disagreement=float(np.mean(pairs)) if pairs else float('nan'),
            verdict=verdict,
        )


class Reality:
    """Remembers what was dreamt for which moment, until it comes or not.

    Args:
        period_ns: between frames of a plan.
    """

    def __init__(self, period_ns: int) -> None:
        self._period = period_ns
        self.forget()

    def forget(self) -> None:
        """A new goal: nothing is promised."""
        self._promises: list[tuple[int, Image, Image]] = []

    def dreamt(self, anchor: int, start: Image, frames: Image) -> None:
        """Frames uint8 [K, H, W, 3] are to follow `start`, due at `anchor` [ns]."""
        kept = [promise for promise in self._promises if promise[0] <= anchor]
        new = [(anchor + (k + 1) * self._period, start, f) for k, f in enumerate(frames)]
        self._promises = [*kept[-len(new) :], *new]

    def promised(self, stamp: int) -> tuple[Image, Image] | None:
        """Where the plan began and what it showed for `stamp` [ns], if anything."""
        for due, start, frame in self._promises:
            if abs(due - stamp) <= self._period // 4:
                return start, frame
        return None


def candidate_seed(seed: int, index: int) -> int:
    """Seed of candidate `index` of a plan; the first one's is the plan's own."""
    return mix(seed, index) if index else seed


__all__ = [
    'ENOUGH', 'PlanChecks', 'Reality', 'candidate_seed', 'difference', 'frame_signals', 'rests',
    'unrealised',
]  # fmt: skip
