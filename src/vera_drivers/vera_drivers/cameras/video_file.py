"""A video file as a camera: at its own rate, at another, or as fast as it is read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2

from vera_core.seams import Frame, Image
from vera_drivers.cameras.base import CameraEndError, CameraError, ThreadedCamera, fit_image


class VideoFileCamera(ThreadedCamera):
    """A recorded video.

    Args:
        name: what messages call it.
        path: any file that OpenCV's FFmpeg reads.
        width, height: size of the images it gives [px]; the file's own if 0. Others are cropped
            around the centre and scaled.
        rate: frames per second [Hz]; None plays at the file's own rate, 0 as fast as it is read:
            then each frame waits until it was taken, and none is left out.
        loop: begin again at the end; otherwise the end is a CameraEndError.
    """

    noisy = False

    def __init__(
        self,
        name: str,
        path: str | Path,
        width: int = 0,
        height: int = 0,
        rate: float | None = None,
        *,
        loop: bool = False,
        first_frame_timeout: float = 5.0,
    ) -> None:
        super().__init__(name, first_frame_timeout)
        self.path = Path(path).expanduser()
        self.loop = loop
        self._size = (width, height)
        self._wanted_rate = rate
        self._capture: Any = None
        self._period = 0.0
        self._due = 0.0
        self._count = 0
        self._seen: int | None = None  # stamp of the frame that was taken, at rate 0

    @property
    def device(self) -> str:
        """Path of the file."""
        return str(self.path)

    @property
    def frames_read(self) -> int:
        """Frames read since it was connected."""
        return self._count

    @property
    def fps(self) -> float:
        """Frames per second it plays at; 0 = as fast as it is read."""
        return 1 / self._period if self._period else 0.0

    def wait_newer(self, stamp: int | None, timeout: float) -> Frame:
        """As of any camera; at rate 0 this tells that the frame of `stamp` was taken."""
        with self._fresh:
            self._seen = stamp
            self._fresh.notify_all()
        return super().wait_newer(stamp, timeout)

    def _open(self) -> None:
        if not self.path.is_file():
            raise CameraError(f'{self._label}: there is no such file; check the path')
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            capture.release()
            raise CameraError(
                f'{self._label}: this is no video that OpenCV reads; convert it, e.g. with '
                'ffmpeg -i FILE -c:v mjpeg out.avi'
            )
        own = capture.get(cv2.CAP_PROP_FPS)
        rate = self._wanted_rate if self._wanted_rate is not None else own
        if self._wanted_rate is None and not 0 < own < 1000:
            capture.release()
            raise CameraError(f'{self._label} does not tell its rate; give one')
        self._period = 1 / rate if rate > 0 else 0.0
        self._capture = capture
        self._count = 0
        self._due = time.monotonic()
        self._seen = None

    def _read(self) -> tuple[Image, int]:
        self._pace()
        if self._closing.is_set():
            raise CameraError(f'{self._label} was closed')
        good, bgr = self._capture.read()
        if not good and self.loop and self._count:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            good, bgr = self._capture.read()
        if not good:
            if not self._count:
                raise CameraError(f'{self._label} holds no frame; the file is empty or damaged')
            raise CameraEndError(
                f'{self._label} ended after {self._count} frames; set loop to true to begin again'
            )
        self._count += 1
        rgb: Image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        if self._size[0] and self._size[1]:
            rgb = fit_image(rgb, *self._size)
        return rgb, 0

    def _pace(self) -> None:
        if not self._period:
            with self._fresh:
                self._fresh.wait_for(
                    lambda: self._closing.is_set()
                    or self._frame is None
                    or self._frame.stamp == self._seen
                )
            return
        wait = self._due - time.monotonic()
        if wait > 0:
            self._closing.wait(wait)
        elif wait < -1.0:
            self._due = time.monotonic()  # held up for long: go on from here, do not race
        self._due += self._period

    def _release(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


__all__ = ['VideoFileCamera']
