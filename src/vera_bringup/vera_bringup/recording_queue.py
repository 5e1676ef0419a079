"""Between those who receive messages and the disk: a bounded queue, one writing thread, counters.

A slow disk fills the queue; when it is full messages are dropped and counted, and nobody waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from vera_bringup.recording import Recording

QUEUE_BYTES = 256 * 2**20
FLUSH_PERIOD = 0.4  # s: what a killed recorder loses, at most, beside the queue

Transform = Callable[[bytes], 'bytes | None']


@dataclass
class SequenceWatch:
    """Counts the messages of a topic that were published and never came, by their numbers.

    Each publisher numbers its messages from 1 on; a message does not say whose it is. With one
    publisher the count is exact. With several, a message continues the publisher whose last number
    is nearest below its own.
    """

    lost: int = 0
    _last: list[int] = field(default_factory=list)

    def add(self, number: int, publishers: int = 1) -> int:
        """A message came; how many are missing before it.

        Args:
            number: the publisher's.
            publishers: of the topic, now.
        """
        below = [last for last in self._last if last < number]
        nearest = max(below, default=None)
        if nearest == number - 1 or (nearest is not None and len(self._last) >= publishers):
            self._last.remove(nearest)
            missing = number - 1 - nearest
        else:
            missing = 0  # a publisher that is new, or began anew
            if len(self._last) >= publishers:
                self._last.remove(max(self._last))
        self._last.append(number)
        self.lost += missing
        return missing


@dataclass(frozen=True)
class _Item:
    topic: str
    data: bytes
    received: int
    published: int
    sequence: int


@dataclass(frozen=True)
class _Transform:
    """How, and (topic, type, QoS) of what it makes and of what it leaves as it is."""

    how: Transform
    made: tuple[str, str, str]
    plain: tuple[str, str, str]


class RecordingQueue:
    """Writes a recording on a thread of its own.

    Args:
        recording: its owner hands it over, topics and notes included.
        limit: bytes that may wait.

    Attributes:
        dropped: by topic, messages for which the queue had no room.
    """

    def __init__(self, recording: Recording, limit: int = QUEUE_BYTES) -> None:
        self.recording = recording
        self.dropped: dict[str, int] = {}
        self._limit = limit
        self._transforms: dict[str, _Transform] = {}
        self._added: set[str] = set()
        self._items: deque[_Item] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        # Guards the recording: held while one message is written.
        self._writing = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name='recording', daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Bytes in the queue."""
        return self._waiting

    def add_topic(self, name: str, type_name: str, qos: str = '') -> bool:
        """See Recording.add_topic."""
        with self._writing:
            return self.recording.add_topic(name, type_name, qos)

    def add_transformed(
        self, topic: str, type_name: str, name: str, made: str, how: Transform, qos: str = ''
    ) -> None:
        """Write the messages of `topic` as `how` makes them, to the topic `name` of type `made`.

        One of which `how` makes None, or which it cannot understand, is written as it is.
        """
        self._transforms[topic] = _Transform(how, (name, made, qos), (topic, type_name, qos))

    def put(
        self, topic: str, data: bytes, received: int, published: int = 0, sequence: int = 0
    ) -> bool:
        """Queue one message; False if it had to be dropped."""
        with self._changed:
            if self._waiting + len(data) > self._limit:
                self.dropped[topic] = self.dropped.get(topic, 0) + 1
                return False
            self._items.append(_Item(topic, data, received, published, sequence))
            self._waiting += len(data)
            self._changed.notify()
        return True

    def attach(self, name: str, media_type: str, data: bytes) -> None:
        """See Recording.attach."""
        with self._writing:
            self.recording.attach(name, media_type, data, time.time_ns())

    def note(self, name: str, values: dict[str, str]) -> None:
        """See Recording.note."""
        with self._writing:
            self.recording.note(name, values)

    def close(self) -> None:
        """Write what waits, stop the thread; the recording stays open for last notes."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        due = time.monotonic() + FLUSH_PERIOD
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._items or self._closing, max(0.0, due - time.monotonic())
                )
                item = self._items.popleft() if self._items else None
                if item is None and self._closing:
                    return
            if item is not None:
                self._write(item)
                with self._changed:
                    self._waiting -= len(item.data)
            if time.monotonic() >= due:
                with self._writing:
                    self.recording.flush()
                due = time.monotonic() + FLUSH_PERIOD

    def _write(self, item: _Item) -> None:
        topic, data = item.topic, item.data
        transform = self._transforms.get(topic)
        if transform is not None:
            try:
                made = transform.how(data)
            except ValueError:
                made = None
            target = transform.plain if made is None else transform.made
            topic, data = target[0], data if made is None else made
            if topic not in self._added and self.add_topic(*target):
                self._added.add(topic)
        with self._writing:
            self.recording.write(topic, data, item.received, item.published, item.sequence)


__all__ = ['RecordingQueue', 'SequenceWatch']
