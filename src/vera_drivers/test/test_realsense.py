"""RealSense cameras: the real pipeline on a recording, and a fake one for what no recording has."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from vera_core.contract import CameraSpec
from vera_drivers.cameras import realsense
from vera_drivers.cameras.base import CameraEndError, CameraError, SensorFrame
from vera_drivers.cameras.realsense import (
    RealSenseCamera,
    RealSenseOptions,
    connected_devices,
)
from vera_drivers.registry import make_camera
from vera_drivers.stream import CameraStream, StreamState

try:
    import pyrealsense2 as rs
except ImportError as error:
    rs, why = None, f'pyrealsense2 cannot be imported ({error}): pip install it, and libusb-1.0-0'
else:
    why = ''

WIDTH, HEIGHT, FPS = 320, 240, 30
FRAMES = 45
LENS = (300.0, 302.0, 158.0, 121.0)
COEFFICIENTS = [0.15, -0.1, 0.002, -0.001, 0.02]
needs_sdk = pytest.mark.skipif(rs is None, reason=why)


def plaid(level=0):
    """A picture whose grey values tell where one looks: red by column, green by row."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = np.arange(WIDTH) * 255 // WIDTH
    image[..., 1] = np.arange(HEIGHT)[:, None]
    image[..., 2] = level
    return image


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    """A .db3 of a software device, with depth and a lens that distorts."""
    path = str(tmp_path_factory.mktemp('realsense') / 'camera.db3')

    def video(kind, form, bpp, model, coeffs, uid):
        stream, lens = rs.video_stream(), rs.intrinsics()
        lens.width, lens.height = WIDTH, HEIGHT
        lens.fx, lens.fy, lens.ppx, lens.ppy = LENS
        lens.model, lens.coeffs = model, coeffs
        stream.type, stream.fmt, stream.bpp, stream.uid = kind, form, bpp, uid
        stream.width, stream.height, stream.fps, stream.index = WIDTH, HEIGHT, FPS, 0
        stream.intrinsics = lens
        return stream

    device = rs.software_device()
    device.register_info(rs.camera_info.name, 'Intel RealSense D435')
    device.register_info(rs.camera_info.serial_number, '123456789012')
    device.register_info(rs.camera_info.usb_type_descriptor, '2.1')
    depth, colour = device.add_sensor('Stereo Module'), device.add_sensor('RGB Camera')
    plain, bent = rs.distortion.brown_conrady, rs.distortion.inverse_brown_conrady
    profiles = (
        depth.add_video_stream(video(rs.stream.depth, rs.format.z16, 2, plain, [0] * 5, 0)),
        colour.add_video_stream(video(rs.stream.color, rs.format.rgb8, 3, bent, COEFFICIENTS, 1)),
    )
    depth.add_read_only_option(rs.option.depth_units, 0.0001)
    same = rs.extrinsics()
    same.rotation, same.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0]
    profiles[0].register_extrinsics_to(profiles[1], same)
    device.create_matcher(rs.matchers.dlr_c)
    recorder, queue = rs.recorder(path, device), rs.frame_queue(100)
    sensors = recorder.query_sensors()
    for sensor in sensors:
        sensor.open(sensor.get_stream_profiles()[0])
        sensor.start(queue)
    for k in range(FRAMES):
        pictures = (np.full((HEIGHT, WIDTH), 12340, np.uint16), plaid(5 * k))
        for sensor, profile, picture in zip((depth, colour), profiles, pictures, strict=True):
            frame = rs.software_video_frame()
            frame.pixels, frame.bpp = picture, picture[0, 0].nbytes
            frame.stride = WIDTH * frame.bpp
            frame.timestamp, frame.frame_number = 1e12 + k * 1000 / FPS, k + 1
            frame.domain = rs.timestamp_domain.global_time
            frame.profile = profile.as_video_stream_profile()
            if sensor is depth:
                frame.depth_units = 0.0001
            sensor.set_metadata(rs.frame_metadata_value.frame_timestamp, 777 + k * 33333)
            sensor.on_video_frame(frame)
        time.sleep(0.01)
    time.sleep(0.2)
    for sensor in sensors:
        sensor.stop()
        sensor.close()
    del recorder
    return path


