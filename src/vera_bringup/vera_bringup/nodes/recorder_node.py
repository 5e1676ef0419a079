"""Records every topic of the graph into an MCAP file, as serialised bytes.

A full disk or a missing folder costs the recording, never the robot: the node says so once and
stays alive.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vera_bringup.recording import Recording
from vera_bringup.resources import message_definition

DISCOVERY_PERIOD = 0.5  # s between looks for new topics
QUEUE = 50  # messages per topic while the disk is busy


def message_class(type_name: str) -> Any:
    """The Python class of 'package/msg/Name', or None if it is not installed."""
    package, _, name = type_name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ModuleNotFoundError, AttributeError):
        return None


def matching_qos(publishers: list[TopicEndpointInfo]) -> QoSProfile:
    """The strictest profile that still hears every publisher."""
    reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
    latched = all(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
    return QoSProfile(
        depth=QUEUE,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def offered_qos(publishers: list[TopicEndpointInfo]) -> str:
    """rosbag2's YAML list of offered profiles (JSON is YAML)."""
    return json.dumps(
        [
            {
                'history': 1,
                'depth': p.qos_profile.depth,
                'reliability': int(p.qos_profile.reliability),
                'durability': int(p.qos_profile.durability),
                'deadline': {'sec': 9223372036, 'nsec': 854775807},
                'lifespan': {'sec': 9223372036, 'nsec': 854775807},
                'liveliness': 1,
                'liveliness_lease_duration': {'sec': 9223372036, 'nsec': 854775807},
                'avoid_ros_namespace_conventions': False,
            }
            for p in publishers
        ]
    )


class RecorderNode(Node):
    """Subscribes, raw, to every topic that has a publisher."""

    def __init__(self) -> None:
        super().__init__('recorder')
        described = ParameterDescriptor(
            description='folder of the recording; a new one', read_only=True
        )
        folder = self.declare_parameter('output', '', described).value
        self._recording: Recording | None = None
        self._known: set[str] = set()
        if not folder:
            self.get_logger().error('parameter `output` names no folder: nothing is recorded')
            return
        try:
            self._recording = Recording(Path(folder), message_definition)
        except OSError as error:
            self.get_logger().error(f'cannot record: {error}; the robot goes on')
            return
        self.create_timer(DISCOVERY_PERIOD, self._discover)
        self._discover()
        self.get_logger().info(f'recording all topics into {self._recording.path}')

    def _discover(self) -> None:
        recording = self._recording
        if recording is None or not recording.open:
            return
        for name, types in self.get_topic_names_and_types():
            publishers = self.get_publishers_info_by_topic(name)
            # As with `ros2 bag record -a`, hidden topics (an action's own) are left out.
            if name in self._known or not publishers or '/_' in name:
                continue
            self._known.add(name)
            kind = message_class(types[0])
            if kind is None or not recording.add_topic(name, types[0], offered_qos(publishers)):
                self.get_logger().warning(f'not recording {name}: {types[0]} is not installed here')
                continue
            self.create_subscription(
                kind, name, partial(self._receive, name), matching_qos(publishers), raw=True
            )

    def _receive(self, topic: str, data: bytes) -> None:
        if self._recording is None:
            return
        self._recording.write(topic, data, time.time_ns())
        if self._recording.failure:
            self.get_logger().error(
                f'recording stopped: {self._recording.failure}; the robot goes on'
            )
            self._recording = None

    def close(self) -> None:
        """Finish the file."""
        if self._recording is not None:
            self._recording.close()
            if self._recording.failure:
                self.get_logger().error(f'recording is incomplete: {self._recording.failure}')


def main() -> int:
    """Entry point of recorder_node; SIGINT and SIGTERM finish the file and leave exit code 0."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    # rclpy's own handlers would pull the context away from under a running wait.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = RecorderNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
