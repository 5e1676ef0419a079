"""What rviz would hear of a running graph."""

from __future__ import annotations

import yaml
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from vera_bringup.nodes.client import VeraClient
from vera_bringup.resources import resource
from vera_bringup.rviz_config import topics


def not_shown(client: VeraClient, embodiment: str, namespace: str = 'vera') -> list[str]:
    """What is wrong with each topic of an rviz configuration; empty if rviz gets everything."""
    config = yaml.safe_load(resource('config', 'rviz', f'{embodiment}.rviz').read_text())
    offered = dict(client.node.get_topic_names_and_types())
    wrong = []
    for topic, kind, qos in topics(config):
        name = f'/{namespace}/{topic}'
        publishers = client.node.get_publishers_info_by_topic(name)
        if not publishers:
            wrong.append(f'nobody publishes {name}')
        elif offered.get(name) != [kind]:
            wrong.append(f'{name} is {offered.get(name)}, not {kind}')
        for publisher in publishers:
            profile = publisher.qos_profile
            lossy = profile.reliability != ReliabilityPolicy.RELIABLE
            fleeting = profile.durability != DurabilityPolicy.TRANSIENT_LOCAL
            # A subscriber gets nothing from a publisher that offers less than it asks for.
            if lossy and qos['Reliability Policy'] == 'Reliable':
                wrong.append(f'{name} is best effort, and rviz asks for reliable')
            if fleeting and qos['Durability Policy'] == 'Transient Local':
                wrong.append(f'{name} is volatile, and rviz asks for transient local')
    for name in ('/tf', '/tf_static'):
        if offered.get(name) != ['tf2_msgs/msg/TFMessage']:
            wrong.append(f'nobody publishes {name}')
    return wrong
