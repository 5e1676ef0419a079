import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vera_jidm import ridge


def reference(J, v, w, relative):
    """Float64 least squares of the augmented system, with numpy."""
    J, v, w = (np.asarray(x, np.float64) for x in (J, v, w))
    n = len(J)
    mean = (J * w) @ J.T / w.sum()
    r = relative * np.trace(mean) / n
    rows = np.concatenate([(J * np.sqrt(w / w.sum())).T, np.sqrt(r) * np.eye(n)])
    right = np.concatenate([v * np.sqrt(w / w.sum()), np.zeros(n)])
    return np.linalg.lstsq(rows, right, rcond=None)[0]


def system(seed, n=5, R=2000, noise=0.1, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    # Channels differ in how much they move, as joints along an arm do.
    J = torch.randn(1, n, R, generator=g, dtype=dtype) * torch.logspace(0, -1.5, n)[None, :, None]
    a = torch.randn(1, n, generator=g, dtype=dtype)
    v = torch.einsum('bnr,bn->br', J, a) + noise * torch.randn(1, R, generator=g, dtype=dtype)
    w = torch.rand(1, R, generator=g, dtype=dtype)
    return J, v, w, a


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('relative', [1e-6, 5e-5, 1e-2])
@pytest.mark.parametrize('n', [1, 3, 16])
def test_agrees_with_numpy_least_squares(dtype, relative, n):
    for seed in range(5):
        J, v, w, _ = system(seed, n, dtype=dtype)
        found = ridge.solve(ridge.normal_equations(J, v, w), ridge=relative)
        expected = reference(J[0], v[0], w[0], relative)
        error = np.linalg.norm(found.action[0].numpy() - expected) / np.linalg.norm(expected)
        assert error <= 1e-4
        left = v[0].double() - torch.from_numpy(expected) @ J[0].double()
        share = ((w[0] * left**2).sum() / (w[0] * v[0] ** 2).sum()).sqrt()
        assert float(found.residual[0]) == pytest.approx(float(share), abs=2e-3)


def test_gradient_rows_are_the_rows_they_claim_to_be():
    g = torch.Generator().manual_seed(0)
    n, h, w = 3, 8, 10
    J = torch.randn(1, n, 2, h, w, generator=g, dtype=torch.float64)
    v = torch.randn(1, 2, h, w, generator=g, dtype=torch.float64)
    W = torch.rand(1, 3, h, w, generator=g, dtype=torch.float64)
    rows, right, weight = [], [], []
    gain = ridge.GRADIENT_GAIN
    for c in range(2):
        for y in range(h):
            for x in range(w):
                rows.append(J[0, :, c, y, x])
                right.append(v[0, c, y, x])
                weight.append(W[0, 0, y, x])
                if 0 < x < w - 1:
                    rows.append(gain * (J[0, :, c, y, x + 1] - J[0, :, c, y, x - 1]))
                    right.append(gain * (v[0, c, y, x + 1] - v[0, c, y, x - 1]))
                    weight.append(W[0, 1, y, x])
                if 0 < y < h - 1:
                    rows.append(gain * (J[0, :, c, y + 1, x] - J[0, :, c, y - 1, x]))
                    right.append(gain * (v[0, c, y + 1, x] - v[0, c, y - 1, x]))
                    weight.append(W[0, 2, y, x])
    expected = reference(
        torch.stack(rows, 1), torch.stack(right), torch.stack(weight), 1e-4
    )
    found = ridge.solve(ridge.image_equations(J, v, W), ridge=1e-4).action[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 16),
    h=st.integers(3, 12),
    w=st.integers(3, 12),
    spread=st.floats(0, 3),
    relative=st.sampled_from([1e-6, 5e-5, 1e-2]),
    gradient_rows=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_what_is_deployed_agrees_with_least_squares_of_all_rows(
    n, h, w, spread, relative, gradient_rows, seed
):
    """Within 1e-4 of float64 least squares; channels that differ a thousandfold in what they move,
    and two that look nearly alike."""
    rng = np.random.default_rng(seed)
    J = rng.standard_normal((2, n, 2, h, w)) * np.logspace(0, -spread, n)[:, None, None, None]
    if n > 2:
        J[:, -1] = J[:, 0] + 1e-3 * J[:, -1]
    J = J.astype(np.float32)
    a = rng.standard_normal(n)
    v = np.stack([np.einsum('nchw,n->chw', J[0], a), -np.einsum('nchw,n->chw', J[1], a)])
    v = (v + 0.1 * rng.standard_normal(v.shape)).astype(np.float32)
    W = rng.uniform(0.01, 1, (2, 3, h, w)).astype(np.float32)
    trust = rng.uniform(0.1, 1, (2, h, w)).astype(np.float32)
    views = np.ones((3, h, w), np.float32)
    views[:, :, -1] = 0
    total = W * (trust[:, None] * views)
    gain, rows, right, weight = ridge.GRADIENT_GAIN, [], [], []
    for d, sign in ((0, 1), (1, -1)):
        D, V, T = J[d].astype(np.float64), sign * v[d].astype(np.float64), total[d]
        groups = [(D, V, T[0])]
        if gradient_rows:
            groups += [
                (gain * (D[..., 2:] - D[..., :-2]), gain * (V[..., 2:] - V[..., :-2]),
                 T[1][:, 1:-1]),
                (gain * (D[:, :, 2:] - D[:, :, :-2]), gain * (V[:, 2:] - V[:, :-2]), T[2][1:-1]),
            ]
        for left, to, each in groups:
            rows.append(left.reshape(n, -1))
            right.append(to.ravel())
            weight.append(np.broadcast_to(each, to.shape).ravel())
    expected = reference(
        np.concatenate(rows, 1), np.concatenate(right), np.concatenate(weight), relative
    )
    J_, v_, W_, trust_ = (torch.from_numpy(x)[:, None] for x in (J, v, W, trust))
    system = ridge.pair_equations(
        (J_[0], J_[1]), (W_[0], W_[1]), (v_[0], v_[1]), (trust_[0], trust_[1]),
        torch.from_numpy(views), mode='stacked', gradient_rows=gradient_rows,
    )
    found = ridge.solve(system, ridge=relative).action[0].numpy()
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_paper_mode_is_equation_6_as_it_stands():
    """No weights but those of the views, no differences, nothing of the second frame."""
    g = torch.Generator().manual_seed(3)
    J, W = torch.randn(2, 1, 4, 2, 6, 7, generator=g), torch.rand(2, 1, 3, 6, 7, generator=g)
    v, trust = torch.randn(2, 1, 2, 6, 7, generator=g), torch.rand(2, 1, 6, 7, generator=g)
    views = torch.ones(3, 6, 7)
    views[:, :, :2] = 0
    found = ridge.solve(
        ridge.pair_equations(
            (J[0], J[1]), (W[0], W[1]), (v[0], v[1]), (trust[0], trust[1]), views,
            mode='paper', gradient_rows=True,
        ),
        ridge=1e-3,
    )
    rows, right = J[0, 0][..., 2:].reshape(4, -1), v[0, 0][..., 2:].reshape(-1)
    expected = reference(rows, right, torch.ones_like(right), 1e-3)
    np.testing.assert_allclose(found.action[0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match='stacked, paper'):
        ridge.pair_equations(
            (J[0], J[1]), (W[0], W[1]), (v[0], v[1]), (trust[0], trust[1]), views,
            mode='servo', gradient_rows=True,
        )


@pytest.mark.parametrize('what', ['J', 'v', 'weight'])
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), 1e30])
def test_both_ways_of_summing_leave_out_the_same_rows(what, bad):
    g = torch.Generator().manual_seed(4)
    given = {
        'J': torch.randn(2, 3, 2, 6, 8, generator=g, dtype=torch.float64),
        'v': torch.randn(2, 2, 6, 8, generator=g, dtype=torch.float64),
        'weight': torch.rand(2, 3, 6, 8, generator=g, dtype=torch.float64),
    }
    if what != 'v' and bad == 1e30:
        bad = -float('inf')
    given[what][0, 0, ..., 2, 3] = bad
    one, other = ridge.image_equations(**given), ridge.exact_equations(**given)
    assert 0 < float(one.dropped[0]) < 0.2 and float(one.dropped[1]) == 0
    for name in ('A', 'b', 'c', 's', 'dropped'):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-12)


