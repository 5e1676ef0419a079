"""Bags, whoever recorded them: MCAP and sqlite3, compressed or not, through `rosbags`. No ROS.

A recording that was not finished is finished first; see vera_bringup.recording_repair.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vera_bringup import jpeg
from vera_bringup.recording_notes import Notes, read_notes
from vera_bringup.recording_repair import RepairError, repair, unfinished
from vera_bringup.resources import message_definition
from vera_core.bags import METADATA, BagFile, BagTopic, write_bag_metadata

# What reading a damaged bag may raise: decompressors and databases have errors of their own.
DAMAGE = Exception
OURS = (
    'ActionChunk', 'ControllerStatus', 'GoalStatus', 'PlanVerdict', 'SimStatus', 'VisualPlan',
)  # fmt: skip


class BagError(ValueError):
    """A bag that cannot be read; the message names it and the cure."""


@dataclass(frozen=True)
class Topic:
    """Of a bag: 'package/msg/Name', messages, offered profiles as rosbags reads them."""

    name: str
    type_name: str
    count: int
    qos: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Raw:
    """One message: topic, type, time of recording [ns], CDR bytes."""

    topic: str
    type_name: str
    logged: int
    data: bytes


def settled(path: Path) -> Path:
    """The bag's folder, or file, with its recording finished if it was not.

    Raises:
        BagError: nothing there, or somebody is still writing it.
    """
    if path.is_dir() and not (path / METADATA).is_file() and unfinished(path):
        try:
            done = repair(path)
        except (RepairError, OSError) as error:
            raise BagError(str(error)) from error
        print(f'{path} was not finished: {done.messages} messages kept, {done.cut} bytes cut off')
    if not path.exists():
        raise BagError(f'{path} is no recording: it does not exist')
    return path


class Bag:
    """A bag that is open for reading. A context manager.

    Args:
        path: its folder; or an .mcap file that lies somewhere alone.

    Raises:
        BagError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = settled(Path(path))
        self._stack = ExitStack()

    def __enter__(self) -> Bag:
        try:
            folder = self.path if self.path.is_dir() else self._as_folder(self.path)
            store = get_typestore(Stores.ROS2_JAZZY)
            self._reader = AnyReader([folder], default_typestore=_with_ours(store))
            self._stack.enter_context(self._reader)
            self.notes = read_notes(self._mcap_files())
        except BagError:
            self._stack.close()
            raise
        except DAMAGE as error:
            self._stack.close()
            raise BagError(f'{self.path} cannot be read as a bag: {error}') from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _as_folder(self, file: Path) -> Path:
        """A folder with this one file and the metadata that readers ask for."""
        from mcap.reader import make_reader

        if file.suffix != '.mcap':
            raise BagError(f'{file} is no bag; name its folder, or an .mcap file')
        with file.open('rb') as stream:
            summary = make_reader(stream).get_summary()
        if summary is None or summary.statistics is None:
            raise BagError(f'{file} has no summary; name its folder, it is then repaired')
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / file.name).symlink_to(file.resolve())
        found = summary.statistics
        begin, end = found.message_start_time, found.message_end_time
        topics = [
            BagTopic(
                channel.topic,
                summary.schemas[channel.schema_id].name,
                channel.metadata.get('offered_qos_profiles', ''),
                found.channel_message_counts.get(number, 0),
            )
            for number, channel in summary.channels.items()
        ]
        write_bag_metadata(folder, [BagFile(file.name, begin, end, found.message_count)], topics)
        return folder

    def _mcap_files(self) -> list[Path]:
        return [self.path] if self.path.is_file() else sorted(self.path.glob('*.mcap'))

    notes: Notes

    @property
    def topics(self) -> dict[str, Topic]:
        """By name; those without messages are left out."""
        found: dict[str, Topic] = {}
        for c in self._reader.connections:
            before = found[c.topic].count if c.topic in found else 0
            qos = tuple(getattr(c.ext, 'offered_qos_profiles', ()) or ())
            found[c.topic] = Topic(c.topic, c.msgtype, before + c.msgcount, qos)
        return {name: topic for name, topic in sorted(found.items()) if topic.count}

    @property
    def begin(self) -> int:
        """When the first message was recorded [ns]."""
        return int(self._reader.start_time)

    @property
    def seconds(self) -> float:
        """From the first message to the last."""
        return float(self._reader.duration) / 1e9

    def messages(
        self,
        topics: Collection[str] | None = None,
        begin: int | None = None,
        end: int | None = None,
    ) -> Iterator[Raw]:
        """Messages by time of recording, from `begin` to before `end` [ns].

        Raises:
            BagError: the bag is damaged.
        """
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not wanted:
            return
        try:
            for c, logged, data in self._reader.messages(wanted, start=begin, stop=end):
                yield Raw(c.topic, c.msgtype, int(logged), bytes(data))
        except DAMAGE as error:
            raise BagError(f'{self.path} is damaged: {error}') from error

    def decode(self, raw: Raw) -> Any:
        """The message with its fields; raises BagError."""
        try:
            return self._reader.deserialize(raw.data, raw.type_name)
        except (AnyReaderError, KeyError) as error:
            raise BagError(f'{raw.topic} of {self.path} cannot be decoded: {error}') from error

    def image_source(self, topic: str) -> str | None:
        """The recorded topic that has the images of `topic`: itself, or its JPEG; None."""
        for name in (topic, topic + jpeg.SUFFIX):
            if name in self.topics:
                return name
        return None


def _with_ours(store: Any) -> Any:
    """Bags of old tools hold no definitions: those of our messages are added to ROS's."""
    types: dict[str, Any] = {}
    for name in OURS:
        text = message_definition(f'vera_msgs/msg/{name}')
        if text is not None:
            types.update(get_types_from_msg(text, f'vera_msgs/msg/{name}'))
    store.register(types)
    return store


__all__ = ['Bag', 'BagError', 'Raw', 'Topic', 'settled']
