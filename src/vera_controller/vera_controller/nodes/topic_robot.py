"""The `topic` robot: set-points and measured states are ROS topics."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import JointState

from vera_core.contract import Contract
from vera_core.nodes.convert import StateError, joints_from_msg, joints_to_msg
from vera_core.nodes.qos import COMMAND, STATE, STATE_RELIABLE
from vera_core.seams import RobotState

if TYPE_CHECKING:
    from rclpy.node import Node


class TopicRobot:
    """Publishes `joint_commands`, subscribes to `joint_states`: a simulation, or ros2_control.

    Args:
        contract: its joints, matched by name.
        node: what it publishes and subscribes with.
        on_state, on_bad_state: see `registry.make_robot`.
        reliable: joint states may not be lost: lock-step.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        node: Node,
        on_state: Callable[[RobotState], Any],
        on_bad_state: Callable[[str], Any],
        reliable: bool = False,
        callback_group: Any = None,
    ) -> None:
        self._names = contract.joint_names
        self._node = node
        self._on_state = on_state
        self._on_bad_state = on_bad_state
        self._qos = STATE_RELIABLE if reliable else STATE
        self._group = callback_group
        self._publisher: Any = None
        self._subscription: Any = None
        self._state: RobotState | None = None

    def __enter__(self) -> TopicRobot:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Advertise and subscribe."""
        self._publisher = self._node.create_publisher(JointState, 'joint_commands', COMMAND)
        self._subscription = self._node.create_subscription(
            JointState, 'joint_states', self._receive, self._qos, callback_group=self._group
        )

    def state(self) -> RobotState | None:
        """Newest measured state, or None before the first."""
        return self._state

    def command(self, positions: NDArray[np.float64], stamp: int) -> None:
        """Publish one joint set-point; only the safety filter's output may come here."""
        if self._publisher is not None:
            self._publisher.publish(joints_to_msg(self._names, positions, stamp))

    def stop(self) -> None:
        """Nothing: a topic has no brake but the decelerating set-points of the filter."""

    def close(self) -> None:
        """Take back publisher and subscription; safe to call twice."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._node.destroy_publisher(self._publisher)
        self._subscription = self._publisher = None

    def _receive(self, msg: JointState) -> None:
        unknown = sorted(set(msg.name) - set(self._names))
        try:
            if unknown:
                raise StateError(
                    f'unknown joint {", ".join(unknown)}; the contract has {", ".join(self._names)}'
                )
            self._state = joints_from_msg(msg, self._names)
        except StateError as error:
            self._on_bad_state(f'joint_states: {error}')
        else:
            self._on_state(self._state)


__all__ = ['TopicRobot']
