"""Recordings of a graph become transitions: by stamp, with what the joints really did."""

import dataclasses
import types

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vera_core.contract import CameraSpec, Contract, Crop, load_contract
from vera_jidm.dataset import ShardFolder
from vera_jidm.episodes import DatasetError, read_shard
from vera_jidm.episodes_import import _Recording, import_recording

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
MS = 10**6
START = 1_700_000_000 * 10**9


def contract_of_two_cameras() -> Contract:
    """The finger with a second, cropped camera: two square views on a canvas of 64 x 128."""
    finger = load_contract('finger')
    side = CameraSpec('side', 'side/color/image_raw', 40, 32, 20.0, Crop(8, 0, 32, 32))
    return dataclasses.replace(
        finger,
        cameras=(finger.cameras[0], side),
        canvas=dataclasses.replace(finger.canvas, width=128),
    )


def time(ns):
    return T['builtin_interfaces/msg/Time'](sec=ns // 10**9, nanosec=ns % 10**9)


def header(ns):
    return T['std_msgs/msg/Header'](stamp=time(ns), frame_id='x')


def image_msg(pixels, ns, encoding='rgb8', pad=0):
    height, width = pixels.shape[:2]
    rows = pixels[..., ::-1] if encoding == 'bgr8' else pixels
    rows = np.pad(rows.reshape(height, -1), ((0, 0), (0, pad)))
    return T['sensor_msgs/msg/Image'](
        header=header(ns), height=height, width=width, encoding=encoding, is_bigendian=0,
        step=rows.shape[1], data=np.ascontiguousarray(rows).ravel(),
    )


def positions_at(seconds):
    """Of joint_1, joint_2, joint_3."""
    return np.array([np.sin(seconds), 0.5 * np.cos(2 * seconds), 0.2 * seconds - 1])


def picture(camera, ns):
    """Flat colours that tell the time, so that each frame can be known again."""
    k = (ns - START) // (50 * MS) % 200
    return np.full((camera.height, camera.width, 3), (k, 20 + k, 255 - k), np.uint8)


def record(
    folder, contract, seconds=3.0, *, skip_states=(0, 0), jump_at=None, drop=(), still=False,
    namespace='vera', offset=None,
):
    """A bag as the recorder writes it, by rosbags; joint names in another order than ours."""
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {}

        def put(topic, kind, message, ns, delay=3 * MS):
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(topics[topic], ns + delay, STORE.serialize_cdr(message, kind))

        messages = []
        for i in range(int(seconds * 100)):
            ns = START + i * 10 * MS
            if not skip_states[0] <= i * 0.01 < skip_states[1]:
                q = positions_at(0 if still else i * 0.01)
                if jump_at is not None and i * 0.01 >= jump_at:
                    q = q + 0.5
                message = T['sensor_msgs/msg/JointState'](
                    header=header(ns), name=['joint_3', 'gripper', 'joint_1', 'joint_2'],
                    position=np.array([q[2], 9.0, q[0], q[1]]),
                    velocity=np.zeros(0), effort=np.zeros(0),
                )
                args = f'/{namespace}/joint_states', 'sensor_msgs/msg/JointState', message, ns
                messages.append(args)
        for c, camera in enumerate(contract.cameras):
            for i in range(int(seconds * 20)):
                ns = START + i * 50 * MS + c * (12 * MS if offset is None else offset)
                if (camera.name, i) in drop:
                    continue
                shown = image_msg(picture(camera, ns), ns, ('rgb8', 'bgr8')[c], pad=8 * c)
                topic = f'/{namespace}/{camera.topic}'
                messages.append((topic, 'sensor_msgs/msg/Image', shown, ns))
        for args in sorted(messages, key=lambda m: m[3]):
            put(*args)
    return folder


def seconds_of(stamps):
    return (stamps - START) / 1e9


def test_actions_are_joint_deltas_between_the_frames_stamps(tmp_path):
    contract = contract_of_two_cameras()
    bag = record(tmp_path / 'bag', contract, offset=7 * MS)
    report = import_recording(bag, contract, tmp_path / 'out', meta={'licence': 'mine'})
    # 60 frames, 0.2 s apart: the last that has a partner begins at 2.75 s.
    assert (report.frames, report.transitions) == (60, 14)
    data, meta = read_shard(tmp_path / 'out' / 'shard_00000.mcap')
    np.testing.assert_allclose(seconds_of(data.stamps)[:, 0], np.arange(14) * 0.2)
    np.testing.assert_allclose(np.diff(data.stamps), 200 * MS)
    for stamps, positions, action in zip(data.stamps, data.positions, data.actions, strict=True):
        # States every 10 ms, linear in between: frames fall on states here.
        expected = [positions_at(s) for s in seconds_of(stamps)]
        np.testing.assert_allclose(positions, expected, atol=1e-12)
        np.testing.assert_allclose(action, expected[1] - expected[0], atol=1e-7)
    top, side = contract.cameras
    for (begin, end), before, after in zip(
        data.stamps.tolist(), data.before, data.after, strict=True
    ):
        for stamp, frame in ((begin, before), (end, after)):
            assert (frame[:, :64] == picture(top, stamp)[0, 0]).all()
            assert (frame[:, 64:] == picture(side, stamp + 7 * MS)[0, 0]).all()
    assert meta['licence'] == 'mine' and 'recording of the live graph' in meta['source']
    folder = ShardFolder(tmp_path / 'out')
    assert folder.joints == ['joint_1', 'joint_2', 'joint_3']
    assert folder.contract == contract.action_fields()


def test_states_between_two_messages_are_interpolated(tmp_path):
    contract = load_contract('finger')
    shifted = record(tmp_path / 'bag', contract, offset=0)
    recording = _Recording(shifted, contract, 'vera')
    at = recording._at(START + 1_004 * MS)
    expected = 0.6 * positions_at(1.0) + 0.4 * positions_at(1.01)
    np.testing.assert_allclose(at[0], expected, atol=1e-12)
    assert recording._at(START - 1) is None
    assert recording._at(START + 10**12) is None


def test_what_was_not_measured_is_left_out(tmp_path):
    contract = load_contract('finger')
    # Silent from 1.0 to 1.3 s, put elsewhere at 2.0 s, frame 10 (0.5 s) lost.
    bag = record(
        tmp_path / 'bag', contract, skip_states=(1.0, 1.3), jump_at=2.0, drop={('top', 10)}
    )
    report = import_recording(bag, contract, tmp_path / 'out', every=0.05)
    begins = seconds_of(read_shard(tmp_path / 'out' / 'shard_00000.mcap')[0].stamps)[:, 0]
    hundredths = np.round(begins * 100).astype(int)
    possible = set(range(0, 280, 5))
    # With frame 10 gone, those of 0.3 and 0.5 s cannot be.
    silent = {h for h in possible if h + 20 >= 100 and h < 130}
    jump = {h for h in possible if h < 200 <= h + 20}
    assert set(hundredths) == possible - {30, 50} - silent - jump
    assert report.unmeasured == len(silent | jump)
    assert report.transitions == len(begins)


def test_a_robot_that_stands_still_gives_nothing(tmp_path):
    contract = load_contract('finger')
    bag = record(tmp_path / 'bag', contract, still=True)
    with pytest.raises(DatasetError, match=r'no transition: .* 56 in which nothing moved'):
        import_recording(bag, contract, tmp_path / 'out')


def test_recordings_add_up_but_not_twice(tmp_path, monkeypatch):
    monkeypatch.setattr('vera_jidm.episodes_import.PER_FILE', 6)
    contract = load_contract('finger')
    bag = record(tmp_path / 'bag', contract)
    report = import_recording(bag, contract, tmp_path / 'out', most=9)
    assert [f.count for f in report.files] == [6, 3]
    folder = ShardFolder(tmp_path / 'out')
    assert folder.statistics.transitions == 9
    with pytest.raises(DatasetError, match='already holds transitions of that time'):
        import_recording(bag, contract, tmp_path / 'out')
    global START
    START, before = START + 10**12, START
    try:
        later = record(tmp_path / 'later', contract)
    finally:
        START = before
    import_recording(later, contract, tmp_path / 'out')
    assert ShardFolder(tmp_path / 'out').statistics.transitions == 9 + 14
    other = dataclasses.replace(contract, canvas=dataclasses.replace(contract.canvas, width=128))
    with pytest.raises(DatasetError, match='another contract'):
        import_recording(bag, other, tmp_path / 'out')


def test_what_is_missing_is_named(tmp_path):
    contract = contract_of_two_cameras()
    bag = record(tmp_path / 'bag', load_contract('finger'), namespace='left/arm')
    with pytest.raises(DatasetError, match=r'no messages on /vera/joint_states'):
        import_recording(bag, contract, tmp_path / 'out')
    with pytest.raises(DatasetError, match=r'no messages on /left/arm/side/color/image_raw'):
        import_recording(bag, contract, tmp_path / 'out', namespace='left/arm')
    with pytest.raises(DatasetError, match='no recording'):
        import_recording(tmp_path / 'none', contract, tmp_path / 'out')
    finger = load_contract('finger')
    channel = types.SimpleNamespace(name='x', kind='cartesian_delta', joint=None)
    with pytest.raises(DatasetError, match="'x' is Cartesian"):
        import_recording(
            bag, _with_channels(finger, (channel,)), tmp_path / 'out', namespace='left/arm'
        )
    victim = next(bag.glob('*.mcap'))
    victim.write_bytes(victim.read_bytes()[:5000])
    with pytest.raises(DatasetError, match='cannot be read'):
        import_recording(bag, finger, tmp_path / 'out', namespace='left/arm')
    assert not (tmp_path / 'out').exists()


def _with_channels(contract, channels):
    made = dataclasses.replace(contract)
    object.__setattr__(made, 'channels', channels)
    return made


def test_of_targets_the_change_is_stored(tmp_path):
    contract = load_contract('finger')
    channels = tuple(
        dataclasses.replace(c, kind='joint_target' if i == 1 else c.kind)
        for i, c in enumerate(contract.channels)
    )
    contract = dataclasses.replace(contract, channels=channels)
    bag = record(tmp_path / 'bag', contract)
    import_recording(bag, contract, tmp_path / 'out')
    data, _ = read_shard(tmp_path / 'out' / 'shard_00000.mcap')
    moved = data.positions[:, 1] - data.positions[:, 0]
    np.testing.assert_allclose(data.actions, moved, atol=1e-7)
