"""The pieces planner: exact composition, poses from votes, words, checkpoints, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vera_core.checkpoint import CheckpointError, find_checkpoint
from vera_core.gates import PlanRejectedError
from vera_core.seams import VideoPlanner
from vera_planner.compact import PlannerError
from vera_planner.pieces import PiecesPlanner
from vera_planner.pieces_checkpoint import load_pieces
from vera_planner.pieces_codec import read_poses
from vera_planner.pieces_compose import compose, fill
from vera_planner.pieces_data import PiecesData, PiecesDataError, PiecesWriter
from vera_planner.pieces_learner import PoseLearning
from vera_planner.pieces_network import PiecesConfig, PiecesNetwork, PoseShape
from vera_planner.pieces_training import PARTS, PiecesTrainer, PiecesTraining, main_train

SIZE = 32
FIELDS = {'canvas': SIZE, 'frame_period': 0.2}
CAPTIONS = (['go right', 'to the right'], ['go left', 'to the left'])


def picture(x: float, y: float, mark: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame, masks and poses: a red square of 8 px with its middle at x, y over a green mark."""
    frame = np.full((SIZE, SIZE, 3), 200, np.uint8)
    masks = np.zeros((2, SIZE, SIZE), np.uint8)
    masks[0, mark[1] - 3 : mark[1] + 3, mark[0] - 3 : mark[0] + 3] = 255
    left, top = round(x - 4), round(y - 4)
    masks[1, max(top, 0) : top + 8, max(left, 0) : left + 8] = 255
    frame[masks[0] > 0] = (20, 200, 40)
    frame[masks[1] > 0] = (220, 30, 30)
    return frame, masks, np.array([[*mark, 0], [left + 4, top + 4, 0]], np.float32)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Tracks of a square that goes right or left, as its caption says; a mark that stays."""
    where = tmp_path_factory.mktemp('tracks')
    writer = PiecesWriter(where, ('mark', 'square'), FIELDS, {'expert': 'toy', 'seed': 0})
    rng = np.random.default_rng(0)
    tracks = np.zeros((64, 9, 2, 3), np.float32)
    index = np.zeros((64, 2), np.int32)
    for i in range(64):
        right = i % 2
        mark, at = rng.integers(5, 27, 2), rng.integers(12, 20, 2)
        tracks[i, :, 0, :2] = mark
        tracks[i, :, 1, :2] = at
        tracks[i, :, 1, 0] += (2 * right - 1) * np.arange(9)
        index[i] = i % 3, writer.group(CAPTIONS[1 - right])
    writer.shard(tracks, index)
    shown = [picture(*rng.integers(5, 27, 2), tuple(rng.integers(5, 27, 2))) for _ in range(48)]
    writer.pictures(*(np.stack(part) for part in zip(*shown, strict=True)))
    return where


def config(folder, out, **options) -> PiecesTraining:
    small = {
        'codec_steps': 100, 'steps': 120, 'warmup': 10, 'validate_every': 100, 'width': 8,
        'hidden': 64, 'depth': 2, 'ema': 0.95, 'lr': 4e-3, 'codec_lr': 6e-3,
        'poses': PoseLearning(codec_batch=8, batch=48, look_ahead=4),
    } | options  # fmt: skip
    return PiecesTraining(
        data={'toy': folder}, held_out={'toy': folder}, out=out, name='toy', **small
    )


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    return main_train(config(folder, tmp_path_factory.mktemp('run')), 'vera train planner toy')


@pytest.fixture(scope='module')
def planner(trained):
    return load_pieces(trained, FIELDS, 0.2, (SIZE, SIZE), threads=1)


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    frame, masks, poses = picture(12, 14, (20, 14))
    signal = torch.from_numpy(frame).movedim(-1, 0).float() / 127.5 - 1
    return signal, torch.from_numpy(masks).float() / 255, torch.from_numpy(poses)


def test_nothing_moved_is_the_anchor_itself():
    anchor, masks, poses = scene()
    frames = compose(anchor, masks, poses, torch.zeros(2, 1, 3), [1])
    torch.testing.assert_close(frames, anchor.expand(2, -1, -1, -1), atol=2e-3, rtol=0)


def test_a_piece_moves_as_a_whole_and_what_it_hid_appears():
    anchor, masks, poses = scene()
    motion = torch.tensor([[[3.0, 2.0, 0.0]], [[0.0, 0.0, np.pi / 2]]])
    shifted, turned = compose(anchor, masks, poses, motion, [1])
    expected, *_ = picture(15, 16, (20, 14))
    wanted = torch.from_numpy(expected).movedim(-1, 0).float() / 127.5 - 1
    torch.testing.assert_close(shifted, wanted, atol=0.02, rtol=0)
    # A square turned by a right angle about its middle is the same square.
    torch.testing.assert_close(turned, anchor, atol=0.02, rtol=0)


def test_a_turn_is_from_x_towards_y():
    anchor = torch.zeros(3, SIZE, SIZE)
    masks = torch.zeros(1, SIZE, SIZE)
    masks[0, 14:18, 10:22] = 1
    anchor[0, 14:18, 16:22] = 1  # the end at larger x is red
    poses = torch.tensor([[16.0, 16.0, 0.0]])
    frame = compose(anchor, masks, poses, torch.tensor([[[0.0, 0.0, np.pi / 2]]]), [0])[0]
    assert frame[0, 20, 16] > 0.9 and frame[0, 12, 16] < 0.1  # now at larger y: below


def test_fill_keeps_what_is_known_and_continues_it():
    colour = torch.rand(1, 3, 16, 16)
    weight = torch.zeros(1, 1, 16, 16)
    weight[..., :8] = 1
    out = fill(colour, weight)
    torch.testing.assert_close(out[..., :8], colour[..., :8], atol=1e-5, rtol=0)
    inside = colour[..., :8]
    assert inside.min() <= out.min() and out.max() <= inside.max() + 1e-5


def test_poses_are_what_the_cells_agree_on():
    masks = torch.zeros(1, 2, 32, 32)
    masks[0, 0, 8:16, 4:20] = 1
    masks[0, 1, 20:24, 20:24] = 1
    votes = torch.zeros(1, 2, 4, 8, 8)
    votes[0, 0, 0] = 0.25  # all cells say: 2 px to the right, pointing down
    votes[0, 0, 3] = 1
    votes[0, 1, 2] = 1
    poses = read_poses(masks, votes)[0]
    torch.testing.assert_close(poses[0], torch.tensor([14.0, 12.0, np.pi / 2]), atol=2e-3, rtol=0)
    torch.testing.assert_close(poses[1], torch.tensor([22.0, 22.0, 0.0]), atol=2e-3, rtol=0)


def test_windows_begin_where_their_caption_applies_and_say_what_is_real(folder):
    data = PiecesData(folder, 4, 4)
    windows = data.windows(np.random.default_rng(0), 64, first=True)
    assert windows.past.shape == (64, 4, 2, 3) and windows.future.shape == (64, 4, 2, 3)
    assert ((windows.real >= 1) & (windows.real <= 3)).all()
    step = windows.future[:, 0, 1, 0] - windows.past[:, -1, 1, 0]
    right = np.array([data.sentences[g] == CAPTIONS[0] for g in windows.groups])
    assert (step == np.where(right, 1, -1)).all()


def test_bad_folders_are_refused_by_name(folder, tmp_path):
    with pytest.raises(PiecesDataError, match='vera train planner'):
        PiecesData(tmp_path / 'nothing', 4, 4)
    with pytest.raises(PiecesDataError, match='shorter than one window'):
        PiecesData(folder, 4, 8)
    with pytest.raises(PiecesDataError, match='another recipe'):
        PiecesWriter(folder, ('mark', 'square'), FIELDS, {'expert': 'other'})
    with pytest.raises(ValueError, match='2 shares for 1 folders'):
        config(folder, tmp_path, shares=(1.0, 2.0))


def test_it_learns_to_see_and_to_obey(trained):
    metrics = trained.training['metrics']
    assert metrics['toy_iou'] > 0.8 and metrics['toy_px'] < 1.0
    assert metrics['toy_px4'] < 1.0 and metrics['toy_px4_wrong'] > 5.0
    assert trained.training['command'] == 'vera train planner toy'
    assert trained.path.with_name('curve.png').stat().st_size > 1000


def test_the_plan_is_a_picture_of_what_was_asked_for(planner):
    assert isinstance(planner, VideoPlanner)
    frame, *_ = picture(16, 16, (6, 26))
    for words, way in (('go right', 4), ('to the left', -4)):
        plan = planner.plan(frame[None], words, seed=1)
        assert plan.frames.shape == (4, SIZE, SIZE, 3) and plan.frames.dtype == np.uint8
        red = plan.frames[-1, ..., 0].astype(int) - plan.frames[-1, ..., 1] > 80
        assert np.nonzero(red)[1].mean() + 0.5 == pytest.approx(16 + way, abs=1)
        still = np.zeros((SIZE, SIZE), bool)
        still[22:, :10] = True
        off = np.abs(plan.frames[-1].astype(int) - frame)[still].mean()
        assert off < 10  # without the mark it is 41
        again = planner.plan(frame[None], words, seed=1)
        assert (plan.frames == again.frames).all()


def test_pending_frames_are_where_the_plan_begins(planner):
    seen, later = picture(12, 16, (6, 26))[0], picture(14, 16, (6, 26))[0]
    plan = planner.plan(seen[None], 'go right', pending=later[None])
    red = plan.frames[-1, ..., 0].astype(int) - plan.frames[-1, ..., 1] > 80
    assert np.nonzero(red)[1].mean() + 0.5 == pytest.approx(18, abs=1)


def test_what_it_cannot_use_is_refused_by_name(planner, trained):
    with pytest.raises(PlannerError, match='context has shape'):
        planner.plan(np.zeros((1, 16, 32, 3), np.uint8), 'go right')
    empty = np.full((1, SIZE, SIZE, 3), 200, np.uint8)
    with pytest.raises(PlanRejectedError, match='cannot find square'):
        planner.plan(empty, 'go right')
    black = planner.plan(np.zeros((1, SIZE, SIZE, 3), np.uint8), 'go right')
    assert not black.frames.any()
    network = PiecesNetwork(PiecesConfig.from_dict(trained.config))
    with pytest.raises(PlannerError, match="no poses of 'arm'"):
        PiecesPlanner(network, 'arm', 0.2, (SIZE, SIZE))
    with pytest.raises(ValueError, match='multiples of 16'):
        PiecesPlanner(network, 'toy', 0.2, (40, 40))
    with pytest.raises(ValueError, match='not among the pieces'):
        PoseShape(pieces=('x',), moving=('y',))


def test_the_checkpoint_holds_what_was_trained(trained, planner):
    info = find_checkpoint(str(trained.path), kind='planner')
    assert info.config['kind'] == 'pieces'
    again = load_pieces(info, FIELDS, 0.2, (SIZE, SIZE), threads=1)
    for a, b in zip(again.network.parameters(), planner.network.parameters(), strict=True):
        assert (a == b).all()


def test_a_checkpoint_of_an_older_kind_is_refused_by_name(trained):
    old = replace(trained, config={'kind': 'view_pieces', 'views': ['front']})
    with pytest.raises(CheckpointError, match=r'toy.*older kind.*vera train planner'):
        load_pieces(old, FIELDS, 0.2, (SIZE, SIZE))


def test_a_run_cut_in_two_equals_a_run_in_one(folder, tmp_path):
    short = {'codec_steps': 3, 'steps': 4, 'validate_every': 2}
    whole = PiecesTrainer(config(folder, tmp_path / 'whole', **short))
    whole.run()
    cut = config(folder, tmp_path / 'cut', **short)
    first = PiecesTrainer(cut)
    for _ in range(3):
        first.step('codec')
    for _ in range(2):
        first.step('motion')
    for part in PARTS:
        first.save(part)
    second = PiecesTrainer(replace(cut))
    second.resume()
    assert second.done == {'codec': 3, 'motion': 2}
    second.run()
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
