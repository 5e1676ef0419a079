"""A real camera through OpenCV: V4L2 on Linux, whatever OpenCV finds elsewhere."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from vera_core.seams import Image
from vera_drivers.cameras.base import CameraError, ThreadedCamera, fit_image, plausible_age

DEV = Path('/dev')


def known_devices(dev: Path = DEV) -> list[str]:
    """Video devices of this machine, by number."""
    found = [p for p in dev.glob('video*') if p.name[5:].isdigit()]
    return [str(p) for p in sorted(found, key=lambda p: int(p.name[5:]))]


def parse_device(device: int | str) -> int | str:
    """An index from 0, '0' or '/dev/video0'; any other path (e.g. /dev/v4l/by-id/..) as it is.

    Raises:
        CameraError: neither.
    """
    text = str(device).strip()
    if match := re.fullmatch(r'(?:/dev/video)?(\d+)', text):
        return int(match[1])
    if text.startswith('/dev/'):
        return text
    raise CameraError(
        f'{device!r} is no camera: give an index such as 0, /dev/video0 or a path below '
        '/dev/v4l/by-id'
    )


class OpenCVCamera(ThreadedCamera):
    """A V4L2 camera.

    Args:
        name: what messages call it.
        device: index, '/dev/videoN' or another path of a video device.
        width, height: size of the images it gives [px].
        rate: frames per second asked of the device [Hz].
        fourcc: pixel format asked of the device, e.g. 'MJPG'; '' leaves it to the driver.
        resize: crop around the centre and scale when the device has no such size; otherwise
            another size is an error.
        capture: makes the capture; cv2.VideoCapture unless told.
    """

    def __init__(
        self,
        name: str,
        device: int | str,
        width: int,
        height: int,
        rate: float,
        *,
        fourcc: str = '',
        resize: bool = False,
        first_frame_timeout: float = 5.0,
        capture: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(name, first_frame_timeout)
        if len(fourcc) not in (0, 4):
            raise CameraError(f'pixel format {fourcc!r} of camera {name!r} has not 4 characters')
        self._device = parse_device(device)
        self._size = (width, height)
        self._rate = rate
        self._fourcc = fourcc
        self._resize = resize
        self._make_capture = capture
        self._capture: Any = None
        self._capture_lock = threading.Lock()

    @property
    def device(self) -> str:
        """Path of the device."""
        return f'/dev/video{self._device}' if isinstance(self._device, int) else self._device

    def _open(self) -> None:
        if self._make_capture is None:
            self._check_device()
        make = self._make_capture or cv2.VideoCapture
        backend = cv2.CAP_V4L2 if sys.platform == 'linux' else cv2.CAP_ANY
        capture = make(self._device, backend)
        if not capture.isOpened():
            capture.release()
            raise CameraError(
                f'{self._label} cannot be opened: another program uses it, or it is no capture '
                f'device (some cameras have several; here: {self._others()})'
            )
        if self._fourcc:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._fourcc))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        capture.set(cv2.CAP_PROP_FPS, self._rate)
        # One buffer: the newest frame matters, not every frame.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        given = (
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
        if given != self._size and not self._resize:
            capture.release()
            raise CameraError(
                f'{self._label} gives {given[0]}x{given[1]}, not {self._size[0]}x{self._size[1]}; '
                'set the size in the contract to one the device knows, or resize to true'
            )
        self._capture = capture

    def _read(self) -> tuple[Image, int]:
        good, bgr = self._capture.read()
        if not good or bgr is None:
            raise CameraError(
                f'{self._label} stopped giving frames; check its cable and USB load, then reconnect'
            )
        age = plausible_age(self._capture.get(cv2.CAP_PROP_POS_MSEC), time.monotonic_ns())
        if bgr.ndim == 2:
            rgb: Image = cv2.cvtColor(bgr, cv2.COLOR_GRAY2RGB)
        else:
            rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        if self._resize:
            rgb = fit_image(rgb, *self._size)
        return rgb, age

    def _release(self) -> None:
        with self._capture_lock:
            capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _check_device(self) -> None:
        path = Path(self.device)
        if not path.exists():
            raise CameraError(
                f'{self._label} does not exist; plug it in, or name another (here: '
                f'{self._others()})'
            )
        if not os.access(path, os.R_OK | os.W_OK):
            raise CameraError(
                f'{self._label} may not be opened by this user; add the user to the group that '
                'owns it: sudo usermod -aG video $USER, then log in again'
            )

    @staticmethod
    def _others() -> str:
        return ', '.join(known_devices()) or 'no video device'


__all__ = ['OpenCVCamera', 'known_devices', 'parse_device']
