"""Terms of Eq. 5 and its variants, each on a case worked by hand."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from jidm_toys import transitions

from vera_jidm.dataset import Batch, GridFlow
from vera_jidm.losses import (
    JacobianObjective,
    Sample,
    balanced,
    confidence_loss,
    edge_aware_variation,
    gradient_loss,
    inverse_loss,
    moving_weights,
    penalty,
)
from vera_jidm.model import Scales
from vera_jidm.models.convolutional import JacobianNet, NetworkConfig
from vera_jidm.recipe import TrainingConfig

ONE = torch.ones(1, 2, 2)


def test_penalty():
    x = torch.tensor([0.0, 3.0, -4.0])
    # rho(x) = sqrt(x^2 + 4^2), minus 4: 0, 1, sqrt(32) - 4.
    torch.testing.assert_close(
        penalty(x, 'charbonnier', 4.0), torch.tensor([0.0, 1.0, math.sqrt(32) - 4])
    )
    torch.testing.assert_close(penalty(x, 'mse', 4.0), torch.tensor([0.0, 9.0, 16.0]))


def test_moving_cells_count_more():
    v = torch.zeros(1, 2, 2, 2)
    v[0, 0, 0, 0], v[0, 1, 1, 1] = 0.03, 0.01
    assert moving_weights(v, 1.0, 0.02, ONE) is None
    torch.testing.assert_close(
        moving_weights(v, 8.0, 0.02, ONE), torch.tensor([[[8.0, 1.0], [1.0, 1.0]]])
    )
    padding = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    torch.testing.assert_close(
        moving_weights(v, 8.0, 0.02, padding), torch.tensor([[[8.0, 0.0], [1.0, 0.0]]])
    )


def test_views_are_balanced():
    # Two views of 1 x 4 cells. In the first all cells move, in the second one does.
    v = torch.zeros(1, 2, 1, 8)
    v[0, 0, 0, [0, 1, 2, 3, 4]] = 1.0
    views = torch.zeros(2, 1, 8)
    views[0, 0, :4] = views[1, 0, 4:] = 1
    each = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 10.0, 99.0, 99.0, 99.0]]])
    # Means over moving cells: 2.5 and 10. Weights 1 / 1 and 1 / 0.25, over their mean: 0.4, 1.6.
    loss = balanced(each, v, views, 0.02, 0.01, 5.0)
    assert float(loss) == pytest.approx((0.4 * 2.5 + 1.6 * 10) / 2)
    # The largest weight is 2: 2/3 and 4/3 after division by the mean.
    loss = balanced(each, v, views, 0.02, 0.01, 2.0)
    assert float(loss) == pytest.approx((2 / 3 * 2.5 + 4 / 3 * 10) / 2)
    # A share under 0.5 counts as 0.5.
    assert float(balanced(each, v, views, 0.02, 0.5, 5.0)) == pytest.approx(float(loss))


def test_a_view_where_nothing_moves_counts_with_all_its_cells():
    v, views = torch.zeros(1, 2, 1, 4), torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1, 1]]])
    v[0, 1, 0, :2] = 1.0
    each = torch.tensor([[[2.0, 4.0, 6.0, 8.0]]])
    # 3 with weight 1, 7 with weight 5 (a share of 0 counts as 0.01); over the mean: 1/3 and 5/3.
    loss = balanced(each, v, views, 0.02, 0.01, 5.0)
    assert float(loss) == pytest.approx((3 / 3 + 7 * 5 / 3) / 2)


def test_flow_gradients():
    v = torch.zeros(1, 2, 2, 2)
    predicted = v.clone()
    predicted[0, 0, :, 1] = 3.0
    # Differences in x of the first component are 3 in both rows, of the second 0; in y all 0.
    wanted = (math.sqrt(9 + 16) - 4) / 2
    assert float(gradient_loss(predicted, v, None, 4.0)) == pytest.approx(wanted)
    # A constant error has no gradient.
    assert float(gradient_loss(v + 5, v, None, 4.0)) == 0
    # A border between two views is no gradient.
    views = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert float(gradient_loss(predicted, v, views, 4.0)) == 0


def test_variation_of_the_jacobian_is_free_across_edges():
    J = torch.zeros(1, 1, 2, 2, 2)
    J[..., 1] = 2.0
    flat = torch.full((1, 3, 4, 4), 0.5)
    assert float(edge_aware_variation(J, flat, 10.0)) == pytest.approx(2.0)
    edge = flat.clone()
    edge[..., 2:] = 0.8
    assert float(edge_aware_variation(J, edge, 10.0)) == pytest.approx(2 * math.exp(-3))
    assert float(edge_aware_variation(J, edge, 0.0)) == pytest.approx(2.0)


def test_confidence_is_least_at_weight_over_distance():
    distance = torch.full((1, 2, 2), 0.25)
    at = [float(confidence_loss(torch.full((1, 2, 2), c), distance, 0.5)) for c in (1.9, 2, 2.1)]
    assert at[1] == pytest.approx(2 * 0.25 - 0.5 * math.log(2))
    assert at[1] < min(at[0], at[2])


def test_inverse_term():
    found, a = torch.tensor([[0.5, 3.0]]), torch.tensor([[0.0, 0.0]])
    assert float(inverse_loss(found, a, 'mse')) == pytest.approx((0.25 + 9) / 2)
    # Quadratic under 1, linear above.
    assert float(inverse_loss(found, a, 'smooth_l1')) == pytest.approx((0.125 + 2.5) / 2)
    wild = torch.tensor([[float('nan'), 1e6]])
    assert float(inverse_loss(wild, a, 'smooth_l1')) == pytest.approx((0 + 9.5) / 2)


SCALES = Scales(np.array([0.06, 0.06]), np.array([0.1, 0.1]), 0.5)


def sample(count=4):
    data = transitions(count)
    n, h = count, 16

    def cells(flow):
        grid = flow.astype(np.float32).reshape(n, h, 2, h, 2, 2).mean((2, 4))
        return grid.transpose(0, 3, 1, 2).astype(np.float16)

    ones = np.ones((n, h, h), np.float16)
    batch = Batch(
        data.before, data.after, data.actions,
        GridFlow(cells(data.flow), cells(data.flow_back), ones, ones),
    )
    images = np.concatenate([data.before, data.after]).transpose(0, 3, 1, 2) / 255
    return Sample.of(torch.from_numpy(images).float(), batch, SCALES)


def network(**changes):
    torch.manual_seed(0)
    return JacobianNet(NetworkConfig(2, 32, 32, stem=8, widths=(8, 16), **changes))


def objective(teacher=None, views=None, rows=None, **changes):
    config = TrainingConfig(steps=10, warm_up=0.0, precision='float32', **changes)
    return JacobianObjective(config, SCALES, teacher=teacher, views=views, rows=rows)


def test_the_terms_add_up():
    net, data = network(confidence=True), sample()
    out = objective(flow_gradient=0.25, smoothness=0.05, confidence=1.0)(net, data, 5)
    total = (
        2.0 * out['flow'] + 0.25 * out['flow_gradient'] + 0.05 * out['smoothness']
        + out['confidence'] + 0.3 * out['action'] / (1 + 0.3 * out['action'])
    )
    torch.testing.assert_close(out['loss'], total)


def test_the_default_is_the_two_terms_of_eq_5():
    assert set(objective()(network(), sample(), 5)) == {'loss', 'flow', 'relative_flow', 'action'}


def test_sum_is_the_mean_times_what_is_summed():
    net, data = network(), sample()
    mean = objective()(net, data, 5)['flow']
    total = objective(reduction='sum')(net, data, 5)['flow']
    torch.testing.assert_close(total, mean * 2 * 16 * 16)
    J, _ = net(torch.cat([data.before, data.after]))
    error = torch.einsum('bnchw,bn->bchw', J, torch.cat([data.a, -data.a])) - data.v
    by_hand = ((error.square() + 0.05**2).sqrt() - 0.05).sum((1, 2, 3)).mean()
    torch.testing.assert_close(total, by_hand)


@pytest.mark.parametrize(
    'changes',
    [
        {'moving_weight': 8.0}, {'balance_views': True}, {'flow_loss': 'mse'},
        {'inverse_loss': 'smooth_l1'}, {'flow_gradient': 0.25}, {'smoothness': 0.05},
        {'reduction': 'sum'},
    ],
)
def test_every_option_changes_the_gradient(changes):
    def gradient(**options):
        net = network()
        objective(**options)(net, sample(), 5)['loss'].backward()
        return net.merge.weight.grad

    assert torch.isfinite(gradient(**changes)).all()
    assert not torch.allclose(gradient(**changes), gradient())


def test_a_teacher_is_in_pixels_a_unit():
    # J = flow rms / action deviation * 1 px a unit is 1 in the network's units.
    J = torch.ones(8, 2, 2, 16, 16)
    teacher = J * torch.from_numpy(SCALES.flow / SCALES.action).float()[:, None, None, None]
    config = TrainingConfig(steps=10, teacher=1.0)
    found = JacobianObjective(config, SCALES, teacher=lambda batch: teacher)(
        lambda images: (J, torch.ones(8, 3, 16, 16)), sample(), 5
    )
    assert float(found['teacher']) == pytest.approx(0, abs=1e-6)
    off = JacobianObjective(config, SCALES, teacher=lambda batch: 2 * teacher)(
        lambda images: (J, torch.ones(8, 3, 16, 16)), sample(), 5
    )
    assert float(off['teacher']) == pytest.approx(math.sqrt(1 + 0.05**2) - 0.05)
    with pytest.raises(ValueError, match='needs an analytic Jacobian'):
        JacobianObjective(config, SCALES)


def test_padding_counts_nowhere():
    """Noise in the padding changes neither loss nor gradient."""
    views, rows = torch.ones(1, 16, 16), torch.ones(3, 16, 16)
    views[..., 12:] = rows[..., 12:] = 0
    rows[1, :, 11] = 0  # a difference over the border
    data = sample()
    noisy = dataclasses.replace(data, v=data.v.clone())
    noisy.v[..., 12:] = 7.0
    grads = []
    for one in (data, noisy):
        J = torch.randn(8, 2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
        J.requires_grad_(True)
        out = objective(views=views, rows=rows)(
            lambda images, J=J: (J, torch.ones(8, 3, 16, 16)), one, 5
        )
        out['loss'].backward()
        grads.append((float(out['loss'].detach()), J.grad))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    torch.testing.assert_close(grads[0][1], grads[1][1])
    assert (grads[0][1][..., 13:] == 0).all()
