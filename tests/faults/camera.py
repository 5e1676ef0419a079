"""A camera as a process of its own, between the simulation and the graph; SIGUSR1 freezes it.

Killing it is pulling the plug. Frozen, it goes on stamping one and the same picture afresh.
"""

from __future__ import annotations

import signal
import sys

import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image

from vera_core.nodes.qos import IMAGE


def main(name: str) -> None:
    """Pass on `<name>/raw` as `<name>/color/image_raw`, in namespace /vera."""
    rclpy.init()
    node = Node(f'camera_{name}', namespace='vera')
    images = node.create_publisher(Image, f'{name}/color/image_raw', IMAGE)
    frozen = [False]
    kept: list[Image] = []
    signal.signal(signal.SIGUSR1, lambda *_: frozen.__setitem__(0, True))

    def on_image(msg: Image) -> None:
        if frozen[0] and kept:
            msg.data = kept[0].data
        kept[:] = [msg]
        images.publish(msg)

    node.create_subscription(Image, f'{name}/raw', on_image, IMAGE)
    rclpy.spin(node)


if __name__ == '__main__':
    main(sys.argv[1])
