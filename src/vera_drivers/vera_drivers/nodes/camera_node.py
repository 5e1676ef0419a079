"""One camera as one process: a device or a video file onto the topic that the contract names."""

from __future__ import annotations

import sys
from typing import Any

from vera_core.nodes.base import ERROR, OK, WARN, VeraNode, run_node
from vera_core.nodes.qos import IMAGE
from vera_core.seams import Frame
from vera_drivers.cameras.base import ThreadedCamera
from vera_drivers.nodes.camera_msgs import CameraPublisher
from vera_drivers.registry import CAMERAS, make_camera
from vera_drivers.stream import CameraStream, StreamState, StreamStatus

LEVELS = {
    StreamState.CLOSED: OK,
    StreamState.STREAMING: OK,
    StreamState.RECONNECTING: ERROR,
    StreamState.ENDED: WARN,
    StreamState.FAILED: ERROR,
}


class CameraNode(VeraNode):
    """Publishes `<topic>` and its camera_info; reports stalls and reconnects a few times.

    A camera that cannot be opened at the start ends the process with exit code 2, one that stays
    away with 1: whoever supervises it may try again.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('camera', **kwargs)

    def setup(self) -> None:
        name = self.param('camera', '', 'camera of the contract; empty = its first')
        self._kind = self.param('driver', 'opencv', 'what reads it', choices=tuple(CAMERAS))
        self._source = self.param('source', '', "device, e.g. '0' or '/dev/video0'; or a file")
        self._rate = self.param(
            'rate', 0.0, "[Hz]; 0 = the contract's for a device, the file's own for a file", low=0.0
        )
        self._fast = self.param('fast', False, 'read a file as fast as possible; `rate` is ignored')
        self._loop = self.param('loop', False, 'begin a file again at its end')
        self._resize = self.param('resize', False, 'crop and scale a device of another size')
        self._fourcc = self.param('fourcc', '', "pixel format asked of a device, e.g. 'MJPG'")
        stall = self.param(
            'stall_timeout', 1.0, '[s] without a frame before it has stalled', low=0.05
        )
        attempts = self.param('reconnects', 5, 'tries in a row before the node ends', low=0)
        self._spec = self.contract.camera(name) if name else self.contract.cameras[0]
        self._publisher = CameraPublisher(self, self._spec, IMAGE)
        self._stream = CameraStream(
            self._make, self._on_frame, self._on_change, stall_after=stall, attempts=attempts
        )
        self._stream.open()

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
            self._kind,
            self._spec,
            self._source,
            rate=0.0 if self._fast else self._rate or None,
            loop=self._loop,
            resize=self._resize,
            fourcc=self._fourcc,
        )

    def _on_frame(self, frame: Frame) -> None:
        with self.monitor('frame'):
            expected = (self._spec.height, self._spec.width, 3)
            if frame.image.shape != expected:
                raise ValueError(
                    f'camera {self._spec.name!r} gave {list(frame.image.shape)}; the contract says '
                    f'{list(expected)}'
                )
            self._publisher.publish(frame.image, frame.stamp)

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
        self.report(
            f'camera {self._spec.name}',
            LEVELS[status.state],
            status.message or status.state.value,
            state=status.state.value,
            frames=status.frames,
            reconnects=status.reconnects,
        )


def main() -> int:
    """Entry point of the executable."""
    return run_node(CameraNode)


if __name__ == '__main__':
    sys.exit(main())
