"""RealSense cameras through pyrealsense2: colour, aligned depth, intrinsics and three clocks.

Images are rectified and cut to the contract's size; the intrinsics told are those of what is
published. The stamp is the SDK's global time, the device's clock mapped to this machine's: it tells
when the picture was taken, and the same for all cameras of a machine. Where that time jumps, or the
device knows only its own clock, it is the time of arrival. Both others are kept beside it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.clocks import NS_PER_S
from vera_core.contract_reader import ContractError, build
from vera_core.seams import Frame, Image
from vera_drivers.cameras.base import (
    CameraEndError,
    CameraError,
    Intrinsics,
    SensorFrame,
    ThreadedCamera,
    fit_image,
)

RECORDINGS = ('.db3', '.bag')
DEFAULT_SIZE = (640, 480)  # every model has it
POLL_MS = 200  # longest wait inside the SDK, so that closing never waits longer
# A picture older than this, or from the future, has another clock's stamp.
OLDEST_NS, FUTURE_NS = NS_PER_S, 5_000_000
# Cameras that start at the same moment exceed what the USB bus grants; so one at a time, over all
# processes of this machine. Whoever waits longer than this starts all the same.
START_LOCK = Path(tempfile.gettempdir()) / 'vera-realsense.lock'
START_PATIENCE_S = 15.0
# Distortion below this is left alone [px].
LEAST_DISTORTION = 0.1
GRID = 8  # px between the points at which the SDK's lens model is asked


@dataclass(frozen=True)
class RealSenseOptions:
    """What may be chosen.

    Attributes:
        width, height: of the colour stream [px]; 0 = the contract's if the device has that size,
            else 640 x 480. Pictures are then cut and scaled to the contract's.
        rate: of the streams [Hz]; 0 = the contract's.
        depth: also read depth, aligned with the colour.
        exposure: in the device's own unit (`rs-enumerate-devices -o`); 0 = automatic.
        gain: in the device's own unit; 0 = automatic.
        reset: reset a device that has stalled before it is opened again.
    """

    width: int = 0
    height: int = 0
    rate: int = 0
    depth: bool = False
    exposure: float = 0.0
    gain: float = 0.0
    reset: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any], camera: str) -> RealSenseOptions:
        """From the contract's `options`; raises CameraError naming what is wrong."""
        try:
            return build(cls, options)
        except ContractError as error:
            raise CameraError(f'options of camera {camera!r}: {error}') from error


@dataclass(frozen=True)
class DeviceInfo:
    """A connected device: serial number, model, firmware, USB port and the bus it got."""

    serial: str
    model: str
    firmware: str
    port: str
    usb: str

    @property
    def warning(self) -> str:
        """Whether its USB connection is too slow, with the cure; or ''."""
        if not self.usb.startswith('2'):
            return ''
        return (
            f'it is on USB {self.usb}, which carries one small stream at best: use a USB 3 port '
            'and cable, and no hub for several cameras'
        )


def load_sdk() -> Any:
    """The module pyrealsense2; raises CameraError with the cure where there is none."""
    try:
        import pyrealsense2
    except ImportError as error:
        if 'libusb' in str(error):
            raise CameraError(
                'pyrealsense2 needs libusb: sudo apt install libusb-1.0-0'
            ) from error
        raise CameraError(
            'RealSense cameras need pyrealsense2: pip install -r requirements/cameras.txt'
        ) from error
    return pyrealsense2


def connected_devices(sdk: Any = None) -> list[DeviceInfo]:
    """All RealSense devices of this machine, by serial number; raises CameraError."""
    sdk = sdk or load_sdk()
    return sorted((_info(sdk, d) for d in sdk.context().query_devices()), key=lambda i: i.serial)


