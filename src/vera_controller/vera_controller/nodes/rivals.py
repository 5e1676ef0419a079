"""Is somebody else at work on this robot? A robot has one controller."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from vera_controller.state_machine import State
from vera_core.nodes.convert import stamp_from_msg
from vera_core.nodes.qos import LATCHED
from vera_msgs.msg import ControllerStatus

if TYPE_CHECKING:
    from rclpy.context import Context

# A controller speaks every tenth of a second; discovery of others takes a part of that as well. Who
# was heard once gets more time to be heard again.
LISTEN_S, AGAIN_S = 1.0, 2.0


class Rivals:
    """Tells the status messages of other controllers from one's own.

    Two controllers in one namespace have one name, so names say nothing: what one has not published
    oneself comes from another. Heard once it may be the last word of one that is inactive.
    """

    def __init__(self) -> None:
        self._own: deque[int] = deque(maxlen=256)
        self._foreign: int | None = None

    def published(self, stamp: int) -> None:
        """Note the stamp [ns] of a status of one's own, before it is published."""
        self._own.append(stamp)

    def heard(self, msg: ControllerStatus) -> str | None:
        """Who else published this status, in words; None if oneself did."""
        stamp = stamp_from_msg(msg)
        if stamp in self._own:
            return None
        first, self._foreign = self._foreign in (None, stamp), stamp
        if first:
            return None
        return f'another controller is at work here ({State(msg.state).name}: {msg.reason})'


def listen(context: Context, namespace: str, seconds: float = LISTEN_S) -> str | None:
    """Listen for another controller in a namespace, before one speaks oneself; what it is doing."""
    found: list[str | None] = []
    rivals = Rivals()
    node = Node(
        'controller_probe', namespace=namespace, context=context, start_parameter_services=False
    )
    executor = SingleThreadedExecutor(context=context)
    try:
        node.create_subscription(
            ControllerStatus,
            'controller_status',
            lambda msg: found.append(rivals.heard(msg)),
            LATCHED,
        )
        executor.add_node(node)
        begin = time.monotonic()
        while not any(found):
            left = begin + (AGAIN_S if found else seconds) - time.monotonic()
            if left <= 0:
                return None
            executor.spin_once(timeout_sec=left)
    finally:
        executor.shutdown()
        node.destroy_node()
    return found[-1]


__all__ = ['Rivals', 'listen']
