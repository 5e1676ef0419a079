"""Records topics of the graph into an MCAP file, as serialised bytes, with all that explains them.

A full disk or a missing folder costs the recording, never the robot: the node says so once and
stays alive.
"""

from __future__ import annotations

import importlib
import json
import re
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vera_bringup import jpeg
from vera_bringup import recording_notes as notes
from vera_bringup.nodes.graph_parameters import GraphParameters, parameter_file
from vera_bringup.recording import COMPRESSIONS, Recording, free_folder
from vera_bringup.recording_queue import RecordingQueue, SequenceWatch
from vera_bringup.resources import message_definition
from vera_core.clocks import to_ns
from vera_msgs.msg import GoalStatus

DISCOVERY_PERIOD = 0.5  # s between looks for new topics
DIAGNOSTICS_PERIOD = 1.0  # s
QUEUE = 50  # messages per topic while this process is busy
GOALS = 'vera_msgs/msg/GoalStatus'


class RecorderError(ValueError):
    """A parameter that cannot be; the message names it."""


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
    """Subscribes, raw, to every topic that has a publisher.

    Args:
        begin: record into `output` at once; otherwise when `begin` is called.
        kwargs: of rclpy's Node.
    """

    def __init__(self, begin: bool = True, **kwargs: Any) -> None:
        super().__init__('recorder', **kwargs)
        folder = str(self._parameter('output', '', 'folder of the recording; a new one'))
        self._wanted = self._pattern('topics', '', 'regular expression of topics; empty: all')
        self._unwanted = self._pattern('exclude', '', 'regular expression of topics left out')
        self._jpeg = int(self._parameter('jpeg', 0, 'quality of images as JPEG; 0: as they are'))
        self._compression = str(
            self._parameter('compression', 'lz4', f'of chunks: {", ".join(COMPRESSIONS)}')
        )
        if self._compression not in COMPRESSIONS or not 0 <= self._jpeg <= 100:
            raise RecorderError(
                f'compression is one of {", ".join(COMPRESSIONS)}, jpeg a quality of 0 to 100; '
                f'got {self._compression} and {self._jpeg}'
            )
        self.failure = ''
        self._queue: RecordingQueue | None = None
        self._known: set[str] = set()
        self._publisher_counts: dict[str, int] = {}
        self._watches: dict[str, SequenceWatch] = {}
        self._goals: dict[int, str] = {}
        self._contract_written = False
        self._told: dict[str, str] = {}
        self._began = time.monotonic()
        self._last = (self._began, 0)
        self.graph = GraphParameters(self, self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DISCOVERY_PERIOD, self._look, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD, self._report, clock=steady)
        if begin and not folder:
            self.get_logger().error('parameter `output` names no folder: nothing is recorded')
        elif begin:
            self.begin(free_folder(Path(folder)))  # a recorder may have died here before

    def _parameter(self, name: str, default: str | int, description: str) -> Any:
        described = ParameterDescriptor(description=description, read_only=True)
        return self.declare_parameter(name, default, described).value

    def _pattern(self, name: str, default: str, description: str) -> re.Pattern[str] | None:
        text = str(self._parameter(name, default, description))
        try:
            return re.compile(text) if text else None
        except re.error as error:
            raise RecorderError(f'{name}: {text!r} is no regular expression: {error}') from error

    def begin(self, folder: Path) -> None:
        """Start the recording; what fails is said, and kept in `failure`."""
        try:
            recording = Recording(folder, message_definition, compression=self._compression)
        except OSError as error:
            self.failure = f'cannot record: {error}'
            self.get_logger().error(f'{self.failure}; the robot goes on')
            return
        self._queue = RecordingQueue(recording)
        self._began = time.monotonic()
        self._last = (self._began, 0)
        for name, text in self._told.items():
            self._attach(f'{notes.PARAMETERS}{name.rsplit("/", 1)[-1]}.yaml', text)
        self._look()
        what = 'all topics' if self._wanted is None else 'topics'
        self.get_logger().info(f'recording {what} into {recording.path}')

    @property
    def recording(self) -> bool:
        """Whether messages are still written."""
        return self._queue is not None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    # What is recorded ------------------------------------------------------------------------

    def _look(self) -> None:
        self.graph.look()
        if self._queue is None:
            return
        failure = self._queue.recording.failure
        if failure:
            self._give_up(f'recording stopped: {failure}')
            return
        self._write_contract()
        for name, types in self.get_topic_names_and_types():
            if name in self._known:
                self._publisher_counts[name] = self.count_publishers(name)
            elif self._is_wanted(name):
                self._subscribe(name, types[0])

    def _is_wanted(self, name: str) -> bool:
        # As with `ros2 bag record -a`, hidden topics (an action's own) are left out.
        if '/_' in name or (self._unwanted and self._unwanted.search(name)):
            return False
        return self._wanted is None or bool(self._wanted.search(name))

    def _subscribe(self, name: str, type_name: str) -> None:
        publishers = self.get_publishers_info_by_topic(name)
        if not publishers or self._queue is None:
            return
        self._known.add(name)
        kind = message_class(type_name)
        offered = offered_qos(publishers)
        if kind is None or message_definition(type_name) is None:
            self.get_logger().warning(f'not recording {name}: {type_name} is not installed here')
            return
        if self._jpeg and type_name == jpeg.IMAGE:
            how = partial(jpeg.compress, quality=self._jpeg)
            self._queue.add_transformed(
                name, type_name, name + jpeg.SUFFIX, jpeg.COMPRESSED, how, offered
            )
        else:
            self._queue.add_topic(name, type_name, offered)
        self._publisher_counts[name] = len(publishers)
        watch = self._watches[name] = SequenceWatch()
        is_goal = type_name == GOALS
        self.create_subscription(
            kind,
            name,
            lambda data, info: self._receive(name, watch, is_goal, data, info),
            matching_qos(publishers),
            raw=True,
        )

    def _receive(
        self, topic: str, watch: SequenceWatch, is_goal: bool, data: bytes, info: dict[str, Any]
    ) -> None:
        if self._queue is None:
            return
        number = int(info.get('publication_sequence_number') or 0)
        if number:
            watch.add(number, self._publisher_counts[topic])
        received = int(info.get('received_timestamp') or 0) or time.time_ns()
        self._queue.put(topic, data, received, int(info.get('source_timestamp') or 0), number)
        if is_goal:
            self._on_goal(data)

    def _on_goal(self, data: bytes) -> None:
        goal = deserialize_message(data, GoalStatus)
        if goal.goal_id and self._goals.get(goal.goal_id) != goal.prompt and self._queue:
            self._goals[goal.goal_id] = goal.prompt
            stamp = to_ns(goal.header.stamp)
            self._queue.note(
                notes.GOAL,
                {'goal_id': str(goal.goal_id), 'prompt': goal.prompt, 'stamp': str(stamp)},
            )

    def _on_parameters(self, name: str, parameters: dict[str, Any]) -> None:
        text = self._told[name] = parameter_file(name, parameters)
        self._attach(f'{notes.PARAMETERS}{name.rsplit("/", 1)[-1]}.yaml', text)

    def _write_contract(self) -> None:
        contract = self.graph.contract
        if contract is None or self._contract_written or self._queue is None:
            return
        self._contract_written = True
        self._attach(notes.CONTRACT, notes.contract_text(contract))
        self._queue.note(notes.BEGIN, notes.beginning(contract, self.get_namespace()))

    def _attach(self, name: str, text: str) -> None:
        if self._queue is not None:
            self._queue.attach(name, 'application/yaml', text.encode())

    # What is told ----------------------------------------------------------------------------

    def counts(self) -> dict[str, Any]:
        """Messages, bytes of the file, and what is missing: {topic: messages} lost and dropped."""
        queue = self._queue
        if queue is None:
            return {'messages': 0, 'bytes': 0, 'lost': {}, 'dropped': {}}
        return {
            'messages': queue.recording.messages,
            'bytes': queue.recording.size,
            'lost': {n: w.lost for n, w in sorted(self._watches.items()) if w.lost},
            'dropped': dict(sorted(queue.dropped.items())),
        }

    def _report(self) -> None:
        now, counts = time.monotonic(), self.counts()
        rate = (counts['bytes'] - self._last[1]) / max(1e-3, now - self._last[0]) / 1e6
        self._last = (now, counts['bytes'])
        missing = {**counts['dropped']}
        for name, lost in counts['lost'].items():
            missing[name] = missing.get(name, 0) + lost
        values = {
            'messages': counts['messages'],
            'MB/s': f'{rate:.1f}',
            'MB': f'{counts["bytes"] / 1e6:.1f}',
            'waiting [MB]': f'{(self._queue.waiting if self._queue else 0) / 1e6:.1f}',
            'lost': sum(counts['lost'].values()),
            'dropped': sum(counts['dropped'].values()),
            **{f'missing {name}': number for name, number in missing.items()},
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if missing or self.failure else DiagnosticStatus.OK,
            name=f'{self.get_fully_qualified_name()}: recording',
            message=self.failure or missing_text(counts),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _give_up(self, why: str) -> None:
        queue, self._queue = self._queue, None
        self.failure = why
        self.get_logger().error(f'{why}; the robot goes on')
        if queue is not None:
            queue.close()

    def close(self) -> dict[str, Any]:
        """Finish the file; the counts of `counts`, with `path` and `seconds`."""
        queue = self._queue
        if queue is None:
            return self.counts()
        queue.close()
        self._write_contract()
        counts = self.counts()
        queue.note(
            notes.END,
            {
                'messages': str(counts['messages']),
                'lost': json.dumps(counts['lost']),
                'dropped': json.dumps(counts['dropped']),
            },
        )
        queue.recording.close()
        counts |= {
            'path': str(queue.recording.path),
            'seconds': self.seconds,
            'bytes': queue.recording.size,
        }
        self._queue = None
        if queue.recording.failure:
            self.failure = queue.recording.failure
            self.get_logger().error(f'recording is incomplete: {self.failure}')
        else:
            said = f'{counts["messages"]} messages recorded, {missing_text(counts)}'
            self.get_logger().info(said)
        return counts


def missing_text(counts: dict[str, Any]) -> str:
    """'none lost', or how many of which topics."""
    parts = [f'{number} lost of {name}' for name, number in counts['lost'].items()]
    parts += [f'{number} dropped of {name}' for name, number in counts['dropped'].items()]
    return ', '.join(parts) or 'none lost'


def main() -> int:
    """Entry point of recorder_node; SIGINT and SIGTERM finish the file and leave exit code 0."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    # rclpy's own handlers would pull the context away from under a running wait.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = RecorderNode()
    except RecorderError as error:
        print(f'recorder: {error}', file=sys.stderr)
        return 2
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
