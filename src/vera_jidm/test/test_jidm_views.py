from pathlib import Path

import numpy as np
import pytest
import yaml

from vera_core.contract import build_contract
from vera_jidm.views import ViewBox, ViewError, check_boxes, row_weights, view_boxes

FINGER = Path(__file__).parents[3] / 'config' / 'embodiments' / 'finger.yaml'


def contract(cameras, height=64, width=192):
    data = yaml.safe_load(FINGER.read_text())
    data['canvas'] = {'height': height, 'width': width}
    data['cameras'] = [
        {'name': n, 'width': w, 'height': h, 'rate': 20, 'topic': f'{n}/image'}
        for n, w, h in cameras
    ]
    for key in ('planner_checkpoint', 'translator_checkpoint'):
        data['defaults'].pop(key)
    data.pop('sim')
    return build_contract(data)


def test_boxes_follow_the_canvas_left_to_right_and_leave_the_padding_out():
    boxes = view_boxes(contract([('top', 96, 64), ('wrist', 64, 64)]), {'wrist': 3})
    assert boxes == (
        ViewBox('top', 0, 0, 96, 64, 1.0),
        ViewBox('wrist', 96, 0, 160, 64, 3.0),
    )
    weight = row_weights(boxes, 64, 192, 2)
    assert weight.shape == (3, 32, 96) and weight.dtype == np.float32
    assert (weight[0, :, :48] == 1).all() and (weight[0, :, 48:80] == 3).all()
    assert (weight[:, :, 80:] == 0).all()


def test_differences_do_not_cross_a_border():
    # Column i of the x differences compares cells i - 1 and i + 1.
    boxes = (ViewBox('a', 0, 0, 16, 16), ViewBox('b', 16, 0, 32, 16))
    values, dx, dy = row_weights(boxes, 16, 32, 2)
    assert (values == 1).all()
    assert dx[0].tolist() == [0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0]
    assert (dy[1:-1] == 1).all() and (dy[[0, -1]] == 0).all()


def test_a_cell_that_a_border_cuts_counts_nothing():
    boxes = (ViewBox('a', 0, 0, 7, 8), ViewBox('b', 7, 0, 16, 8))
    assert row_weights(boxes, 8, 16, 2)[0, 0].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]


def test_one_view_that_fills_the_canvas_counts_everywhere():
    assert (row_weights((ViewBox('top', 0, 0, 64, 64),), 64, 64, 2)[0] == 1).all()


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda: ViewBox('a', 4, 0, 4, 8), "'a' covers no pixel"),
        (lambda: ViewBox('a', 0, 0, 8, 8, -1), "weight of view 'a'"),
        (lambda: ViewBox('a', 0, 0, 8, 8, float('nan')), "weight of view 'a'"),
        (lambda: check_boxes([ViewBox('a', 0, 0, 9, 8)], 8, 8), "'a' reaches x 9"),
        (
            lambda: check_boxes([ViewBox('a', 0, 0, 5, 8), ViewBox('b', 4, 0, 8, 8)], 8, 8),
            "'a' and 'b' overlap",
        ),
        (lambda: row_weights([ViewBox('a', 0, 0, 9, 9)], 9, 9, 2), 'no multiple'),
        (lambda: view_boxes(contract([('top', 64, 64)]), {'side': 1}), "view 'side'"),
        (lambda: view_boxes(contract([('top', 64, 64)]), {'top': 0}), 'every view has weight 0'),
    ],
)
def test_what_makes_no_sense_is_named(make, words):
    with pytest.raises(ViewError, match=words):
        make()
