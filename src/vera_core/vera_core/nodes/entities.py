"""What a node has created since a moment, to be destroyed together."""

from __future__ import annotations

import time
from typing import Any

from rclpy.action import ActionClient, ActionServer
from rclpy.duration import Duration
from rclpy.lifecycle import LifecyclePublisher
from rclpy.node import Node


class Entities:
    """Remembers what a node has now; `destroy_newer` destroys whatever came later."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known = {id(entity) for entity in self._all()}
        # Held so that no id can be given to another object meanwhile.
        self._held = list(self._all())

    def _all(self) -> list[Any]:
        node = self._node
        actions = [w for w in node.waitables if isinstance(w, (ActionClient, ActionServer))]
        return [
            *actions,
            *node.timers,
            *node.subscriptions,
            *node.services,
            *node.clients,
            *node.publishers,
        ]

    def flush(self, limit: float) -> None:
        """Wait at most `limit` seconds until what was published has arrived."""
        end = time.monotonic() + limit
        for publisher in self._node.publishers:
            left = max(0.0, end - time.monotonic())
            publisher.wait_for_all_acked(Duration(seconds=left))

    def destroy_newer(self) -> None:
        """Destroy what was created since; what is gone already is left alone."""
        node = self._node
        newer = [entity for entity in self._all() if id(entity) not in self._known]
        self._held.clear()
        for entity in newer:
            if isinstance(entity, (ActionClient, ActionServer)):
                entity.destroy()
            elif isinstance(entity, LifecyclePublisher):
                node.destroy_lifecycle_publisher(entity)
            else:
                # A list holds each kind; each destroy_* looks only into its own.
                for destroy in (
                    node.destroy_timer,
                    node.destroy_subscription,
                    node.destroy_service,
                    node.destroy_client,
                    node.destroy_publisher,
                ):
                    if destroy(entity):
                        break
