"""Questions and answers between the clocks of two machines, as messages.

sensor_msgs/TimeReference both ways: a question has the asker's time and name, its answer the
answerer's time in the header and the question's time and name as they came.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import TimeReference

from vera_core.clock_offset import OffsetFilter
from vera_core.clocks import to_ns
from vera_core.nodes.convert import stamp_to_msg
from vera_core.nodes.qos import STATE

Now = Callable[[], int]
ASK, ANSWER = 'clock/ask', 'clock/answer'


class ClockAnswerer:
    """Answers everybody's questions on behalf of this machine's clock.

    Args:
        node: whose namespace it answers in.
        now: the clock, ns since the epoch.
    """

    def __init__(self, node: Node, now: Now = time.time_ns) -> None:
        self._now = now
        self._answers = node.create_publisher(TimeReference, ANSWER, STATE)
        node.create_subscription(TimeReference, ASK, self._answer, STATE)

    def _answer(self, question: TimeReference) -> None:
        answer = TimeReference(time_ref=question.header.stamp, source=question.source)
        answer.header.stamp = stamp_to_msg(self._now())
        self._answers.publish(answer)


class ClockAsker:
    """Asks for the other clock and keeps what it learns in `filter`.

    Args:
        node: whose namespace it asks in.
        name: of this asker, unique in the graph.
        now: our clock, ns since the epoch.
    """

    def __init__(self, node: Node, name: str, now: Now = time.time_ns) -> None:
        self.filter = OffsetFilter()
        self._name = name
        self._now = now
        self._questions = node.create_publisher(TimeReference, ASK, STATE)
        node.create_subscription(TimeReference, ANSWER, self._heard, STATE)

    def ask(self) -> None:
        """Send one question; its answer comes while the node spins."""
        question = TimeReference(source=self._name)
        question.header.stamp = stamp_to_msg(self._now())
        self._questions.publish(question)

    def _heard(self, answer: TimeReference) -> None:
        heard = self._now()
        if answer.source == self._name:
            self.filter.add(to_ns(answer.time_ref), to_ns(answer.header.stamp), heard)
