"""Tracks and pictures of the experts' videos, for the pieces planner."""

import numpy as np
import pytest

from vera_bringup import piece_videos
from vera_bringup.piece_videos import CALM, FRAMES, FingerMaker, PushTMaker, write_piece_videos
from vera_core.contract import load_contract
from vera_planner.pieces_data import PiecesData, PiecesDataError
from vera_sim.pusht_expert import PushTExpert, corner_error
from vera_sim.pusht_physics import PushTState, coverage


@pytest.fixture(scope='module')
def pusht():
    return PushTMaker(load_contract('pusht'))


@pytest.mark.parametrize('embodiment', ['finger', 'pusht'])
def test_tracks_and_pictures_are_written_and_a_part_made_folder_is_continued(
    embodiment, tmp_path, monkeypatch
):
    monkeypatch.setattr(piece_videos, 'SHARD', 6)
    contract = load_contract(embodiment)
    write_piece_videos(contract, tmp_path / 'cut', 6, 4, seed=3)
    write_piece_videos(contract, tmp_path / 'cut', 12, 4, seed=3)
    write_piece_videos(contract, tmp_path / 'whole', 12, 4, seed=3)
    cut, whole = (PiecesData(tmp_path / name, 4, 16) for name in ('cut', 'whole'))
    assert cut.tracks.shape == (12, FRAMES, len(whole.pieces), 3)
    assert np.array_equal(cut.tracks, whole.tracks, equal_nan=True)
    assert cut.meta['contract'] == contract.visual_fields()
    frames, masks, poses = whole.pictures(np.random.default_rng(0), 4)
    height = contract.canvas.height
    assert frames.shape == (4, height, height, 3)
    assert masks.shape == (*poses.shape[:2], height, height)
    with pytest.raises(PiecesDataError, match='another recipe'):
        write_piece_videos(contract, tmp_path / 'cut', 6, 4, seed=4)


def test_an_embodiment_without_an_expert_is_refused(tmp_path):
    contract = load_contract('finger', {'sim': None})
    with pytest.raises(ValueError, match='no scripted expert'):
        write_piece_videos(contract, tmp_path, 1, 1, 0)


def test_what_is_asked_for_is_what_the_finger_goes_to():
    maker, rng = FingerMaker(load_contract('finger')), np.random.default_rng(0)
    went = 0
    for _ in range(30):
        ((states, first, said),) = maker.clips(rng)
        poses = maker.poses(states)
        moved = np.abs(np.diff(poses[first:, -1, :2], axis=0)).max()
        asked = [i for i, name in enumerate(maker.pieces) if name.removeprefix('disc_') in said]
        if not asked or np.isnan(poses[0, asked[0], 0]):
            assert moved == 0  # what is not there is not gone to
            continue
        disc = poses[-1, asked[0], :2]
        went += np.linalg.norm(poses[-1, -1, :2] - disc) < 16  # the middle of the last link
    assert went > 20


def test_the_videos_of_pusht_show_how_it_is_solved(pusht):
    rng = np.random.default_rng(0)
    states = [clip[0][-1] for _ in range(3) for clip in pusht.clips(rng)]
    assert max(coverage(state.block) for state in states) > 0.9


def test_the_expert_takes_over_where_a_disturbance_left_the_pusher(pusht):
    start = PushTState.at((120, 120), (300, 300, 0.4))
    astray = piece_videos.move(pusht.env, start, np.array([15.0, -10.0]))
    states = piece_videos.follow(pusht.env, PushTExpert(CALM), [start, astray])
    assert len(states) == FRAMES and states[1] is astray
    steps = np.linalg.norm(np.diff([s.pusher for s in states[1:]], axis=0), axis=1)
    assert steps[0] > 5 and steps.max() <= CALM.travel + 1e-6
    before, after = (corner_error(states[i].block) for i in (0, -1))
    assert after < before
