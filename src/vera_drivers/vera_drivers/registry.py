"""Cameras by name: `opencv`, `video_file`. What a camera needs is imported only when it is made."""

from __future__ import annotations

from collections.abc import Callable

from vera_core.contract import CameraSpec
from vera_drivers.cameras.base import CameraError, ThreadedCamera


def _opencv(
    spec: CameraSpec, source: str, *, rate: float | None, loop: bool, resize: bool, fourcc: str
) -> ThreadedCamera:
    from vera_drivers.cameras.opencv import OpenCVCamera

    return OpenCVCamera(
        spec.name, source or 0, spec.width, spec.height, rate or spec.rate,
        fourcc=fourcc, resize=resize,
    )


def _video_file(
    spec: CameraSpec, source: str, *, rate: float | None, loop: bool, resize: bool, fourcc: str
) -> ThreadedCamera:
    from vera_drivers.cameras.video_file import VideoFileCamera

    if not source:
        raise CameraError(f'camera {spec.name!r} plays a video file; give its path as `source`')
    return VideoFileCamera(spec.name, source, spec.width, spec.height, rate, loop=loop)


CAMERAS: dict[str, Callable[..., ThreadedCamera]] = {
    'opencv': _opencv,
    'video_file': _video_file,
}


def make_camera(
    kind: str,
    spec: CameraSpec,
    source: str = '',
    *,
    rate: float | None = None,
    loop: bool = False,
    resize: bool = False,
    fourcc: str = '',
) -> ThreadedCamera:
    """A camera that gives images as the contract's `spec` says; not connected yet.

    Args:
        kind: 'opencv' or 'video_file'.
        spec: name and size of the images, and the rate asked of a device.
        source: device ('0', '/dev/video0') or path of a file.
        rate: Hz; None = the spec's for a device and the file's own for a file; for a file,
            0 = as fast as it is read.
        loop: files begin again at their end.
        resize: crop and scale images of a device that has no such size; files always do.
        fourcc: pixel format asked of a device, e.g. 'MJPG'.

    Raises:
        CameraError: an unknown kind or a source that cannot be; the message names the cure.
    """
    if kind not in CAMERAS:
        raise CameraError(f'unknown kind of camera {kind!r}; known: {", ".join(CAMERAS)}')
    return CAMERAS[kind](spec, source, rate=rate, loop=loop, resize=resize, fourcc=fourcc)


__all__ = ['CAMERAS', 'make_camera']
