"""The rviz configuration of an embodiment: model, frames, markers, cameras and what they imagine.

The files in config/rviz are made by this module; an embodiment without one gets it when it starts:

    python -m vera_bringup.rviz_config panda > config/rviz/panda.rviz

Topics are relative: rviz is started in the namespace of the robot.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vera_bringup.resources import ResourceError, resource

if TYPE_CHECKING:
    from vera_core.contract import Contract

FIXED_FRAME = 'world'
PLUGINS = 'rviz_default_plugins'
# What a display of rviz_default_plugins subscribes to.
MESSAGES = {
    'Image': 'sensor_msgs/msg/Image',
    'MarkerArray': 'visualization_msgs/msg/MarkerArray',
    'RobotModel': 'std_msgs/msg/String',
}
#: Images beside those of the cameras: topic, name, and whether it is shown from the start.
PICTURES = (
    ('plan/image', 'Plan', True),
    ('debug/flow', 'Flow', True),
    ('debug/jacobian', 'Jacobian', False),
)


def rviz_config(contract: Contract, reach: float = 1.0) -> dict[str, Any]:
    """The configuration as plain data.

    Args:
        contract: its cameras are shown, and its robot if it names a URDF.
        reach: how far the robot reaches [m]; the view goes by it.
    """
    displays = [_display('Grid', 'Grid', {'Cell Size': 0.1, 'Plane Cell Count': 20})]
    if contract.kinematics is not None:
        source = {
            'Description Source': 'Topic',
            'Description Topic': _topic('robot_description', latched=True),
        }
        displays.append(_display('RobotModel', 'Robot', source))
    displays += [
        _display('TF', 'Frames', {'Marker Scale': round(0.3 * reach, 3)}, enabled=False),
        _display('MarkerArray', 'Goal, status, plan', {'Topic': _topic('markers')}),
    ]
    cameras = [(camera.topic, f'Camera {camera.name}', True) for camera in contract.cameras]
    displays += [
        _display('Image', name, {'Topic': _topic(topic, reliable=False, depth=2)}, enabled=shown)
        for topic, name, shown in [*cameras, *PICTURES]
    ]
    view = {
        'Class': f'{PLUGINS}/Orbit',
        'Distance': round(2.5 * reach, 3),
        'Focal Point': {'X': round(0.4 * reach, 3), 'Y': 0, 'Z': round(0.2 * reach, 3)},
        'Name': 'Current View',
        'Pitch': 0.6,
        'Target Frame': '<Fixed Frame>',
        'Yaw': 0.8,
    }
    return {
        'Panels': [
            {'Class': 'rviz_common/Displays', 'Name': 'Displays'},
            {'Class': 'rviz_common/Views', 'Name': 'Views'},
        ],
        'Visualization Manager': {
            'Displays': displays,
            'Enabled': True,
            'Global Options': {
                'Background Color': '48; 48; 48', 'Fixed Frame': FIXED_FRAME, 'Frame Rate': 30,
            },
            'Name': 'root',
            'Tools': [
                {'Class': f'{PLUGINS}/{tool}'} for tool in ('MoveCamera', 'Select', 'FocusCamera')
            ],
            'Views': {'Current': view},
        },
        'Window Geometry': {'Height': 900, 'Width': 1500},
    }  # fmt: skip


def topics(config: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(topic, message type, QoS as rviz writes it) of everything that a configuration shows."""
    found = []
    for display in config['Visualization Manager']['Displays']:
        kind = display['Class'].rpartition('/')[2]
        topic = display.get('Topic') or display.get('Description Topic')
        if topic is not None:
            found.append((topic['Value'], MESSAGES[kind], topic))
    return found


def _display(
    kind: str, name: str, properties: dict[str, Any], *, enabled: bool = True
) -> dict[str, Any]:
    return {
        'Class': f'{PLUGINS}/{kind}', 'Enabled': enabled, 'Name': name, 'Value': enabled,
        **properties,
    }  # fmt: skip


def _topic(
    name: str, *, reliable: bool = True, latched: bool = False, depth: int = 1
) -> dict[str, Any]:
    return {
        'Depth': depth,
        'Durability Policy': 'Transient Local' if latched else 'Volatile',
        'History Policy': 'Keep Last',
        'Reliability Policy': 'Reliable' if reliable else 'Best Effort',
        'Value': name,
    }


def config_text(contract: Contract) -> str:
    """The text of a configuration file."""
    import yaml

    from vera_core.kinematics.description import find_urdf
    from vera_core.kinematics.tree import KinematicTree
    from vera_core.kinematics.urdf import read_urdf

    reach = 1.0
    if contract.kinematics is not None:
        tree = KinematicTree(read_urdf(find_urdf(contract)), contract.joint_names)
        places = tree.posture(contract.home_positions).links[:, :3, 3]
        reach = max(0.1, float((places**2).sum(1).max() ** 0.5))
    return str(yaml.safe_dump(rviz_config(contract, reach), sort_keys=False, width=100))


def config_file(contract: Contract) -> Path:
    """The file to start rviz with: of config/rviz, or made now for other embodiments."""
    name = f'{contract.embodiment}.rviz'
    try:
        return resource('config', 'rviz', name)
    except ResourceError:
        folder = Path(tempfile.gettempdir()) / f'vera-{os.getuid()}'
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        path.write_text(config_text(contract), encoding='utf-8')
        return path


def main() -> int:
    """Write the configuration of an embodiment, a name or a contract file, to standard output."""
    from vera_core.contract import load_contract

    sys.stdout.write(config_text(load_contract(sys.argv[1])))
    return 0


if __name__ == '__main__':
    sys.exit(main())
