"""MCAP files that Foxglove, `ros2 bag` and `rosbags` open: pure writing, no ROS.

A recording is a folder `bag/` with one MCAP file and rosbag2's metadata.yaml. Message definitions
are embedded, so a reader needs no vera_msgs. While it is written the file is called UNFINISHED and
is locked (flock); it gets its name when it is whole. Of a recorder that was killed,
`vera_bringup.recording_repair` finishes the file.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcap.writer import CompressionType, Writer

from vera_core.bags import METADATA, BagFile, BagTopic, write_bag_metadata

FILE_NAME = 'bag_0.mcap'
UNFINISHED = 'bag_0.unfinished.mcap'
STOP_BELOW = 64 * 2**20  # bytes: with less free disk the file is closed properly while it can be
CHECK_PERIOD = 1.0  # s between looks at the free space
CHUNK_SIZE = 2**22
COMPRESSIONS = {
    'none': CompressionType.NONE, 'lz4': CompressionType.LZ4, 'zstd': CompressionType.ZSTD
}  # fmt: skip
# Reference `pkg/Name` or `Name` at the beginning of a field line of a .msg file.
_FIELD = re.compile(r'^\s*(?P<type>[A-Za-z][\w/]*)(<=\d+)?(\[(<=)?\d*\])?\s+[a-zA-Z]\w*')
_PRIMITIVE = {
    'bool', 'byte', 'char', 'float32', 'float64', 'string', 'wstring',
    'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64',
}  # fmt: skip

DefinitionSource = Callable[[str], 'str | None']


def free_folder(folder: Path) -> Path:
    """`folder`, or the first of `folder`_2, _3 ... that holds no recording, whole or not."""
    place, number = folder, 1
    while any((place / name).is_file() for name in (FILE_NAME, UNFINISHED, METADATA)):
        number += 1
        place = folder.with_name(f'{folder.name}_{number}')
    return place


def full_definition(type_name: str, source: DefinitionSource) -> str | None:
    """The definition of a type followed by those of all types it uses, as MCAP wants it.

    Args:
        type_name: 'package/msg/Name'.
        source: text of a .msg file by type name, None if there is none.

    Returns:
        None if a needed definition is missing.
    """
    separator = '=' * 80
    text = source(type_name)
    if text is None:
        return None
    parts = [text.rstrip()]
    seen, queue = {type_name}, _references(text, type_name)
    while queue:
        name = queue.pop(0)
        if name in seen:
            continue
        seen.add(name)
        used = source(name)
        if used is None:
            return None
        package, _, short = name.split('/')
        parts.append(f'{separator}\nMSG: {package}/{short}\n{used.rstrip()}')
        queue += _references(used, name)
    return '\n'.join(parts) + '\n'


def _references(text: str, type_name: str) -> list[str]:
    package = type_name.split('/')[0]
    found = []
    for line in text.splitlines():
        match = _FIELD.match(line.split('#')[0])
        if not match or match['type'] in _PRIMITIVE:
            continue
        owner, _, name = match['type'].rpartition('/')
        found.append(f'{owner.split("/")[0] or package}/msg/{name}')
    return found


@dataclass
class _Topic:
    channel: int
    type_name: str
    qos: str
    count: int = 0


@dataclass
class Recording:
    """Writes serialised messages of any topic until closed, or until the disk is full.

    Attributes:
        folder: the bag's folder; must not hold a recording yet.
        source: text of message definitions.
        stop_below: bytes of the disk that stay free.
        compression: of the chunks, one of COMPRESSIONS.
        failure: why recording stopped by itself, or ''.

    Raises:
        FileExistsError: the folder holds a recording.
    """

    folder: Path
    source: DefinitionSource
    stop_below: int = STOP_BELOW
    compression: str = 'lz4'
    failure: str = ''
    _topics: dict[str, _Topic] = field(default_factory=dict)
    _schemas: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / FILE_NAME
        self._part = self.folder / UNFINISHED
        for old in (self.path, self._part, self.folder / METADATA):
            if old.is_file():
                raise FileExistsError(f'{old} exists; a recording needs a folder of its own')
        self._begin = self._end = 0
        self._counts = 0
        self._next_check = 0.0
        self._stream = self._part.open('wb')
        # Says to a repair that somebody is still writing; the kernel lets go when the process ends.
        fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._writer = Writer(
            self._stream, chunk_size=CHUNK_SIZE, compression=COMPRESSIONS[self.compression]
        )
        self._writer.start(profile='ros2', library='vera')

    @property
    def open(self) -> bool:
        """Whether messages are still written."""
        return not self._stream.closed

    @property
    def messages(self) -> int:
        """Messages written so far."""
        return self._counts

    @property
    def size(self) -> int:
        """Bytes of the file so far, without the chunk in progress."""
        path = self._part if self._part.exists() else self.path
        return path.stat().st_size if path.exists() else 0

    def add_topic(self, name: str, type_name: str, qos: str = '') -> bool:
        """Make a topic known; False if its definition is missing and it cannot be recorded.

        Args:
            name: full topic name.
            type_name: 'package/msg/Name'.
            qos: YAML list of offered QoS profiles, for `ros2 bag play`.
        """
        definition = full_definition(type_name, self.source)
        if definition is None or not self.open:
            return False
        if type_name not in self._schemas:
            self._schemas[type_name] = self._writer.register_schema(
                name=type_name, encoding='ros2msg', data=definition.encode()
            )
        channel = self._writer.register_channel(
            topic=name,
            message_encoding='cdr',
            schema_id=self._schemas[type_name],
            metadata={'offered_qos_profiles': qos},
        )
        self._topics[name] = _Topic(channel, type_name, qos)
        return True

    def write(
        self, topic: str, data: bytes, received: int, published: int = 0, sequence: int = 0
    ) -> None:
        """Append one CDR message.

        Args:
            topic: one that was added.
            data: the message.
            received: ns since the epoch.
            published: ns since the epoch; `received` if 0.
            sequence: the publisher's number of it; counted here if 0.
        """
        if not self.open:
            return
        entry = self._topics[topic]
        try:
            if not self._has_room():
                return
            number = sequence or entry.count
            self._writer.add_message(entry.channel, received, data, published or received, number)
        except OSError as error:
            self._abandon(f'cannot write {self._part}: {error.strerror}')
            return
        entry.count += 1
        self._counts += 1
        self._begin = min(self._begin or received, received)
        self._end = max(self._end, received)

    def attach(self, name: str, media_type: str, data: bytes, now: int) -> None:
        """Put a file into the recording, e.g. 'contract.yaml'; of two of a name the last counts."""
        if self.open:
            try:
                self._writer.add_attachment(now, now, name, media_type, data)
            except OSError as error:
                self._abandon(f'cannot write {self._part}: {error.strerror}')

    def note(self, name: str, values: Mapping[str, str]) -> None:
        """Write an MCAP metadata record."""
        if self.open:
            try:
                self._writer.add_metadata(name, dict(values))
            except OSError as error:
                self._abandon(f'cannot write {self._part}: {error.strerror}')

    def flush(self) -> None:
        """Hand all that was written to the kernel: it survives this process."""
        if self.open:
            try:
                self._writer.flush()
            except OSError as error:
                self._abandon(f'cannot write {self._part}: {error.strerror}')

    def _has_room(self) -> bool:
        """Whether there is free disk; looks once a second and ends the recording if not."""
        now = time.monotonic()
        if now < self._next_check:
            return True
        self._next_check = now + CHECK_PERIOD
        free = shutil.disk_usage(self.folder).free
        if free < self.stop_below:
            self.failure = f'disk full: {free / 2**20:.0f} MiB left where {self.path} lies'
            self.close()
            return False
        return True

    def _abandon(self, why: str) -> None:
        """The file cannot be finished; what was written so far stays readable to the last chunk."""
        self.failure = why
        try:
            self._stream.close()
        except OSError:
            # close() flushes, which fails for the same reason; the descriptor is closed anyway.
            self.failure = why

    def close(self) -> None:
        """Finish the file, give it its name, write rosbag2's metadata; safe to call twice."""
        if not self.open:
            return
        try:
            self._writer.finish()
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._part.replace(self.path)
            self._stream.close()
            self._write_metadata()
        except OSError as error:
            self._abandon(f'cannot finish {self._part}: {error.strerror}')

    def _write_metadata(self) -> None:
        files = [BagFile(FILE_NAME, self._begin, self._end, self._counts)]
        topics = [BagTopic(n, t.type_name, t.qos, t.count) for n, t in self._topics.items()]
        write_bag_metadata(self.folder, files, topics)
