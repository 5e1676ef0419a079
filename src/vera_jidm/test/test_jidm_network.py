import pytest
import torch

from vera_jidm.models.convolutional import JacobianNet, NetworkConfig


def test_size_and_shapes():
    net = JacobianNet(NetworkConfig(3, 64, 64))
    assert 0.3e6 < net.parameters_count < 0.8e6
    J, weight = net(torch.rand(2, 3, 64, 64))
    assert J.shape == (2, 3, 2, 32, 32)
    assert weight.shape == (2, 3, 32, 32)
    assert (weight > 0).all()


def test_knows_where_a_pixel_is():
    net = JacobianNet(NetworkConfig(1, 32, 32))
    J, _ = net(torch.full((1, 3, 32, 32), 0.5))
    centre = J[0, 0, 0, 8:24, 8:24]
    assert centre.std() > 1e-5


def test_other_canvases():
    J, _ = JacobianNet(NetworkConfig(2, 32, 96))(torch.rand(1, 3, 32, 96))
    assert J.shape == (1, 2, 2, 16, 48)


def test_config_survives_json():
    config = NetworkConfig(5, 64, 128, widths=(24, 32, 48), gradient_rows=False)
    assert NetworkConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'channels': 0, 'height': 64, 'width': 64}, 'channels'),
        ({'channels': 3, 'height': 60, 'width': 64}, 'height is 60'),
        ({'channels': 3, 'height': 64}, 'missing'),
        ({'channels': 3, 'height': 64, 'width': 64, 'depth': 1}, 'unknown'),
    ],
)
def test_config_that_makes_no_sense(values, words):
    with pytest.raises(ValueError, match=words):
        NetworkConfig.from_dict(values)


def test_affine_head_of_one_rigid_motion_is_exact():
    """Every coarse cell holding the same rotation makes one smooth field, whoever is chosen."""
    net = JacobianNet(NetworkConfig(1, 32, 32, head='affine'))
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing='ij')
    slope_x = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 8, 8)
    slope_y = torch.tensor([-1.0, 0.0])[:, None, None].expand(2, 8, 8)
    local = torch.cat([slope_x, slope_y, torch.stack([-y, x])])[None]
    choice = torch.randn(1, 10, 16, 16, generator=torch.Generator().manual_seed(0))
    choice[:, 9] = -40.0
    J = net._choose(local, choice)
    fine = (torch.arange(16.0) - 0.5) / 2
    inner = slice(2, 14)
    expected = torch.stack(
        [-fine[:, None].expand(16, 16), fine[None].expand(16, 16)]
    )
    # At the border, copies of the outermost coarse cells stand in for those beyond it.
    torch.testing.assert_close(
        J[0, 0, :, inner, inner], expected[:, inner, inner], atol=1e-4, rtol=1e-4
    )


def test_affine_head_can_choose_none():
    net = JacobianNet(NetworkConfig(2, 32, 32, head='affine'))
    choice = torch.full((1, 10, 16, 16), -40.0)
    choice[:, 9] = 40.0
    assert net._choose(torch.ones(1, 12, 8, 8), choice).abs().max() < 1e-12


def test_affine_head_has_the_usual_shapes():
    net = JacobianNet(NetworkConfig(3, 64, 128, head='affine'))
    J, weight = net(torch.rand(2, 3, 64, 128))
    assert J.shape == (2, 3, 2, 32, 64)
    assert weight.shape == (2, 3, 32, 64)
    with pytest.raises(ValueError, match='head'):
        NetworkConfig(3, 64, 64, head='other')


@pytest.mark.parametrize('head', ['pixel', 'affine'])
def test_larger_cells_are_the_averages_of_the_small_ones(head):
    torch.manual_seed(0)
    fine = JacobianNet(NetworkConfig(2, 32, 32, head=head, gradient_rows=False))
    coarse = JacobianNet(NetworkConfig(2, 32, 32, head=head, gradient_rows=False, grid=8))
    coarse.load_state_dict(fine.state_dict())
    image = torch.rand(1, 3, 32, 32)
    J, _ = fine(image)
    J8, weights = coarse(image)
    assert J8.shape == (1, 2, 2, 4, 4)
    assert weights.shape == (1, 3, 4, 4)
    means = J.unflatten(-1, (4, 4)).unflatten(-3, (4, 4)).mean(dim=(-3, -1))
    torch.testing.assert_close(J8, means, rtol=1e-5, atol=1e-6)


def test_a_grid_it_has_not_is_refused():
    with pytest.raises(ValueError, match='grid is 5; this family has 2, 4, 8 px'):
        NetworkConfig(2, 40, 40, grid=5)
