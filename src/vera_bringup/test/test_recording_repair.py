"""A recorder that is killed leaves a file that opens after a repair, with all whole chunks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from vera_bringup.recording import FILE_NAME, UNFINISHED, Recording, free_folder
from vera_bringup.recording_repair import RepairError, repair

STORE = get_typestore(Stores.ROS2_JAZZY)
STRING = 'std_msgs/msg/String'

# Writes numbered messages at 1 kHz through the queue, as the recorder does, until it is killed.
CHILD = """
import sys, time
from pathlib import Path
from vera_bringup.recording import Recording
from vera_bringup.recording_queue import RecordingQueue
bag = Recording(Path(sys.argv[1]), {'std_msgs/msg/String': 'string data'}.get)
bag.attach('contract.yaml', 'application/yaml', b'embodiment: x', 1)
bag.note('vera_goal', {'prompt': 'touch'})
queue = RecordingQueue(bag)
queue.add_topic('/a', 'std_msgs/msg/String')
queue.add_topic('/b', 'std_msgs/msg/String')
for i in range(10**6):
    now = time.time_ns()
    queue.put('/ab'[0] + 'ab'[i % 2], b'\\x00\\x01\\x00\\x00\\x04\\x00\\x00\\x00abc\\x00', now)
    if i % 100 == 0:
        print(now, flush=True)
    time.sleep(0.001)
"""


def string(text: str) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[STRING](data=text), STRING))


def test_kill_9_loses_less_than_a_second(tmp_path):
    folder = tmp_path / 'bag'
    child = subprocess.Popen(
        [sys.executable, '-c', CHILD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    begin = int(child.stdout.readline())
    while (now := int(child.stdout.readline())) < begin + 1_800_000_000:
        pass
    with pytest.raises(RepairError, match='still being written'):
        repair(folder)
    child.send_signal(signal.SIGKILL)
    rest = [int(line) for line in child.stdout.read().split()]
    child.wait()
    last = rest[-1] if rest else now  # what it surely had received
    assert not (folder / FILE_NAME).exists()
    done = repair(folder)
    assert done.path.name == FILE_NAME and not (folder / UNFINISHED).exists()
    with done.path.open('rb') as stream:
        reader = make_reader(stream, validate_crcs=True)
        stamps = [m.log_time for _, _, m in reader.iter_messages()]
        assert [a.name for a in reader.iter_attachments()] == ['contract.yaml']
        assert [m.name for m in reader.iter_metadata()] == ['vera_goal']
        assert reader.get_summary().statistics.message_count == len(stamps) == done.messages
    assert last - stamps[-1] < 1_000_000_000, 'more than a second was lost'
    with AnyReader([folder]) as bag:
        assert bag.message_count == done.messages
        assert {c.topic for c in bag.connections} == {'/a', '/b'}
        assert sum(1 for _ in bag.messages()) == done.messages


@pytest.mark.parametrize('cut', [1, 9, 200, 5000])
def test_wherever_the_file_ends_its_whole_chunks_are_kept(tmp_path, cut):
    bag = Recording(tmp_path / 'bag', {STRING: 'string data'}.get)
    bag.add_topic('/a', STRING)
    bag.write('/a', string('first'), 1)
    bag.flush()
    kept = bag._part.stat().st_size
    bag.write('/a', string('second' * 2000 + str(os.urandom(4000))), 2)
    bag.flush()
    bag._stream.close()
    size = bag._part.stat().st_size
    os.truncate(bag._part, max(kept, size - cut))
    done = repair(tmp_path / 'bag')
    with done.path.open('rb') as stream:
        found = [m.log_time for _, _, m in make_reader(stream).iter_messages()]
    # Its message index (39 bytes) may be missing: the repair writes it anew.
    assert found == ([1, 2] if cut <= 39 else [1])
    with pytest.raises(RepairError, match='no unfinished recording'):
        repair(tmp_path / 'bag')


def test_what_cannot_be_repaired_is_said(tmp_path):
    with pytest.raises(RepairError, match='no unfinished recording'):
        repair(tmp_path)
    (tmp_path / UNFINISHED).write_bytes(b'no mcap at all')
    with pytest.raises(RepairError, match='no MCAP file'):
        repair(tmp_path)
    bag = Recording(tmp_path / 'empty', {STRING: 'string data'}.get)
    bag._stream.close()
    with pytest.raises(RepairError, match='holds no message'):
        repair(tmp_path / 'empty')


def test_two_recordings_do_not_share_a_folder(tmp_path):
    source = {STRING: 'string data'}.get
    assert free_folder(tmp_path) == tmp_path
    first = Recording(tmp_path, source)
    assert free_folder(tmp_path) == tmp_path.with_name(f'{tmp_path.name}_2')
    with pytest.raises(FileExistsError, match='a folder of its own'):
        Recording(tmp_path, source)
    first.add_topic('/a', STRING)
    first.write('/a', string('x'), time.time_ns())
    first.close()
    with pytest.raises(FileExistsError, match='a folder of its own'):
        Recording(tmp_path, source)
