"""Cameras behind the seam: a device that OpenCV reads, and real video files."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from vera_core.contract import CameraSpec
from vera_core.seams import Camera
from vera_drivers.cameras.base import CameraEndError, CameraError, fit_image, plausible_age
from vera_drivers.cameras.opencv import OpenCVCamera, known_devices, parse_device
from vera_drivers.cameras.video_file import VideoFileCamera
from vera_drivers.registry import make_camera

RED = (250, 20, 10)


class FakeCapture:
    """Stands in for cv2.VideoCapture: no machine of the tests has a camera."""

    def __init__(self, device, backend, *, size=None, frames=10**9, stamped=0.0, opens=True):
        self.device, self.backend = device, backend
        self.asked: dict[int, float] = {}
        self.forced = size
        self.left = frames
        self.stamped = stamped
        self.opens = opens
        self.released = False
        self.hang = threading.Event()

    def isOpened(self):
        return self.opens

    def set(self, what, value):
        self.asked[what] = value
        return True

    def get(self, what):
        if what == cv2.CAP_PROP_POS_MSEC:
            return (time.monotonic() - self.stamped) * 1000 if self.stamped else 0.0
        width, height = self.forced or (
            self.asked[cv2.CAP_PROP_FRAME_WIDTH], self.asked[cv2.CAP_PROP_FRAME_HEIGHT]
        )
        return {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height}[what]

    def read(self):
        time.sleep(0.005)
        if self.left <= 0:
            return False, None
        self.left -= 1
        image = np.empty((int(self.get(4)), int(self.get(3)), 3), np.uint8)
        image[:] = RED[::-1]
        return True, image

    def release(self):
        self.released = True


def device(made: list, **kwargs):
    """A factory of captures that remembers them."""

    def make(number, backend):
        made.append(FakeCapture(number, backend, **kwargs))
        return made[-1]

    return make


@pytest.fixture
def video(tmp_path):
    """Writes a video whose frame k is of the grey level 8 k."""

    def write(frames=12, fps=50, size=(64, 48), name='clip.avi', codec='MJPG'):
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
        assert writer.isOpened()
        for k in range(frames):
            writer.write(np.full((size[1], size[0], 3), 8 * k, np.uint8))
        writer.release()
        return path

    return write


def test_device_asks_for_what_the_contract_says_and_gives_rgb():
    made: list = []
    camera = OpenCVCamera('top', '/dev/video2', 320, 240, 30, fourcc='MJPG', capture=device(made))
    assert isinstance(camera, Camera)
    with camera:
        frame = camera.read_latest(1.0)
        assert frame.image.shape == (240, 320, 3)
        assert tuple(frame.image[0, 0]) == RED
        asked = made[0].asked
        assert made[0].device == 2
        assert made[0].backend == cv2.CAP_V4L2
        assert asked[cv2.CAP_PROP_FPS] == 30
        assert asked[cv2.CAP_PROP_BUFFERSIZE] == 1
        assert asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*'MJPG')
        assert next(iter(asked)) == cv2.CAP_PROP_FOURCC  # the format decides which sizes exist
        newer = camera.wait_newer(frame.stamp, 1.0)
        assert newer.stamp > frame.stamp
        assert not made[0].released
    assert made[0].released
    camera.close()
    with pytest.raises(CameraError, match=r"camera 'top' .* is not connected"):
        camera.read_latest(1.0)


def test_stamp_is_that_of_the_kernel_when_there_is_one():
    for stamped in (0.2, 0.0):
        made: list = []
        with OpenCVCamera('top', 0, 64, 48, 30, capture=device(made, stamped=stamped)) as camera:
            frame = camera.wait_newer(None, 1.0)
            age = (time.time_ns() - frame.stamp) / 1e9
            assert stamped <= age < stamped + 0.15
    now = 50_000_000_000
    assert plausible_age(49_950.0, now) == 50_000_000
    assert plausible_age(0.0, now) == plausible_age(60_000.0, now) == 0
    assert plausible_age(float('nan'), now) == 0


def test_another_size_is_an_error_or_resized():
    made: list = []
    camera = OpenCVCamera('top', 0, 128, 128, 30, capture=device(made, size=(640, 480)))
    with pytest.raises(CameraError, match='gives 640x480, not 128x128; set the size'):
        camera.connect()
    assert made[0].released
    fitted = OpenCVCamera(
        'top', 0, 128, 128, 30, capture=device(made, size=(640, 480)), resize=True
    )
    with fitted:
        assert fitted.read_latest(1.0).image.shape == (128, 128, 3)


def test_a_device_that_is_not_there_is_named_with_the_cure():
    camera = OpenCVCamera('top', 987, 64, 48, 30)
    with pytest.raises(CameraError, match=r"'top' \(/dev/video987\) does not exist; plug it in"):
        camera.connect()
    busy = OpenCVCamera('top', 0, 64, 48, 30, capture=device([], opens=False))
    with pytest.raises(CameraError, match='cannot be opened: another program uses it'):
        busy.connect()


def test_a_device_that_gives_nothing_or_stops_is_an_error():
    made: list = []
    dead = OpenCVCamera('top', 0, 64, 48, 30, capture=device(made, frames=0))
    with pytest.raises(CameraError, match='stopped giving frames; check its cable'):
        dead.connect()
    assert made[0].released
    camera = OpenCVCamera('top', 0, 64, 48, 30, capture=device(made, frames=3))
    camera.connect()
    frame = camera.wait_newer(None, 1.0)
    with pytest.raises(CameraError, match='stopped giving frames'):
        for _ in range(10):
            frame = camera.wait_newer(frame.stamp, 1.0)
    with pytest.raises(CameraError, match='stopped giving frames'):
        camera.read_latest(10.0)
    camera.close()


def test_a_hanging_driver_is_a_stall_and_does_not_hang_us():
    made: list = []
    camera = OpenCVCamera('top', 0, 64, 48, 30, capture=device(made), first_frame_timeout=1.0)
    camera.connect()
    released = threading.Event()
    made[0].read = lambda: (released.wait(20), (False, None))[1]
    time.sleep(0.15)
    with pytest.raises(CameraError, match=r'newest frame is 0\.\d\d s old, more than 0.05 s'):
        camera.read_latest(0.05)
    with pytest.raises(CameraError, match=r'gave no frame within 0\.1 s'):
        camera.wait_newer(camera._frame.stamp, 0.1)
    began = time.monotonic()
    camera.close()
    assert time.monotonic() - began < 3
    with pytest.raises(CameraError, match='still hangs in its driver'):
        camera.connect()
    assert not made[0].released
    released.set()
    camera._hung.join(5)
    assert made[0].released  # by the thread that came back
    camera.connect()
    camera.close()


def test_devices_are_parsed_and_listed(tmp_path):
    assert parse_device(1) == parse_device('1') == parse_device(' /dev/video1 ') == 1
    assert parse_device('/dev/v4l/by-id/usb-cam-index0') == '/dev/v4l/by-id/usb-cam-index0'
    for wrong in ('webcam', '', '-1', 'video0'):
        with pytest.raises(CameraError, match='is no camera: give an index'):
            parse_device(wrong)
    for name in ('video10', 'video2', 'videodev', 'null'):
        (tmp_path / name).touch()
    assert known_devices(tmp_path) == [str(tmp_path / 'video2'), str(tmp_path / 'video10')]


def test_fit_keeps_the_centre_and_the_aspect():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255  # the centre square
    assert (fit_image(image, 50, 50) == 255).all()
    assert fit_image(image, 300, 100) is image
    assert fit_image(image, 600, 200).shape == (200, 600, 3)
    assert fit_image(image, 30, 90).shape == (90, 30, 3)


@pytest.mark.parametrize(('name', 'codec'), [('clip.avi', 'MJPG'), ('clip.mp4', 'mp4v')])
def test_a_file_plays_at_its_own_rate_and_ends(video, name, codec):
    path = video(frames=12, fps=50, name=name, codec=codec)
    camera = VideoFileCamera('top', path)
    began = time.monotonic()
    seen, frame = [], None
    with camera, pytest.raises(CameraEndError, match='ended after 12 frames; set loop to true'):
        assert camera.fps == pytest.approx(50)
        while True:
            frame = camera.wait_newer(frame.stamp if frame else None, 2.0)
            seen.append(int(frame.image.mean() / 8 + 0.5))
    assert time.monotonic() - began >= 0.2  # 12 frames at 50 Hz
    assert seen == sorted(set(seen))
    assert seen[-1] == 11


def test_as_fast_as_it_is_read_leaves_nothing_out(video):
    camera = VideoFileCamera('top', video(frames=12, fps=1), rate=0)
    began = time.monotonic()
    seen, frame = [], None
    with camera, pytest.raises(CameraEndError):
        while True:
            frame = camera.wait_newer(frame.stamp if frame else None, 2.0)
            seen.append(int(frame.image.mean() / 8 + 0.5))
            time.sleep(0.01)  # a slow reader
    assert seen == list(range(12))
    assert time.monotonic() - began < 5  # at its own rate it would take 12 s


def test_a_loop_begins_again(video):
    camera = VideoFileCamera('top', video(frames=3, fps=100), width=32, height=32, loop=True)
    with camera:
        frame = camera.wait_newer(None, 2.0)
        seen = []
        while camera.frames_read < 10:
            frame = camera.wait_newer(frame.stamp, 2.0)
            seen.append(int(frame.image.mean() / 8 + 0.5))
        assert frame.image.shape == (32, 32, 3)
    assert 0 in seen[3:]


def test_a_file_that_is_none_is_named(tmp_path, video):
    with pytest.raises(CameraError, match=r'nowhere.mp4\): there is no such file'):
        VideoFileCamera('top', tmp_path / 'nowhere.mp4').connect()
    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(b'no video at all' * 100)
    with pytest.raises(CameraError, match='this is no video that OpenCV reads'):
        VideoFileCamera('top', broken).connect()
    whole = video(frames=30)
    cut = tmp_path / 'cut.avi'
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(CameraError):
        VideoFileCamera('top', cut).connect()


def test_registry_makes_cameras_of_the_contract(video):
    spec = CameraSpec('top', 'top/color/image_raw', 40, 40, 20.0)
    with make_camera(spec, 'video_file', str(video()), loop=True) as camera:
        assert camera.read_latest(1.0).image.shape == (40, 40, 3)
        assert camera.fps == pytest.approx(50)
    assert make_camera(spec, 'opencv', '/dev/video7').device == '/dev/video7'
    assert make_camera(spec).device == '/dev/video0'
    with pytest.raises(CameraError, match="unknown driver 'gige' of camera 'top'; known: opencv"):
        make_camera(spec, 'gige')
    with pytest.raises(CameraError, match='give its path as `source`'):
        make_camera(spec, 'video_file')
    with pytest.raises(CameraError, match='has not 4 characters'):
        make_camera(spec, fourcc='JPEG2')
