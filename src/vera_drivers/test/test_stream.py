"""A camera kept running: stalls, bounded reconnects, ends."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from vera_core.seams import Frame
from vera_drivers.cameras.base import CameraEndError, CameraError, ThreadedCamera
from vera_drivers.stream import CameraStream, StreamState


class Script(ThreadedCamera):
    """A camera that does what a list says: frames, or an error to raise, or a pause in seconds."""

    def __init__(self, todo, opens=True):
        super().__init__('top', first_frame_timeout=0.3)
        self.todo = list(todo)
        self.opens = opens
        self.released = 0
        self.last = None
        self.taken = []

    @property
    def device(self):
        return '/dev/script'

    def _open(self):
        if not self.opens:
            raise CameraError('camera top (/dev/script) does not exist')

    def _read(self):
        while self.todo:
            while self.last is not None and self.last not in self.taken:
                time.sleep(0.001)  # only the newest frame is kept: wait until it was taken
            step = self.todo.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, int):
                time.sleep(0.01)
                self.last = step
                return np.full((2, 2, 3), step, np.uint8), 0
            self._closing.wait(step)
        self._closing.wait(30)
        raise CameraError('closed')

    def _release(self):
        self.released += 1


class Watch:
    def __init__(self):
        self.values: list[int] = []
        self.changes: list = []
        self.over = threading.Event()

    def on_frame(self, frame: Frame):
        self.values.append(int(frame.image[0, 0, 0]))

    def on_change(self, status):
        self.changes.append(status)
        if status.state in (StreamState.ENDED, StreamState.FAILED):
            self.over.set()


def run(cameras, **kwargs):
    """A stream over these cameras, one for each connect."""
    watch, left = Watch(), list(cameras)
    for camera in cameras:
        camera.taken = watch.values
    options = {'stall_after': 0.15, 'backoff': 0.01, **kwargs}
    stream = CameraStream(lambda: left.pop(0), watch.on_frame, watch.on_change, **options)
    return stream, watch, left


def test_every_frame_once_until_the_end():
    stream, watch, _ = run([Script([1, 2, 3, CameraEndError('the file ended')])])
    stream.start()
    assert watch.over.wait(5)
    assert watch.values == [1, 2, 3]
    assert stream.status.state is StreamState.ENDED
    assert stream.status.message == 'the file ended'
    assert stream.status.frames == 3
    stream.stop()
    assert stream.status.state is StreamState.CLOSED


def test_a_stall_is_noticed_and_the_camera_opened_again():
    first = Script([1, 2, 5.0])
    stream, watch, _ = run([first, Script([3, 4, CameraEndError('end')])])
    stream.start()
    assert watch.over.wait(5)
    assert watch.values == [1, 2, 3, 4]
    assert first.released == 1
    states = [change.state for change in watch.changes]
    assert states == [
        StreamState.STREAMING, StreamState.RECONNECTING, StreamState.STREAMING, StreamState.ENDED
    ]
    assert 'gave no frame within 0.1 s' in watch.changes[1].message or (
        'gave no frame within 0.2 s' in watch.changes[1].message
    )
    assert '(1 of 5)' in watch.changes[1].message
    assert stream.status.reconnects == 1
    stream.stop()


def test_it_gives_up_after_so_many_reconnects():
    gone = [Script([], opens=False) for _ in range(9)]
    stream, watch, left = run([Script([1, CameraError('unplugged')]), *gone], attempts=3)
    stream.start()
    assert watch.over.wait(5)
    assert len(left) == 6
    status = stream.status
    assert status.state is StreamState.FAILED
    assert 'does not exist; gave up after 3 reconnects in a row' in status.message
    stream.stop()


def test_a_camera_that_comes_back_only_to_stall_is_given_up_too():
    flapping = [Script([k, CameraError('loose cable')]) for k in range(9)]
    stream, watch, left = run(flapping, attempts=2)
    stream.start()
    assert watch.over.wait(5)
    assert stream.status.state is StreamState.FAILED
    assert len(left) == 6
    stream.stop()


def test_a_camera_that_stays_earns_its_reconnects_again():
    steady = [Script([1, *[2] * 30, CameraError('loose cable')]) for _ in range(3)]
    stream, watch, _ = run(
        [*steady, Script([9, CameraEndError('end')])], attempts=1, stable_after=0.1
    )
    stream.start()
    assert watch.over.wait(10)
    assert stream.status.state is StreamState.ENDED
    assert stream.status.reconnects == 3
    stream.stop()


def test_the_first_connect_fails_at_once():
    stream, _, left = run([Script([], opens=False), Script([1])])
    with pytest.raises(CameraError, match='does not exist'):
        stream.start()
    assert len(left) == 1


def test_stop_ends_a_wait_for_reconnection():
    stream, _, _ = run([Script([1, CameraError('x')]), Script([1])], backoff=30)
    stream.start()
    deadline = time.monotonic() + 5
    while stream.status.state is not StreamState.RECONNECTING:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    began = time.monotonic()
    stream.stop()
    stream.stop()
    assert time.monotonic() - began < 2
    assert stream.status.state is StreamState.CLOSED


def test_a_failing_reader_is_shown():
    stream, watch, _ = run([Script([1, 2])])
    stream._on_frame = lambda frame: 1 / 0
    stream.start()
    assert watch.over.wait(5)
    assert stream.status.message == 'ZeroDivisionError: division by zero'
    stream.stop()
