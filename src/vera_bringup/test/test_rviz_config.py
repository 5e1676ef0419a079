"""The rviz configurations: made from the contracts, and of what rviz can show."""

from __future__ import annotations

import pytest
import yaml

from vera_bringup.resources import resource
from vera_bringup.rviz_config import MESSAGES, config_file, config_text, rviz_config, topics
from vera_core.contract import load_contract

SHIPPED = ('finger', 'pusht', 'panda')
# Of rviz_common and rviz_default_plugins, as their plugin descriptions list them.
CLASSES = {
    'rviz_common/Displays', 'rviz_common/Views',
    *(f'rviz_default_plugins/{name}' for name in (
        'FocusCamera', 'Grid', 'Image', 'MarkerArray', 'MoveCamera', 'Orbit', 'RobotModel',
        'Select', 'TF',
    )),
}  # fmt: skip


def classes(node):
    if isinstance(node, dict):
        found = {node['Class']} if 'Class' in node else set()
        return found.union(*(classes(value) for value in node.values()))
    return set().union(*(classes(value) for value in node)) if isinstance(node, list) else set()


@pytest.mark.parametrize('name', SHIPPED)
def test_a_shipped_file_is_what_its_contract_makes(name):
    text = resource('config', 'rviz', f'{name}.rviz').read_text()
    remedy = f'python -m vera_bringup.rviz_config {name} > config/rviz/{name}.rviz'
    assert text == config_text(load_contract(name)), remedy
    assert config_file(load_contract(name)).name == f'{name}.rviz'


@pytest.mark.parametrize('name', SHIPPED)
def test_it_shows_every_camera_the_model_and_the_markers_with_classes_of_rviz(name):
    contract = load_contract(name)
    config = yaml.safe_load(config_text(contract))
    assert classes(config) <= CLASSES
    shown = {topic: kind for topic, kind, _ in topics(config)}
    assert {camera.topic for camera in contract.cameras} <= set(shown)
    assert shown['robot_description'] == MESSAGES['RobotModel']
    assert shown['markers'] == MESSAGES['MarkerArray']
    assert {'plan/image', 'debug/flow', 'debug/jacobian'} <= set(shown)
    # Relative: rviz runs in the namespace of the robot.
    assert not any(topic.startswith('/') for topic in shown)


def test_a_robot_without_urdf_is_shown_without_model(tmp_path, monkeypatch):
    contract = load_contract('finger', {'embodiment': 'mine', 'kinematics': None})
    assert 'robot_description' not in [topic for topic, _, _ in topics(rviz_config(contract))]
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    path = config_file(contract)
    assert path.is_relative_to(tmp_path)
    assert yaml.safe_load(path.read_text()) == rviz_config(contract)