def test_stacking_cancels_curvature():
    """Rows that change with the action itself, J(a) = J0 + a: one direction errs, two do not."""
    g = torch.Generator().manual_seed(2)
    J0 = torch.randn(1, 1, 500, generator=g, dtype=torch.float64)
    bend = J0 + torch.randn(1, 1, 500, generator=g, dtype=torch.float64)
    a = 0.3
    v = (J0 * a + bend * a * a / 2)[:, 0]
    ones = torch.ones_like(v)
    forward = ridge.normal_equations(J0, v, ones)
    backward = ridge.reverse(ridge.normal_equations(J0 + bend * a, -v, ones))
    one = abs(float(ridge.solve(forward, ridge=1e-9).action) - a)
    both = abs(float(ridge.solve(forward + backward, ridge=1e-9).action) - a)
    assert one > 1e-2
    assert both < one / 3


def test_neither_the_number_of_rows_nor_the_units_change_the_solution():
    J, v, w, _ = system(3, dtype=torch.float64)
    once = ridge.solve(ridge.normal_equations(J, v, w), ridge=1e-2)
    four = ridge.normal_equations(J.repeat(1, 1, 4), v.repeat(1, 4), w.repeat(1, 4))
    np.testing.assert_allclose(ridge.solve(four, ridge=1e-2).action, once.action, rtol=1e-9)
    metres = ridge.normal_equations(J * 30, v * 30, w)
    np.testing.assert_allclose(ridge.solve(metres, ridge=1e-2).action, once.action, rtol=1e-9)


