"""The `joint_trajectory` robot: a joint_trajectory_controller of ros2_control follows."""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Duration
from numpy.typing import NDArray
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vera_controller.registry import RobotError
from vera_core.clocks import from_ns
from vera_core.contract import Contract
from vera_core.nodes.convert import StateError, joints_from_msg
from vera_core.nodes.qos import COMMAND, STATE
from vera_core.seams import RobotState

if TYPE_CHECKING:
    from rclpy.node import Node


class JointTrajectoryRobot:
    """Publishes `<controller>/joint_trajectory`, subscribes to `joint_states`.

    Each set-point is a trajectory of one point, due one period later; it replaces the one before.
    Its stamp is zero: begin now, whatever the clock of the other machine. It has no velocity:
    since Jazzy that controller refuses, unless told otherwise, a trajectory that ends in motion.
    When set-points stop, it holds the last point.

    Args:
        contract: its joints, matched by name; robot.controller, and robot.gripper_controller for
            the joints of gripper channels unless that is empty.
        node: what it publishes and subscribes with.
        on_state: see `registry.make_robot`.
        on_bad_state: likewise.
        reliable: must be false: in lock-step there is a simulation, with robot topic.
        callback_group: of the subscription.

    Raises:
        RobotError: lock-step.
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
        if reliable:
            raise RobotError('joint_trajectory cannot wait for a planner; use topic in lock-step')
        self._names = contract.joint_names
        self._ahead = from_ns(contract.control.period_ns)
        self._node = node
        self._on_state = on_state
        self._on_bad_state = on_bad_state
        self._group = callback_group
        self._parts = _parts(contract)
        self._publishers: list[Any] = []
        self._subscription: Any = None
        self._state: RobotState | None = None

    def __enter__(self) -> JointTrajectoryRobot:
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
        self._publishers = [
            self._node.create_publisher(JointTrajectory, f'{controller}/joint_trajectory', COMMAND)
            for controller, _ in self._parts
        ]
        self._subscription = self._node.create_subscription(
            JointState, 'joint_states', self._receive, STATE, callback_group=self._group
        )

    def state(self) -> RobotState | None:
        """Newest measured state, or None before the first."""
        return self._state

    def command(self, positions: NDArray[np.float64], stamp: int) -> None:
        """Publish one joint set-point; only the safety filter's output may come here."""
        for publisher, (_, places) in zip(self._publishers, self._parts, strict=False):
            publisher.publish(self._message(places, np.asarray(positions, np.float64)))

    def stop(self) -> None:
        """Nothing: there is no brake but the decelerating set-points of the filter."""

    def close(self) -> None:
        """Take back publishers and subscription; safe to call twice."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._subscription, self._publishers = None, []

    def _message(self, places: Sequence[int], positions: NDArray[np.float64]) -> JointTrajectory:
        point = JointTrajectoryPoint(
            positions=array.array('d', positions[list(places)].tobytes()),
            time_from_start=Duration(sec=self._ahead[0], nanosec=self._ahead[1]),
        )
        return JointTrajectory(joint_names=[self._names[i] for i in places], points=[point])

    def _receive(self, msg: JointState) -> None:
        # A joint_state_broadcaster tells of every joint there is, the second finger for one.
        if msg.name and not set(msg.name) & set(self._names):
            return
        try:
            self._state = joints_from_msg(_only(msg, self._names), self._names)
        except StateError as error:
            self._on_bad_state(f'joint_states: {error}')
        else:
            self._on_state(self._state)


def _parts(contract: Contract) -> list[tuple[str, tuple[int, ...]]]:
    """Controllers with the places of their joints."""
    spec, places = contract.robot, range(len(contract.joints))
    fingers = {c.joint for c in contract.channels if c.kind == 'gripper'}
    if not (spec.gripper_controller and fingers):
        return [(spec.controller, tuple(places))]
    grips = tuple(i for i in places if contract.joint_names[i] in fingers)
    rest = tuple(i for i in places if i not in grips)
    return [(spec.controller, rest), (spec.gripper_controller, grips)]


def _only(msg: JointState, names: Sequence[str]) -> JointState:
    """The message without joints that are not in `names`."""
    places = [i for i, name in enumerate(msg.name) if name in names]
    if len(places) == len(msg.name):
        return msg
    found = JointState(header=msg.header, name=[msg.name[i] for i in places])
    for field in ('position', 'velocity', 'effort'):
        values = getattr(msg, field)
        if len(values) == len(msg.name):
            setattr(found, field, array.array('d', [values[i] for i in places]))
        elif values:
            setattr(found, field, values)  # a wrong length stays wrong
    return found


__all__ = ['JointTrajectoryRobot']
