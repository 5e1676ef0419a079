"""Cameras by name. What a camera needs is imported only when it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vera_core.contract import CameraSpec
from vera_core.contract_reader import suggestion
from vera_drivers.cameras.base import CameraError, ThreadedCamera


def _opencv(
    spec: CameraSpec, source: str, options: dict[str, Any], rate: float | None, loop: bool
) -> ThreadedCamera:
    from vera_drivers.cameras.opencv import OpenCVCamera

    _check(spec, options, {'fourcc': str, 'resize': bool})
    return OpenCVCamera(
        spec.name, source or 0, spec.width, spec.height, rate or spec.rate, **options
    )


def _realsense(
    spec: CameraSpec, source: str, options: dict[str, Any], rate: float | None, loop: bool
) -> ThreadedCamera:
    from vera_drivers.cameras.realsense import RealSenseCamera, RealSenseOptions

    return RealSenseCamera(
        spec.name, source, spec.width, spec.height, rate or spec.rate,
        RealSenseOptions.of(options, spec.name), loop=loop,
    )


def _video_file(
    spec: CameraSpec, source: str, options: dict[str, Any], rate: float | None, loop: bool
) -> ThreadedCamera:
    from vera_drivers.cameras.video_file import VideoFileCamera

    _check(spec, options, {})
    if not source:
        raise CameraError(f'camera {spec.name!r} plays a video file; give its path as `source`')
    return VideoFileCamera(spec.name, source, spec.width, spec.height, rate, loop=loop)


def _check(spec: CameraSpec, options: dict[str, Any], known: dict[str, type]) -> None:
    for key, value in options.items():
        where = f'options of camera {spec.name!r}: {key}'
        if key not in known:
            raise CameraError(f'{where}: unknown option{suggestion(key, known)}')
        if not isinstance(value, known[key]):
            raise CameraError(f'{where} is {value!r}; a {known[key].__name__} is needed')


CAMERAS: dict[str, Callable[..., ThreadedCamera]] = {
    'opencv': _opencv,
    'realsense': _realsense,
    'video_file': _video_file,
}


def make_camera(
    spec: CameraSpec,
    driver: str = '',
    source: str = '',
    *,
    rate: float | None = None,
    loop: bool = False,
    **options: Any,
) -> ThreadedCamera:
    """A camera that gives images as the contract's `spec` says; not connected yet.

    Args:
        spec: name and size of the images, the rate asked of a device, and which device that is.
        driver: instead of the spec's: 'realsense', 'opencv' or 'video_file'; then the spec's
            source and options, which are another driver's, are left aside.
        source: instead of the spec's: serial number, device ('0', '/dev/video0') or path of a file.
        rate: Hz; None = the spec's for a device and the file's own for a file; for a video file,
            0 = as fast as it is read.
        loop: files begin again at their end.
        options: over the spec's: of opencv `resize` (crop and scale images of a device that has no
            such size; the others always do) and `fourcc` (pixel format asked of a device, e.g.
            'MJPG'); of realsense see RealSenseOptions.

    Raises:
        CameraError: an unknown driver, or a source or option that cannot be; the message names the
            cure.
    """
    driver = driver or spec.driver
    if driver not in CAMERAS:
        raise CameraError(
            f'unknown driver {driver!r} of camera {spec.name!r}{suggestion(driver, CAMERAS)}'
        )
    if driver == spec.driver:
        source, options = source or spec.source, {**spec.options, **options}
    return CAMERAS[driver](spec, source, options, rate, loop)


__all__ = ['CAMERAS', 'make_camera']
