"""Sends the messages of a bag again, as bytes: their stamps stay what they were."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from vera_bringup.bag_reading import Raw, Topic
from vera_bringup.nodes.recorder_node import message_class
from vera_core.nodes.convert import stamp_to_msg

DEPTH = 50


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
