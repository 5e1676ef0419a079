"""Flow and Jacobians of analytic affine motions must mean the same at every size."""

import numpy as np
import pytest
import torch

from vera_jidm import ridge
from vera_jidm.flow import FlowError, rescale_jacobian, resize_flow

# A motion in units of the picture: u(x, y) = A (x, y) + t with x, y in 0..1.
A = np.array([[0.05, -0.12], [0.09, 0.03]])
T = np.array([0.02, -0.04])
SIZES = [(128, 128), (252, 252), (64, 192), (96, 37), (41, 300)]


def affine(height, width, matrix=A, shift=T):
    """Flow [H, W, 2] px of the affine motion, at the centres of the pixels."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    u = np.stack([x, y], -1) @ matrix.T + shift
    return (u * [width, height]).astype(np.float32)


def channels(height, width, n=3):
    rng = np.random.default_rng(4)
    return np.stack(
        [
            affine(height, width, rng.normal(0, 0.1, (2, 2)), rng.normal(0, 0.1, 2))
            for _ in range(n)
        ],
        axis=-1,
    )


def inner(field, old):
    """Without the rim, where there is nothing to interpolate with."""
    rim = [int(np.ceil(new / o)) for new, o in zip(field.shape[:2], old, strict=True)]
    return field[rim[0] : -rim[0], rim[1] : -rim[1]]


@pytest.mark.parametrize('old', [(128, 128), (64, 192), (126, 252)])
@pytest.mark.parametrize('new', SIZES)
def test_an_affine_motion_is_the_same_motion_at_another_size(old, new):
    got = resize_flow(affine(*old), *new)
    assert got.shape == (*new, 2) and got.dtype == np.float32
    np.testing.assert_allclose(inner(got, old), inner(affine(*new), old), atol=2.5e-4 * max(new))


@pytest.mark.parametrize('new', SIZES)
def test_a_jacobian_scales_with_its_flow(new):
    J = channels(64, 192)
    got = rescale_jacobian(J, *new)
    assert got.shape == (*new, 2, 3) and got.dtype == np.float32
    want = channels(*new)
    near = 2.5e-4 * max(new)
    np.testing.assert_allclose(inner(got, (64, 192)), inner(want, (64, 192)), atol=near)
    a = np.array([0.3, -1.1, 0.7], np.float32)
    np.testing.assert_allclose(got @ a, resize_flow(J @ a, *new), atol=1e-4)


def test_the_action_does_not_depend_on_the_size():
    # Planner's canvas 128 wide, estimator at 256, J-IDM at 252, another aspect on top.
    a = np.array([0.5, -0.2, 0.9])
    flow = resize_flow(channels(256, 384) @ a.astype(np.float32), 252, 252)
    J = rescale_jacobian(channels(128, 192), 252, 252)

    def rows(x):
        return torch.from_numpy(x.astype(np.float64)).permute(*range(2, x.ndim), 0, 1)

    system = ridge.normal_equations(
        rows(J).permute(1, 0, 2, 3).flatten(1)[None],
        rows(flow).flatten()[None],
        torch.ones(1, 2 * 252 * 252, dtype=torch.float64),
    )
    got = ridge.solve(system, ridge=1e-9).action[0].numpy()
    np.testing.assert_allclose(got, a, atol=0.02)


def test_batches_keep_their_leading_axes_and_the_input_stays():
    flow = np.stack([affine(16, 24), 2 * affine(16, 24)])[None]
    before = flow.copy()
    got = resize_flow(flow, 32, 24)
    assert got.shape == (1, 2, 32, 24, 2)
    np.testing.assert_array_equal(got[0, 0], resize_flow(affine(16, 24), 32, 24))
    same = resize_flow(flow, 16, 24)
    same += 1
    np.testing.assert_array_equal(flow, before)


@pytest.mark.parametrize(
    ('call', 'words'),
    [
        (lambda: resize_flow(np.zeros((8, 8, 3), np.float32), 4, 4), r'\[\.\.\., H, W, 2\]'),
        (lambda: resize_flow(np.zeros((8, 8, 2), np.float32), 0, 4), '4 x 0 px'),
        (lambda: rescale_jacobian(np.zeros((8, 8, 3, 2), np.float32), 4, 4), 'H, W, 2, n'),
    ],
)
def test_refuses_what_is_no_field(call, words):
    with pytest.raises(FlowError, match=words):
        call()
