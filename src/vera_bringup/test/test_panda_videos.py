"""What the Panda's planner learns from: scenes, words, and futures that are the expert's own."""

import numpy as np
import pytest

from vera_bringup import panda_videos
from vera_core.contract import load_contract
from vera_planner.view_pieces_data import PiecesDataError, ScenePictures, ScenesData
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
            goal = Goal(task, colour, 'left' if task == 'push' else '')
            assert {goal.phrase(t) for t in TRAINING[task]} <= said
            assert not {goal.phrase(t) for t in HELD_OUT[task]} & said
    assert 'stack the red cube on the blue cube' in data.meta['still']
