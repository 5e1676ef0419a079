"""`vera calibrate`: pictures into the contract, and a camera and joint_states into pictures."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from vera_bringup.cli import app
from vera_bringup.commands import calibrate
from vera_bringup.exits import CommandError, Exit
from vera_core.contract import load_contract
from vera_core.kinematics.transforms import inverse, rotation_from_quaternion, transform
from vera_core.rotations import matrix_from_rotation_vector, rotation_vector
from vera_core.seams import Frame
from vera_drivers.calibration.samples import FILE, mounting

_SPEC = importlib.util.spec_from_file_location(
    'board_views', Path(__file__).parents[2] / 'vera_drivers' / 'test' / 'board_views.py'
)
scene = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(scene)


@pytest.fixture
def panda(tmp_path):
    """A copy of the Panda's contract that may be written to."""
    folder = Path(load_contract('panda').folder)
    shutil.copytree(folder.parent / 'urdf', tmp_path / 'urdf')
    (tmp_path / 'embodiments').mkdir()
    return Path(shutil.copy(folder / 'panda.yaml', tmp_path / 'embodiments' / 'panda.yaml'))


def wrist_scene(contract, count):
    """Joints, pictures of the wrist's camera there, and where that is."""
    mount, home = mounting(contract, 'wrist'), np.array(contract.home_positions)
    rng = np.random.default_rng(2)
    width, height = scene.BOARD.size
    away = transform(matrix_from_rotation_vector((0.1, 0.1, 0.2)), (0, 0, 0.5))
    Z = mount.pose(home) @ scene.IN_HAND @ away @ transform(
        translation=(-width / 2, -height / 2, 0)
    )
    joints, pictures = [], []
    while len(joints) < count:
        q = home + np.append(rng.uniform(-0.25, 0.25, 7), 0.0)
        image = scene.render(inverse(mount.pose(q) @ scene.IN_HAND) @ Z)
        if scene.BOARD.detect(image).count == 24:
            joints.append(q)
            pictures.append(image)
    return joints, pictures


def check(contract, factor):
    """The calibration of the wrist is the truth, in pixels of the contract's images."""
    found = {c.name: c for c in contract.calibration}['wrist']
    T = transform(rotation_from_quaternion(found.orientation), found.position)
    assert np.linalg.norm(T[:3, 3] - scene.IN_HAND[:3, 3]) < 5e-4
    assert np.linalg.norm(rotation_vector(T[:3, :3].T @ scene.IN_HAND[:3, :3])) < 1e-3
    assert found.link == 'panda_hand'
    assert found.focal == pytest.approx(np.array(scene.LENS.focal) * factor, abs=1e-3)


def write_samples(folder, contract, joints, pictures):
    folder.mkdir()
    samples = []
    for k, (q, picture) in enumerate(zip(joints, pictures, strict=True)):
        cv2.imwrite(str(folder / f'{k}.png'), picture[..., ::-1])
        named = dict(zip(contract.joint_names, q.tolist(), strict=True))
        samples.append({'image': f'{k}.png', 'joints': named})
    said = {
        'camera': 'wrist', 'link': 'panda_hand', 'intrinsics': dataclasses.asdict(scene.LENS),
        'board': dataclasses.asdict(scene.BOARD), 'samples': samples,
    }
    (folder / FILE).write_text(json.dumps(said))
    return folder


def test_a_folder_of_samples_becomes_the_contracts_calibration(panda, tmp_path, capsys):
    contract = load_contract(panda)
    folder = write_samples(tmp_path / 'samples', contract, *wrist_scene(contract, 9))
    command = ['calibrate', 'camera', str(panda), '--camera', 'wrist', '--samples', str(folder)]
    before = panda.read_text()
    result = CliRunner().invoke(app, [*command, '--dry-run'])
    assert result.exit_code == 0, result.output
    assert '- name: wrist' in result.output
    assert panda.read_text() == before
    result = CliRunner().invoke(app, [*command, '--json'])
    assert result.exit_code == 0, result.output
    assert 'residual 0.0' in result.output
    assert 'written to' in result.output
    numbers = json.loads(next(x for x in result.output.splitlines() if x.startswith('{')))
    assert numbers['pictures'] == 9
    assert numbers['rms_px'] < 0.1
    # The pictures are 640 x 480, the contract's images the middle of them at 96 x 96.
    check(load_contract(panda), 96 / 480)
    wrong = CliRunner().invoke(app, [*command[:4], 'front', '--samples', str(folder)])
    assert isinstance(wrong.exception, CommandError)
    assert "holds pictures of camera 'wrist', not 'front'" in str(wrong.exception)


