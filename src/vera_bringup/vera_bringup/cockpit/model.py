"""What the page is told, as plain data: state and reason in words, goals, curves."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vera_core.contract import Contract

STATES = ('IDLE', 'READY', 'RUNNING', 'HOLD', 'STOPPED', 'ESTOP')
GOALS = ('NONE', 'ACTIVE', 'SUCCEEDED', 'CANCELLED', 'ABORTED')
# What the state means for the person before the page, and what can be done about it.
MEANINGS = {
    'IDLE': 'not enabled: Enable lets it move',
    'READY': 'waits for a goal',
    'RUNNING': 'moves',
    'HOLD': 'stands still, goes on by itself',
    'STOPPED': 'stands still until Reset',
    'ESTOP': 'emergency stop: Reset, then Enable',
}
SILENT = 1.5  # s without a word after which the controller counts as silent; it speaks at 10 Hz
HISTORY = 30  # goals
SECONDS = 120.0  # of the curves
#: Curves by name: what it is, and its unit.
CURVES = {
    'residual': ('residual', ''),
    'plan_age': ('plan age', 's'),
    'planning': ('plan', 's'),
    'translating': ('translate', 's'),
}


@dataclass(frozen=True)
class Controller:
    """What the controller says of itself; see ControllerStatus."""

    state: int
    reason: str = ''
    plan_age: float = math.nan
    remaining: float = 0.0
    ticks: int = 0
    clipped: int = 0
    underruns: int = 0
    rejected: int = 0
    last_rejection: str = ''


@dataclass(frozen=True)
class Goal:
    """A goal and what has become of it; see GoalStatus."""

    goal_id: int
    prompt: str
    status: int
    message: str = ''
    plans: int = 0


class Model:
    """Everything that is shown but pictures.

    Args:
        contract: of the embodiment.
        simulated: whether there are scenes to start anew.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        contract: Contract,
        simulated: bool,
        namespace: str = 'vera',
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._contract = contract
        self._simulated = simulated
        self._namespace = namespace
        self._clock = clock
        self._controller: Controller | None = None
        self._heard = -math.inf
        self._goals: dict[int, dict[str, Any]] = {}
        self._goal: Goal | None = None
        self._curves: deque[tuple[str, float, float]] = deque()

    # What is heard ---------------------------------------------------------------------------

    def hear_controller(self, status: Controller) -> None:
        """Take a status, and a point of the curve of the plan's age."""
        self._controller, self._heard = status, self._clock()
        if STATES[status.state : status.state + 1] == ('RUNNING',):
            self.point('plan_age', status.plan_age)

    def hear_goal(self, goal: Goal) -> bool:
        """Take a goal's status; returns whether the list of goals has changed."""
        if goal.goal_id < (self._goal.goal_id if self._goal else 0):
            self._goals.clear()  # a new planner counts from one
        self._goal = goal
        if not goal.goal_id:
            return False
        now = self._clock()
        for number, other in self._goals.items():
            # The last word on a goal may have been overwritten by that on the next.
            if number < goal.goal_id and other['status'] == 'ACTIVE':
                other.update(
                    status='CANCELLED', message=f'replaced by goal {goal.goal_id}',
                    seconds=round(now - other['begun'], 1),
                )
        entry = self._goals.setdefault(goal.goal_id, {'begun': now, 'seconds': None})
        before = dict(entry)
        name = _name(GOALS, goal.status)
        entry.update(asdict(goal), status=name)
        if name != 'ACTIVE' and entry['seconds'] is None:
            entry['seconds'] = round(now - entry['begun'], 1)
        while len(self._goals) > HISTORY:
            del self._goals[min(self._goals)]
        return {**before, 'plans': 0} != {**entry, 'plans': 0}

    def point(self, curve: str, value: float) -> None:
        """A new point of a curve; nothing where there is no number."""
        if not math.isfinite(value):
            return
        now = self._clock()
        self._curves.append((curve, round(now, 3), round(value, 4)))
        while self._curves[0][1] < now - SECONDS:
            self._curves.popleft()

    # What is told ----------------------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """What does not change."""
        contract = self._contract
        return {
            'type': 'hello',
            'embodiment': contract.embodiment,
            'description': contract.description,
            'namespace': self._namespace,
            'simulated': self._simulated,
            'cameras': [
                {'name': c.name, 'width': c.width, 'height': c.height} for c in contract.cameras
            ],
            'channels': list(contract.channel_names),
            'canvas': [contract.canvas.width, contract.canvas.height],
            'seconds': SECONDS,
            'curves': {name: list(label) for name, label in CURVES.items()},
        }

    def status(self) -> dict[str, Any]:
        """State, reason, the goal, and how old all that is."""
        told = self._controller
        silence = self._clock() - self._heard
        silent = told is None or silence > SILENT
        state = 'SILENT' if silent or told is None else _name(STATES, told.state)
        status: dict[str, Any] = {
            'type': 'status', 'now': round(self._clock(), 3), 'state': state,
            'meaning': MEANINGS.get(state, 'the controller says nothing'),
            'reason': '' if silent or told is None else told.reason,
            'goal': None,
        }  # fmt: skip
        if told is not None:
            numbers = asdict(told)
            for name in ('plan_age', 'remaining'):
                finite = math.isfinite(numbers[name])
                numbers[name] = round(numbers[name], 2) if finite else None
            status['controller'] = numbers
        if self._goal is not None and self._goal.goal_id:
            goal = self._goal
            status['goal'] = {**asdict(goal), 'status': _name(GOALS, goal.status)}
        return status

    def goals(self) -> dict[str, Any]:
        """All goals so far, the newest first."""
        listed = [
            {k: v for k, v in entry.items() if k != 'begun'} for entry in self._goals.values()
        ]
        return {'type': 'goals', 'goals': listed[::-1]}

    def curves(self, since: float = -math.inf) -> dict[str, Any]:
        """Points of the curves that came after a moment: [name, s, value]."""
        return {'type': 'curves', 'points': [list(p) for p in self._curves if p[1] > since]}


def _name(names: tuple[str, ...], value: int) -> str:
    return names[value] if value < len(names) else str(value)


__all__ = ['CURVES', 'GOALS', 'STATES', 'Controller', 'Goal', 'Model']
