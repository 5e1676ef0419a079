"""Planned frames as moving visual goals: the action anew from what the camera sees now.

A chunk executes a plan blindly, from the frame that it began with. Here each planned frame stays a
goal until it is due, and at 5 to 15 Hz the action is recomputed from the flow between the newest
real frame and the planned frame due next. So errors of the actions do not add up, and a plan may be
seconds old. Image-based visual servoing (Chaumette and Hutchinson, Visual servo control I, IEEE
Robotics & Automation Magazine, 2006) with the translator's Jacobian. No clock, no ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vera_core.chunk import ActionChunk
from vera_core.clocks import ns_to_seconds
from vera_core.contract import Contract
from vera_core.seams import Image
from vera_jidm.translator import Explanation, TranslationError

if TYPE_CHECKING:
    from vera_core.seams import Translation

# A goal is at least this share of a frame period away: a shorter way would be all noise.
LEAD = 0.5
KNOTS = 4  # actions of a chunk in each frame period
MOVING_PX = 0.5  # flow above it counts as motion when its weight is judged


class ServoError(ValueError):
    """A contract that cannot be served this way; the message says why."""


@dataclass(frozen=True)
class Trust:
    """When the flow from the real frame is believed.

    The weight tells most. On the finger it is at least 0.62 (1st percentile) on the way to frames
    imagined up to 22 ahead, and at most 0.57 (95th percentile) to frames of another scene or far
    from where the robot is, to noise, and from a black or partly covered camera. The residual is
    high wherever little moves, and only says something near one.

    Attributes:
        residual: largest share of the flow that no action explains.
        weight: least mean weight of the flow where something moves, 0..1.
    """

    residual: float = 0.98
    weight: float = 0.6


@dataclass(frozen=True)
class Dream:
    """A plan to follow: anchor uint8 [H, W, 3], frames uint8 [K, H, W, 3], stamps in ns.

    Attributes:
        stamp: of the anchor. period: between frames. seen: newest frame it was made from.
    """

    goal_id: int
    plan_seq: int
    anchor: Image
    frames: Image
    stamp: int
    period: int
    seen: int


@dataclass(frozen=True)
class Correction:
    """One chunk of the servo loop.

    Attributes:
        chunk: from the real frame to the planned frame that is due next, and on to the one after.
        translation, explanation: what its actions are from.
        doubt: why the real frame was not believed and the plan's own motion is followed; '' if
            it was.
    """

    chunk: ActionChunk
    translation: Translation
    explanation: Explanation
    doubt: str


class VisualServo:
    """Follows the newest plan of a goal. Not thread-safe.

    Args:
        translator: with `explain`.
        contract: channels and their velocity limits.
        trust: when to fall back to the plan's own motion.

    Raises:
        ServoError: a channel that is no joint_delta: its actions cannot be divided.
    """

    def __init__(self, translator: Any, contract: Contract, trust: Trust | None = None) -> None:
        for channel in contract.channels:
            if channel.kind != 'joint_delta':
                raise ServoError(
                    f'channel {channel.name!r} is of kind {channel.kind}; servo mode moves '
                    'joint_delta channels; use follow: chunk'
                )
        self._translator = translator
        self._trust = trust or Trust()
        order = [contract.joint_names.index(str(c.joint)) for c in contract.channels]
        self._velocity = contract.velocity_limits[order]
        self._dream: Dream | None = None
        self._goals: list[tuple[int, Image]] = []
        self._part = 0
        self.steps = self.fallbacks = 0

    def take(self, dream: Dream) -> None:
        """Follow this plan from its anchor on; until then, what is left of the last one."""
        last = self._dream
        kept: list[tuple[int, Image]] = []
        if last is not None and last.goal_id == dream.goal_id:
            kept = [goal for goal in self._goals if goal[0] < dream.stamp]
        frames = enumerate([dream.anchor, *dream.frames])
        new = [(dream.stamp + k * dream.period, frame) for k, frame in frames]
        self._goals = [*kept, *new]
        self._dream, self._part = dream, 0

    def clear(self) -> None:
        """Follow nothing."""
        self._dream, self._goals = None, []

    @property
    def goal_id(self) -> int:
        """Goal of the plan that is followed; 0 if none."""
        return 0 if self._dream is None else self._dream.goal_id

    def wants(self, stamp: int) -> bool:
        """Whether anything is planned for the time after `stamp` [ns]."""
        return self._next(stamp) is not None

    def step(
        self, image: Image, stamp: int, state: NDArray[np.float64] | None = None
    ) -> Correction | None:
        """The way from a real frame to the next goals.

        Args:
            image: uint8 [H, W, 3], the newest canvas.
            stamp: when it was taken [ns].
            state: float64 [joints] then, for a translator that needs it.

        Returns:
            None when nothing is planned for the time after `stamp`.

        Raises:
            TranslationError: frames that do not fit.
        """
        dream = self._dream
        place = self._next(stamp)
        if dream is None or place is None:
            return None
        due = self._goals[place][0]
        goals = np.stack([frame for _, frame in self._goals[place : place + 2]])
        translation, explanation = self._translator.explain(image, goals, state)
        doubt = self._doubt(translation, explanation)
        first = translation.values[0]
        self.steps += 1
        if doubt and place > 0:
            self.fallbacks += 1
            before = self._goals[place - 1]
            translation, explanation = self._translator.explain(before[1], goals, state)
            first = translation.values[0] * ((due - stamp) / (due - before[0]))
        self._part += 1
        period, values = self._path(first, translation.values[1:], due - stamp, dream.period)
        chunk = ActionChunk(
            stamp=stamp,
            goal_id=dream.goal_id,
            plan_seq=dream.plan_seq,
            channels=self._translator.channels,
            period=period,
            values=values,
            residual=np.full(len(values), translation.residual[0], np.float32),
            observability=translation.observability,
            translator_id=self._translator.translator_id,
            model_hash=self._translator.checkpoint_hash,
            part=self._part,
            observed=dream.seen,
        )
        return Correction(chunk, translation, explanation, doubt)

    def _next(self, stamp: int) -> int | None:
        """Place of the goal to go for; drops those that are over."""
        dream = self._dream
        if dream is None or self._goals[-1][0] < stamp + dream.period // KNOTS:
            return None
        soonest = stamp + LEAD * dream.period
        place = next((i for i, (due, _) in enumerate(self._goals) if due >= soonest), None)
        if place is None:
            return len(self._goals) - 1
        # The one before stays: its motion to the goal is what a fallback needs.
        del self._goals[: max(0, place - 1)]
        return min(place, 1)

    def _doubt(self, translation: Translation, explanation: Explanation) -> str:
        """Why the flow from the real frame is not believed, or ''."""
        if explanation.still[0]:
            return ''
        moving = np.linalg.norm(explanation.flow[0], axis=-1) > MOVING_PX
        residual = float(translation.residual[0])
        if residual > self._trust.residual:
            return f'{residual:.0%} of the flow to the goal is no motion of the robot'
        if moving.any():
            weight = float(explanation.weight[0][moving].mean())
            if weight < self._trust.weight:
                return f'the flow to the goal is uncertain: weight {weight:.2f}'
        return ''

    def _path(
        self, first: NDArray[np.float64], after: NDArray[np.float64], way: int, period: int
    ) -> tuple[float, NDArray[np.float64]]:
        """(period [s], values [K, n]): `first` in `way` ns, then `after` in one frame period."""
        knots = max(1, round(KNOTS * way / period))
        step = way / knots
        # A robot that fell behind catches up as fast as it may; the rest is for the next step.
        excess = float((np.abs(first) / (self._velocity * ns_to_seconds(way))).max())
        rows = [first / max(1.0, excess) / knots] * knots
        for action in after:
            rows += [action * (step / period)] * round(period / step)
        return ns_to_seconds(round(step)), np.array(rows)


__all__ = ['Correction', 'Dream', 'ServoError', 'TranslationError', 'Trust', 'VisualServo']
