"""Goals in words: which prompts are taken, and what becomes of a goal. No clock, no ROS."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from vera_core.contract import Contract
from vera_core.seams import Image

MAX_PROMPT = 1000  # characters
MAX_REJECTED = 5  # plans in a row


class GoalState(IntEnum):
    """As in vera_msgs/GoalStatus."""

    NONE = 0
    ACTIVE = 1
    SUCCEEDED = 2
    CANCELLED = 3
    ABORTED = 4


class GoalCode(IntEnum):
    """Why a goal ended; as in the result of vera_msgs/ExecuteGoal."""

    NONE = 0
    REFUSED = 1
    NOTHING_TO_DO = 2
    TIMEOUT = 3
    CANCELLED = 4
    STOPPED = 5
    NO_OBSERVATION = 6
    INTERNAL = 7
    IMPLAUSIBLE = 8


class PromptError(ValueError):
    """A prompt that is not taken; the message says why."""


class PlanRefusedError(ValueError):
    """Raised by a planner that understands there is nothing to do: the goal ends NOTHING_TO_DO."""


def validate_prompt(prompt: object) -> str:
    """The prompt, verbatim, if it can be a goal in words.

    Raises:
        PromptError: no text, empty, too long, with control characters, or without a letter.
    """
    if not isinstance(prompt, str):
        raise PromptError(f'the prompt is {type(prompt).__name__}, not text')
    if not prompt:
        raise PromptError('the prompt is empty; say what to do, e.g. "touch the red disc"')
    if not prompt.strip():
        raise PromptError('the prompt is only white space; say what to do')
    if len(prompt) > MAX_PROMPT:
        raise PromptError(
            f'the prompt has {len(prompt)} characters; at most {MAX_PROMPT} are taken'
        )
    for place, character in enumerate(prompt):
        # Cc: control characters; Cs: halves of characters, from bytes that were no UTF-8.
        if unicodedata.category(character) in ('Cc', 'Cs'):
            raise PromptError(
                f'the prompt has the control character U+{ord(character):04X} at place '
                f'{place + 1}; write one line of plain text'
            )
    if not any(character.isalpha() for character in prompt):
        raise PromptError('the prompt has no letters; say in words what to do')
    return prompt


@dataclass(frozen=True)
class SettleRule:
    """When a goal is over because its plans show no motion.

    Attributes:
        still_motion: a plan below this is still; the unit of `Plan.motion`, grey levels 0..255.
            The finger's tip moving by one pixel of a 64-pixel canvas gives 73, by half a pixel
            39; the compact planner at rest in a disc gives 5 to 47, at the start of a goal 120
            to 155.
        settled: still plans in a row, after motion, that end the goal as reached.
        hopeless: still plans in a row from the start that end it as nothing to do.
        least_change: from what was seen when the goal began to what is seen at rest, mean absolute
            difference, grey levels; below it the goal ends as nothing to do. Asked for what is
            not there, a planner may stir a little before it rests.
    """

    still_motion: float = 50.0
    settled: int = 3
    hopeless: int = 5
    least_change: float = 0.0

    @classmethod
    def of(cls, contract: Contract, still_motion: float = still_motion) -> SettleRule:
        """The rule of an embodiment."""
        return cls(still_motion, least_change=contract.goal.least_change)

    def __post_init__(self) -> None:
        if not self.still_motion > 0:
            raise ValueError(f'still_motion is {self.still_motion}; it must be positive')
        if self.settled < 1 or self.hopeless < 1:
            raise ValueError('settled and hopeless count plans; both must be at least 1')
        if not self.least_change >= 0:
            raise ValueError(f'least_change is {self.least_change}; it must be at least 0')


@dataclass(frozen=True)
class Goal:
    """One goal and what became of it.

    Attributes:
        goal_id: counts goals from 1; 0 = none yet.
        prompt: verbatim. state, code, message: what became of it, the message for people.
        plans: plans made for it so far.
    """

    goal_id: int = 0
    prompt: str = ''
    state: GoalState = GoalState.NONE
    code: GoalCode = GoalCode.NONE
    message: str = ''
    plans: int = 0

    @property
    def active(self) -> bool:
        """Whether it is being pursued."""
        return self.state is GoalState.ACTIVE


class GoalKeeper:
    """The current goal. One at a time: a new one replaces the one in progress.

    The same class serves the planner node and lock-step evaluation. Not thread-safe.

    Args:
        rule: when a goal has come to rest.
        on_change: gets every new version of the current goal, the replaced one's last included.
        max_rejected: plans in a row that may be rejected; one more ends the goal.
    """

    def __init__(
        self,
        rule: SettleRule | None = None,
        on_change: Callable[[Goal], None] | None = None,
        max_rejected: int = MAX_REJECTED,
    ) -> None:
        self.rule = rule or SettleRule()
        self._on_change = on_change
        self._max_rejected = max_rejected
        self._goal = Goal()
        self._still = 0
        self._moved = False
        self._rejected = 0
        self._first: Image | None = None

    @property
    def goal(self) -> Goal:
        """The current goal; `Goal()` before the first."""
        return self._goal

    def begin(self, prompt: object, message: str = '') -> tuple[Goal, Goal | None]:
        """Take a new goal.

        Args:
            prompt: what to do.
            message: what the status says about it while it begins.

        Returns:
            The new goal, and the one it replaced while that was in progress, or None.

        Raises:
            PromptError: the prompt is not taken; the current goal stays as it is.
        """
        text = validate_prompt(prompt)
        old = self._goal
        number = old.goal_id + 1
        replaced = None
        if old.active:
            replaced = self.cancel(f'replaced by goal {number}: {text}')
        self._still, self._moved, self._rejected, self._first = 0, False, 0, None
        self._set(Goal(goal_id=number, prompt=text, state=GoalState.ACTIVE, message=message))
        return self._goal, replaced

    def note(self, message: str) -> None:
        """Say something about the goal in progress."""
        if self._goal.active and message != self._goal.message:
            self._set(replace(self._goal, message=message))

    def planned(self, motion: float, seen: Image | None = None) -> Goal:
        """Count a plan of the goal in progress and end the goal if its plans came to rest.

        Args:
            motion: `Plan.motion`, grey levels.
            seen: uint8 [H, W, 3], the newest frame that the plan was made from; without it the
                rule's `least_change` is not judged.

        Returns:
            The goal after it; a plan that ended it has nothing to execute.
        """
        if not self._goal.active:
            return self._goal
        plans = self._goal.plans + 1
        if self._first is None:
            self._first = seen
        if motion < self.rule.still_motion:
            self._still += 1
        else:
            self._still, self._moved = 0, True
        # Why the last plan was rejected stays to be read until one is executed.
        message = self._goal.message if self._rejected else ''
        goal = replace(self._goal, plans=plans, message=message)
        if self._moved and self._still >= self.rule.settled:
            message = f'the plan came to rest after {plans} plans'
            change = self._change(seen)
            if change < self.rule.least_change:
                goal = replace(
                    goal,
                    state=GoalState.ABORTED,
                    code=GoalCode.NOTHING_TO_DO,
                    message=f'{message}, and hardly anything had changed ({change:.1f} of at least '
                    f'{self.rule.least_change:g} grey levels): nothing that the prompt names is '
                    'visible, or it was as good as reached',
                )
            else:
                goal = replace(goal, state=GoalState.SUCCEEDED, message=message)
        elif not self._moved and self._still >= self.rule.hopeless:
            goal = replace(
                goal,
                state=GoalState.ABORTED,
                code=GoalCode.NOTHING_TO_DO,
                message=f'{plans} plans showed no motion: nothing that the prompt names is '
                'visible, or it is reached already',
            )
        self._set(goal)
        return self._goal

    def _change(self, seen: Image | None) -> float:
        """Since the first plan of the goal, grey levels; inf where it is not known."""
        if seen is None or self._first is None or seen.shape != self._first.shape:
            return float('inf')
        return float(np.abs(seen.astype(np.int16) - self._first.astype(np.int16)).mean())

    def rejected(self, reason: str, counted: bool = False) -> Goal:
        """A plan of the goal in progress must not be executed; too many in a row end the goal.

        Args:
            reason: in words.
            counted: whether `planned` has counted the plan already.

        Returns:
            The goal after it; while it is active, another plan should be made.
        """
        if not self._goal.active:
            return self._goal
        self._rejected += 1
        plans = self._goal.plans + (not counted)
        goal = replace(
            self._goal,
            plans=plans,
            message=f'plan {plans} rejected, {self._rejected} in a row: {reason}',
        )
        if self._rejected > self._max_rejected:
            goal = replace(
                goal,
                state=GoalState.ABORTED,
                code=GoalCode.IMPLAUSIBLE,
                message=f'{self._rejected} plans in a row were rejected, the last one because '
                f'{reason}',
            )
        self._set(goal)
        return self._goal

    def accepted(self) -> None:
        """A plan of the goal in progress is being executed."""
        self._rejected = 0

    def cancel(self, message: str, code: GoalCode = GoalCode.CANCELLED) -> Goal | None:
        """End the goal in progress as cancelled; returns it, or None if there was none."""
        return self._finish(GoalState.CANCELLED, code, message)

    def abort(self, code: GoalCode, message: str) -> Goal | None:
        """Give the goal in progress up; returns it, or None if there was none."""
        return self._finish(GoalState.ABORTED, code, message)

    def _finish(self, state: GoalState, code: GoalCode, message: str) -> Goal | None:
        if not self._goal.active:
            return None
        self._set(replace(self._goal, state=state, code=code, message=message))
        return self._goal

    def _set(self, goal: Goal) -> None:
        self._goal = goal
        if self._on_change is not None:
            self._on_change(goal)


__all__ = [
    'MAX_PROMPT',
    'Goal',
    'GoalCode',
    'GoalKeeper',
    'GoalState',
    'PlanRefusedError',
    'PromptError',
    'SettleRule',
    'validate_prompt',
]
