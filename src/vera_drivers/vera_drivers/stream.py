"""A camera kept running: every new frame handed on, stalls noticed, reconnects bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from vera_core.clocks import ns_to_seconds
from vera_core.seams import Frame
from vera_core.stillness import StillWatch
from vera_drivers.cameras.base import (
    CameraEndError,
    CameraError,
    CameraStallError,
    ThreadedCamera,
)


class StreamState(Enum):
    """What a stream is doing."""

    CLOSED = 'closed'
    STREAMING = 'streaming'
    RECONNECTING = 'reconnecting'
    ENDED = 'ended'  # a recording is over
    FAILED = 'failed'  # gave up; only opening it again helps


@dataclass(frozen=True)
class StreamStatus:
    """A stream at one moment: its state, why, frames handed on, and reconnects tried in all."""

    state: StreamState
    message: str
    frames: int
    reconnects: int


class CameraStream:
    """Reads a camera in a thread.

    Args:
        make: makes the camera, unconnected; called again for each reconnect.
        on_frame: gets every new frame, in the thread of the stream.
        on_change: gets the status at each change of state, in that thread too.
        stall_after: seconds without a new frame after which the camera has stalled.
        frozen_after: seconds of one and the same picture, whatever its stamps say, after which a
            camera with a sensor has stalled too, and of any other it is told; 0 = never.
        attempts: reconnects in a row before it gives up.
        backoff: seconds before the first reconnect; doubles each time, to at most 5 s.
        stable_after: seconds of frames after which a reconnect counts as successful, so that a
            camera which comes back only to stall again is given up too.
    """

    def __init__(
        self,
        make: Callable[[], ThreadedCamera],
        on_frame: Callable[[Frame], None],
        on_change: Callable[[StreamStatus], None] | None = None,
        *,
        stall_after: float = 1.0,
        frozen_after: float = 0.0,
        attempts: int = 5,
        backoff: float = 0.5,
        stable_after: float = 10.0,
    ) -> None:
        self._make = make
        self._on_frame = on_frame
        self._on_change = on_change
        self._stall_after = stall_after
        self._frozen_after = frozen_after
        self._attempts = attempts
        self._backoff = backoff
        self._stable_after = stable_after
        self._camera: ThreadedCamera | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._state = StreamState.CLOSED
        self._message = ''
        self._frames = 0
        self._reconnects = 0
        self._in_a_row = 0

    @property
    def status(self) -> StreamStatus:
        """The status now."""
        with self._lock:
            return StreamStatus(self._state, self._message, self._frames, self._reconnects)

    @property
    def camera(self) -> ThreadedCamera | None:
        """The connected camera, or None while there is none."""
        return self._camera

    def open(self) -> Frame:
        """Connect once, so that a wrong device is known at once; returns the first frame.

        Raises:
            CameraError: it cannot be connected.
        """
        camera = self._make()
        camera.connect()
        self._camera = camera
        return camera.wait_newer(None, self._stall_after)

    def start(self) -> None:
        """Begin to hand frames on; opens the camera if `open` was not called."""
        if self._thread is not None:
            return
        if self._camera is None:
            self.open()
        self._stopping.clear()
        self._set(StreamState.STREAMING, '')
        self._thread = threading.Thread(target=self._run, name='camera-stream', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the camera; safe to call twice."""
        self._stopping.set()
        self._close_camera()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        with self._lock:
            self._state, self._message = StreamState.CLOSED, ''

    def _run(self) -> None:
        stamp: int | None = None
        since = time.monotonic()
        still = StillWatch()
        while not self._stopping.is_set():
            camera = self._camera
            if camera is None:
                return
            try:
                frame = camera.wait_newer(stamp, self._stall_after)
                self._check_still(camera, still, frame)
            except CameraEndError as end:
                self._close_camera()
                self._set(StreamState.ENDED, str(end))
                return
            except CameraError as error:
                if self._stopping.is_set():
                    return
                if isinstance(error, CameraStallError):
                    camera.revive()
                if not self._reconnect(error):
                    return
                stamp, since, still = None, time.monotonic(), StillWatch()
                continue
            stamp = frame.stamp
            if self._in_a_row and time.monotonic() - since > self._stable_after:
                self._in_a_row = 0
            with self._lock:
                self._frames += 1
            try:
                self._on_frame(frame)
            except Exception as error:  # shown in the status: nobody waits for this thread
                self._close_camera()
                self._set(StreamState.FAILED, f'{type(error).__name__}: {error}')
                return

    def _check_still(self, camera: ThreadedCamera, watch: StillWatch, frame: Frame) -> None:
        if not self._frozen_after:
            return
        seconds = ns_to_seconds(watch.add(frame.image, frame.stamp))
        if seconds <= self._frozen_after:
            if seconds == 0 and self._message:
                self._set(StreamState.STREAMING, '')
            return
        told = f'camera {camera.name!r} ({camera.device}) gives the same picture again and again'
        if camera.noisy:
            raise CameraStallError(
                f'{told}, for {seconds:.1f} s with fresh stamps: it is frozen, or covered'
            )
        self._set(StreamState.STREAMING, f'{told} for more than {self._frozen_after:g} s')

    def _reconnect(self, error: CameraError) -> bool:
        """Try until it is connected again; False when it was stopped or gave up."""
        self._close_camera()
        while self._in_a_row < self._attempts:
            delay = min(5.0, self._backoff * 2.0**self._in_a_row)
            self._in_a_row += 1
            self._set(
                StreamState.RECONNECTING,
                f'{error}; reconnecting in {delay:.1f} s ({self._in_a_row} of {self._attempts})',
            )
            if self._stopping.wait(delay):
                return False
            with self._lock:
                self._reconnects += 1
            camera = self._make()
            try:
                camera.connect()
            except CameraError as another:
                error = another
                continue
            self._camera = camera
            self._set(StreamState.STREAMING, '')
            return True
        self._set(
            StreamState.FAILED, f'{error}; gave up after {self._attempts} reconnects in a row'
        )
        return False

    def _close_camera(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()

    def _set(self, state: StreamState, message: str) -> None:
        with self._lock:
            changed = state is not self._state or message != self._message
            self._state, self._message = state, message
        if changed and self._on_change is not None:
            self._on_change(self.status)


__all__ = ['CameraStream', 'StreamState', 'StreamStatus']
