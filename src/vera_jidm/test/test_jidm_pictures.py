import numpy as np

from vera_jidm.pictures import flow_colours, flow_strip, jacobian_colours


def test_still_is_white_and_directions_have_their_colours():
    flow = np.zeros((4, 4, 2), np.float32)
    flow[0] = (2, 0)
    flow[1] = (-2, 0)
    flow[2, :2] = np.nan
    image = flow_colours(flow, 2)
    assert image.dtype == np.uint8
    assert image[3, 3].tolist() == [255, 255, 255]
    assert image[2, 0].tolist() == [255, 255, 255]
    assert image[0, 0].tolist() == [255, 0, 0]
    assert image[1, 0].tolist() == [0, 255, 255]


def test_maps_side_by_side():
    J = np.zeros((8, 10, 2, 3), np.float32)
    J[:, :, 0, 1] = 1
    image = jacobian_colours(J, scale=2)
    assert image.shape == (16, 60, 3)
    assert image[:, :20].min() == 255
    assert image[:, 20:40, 1].max() == 0
    assert flow_strip(np.zeros((4, 8, 8, 2), np.float32)).shape == (8, 32, 3)
