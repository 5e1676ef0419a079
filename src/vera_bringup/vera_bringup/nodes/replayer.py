"""Sends the messages of a bag again, as bytes: their stamps stay what they were."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from vera_bringup import jpeg
from vera_bringup.bag_reading import Bag, Raw, Topic
from vera_bringup.environment import enter
from vera_bringup.exits import CommandError, Exit
from vera_bringup.nodes.probe import ready
from vera_bringup.nodes.recorder_node import message_class
from vera_bringup.replay_check import CheckReport, chunk_of, compare, recorded_chunks
from vera_bringup.replaying import ReplayOptions, timed
from vera_core.clocks import to_ns
from vera_core.nodes.convert import stamp_to_msg
from vera_core.nodes.qos import CHUNK
from vera_msgs.msg import ActionChunk
from vera_msgs.srv import SetGoal

DEPTH = 50
DISCOVERY = 1.5  # s for subscriptions that are there to find the publishers
START_TIMEOUT = 120.0  # s until started nodes work
CHUNK_TIMEOUT = 20.0  # s for the chunk of a plan


def offered(topic: Topic) -> QoSProfile:
    """The QoS that was recorded, with a longer queue: nothing is lost between two spins."""
    reliable = latched = False
    for profile in topic.qos:
        reliable |= _value(profile, 'reliability') == int(ReliabilityPolicy.RELIABLE)
        latched |= _value(profile, 'durability') == int(DurabilityPolicy.TRANSIENT_LOCAL)
    if not topic.qos:
        reliable = True  # one that offers more is heard by all who ask for less
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _value(profile: Any, name: str) -> int:
    value = getattr(profile, name, 0)
    return int(getattr(value, 'value', value))


class ReplayNode(Node):
    """Publishes recorded messages.

    Args:
        clock: also publish /clock, the time of recording, for nodes with use_sim_time.
        kwargs: of rclpy's Node.
    """

    def __init__(self, clock: bool = False, **kwargs: Any) -> None:
        super().__init__('_vera_replay', **kwargs)
        self._publishers_: dict[str, Publisher | None] = {}
        self._clock_topic = self.create_publisher(Clock, '/clock', 10) if clock else None
        self.sent: dict[str, int] = {}
        self.unknown: dict[str, str] = {}

    def offer(self, topics: list[Topic]) -> None:
        """Make the publishers before the first message, so that they are found in time."""
        for topic in topics:
            kind = message_class(topic.type_name)
            if kind is None:
                self.unknown[topic.name] = topic.type_name
            else:
                self._publishers_[topic.name] = self.create_publisher(
                    kind, topic.name, offered(topic)
                )

    def listeners(self, name: str) -> int:
        """Subscriptions of a topic that was offered."""
        publisher = self._publishers_.get(name)
        return publisher.get_subscription_count() if publisher else 0

    def send(self, raw: Raw) -> None:
        """Publish one message; one of a type that is not installed is left out."""
        publisher = self._publishers_.get(raw.topic)
        if publisher is None:
            return
        if self._clock_topic is not None:
            self._clock_topic.publish(Clock(clock=stamp_to_msg(raw.logged)))
        publisher.publish(raw.data)
        self.sent[raw.topic] = self.sent.get(raw.topic, 0) + 1


class Sender:
    """A replay node on a domain, until a signal says stop."""

    def __init__(
        self, bag: Bag, options: ReplayOptions, domain: int, namespace: str, clock: bool = False
    ) -> None:
        self._bag, self._options, self._clock = bag, options, clock
        self._domain, self._namespace = domain, namespace
        self._ended = threading.Event()

    def __enter__(self) -> Sender:
        enter(self._domain)
        topics = []
        for name in self._options.chosen(self._bag):
            topic = self._bag.topics[name]
            if topic.type_name == jpeg.COMPRESSED and name.endswith(jpeg.SUFFIX):
                bare = name.removesuffix(jpeg.SUFFIX)
                topic = Topic(bare, jpeg.IMAGE, topic.count, topic.qos)
            topics.append(topic)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)
        rclpy.init(domain_id=self._domain, signal_handler_options=SignalHandlerOptions.NO)
        self.node = ReplayNode(self._clock, namespace=self._namespace)
        self.node.offer(topics)
        for name, kind in self.node.unknown.items():
            print(f'left out: {name}, {kind} is not installed here')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ended.set()

    def spin(self, seconds: float) -> bool:
        """Handle what comes for so long; False if it is to end."""
        end = time.monotonic() + seconds
        while not self._ended.is_set() and (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))
        return not self._ended.is_set()


class Feeder:
    """Sends the inputs of the organs, gives the recorded goals, and collects the chunks."""

    def __init__(
        self, bag: Bag, sender: Sender, space: str, organs: tuple[str, ...], graph: Any
    ) -> None:
        self._bag, self._sender, self._graph, self._space = bag, sender, graph, space
        self._organs, self._paused = organs, 0.0
        self._chunks: list[Any] = []
        node = sender.node
        node.create_subscription(ActionChunk, 'action_chunk', self._chunks.append, CHUNK)
        self._goals = [(int(goal['stamp']), goal['prompt']) for goal in bag.notes.goals]
        self._client = node.create_client(SetGoal, 'set_goal') if 'planner' in organs else None

    def feed(self, options: ReplayOptions) -> dict[str, Any]:
        """Send everything; counts of chunks, and `text` for people."""
        recorded = recorded_chunks(self._bag, f'/{self._space}/action_chunk')
        self._await_organs()
        alone = self._organs == ('translator',)
        expected = 0
        for raw in timed(self._bag, options, self._clock, self._sender.spin):
            if self._client is not None:
                self._give_goals(raw.logged)
            if alone and raw.topic.endswith('/visual_plan'):
                # A plan waits until the last one is translated: it would supersede it. What the
                # joints did meanwhile goes on, and the time of the bag stands still.
                began = time.monotonic()
                self._until(lambda n=expected: len(self._chunks) >= n, CHUNK_TIMEOUT)
                self._paused += time.monotonic() - began
                expected += self._is_executed(raw, recorded)
            self._sender.node.send(raw)
        self._until(lambda: len(self._chunks) >= expected, CHUNK_TIMEOUT)
        self._sender.spin(0.2)
        came = [chunk_of(message) for message in self._chunks]
        report: dict[str, Any] = {'chunks': len(came), 'different': 0, 'identical': 0, 'missing': 0}
        if not alone:
            return {**report, 'text': f'{len(came)} chunks of planner and translator came'}
        found = CheckReport()
        for chunk in came:
            key = (chunk.goal_id, chunk.plan_seq, chunk.stamp)
            for other in recorded.get(key, [])[:1]:
                compare(chunk, other, key, found)
        missing = max(0, expected - found.compared)
        report |= {
            'identical': found.identical, 'different': len(found.different), 'missing': missing,
        }  # fmt: skip
        text = f'live: {found.text()}' + (f'; {missing} did not come' if missing else '')
        return {**report, 'text': text}

    def _clock(self) -> float:
        return time.monotonic() - self._paused

    def _is_executed(self, raw: Raw, recorded: dict[Any, Any]) -> bool:
        plan = self._bag.decode(raw)
        return (int(plan.goal_id), int(plan.plan_seq), to_ns(plan.header.stamp)) in recorded

    def _await_organs(self) -> None:
        names, node = list(self._organs), self._sender.node
        good = self._until(lambda: all(ready(node, self._space, n) for n in names), START_TIMEOUT)
        if not good:
            raise CommandError(f'{", ".join(names)} do not start', Exit.GRAPH_DOWN)
        self._sender.spin(DISCOVERY)

    def _until(self, condition: Any, timeout: float) -> bool:
        end = time.monotonic() + timeout
        while not condition():
            if self._graph.down or time.monotonic() > end or not self._sender.spin(0.05):
                return False
        return True

    def _give_goals(self, now: int) -> None:
        while self._goals and self._goals[0][0] <= now and self._client is not None:
            _, prompt = self._goals.pop(0)
            self._client.call_async(SetGoal.Request(prompt=prompt))
