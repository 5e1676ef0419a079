"""Robots by name; each is imported only when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vera_core.contract import Contract
    from vera_core.seams import Robot, RobotState

ROBOTS = {
    'fake_arm': 'vera_controller.robots.fake_robot:fake_arm',
    'joint_trajectory': 'vera_controller.nodes.joint_trajectory_robot:JointTrajectoryRobot',
    'panda_fer': 'vera_controller.robots.panda_fer:panda_fer',
    'panda_franky': 'vera_controller.robots.franky:panda_franky',
    'topic': 'vera_controller.nodes.topic_robot:TopicRobot',
}
# Whose set-points and states are ROS topics: they get `ros`, the others `address`.
TOPIC_ROBOTS = ('joint_trajectory', 'topic')
#: On the way, in a later release: named here only so that the error can say so.
LATER = ('allegro',)


class RobotError(ValueError):
    """A robot that cannot be had; the message names it and the cure."""


def make_robot(
    name: str,
    contract: Contract,
    *,
    on_state: Callable[[RobotState], Any],
    on_bad_state: Callable[[str], Any],
    on_fault: Callable[[str], Any] | None = None,
    ros: Mapping[str, Any] | None = None,
    address: str = '',
) -> Robot:
    """The robot of this name, not yet connected.

    Args:
        name: one of ROBOTS.
        contract: its joints and limits.
        on_state: called with every measured state, maybe from another thread.
        on_bad_state: called with what is wrong with a state that cannot be used.
        on_fault: called with what keeps the robot from moving, maybe from another thread and more
            than once; `on_bad_state` unless given.
        ros: for robots that are ROS topics: `node`, `reliable`, `callback_group`.
        address: of a robot with an address; the contract's unless given.

    Raises:
        RobotError: an unknown name, or a contract that does not fit the robot.
    """
    known = ', '.join(sorted(ROBOTS))
    if name in LATER:
        raise RobotError(
            f'robot {name!r} is planned but not part of this release; use one of: {known}'
        )
    if name not in ROBOTS:
        raise RobotError(f'unknown robot {name!r}; known: {known}')
    module, _, attribute = ROBOTS[name].partition(':')
    make = getattr(importlib.import_module(module), attribute)
    options: dict[str, Any] = {'on_state': on_state, 'on_bad_state': on_bad_state}
    if name in TOPIC_ROBOTS:
        options |= ros or {}
    else:
        options |= {'address': address, 'on_fault': on_fault or on_bad_state}
    robot: Robot = make(contract, **options)
    return robot


__all__ = ['LATER', 'ROBOTS', 'TOPIC_ROBOTS', 'RobotError', 'make_robot']
