"""Clips on disk, the loss, and a training that learns, stops and resumes exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vera_core.checkpoint import CheckpointError, check_contract
from vera_planner.clips import ClipDataset, ClipsError, ClipWriter
from vera_planner.compact import CompactPlanner
from vera_planner.network import NetworkConfig
from vera_planner.training import TrainConfig, Trainer, main_train, psnr, video_loss

TINY = NetworkConfig(width=16, depth=1, height=32, canvas_width=32)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """A square that goes left or right, as its caption says."""
    folder = tmp_path_factory.mktemp('clips')
    writer = ClipWriter(folder, {'frame_period': 0.2}, {'seed': 0})
    rng = np.random.default_rng(0)
    frames = np.zeros((24, 10, 32, 32, 3), np.uint8)
    index = np.zeros((24, 3), np.int32)
    for i in range(24):
        right = i % 2
        y = int(rng.integers(2, 20))
        for k in range(10):
            x = 12 + (2 * right - 1) * k
            frames[i, k, y : y + 8, x : x + 8] = 255
        group = ['go right', 'to the right'] if right else ['go left', 'to the left']
        index[i] = 10, i % 3, writer.group(group)
    writer.write(frames, index)
    return folder


def config(clips: Path, out: Path, **options) -> TrainConfig:
    return TrainConfig(
        data=(clips,),
        held_out=(clips,),
        out=out,
        name='tiny',
        network=TINY,
        batch=8,
        warmup=5,
        bf16=False,
        **options,
    )


def test_windows_never_begin_before_their_caption_applies(clips):
    data = ClipDataset(clips, context=4, look_ahead=4)
    batch, history = data.sample(np.random.default_rng(0), 64, first_anchor=True)
    assert batch.frames.shape == (64, 8, 32, 32, 3)
    for frames, real, sentence in zip(batch.frames, history, batch.sentences, strict=True):
        assert 1 <= real <= 3  # first anchors are at 0, 1 and 2
        assert not frames[: 4 - real].any()
        columns = [np.nonzero(f.any((0, 2)))[0].min() for f in frames[3:]]
        assert (np.diff(columns) > 0).all() == ('right' in sentence)


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(ClipsError, match='vera train planner'):
        ClipDataset(tmp_path / 'nothing', 4, 4)


def test_clips_too_short_for_a_window_are_refused(clips):
    with pytest.raises(ClipsError, match='shorter than one window'):
        ClipDataset(clips, context=4, look_ahead=9)


def test_a_folder_of_another_recipe_is_not_continued(clips):
    with pytest.raises(ClipsError, match='another recipe'):
        ClipWriter(clips, {}, {'seed': 1})


def test_moving_pixels_weigh_more():
    anchor = torch.zeros(1, 3, 32, 32)
    target = torch.zeros(1, 1, 3, 32, 32)
    target[..., :8] = 1
    wrong_there, wrong_elsewhere = target.clone(), target.clone()
    wrong_there[..., :4] = 0
    wrong_elsewhere[..., 28:] = 1
    there = video_loss(wrong_there, target, anchor, moving=8)
    elsewhere = video_loss(wrong_elsewhere, target, anchor, moving=8)
    assert there > 4 * elsewhere


def test_psnr_of_a_known_error():
    assert float(psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.2))) == pytest.approx(20)


def test_training_learns_and_its_checkpoint_says_how_it_was_made(clips, tmp_path):
    info = main_train(
        config(clips, tmp_path, steps=60, lr=3e-3, validate_every=30), 'vera train planner ...'
    )
    curve = info.training['metrics']
    assert curve['step'] == 60
    first = Trainer(config(clips, tmp_path / 'x', steps=60))
    assert curve['loss'] < first.train_step()
    assert info.training['command'] == 'vera train planner ...'
    assert info.training['licence'] == 'Apache-2.0'
    assert (tmp_path / 'curve.png').stat().st_size > 1000


def test_a_run_cut_in_two_equals_a_run_in_one(clips, tmp_path):
    whole = Trainer(config(clips, tmp_path / 'whole', steps=8, validate_every=4))
    whole.run()
    first = Trainer(config(clips, tmp_path / 'cut', steps=8, validate_every=4))
    for _ in range(4):
        first.train_step()
    first.save()
    second = Trainer(config(clips, tmp_path / 'cut', steps=8, validate_every=4))
    assert second.resume()
    second.run()
    assert second.step == 8
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def folder_of(kind: str, size: int, folder: Path) -> Path:
    """Clips of a canvas of `size`: a dot that goes down."""
    writer = ClipWriter(folder, {'canvas': size}, {'expert': kind})
    frames = np.zeros((4, 10, size, size, 3), np.uint8)
    for k in range(10):
        frames[:, k, 4 + k : 8 + k, 4:8] = 255
    index = np.tile(np.array([10, 0, writer.group([f'go down, {kind}'])], np.int32), (4, 1))
    index[1::2, 2] = writer.group([f'stay, {kind}'])
    writer.write(frames, index)
    return folder


def test_one_planner_of_two_embodiments_with_canvases_of_their_own(tmp_path):
    small = folder_of('small', 32, tmp_path / 'a')
    large = folder_of('large', 48, tmp_path / 'b')
    settings = config(small, tmp_path / 'out', steps=4, validate_every=4)
    both = replace(settings, data=(small, large), held_out=(small, large), shares=(1.0, 3.0))
    info = main_train(both, 'vera train planner small large')
    assert info.contract == {'any_of': [{'canvas': 32}, {'canvas': 48}]}
    check_contract(info, {'canvas': 48})
    with pytest.raises(CheckpointError, match='canvas: checkpoint 32, contract 64'):
        check_contract(info, {'canvas': 64})
    assert {'small_psnr1_right', 'large_psnr1_right'} <= info.training['metrics'].keys()
    planner = CompactPlanner.load(info, 0.1, (48, 48), threads=1)
    frame = np.zeros((1, 48, 48, 3), np.uint8)
    assert planner.plan(frame, 'go down').frames.shape == (4, 48, 48, 3)
    further = Trainer(replace(both, init=info.path, out=tmp_path / 'further'))
    for mean, shipped in zip(
        further.network.parameters(), planner.network.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, shipped, rtol=0, atol=0)
    assert further.export('vera train planner').training['began_from']['sha256'] == info.sha256


def test_folders_and_shares_must_fit(clips, tmp_path):
    with pytest.raises(ValueError, match='2 shares for 1 folders'):
        config(clips, tmp_path, shares=(1.0, 2.0))
    with pytest.raises(ValueError, match='must be positive'):
        config(clips, tmp_path, shares=(0.0,))


def test_little_motion_counts_as_much_as_the_rest():
    anchor = torch.zeros(1, 3, 64, 64)
    target = torch.zeros(1, 1, 3, 64, 64)
    target[..., 10:12, 10:12] = 1  # 16 of 4096 pixels with their neighbours
    missed = video_loss(anchor[:, None], target, anchor, moving=8)
    assert float(missed) > 0.03  # 8 times as much alone would make it 0.007
