"""One camera as one process: a device or a recording onto the topic that the contract names."""

from __future__ import annotations

import sys
from typing import Any

from vera_core.nodes.base import ERROR, OK, WARN, VeraNode, run_node
from vera_core.nodes.qos import IMAGE
from vera_core.seams import Frame
from vera_drivers.cameras.base import ThreadedCamera
from vera_drivers.nodes.camera_msgs import CameraPublisher, calibrated
from vera_drivers.registry import CAMERAS, make_camera
from vera_drivers.stream import CameraStream, StreamState, StreamStatus

LEVELS = {
    StreamState.CLOSED: OK,
    StreamState.STREAMING: OK,
    StreamState.RECONNECTING: ERROR,
    StreamState.ENDED: WARN,
    StreamState.FAILED: ERROR,
}
# A device and the contract's calibration may differ by so much; more is another lens or size.
LENS_TOLERANCE = 0.03


class CameraNode(VeraNode):
    """Publishes `<topic>` and its camera_info; reports stalls and reconnects a few times.

    Devices that know more publish it too: `<camera>/aligned_depth_to_color/image_raw` (16UC1, mm)
    and `time_reference` beside the image, the stamp of each image on the device's own clock
    (source 'hardware') and when it arrived here ('host').

    A camera that cannot be opened at the start ends the process with exit code 2, one that stays
    away with 1: whoever supervises it may try again.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('camera', **kwargs)

    def setup(self) -> None:
        name = self.param('camera', '', 'camera of the contract; empty = its first')
        self._driver = self.param(
            'driver', '', "what reads it; empty = the contract's", choices=('', *CAMERAS)
        )
        self._source = self.param(
            'source', '',
            "serial number, device ('0', '/dev/video0') or file; empty = the contract's",
        )
        self._rate = self.param(
            'rate', 0.0, "[Hz]; 0 = the contract's for a device, the file's own for a file", low=0.0
        )
        self._fast = self.param('fast', False, 'read a file as fast as possible; `rate` is ignored')
        self._loop = self.param('loop', False, 'begin a file again at its end')
        resize = self.param('resize', False, 'opencv: crop and scale a device of another size')
        fourcc = self.param('fourcc', '', "opencv: pixel format asked of a device, e.g. 'MJPG'")
        self._options = {
            key: value for key, value in (('resize', resize), ('fourcc', fourcc)) if value
        }
        stall = self.param(
            'stall_timeout', 1.0, '[s] without a frame before it has stalled', low=0.05
        )
        frozen = self.param(
            'frozen_timeout', 1.0,
            '[s] of one and the same picture with fresh stamps before it is frozen; 0 = never',
            low=0.0,
        )
        attempts = self.param('reconnects', 5, 'tries in a row before the node ends', low=0)
        self._spec = self.contract.camera(name) if name else self.contract.cameras[0]
        self._calibrated = calibrated(self.contract, self._spec.name)
        self._publisher = CameraPublisher(self, self._spec, IMAGE)
        self._stream = CameraStream(
            self._make, self._on_frame, self._on_change, stall_after=stall, frozen_after=frozen,
            attempts=attempts,
        )
        self._publisher.expect(self._stream.open())

    def start(self) -> None:
        self._stream.start()

    def halt(self) -> None:
        self._stream.stop()

    def teardown(self) -> None:
        if hasattr(self, '_stream'):
            self._stream.stop()

    def publish_diagnostics(self) -> None:
        """As of every node, with the stream's state as it is now."""
        if self.active:
            self._report(self._stream.status)
        super().publish_diagnostics()

    def _make(self) -> ThreadedCamera:
        return make_camera(
            self._spec,
            self._driver,
            self._source,
            rate=0.0 if self._fast else self._rate or None,
            loop=self._loop,
            **self._options,
        )

    def _on_frame(self, frame: Frame) -> None:
        with self.monitor('frame'):
            expected = (self._spec.height, self._spec.width, 3)
            if frame.image.shape != expected:
                raise ValueError(
                    f'camera {self._spec.name!r} gave {list(frame.image.shape)}; the contract says '
                    f'{list(expected)}'
                )
            camera = self._stream.camera
            if camera is not None:
                self._publisher.know(camera.intrinsics)
            self._publisher.publish_frame(frame)

    def _on_change(self, status: StreamStatus) -> None:
        self._report(status)
        log = self.get_logger()
        if status.state is StreamState.FAILED:
            self.fail(status.message)
        elif status.state is StreamState.RECONNECTING:
            log.error(status.message)
        elif status.message:
            log.info(status.message)
        elif status.reconnects:
            log.info(f'camera {self._spec.name!r} is back')

    def _report(self, status: StreamStatus) -> None:
        level, message, camera = LEVELS[status.state], status.message, self._stream.camera
        if status.state is StreamState.STREAMING:
            message = '; '.join(filter(None, (message, self._doubts(camera))))
            level = WARN if message else OK
        self.report(
            f'camera {self._spec.name}',
            level,
            message or status.state.value,
            state=status.state.value,
            frames=status.frames,
            reconnects=status.reconnects,
            **(camera.details if camera is not None else {}),
        )

    def _doubts(self, camera: ThreadedCamera | None) -> str:
        """What is not as it should be although pictures come."""
        if camera is None:
            return ''
        told, lens = [camera.warning], camera.intrinsics
        if lens is not None and self._calibrated is not None:
            mine, factory = (
                [*one.focal, *one.centre] for one in (self._calibrated, lens)
            )
            if max(abs(a - b) for a, b in zip(mine, factory, strict=True)) > (
                LENS_TOLERANCE * lens.focal[0]
            ):
                told.append(
                    f"the contract's calibration of camera {self._spec.name!r} is of another lens "
                    'or image size than the device tells: calibrate it again'
                )
        return '; '.join(filter(None, told))


def main() -> int:
    """Entry point of the executable."""
    return run_node(CameraNode)


if __name__ == '__main__':
    sys.exit(main())
