"""What the planner learns of the Panda: scenes, words, futures that are the expert's own."""

import numpy as np
import pytest
import torch
from torch import nn

from vera_bringup import panda_videos, piece_videos
from vera_core.contract import load_contract
from vera_planner.pieces import PiecesPlanner
from vera_planner.pieces_learner import PoseLearning
from vera_planner.pieces_training import PiecesTrainer, PiecesTraining, main_train
from vera_planner.registry import make_planner
from vera_planner.view_pieces import ViewPiecesPlanner
from vera_planner.view_pieces_data import PiecesDataError, ScenePictures, ScenesData
from vera_planner.view_pieces_learner import ViewLearning
from vera_sim.panda_tasks import COLOURS, HELD_OUT, TRAINING, Goal

pytest.importorskip('mujoco')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp('scenes') / 'train'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panda_videos, 'SHARD', 3)
        patch.setattr(panda_videos, 'SHOWN', 4)
        patch.setattr(panda_videos, 'FRAMES', 14)
        panda_videos.write_scenes(load_contract('panda'), where, 3, 4, seed=1)
    return where


def test_clips_of_the_expert_are_seen_by_several_sets_of_cameras(folder):
    data = ScenesData(folder, 8)
    assert len(data) == 3 * panda_videos.LOOKS
    assert data.tracks.shape[1:3] == (14, 3)
    # The same clip by other cameras: a little apart, never far.
    away = np.abs(data.tracks[0] - data.tracks[1])[..., :2]
    assert 0.02 < np.nanmedian(away) < 4
    hand = data.pieces.index('hand')
    assert np.ptp(data.tracks[:, :, 0, hand, :2], axis=1).max() > 3
    shown = ScenePictures(folder)
    assert len(shown) == 4 and (shown.labels >= 0).mean() > 0.05
    with pytest.raises(PiecesDataError, match='another recipe'):
        panda_videos.write_scenes(load_contract('panda'), folder, 3, 4, seed=2)


def test_every_phrasing_of_the_training_is_known_and_none_that_is_held_out(folder):
    data = ScenesData(folder, 8)
    said = set(data.sentences)
    for task in panda_videos.TASKS:
        for colour in COLOURS:
            below = next(other for other in COLOURS if other != colour)
            goal = Goal(task, colour, {'push': 'left', 'stack': below}.get(task, ''))
            assert {goal.phrase(t) for t in TRAINING[task]} <= said
            assert not {goal.phrase(t) for t in HELD_OUT[task]} & said
    assert 'touch the purple disc' in data.meta['still']


def test_one_network_serves_robots_of_both_kinds(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(piece_videos, 'SHARD', 6)
    piece_videos.write_piece_videos(load_contract('finger'), tmp_path / 'finger', 6, 4, seed=1)
    data = {'finger': tmp_path / 'finger', 'panda': folder}
    config = PiecesTraining(
        data=data, held_out=data, out=tmp_path / 'run', codec_steps=4, steps=6, validate_every=6,
        width=8, hidden=32, depth=1, poses=PoseLearning(batch=8, codec_batch=2),
        views=ViewLearning(batch=8, codec_batch=2, components=8),
    )  # fmt: skip
    info = main_train(config, 'vera train planner finger panda')
    assert {'finger_px4', 'panda_px4', 'finger_iou', 'panda_iou'} <= set(info.training['metrics'])
    for name, kind in (('finger', PiecesPlanner), ('panda', ViewPiecesPlanner)):
        contract = load_contract(name)
        planner = make_planner('compact', contract, checkpoint=str(info.path), threads=1)
        assert isinstance(planner, kind) and planner.embodiment == name
        size = (contract.canvas.height, contract.canvas.width)
        dark = planner.plan(np.zeros((1, *size, 3), np.uint8), 'warm up')
        assert dark.frames.shape[1:] == (*size, 3)
    trainer = PiecesTrainer(config)
    shared = trainer.network.motion.trunk.text.weight
    for learner in trainer.learners.values():
        shared.grad = None
        nn.init.normal_(trainer.network.motion.ends[learner.name].leave.weight)
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        learner.motion_loss(trainer.network, rng, generator).backward()
        assert shared.grad.abs().sum() > 0
