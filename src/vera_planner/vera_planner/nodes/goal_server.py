"""Goals from outside: services `set_goal` and `cancel_goal`, action `execute_goal`.

Executing the action is a coroutine that awaits the end of the goal, so that one thread serves the
action, its cancellation and everything else of the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from vera_core.clocks import seconds_to_ns
from vera_msgs.action import ExecuteGoal
from vera_msgs.srv import SetGoal
from vera_planner.goal import Goal, GoalCode, GoalKeeper, GoalState, PromptError


@dataclass
class _Running:
    handle: ServerGoalHandle
    ended: Future
    deadline: int
    timeout: float


class GoalServer:
    """Lets others set and end the goal of a GoalKeeper.

    Args:
        node: the planner node.
        goals: the keeper; its changes must be handed to `on_goal`.
        begin: takes a prompt and returns the goal; raises PromptError to refuse.
        now: ns of the clock that timeouts are counted on.
        timeout: seconds for goals that name none.
    """

    def __init__(
        self,
        node: Node,
        goals: GoalKeeper,
        begin: Callable[[str], Goal],
        now: Callable[[], int],
        timeout: float,
    ) -> None:
        self._goals = goals
        self._begin = begin
        self._now = now
        self._timeout = timeout
        self._log = node.get_logger()
        self._running: dict[int, _Running] = {}
        node.create_service(SetGoal, 'set_goal', self._on_set_goal)
        node.create_service(Trigger, 'cancel_goal', self._on_cancel_goal)
        self._server = ActionServer(
            node,
            ExecuteGoal,
            'execute_goal',
            self._execute,
            cancel_callback=self._on_cancel_action,
        )

    def on_goal(self, goal: Goal) -> None:
        """A goal changed; if it ended, so does the action that set it."""
        running = self._running.get(goal.goal_id)
        if running is not None and not goal.active and not running.ended.done():
            running.ended.set_result(goal)

    def check_timeout(self) -> None:
        """Give the current goal up if its time is over."""
        running = self._running.get(self._goals.goal.goal_id)
        if running is not None and self._now() > running.deadline:
            self._goals.abort(GoalCode.TIMEOUT, f'not reached within {running.timeout:g} s')

    def feedback(self, state: str, plans: int, residual: float) -> None:
        """Tell the client of the current goal how it goes."""
        running = self._running.get(self._goals.goal.goal_id)
        if running is not None and running.handle.is_active:
            running.handle.publish_feedback(
                ExecuteGoal.Feedback(state=state, plans=plans, residual=residual)
            )

    def _on_set_goal(
        self, request: SetGoal.Request, response: SetGoal.Response
    ) -> SetGoal.Response:
        old = self._goals.goal
        try:
            goal = self._begin(request.prompt)
        except PromptError as error:
            response.message = str(error)
            self._log.warning(f'set_goal refused: {error}')
            return response
        response.accepted = True
        response.goal_id = goal.goal_id
        parts = [f'replaces goal {old.goal_id}: {old.prompt}'] if old.active else []
        response.message = '; '.join([*parts, goal.message] if goal.message else parts)
        return response

    def _on_cancel_goal(
        self, _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        goal = self._goals.cancel('cancelled by cancel_goal')
        response.success = goal is not None
        response.message = f'goal {goal.goal_id} cancelled' if goal else 'no goal is active'
        return response

    async def _execute(self, handle: ServerGoalHandle) -> Any:
        request = handle.request
        timeout = request.timeout or self._timeout
        try:
            if not (math.isfinite(timeout) and timeout > 0):
                raise PromptError(f'the timeout is {timeout} s; it must be positive, or 0')
            started = self._now()
            goal = self._begin(request.prompt)
        except PromptError as error:
            handle.abort()
            return ExecuteGoal.Result(error_code=int(GoalCode.REFUSED), message=str(error))
        ended = Future()
        self._running[goal.goal_id] = _Running(
            handle, ended, started + seconds_to_ns(timeout), timeout
        )
        self.on_goal(self._goals.goal)  # it may have ended while it began
        if handle.is_cancel_requested:
            self._on_cancel_action(handle)
        try:
            goal = await ended
        finally:
            del self._running[goal.goal_id]
        if goal.state is GoalState.SUCCEEDED:
            handle.succeed()
        elif goal.state is GoalState.CANCELLED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return ExecuteGoal.Result(
            error_code=int(goal.code),
            message=goal.message,
            goal_id=goal.goal_id,
            plans=goal.plans,
        )

    def _on_cancel_action(self, handle: ServerGoalHandle) -> CancelResponse:
        current = self._running.get(self._goals.goal.goal_id)
        if current is not None and current.handle.goal_id == handle.goal_id:
            self._goals.cancel('cancelled by the client of execute_goal')
        return CancelResponse.ACCEPT
