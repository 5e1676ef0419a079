"""Sources of training videos, their mixture, and windows that are the same in every process."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vera_core.contract_reader import ContractError, build
from vera_planner.clips import ClipWriter
from vera_planner.video_data.mixture import Grid, Mixture, SourceSpec
from vera_planner.video_data.sources import VideoDataError, VideoFolder, read_video

CONTRACT = {
    'canvas': {'height': 32, 'width': 64},
    'cameras': [
        {'name': 'top', 'crop': None, 'canvas_width': 32},
        {'name': 'side', 'crop': None, 'canvas_width': 16},
    ],
    'frame_period': 0.1,
}


def grid(**changes) -> Grid:
    return Grid(**{
        'height': 32, 'width': 64, 'multiple': 16, 'frame_period': 0.1, 'context': 2,
        'look_ahead': 1, 'time_stride': 4, **changes,
    })  # fmt: skip


def shades(count: int, size=(32, 32), step: int = 4, first: int = 0) -> np.ndarray:
    """Frames whose brightness is their number times `step`."""
    levels = (np.arange(count) * step + first).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, *size, 3)).copy()


def write_video(file: Path, frames: np.ndarray, rate: float = 10) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    h, w = frames.shape[1:3]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'mp4v'), rate, (w, h))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


@pytest.fixture
def clips(tmp_path):
    writer = ClipWriter(tmp_path / 'clips', CONTRACT, {'seed': 0})
    frames = np.zeros((3, 20, 32, 64, 3), np.uint8)
    frames[..., :48, :] = shades(20, (32, 48))
    group = writer.group(['brighter', 'more light'])
    writer.write(frames, np.array([[20, 0, group], [20, 6, group], [12, 2, group]], np.int32))
    return tmp_path / 'clips'


def write_lerobot(folder: Path, version: str = 'v3.0') -> None:
    """Two episodes of 24 and 30 frames in one file for each of two cameras."""
    pa = pytest.importorskip('pyarrow')
    from pyarrow import parquet

    views = ('observation.images.front', 'observation.images.wrist')
    info = {
        'codebase_version': version, 'fps': 10,
        'video_path': 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4',
        'features': {
            **{view: {'dtype': 'video', 'shape': [48, 48, 3]} for view in views},
            'action': {'dtype': 'float32', 'shape': [2]},
        },
    }  # fmt: skip
    (folder / 'meta' / 'episodes' / 'chunk-000').mkdir(parents=True)
    (folder / 'meta' / 'info.json').write_text(json.dumps(info))
    rows: dict = {
        'episode_index': [0, 1], 'tasks': [['lift the cup'], ['turn the key']], 'length': [24, 30],
    }  # fmt: skip
    for number, view in enumerate(views):
        both = np.concatenate([
            shades(24, (48, 48), first=number * 60), shades(30, (48, 48), 2, 100 + number * 60),
        ])  # fmt: skip
        write_video(folder / 'videos' / view / 'chunk-000' / 'file-000.mp4', both)
        rows[f'videos/{view}/chunk_index'] = [0, 0]
        rows[f'videos/{view}/file_index'] = [0, 0]
        rows[f'videos/{view}/from_timestamp'] = [0.0, 2.4]
        rows[f'videos/{view}/to_timestamp'] = [2.4, 5.4]
    parquet.write_table(pa.table(rows), folder / 'meta/episodes/chunk-000/file-000.parquet')


def levels(frames: np.ndarray) -> np.ndarray:
    return frames[:, 8:24, 2:14].mean((1, 2, 3))


def test_a_clip_window_has_its_context_its_future_and_black_padding(clips):
    mixture = Mixture([SourceSpec('clips', str(clips))], grid(), seed=3)
    assert mixture.context == 2 and len(mixture) == 3 and mixture.views == ((32, 16),)
    seen = set()
    for i in range(40):
        window = mixture.window(i, 1 + i % 2)
        assert window.frames.shape == (5 + 4 * (i % 2), 32, 64, 3)
        assert window.caption in ('brighter', 'more light')
        assert not window.frames[:, :, 48:].any() and window.frames[1:, :, :48].any()
        np.testing.assert_allclose(np.diff(levels(window.frames)), 4)
        seen.add(window.frames[0, 0, 0, 0])
    assert len(seen) > 5
    assert mixture.contract() == CONTRACT


def test_no_window_has_an_anchor_before_its_caption_or_a_future_after_its_clip(clips):
    mixture = Mixture([SourceSpec('clips', str(clips))], grid(), seed=3)
    anchors = [mixture.window(i, 2).frames[4, 0, 0, 0] // 4 for i in range(200)]
    assert min(anchors) == 4 and max(anchors) == 15
    first = [mixture.window(i, 1, first_anchor=True).frames[0, 0, 0, 0] // 4 for i in range(60)]
    assert set(first) == {0, 2, 6}


def test_a_sample_is_the_same_whenever_and_wherever_it_is_drawn(clips):
    spec = [SourceSpec('clips', str(clips))]
    one, two = Mixture(spec, grid(), seed=7), Mixture(spec, grid(), seed=7)
    forward = [one.window(i, 2) for i in range(6)]
    for i in reversed(range(6)):
        again = two.window(i, 2)
        np.testing.assert_array_equal(again.frames, forward[i].frames)
        assert again.caption == forward[i].caption
    other = Mixture(spec, grid(), seed=8)
    assert any((other.window(i, 2).frames != forward[i].frames).any() for i in range(6))


def test_a_context_longer_than_all_clips_is_cut_and_a_future_is_refused(clips):
    mixture = Mixture([SourceSpec('clips', str(clips))], grid(context=9), seed=0)
    assert mixture.context == 4  # 1 + 4 * 4 = 17 of 20 frames; 21 would not fit
    with pytest.raises(VideoDataError, match='no episode is as long as one window, 21 frames'):
        Mixture([SourceSpec('clips', str(clips))], grid(look_ahead=5), seed=0)


def test_frames_of_a_video_by_number(tmp_path):
    write_video(tmp_path / 'a.mp4', shades(50))
    in_order = read_video(tmp_path / 'a.mp4', np.arange(50))
    np.testing.assert_allclose(levels(in_order), np.arange(50) * 4, atol=4)
    for numbers in ([0, 1, 2], [7], [31, 33, 49], [12, 40]):
        found = read_video(tmp_path / 'a.mp4', np.array(numbers))
        np.testing.assert_array_equal(found, in_order[numbers])
    with pytest.raises(VideoDataError, match=r'a\.mp4: frame 50 cannot be decoded'):
        read_video(tmp_path / 'a.mp4', np.array([48, 50]))


def test_captions_of_videos_lie_beside_them(tmp_path):
    for name in ('a', 'b', 'sub/c', 'd'):
        write_video(tmp_path / f'{name}.mp4', shades(8))
    with pytest.raises(VideoDataError, match=r'a\.mp4 has no caption'):
        VideoFolder(tmp_path)
    (tmp_path / 'a.txt').write_text('push it\n\nmove it away\n')
    (tmp_path / 'b.json').write_text('{"caption": "pull it"}')
    (tmp_path / 'captions.json').write_text('{"sub/c.mp4": ["lift it", "up"]}')
    source = VideoFolder(tmp_path, caption='anything')
    found = [tuple(source.captions(i)) for i in range(4)]
    assert found == [('push it', 'move it away'), ('pull it',), ('anything',), ('lift it', 'up')]
    assert source.lengths.tolist() == [8, 8, 8, 8] and source.frame_period == pytest.approx(0.1)
    write_video(tmp_path / 'e.mp4', shades(8), rate=25)
    with pytest.raises(VideoDataError, match=r'e\.mp4 25'):
        VideoFolder(tmp_path, caption='anything')


def test_frame_rates_meet_on_the_planners_grid(tmp_path):
    write_video(tmp_path / 'a.mp4', shades(60, step=2), rate=30)
    spec = SourceSpec('videos', str(tmp_path), caption='x')
    window = Mixture([spec], grid(frame_period=0.1), seed=0).window(0, 2)
    np.testing.assert_allclose(np.diff(levels(window.frames)), 6, atol=2)
    with pytest.raises(VideoDataError, match='would see copies'):
        Mixture([spec], grid(frame_period=0.02), seed=0)
    slow = SourceSpec('videos', str(tmp_path), caption='x', speed=2.0)
    twice = Mixture([slow], grid(frame_period=0.1), seed=0).window(0, 1)
    np.testing.assert_allclose(np.diff(levels(twice.frames)), 12, atol=2)


def test_a_view_that_does_not_divide_into_tokens_names_the_width_that_does(tmp_path):
    write_video(tmp_path / 'a.mp4', shades(20, (32, 40)))
    spec = SourceSpec('videos', str(tmp_path), caption='x')
    with pytest.raises(VideoDataError, match='slot_width: 32'):
        Mixture([spec], grid(), seed=0)
    fit = Mixture([SourceSpec('videos', str(tmp_path), caption='x', slot_width=32)], grid(), seed=0)
    assert fit.views == ((32,),) and fit.contract() is None
    with pytest.raises(VideoDataError, match='96 px wide side by side'):
        Mixture([SourceSpec('videos', str(tmp_path), caption='x', slot_width=96)], grid(), seed=0)


def test_a_lerobot_data_set(tmp_path):
    write_lerobot(tmp_path)
    spec = SourceSpec('lerobot', str(tmp_path))
    mixture = Mixture([spec], grid(), seed=1)
    assert mixture.views == ((32, 32),)
    steps = {'lift the cup': 4, 'turn the key': 2}
    seen = set()
    for i in range(12):
        window = mixture.window(i, 2)
        left, right = levels(window.frames), levels(window.frames[:, :, 32:])
        np.testing.assert_allclose(right - left, 60, atol=3)
        assert np.diff(left).mean() == pytest.approx(steps[window.caption], abs=0.4)
        assert (left.max() < 98) == (window.caption == 'lift the cup')
        seen.add(window.caption)
    assert len(seen) == 2
    one = SourceSpec('lerobot', str(tmp_path), views=('observation.images.wrist',))
    assert Mixture([one], grid(), seed=1).views == ((32,),)
    with pytest.raises(VideoDataError, match=r"no video 'top'; it has observation\.images\.front"):
        Mixture([SourceSpec('lerobot', str(tmp_path), views=('top',))], grid(), seed=1)


def test_an_older_lerobot_data_set_names_the_converter(tmp_path):
    write_lerobot(tmp_path, 'v2.1')
    with pytest.raises(VideoDataError, match=r'version v2\.1.*convert_dataset_v21_to_v30'):
        Mixture([SourceSpec('lerobot', str(tmp_path))], grid(), seed=1)


def test_sources_are_mixed_by_weight(clips, tmp_path):
    write_lerobot(tmp_path / 'robot')
    specs = [
        SourceSpec('clips', str(clips), weight=3),
        SourceSpec('lerobot', str(tmp_path / 'robot'), weight=1),
    ]
    mixture = Mixture(specs, grid(), seed=5)
    share = np.mean([mixture.window(i, 1).source == 0 for i in range(80)])
    assert 0.6 < share < 0.9 and mixture.contract() is None
    assert {len(mixture.window(i, 1).widths) for i in range(20)} == {2}


def test_a_source_is_checked_when_its_recipe_is_read(tmp_path):
    with pytest.raises(ContractError, match='known: clips, episodes, videos, lerobot'):
        build(SourceSpec, {'kind': 'zarr', 'path': 'x'})
    with pytest.raises(ContractError, match='unknown key'):
        build(SourceSpec, {'kind': 'clips', 'path': 'x', 'weigth': 2})
    with pytest.raises(VideoDataError, match='no such folder'):
        Mixture([SourceSpec('clips', str(tmp_path / 'none'))], grid(), seed=0)
