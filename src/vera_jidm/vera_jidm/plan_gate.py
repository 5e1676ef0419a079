"""Whether a plan's motion is one that this robot can make: the verdict from its translation.

Of each honesty signal (vera_jidm.honesty: ridge residual, what the action leaves unexplained, flow
there and back, the action among the training's) the worst of the plan's steps counts, except for
`stillness`: whether a plan repeats frames its pictures tell.

Several candidates are translated each, and the one that looks most like good plans is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vera_core.gates import Verdict, check_mode, find_gate, judge, warn_unmeasured
from vera_core.normal import Normal
from vera_core.seams import Image, Translation
from vera_jidm.translator import Explanation

WORDS = {
    'residual': 'no action of this robot explains its motion',
    'unexplained': 'something moves that no action of this robot moves',
    'inconsistent': 'its motion forth and back do not fit together',
    'asymmetry': 'its motion forth and back ask for different actions',
    'picture': 'the picture changes where the robot does not move',
    'place': 'one place changes although the robot does not move it',
    'action': 'it asks for actions unlike any of the training',
}

Explain = Callable[
    [Image, Image, 'NDArray[np.float64] | None'], 'tuple[Translation, Explanation]'
]


def action_signals(explanation: Explanation) -> dict[str, float]:
    """The signals of one translated plan; empty where the translator cannot tell."""
    if explanation.honesty is None:
        return {}
    return {
        name: float(np.max(values))
        for name, values in explanation.honesty.signals.items()
        if name != 'stillness'
    }


class PlanGate:
    """Judges translated plans.

    Args:
        normal: of the plans of one planner, as this translator sees them; None judges nothing.
        mode: 'on', 'report' or 'off', see vera_core.gates.
    """

    def __init__(self, normal: Normal | None = None, mode: str = 'on') -> None:
        check_mode(mode)
        self.normal = None if mode == 'off' else normal
        self.enforce = mode == 'on'

    @classmethod
    def of(
        cls,
        embodiment: str,
        planner: tuple[str, str],
        translator: tuple[str, str],
        mode: str = 'on',
    ) -> PlanGate:
        """With the thresholds that belong to these weights (id, hash), if any.

        Raises:
            GateError: the file of thresholds is damaged.
        """
        found = find_gate(embodiment, planner, translator) if mode != 'off' else None
        if found is None and mode == 'on':
            warn_unmeasured(planner, translator)
        return cls(found.actions if found else None, mode)

    def translate(
        self,
        translator: object,
        anchor: Image,
        candidates: Sequence[Image],
        state: NDArray[np.float64] | None = None,
    ) -> tuple[Translation, Explanation, Verdict]:
        """Translate every candidate and choose.

        Args:
            translator: with `explain`, as those of vera_jidm.registry.
            anchor: uint8 [H, W, 3].
            candidates: uint8 [K, H, W, 3] each; at least one.
            state: joint positions at the anchor, for translators that need them.

        Returns:
            Translation and explanation of the chosen one, and the verdict about it.

        Raises:
            ValueError: no candidate.
            Exception: whatever the translator raises.
        """
        if not candidates:
            raise ValueError('a plan without candidates')
        explain: Explain = translator.explain  # type: ignore[attr-defined]
        found = [explain(anchor, frames, state) for frames in candidates]
        signals = [action_signals(explanation) for _, explanation in found]
        verdict = judge(
            self.normal if all(signals) else None, signals, WORDS, enforce=self.enforce
        )
        return *found[verdict.chosen], verdict


__all__ = ['PlanGate', 'action_signals']
