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