@needs_sdk
def test_a_recording_gives_rectified_colour_aligned_depth_and_its_clocks(recording):
    options = RealSenseOptions(depth=True)
    camera = RealSenseCamera('front', recording, 160, 160, 15, options)
    frames, stamp = [], None
    with camera, pytest.raises(CameraEndError, match='ended; set loop to true'):
        assert camera.device == recording
        lens = camera.intrinsics
        details = camera.details
        warning = camera.warning
        while True:
            frame = camera.wait_newer(stamp, 5.0)
            stamp = frame.stamp
            frames.append(frame)
    assert len(frames) >= 5  # it plays at its own rate: a slow machine sees fewer
    assert all(isinstance(f, SensorFrame) for f in frames)
    assert all(f.image.shape == (160, 160, 3) and f.depth.shape == (160, 160) for f in frames)
    # Published are the middle 240 x 240 of 320 x 240, scaled to 160 x 160.
    scale = 160 / 240
    assert lens.focal == pytest.approx((300 * scale, 302 * scale))
    assert lens.centre == pytest.approx(((158.5 - 40) * scale - 0.5, 121.5 * scale - 0.5))
    assert details['serial'] == '123456789012'
    assert details['model'] == 'Intel RealSense D435'
    assert 'it is on USB 2.1' in warning
    assert 'use a USB 3 port' in warning
    # Depth in mm, whatever the unit of the device.
    assert np.median(frames[0].depth) == 1234
    # The stamp is of now: what the file says is when it was recorded. The device's clock is kept.
    assert abs(frames[-1].stamp - time.time_ns()) < 20e9
    first = frames[0]
    assert (first.hardware_stamp - 777_000) % 33_333_000 == 0
    assert 0 <= first.stamp - first.host_stamp < 1e6
    stamps = [f.stamp for f in frames]
    assert stamps == sorted(set(stamps))
    assert [f.hardware_stamp for f in frames] == sorted({f.hardware_stamp for f in frames})
    # Where a ray of the rectified picture meets the distorted one, by the published model.
    (fx, fy), (cx, cy) = lens.focal, lens.centre
    k1, k2, p1, p2, k3 = COEFFICIENTS
    for u, v in ((30, 20), (80, 80), (140, 120), (20, 140)):
        x, y = (u - cx) / fx, (v - cy) / fy
        r2 = x * x + y * y
        f = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        xd = x * f + 2 * p1 * x * y * f * f + p2 * (r2 * f * f + 2 * (x * f) ** 2)
        yd = y * f + 2 * p2 * x * y * f * f + p1 * (r2 * f * f + 2 * (y * f) ** 2)
        wanted = ((LENS[0] * xd + LENS[2]) * 255 / WIDTH, LENS[1] * yd + LENS[3])
        assert frames[0].image[v, u, :2] == pytest.approx(wanted, abs=2.0)
        bent = np.hypot(LENS[0] * (xd - x), LENS[1] * (yd - y))
        assert bent > 0.1 or (u, v) == (80, 80)


@needs_sdk
def test_a_recording_can_loop_and_says_what_it_lacks(recording, tmp_path):
    spec = CameraSpec('front', 'front/color/image_raw', 160, 120, 15.0, driver='realsense')
    camera = make_camera(spec, source=recording, loop=True)
    with camera:
        stamp = None
        for _ in range(FRAMES + 5):
            stamp = camera.wait_newer(stamp, 5.0).stamp
    with pytest.raises(CameraError, match=r'nowhere.db3\): there is no such file'):
        make_camera(spec, source='/nowhere.db3').connect()
    broken = tmp_path / 'broken.db3'
    broken.write_bytes(b'no recording' * 50)
    with pytest.raises(CameraError, match=r'cannot be started: .*; record it anew'):
        make_camera(spec, source=str(broken)).connect()


