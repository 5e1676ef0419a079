import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.canvas import CanvasError, slots, tile, untile
from vera_core.contract import load_contract


def picture(camera, seed=0):
    return np.random.default_rng(seed).integers(
        0, 256, (camera.height, camera.width, 3), dtype=np.uint8
    )


def pictures(contract):
    return {camera.name: picture(camera, i) for i, camera in enumerate(contract.cameras)}


def test_views_go_left_to_right_at_their_own_aspect(contract):
    # 64x64 -> 32x32, 60x40 -> 48x32, on a canvas of 96x32
    assert slots(contract) == {'top': slice(0, 32), 'side': slice(32, 80)}


def test_the_rest_on_the_right_is_black(contract):
    canvas = tile(
        {c.name: np.full((c.height, c.width, 3), 255, np.uint8) for c in contract.cameras}, contract
    )
    assert canvas.shape == (32, 96, 3) and canvas.dtype == np.uint8
    assert (canvas[:, :80] == 255).all()
    assert (canvas[:, 80:] == 0).all()


def test_one_view_of_twice_the_size_is_a_plain_average_of_four_pixels():
    contract = load_contract('finger', {'canvas': {'height': 64, 'width': 64}})
    camera = contract.cameras[0]
    image = picture(camera)
    assert image.shape == (128, 128, 3)
    expected = (image.reshape(64, 2, 64, 2, 3).astype(int).sum(axis=(1, 3)) + 2) // 4
    assert np.abs(tile({camera.name: image}, contract).astype(int) - expected).max() == 0


def test_a_round_trip_is_exact_where_sizes_match(write):
    contract = load_contract(
        write(),
        {'cameras.top': {'width': 32, 'height': 32}, 'cameras.side': {'width': 48, 'height': 32}},
    )
    images = pictures(contract)
    views = untile(tile(images, contract), contract)
    for name, image in images.items():
        np.testing.assert_array_equal(views[name], image)
    np.testing.assert_array_equal(tile(views, contract), tile(images, contract))


def test_a_crop_is_taken_before_scaling(write):
    contract = load_contract(
        write(), {'cameras.top.crop': {'x': 8, 'y': 16, 'width': 32, 'height': 32}}
    )
    images = pictures(contract)
    view = untile(tile(images, contract), contract)['top']
    np.testing.assert_array_equal(view, images['top'][16:48, 8:40])


def test_a_stack_of_canvases_is_untiled_at_once(contract):
    stack = np.zeros((5, 32, 96, 3), np.uint8)
    assert {k: v.shape for k, v in untile(stack, contract).items()} == {
        'top': (5, 32, 32, 3),
        'side': (5, 32, 48, 3),
    }


def test_the_canvas_does_not_share_memory_with_the_images(write):
    contract = load_contract(
        write(),
        {'cameras.top': {'width': 32, 'height': 32}, 'cameras.side': {'width': 48, 'height': 32}},
    )
    images = pictures(contract)
    canvas = tile(images, contract)
    before = images['top'].copy()
    canvas[:] = 7
    np.testing.assert_array_equal(images['top'], before)


@given(value=st.integers(0, 255), width=st.integers(1, 300), height=st.integers(1, 300))
def test_scaling_keeps_a_plain_colour(value, width, height):
    contract = load_contract(
        'finger',
        {
            'cameras.top': {'width': width, 'height': height},
            'canvas': {'height': 64, 'width': 64 * 301},
        },
    )
    canvas = tile({'top': np.full((height, width, 3), value, np.uint8)}, contract)
    view = untile(canvas, contract)['top']
    assert view.shape[0] == 64 and abs(view.shape[1] - 64 * width / height) <= 1
    assert (view == value).all()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda images: images.pop('side'), "no image of camera 'side'"),
        (lambda images: images.update(back=images['top']), "no camera 'back' in the contract"),
        (lambda images: images.update(top=images['side']), r"camera 'top' is uint8 \[40, 60, 3\]"),
        (lambda images: images.update(top=images['top'] / 255.0), "camera 'top' is float64"),
        (lambda images: images.update(top=images['top'][..., 0]), r'is uint8 \[64, 64\]'),
    ],
)
def test_images_that_do_not_fit_are_refused_by_name(contract, change, words):
    images = pictures(contract)
    change(images)
    with pytest.raises(CanvasError, match=words):
        tile(images, contract)


def test_a_canvas_of_another_size_is_refused(contract):
    with pytest.raises(CanvasError, match=r'\[32, 80, 3\]; the contract says \[32, 96, 3\]'):
        untile(np.zeros((32, 80, 3), np.uint8), contract)