def test_weights_choose_the_rows():
    J, v, w, a = system(4, noise=0.0, dtype=torch.float64)
    v = v.clone()
    v[:, ::2] += 5
    w = torch.ones_like(w)
    w[:, ::2] = 0
    found = ridge.solve(ridge.normal_equations(J, v, w), ridge=1e-9)
    np.testing.assert_allclose(found.action, a, atol=1e-5)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), 1e30])
def test_rows_that_make_no_sense_are_left_out(bad):
    J, v, w, a = system(5, noise=0.0, dtype=torch.float64)
    v = v.clone()
    v[:, :50] = bad
    equations = ridge.normal_equations(J, v, w)
    found = ridge.solve(equations, ridge=1e-9)
    assert bool(found.usable)
    assert 0 < float(equations.dropped) < 0.1
    np.testing.assert_allclose(found.action, a, atol=1e-5)


@pytest.mark.parametrize(
    'spoil',
    [
        lambda J, v, w: (J, v * float('nan'), w),
        lambda J, v, w: (J, v * 1e30, w),
        lambda J, v, w: (J * float('nan'), v, w),
        lambda J, v, w: (J * 0, v, w),
        lambda J, v, w: (J, v, w * 0),
        lambda J, v, w: (J, v, w * float('nan')),
    ],
    ids=['nan flow', 'huge flow', 'nan J', 'zero J', 'zero weight', 'nan weight'],
)
def test_a_system_that_says_nothing_gives_a_flagged_zero(spoil):
    found = ridge.solve(ridge.normal_equations(*spoil(*system(6)[:3])), limit=5.0)
    assert not bool(found.usable)
    assert (found.action == 0).all()
    assert float(found.residual) == 1
    assert (found.observability == 0).all()


def test_no_motion_is_a_zero_action_that_nothing_is_wrong_with():
    J, v, w, _ = system(6)
    found = ridge.solve(ridge.normal_equations(J, v * 0, w))
    assert bool(found.still) and bool(found.usable)
    assert (found.action == 0).all()
    assert float(found.residual) == 0
    assert not bool(ridge.solve(ridge.normal_equations(J, v, w), noise=1e-3).still)