@needs_sdk
def test_without_a_device_the_real_sdk_says_so():
    assert connected_devices() == []
    with pytest.raises(CameraError, match=r"camera 'front' \(RealSense 815412070676\) is not"):
        RealSenseCamera('front', '_815412070676', 96, 96, 15).connect()
    with pytest.raises(CameraError, match=r'0 RealSense devices here \(none\); plug one in'):
        RealSenseCamera('front', '', 96, 96, 15).connect()


# Without devices: what no recording can do -------------------------------------------------------


class FakeFrame:
    """A colour frame and the set that holds it."""

    def __init__(self, number, stamp_ms, domain, level):
        self.number, self.stamp_ms, self.domain, self.level = number, stamp_ms, domain, level

    def get_color_frame(self):
        return self

    def get_frame_number(self):
        return self.number

    def get_timestamp(self):
        return self.stamp_ms

    def get_frame_timestamp_domain(self):
        return self.domain

    def supports_frame_metadata(self, what):
        return what == 'frame_timestamp'

    def get_frame_metadata(self, what):
        return self.number * 1000

    def get_data(self):
        return np.full((480, 640, 3), self.level, np.uint8)


class FakeOptions:
    """A sensor with the modes of a D435's colour module."""

    def __init__(self):
        self.set: dict[str, float] = {}

    def get_stream_profiles(self):
        return [
            SimpleNamespace(
                stream_type=lambda: 'color', format=lambda: 'rgb8', fps=lambda r=rate: r,
                as_video_stream_profile=lambda s=size: SimpleNamespace(
                    width=lambda: s[0], height=lambda: s[1]
                ),
            )
            for size, rate in itertools.product(((640, 480), (1280, 720)), (6, 15, 30))
        ]

    def supports(self, option):
        return option != 'gain'

    def set_option(self, option, value):
        self.set[option] = value

    def get_option_range(self, option):
        return SimpleNamespace(min=1.0, max=10000.0)

    def get_option(self, option):
        return 0.001


class FakeDevice:
    def __init__(self, serial, usb='3.2'):
        self.info = {
            'serial_number': serial, 'name': 'Intel RealSense D435', 'usb_type_descriptor': usb
        }
        self.sensor = FakeOptions()
        self.resets = 0

    def supports(self, key):
        return key in self.info

    def get_info(self, key):
        return self.info[key]

    def query_sensors(self):
        return [self.sensor]

    def hardware_reset(self):
        self.resets += 1


class FakeSdk:
    """A fake of pyrealsense2 whose devices can be unplugged, stall, freeze and jump in time."""

    stream = SimpleNamespace(color='color', depth='depth')
    format = SimpleNamespace(rgb8='rgb8', z16='z16')
    camera_info = SimpleNamespace(
        serial_number='serial_number', name='name', firmware_version='firmware_version',
        physical_port='physical_port', usb_type_descriptor='usb_type_descriptor',
    )
    option = SimpleNamespace(
        global_time_enabled='global_time', auto_exposure_priority='priority',
        enable_auto_exposure='auto', exposure='exposure', gain='gain', depth_units='units',
    )
    frame_metadata_value = SimpleNamespace(frame_timestamp='frame_timestamp')
    timestamp_domain = SimpleNamespace(hardware_clock='hardware_clock', global_time='global_time')

    def __init__(self, *devices):
        self.devices = list(devices) or [FakeDevice('111')]
        self.domain = 'global_time'
        self.offset_ms = -8.0  # a picture arrives that long after it was taken
        self.running: list[str] = []
        self.most_starting = 0
        self.stalled = threading.Event()
        self.frozen = False
        self.starts = 0
        self.start_error = ''

    def context(self):
        return SimpleNamespace(query_devices=lambda: list(self.devices))

    def config(self):
        asked = SimpleNamespace(serial='', streams=[])
        asked.enable_device = lambda serial: setattr(asked, 'serial', serial)
        asked.enable_stream = lambda *what: asked.streams.append(what)
        self.asked = asked
        return asked

    def pipeline(self):
        sdk, count = self, itertools.count(1)
        numbers = {'last': 0}

        def start(config):
            sdk.starts += 1
            if sdk.start_error:
                raise RuntimeError(sdk.start_error)
            device = next(d for d in sdk.devices if d.info['serial_number'] == config.serial)
            _, width, height, _, rate = config.streams[0]
            lens = SimpleNamespace(
                width=width, height=height, fx=610.0, fy=611.0, ppx=320.0, ppy=240.0, coeffs=[0] * 5
            )
            profile = SimpleNamespace(
                stream_type=lambda: 'color',
                as_video_stream_profile=lambda: SimpleNamespace(get_intrinsics=lambda: lens),
            )
            sdk.rate = rate
            return SimpleNamespace(get_device=lambda: device, get_streams=lambda: [profile])

        def try_wait_for_frames(timeout_ms):
            if sdk.stalled.is_set() or not sdk.devices:
                time.sleep(0.02)
                return False, None
            time.sleep(0.01)
            numbers['last'] = next(count)
            stamp = time.time() * 1000 + sdk.offset_ms
            level = 7 if sdk.frozen else numbers['last'] % 250
            return True, FakeFrame(numbers['last'], stamp, sdk.domain, level)

        return SimpleNamespace(
            start=start, try_wait_for_frames=try_wait_for_frames, stop=lambda: None
        )


