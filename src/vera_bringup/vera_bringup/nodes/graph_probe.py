"""Looks at a running graph for a while and prints what it saw as one JSON line.

Its fields: nodes (names, one for each node), topics (how many have writers and readers),
mismatches (topic, writer, reader, reason), types (of topics with more than one), clock (offset and
uncertainty [s] against the controller's machine, or null).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vera_bringup.nodes.clock_exchange import ClockAsker

ASK_PERIOD_S = 0.2


def mismatches(
    topic: str, writers: list[TopicEndpointInfo], readers: list[TopicEndpointInfo]
) -> list[dict[str, str]]:
    """Pairs of the topic that cannot hear each other, with the reason."""
    found = []
    for writer in writers:
        for reader in readers:
            state, reason = qos_check_compatible(writer.qos_profile, reader.qos_profile)
            if state == QoSCompatibility.ERROR:
                found.append(
                    {
                        'topic': topic,
                        'writer': writer.node_name,
                        'reader': reader.node_name,
                        'reason': reason.replace('ERROR: ', ' ').strip(' ;'),
                    }
                )
    return found


def look(node: Node, namespace: str) -> dict[str, Any]:
    """What the node knows of the graph by now."""
    found = node.get_node_names_and_namespaces()
    inside = [n for n, space in found if space == f'/{namespace}' and not n.startswith('_vera_')]
    types, pairs, topics = {}, [], 0
    for topic, kinds in node.get_topic_names_and_types():
        writers = node.get_publishers_info_by_topic(topic)
        readers = node.get_subscriptions_info_by_topic(topic)
        writers, readers = (
            [end for end in ends if not end.node_name.startswith('_vera_')]
            for ends in (writers, readers)
        )
        topics += bool(writers and readers)
        pairs += mismatches(topic, writers, readers)
        if len(kinds) > 1:
            types[topic] = sorted(kinds)
    return {'nodes': sorted(inside), 'topics': topics, 'mismatches': pairs, 'types': types}


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--namespace', required=True)
    parser.add_argument('--seconds', type=float, default=4.0, help='how long to look')
    args = parser.parse_args()
    rclpy.init()
    node = Node(
        '_vera_graph_probe', namespace=args.namespace, enable_rosout=False,
        start_parameter_services=False,
    )
    asker = ClockAsker(node, f'{socket.gethostname()}/probe{os.getpid()}')
    deadline = time.monotonic() + args.seconds
    ask_at = 0.0
    while (now := time.monotonic()) < deadline:
        if now >= ask_at:
            asker.ask()
            ask_at = now + ASK_PERIOD_S
        rclpy.spin_once(node, timeout_sec=0.05)
    best = asker.filter.best
    clock = None if best is None else [best.seconds, best.uncertainty]
    print(json.dumps({**look(node, args.namespace), 'clock': clock}), flush=True)
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
