"""What collecting and recording write as MCAP, the training of video planners reads."""

from __future__ import annotations

import numpy as np
import pytest

from vera_core.clocks import NS_PER_S, from_ns
from vera_core.contract import load_contract
from vera_jidm.episodes import Transitions, write_shard
from vera_jidm.episodes_cdr import IMAGE, encode_image
from vera_planner.video_data.episodes import McapSource
from vera_planner.video_data.mixture import Grid, Mixture, SourceSpec
from vera_planner.video_data.sources import VideoDataError

GRID = Grid(
    height=64, width=128, multiple=16, frame_period=0.2, context=2, look_ahead=1, time_stride=4
)


def frames_of(walk: int, count: int, size: int = 64) -> np.ndarray:
    """Frames that say their walk (red) and their number (green)."""
    found = np.zeros((count, size, size, 3), np.uint8)
    found[..., 0] = 20 * (walk + 1)
    found[..., 1] = np.arange(count)[:, None, None] * 3
    return found


def write_walks(folder, lengths, contract, **meta) -> None:
    """An episode file of walks, with a long pause after each."""
    before, after, stamps = [], [], []
    begin = NS_PER_S
    for walk, length in enumerate(lengths):
        frames = frames_of(walk, length)
        before.append(frames[:-1])
        after.append(frames[1:])
        at = begin + np.arange(length) * (NS_PER_S // 5)
        stamps.append(np.stack([at[:-1], at[1:]], 1))
        begin = int(at[-1]) + 2 * NS_PER_S
    before, after = np.concatenate(before), np.concatenate(after)
    actions = np.zeros((len(before), len(contract.channels)), np.float32)
    data = Transitions(before, after, actions, stamps=np.concatenate(stamps))
    write_shard(folder / 'shard_00000.mcap', data, {'contract': contract.action_fields(), **meta})


def test_walks_of_an_episode_file_are_episodes(tmp_path):
    contract = load_contract('finger')
    write_walks(tmp_path, [12, 3, 20], contract)
    source = McapSource(tmp_path, caption='the finger moves')
    assert source.lengths.tolist() == [12, 3, 20]
    assert source.frame_period == pytest.approx(0.2)
    assert source.views == contract.camera_names
    (found,) = source.frames(2, np.array([0, 4, 19]))
    np.testing.assert_array_equal(found, frames_of(2, 20)[[0, 4, 19]])
    mixture = Mixture([SourceSpec('episodes', str(tmp_path), caption='it moves')], GRID, seed=0)
    walks = set()
    for i in range(20):
        window = mixture.window(i, 2)
        assert window.caption == 'it moves' and not window.frames[:, :, 64:].any()
        assert len(set(window.frames[:, 0, 0, 0])) == 1  # no window spans two walks
        assert (np.diff(window.frames[:, 0, 0, 1].astype(int)) == 3).all()
        walks.add(int(window.frames[0, 0, 0, 0]))
    assert walks == {20, 60}


def test_an_episode_file_without_words_asks_for_them(tmp_path):
    contract = load_contract('finger')
    write_walks(tmp_path, [12], contract)
    with pytest.raises(VideoDataError, match='give the source a `caption`'):
        McapSource(tmp_path)
    write_walks(tmp_path, [12], contract, captions=['wave', 'move about'])
    assert McapSource(tmp_path).captions(0) == ('wave', 'move about')


def test_a_damaged_file_is_named(tmp_path):
    write_walks(tmp_path, [12], load_contract('finger'))
    file = tmp_path / 'shard_00000.mcap'
    data = bytearray(file.read_bytes())
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoDataError, match=r'shard_00000\.mcap'):
        McapSource(tmp_path, caption='x')


def test_goals_of_a_recording_are_its_captions(tmp_path):
    serialization = pytest.importorskip('rclpy.serialization')
    from vera_bringup.recording import Recording
    from vera_bringup.resources import message_definition
    from vera_msgs.msg import GoalStatus

    bag = Recording(tmp_path / 'bag', message_definition)
    assert bag.add_topic('/vera/top/color/image_raw', IMAGE)
    assert bag.add_topic('/vera/side/color/image_raw', IMAGE)
    assert bag.add_topic('/vera/goal_status', 'vera_msgs/msg/GoalStatus')

    def status(stamp: int, code: int, prompt: str) -> None:
        message = GoalStatus(status=code, prompt=prompt)
        message.header.stamp.sec, message.header.stamp.nanosec = from_ns(stamp)
        bag.write('/vera/goal_status', serialization.serialize_message(message), stamp)

    frames, side = frames_of(0, 60), frames_of(3, 60, size=32)
    for i in range(60):
        stamp = 10 * NS_PER_S + i * NS_PER_S // 10
        if i == 10:
            status(stamp, GoalStatus.ACTIVE, 'touch red')
        if i == 30:
            status(stamp, GoalStatus.SUCCEEDED, 'touch red')
        if i == 40:
            status(stamp, GoalStatus.ACTIVE, 'touch blue')
        late = stamp + 7_000_000
        bag.write('/vera/top/color/image_raw', encode_image(frames[i], 'rgb8', stamp, ''), stamp)
        bag.write('/vera/side/color/image_raw', encode_image(side[i], 'rgb8', late, ''), late)
    bag.close()

    topics = ('/vera/top/color/image_raw', '/vera/side/color/image_raw')
    source = McapSource(tmp_path / 'bag', topics)
    assert [source.captions(i) for i in range(2)] == [('touch red',), ('touch blue',)]
    assert source.lengths.tolist() == [20, 20]
    top, other = source.frames(1, np.array([0, 5]))
    np.testing.assert_array_equal(top, frames[[40, 45]])
    np.testing.assert_array_equal(other, side[[40, 45]])
    spec = SourceSpec('episodes', str(tmp_path / 'bag'), views=topics)
    window = Mixture([spec], GRID, seed=0).window(0, 2)
    assert window.widths == (64, 64) and window.frames.shape == (9, 64, 128, 3)
    assert (np.diff(window.frames[:, 0, 0, 1].astype(int)) == 6).all()
