"""Tracks of the Panda's pieces agree with the pictures that they are of."""

import numpy as np
import pytest

from vera_sim import make_environment
from vera_sim.panda_pieces import PIECES, PandaPieces, another_look

pytest.importorskip('mujoco')
NAMES = list(PIECES)


@pytest.fixture(scope='module')
def seen():
    """An environment, its pieces, and two moments of the expert's way."""
    env = make_environment('panda', {'task': 'lift'}, 96)
    env.reset(3)
    target = env.objects[0]
    states = env.expert_states(target, 5)
    pieces = PandaPieces(env)
    return env, pieces, [pieces.frames(state) for state in (states[0], states[4])]


def test_pictures_are_those_of_the_cameras_and_pieces_lie_where_their_tracks_say(seen):
    env, pieces, (frames, _) = seen
    images, labels = pieces.picture(frames, env.scene_info)
    state = env.expert_states(env.objects[0], 1)[0]
    for image, (name, wanted) in zip(images, env.render_scene(state).items(), strict=True):
        assert (image == wanted).all(), name
    tracks, _ = pieces.tracks(frames, env.scene_info)
    assert tracks.shape == (3, len(NAMES), 8)
    checked = 0
    for v in range(3):
        for name in ('hand', *(n for n in NAMES if n.startswith('cube'))):
            k = NAMES.index(name)
            rows, columns = np.nonzero(labels[v] == k)
            if len(rows) < 160 or min(rows.min(), columns.min()) < 4 or max(
                rows.max(), columns.max()
            ) > 187:
                continue
            middle = (np.array([columns.mean(), rows.mean()]) + 0.5) / 2
            reach = np.abs(tracks[v, k, 2:].reshape(2, 3)).sum(1)
            assert (np.abs(middle - tracks[v, k, :2]) < 0.5 * reach + 1).all(), (v, name)
            checked += 1
    assert checked >= 5
    colours = [f'cube_{c}' for c in env.scene_info.colours]
    absent = [k for k, n in enumerate(NAMES) if n.startswith('cube') and n not in colours]
    assert absent and np.isnan(tracks[:, absent]).all()


def test_points_of_the_table_go_where_its_homography_says(seen):
    env, pieces, moments = seen
    scene = env.scene_info
    for frames in moments:
        _, planes = pieces.tracks(frames, scene)
        for (camera, pose), H in zip(env.cameras_of(frames, scene), planes, strict=True):
            point = np.array([0.5, 0.03, 0.0])
            at = (point - pose[:3, 3]) @ pose[:3, :3]
            u, v, w = H @ (0.5, 0.03, 1)
            np.testing.assert_allclose((u / w, v / w), camera.project(at) + 0.5, atol=1e-3)


def test_a_cubes_turn_knows_no_quarter_and_another_look_moves_the_cameras_a_little(seen):
    env, pieces, (frames, _) = seen
    scene = env.scene_info
    turns = pieces.turns(frames, scene)
    i = env._made.bodies.index('cube0')
    k = NAMES.index(f'cube_{scene.colours[0]}')
    turned = frames.copy()
    turned[i, :3, :3] = frames[i, :3, :3] @ [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(pieces.turns(turned, scene)[k], turns[k], atol=1e-5)
    assert np.isnan(turns[NAMES.index('link_3')]).all()
    other = another_look(scene, np.random.default_rng(0), 96)
    there, _ = pieces.tracks(frames, scene)
    here, _ = pieces.tracks(frames, other)
    away = np.abs(here - there)[..., :2]
    assert 0.05 < np.nanmedian(away) < 4
