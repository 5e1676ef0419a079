"""The sums over rows with a backward pass of their own, against autograd through the plain ones."""

import pytest
import torch

from vera_jidm import ridge
from vera_jidm.gram import row_sums


def case(seed=0, n=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(2, n, 2, 6, 7, generator=generator, dtype=dtype)
    v = torch.randn(2, 2, 6, 7, generator=generator, dtype=dtype)
    weight = torch.rand(2, 3, 6, 7, generator=generator, dtype=dtype) + 0.1
    return J.requires_grad_(True), v, weight.requires_grad_(True)


def plainly(J, v, weight, gradient_rows):
    """The rows, one by one."""
    gain = ridge.GRADIENT_GAIN
    groups = [(J, v, weight[:, :1])]
    if gradient_rows:
        groups += [
            (gain * (J[..., 2:] - J[..., :-2]), gain * (v[..., 2:] - v[..., :-2]),
             weight[:, 1:2, :, 1:-1]),
            (gain * (J[..., 2:, :] - J[..., :-2, :]), gain * (v[..., 2:, :] - v[..., :-2, :]),
             weight[:, 2:3, 1:-1]),
        ]
    return [ridge.normal_equations(a.flatten(2), b.flatten(1), w.expand_as(b).flatten(1))
            for a, b, w in groups]


@pytest.mark.parametrize('gradient_rows', [True, False])
def test_values_and_gradients_are_those_of_the_plain_sums(gradient_rows):
    J, v, weight = case()
    found = ridge.image_equations(J, v, weight, gradient_rows)
    wanted = sum(plainly(J, v, weight, gradient_rows)[1:], plainly(J, v, weight, gradient_rows)[0])
    outputs = []
    for equations in (found, wanted):
        action = ridge.solve(equations, ridge=1e-3).action
        loss = (action.square().sum() + 0.1 * equations.c.sum() + 0.01 * equations.s.sum())
        outputs.append((equations, torch.autograd.grad(loss, (J, weight))))
    (a, ga), (b, gb) = outputs
    for name in ('A', 'b', 'c', 's', 'dropped'):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))
    for x, y in zip(ga, gb, strict=True):
        assert float(y.abs().max()) > 1e-3
        torch.testing.assert_close(x, y)


def test_gradients_by_finite_differences():
    J, v, weight = case(n=2)
    for gradient_rows in (True, False):
        assert torch.autograd.gradcheck(
            lambda a, b, rows=gradient_rows: row_sums(a, v, b, 4.0, rows), (J, weight)
        )


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), 1e4])
def test_bad_rows_are_still_dropped(bad):
    J, v, weight = case()
    v = v.clone()
    v[0, 0, 2, 3] = bad
    found = ridge.image_equations(J, v, weight)
    assert torch.isfinite(found.A).all() and torch.isfinite(found.b).all()
    assert found.dropped[0] > 0 and found.dropped[1] == 0
    assert torch.isfinite(torch.autograd.grad(ridge.solve(found).action.sum(), J)[0]).all()


def test_a_jacobian_that_is_not_finite_is_dropped_too():
    J, v, weight = case()
    broken = J.detach().clone()
    broken[1, 0, 0, 1, 1] = float('nan')
    found = ridge.image_equations(broken, v, weight)
    assert found.dropped[1] > 0 and torch.isfinite(found.A).all()
