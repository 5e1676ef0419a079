"""Image and camera_info of one camera, always with the same stamp."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMsg

from vera_core.contract import CameraSpec
from vera_core.nodes.convert import image_to_msg, stamp_to_msg
from vera_core.seams import Image


class CameraPublisher:
    """Publishes one camera's images on its topic, and their camera_info beside it.

    The info tells the size only: a K of zeros means `not calibrated` (sensor_msgs/CameraInfo).
    Nothing in the stack needs a calibration.
    """

    def __init__(self, node: Node, camera: CameraSpec, qos: QoSProfile) -> None:
        self.frame_id = f'{camera.name}_color_optical_frame'
        self.images = node.create_publisher(ImageMsg, camera.topic, qos)
        self._infos = node.create_publisher(CameraInfo, camera.info_topic, qos)
        self._info = CameraInfo(width=camera.width, height=camera.height)
        self._info.header.frame_id = self.frame_id

    def publish(self, image: Image, stamp: int) -> None:
        """Publish uint8 [H, W, 3] RGB, acquired at `stamp` [ns]."""
        self.images.publish(image_to_msg(image, stamp, self.frame_id))
        self._info.header.stamp = stamp_to_msg(stamp)
        self._infos.publish(self._info)
