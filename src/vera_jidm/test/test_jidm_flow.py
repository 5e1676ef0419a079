import cv2
import numpy as np
import pytest
from jidm_toys import shifted, texture

from vera_core.seams import FlowEstimator
from vera_jidm.flow import (
    DisFlow,
    FarnebackFlow,
    FlowError,
    RefinedDisFlow,
    consistency,
    make_flow,
)
from vera_jidm.flow.refine import Refinement, refine


@pytest.mark.parametrize('make', [DisFlow, RefinedDisFlow, FarnebackFlow])
@pytest.mark.parametrize('motion', [(1.5, -0.7), (-0.4, 2.3), (0.25, 0.0)])
def test_finds_a_known_shift_both_ways(make, motion):
    a = texture(1, 64, 2.0)
    b = shifted(a, *motion)
    pair = make().both(a[None], b[None])
    inner = (0, slice(12, -12), slice(12, -12))
    error = np.abs(pair.forward[inner] - motion).mean()
    assert error < 0.1
    assert np.abs(pair.backward[inner] + motion).mean() < 0.1
    assert pair.weight_forward[inner].mean() > 0.8


@pytest.mark.parametrize('make', [DisFlow, RefinedDisFlow, FarnebackFlow])
def test_is_an_estimator_of_the_seam(make):
    estimator = make()
    assert isinstance(estimator, FlowEstimator)
    image = np.stack([texture(1), texture(2)])
    flow, weight = estimator(image, image)
    assert flow.shape == (2, 32, 32, 2) and flow.dtype == np.float32
    assert weight.shape == (2, 32, 32) and weight.dtype == np.float32
    assert np.abs(flow).mean() < 0.03


def test_a_batch_gives_what_single_pairs_give():
    frames = np.stack([shifted(texture(3, 64), d, -d) for d in (0, 1, 2, 2.5)])
    dis = DisFlow()
    batch = dis.both(frames[:-1], frames[1:])
    for i in range(3):
        alone = dis.both(frames[i : i + 1], frames[i + 1 : i + 2])
        np.testing.assert_array_equal(batch.forward[i], alone.forward[0])
        np.testing.assert_array_equal(batch.weight_backward[i], alone.weight_backward[0])


def test_weights_fall_where_the_directions_disagree():
    flow = np.zeros((32, 32, 2), np.float32)
    back = np.zeros_like(flow)
    back[:, 16:, 0] = 3
    weight = consistency(flow, back)
    assert weight[:, :14].min() == 1
    assert weight[:, 18:].max() < 0.05


def test_settings_are_part_of_the_name():
    assert DisFlow().flow_id != DisFlow(stride=4).flow_id
    assert DisFlow().flow_id.startswith('dis-')
    assert make_flow('dis').flow_id == make_flow(DisFlow().flow_id).flow_id


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('analytic', 'simulator'),
        ('raft', 'dis, dis_lk, farneback'),
        ('dis-256-f1', "this version has 'dis'"),
        ('dis:weights.pth', 'takes no weights'),
        ('ptlflow:raft', 'name model and weights'),
    ],
)
def test_estimators_that_cannot_be_had(name, words):
    with pytest.raises(FlowError, match=words):
        make_flow(name)


@pytest.mark.parametrize(
    ('a', 'b', 'words'),
    [
        (np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 32, 32, 3), np.uint8), 'uint8'),
        (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8), r'\[N, H, W, 3\]'),
        (np.zeros((1, 32, 32, 3), np.uint8), np.zeros((2, 32, 32, 3), np.uint8), 'differ'),
        (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8), 'too small'),
    ],
)
def test_refuses_what_is_no_pair_of_image_batches(a, b, words):
    with pytest.raises(FlowError, match=words):
        DisFlow().both(a, b)


@pytest.mark.parametrize(
    'estimator',
    [
        DisFlow(side=128, finest_scale=0, stride=4, variational_steps=5),
        FarnebackFlow(upscale=4, window=9),
        RefinedDisFlow(stride=4, refinement=Refinement(3, 0.8, 12.5, 20)),
    ],
)
def test_a_flow_id_makes_the_same_estimator_again(estimator):
    again = make_flow(estimator.flow_id)
    assert type(again) is type(estimator) and again.flow_id == estimator.flow_id
    a, b = texture(1, 64)[None], shifted(texture(1, 64), 1, 0.5)[None]
    np.testing.assert_array_equal(again(a, b)[0], estimator(a, b)[0])


def strips(shift):
    """Horizontal strips of 5 px, alike in grey; even ones stand, odd ones move by `shift` px."""
    rng = np.random.default_rng(3)
    tone = cv2.GaussianBlur(rng.uniform(-1, 1, (64, 96)), (0, 0), 1.5)
    tone = np.clip(tone / np.abs(tone).max() * 45, -45, 45)
    image = np.empty((64, 64, 3))
    moves = np.zeros((64, 64, 2), np.float32)
    for top in range(0, 64, 5):
        rows = slice(top, min(64, top + 5))
        odd = (top // 5) % 2
        moved = tone[rows, 16 : 16 + 64]
        if odd:
            matrix = np.array([[1, 0, shift - 16], [0, 1, 0]], np.float64)
            moved = cv2.warpAffine(tone[rows], matrix, (64, moved.shape[0]), flags=cv2.INTER_CUBIC)
            moves[rows, :, 0] = shift
        # Red against blue: about the same grey.
        base = (150, 60, 40) if odd else (30, 80, 160)
        image[rows] = np.array(base) + moved[..., None]
    return np.clip(image, 0, 255).astype(np.uint8), moves


def test_colour_tells_thin_links_apart():
    (a, _), (b, want) = strips(0), strips(1.2)
    inner = (slice(5, -5), slice(8, -8))
    errors = {
        type(e).__name__: np.linalg.norm(e(a[None], b[None])[0][0] - want, axis=-1)[inner].mean()
        for e in (DisFlow(), RefinedDisFlow())
    }
    assert errors['RefinedDisFlow'] < 0.7 * errors['DisFlow']


def test_without_texture_the_refinement_keeps_what_it_was_given():
    flat = np.full((32, 32, 3), 120, np.uint8)
    guess = np.full((32, 32, 2), 0.7, np.float32)
    np.testing.assert_array_equal(refine(flat, flat, guess, Refinement()), guess)


def test_nothing_moves_nothing_flows():
    image = texture(4, 64)[None]
    for estimator in (DisFlow(), RefinedDisFlow(), FarnebackFlow()):
        pair = estimator.both(image, image)
        assert np.abs(pair.forward).max() < 0.15 and pair.weight_forward.min() > 0.5


def test_no_pairs_no_flow():
    none = np.zeros((0, 32, 32, 3), np.uint8)
    assert DisFlow().both(none, none).forward.shape == (0, 32, 32, 2)
