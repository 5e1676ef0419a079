import numpy as np
import pytest
from jidm_toys import shifted, texture

from vera_core.contract import load_contract
from vera_jidm.flow import DisFlow, FarnebackFlow, FlowError, PairFlow, PerViewFlow, per_view
from vera_jidm.views import ViewBox, ViewError

BOXES = (ViewBox('left', 0, 0, 48, 64), ViewBox('right', 48, 0, 96, 64))


class Counting(PairFlow):
    """Says how often it was asked and for what."""

    flow_id = 'counting'

    def __init__(self):
        self.shapes = []

    def directions(self, a, b):
        self.shapes.append(a.shape)
        flow = np.zeros((*a.shape[:3], 2), np.float32)
        return flow, flow


def canvases():
    """Two views that move apart, and padding; [1, 64, 112, 3] twice."""
    left, right = texture(1, 64)[:, :48], texture(2, 64)[:, 16:]
    pad = np.zeros((64, 16, 3), np.uint8)
    a = np.concatenate([left, right, pad], 1)
    b = np.concatenate([shifted(left, 2, 0), shifted(right, -2, 1), pad], 1)
    return a[None], b[None]


@pytest.mark.parametrize('make', [DisFlow, FarnebackFlow])
def test_each_view_gets_the_flow_that_it_has_alone(make):
    a, b = canvases()
    pair = PerViewFlow(make(), BOXES, 64, 112).both(a, b)
    for box in BOXES:
        at = (slice(None), *box.area)
        alone = make().both(np.ascontiguousarray(a[at]), np.ascontiguousarray(b[at]))
        for field in ('forward', 'backward', 'weight_forward', 'weight_backward'):
            np.testing.assert_array_equal(getattr(pair, field)[at], getattr(alone, field))
    # What the neighbour does must not matter: up to the border the views move as they do.
    assert np.abs(pair.forward[0, 16:48, 36:44, 0].mean() - 2) < 0.3
    assert np.abs(pair.forward[0, 16:48, 52:60, 0].mean() + 2) < 0.3


def test_padding_and_views_of_weight_zero_say_nothing():
    a, b = canvases()
    boxes = (BOXES[0], ViewBox('right', 48, 0, 96, 64, 0.0))
    pair = PerViewFlow(FarnebackFlow(), boxes, 64, 112).both(a, b)
    for weight in (pair.weight_forward, pair.weight_backward):
        assert (weight[..., 48:] == 0).all() and weight[..., :48].mean() > 0.3
    assert (pair.forward[..., 48:, :] == 0).all()


def test_views_of_one_size_are_one_batch():
    inner = Counting()
    boxes = (*BOXES, ViewBox('wide', 96, 0, 160, 64))
    images = np.zeros((4, 64, 160, 3), np.uint8)
    PerViewFlow(inner, boxes, 64, 160)(images, images)
    assert sorted(inner.shapes) == [(4, 64, 64, 3), (8, 64, 48, 3)]


def test_one_view_that_fills_the_canvas_changes_nothing():
    dis = FarnebackFlow()
    assert per_view(dis, load_contract('finger')) is dis
    wrapped = per_view(dis, BOXES, 64, 96)
    assert isinstance(wrapped, PerViewFlow) and wrapped.flow_id == dis.flow_id
    assert per_view(wrapped, BOXES, 64, 96) is wrapped


@pytest.mark.parametrize(
    ('boxes', 'size', 'error', 'words'),
    [
        ((ViewBox('slit', 0, 0, 8, 64),), (64, 64), FlowError, "'slit' is 8 x 64 px"),
        (BOXES, (64, 64), ViewError, "'right' reaches x 96"),
    ],
)
def test_views_without_flow_are_named(boxes, size, error, words):
    with pytest.raises(error, match=words):
        PerViewFlow(FarnebackFlow(), boxes, *size)


def test_a_canvas_of_another_size_is_refused():
    images = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(FlowError, match='64 x 64 px; the views are laid out on 112 x 64'):
        PerViewFlow(FarnebackFlow(), BOXES, 64, 112).both(images, images)
