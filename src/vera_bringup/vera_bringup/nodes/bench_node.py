"""Both ends of `vera bench transport`: a stand-in camera and a sink, each its own process.

Run as `python -m vera_bringup.nodes.bench_node source|sink ...`. The stamps are CLOCK_MONOTONIC,
which all processes of one machine share, so a latency needs no clock synchronisation.
"""

from __future__ import annotations

import argparse
import array
import json
import sys
import time

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image

from vera_core.nodes.qos import IMAGE  # best effort: loss shows instead of being repaired

SETTLE = 1.0  # s between the first match and the first counted frame: discovery is not transport


def topic(index: int) -> str:
    """Topic of stand-in camera `index`."""
    return f'bench/camera_{index}/image_raw'


def source(args: argparse.Namespace) -> int:
    """Publish numbered frames at a steady rate once the sink has been discovered."""
    rclpy.init()
    node = Node(f'bench_camera_{args.index}')
    publisher = node.create_publisher(Image, topic(args.index), IMAGE)
    pixels = np.random.default_rng(args.index).integers(
        0, 255, (args.height, args.width, 3), dtype=np.uint8
    )
    message = Image(height=args.height, width=args.width, encoding='rgb8', step=3 * args.width)
    deadline = time.monotonic() + args.patience
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > deadline:
            print(f'{topic(args.index)}: no subscriber in {args.patience} s', file=sys.stderr)
            return 1
        rclpy.spin_once(node, timeout_sec=0.05)
    # Cameras of one rig are not in phase; neither are these.
    start = time.monotonic() + SETTLE + args.index / (args.rate * args.cameras)
    frames = round(args.rate * args.seconds)
    for number in range(frames):
        pause = start + number / args.rate - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        pixels[0, 0, 0] = number % 256
        data = array.array('B')
        data.frombytes(pixels.tobytes())
        message.data = data
        message.header.frame_id = str(number)
        now = time.monotonic_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
        publisher.publish(message)
    print(json.dumps({'sent': frames}), flush=True)
    time.sleep(0.5)  # a best-effort writer that closes at once takes the last frame with it
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def sink(args: argparse.Namespace) -> int:
    """Count frames and latencies until every camera has come and gone, then print JSON."""
    rclpy.init()
    node = Node('bench_sink')
    seen: list[set[int]] = [set() for _ in range(args.cameras)]
    latencies: list[int] = []

    def receive(index: int, message: Image) -> None:
        now = time.monotonic_ns()
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        latencies.append(now - stamp)
        seen[index].add(int(message.header.frame_id))

    for i in range(args.cameras):
        node.create_subscription(Image, topic(i), lambda m, i=i: receive(i, m), IMAGE)
    deadline = time.monotonic() + args.patience + args.seconds + SETTLE + 10
    came = False
    try:
        while time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.1)
            present = [node.count_publishers(topic(i)) > 0 for i in range(args.cameras)]
            came = came or all(present)
            if came and not any(present):
                break
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    print(json.dumps({'received': [len(s) for s in seen], 'latencies_ns': latencies}), flush=True)
    rclpy.try_shutdown()
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of both ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('end', choices=['source', 'sink'])
    parser.add_argument('--index', type=int, default=0)
    parser.add_argument('--cameras', type=int, default=3)
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--rate', type=float, default=30.0, help='Hz')
    parser.add_argument('--seconds', type=float, default=30.0)
    parser.add_argument('--patience', type=float, default=20.0, help='s to wait for discovery')
    args = parser.parse_args(argv)
    return source(args) if args.end == 'source' else sink(args)


if __name__ == '__main__':
    sys.exit(main())
