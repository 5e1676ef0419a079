"""What all cameras share: a reader thread that keeps the newest frame, and errors with a cure."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from types import TracebackType

import cv2
import numpy as np

from vera_core.clocks import ns_to_seconds, seconds_to_ns
from vera_core.seams import Frame, Image


class CameraError(RuntimeError):
    """A camera that cannot be used; the message names the device and the cure."""


class CameraEndError(CameraError):
    """A recording is over: there is nothing to reconnect to."""


def fit_image(image: Image, width: int, height: int) -> Image:
    """The image at another size: cropped around its centre to the aspect, then scaled.

    Args:
        image: uint8 [H, W, 3].
        width: wanted, pixels.
        height: wanted, pixels.

    Returns:
        uint8 [height, width, 3]; the same array when it has that size.
    """
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    crop_w = min(w, max(1, round(h * width / height)))
    crop_h = min(h, max(1, round(w * height / width)))
    x, y = (w - crop_w) // 2, (h - crop_h) // 2
    part = np.ascontiguousarray(image[y : y + crop_h, x : x + crop_w])
    method = cv2.INTER_AREA if crop_w >= width else cv2.INTER_LINEAR
    scaled: Image = cv2.resize(part, (width, height), interpolation=method)
    return scaled


class ThreadedCamera(ABC):
    """A camera whose frames are read by a thread of its own; a context manager.

    Only the newest frame is kept: a slow reader loses frames, never freshness. Ages are measured
    on the monotonic clock from the moment of acquisition; stamps are wall-clock nanoseconds.

    Args:
        name: what messages call the camera.
        first_frame_timeout: seconds that `connect` waits for the first frame.
    """

    def __init__(self, name: str, first_frame_timeout: float = 5.0) -> None:
        self.name = name
        self.first_frame_timeout = first_frame_timeout
        self._fresh = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._hung: threading.Thread | None = None  # one that did not end when it was closed
        self._frame: Frame | None = None
        self._taken_at = 0  # monotonic ns at which the newest frame was acquired
        self._failure: CameraError | None = None

    @property
    @abstractmethod
    def device(self) -> str:
        """The device or file, as messages name it."""

    @abstractmethod
    def _open(self) -> None:
        """Open the source; raises CameraError."""

    @abstractmethod
    def _read(self) -> tuple[Image, int]:
        """Wait for the next image, uint8 [H, W, 3] RGB, and its age in ns; raises CameraError."""

    @abstractmethod
    def _release(self) -> None:
        """Give the source back; called from the thread that read, or when none runs."""

    def connect(self) -> None:
        """Open the source and wait for its first frame.

        Raises:
            CameraError: it cannot be opened, is open already, or gives no frame.
        """
        if self._thread is not None:
            raise CameraError(f'{self._label} is connected already; close it first')
        if self._hung is not None and self._hung.is_alive():
            raise CameraError(f'{self._label} still hangs in its driver; unplug it and plug it in')
        self._closing.clear()
        self._frame, self._failure = None, None
        self._open()
        self._thread = threading.Thread(
            target=self._run, name=f'camera-{self.name}', daemon=True
        )
        self._thread.start()
        try:
            self.wait_newer(None, self.first_frame_timeout)
        except CameraError:
            self.close()
            raise

    def read_latest(self, max_age: float) -> Frame:
        """The newest frame, at most `max_age` seconds old.

        Raises:
            CameraError: not connected, the source failed, or its newest frame is older.
        """
        with self._fresh:
            frame, taken_at, failure = self._frame, self._taken_at, self._failure
        if failure is not None:
            raise failure
        if self._thread is None or frame is None:
            raise CameraError(f'{self._label} is not connected; call connect() first')
        age = ns_to_seconds(time.monotonic_ns() - taken_at)
        if age > max_age:
            raise CameraError(
                f'{self._label}: its newest frame is {age:.2f} s old, more than {max_age:.2f} s; '
                'the device has stalled: check its cable and USB load'
            )
        return frame

    def wait_newer(self, stamp: int | None, timeout: float) -> Frame:
        """The newest frame as soon as there is one that is not the frame of `stamp`.

        Args:
            stamp: of the frame one has; None takes any.
            timeout: seconds to wait.

        Raises:
            CameraError: not connected, the source failed, or nothing came in time.
        """
        if self._thread is None:
            raise CameraError(f'{self._label} is not connected; call connect() first')

        def something() -> bool:
            fresh = self._frame is not None and self._frame.stamp != stamp
            return fresh or self._failure is not None or self._closing.is_set()

        with self._fresh:
            self._fresh.wait_for(something, timeout)
            frame, failure = self._frame, self._failure
        # A frame that came before the failure is still news.
        if frame is not None and frame.stamp != stamp:
            return frame
        if failure is not None:
            raise failure
        if self._closing.is_set():
            raise CameraError(f'{self._label} was closed')
        raise CameraError(
            f'{self._label} gave no frame within {timeout:.1f} s; check its cable, whether another '
            'program uses it, and whether it knows the wanted size and rate'
        )

    def close(self) -> None:
        """Stop reading and release the source; safe to call twice and while a read hangs."""
        thread, self._thread = self._thread, None
        self._closing.set()
        with self._fresh:
            self._fresh.notify_all()
        if thread is not None and thread is not threading.current_thread():
            # A driver may hang in its read; the daemon thread releases the device once it returns.
            thread.join(timeout=2.0)
            self._hung = thread

    def __enter__(self) -> ThreadedCamera:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _label(self) -> str:
        return f'camera {self.name!r} ({self.device})'

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                image, age = self._read()
                with self._fresh:
                    self._frame = Frame(image=image, stamp=time.time_ns() - age)
                    self._taken_at = time.monotonic_ns() - age
                    self._fresh.notify_all()
        except CameraError as error:
            self._fail(error)
        except Exception as error:  # a driver may raise anything; whoever reads gets to know it
            self._fail(CameraError(f'{self._label} failed: {type(error).__name__}: {error}'))
        finally:
            self._release()

    def _fail(self, error: CameraError) -> None:
        with self._fresh:
            self._failure = error
            self._fresh.notify_all()


def plausible_age(device_ms: float, now: int) -> int:
    """Age in ns of an image from its kernel stamp [ms, monotonic clock]; 0 if it is no such stamp.

    V4L2 stamps a buffer when its exposure ends; by the time it was decoded it is some
    milliseconds old, and under load much older. Drivers without stamps give 0, or another clock.
    """
    age = now - seconds_to_ns(device_ms / 1000) if np.isfinite(device_ms) else -1
    return age if 0 <= age < 1_000_000_000 else 0


__all__ = ['CameraEndError', 'CameraError', 'ThreadedCamera', 'fit_image', 'plausible_age']
