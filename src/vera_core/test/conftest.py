from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A laden machine is slow; that is no mistake of the code under test.
settings.register_profile('vera', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('vera')

TWO_CAMERAS = """\
embodiment: arm
channels:
  - {name: a, joint: shoulder, kind: joint_delta, unit: rad, scale: 0.1}
  - {name: b, joint: elbow, kind: joint_delta, unit: rad}
  - {name: grip, kind: gripper, unit: ratio}
joints:
  - {name: shoulder, position: [-3.0, 3.0], velocity: 2.0, acceleration: 25.0}
  - {name: elbow, position: [-2, 2.5], velocity: 1.5, acceleration: 20.0}
home: {shoulder: 0.5, elbow: -0.5}
control: {rate: 100, state_timeout: 0.5}
video: {frame_period: 0.2, context: 4, look_ahead: 4, committed: 2, frame_timeout: 1.0}
canvas: {height: 32, width: 96}
cameras:
  - {name: top, width: 64, height: 64, rate: 20, topic: top/color/image_raw}
  - {name: side, width: 60, height: 40, rate: 10, topic: side/color/image_raw}
goal: {timeout: 30.0}
defaults: {planner: compact, translator: jacobian, robot: topic}
sim: {environment: arm, physics_rate: 1000, options: {joints: 2}}
"""


@pytest.fixture
def write(tmp_path: Path):
    """Write a contract with one piece of text replaced; returns its path."""

    def writer(old: str = '', new: str = '', text: str = TWO_CAMERAS) -> Path:
        assert old in text, f'{old!r} is not in the contract of the tests'
        path = tmp_path / 'arm.yaml'
        path.write_text(text.replace(old, new, 1) if old else text)
        return path

    return writer


@pytest.fixture
def contract(write):
    from vera_core.contract import load_contract

    return load_contract(write())
