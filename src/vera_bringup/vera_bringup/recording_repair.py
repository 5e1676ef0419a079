"""Finishes the file of a recorder that was killed: keeps every whole chunk and writes the summary.

In place: what is cut off is the chunk that was being written, at most half a second of messages.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from mcap import records as rec
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.opcode import Opcode
from mcap.stream_reader import breakup_chunk
from mcap.writer import MCAP0_MAGIC

from vera_bringup.recording import FILE_NAME, UNFINISHED
from vera_core.bags import BagFile, BagTopic, write_bag_metadata

_HEAD = struct.Struct('<BQ')  # opcode, length
# What reading a damaged chunk may raise: decompressor and decoder have errors of their own.
DAMAGE = Exception


class RepairError(ValueError):
    """A recording that cannot be finished; the message says why."""


@dataclass(frozen=True)
class Repair:
    """What became of an unfinished recording: messages kept, bytes cut off, seconds it spans."""

    path: Path
    messages: int
    cut: int
    seconds: float


@dataclass
class _Found:
    """What the whole records of a file say."""

    end: int = 0
    schemas: dict[int, rec.Schema] = field(default_factory=dict)
    channels: dict[int, rec.Channel] = field(default_factory=dict)
    chunks: list[rec.ChunkIndex] = field(default_factory=list)
    attachments: list[rec.AttachmentIndex] = field(default_factory=list)
    metadata: list[rec.MetadataIndex] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    begin: int = 0
    last: int = 0
    # Of the newest chunk: the index that should follow it, by channel.
    due: dict[int, rec.MessageIndex] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        return sum(self.counts.values())


def unfinished(folder: Path) -> Path | None:
    """The unfinished file of a bag's folder, if it has one."""
    path = folder / UNFINISHED
    return path if path.is_file() else None


def repair(folder: Path) -> Repair:
    """Finish the recording of a bag's folder.

    Raises:
        RepairError: there is none, it is still being written, or holds no whole chunk.
        OSError: it cannot be written.
    """
    path = unfinished(folder)
    if path is None:
        raise RepairError(f'{folder} holds no unfinished recording ({UNFINISHED})')
    with path.open('r+b') as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepairError(f'{path} is still being written; end the recording first') from None
        size = path.stat().st_size
        found = _scan(stream, path)
        if not found.messages:
            raise RepairError(f'{path} holds no message: it ended before its first half second')
        stream.truncate(found.end)
        stream.seek(found.end)
        _finish(stream, found)
        stream.flush()
        os.fsync(stream.fileno())
        path.replace(folder / FILE_NAME)
    _describe(folder, found)
    seconds = (found.last - found.begin) / 1e9
    return Repair(folder / FILE_NAME, found.messages, size - found.end, seconds)


def _scan(stream: IO[bytes], path: Path) -> _Found:
    if stream.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
        raise RepairError(f'{path} is no MCAP file')
    found = _Found(end=len(MCAP0_MAGIC))
    while True:
        at = stream.tell()
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return found
        opcode, length = _HEAD.unpack(head)
        left = os.fstat(stream.fileno()).st_size - stream.tell()
        if opcode == Opcode.DATA_END or length > left:
            return found
        body = stream.read(length)
        try:
            _take(found, opcode, body, at)
        except DAMAGE:
            return found  # what follows a damaged record is not to be trusted
        found.end = stream.tell()


def _take(found: _Found, opcode: int, body: bytes, at: int) -> None:
    data = ReadDataStream(BytesIO(body))
    whole = _HEAD.size + len(body)
    if opcode == Opcode.CHUNK:
        _take_chunk(found, rec.Chunk.read(data), at, whole)
    elif opcode == Opcode.MESSAGE_INDEX:
        channel = rec.MessageIndex.read(data).channel_id
        found.due.pop(channel, None)
        found.chunks[-1].message_index_offsets[channel] = at
        found.chunks[-1].message_index_length += whole
    elif opcode == Opcode.ATTACHMENT:
        a = rec.Attachment.read(data)
        found.attachments.append(
            rec.AttachmentIndex(
                offset=at, length=whole, create_time=a.create_time, log_time=a.log_time,
                data_size=len(a.data), name=a.name, media_type=a.media_type,
            )
        )  # fmt: skip
    elif opcode == Opcode.METADATA:
        name = rec.Metadata.read(data).name
        found.metadata.append(rec.MetadataIndex(offset=at, length=whole, name=name))


