"""Robots by name; each is imported only when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.contract import Contract
    from vera_core.seams import Robot, RobotState

ROBOTS = {
    'topic': 'vera_controller.nodes.topic_robot:TopicRobot',
}
#: On the way, in a later release: named here only so that the error can say so.
LATER = ('franky', 'allegro')


class RobotError(ValueError):
    """A robot that cannot be had; the message names it and the cure."""


def make_robot(
    name: str,
    contract: Contract,
    *,
    on_state: Callable[[RobotState], Any],
    on_bad_state: Callable[[str], Any],
    **options: Any,
) -> Robot:
    """The robot of this name, not yet connected.

    Args:
        name: one of ROBOTS.
        contract: its joints and limits.
        on_state: called with every measured state, maybe from another thread.
        on_bad_state: called with what is wrong with a state that cannot be used.
        options: the robot's own; `topic` needs `node`.

    Raises:
        RobotError: an unknown name.
    """
    known = ', '.join(sorted(ROBOTS))
    if name in LATER:
        raise RobotError(
            f'robot {name!r} is planned but not part of this release; use one of: {known}'
        )
    if name not in ROBOTS:
        raise RobotError(f'unknown robot {name!r}; known: {known}')
    module, _, attribute = ROBOTS[name].partition(':')
    robot_class = getattr(importlib.import_module(module), attribute)
    robot: Robot = robot_class(contract, on_state=on_state, on_bad_state=on_bad_state, **options)
    return robot


__all__ = ['LATER', 'ROBOTS', 'RobotError', 'make_robot']
