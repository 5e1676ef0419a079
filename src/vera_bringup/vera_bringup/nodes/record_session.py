"""A recorder in this process, from the first look at the graph to the finished file."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from vera_bringup.environment import enter
from vera_bringup.nodes.recorder_node import RecorderError, RecorderNode
from vera_core.contract import Contract


class RecordSession:
    """A context manager; SIGINT, SIGTERM and SIGHUP end `run`.

    Args:
        domain: ROS domain.
        namespace: of the graph.
        parameters: of the recorder.

    Raises:
        RecorderError: a parameter that cannot be.
    """

    def __init__(self, domain: int, namespace: str, parameters: dict[str, Any]) -> None:
        self._domain, self._namespace, self._parameters = domain, namespace, parameters
        self._ended = threading.Event()

    def __enter__(self) -> RecordSession:
        enter(self._domain)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)
        rclpy.init(domain_id=self._domain, signal_handler_options=SignalHandlerOptions.NO)
        try:
            # A graph may have a recorder of its own.
            self._node = RecorderNode(
                begin=False,
                namespace=self._namespace,
                cli_args=['--ros-args', '-r', f'__node:=recorder_{os.getpid()}'],
                parameter_overrides=[Parameter(k, value=v) for k, v in self._parameters.items()],
            )
        except RecorderError:
            rclpy.try_shutdown()
            raise
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        return self

    def __exit__(self, *_: object) -> None:
        self._node.close()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ended.set()

    def contract(self, timeout: float) -> Contract | None:
        """The graph's contract; None if nobody tells it within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        graph = self._node.graph
        while not (graph.contract or graph.trouble or self._ended.is_set()):
            if time.monotonic() > deadline:
                break
            self._executor.spin_once(timeout_sec=0.1)
        return graph.contract

    def begin(self, folder: Path) -> None:
        """Start the recording; RecorderError if the folder cannot take it."""
        self._node.begin(folder)
        if not self._node.recording:
            raise RecorderError(self._node.failure)

    def run(self, duration: float | None) -> dict[str, Any]:
        """Record for so long [s], or until a signal; the node's counts, and `failure`."""
        node = self._node
        while not self._ended.is_set() and node.recording:
            if duration is not None and node.seconds >= duration:
                break
            self._executor.spin_once(timeout_sec=0.1)
        return {**node.close(), 'failure': node.failure}


__all__ = ['RecordSession', 'RecorderError']
