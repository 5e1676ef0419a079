"""What all cameras share: a reader thread that keeps the newest frame, and errors with a cure."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.clocks import ns_to_seconds, seconds_to_ns
from vera_core.seams import Frame, Image


class CameraError(RuntimeError):
    """A camera that cannot be used; the message names the device and the cure."""


class CameraEndError(CameraError):
    """A recording is over: there is nothing to reconnect to."""


class CameraStallError(CameraError):
    """The device is there, but no new picture comes from it."""


@dataclass(frozen=True)
class Intrinsics:
    """How a rectified pinhole camera sees: u = fx x / z + cx, v = fy y / z + cy.

    Attributes:
        focal: (fx, fy) [px].
        centre: (cx, cy) [px]; the centre of the first pixel is (0, 0).
    """

    focal: tuple[float, float]
    centre: tuple[float, float]

    def fitted(self, size: tuple[int, int], width: int, height: int) -> Intrinsics:
        """Those of an image of (width, height) `size` after `fit_image` to `width` x `height`."""
        x, y, crop_w, crop_h = _central_part(*size, width, height)
        sx, sy = width / crop_w, height / crop_h
        # Edges map to edges, not centres to centres.
        return Intrinsics(
            (self.focal[0] * sx, self.focal[1] * sy),
            ((self.centre[0] + 0.5 - x) * sx - 0.5, (self.centre[1] + 0.5 - y) * sy - 0.5),
        )


@dataclass(frozen=True)
class SensorFrame(Frame):
    """A frame with what else a device tells of it.

    Attributes:
        depth: uint16 [H, W] mm, aligned with the image, 0 where unknown; or None.
        hardware_stamp: on the device's own clock [ns], or None.
        host_stamp: wall clock when it arrived here [ns], or None.
    """

    depth: NDArray[np.uint16] | None = None
    hardware_stamp: int | None = None
    host_stamp: int | None = None


def fit_image(image: NDArray[Any], width: int, height: int, method: int | None = None) -> Any:
    """The image at another size: cropped around its centre to the aspect, then scaled.

    Args:
        image: uint8 [H, W, 3], or uint16 [H, W].
        width: wanted, pixels.
        height: wanted, pixels.
        method: of OpenCV's resize; averages or interpolates unless given.

    Returns:
        Of the same type, [height, width, ...]; the same array when it has that size.
    """
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    x, y, crop_w, crop_h = _central_part(w, h, width, height)
    part = np.ascontiguousarray(image[y : y + crop_h, x : x + crop_w])
    if method is None:
        method = cv2.INTER_AREA if crop_w >= width else cv2.INTER_LINEAR
    return cv2.resize(part, (width, height), interpolation=method)


def _central_part(w: int, h: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the part that `fit_image` takes of w x h pixels."""
    crop_w = min(w, max(1, round(h * width / height)))
    crop_h = min(h, max(1, round(w * height / width)))
    return (w - crop_w) // 2, (h - crop_h) // 2, crop_w, crop_h


class ThreadedCamera(ABC):
    """A camera whose frames are read by a thread of its own; a context manager.

    Only the newest frame is kept: a slow reader loses frames, never freshness. Ages are measured
    on the monotonic clock from the moment of acquisition; stamps are wall-clock nanoseconds.

    Args:
        name: what messages call the camera.
        first_frame_timeout: seconds that `connect` waits for the first frame.

    Attributes:
        noisy: whether two pictures always differ, if only by the noise of a sensor.
    """

    noisy = True

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

    @property
    def intrinsics(self) -> Intrinsics | None:
        """Of the images it gives, where the device tells them and it is connected."""
        return None

    @property
    def warning(self) -> str:
        """What is not as it should be although pictures come, with the cure; or ''."""
        return ''

    @property
    def details(self) -> dict[str, Any]:
        """What the device tells of itself, for diagnostics."""
        return {}

    def revive(self) -> bool:
        """Do what helps a stalled device before it is opened again; False if nothing does."""
        return False

    @abstractmethod
    def _open(self) -> None:
        """Open the source; raises CameraError."""

    @abstractmethod
    def _read(self) -> tuple[Image, int]:
        """Wait for the next image, uint8 [H, W, 3] RGB, and its age in ns; raises CameraError."""

    def _next(self) -> tuple[Frame, int]:
        """Wait for the next frame, and the monotonic time [ns] at which it was acquired."""
        image, age = self._read()
        return Frame(image=image, stamp=time.time_ns() - age), time.monotonic_ns() - age

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
        raise CameraStallError(
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
                frame, taken_at = self._next()
                with self._fresh:
                    self._frame, self._taken_at = frame, taken_at
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


__all__ = [
    'CameraEndError',
    'CameraError',
    'CameraStallError',
    'Intrinsics',
    'SensorFrame',
    'ThreadedCamera',
    'fit_image',
    'plausible_age',
]