class RealSenseCamera(ThreadedCamera):
    """One RealSense, or a recording of one.

    Args:
        name: what messages call it.
        source: serial number, with or without a leading '_'; path of a .db3 or .bag recording;
            '' takes the only device there is.
        width, height: size of the images it gives [px].
        rate: frames per second asked of the device [Hz].
        options: see RealSenseOptions.
        loop: a recording begins again at its end.
        sdk: stands in for pyrealsense2.
    """

    def __init__(
        self,
        name: str,
        source: str,
        width: int,
        height: int,
        rate: float,
        options: RealSenseOptions | None = None,
        *,
        loop: bool = False,
        first_frame_timeout: float = 8.0,
        sdk: Any = None,
    ) -> None:
        super().__init__(name, first_frame_timeout)
        self.options = options or RealSenseOptions()
        self._size = (width, height)
        self._rate = self.options.rate or rate
        self._loop = loop
        self._given_sdk = sdk
        self._file = Path(source).expanduser() if source.endswith(RECORDINGS) else None
        self._serial = '' if self._file else source.removeprefix('_')
        self._sdk: Any = None
        self._pipeline: Any = None
        self._device: Any = None
        self._playback: Any = None
        self._align: Any = None
        self._lock: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._info = DeviceInfo(self._serial, '', '', '', '')
        self._intrinsics: Intrinsics | None = None
        self._maps: tuple[NDArray, NDArray] | None = None
        self._depth_mm = 1.0
        self._last_stamp = self._last_number = self._lost = self._jumps = 0
        self._clock, self._delay_ms = '', 0.0

    @property
    def device(self) -> str:
        """Serial number, or path of the recording."""
        return str(self._file) if self._file else f'RealSense {self._serial or "(any)"}'

    @property
    def intrinsics(self) -> Intrinsics | None:
        """Of the images it gives, from the device's factory calibration."""
        return self._intrinsics

    @property
    def warning(self) -> str:
        """A USB port that is too slow."""
        return self._info.warning and f'{self._label}: {self._info.warning}'

    @property
    def details(self) -> dict[str, Any]:
        """Device, bus, and how its clock does."""
        return {
            'model': self._info.model,
            'serial': self._info.serial,
            'firmware': self._info.firmware,
            'usb': self._info.usb,
            'port': self._info.port,
            'clock': self._clock,
            'clock_jumps': self._jumps,
            'arrived_after_ms': f'{self._delay_ms:.1f}',
            'lost_frames': self._lost,
        }

    def revive(self) -> bool:
        """Reset the device; it comes back after some seconds, and reconnecting waits for that."""
        if not self.options.reset or self._device is None or self._file is not None:
            return False
        with suppress(RuntimeError):  # it was unplugged
            self._device.hardware_reset()
        return True

    # Opening ---------------------------------------------------------------------------------

    def _open(self) -> None:
        self._sdk = sdk = self._given_sdk or load_sdk()
        self._forget()
        config = sdk.config()
        if self._file is not None:
            if not self._file.is_file():
                raise CameraError(f'{self._label}: there is no such file; check the path')
            config.enable_device_from_file(str(self._file), self._loop)
        else:
            self._choose(config)
            self._take_lock()
        pipeline = sdk.pipeline()
        try:
            profile = pipeline.start(config)
            self._pipeline = pipeline
            self._device = profile.get_device()
            self._info = _info(sdk, self._device)
            if self._file is not None:
                self._playback = self._device.as_playback()
            self._prepare(profile)
        except (RuntimeError, CameraError) as error:
            self._release()
            if isinstance(error, CameraError):
                raise
            cure = (
                'record it anew with pyrealsense2 2.58 or later, which writes .db3'
                if self._file
                else 'another program uses it, or the USB bus cannot carry it; close the other, or '
                'ask for a smaller size or rate'
            )
            raise CameraError(f'{self._label} cannot be started: {error}; {cure}') from error

    def _choose(self, config: Any) -> None:
        """Ask for a device and its streams by name; raises CameraError naming what there is."""
        sdk = self._sdk
        found = {_info(sdk, device).serial: device for device in sdk.context().query_devices()}
        here = ', '.join(sorted(found)) or 'none'
        if not self._serial:
            if len(found) != 1:
                cure = 'plug one in' if not found else 'give the serial number of one as `source`'
                raise CameraError(
                    f'camera {self.name!r}: {len(found)} RealSense devices here ({here}); {cure}'
                )
            (self._serial,) = found
        if self._serial not in found:
            raise CameraError(
                f'{self._label} is not connected (here: {here}); plug it in, or check the number'
            )
        device = found[self._serial]
        modes = _modes(sdk, device)
        rate = round(self._rate)
        rates = {mode[2] for mode in modes}
        wanted = (self.options.width, self.options.height)
        if wanted == (0, 0):
            wanted = self._size if (*self._size, rate) in modes else DEFAULT_SIZE
        if (*wanted, rate) not in modes or rate != self._rate:
            raise CameraError(
                f'{self._label} has no colour stream of {wanted[0]}x{wanted[1]} at '
                f'{self._rate:g} Hz; rates: {_listed(rates)}; sizes at {rate} Hz: '
                f'{_listed({f"{w}x{h}" for w, h, r in modes if r == rate})}'
            )
        config.enable_device(self._serial)
        config.enable_stream(sdk.stream.color, *wanted, sdk.format.rgb8, rate)
        if self.options.depth:
            config.enable_stream(sdk.stream.depth, 0, 0, sdk.format.z16, rate)
        self._set_options(device)

    def _set_options(self, device: Any) -> None:
        option = self._sdk.option
        sensors = list(device.query_sensors())
        for sensor in sensors:
            if sensor.supports(option.global_time_enabled):
                sensor.set_option(option.global_time_enabled, 1)
        colour = next((s for s in sensors if _modes_of(self._sdk, s)), sensors[0])
        # Else a dark scene halves the rate.
        if colour.supports(option.auto_exposure_priority):
            colour.set_option(option.auto_exposure_priority, 0)
        manual = bool(self.options.exposure or self.options.gain)
        if colour.supports(option.enable_auto_exposure):
            colour.set_option(option.enable_auto_exposure, float(not manual))
        for name in ('exposure', 'gain'):
            value = getattr(self.options, name)
            if not value:
                continue
            which = getattr(option, name)
            if not colour.supports(which):
                raise CameraError(f'{self._label} has no option {name}; take it away')
            limits = colour.get_option_range(which)
            if not limits.min <= value <= limits.max:
                raise CameraError(
                    f'{self._label}: {name} is {value:g}; it must be {limits.min:g} to '
                    f'{limits.max:g}'
                )
            colour.set_option(which, value)

    def _prepare(self, profile: Any) -> None:
        """Intrinsics, rectification and depth of what was started."""
        sdk = self._sdk
        streams = {stream.stream_type(): stream for stream in profile.get_streams()}
        if sdk.stream.color not in streams:
            raise CameraError(f'{self._label} has no colour stream; record one with it')
        lens = streams[sdk.stream.color].as_video_stream_profile().get_intrinsics()
        self._maps = _rectification(sdk, lens)
        own = Intrinsics((lens.fx, lens.fy), (lens.ppx, lens.ppy))
        self._intrinsics = own.fitted((lens.width, lens.height), *self._size)
        self._align = None
        if self.options.depth:
            if sdk.stream.depth not in streams:
                raise CameraError(f'{self._label} has no depth; set depth to false')
            self._align = sdk.align(sdk.stream.color)
            for sensor in self._device.query_sensors():
                if sensor.supports(sdk.option.depth_units):
                    self._depth_mm = 1e3 * sensor.get_option(sdk.option.depth_units)

    # Reading ---------------------------------------------------------------------------------

    def _read(self) -> tuple[Image, int]:
        frame, _ = self._next()
        return frame.image, time.time_ns() - frame.stamp

    def _next(self) -> tuple[Frame, int]:
        frames, colour = self._wait()
        host = time.time_ns()
        self._free_lock()
        number = int(colour.get_frame_number())
        if 0 < self._last_number < number:
            self._lost += number - self._last_number - 1
        self._last_number = number
        stamp = self._stamp(colour, host)
        hardware = None
        clock = self._sdk.frame_metadata_value.frame_timestamp
        if colour.supports_frame_metadata(clock):
            hardware = 1000 * int(colour.get_frame_metadata(clock))
        image = self._shape(np.asanyarray(colour.get_data()))
        depth = None
        if self._align is not None:
            measured = np.asanyarray(self._align.process(frames).get_depth_frame().get_data())
            if abs(self._depth_mm - 1) > 1e-6:
                measured = np.clip(np.rint(measured * self._depth_mm), 0, 65535).astype(np.uint16)
            depth = self._shape(measured, cv2.INTER_NEAREST)
        return (
            SensorFrame(image, stamp, depth, hardware, host),
            time.monotonic_ns() - (time.time_ns() - stamp),
        )

    def _wait(self) -> tuple[Any, Any]:
        """The next frames, and of them the colour; raises CameraError when none will come."""
        while not self._closing.is_set():
            good, frames = self._pipeline.try_wait_for_frames(POLL_MS)
            colour = frames.get_color_frame() if good else None
            # With depth a picture may come twice.
            if colour and colour.get_frame_number() != self._last_number:
                return frames, colour
            if self._playback is not None:
                if self._playback.current_status() == self._sdk.playback_status.stopped:
                    raise CameraEndError(f'{self._label} ended; set loop to true to begin again')
            elif not good and not self._connected():
                raise CameraError(f'{self._label} was unplugged; plug it in again')
        raise CameraError(f'{self._label} was closed')

    def _connected(self) -> bool:
        devices = self._sdk.context().query_devices()
        return any(_info(self._sdk, device).serial == self._serial for device in devices)

    def _stamp(self, colour: Any, host: int) -> int:
        """When the picture was taken, wall clock [ns]; later than the one before."""
        domain = colour.get_frame_timestamp_domain()
        self._clock = str(getattr(domain, 'name', domain))
        stamp = round(colour.get_timestamp() * 1e6)
        known = domain != self._sdk.timestamp_domain.hardware_clock and self._playback is None
        if known and not (
            -FUTURE_NS <= host - stamp <= OLDEST_NS and stamp > self._last_stamp
        ):
            self._jumps += 1
            known = False
        if not known:
            stamp = max(host, self._last_stamp + 1)
            self._clock += ', stamped at arrival'
        self._last_stamp = stamp
        self._delay_ms += 0.1 * ((host - stamp) / 1e6 - self._delay_ms)
        return stamp

    def _shape(self, picture: NDArray[Any], method: int | None = None) -> Any:
        """Rectified and at the contract's size; never the SDK's own memory."""
        given = picture
        if self._maps is not None:
            linear = cv2.INTER_LINEAR if method is None else method
            picture = cv2.remap(picture, *self._maps, linear)
        picture = fit_image(picture, *self._size, method)
        return picture.copy() if picture is given else picture

    def _release(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with suppress(RuntimeError):  # it was unplugged
                pipeline.stop()
        self._free_lock()
        self._playback = self._align = None

    # One start at a time -----------------------------------------------------------------------

    def _take_lock(self) -> None:
        try:
            self._lock = os.open(START_LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return  # another user's; then cameras start when they start
        deadline = time.monotonic() + START_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() > deadline or self._closing.wait(0.05):
                    return

    def _free_lock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def _info(sdk: Any, device: Any) -> DeviceInfo:
    def tell(what: str) -> str:
        key = getattr(sdk.camera_info, what)
        return str(device.get_info(key)) if device.supports(key) else ''

    return DeviceInfo(
        tell('serial_number'), tell('name'), tell('firmware_version'), tell('physical_port'),
        tell('usb_type_descriptor'),
    )


def _modes_of(sdk: Any, sensor: Any) -> set[tuple[int, int, int]]:
    """(width, height, rate) of the rgb8 streams of a sensor."""
    found = set()
    for profile in sensor.get_stream_profiles():
        if profile.stream_type() == sdk.stream.color and profile.format() == sdk.format.rgb8:
            video = profile.as_video_stream_profile()
            found.add((int(video.width()), int(video.height()), int(profile.fps())))
    return found


def _modes(sdk: Any, device: Any) -> set[tuple[int, int, int]]:
    return {mode for sensor in device.query_sensors() for mode in _modes_of(sdk, sensor)}


def _listed(things: set[Any]) -> str:
    return ', '.join(str(thing) for thing in sorted(things)) or 'none'


def _rectification(sdk: Any, lens: Any) -> tuple[NDArray, NDArray] | None:
    """Where cv2.remap finds each pixel of the rectified picture; None for a straight lens.

    The lens model is the SDK's own, asked on a grid and interpolated in between.
    """
    if not any(lens.coeffs):
        return None
    u = np.unique(np.append(np.arange(0, lens.width, GRID), lens.width - 1))
    v = np.unique(np.append(np.arange(0, lens.height, GRID), lens.height - 1))
    points = np.array(
        [
            [
                sdk.rs2_project_point_to_pixel(
                    lens, [(x - lens.ppx) / lens.fx, (y - lens.ppy) / lens.fy, 1.0]
                )
                for x in u
            ]
            for y in v
        ]
    )
    straight = np.stack(np.meshgrid(u, v), -1)
    if np.abs(points - straight).max() < LEAST_DISTORTION:
        return None
    columns = _weights(u, lens.width)
    rows = _weights(v, lens.height)
    maps = [(rows @ points[..., k] @ columns.T).astype(np.float32) for k in (0, 1)]
    return maps[0], maps[1]


def _weights(knots: NDArray, size: int) -> NDArray[np.float64]:
    """Linear interpolation from the knots to 0 .. size-1, float64 [size, knots]."""
    return np.stack(
        [np.interp(np.arange(size), knots, row) for row in np.eye(len(knots))], axis=1
    )


__all__ = [
    'DeviceInfo',
    'RealSenseCamera',
    'RealSenseOptions',
    'connected_devices',
    'load_sdk',
]