def _take_chunk(found: _Found, chunk: rec.Chunk, at: int, whole: int) -> None:
    due: dict[int, rec.MessageIndex] = {}
    offset = 0
    for record in breakup_chunk(chunk, validate_crc=True):
        builder = RecordBuilder()
        record.write(builder)
        if isinstance(record, rec.Schema):
            found.schemas[record.id] = record
        elif isinstance(record, rec.Channel):
            found.channels[record.id] = record
        elif isinstance(record, rec.Message):
            index = due.setdefault(record.channel_id, rec.MessageIndex(record.channel_id, []))
            index.records.append((record.log_time, offset))
        offset += len(builder.end())
    for channel, index in due.items():
        found.counts[channel] += len(index.records)
    found.due = due
    found.begin = min(found.begin or chunk.message_start_time, chunk.message_start_time)
    found.last = max(found.last, chunk.message_end_time)
    found.chunks.append(
        rec.ChunkIndex(
            message_start_time=chunk.message_start_time,
            message_end_time=chunk.message_end_time,
            chunk_start_offset=at,
            chunk_length=whole,
            message_index_offsets={},
            message_index_length=0,
            compression=chunk.compression,
            compressed_size=len(chunk.data),
            uncompressed_size=chunk.uncompressed_size,
        )
    )


def _finish(stream: IO[bytes], found: _Found) -> None:
    """What is missing of the last chunk's index, and the summary section."""
    builder = RecordBuilder()
    for channel, index in found.due.items():
        found.chunks[-1].message_index_offsets[channel] = found.end + builder.count
        index.write(builder)
    found.chunks[-1].message_index_length += builder.count
    rec.DataEnd(0).write(builder)
    data = builder.end()
    stream.write(data)
    start = found.end + len(data)
    summary = RecordBuilder()
    offsets = []
    groups: list[tuple[Opcode, list[Any]]] = [
        (Opcode.SCHEMA, list(found.schemas.values())),
        (Opcode.CHANNEL, list(found.channels.values())),
        (Opcode.STATISTICS, [_statistics(found)]),
        (Opcode.CHUNK_INDEX, found.chunks),
        (Opcode.ATTACHMENT_INDEX, found.attachments),
        (Opcode.METADATA_INDEX, found.metadata),
    ]
    for opcode, entries in groups:
        begin = summary.count
        for entry in entries:
            entry.write(summary)
        offsets.append(rec.SummaryOffset(opcode, start + begin, summary.count - begin))
    offset_start = start + summary.count
    for offset in offsets:
        offset.write(summary)
    text = summary.end()
    ahead = struct.pack('<BQQQ', Opcode.FOOTER, 8 + 8 + 4, start, offset_start)
    rec.Footer(start, offset_start, zlib.crc32(ahead, zlib.crc32(text))).write(builder)
    stream.write(text + builder.end() + MCAP0_MAGIC)


def _statistics(found: _Found) -> rec.Statistics:
    return rec.Statistics(
        attachment_count=len(found.attachments),
        channel_count=len(found.channels),
        channel_message_counts=dict(found.counts),
        chunk_count=len(found.chunks),
        message_count=found.messages,
        metadata_count=len(found.metadata),
        message_start_time=found.begin,
        message_end_time=found.last,
        schema_count=len(found.schemas),
    )


def _describe(folder: Path, found: _Found) -> None:
    files = [BagFile(FILE_NAME, found.begin, found.last, found.messages)]
    topics = [
        BagTopic(
            channel.topic,
            found.schemas[channel.schema_id].name,
            channel.metadata.get('offered_qos_profiles', ''),
            found.counts[number],
        )
        for number, channel in found.channels.items()
    ]
    write_bag_metadata(folder, files, topics)


__all__ = ['Repair', 'RepairError', 'repair', 'unfinished']
