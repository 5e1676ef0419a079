"""Asks the network which nodes of a namespace are there; prints one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
import time

import rclpy
from rclpy.node import Node, NodeNameNonExistentError

# Offered only when the node has been set up; the others are known by their name.
READY_SERVICES = {'planner': 'set_goal', 'controller': 'stop', 'sim': 'reset_sim'}
READY_SUBSCRIPTIONS = {'translator': 'visual_plan'}


def nodes_in(node: Node, namespace: str) -> list[str]:
    """Names of the nodes directly in `/namespace`, sorted, without helpers of our own."""
    found = node.get_node_names_and_namespaces()
    return sorted({n for n, ns in found if ns == f'/{namespace}' and not n.startswith('_vera_')})


def ready(node: Node, namespace: str, name: str) -> bool:
    """Whether a node is there and has what it only has once it works."""
    if name in READY_SERVICES:
        # Of this node: names of services that are known at all may be those of clients only.
        try:
            found = node.get_service_names_and_types_by_node(name, f'/{namespace}')
        except NodeNameNonExistentError:
            return False
        offered = {service for service, _ in found}
        return f'/{namespace}/{READY_SERVICES[name]}' in offered
    if name in READY_SUBSCRIPTIONS:
        topic = f'/{namespace}/{READY_SUBSCRIPTIONS[name]}'
        return any(i.node_name == name for i in node.get_subscriptions_info_by_topic(topic))
    return name in nodes_in(node, namespace)


def main() -> int:
    """Entry point: exit code 1 if not all of `--nodes` came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--namespace', required=True)
    parser.add_argument('--seconds', type=float, default=1.2, help='how long to listen')
    parser.add_argument('--nodes', default='', help='wait until all of these are there and active')
    args = parser.parse_args()
    rclpy.init()
    node = Node('_vera_probe', namespace='', enable_rosout=False, start_parameter_services=False)
    deadline = time.monotonic() + args.seconds
    found: list[str] = []
    wanted = [name for name in args.nodes.split(',') if name]
    while time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.05)
        found = nodes_in(node, args.namespace)
        if found and all(ready(node, args.namespace, name) for name in wanted):
            break
    print(json.dumps({'nodes': found}), flush=True)
    missing = [name for name in wanted if not ready(node, args.namespace, name)]
    rclpy.try_shutdown()
    return 1 if missing else 0


if __name__ == '__main__':
    sys.exit(main())
