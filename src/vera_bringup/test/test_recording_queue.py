"""Queue, counters, JPEG and disk budget of the recorder."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from vera_bringup import jpeg
from vera_bringup import recording_budget as budget
from vera_bringup.recording import Recording
from vera_bringup.recording_queue import RecordingQueue, SequenceWatch
from vera_bringup.resources import message_definition
from vera_core.contract import load_contract
from vera_jidm import episodes_cdr as cdr

STORE = get_typestore(Stores.ROS2_JAZZY)


def picture(seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:48, :64]
    image = np.stack([4 * x, 5 * y, 2 * (x + y)], -1).astype(np.uint8)
    image[10:20, 10 + seed : 30 + seed] = (250, 20, 10)
    return image


def test_missing_numbers_are_counted():
    watch = SequenceWatch()
    assert [watch.add(n) for n in (5, 6, 9, 10)] == [0, 0, 2, 0]
    assert watch.lost == 2
    assert watch.add(1) == 0  # the publisher began anew
    assert watch.add(3) == 1


def test_two_publishers_are_told_apart():
    watch = SequenceWatch()
    numbers = [100, 1, 101, 2, 3, 102, 4, 105, 5]
    assert sum(watch.add(n, 2) for n in numbers) == watch.lost == 2


def test_a_full_queue_drops_counts_and_goes_on(tmp_path, monkeypatch):
    bag = Recording(tmp_path / 'bag', message_definition)
    held = threading.Event()
    write = bag.write

    def slow(*args: object) -> None:
        held.wait(10)
        write(*args)

    monkeypatch.setattr(bag, 'write', slow)
    queue = RecordingQueue(bag, limit=1000)
    queue.add_topic('/a', 'std_msgs/msg/String')
    message = bytes(STORE.serialize_cdr(
        STORE.types['std_msgs/msg/String'](data='x' * 90), 'std_msgs/msg/String'))  # fmt: skip
    taken = [queue.put('/a', message, i + 1) for i in range(50)]
    assert taken[0] and not taken[-1]
    held.set()
    queue.close()
    bag.close()
    assert queue.dropped == {'/a': 50 - sum(taken)}
    with AnyReader([tmp_path / 'bag']) as found:
        assert found.message_count == sum(taken)


def test_jpeg_goes_the_standard_way_and_depth_stays_as_it_is(tmp_path):
    bag = Recording(tmp_path / 'bag', message_definition)
    queue = RecordingQueue(bag)
    for topic in ('/top/color/image_raw', '/top/depth/image_raw'):
        queue.add_transformed(
            topic, jpeg.IMAGE, topic + '/compressed', jpeg.COMPRESSED,
            lambda data: jpeg.compress(data, 95),
        )  # fmt: skip
    image = picture()
    queue.put('/top/color/image_raw', cdr.encode_image(image, 'rgb8', 123, 'cam'), 1)
    flow = np.zeros((4, 4, 2), np.float32)
    queue.put('/top/depth/image_raw', cdr.encode_image(flow, '32FC2', 124, 'cam'), 2)
    queue.close()
    bag.close()
    with AnyReader([tmp_path / 'bag']) as found:
        messages = {c.topic: (c, d) for c, _, d in found.messages()}
        assert set(messages) == {'/top/color/image_raw/compressed', '/top/depth/image_raw'}
        connection, data = messages['/top/color/image_raw/compressed']
        assert connection.msgtype == 'sensor_msgs/msg/CompressedImage'
        message = found.deserialize(data, connection.msgtype)
    assert message.format == 'rgb8; jpeg compressed bgr8'
    assert (message.header.stamp.nanosec, message.header.frame_id) == (123, 'cam')
    again = jpeg.decompress(data)
    stamp, pixels = cdr.decode_image(again)
    assert stamp == 123
    assert np.abs(pixels.astype(int) - image).mean() < 3
    # Others read what we wrote by hand.
    whole = STORE.deserialize_cdr(again, 'sensor_msgs/msg/Image')
    assert (whole.height, whole.width, whole.step) == (48, 64, 192)


def test_what_is_no_image_is_kept_as_it_came(tmp_path):
    bag = Recording(tmp_path / 'bag', message_definition)
    queue = RecordingQueue(bag)
    queue.add_transformed('/a', jpeg.IMAGE, '/a/compressed', jpeg.COMPRESSED, jpeg.compress)
    queue.put('/a', b'\x00\x01\x00\x00broken', 1)
    queue.close()
    bag.close()
    with AnyReader([tmp_path / 'bag']) as found:
        assert [(c.topic, bytes(d)) for c, _, d in found.messages()] == [
            ('/a', b'\x00\x01\x00\x00broken')
        ]


def test_the_budget_counts_cameras_and_refuses_what_does_not_fit(tmp_path, monkeypatch):
    panda = load_contract('panda')
    found = budget.estimate(panda)
    assert found.cameras == sum(c.width * c.height * 3 * c.rate for c in panda.cameras)
    assert budget.estimate(panda, jpeg=True).rate < 0.8 * found.rate
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(0, 0, budget.RESERVE + 100 * 10**6))
    assert 'room for 2 minutes' in budget.check(tmp_path / 'new' / 'bag', 10**6, 90.0)
    with pytest.raises(budget.BudgetError, match=r'room for 100 s, and 3600 s are wanted.*--jpeg'):
        budget.check(tmp_path, 10**6, 3600.0)
    with pytest.raises(budget.BudgetError, match='60 s are wanted'):
        budget.check(tmp_path, 10**7, None)
