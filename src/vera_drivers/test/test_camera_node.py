"""The camera node with a real video file, and a process of it that is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMsg

from vera_core.nodes.convert import image_from_msg, stamp_from_msg
from vera_core.nodes.qos import IMAGE
from vera_drivers.cameras.base import CameraError
from vera_drivers.nodes import camera_node
from vera_drivers.nodes.camera_node import CameraNode

TOPIC = '/vera/top/color/image_raw'


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'clip.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 25, (192, 128))
    for k in range(25):
        image = np.zeros((128, 192, 3), np.uint8)
        image[:, :, 2] = 200  # red, as OpenCV writes it
        image[:, :, 1] = 8 * k
        writer.write(image)
    writer.release()
    return path


class Ears:
    def __init__(self, node):
        self.images: list = []
        self.infos: list = []
        self.diagnostics: dict = {}
        node.create_subscription(ImageMsg, TOPIC, self.images.append, IMAGE)
        node.create_subscription(
            CameraInfo, '/vera/top/color/camera_info', self.infos.append, IMAGE
        )
        node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, 10)

    def _diagnosed(self, msg):
        for status in msg.status:
            self.diagnostics[status.name.split(': ')[-1]] = status


def test_a_video_file_becomes_images_and_infos_with_the_same_stamps(graph, wait_for, video):
    ears = Ears(graph.helper())
    graph.start(CameraNode, driver='video_file', source=str(video), loop=True)
    wait_for(lambda: len(ears.images) > 10 and len(ears.infos) > 10)
    stamps = [stamp_from_msg(m) for m in ears.images]
    assert stamps == sorted(set(stamps))
    common = set(stamps) & {stamp_from_msg(m) for m in ears.infos}
    assert len(common) >= 8
    image = image_from_msg(ears.images[-1])
    assert image.shape == (128, 128, 3)
    assert image[64, 64, 0] > 150 > image[64, 64, 2]  # red comes first
    assert len({int(image_from_msg(m)[64, 64, 1]) for m in ears.images}) > 3  # it plays
    assert ears.infos[-1].width == ears.infos[-1].height == 128
    assert ears.images[-1].header.frame_id == 'top_color_optical_frame'
    wait_for(lambda: 'camera top' in ears.diagnostics)
    assert ears.diagnostics['camera top'].level == DiagnosticStatus.OK


def test_the_end_of_a_file_is_told_and_is_no_failure(graph, wait_for, video):
    ears = Ears(graph.helper())
    node = graph.start(CameraNode, driver='video_file', source=str(video), fast=True)
    wait_for(lambda: getattr(ears.diagnostics.get('camera top'), 'level', None)
             == DiagnosticStatus.WARN)
    assert 'ended after 25 frames' in ears.diagnostics['camera top'].message
    assert node.exit_code is None


def test_a_file_that_shows_one_picture_is_told_and_plays_on(graph, wait_for, tmp_path):
    path = tmp_path / 'still.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 25, (128, 128))
    for _ in range(25):
        writer.write(np.full((128, 128, 3), 90, np.uint8))
    writer.release()
    ears = Ears(graph.helper())
    graph.start(
        CameraNode, driver='video_file', source=str(path), loop=True, frozen_timeout=0.5
    )
    wait_for(lambda: 'same picture' in getattr(ears.diagnostics.get('camera top'), 'message', ''))
    assert ears.diagnostics['camera top'].level == DiagnosticStatus.WARN
    count = len(ears.images)
    wait_for(lambda: len(ears.images) > count + 5)


def test_camera_info_tells_the_contracts_calibration(graph, wait_for, video):
    ears = Ears(graph.helper())
    graph.start(
        CameraNode, driver='video_file', source=str(video), loop=True,
        contract_overrides='{calibration.top: {model: pinhole, focal: [150.0, 151.0]}}',
    )
    wait_for(lambda: ears.infos)
    info = ears.infos[0]
    assert list(info.k) == [150.0, 0.0, 63.5, 0.0, 151.0, 63.5, 0.0, 0.0, 1.0]
    assert list(info.p[:4]) == [150.0, 0.0, 63.5, 0.0]


def test_a_stall_is_an_error_and_then_the_end_of_the_node(graph, wait_for, video, monkeypatch):
    """A camera that stops and does not come back."""
    made = []

    def make(*args, **kwargs):
        if made:
            raise_on_connect = CameraNodeDouble()
            made.append(raise_on_connect)
            return raise_on_connect
        made.append(camera_node_make(*args, **kwargs))
        return made[-1]

    class CameraNodeDouble:
        def connect(self):
            raise CameraError("camera 'top' (/dev/video0) does not exist; plug it in")

        def close(self):
            pass

    camera_node_make = camera_node.make_camera
    monkeypatch.setattr(camera_node, 'make_camera', make)
    ears = Ears(graph.helper())
    node = graph.start(
        CameraNode, driver='video_file', source=str(video), loop=True, stall_timeout=0.5,
        reconnects=3,
    )
    wait_for(lambda: ears.images)
    made[0]._read = lambda: (made[0]._closing.wait(30), None)  # the driver hangs
    wait_for(lambda: getattr(ears.diagnostics.get('camera top'), 'level', None)
             == DiagnosticStatus.ERROR)
    assert 'reconnecting in' in ears.diagnostics['camera top'].message
    wait_for(lambda: node.exit_code == 1)
    assert len(made) == 4
    wait_for(lambda: 'gave up after 3 reconnects' in ears.diagnostics['camera top'].message)


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({'driver': 'opencv', 'source': '/dev/video971'}, '/dev/video971) does not exist'),
        ({'driver': 'video_file', 'source': '/nowhere.mp4'}, 'there is no such file'),
        ({'driver': 'video_file'}, 'give its path as `source`'),
        ({'driver': 'gige'}, 'opencv, realsense, video_file'),
        ({'camera': 'left'}, "unknown camera 'left'"),
    ],
)
def test_a_camera_that_cannot_be_is_refused_by_name(graph, parameters, message, capfd):
    overrides = [Parameter(k, value=v) for k, v in {'autostart': False, **parameters}.items()]
    node = CameraNode(context=graph.context, parameter_overrides=overrides)
    graph.add(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    logged = ''.join(capfd.readouterr())
    assert message in logged
    assert 'Traceback' not in logged


def test_the_process_ends_cleanly(video):
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(1 + os.getpid() % 100)}
    command = [sys.executable, '-m', 'vera_drivers.nodes.camera_node', '--ros-args']

    def run(*parameters):
        arguments = [word for p in parameters for word in ('-p', p)]
        return subprocess.Popen(
            [*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )

    process = run('driver:=video_file', f'source:={video}')
    assert process.stderr is not None
    for line in process.stderr:  # the end of the file: it is up
        if 'ended after 25 frames' in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert 'Traceback' not in errors
    failed = run('source:=/dev/video971')
    _, errors = failed.communicate(timeout=60)
    assert failed.returncode == 2
    assert errors.count('ERROR') == 1
    assert 'does not exist' in errors
