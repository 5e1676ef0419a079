"""A small graph for node tests: its own context and domain, spun in threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault('OMP_NUM_THREADS', '1')


class Graph:
    """Nodes of one test, each spun in a thread of its own."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.context import Context

        self.context = Context()
        # Unlike other tests that run now; below 102, where ports of Linux begin to clash.
        rclpy.init(context=self.context, domain_id=1 + os.getpid() % 100)
        self._spun: list[tuple[Any, Any, threading.Thread]] = []

    def add(self, node: Any) -> Any:
        """Spin a node."""
        from rclpy.executors import SingleThreadedExecutor

        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def spin() -> None:
            while self.context.ok() and not self._ending:
                executor.spin_once(timeout_sec=0.1)

        self._ending = False
        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        self._spun.append((node, executor, thread))
        return node

    def helper(self, name: str = 'helper') -> Any:
        """A plain node in the namespace of the others."""
        from rclpy.node import Node

        return self.add(Node(name, namespace='vera', context=self.context))

    def start(self, make: Callable[..., Any], **parameters: Any) -> Any:
        """A VeraNode with these parameters, configured and activated."""
        from rclpy.lifecycle import TransitionCallbackReturn
        from rclpy.parameter import Parameter

        parameters = {'autostart': False, **parameters}
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = make(context=self.context, parameter_overrides=overrides)
        self.add(node)
        for step in (node.trigger_configure, node.trigger_activate):
            assert step() == TransitionCallbackReturn.SUCCESS
        return node

    def call(self, node: Any, kind: Any, name: str, request: Any, timeout: float = 15.0) -> Any:
        """Call a service through `node`."""
        client = node.create_client(kind, name)
        assert client.wait_for_service(timeout), f'no service {name}'
        future = client.call_async(request)
        wait_for(future.done, timeout)
        result = future.result()
        node.destroy_client(client)
        return result

    def close(self) -> None:
        import rclpy

        self._ending = True
        for _, executor, thread in self._spun:
            executor.wake()
            thread.join(timeout=5)
        for node, executor, _ in self._spun:
            executor.remove_node(node)
            close = getattr(node, 'close', node.destroy_node)
            close()
            executor.shutdown()
        rclpy.shutdown(context=self.context)


def wait_for(condition: Callable[[], Any], timeout: float = 15.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, 'it did not happen in time'
        time.sleep(0.005)


@pytest.fixture
def graph() -> Iterator[Graph]:
    found = Graph()
    yield found
    found.close()


@pytest.fixture(name='wait_for')
def wait_for_fixture() -> Callable[..., None]:
    return wait_for