def test_one_bad_system_of_a_batch_leaves_the_others_alone():
    systems = [system(s) for s in range(3)]
    J, v, w = (torch.cat([s[i] for s in systems]) for i in range(3))
    clean = ridge.solve(ridge.normal_equations(J, v, w))
    v[1] = float('nan')
    found = ridge.solve(ridge.normal_equations(J, v, w))
    assert found.usable.tolist() == [True, False, True]
    np.testing.assert_allclose(found.action[[0, 2]], clean.action[[0, 2]], rtol=1e-4)


def test_a_channel_that_moves_nothing_gets_nothing():
    J, v, w, _ = system(7, n=3, noise=0.0)
    J = J.clone()
    J[:, 1] = 0
    found = ridge.solve(ridge.normal_equations(J, v, w))
    assert bool(found.rank_deficient)
    assert abs(float(found.action[0, 1])) < 1e-6
    assert float(found.observability[0, 1]) == 0
    assert np.isfinite(float(found.condition))


def test_two_channels_that_look_alike_share():
    J, _, w, _ = system(8, n=3, dtype=torch.float64)
    J = J.clone()
    J[:, 2] = J[:, 1]
    v = J[:, 1] * 0.8
    found = ridge.solve(ridge.normal_equations(J, v, w))
    assert bool(found.rank_deficient)
    np.testing.assert_allclose(found.action[0, 1:], [0.4, 0.4], atol=1e-3)


def test_long_actions_are_scaled_down_and_flagged():
    J, v, w, _ = system(9)
    free = ridge.solve(ridge.normal_equations(J, v * 100, w))
    held = ridge.solve(ridge.normal_equations(J, v * 100, w), limit=2.0)
    assert not bool(free.limited) and bool(held.limited)
    assert float(held.action.abs().max()) == pytest.approx(2.0)
    np.testing.assert_allclose(
        held.action / held.action.norm(), free.action / free.action.norm(), rtol=1e-4
    )


def test_each_channel_may_have_a_limit_of_its_own():
    J, v, w, _ = system(9, n=3)
    free = ridge.solve(ridge.normal_equations(J, v * 100, w))
    most = free.action[0].abs() * torch.tensor([2.0, 0.5, 0.1])
    held = ridge.solve(ridge.normal_equations(J, v * 100, w), limit=most)
    assert bool(held.limited)
    np.testing.assert_allclose(held.action, free.action * 0.1, rtol=1e-4)
    with pytest.raises(ValueError, match='limit'):
        ridge.solve(ridge.normal_equations(J, v, w), limit=torch.tensor([1.0, 0.0, 1.0]))


def test_motion_below_the_noise_counts_as_explained():
    g = torch.Generator().manual_seed(1)
    J, _, w, _ = system(10)
    v = 0.01 * torch.randn(1, J.shape[-1], generator=g)
    equations = ridge.normal_equations(J, v, w)
    assert float(ridge.solve(equations).residual) > 0.9
    assert float(ridge.solve(equations, noise=0.1).residual) < 0.15


@pytest.mark.parametrize('value', [0.0, -1.0, float('nan'), float('inf')])
def test_settings_that_make_no_sense(value):
    equations = ridge.normal_equations(*system(0)[:3])
    with pytest.raises(ValueError, match='ridge'):
        ridge.solve(equations, ridge=value)
    with pytest.raises(ValueError, match='limit'):
        ridge.solve(equations, limit=value)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=24, max_size=24
    ),
    limit=st.floats(0.1, 10),
)
def test_no_input_makes_an_action_beyond_the_limit(values, limit):
    numbers = torch.tensor(values, dtype=torch.float64)
    J, v, w = numbers[:12].view(1, 2, 6), numbers[12:18][None], numbers[18:][None].abs()
    found = ridge.solve(ridge.normal_equations(J, v, w), limit=limit)
    assert torch.isfinite(found.action).all()
    assert float(found.action.abs().max()) <= limit * (1 + 1e-9)
    assert float(found.observability.min()) >= 0 and float(found.observability.max()) <= 1
