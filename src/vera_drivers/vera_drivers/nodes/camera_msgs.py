"""What one camera publishes: image and camera_info with the same stamp, depth and clocks."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, TimeReference
from sensor_msgs.msg import Image as ImageMsg

from vera_core.contract import CameraSpec, Contract
from vera_core.nodes.base import VeraNode
from vera_core.nodes.convert import image_to_msg, stamp_to_msg
from vera_core.seams import Frame, Image
from vera_drivers.cameras.base import Intrinsics, SensorFrame


def calibrated(contract: Contract, name: str) -> Intrinsics | None:
    """The contract's calibration of a camera, if it has one and shows perspective."""
    for one in contract.calibration:
        if one.name == name and one.model == 'pinhole':
            return Intrinsics(one.focal, one.centre)
    return None


class CameraPublisher:
    """Publishes one camera's images on its topic, and their camera_info beside it.

    Images are rectified: D is empty, R the identity, and P is K. A K of zeros means `not
    calibrated` (sensor_msgs/CameraInfo); only what computes in metres needs it.

    Attributes:
        intrinsics: told in camera_info: the contract's unless a device tells its own; or None.
    """

    def __init__(self, node: VeraNode, camera: CameraSpec, qos: QoSProfile) -> None:
        self.frame_id = f'{camera.name}_color_optical_frame'
        self._node, self._qos = node, qos
        self._base = camera.topic.rpartition('/')[0] or camera.name
        self._name = camera.name
        self.images = node.create_publisher(ImageMsg, camera.topic, qos)
        self._infos = node.create_publisher(CameraInfo, camera.info_topic, qos)
        self._depths: Any = None
        self._clocks: Any = None
        self._info = CameraInfo(width=camera.width, height=camera.height)
        self._info.header.frame_id = self.frame_id
        self.intrinsics: Intrinsics | None = None
        self.know(calibrated(node.contract, camera.name))

    def know(self, intrinsics: Intrinsics | None) -> None:
        """From now on camera_info tells these; None leaves what it tells."""
        if intrinsics is None or intrinsics == self.intrinsics:
            return
        self.intrinsics = intrinsics
        (fx, fy), (cx, cy) = intrinsics.focal, intrinsics.centre
        self._info.distortion_model = 'plumb_bob'
        self._info.d = [0.0] * 5
        self._info.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
        self._info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        self._info.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]

    def expect(self, frame: Frame) -> None:
        """Make the publishers of what frames like this one tell beside the image."""
        if not isinstance(frame, SensorFrame):
            return
        self._clocks = self._node.create_publisher(
            TimeReference, f'{self._base}/time_reference', self._qos
        )
        if frame.depth is not None:
            topic = f'{self._name}/aligned_depth_to_color/image_raw'
            self._depths = self._node.create_publisher(ImageMsg, topic, self._qos)

    def publish(self, image: Image, stamp: int) -> None:
        """Publish uint8 [H, W, 3] RGB, acquired at `stamp` [ns]."""
        self.images.publish(image_to_msg(image, stamp, self.frame_id))
        self._info.header.stamp = stamp_to_msg(stamp)
        self._infos.publish(self._info)

    def publish_frame(self, frame: Frame) -> None:
        """Publish a camera's frame with all that it tells; see `expect`."""
        self.publish(frame.image, frame.stamp)
        if not isinstance(frame, SensorFrame) or self._clocks is None:
            return
        for source, ns in (('hardware', frame.hardware_stamp), ('host', frame.host_stamp)):
            if ns is not None:
                clock = TimeReference(source=source, time_ref=stamp_to_msg(ns))
                clock.header.stamp = stamp_to_msg(frame.stamp)
                clock.header.frame_id = self.frame_id
                self._clocks.publish(clock)
        if frame.depth is not None and self._depths is not None:
            self._depths.publish(self._depth_msg(frame.depth, frame.stamp))

    def _depth_msg(self, depth: NDArray[np.uint16], stamp: int) -> ImageMsg:
        """uint16 [H, W] mm as 16UC1, as other drivers publish depth."""
        height, width = depth.shape
        data = array.array('B')
        data.frombytes(np.ascontiguousarray(depth, '<u2').view(np.uint8).data)
        msg = ImageMsg(
            height=height, width=width, encoding='16UC1', is_bigendian=0, step=2 * width, data=data
        )
        msg.header.stamp, msg.header.frame_id = stamp_to_msg(stamp), self.frame_id
        return msg


__all__ = ['CameraPublisher', 'calibrated']
