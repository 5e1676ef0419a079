"""Recordings to LeRobot v3 and back: the same transitions; the layout that LeRobot documents."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pyarrow import parquet
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vera_bringup import jpeg, recording_notes
from vera_bringup import lerobot_layout as layout
from vera_bringup.bag_reading import Bag, BagError
from vera_bringup.commands.collect import CollectOptions, recorded
from vera_bringup.lerobot_export import ExportOptions, export
from vera_bringup.lerobot_import import import_dataset
from vera_bringup.recording import Recording
from vera_bringup.resources import message_definition
from vera_core.contract import load_contract
from vera_jidm import episodes_cdr as cdr
from vera_jidm.episodes import read_shard
from vera_jidm.episodes_import import import_recording
from vera_planner.video_data.lerobot import LeRobotSource
from vera_sim.finger import FingerEnv

T0 = 1_700_000_000_000_000_000
GOALS = ('touch the red disc', 'touch the blue disc')
SECONDS = 2.0


def goal_status(goal: int, prompt: str, status: int, stamp: int) -> bytes:
    store = get_typestore(Stores.ROS2_JAZZY)
    name = 'vera_msgs/msg/GoalStatus'
    store.register(get_types_from_msg(message_definition(name), name))
    types = store.types
    time = types['builtin_interfaces/msg/Time'](stamp // 10**9, stamp % 10**9)
    header = types['std_msgs/msg/Header'](time, '')
    return bytes(store.serialize_cdr(types[name](header, goal, prompt, status, '', 1), name))


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """A recording of a finger that moves smoothly, two goals of 2 s; as its graph leaves it."""
    contract = load_contract('finger')
    env = FingerEnv(joints=3, discs=3, size=128)
    env.reset(3)
    folder = tmp_path_factory.mktemp('lerobot') / 'bag'
    recording = Recording(folder, message_definition)
    recording.attach(recording_notes.CONTRACT, '', recording_notes.contract_text(contract).encode(),
                     T0)  # fmt: skip
    camera = f'/vera/{contract.cameras[0].topic}'
    for topic, kind in ((camera, cdr.IMAGE), ('/vera/joint_states', cdr.JOINT_STATE),
                        ('/vera/joint_commands', cdr.JOINT_STATE),
                        ('/vera/goal_status', 'vera_msgs/msg/GoalStatus')):  # fmt: skip
        assert recording.add_topic(topic, kind)

    def q(t: float) -> np.ndarray:
        return contract.home_positions + 0.4 * np.sin([1.1 * t, 1.7 * t, 2.3 * t])

    events: list[tuple[int, str, bytes]] = []
    for k in range(int(2 * SECONDS * 100) + 20):
        stamp = T0 + k * 10_000_000
        events += [(stamp, '/vera/joint_states',
                    cdr.encode_joints(contract.joint_names, q(k / 100), stamp)),
                   (stamp, '/vera/joint_commands',
                    cdr.encode_joints(contract.joint_names, q(k / 100) + 0.01, stamp))]  # fmt: skip
    for k in range(int(2 * SECONDS * 20) + 2):
        stamp = T0 + k * 50_000_000
        image = env.render_at(q(k / 20))
        events.append((stamp + 3_000_000, camera, cdr.encode_image(image, 'rgb8', stamp, 'top')))
    for i, prompt in enumerate(GOALS):
        begin = T0 + int(i * SECONDS * 1e9)
        events.append((begin + 1000, '/vera/goal_status', goal_status(i + 1, prompt, 1, begin)))
        end = begin + int(SECONDS * 1e9) - 1_000_000
        ended = goal_status(i + 1, prompt, 2 + i, end)
        events.append((end, '/vera/goal_status', ended))
    for logged, topic, data in sorted(events):
        recording.write(topic, data, logged)
    recording.close()
    return folder


@pytest.fixture(scope='module')
def data_set(bag):
    out = bag.parent / 'lerobot'
    report = export([bag], out, ExportOptions())
    assert (report.episodes, report.frames, report.tasks) == (2, 80, list(GOALS))
    assert (report.left_out, report.repeated) == (0, 0)
    return out


def test_the_layout_is_that_of_version_3(data_set):
    info = json.loads((data_set / 'meta/info.json').read_text())
    assert info['codebase_version'] == 'v3.0' and info['fps'] == 20
    assert (info['total_episodes'], info['total_frames'], info['total_tasks']) == (2, 80, 2)
    key = 'observation.images.top'
    assert set(info['features']) == {
        key, 'observation.state', 'action', 'timestamp', 'frame_index', 'episode_index', 'index',
        'task_index',
    }  # fmt: skip
    rows = parquet.read_table(data_set / 'meta/episodes/chunk-000/file-000.parquet').to_pylist()
    assert [row['tasks'] for row in rows] == [[goal] for goal in GOALS]
    assert [(row['dataset_from_index'], row['dataset_to_index']) for row in rows] == [
        (0, 40), (40, 80)
    ]  # fmt: skip
    assert [row[f'videos/{key}/from_timestamp'] for row in rows] == [0.0, 2.0]
    data = parquet.read_table(data_set / 'data/chunk-000/file-000.parquet')
    assert data['index'].to_pylist() == list(range(80))
    np.testing.assert_allclose(data['timestamp'].to_pylist()[:3], [0, 0.05, 0.1], atol=1e-6)
    state, action = (np.array(data[name].to_pylist()) for name in ('observation.state', 'action'))
    # What was commanded one frame later.
    np.testing.assert_allclose(action[:39], state[1:40] + 0.01, atol=2e-6)
    stats = json.loads((data_set / 'meta/stats.json').read_text())
    np.testing.assert_allclose(stats['observation.state']['mean'], state.mean(0), atol=1e-6)
    assert np.array(stats[key]['mean']).shape == (3, 1, 1)
    tasks = parquet.read_table(data_set / 'meta/tasks.parquet')
    assert json.loads(tasks.schema.metadata[b'pandas'])['index_columns'] == ['task']


def test_others_read_the_videos(data_set):
    source = LeRobotSource(data_set)
    assert source.lengths.tolist() == [40, 40] and source.captions(1) == (GOALS[1],)
    video = cv2.VideoCapture(str(data_set / 'videos/observation.images.top/chunk-000/file-000.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 80
    env = FingerEnv(joints=3, discs=3, size=128)
    env.reset(3)
    data = parquet.read_table(data_set / 'data/chunk-000/file-000.parquet')
    state = np.array(data['observation.state'].to_pylist())
    for k in (0, 13, 39):
        (seen,) = source.frames(1, np.array([k]))
        real = env.render_at(state[40 + k])
        assert np.abs(seen[0].astype(int) - real).mean() < 4, k


def test_back_it_gives_the_transitions_of_the_recording(bag, data_set, tmp_path):
    contract = load_contract('finger')
    report = import_dataset(data_set, contract, tmp_path / 'back', licence='mine')
    import_recording(bag, contract, tmp_path / 'direct')
    back, meta = read_shard(tmp_path / 'back' / 'shard_00000.mcap')
    direct, _ = read_shard(tmp_path / 'direct' / 'shard_00000.mcap')
    assert report.episodes == 2 and report.transitions == len(back.actions) >= 17
    assert meta['licence'] == 'mine'
    # Those of the first goal: both begin at its first frame.
    count = 9
    np.testing.assert_allclose(back.actions[:count], direct.actions[:count], atol=2e-6)
    np.testing.assert_allclose(back.positions[:count], direct.positions[:count], atol=2e-6)
    error = np.abs(back.before[:count].astype(int) - direct.before[:count])
    assert error.mean() < 3


def test_av1_and_only_what_succeeded(bag, tmp_path):
    options = ExportOptions(codec='av1', only_succeeded=True, fps=10)
    report = export([bag], tmp_path / 'out', options)
    assert (report.episodes, report.tasks) == (1, [GOALS[0]])
    path = tmp_path / 'out' / layout.VIDEO.format(
        video_key='observation.images.top', chunk_index=0, file_index=0
    )
    assert len(list(layout.read_frames(path, 0.0, 20, 10))) == 20
    contract = load_contract('finger')
    assert import_dataset(tmp_path / 'out', contract, tmp_path / 'back').transitions >= 8


def test_what_does_not_fit_is_named(bag, data_set, tmp_path):
    finger, panda = load_contract('finger'), load_contract('panda')
    with pytest.raises(layout.LeRobotError, match='exists; choose another folder'):
        export([bag], data_set, ExportOptions())
    with pytest.raises(BagError, match='has no /vera/front/color/image_raw'):
        export([bag], tmp_path / 'a', ExportOptions(embodiment='panda'))
    with pytest.raises(layout.LeRobotError, match='codec'):
        export([bag], tmp_path / 'b', ExportOptions(codec='x'))
    assert not any(tmp_path.iterdir())  # nothing half-written is left
    with pytest.raises(layout.LeRobotError, match=r"no video 'observation.images.front'.*--camera"):
        import_dataset(data_set, panda, tmp_path / 'c')
    with pytest.raises(layout.LeRobotError, match="no camera 'side' in the contract"):
        import_dataset(data_set, finger, tmp_path / 'c', cameras={'side': 'x'})
    with pytest.raises(layout.LeRobotError, match=r"has no 'joint_1'.*--joint joint_1=NAME"):
        import_dataset(data_set, finger, tmp_path / 'c', joints={'joint_1': 'elbow'})
    with pytest.raises(layout.LeRobotError, match='is no LeRobot data set'):
        import_dataset(tmp_path, finger, tmp_path / 'c')
    export([bag], tmp_path / 'odd', ExportOptions(fps=12))
    with pytest.raises(layout.LeRobotError, match=r'is 2\.40 of them; a whole number is needed'):
        import_dataset(tmp_path / 'odd', finger, tmp_path / 'c')


def test_jpeg_in_an_sqlite3_bag_gives_the_same_transitions(bag, tmp_path, capsys):
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = tmp_path / 'foreign'
    with Bag(bag) as source, Writer(folder, version=9,
                                    storage_plugin=StoragePlugin.SQLITE3) as writer:  # fmt: skip
        made = {}
        for raw in source.messages(['/vera/top/color/image_raw', '/vera/joint_states']):
            topic, kind, data = raw.topic, raw.type_name, raw.data
            if kind == jpeg.IMAGE:
                topic, kind, data = topic + jpeg.SUFFIX, jpeg.COMPRESSED, jpeg.compress(data, 95)
            if topic not in made:
                made[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(made[topic], raw.logged, data)
    options = CollectOptions(transitions=100)
    recorded('finger', tmp_path / 'a', options, folder, 'vera')
    recorded('finger', tmp_path / 'b', options, bag, 'vera')
    assert 'bins filled' in capsys.readouterr().out
    (a, _), (b, _) = (read_shard(tmp_path / name / 'shard_00000.mcap') for name in 'ab')
    np.testing.assert_array_equal(a.actions, b.actions)
    assert np.abs(a.before.astype(int) - b.before).mean() < 3
    assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == [
        'metadata.yaml', 'shard_00000.mcap', 'statistics.json'
    ]  # fmt: skip
