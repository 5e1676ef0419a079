import numpy as np
import pytest
from jidm_toys import shifted, texture

from vera_core.seams import FlowEstimator
from vera_jidm.flow import DisFlow, FarnebackFlow, FlowError, consistency, make_flow


@pytest.mark.parametrize('make', [DisFlow, FarnebackFlow])
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


@pytest.mark.parametrize('make', [DisFlow, FarnebackFlow])
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