class ShownCamera:
    """A fake camera that shows what the arm's camera would see; behind the seam of the real one."""

    device, intrinsics = 'a fake camera', scene.LENS

    def __init__(self, pictures):
        self.pictures, self.at = pictures, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_newer(self, stamp, timeout):
        time.sleep(0.05)
        return Frame(self.pictures[self.at], time.time_ns())


def test_pictures_are_taken_live_and_the_contract_written(panda, tmp_path, monkeypatch):
    import rclpy
    from rclpy.context import Context
    from rclpy.node import Node

    from vera_core.nodes.convert import joints_to_msg
    from vera_core.nodes.qos import STATE

    contract = load_contract(panda)
    joints, pictures = wrist_scene(contract, 9)
    shown = ShownCamera(pictures)
    asked = []
    monkeypatch.setattr(
        calibrate, 'make_camera', lambda spec, *where: asked.append((spec, where)) or shown
    )
    domain = 1 + os.getpid() % 100
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node('arm', namespace='vera', context=context)
    from sensor_msgs.msg import JointState

    publisher = node.create_publisher(JointState, 'joint_states', STATE)
    over = threading.Event()

    def move():
        """Rest at each pose until its picture was taken."""
        folder = tmp_path / 'runs'
        while not over.is_set():
            taken = len(list(folder.glob('*/samples/*.png')))
            shown.at = min(taken, len(joints) - 1)
            publisher.publish(joints_to_msg(contract.joint_names, joints[shown.at], time.time_ns()))
            time.sleep(0.01)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        result = CliRunner().invoke(
            app,
            ['calibrate', 'camera', str(panda), '--camera', 'wrist', '--count', '9', '--source',
             '_123', '--runs', str(tmp_path / 'runs'), '--domain', str(domain)],
        )
    finally:
        over.set()
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert result.exit_code == 0, (result.output, result.exception)
    assert '  9 of 9  24 corners' in result.output
    spec, where = asked[0]
    assert (spec.name, spec.width, spec.height) == ('wrist', 640, 480)
    assert where == ('', '_123')
    check(load_contract(panda), 96 / 480)


def test_without_a_robot_it_says_what_is_missing(panda, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, 'make_camera', lambda *_: ShownCamera([]))
    monkeypatch.setattr(calibrate, 'PATIENCE', 0.5)
    result = CliRunner().invoke(
        app,
        ['calibrate', 'camera', str(panda), '--camera', 'front', '--runs', str(tmp_path),
         '--domain', str(1 + os.getpid() % 100)],
    )
    assert isinstance(result.exception, CommandError)
    assert 'no joint_states yet on ROS domain' in str(result.exception)
    assert result.exception.code == Exit.NO_GRAPH


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--camera', 'back', '--dry-run'], "unknown camera 'back'"),
        (['--camera', 'front', '--samples', '/nowhere'], 'samples.json cannot be read'),
        (['--camera', 'front', '--size', 'large'], "size 'large'; write e.g. 640x480"),
        (['--camera', 'front', '--square', '0'], 'squares of 0.0 m'),
        (['--camera', 'front', '--link', 'panda_link42'], "no link 'panda_link42'"),
    ],
)
def test_wrong_options_are_refused_by_name(options, message, tmp_path):
    result = CliRunner().invoke(
        app, ['calibrate', 'camera', 'panda', *options, '--runs', str(tmp_path)]
    )
    assert isinstance(result.exception, CommandError)
    assert message in str(result.exception)


def test_the_board_and_the_list_of_cameras(tmp_path):
    out = tmp_path / 'board.pdf'
    result = CliRunner().invoke(app, ['calibrate', 'board', '--out', str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(b'%PDF')
    result = CliRunner().invoke(app, ['calibrate', 'board', '--out', str(out), '--square', '90'])
    assert 'does not fit on a4' in str(result.exception)
    result = CliRunner().invoke(app, ['cameras'])
    assert result.exit_code == 0
    assert 'realsense' in result.output
    assert 'opencv' in result.output