@pytest.fixture(autouse=True)
def own_lock(monkeypatch, tmp_path):
    monkeypatch.setattr(realsense, 'START_LOCK', tmp_path / 'start.lock')


def camera(sdk, source='', **options):
    return RealSenseCamera(
        'front', source, 96, 96, 15, RealSenseOptions(**options), first_frame_timeout=1.0, sdk=sdk
    )


def test_global_time_is_the_stamp_and_the_others_are_kept():
    sdk = FakeSdk()
    with camera(sdk) as one:
        frame = one.wait_newer(None, 1.0)
        frame = one.wait_newer(frame.stamp, 1.0)
        assert frame.image.shape == (96, 96, 3)
        assert 7e6 < frame.host_stamp - frame.stamp < 30e6
        assert frame.hardware_stamp > 0
        for _ in range(30):
            frame = one.wait_newer(frame.stamp, 1.0)
        assert one.details['clock'] == 'global_time'
        assert one.details['clock_jumps'] == 0
        assert float(one.details['arrived_after_ms']) == pytest.approx(8, abs=4)
        # The middle 480 x 480 of 640 x 480, scaled to 96 x 96.
        assert one.intrinsics.focal == pytest.approx((122.0, 122.2))
        assert one.intrinsics.centre == pytest.approx((47.6, 47.6))
    assert sdk.asked.serial == '111'
    assert sdk.asked.streams == [('color', 640, 480, 'rgb8', 15)]
    assert sdk.devices[0].sensor.set == {'global_time': 1, 'priority': 0, 'auto': 1.0}


@pytest.mark.parametrize('jump_ms', [-60_000.0, 4_000.0])
def test_a_jump_of_global_time_is_not_followed(jump_ms):
    sdk = FakeSdk()
    with camera(sdk) as one:
        frame = one.wait_newer(None, 1.0)
        before = frame.stamp
        sdk.offset_ms = jump_ms
        time.sleep(0.05)
        stamps = []
        for _ in range(10):
            frame = one.wait_newer(frame.stamp, 1.0)
            stamps.append(frame.stamp)
        assert stamps == sorted(stamps)
        assert stamps[0] > before
        assert abs(stamps[-1] - time.time_ns()) < 0.2e9
        assert one.details['clock_jumps'] >= 9
        assert one.details['clock'] == 'global_time, stamped at arrival'


def test_a_device_that_knows_only_its_own_clock_is_stamped_at_arrival():
    sdk = FakeSdk()
    sdk.domain, sdk.offset_ms = 'hardware_clock', -1e12
    with camera(sdk) as one:
        frame = one.wait_newer(None, 1.0)
        assert frame.stamp == frame.host_stamp
        assert one.details['clock'] == 'hardware_clock, stamped at arrival'
        assert one.details['clock_jumps'] == 0


