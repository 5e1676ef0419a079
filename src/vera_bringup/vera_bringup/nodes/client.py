"""The graph as commands see it: services called with a patience, statuses remembered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from vera_bringup.environment import enter
from vera_bringup.exits import CommandError, Exit
from vera_bringup.nodes.probe import nodes_in, ready
from vera_core.nodes.qos import LATCHED, STATE
from vera_msgs.msg import ControllerStatus, GoalStatus, SimStatus
from vera_msgs.srv import ResetSim, SetGoal


class NoGraphError(CommandError):
    """Nobody answers; the message says what was asked and of whom."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Exit.NO_GRAPH)


def constant_name(message_type: Any, value: int) -> str:
    """'RUNNING' for ControllerStatus and 2."""
    for name in dir(message_type):
        if name.isupper() and getattr(message_type, name) == value:
            return name
    return str(value)


class VeraClient:
    """A short-lived node that talks to one graph. A context manager.

    Args:
        domain: ROS domain.
        namespace: of the graph, without slashes around it.
        patience: seconds to wait for a service to appear and for its answer.
    """

    def __init__(self, domain: int, namespace: str = 'vera', patience: float = 8.0) -> None:
        self._domain = domain
        self._namespace = namespace
        self._patience = patience
        self.goal: GoalStatus | None = None
        self.goal_lost = False  # the planner that was given the last one of ours has ended
        self._given = 0
        self.controller: ControllerStatus | None = None
        self.sim: SimStatus | None = None
        self._clients: dict[str, Client] = {}

    def __enter__(self) -> VeraClient:
        enter(self._domain)
        # Ctrl-C belongs to the command, not to rclpy; a context of its own: there may be several.
        self._context = Context()
        rclpy.init(
            context=self._context,
            domain_id=self._domain,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self.node = Node(
            f'_vera_client_{os.getpid()}',
            namespace=self._namespace,
            context=self._context,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        for kind, topic, qos in (
            (GoalStatus, 'goal_status', LATCHED),
            (ControllerStatus, 'controller_status', LATCHED),
            (SimStatus, 'sim_status', STATE),
        ):
            self.node.create_subscription(kind, topic, self._remember, qos)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _remember(self, message: Any) -> None:
        if isinstance(message, GoalStatus):
            if self.goal is not None and message.goal_id < self._given <= self.goal.goal_id:
                self.goal_lost = True  # a new planner counts its goals from 1 again
            self.goal = message
        elif isinstance(message, ControllerStatus):
            self.controller = message
        else:
            self.sim = message

    def spin(self, seconds: float) -> None:
        """Handle whatever arrives for so long."""
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Spin until the condition holds; False if it does not within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def nodes(self) -> list[str]:
        """Nodes of the graph, by name."""
        return nodes_in(self.node, self._namespace)

    def ready(self, names: list[str]) -> bool:
        """Whether all these nodes are there and have been set up."""
        return all(ready(self.node, self._namespace, name) for name in names)

    def complete(self) -> bool:
        """Whether every node of a graph has been heard of."""
        silent = None in (self.goal, self.controller)
        return not silent and (self.sim is not None or 'sim' not in self.nodes())

    def goal_state(self) -> str:
        """Status of the current goal in words; '' before the first is heard of."""
        return constant_name(GoalStatus, self.goal.status) if self.goal else ''

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service of the graph.

        Raises:
            NoGraphError: it does not exist, or does not answer, within the patience.
        """
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        where = f'/{self._namespace}/{name} on ROS domain {self._domain}'
        if not self.until(client.service_is_ready, self._patience):
            raise NoGraphError(f'nobody offers {where}; is `vera up` running there?')
        for _ in range(2):
            # A node that was killed stays known for a moment, and answers nothing: ask again.
            future = client.call_async(request)
            if self.until(future.done, self._patience / 2):
                return future.result()
            client.remove_pending_request(future)
        raise NoGraphError(f'{where} does not answer within {self._patience:.0f} s')

    def trigger(self, name: str) -> tuple[bool, str]:
        """Call a std_srvs/Trigger service: stop, reset, estop, enable, home, cancel_goal."""
        answer = self.call(Trigger, name, Trigger.Request())
        return answer.success, answer.message

    def set_goal(self, prompt: str) -> SetGoal.Response:
        """Give the robot a goal in words."""
        answer: SetGoal.Response = self.call(SetGoal, 'set_goal', SetGoal.Request(prompt=prompt))
        self._given, self.goal_lost = answer.goal_id, False
        return answer

    def reset_sim(self, seed: int) -> ResetSim.Response:
        """Start the simulated episode of this seed."""
        return self.call(ResetSim, 'reset_sim', ResetSim.Request(seed=seed))

    def goal_ended(self, goal_id: int) -> bool:
        """Whether this goal is not being pursued any more."""
        goal = self.goal
        if self.goal_lost and goal_id == self._given:
            return True
        return goal is not None and (
            goal.goal_id > goal_id or (goal.goal_id == goal_id and goal.status != GoalStatus.ACTIVE)
        )
