"""Poses and masks of the pieces agree with the pictures that they are of."""

import numpy as np
import pytest

from vera_sim import FingerEnv, make_environment
from vera_sim import pieces as sim_pieces
from vera_sim.finger_painter import PALETTE, link_map
from vera_sim.pusht_painter import GOAL_COLOUR, PUSHER_LIGHT
from vera_sim.pusht_physics import PushTState


@pytest.fixture
def finger():
    env = FingerEnv(joints=3, discs=3, size=64)
    env.reset(5)
    return env


def test_a_finger_is_where_its_masks_are(finger):
    q, _ = finger.state()
    masks = sim_pieces.finger_masks(q, finger.discs, 64)
    names = sim_pieces.finger_pieces(3)
    assert masks.shape == (len(names), 64, 64) and masks.dtype == np.uint8
    # The topmost piece that covers a pixel is the link that is seen there.
    owner = link_map(q, 64)
    links = masks[len(PALETTE) :] > 127
    top = np.where(links.any(0), len(links) - 1 - np.argmax(links[::-1], axis=0), -1)
    assert (top == owner).mean() > 0.999
    picture = finger.render().astype(int)
    for name, mask in zip(names, masks, strict=True):
        colour = PALETTE.get(name.removeprefix('disc_'))
        if colour is not None and name.removeprefix('disc_') in finger.objects:
            inside = (mask == 255) & (owner < 0)
            assert np.abs(picture[inside] - colour).max() < 60


def test_a_disc_that_is_not_there_has_no_pose_and_no_pixel(finger):
    q, _ = finger.state()
    poses = sim_pieces.finger_poses(q, finger.discs, 64)
    masks = sim_pieces.finger_masks(q, finger.discs, 64)
    for i, name in enumerate(PALETTE):
        assert np.isnan(poses[i]).all() == (name not in finger.objects)
        assert masks[i].any() == (name in finger.objects)


def test_poses_count_the_pixels_of_the_picture(finger):
    q, _ = finger.state()
    small = sim_pieces.finger_poses(np.stack([q, q]), finger.discs, 64)
    large = sim_pieces.finger_poses(q, finger.discs, 128)
    assert small.shape == (2, 7, 3)
    np.testing.assert_allclose(small[1, :, :2] * 2, large[:, :2], rtol=1e-6)
    np.testing.assert_allclose(small[0, 4:, 2], large[4:, 2])


def test_pieces_of_pusht_are_where_the_picture_shows_them():
    env = make_environment('pusht', {}, 96)
    state = PushTState.at((100, 380), (330, 150, 2.0))
    picture = env.render_scene(state).astype(int)
    goal, pusher, block = sim_pieces.pusht_masks(state, 96) == 255
    assert np.abs(picture[goal] - GOAL_COLOUR).max() < 40
    assert np.abs(picture[pusher] - PUSHER_LIGHT).max() < 40
    assert picture[block].std(axis=0).max() < 40 and picture[block].max() < 200
    poses = sim_pieces.pusht_poses(state, 96)
    for mask, pose in zip((goal, pusher, block), poses, strict=True):
        y, x = np.nonzero(mask)
        np.testing.assert_allclose([x.mean() + 0.5, y.mean() + 0.5], pose[:2], atol=0.35)
    assert poses[2, 2] == pytest.approx(2.0)


def test_a_turned_block_turns_its_mask():
    before = PushTState.at((60, 60), (250, 250, 0.0))
    after = PushTState.at((60, 60), (250, 250, np.pi / 2))
    a, b = sim_pieces.pusht_masks(before, 96)[2], sim_pieces.pusht_masks(after, 96)[2]
    # From x towards y: the stem, which pointed down, now points left.
    x, y = np.meshgrid(np.arange(96), np.arange(96))
    assert (y * a).sum() / a.sum() > 47 + 5 and (x * b).sum() / b.sum() < 47 - 5
