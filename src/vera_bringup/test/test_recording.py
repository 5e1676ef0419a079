"""Recordings open with `mcap` and with `rosbags`, and a full disk costs only the recording."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from vera_bringup import recording
from vera_bringup.recording import Recording, full_definition

DEFINITIONS = {
    'demo_msgs/msg/Pair': '# two\nstd_msgs/Header header  # when\nInner[<=3] inners\nstring<=9 s\n',
    'demo_msgs/msg/Inner': 'uint8 ON=1  # a constant\nfloat64[2] xy\nbyte[] raw\n',
    'std_msgs/msg/Header': 'builtin_interfaces/Time stamp\nstring frame_id\n',
    'builtin_interfaces/msg/Time': 'int32 sec\nuint32 nanosec\n',
    'std_msgs/msg/String': 'string data\n',
}
STORE = get_typestore(Stores.ROS2_JAZZY)


def string(text: str) -> bytes:
    kind = STORE.types['std_msgs/msg/String']
    return bytes(STORE.serialize_cdr(kind(data=text), 'std_msgs/msg/String'))


def test_definition_holds_every_type_it_uses_once():
    text = full_definition('demo_msgs/msg/Pair', DEFINITIONS.get)
    assert text is not None
    assert text.startswith('# two\nstd_msgs/Header')
    names = [line for line in text.splitlines() if line.startswith('MSG: ')]
    assert names == ['MSG: std_msgs/Header', 'MSG: demo_msgs/Inner', 'MSG: builtin_interfaces/Time']


def test_a_missing_definition_is_refused():
    assert full_definition('other_msgs/msg/X', DEFINITIONS.get) is None


def test_reads_back_with_mcap_and_rosbags(tmp_path):
    bag = Recording(tmp_path / 'bag', DEFINITIONS.get)
    assert bag.add_topic('/vera/words', 'std_msgs/msg/String')
    assert not bag.add_topic('/vera/unknown', 'other_msgs/msg/X')
    texts = [f'word {i}' for i in range(1000)]
    for i, text in enumerate(texts):
        bag.write('/vera/words', string(text), 10**18 + i)
    bag.close()
    bag.close()
    assert not bag.failure

    with bag.path.open('rb') as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        decoded = [message.data for _, _, _, message in reader.iter_decoded_messages()]
    assert decoded == texts

    with AnyReader([tmp_path / 'bag']) as rosbag:
        (connection,) = rosbag.connections
        assert (connection.topic, connection.msgcount) == ('/vera/words', 1000)
        found = [rosbag.deserialize(d, c.msgtype).data for c, _, d in rosbag.messages()]
        assert rosbag.duration == 1000
    assert found == texts


def test_a_full_disk_is_said_once_and_stops_the_recording(tmp_path, monkeypatch):
    folder = tmp_path / 'bag'
    folder.mkdir()
    # Writing to /dev/full fails with ENOSPC as a full disk does.
    (folder / recording.UNFINISHED).symlink_to('/dev/full')
    if not Path('/dev/full').exists():
        pytest.skip('this system has no /dev/full')
    bag = Recording(folder, DEFINITIONS.get)
    bag.add_topic('/vera/words', 'std_msgs/msg/String')
    for i in range(5000):
        bag.write('/vera/words', string('x' * 2000 + str(i)), i)
    assert 'No space left on device' in bag.failure
    assert not bag.open
    bag.close()


def test_recording_ends_properly_while_there_is_still_room(tmp_path, monkeypatch):
    bag = Recording(tmp_path / 'bag', DEFINITIONS.get, stop_below=0)
    bag.add_topic('/vera/words', 'std_msgs/msg/String')
    bag.write('/vera/words', string('first'), 1)
    bag.stop_below = 2**62
    bag._next_check = 0.0
    bag.write('/vera/words', string('second'), 2)
    assert bag.failure.startswith('disk full')
    with AnyReader([tmp_path / 'bag']) as rosbag:
        assert rosbag.message_count == 1
