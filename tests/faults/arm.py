"""The controller node with the fake arm, which meets an obstacle when VERA_TEST_ARM is made."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from vera_controller.nodes.controller_node import ControllerNode
from vera_core.nodes.base import run_node

OBSTACLE = Path(os.environ['VERA_TEST_ARM'])


def watch(node: ControllerNode) -> None:
    """Reflex after reflex, one for each time that the file appears."""
    while not node.stopping.wait(0.01):
        if OBSTACLE.exists() and node.active:
            OBSTACLE.unlink()
            node.robot.link.faults.reflex_at = 0.0  # type: ignore[attr-defined]


def make() -> ControllerNode:
    """The node, watched."""
    node = ControllerNode()
    threading.Thread(target=watch, args=(node,), daemon=True).start()
    return node


if __name__ == '__main__':
    sys.exit(run_node(make))
