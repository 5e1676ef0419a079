"""rosbag2's metadata.yaml: what makes a folder of MCAP files one bag for `ros2 bag` and `rosbags`.

Pure text; whoever writes the MCAP files calls it last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METADATA = 'metadata.yaml'


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag: full name, 'package/msg/Name', offered QoS (YAML list), messages in all."""

    name: str
    type_name: str
    qos: str
    count: int


@dataclass(frozen=True)
class BagFile:
    """A file of a bag: its name in the folder, stamps of first and last message [ns], messages."""

    name: str
    begin: int
    end: int
    count: int


def write_bag_metadata(
    folder: Path, files: Sequence[BagFile], topics: Sequence[BagTopic]
) -> None:
    """Write `metadata.yaml` into a bag's folder.

    Args:
        folder: that holds the files.
        files: in the order of time, at least one.
        topics: in any order.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    begin, end = min(f.begin for f in files), max(f.end for f in files)
    # Version 5 is the newest whose QoS field is text; every Jazzy and Kilted tool reads it.
    information: dict[str, Any] = {
        'version': 5,
        'storage_identifier': 'mcap',
        'duration': {'nanoseconds': end - begin},
        'starting_time': {'nanoseconds_since_epoch': begin},
        'message_count': sum(f.count for f in files),
        'topics_with_message_count': [
            {
                'topic_metadata': {
                    'name': topic.name,
                    'type': topic.type_name,
                    'serialization_format': 'cdr',
                    'offered_qos_profiles': topic.qos,
                },
                'message_count': topic.count,
            }
            for topic in sorted(topics, key=lambda topic: topic.name)
        ],
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': [f.name for f in files],
        'files': [
            {
                'path': f.name,
                'starting_time': {'nanoseconds_since_epoch': f.begin},
                'duration': {'nanoseconds': f.end - f.begin},
                'message_count': f.count,
            }
            for f in files
        ],
    }
    # JSON is YAML, and needs no second dumper.
    text = json.dumps({'rosbag2_bagfile_information': information}, indent=2)
    part = folder / f'.{METADATA}.part'
    part.write_text(text + '\n', encoding='utf-8')
    part.replace(folder / METADATA)


__all__ = ['METADATA', 'BagFile', 'BagTopic', 'write_bag_metadata']