def test_several_devices_need_a_serial_number():
    sdk = FakeSdk(FakeDevice('222', usb='2.1'), FakeDevice('111'))
    with pytest.raises(CameraError, match=r'2 RealSense devices here \(111, 222\); give the'):
        camera(sdk).connect()
    with pytest.raises(CameraError, match=r'333\) is not connected \(here: 111, 222\)'):
        camera(sdk, '333').connect()
    with camera(sdk, '_222') as one:
        assert 'USB 2.1' in one.warning
        assert sdk.asked.serial == '222'
    with camera(sdk, '111') as one:
        assert one.warning == ''
    assert [info.serial for info in connected_devices(sdk)] == ['111', '222']


def test_what_the_device_does_not_know_is_refused_by_name():
    sdk = FakeSdk()
    with pytest.raises(CameraError, match='no colour stream of 640x400 at 15 Hz; rates: 6, 15, 30'):
        camera(sdk, width=640, height=400).connect()
    with pytest.raises(CameraError, match='at 20 Hz; rates: 6, 15, 30; sizes at 20 Hz: none'):
        camera(sdk, rate=20).connect()
    with pytest.raises(CameraError, match='exposure is 20000; it must be 1 to 10000'):
        camera(sdk, exposure=20000.0).connect()
    with pytest.raises(CameraError, match='has no option gain'):
        camera(sdk, gain=5.0).connect()
    sdk.start_error = 'xioctl(VIDIOC_S_FMT) failed, errno=16 Device or resource busy'
    with pytest.raises(CameraError, match='busy; another program uses it'):
        camera(sdk).connect()
    with pytest.raises(CameraError, match="options of camera 'front': widht: unknown key; did you"):
        RealSenseOptions.of({'widht': 640}, 'front')
    with pytest.raises(CameraError, match="exposure: is the text 'long'; a number is needed"):
        RealSenseOptions.of({'exposure': 'long'}, 'front')


def test_manual_exposure_ends_the_automatic_one():
    sdk = FakeSdk()
    with camera(sdk, exposure=150.0):
        assert sdk.devices[0].sensor.set['auto'] == 0.0
        assert sdk.devices[0].sensor.set['exposure'] == 150.0


class Watch:
    def __init__(self):
        self.changes: list = []
        self.frames = 0

    def on_frame(self, frame):
        self.frames += 1

    def until(self, state, message='', timeout=8.0):
        deadline = time.monotonic() + timeout
        while not any(c.state is state and message in c.message for c in self.changes):
            assert time.monotonic() < deadline, self.changes
            time.sleep(0.005)


def stream(sdk, **options):
    watch = Watch()
    found = CameraStream(
        lambda: camera(sdk), watch.on_frame, watch.changes.append,
        **{'stall_after': 0.3, 'backoff': 0.05, 'attempts': 3, **options},
    )
    found.start()
    return found, watch


def test_a_stalled_device_is_reset_and_comes_back():
    sdk = FakeSdk()
    running, watch = stream(sdk)
    sdk.stalled.set()
    watch.until(StreamState.RECONNECTING, 'gave no frame within 0.3 s')
    assert sdk.devices[0].resets == 1
    sdk.stalled.clear()
    before = watch.frames
    deadline = time.monotonic() + 5
    while watch.frames < before + 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert running.status.state is StreamState.STREAMING
    running.stop()


def test_an_unplugged_device_is_named_and_given_up_when_it_stays_away():
    sdk = FakeSdk()
    running, watch = stream(sdk)
    device = sdk.devices.pop()
    watch.until(StreamState.RECONNECTING, '(RealSense 111) was unplugged; plug it in again')
    watch.until(StreamState.FAILED, 'gave up after 3 reconnects in a row')
    assert device.resets == 0  # there was nothing to reset
    running.stop()
    sdk.devices.append(device)
    again, watch = stream(sdk, attempts=20)
    sdk.devices.clear()
    watch.until(StreamState.RECONNECTING, 'was unplugged')
    sdk.devices.append(device)
    watch.until(StreamState.STREAMING)
    again.stop()


def test_a_frozen_picture_with_fresh_stamps_is_a_stall():
    sdk = FakeSdk()
    running, watch = stream(sdk, frozen_after=0.2)
    time.sleep(0.3)
    assert running.status.state is StreamState.STREAMING
    sdk.frozen = True
    watch.until(StreamState.RECONNECTING, 'gives the same picture again and again, for 0.2 s')
    assert sdk.devices[0].resets == 1
    watch.until(StreamState.FAILED, 'it is frozen, or covered; gave up after 3 reconnects')
    running.stop()


def test_devices_start_one_after_the_other(tmp_path):
    """Over processes too: the lock is a file."""
    first, second = FakeSdk(), FakeSdk()
    first.stalled.set()  # started, but without a picture yet

    def fail():
        with suppress(CameraError):
            camera(first).connect()

    slow = threading.Thread(target=fail)
    slow.start()
    deadline = time.monotonic() + 5
    while not first.starts:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    began = time.monotonic()
    with camera(second):
        assert time.monotonic() - began > 0.5  # the first one gave up after 1 s
    slow.join()


def test_a_missing_sdk_is_one_sentence(monkeypatch):
    import builtins

    real = builtins.__import__

    def fail(text):
        def find(name, *args, **kwargs):
            if name == 'pyrealsense2':
                raise ImportError(text)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, '__import__', find)

    fail("No module named 'pyrealsense2'")
    with pytest.raises(CameraError, match=r'pip install -r requirements/cameras\.txt'):
        RealSenseCamera('front', '1', 96, 96, 15).connect()
    fail('libusb-1.0.so.0: cannot open shared object file')
    with pytest.raises(CameraError, match=r'sudo apt install libusb-1\.0-0'):
        connected_devices()


@needs_sdk
def test_the_node_publishes_colour_depth_intrinsics_and_clocks(graph, wait_for, recording):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
    from sensor_msgs.msg import CameraInfo, TimeReference
    from sensor_msgs.msg import Image as ImageMsg

    from vera_core.nodes.convert import stamp_from_msg
    from vera_core.nodes.qos import IMAGE
    from vera_drivers.nodes.camera_node import CameraNode

    heard: dict[str, list] = {'image': [], 'info': [], 'depth': [], 'clock': [], 'told': []}
    helper = graph.helper()
    for key, kind, topic in (
        ('image', ImageMsg, 'top/color/image_raw'),
        ('info', CameraInfo, 'top/color/camera_info'),
        ('depth', ImageMsg, 'top/aligned_depth_to_color/image_raw'),
        ('clock', TimeReference, 'top/color/time_reference'),
    ):
        helper.create_subscription(kind, f'/vera/{topic}', heard[key].append, IMAGE)
    helper.create_subscription(DiagnosticArray, '/diagnostics', heard['told'].append, 10)
    graph.start(
        CameraNode, loop=True, frozen_timeout=0.0, contract_overrides=(
            f'{{cameras.top: {{driver: realsense, source: {recording}, options: {{depth: true}}}}}}'
        ),
    )
    wait_for(lambda: all(len(found) > 3 for key, found in heard.items() if key != 'told'), 30)
    stamps = {key: {stamp_from_msg(m) for m in heard[key]} for key in ('image', 'info', 'depth')}
    assert stamps['image'] & stamps['info'] & stamps['depth']
    assert stamps['image'] & {stamp_from_msg(m) for m in heard['clock']}
    assert {m.source for m in heard['clock']} == {'hardware', 'host'}
    depth, info = heard['depth'][0], heard['info'][0]
    assert (depth.encoding, depth.width, depth.height) == ('16UC1', 128, 128)
    assert np.median(np.frombuffer(depth.data, '<u2')) == 1234
    assert depth.header.frame_id == info.header.frame_id == 'top_color_optical_frame'
    assert info.k[0] == pytest.approx(300 * 128 / 240)
    assert info.p[2] == info.k[2] == pytest.approx((158.5 - 40) * 128 / 240 - 0.5)
    assert list(info.d) == [0.0] * 5

    def reported():
        return [s for m in heard['told'] for s in m.status if s.name.endswith(': camera top')]

    wait_for(reported)
    status = reported()[-1]
    assert status.level == DiagnosticStatus.WARN
    assert 'USB 2.1' in status.message
    values = {pair.key: pair.value for pair in status.values}
    assert values['serial'] == '123456789012'
    assert 'stamped at arrival' in values['clock']
