"""A family with a pretrained backbone goes through the training program and comes back."""

import numpy as np
import pytest
import torch
from jidm_toys import CONTRACT, SIZE, write_folder

from vera_core.checkpoint import find_checkpoint
from vera_jidm.model import load_model
from vera_jidm.models import BackboneError
from vera_jidm.recipe import TrainingConfig
from vera_jidm.training import make_network, train

NETWORK = {
    'dim': 24, 'heads': 2, 'positions': 5, 'neck': [8, 8, 12, 12], 'neck_width': 16, 'fusion': 16,
    'hidden': 16, 'input': [56, 56], 'bands': 4,
}  # fmt: skip


@pytest.fixture(scope='module')
def backbone(tmp_path_factory):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp('dinov2')
    transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=70,
            patch_size=14,
        )
    ).save_pretrained(folder)
    return folder


def recipe(backbone, **changes):
    values = {
        'flow': 'analytic', 'family': 'dinov2', 'network': {**NETWORK, 'backbone': str(backbone)},
        'steps': 80, 'batch': 8, 'rate': 3e-3, 'evaluate_every': 40, 'save_every': 80,
        'precision': 'float32', 'photometric': 0.0, 'degrade': 0.0,
    }  # fmt: skip
    return TrainingConfig(**{**values, **changes})


def test_training_with_dinov2(tmp_path, backbone):
    torch.set_num_threads(1)
    write_folder(tmp_path / 'train', 2, 60)
    write_folder(tmp_path / 'test', 1, 20, seed=9)
    metrics = train(
        recipe(backbone), CONTRACT, tmp_path / 'train', tmp_path / 'test', tmp_path, 'dino'
    )
    assert metrics['mse_stacked'] < 0.7
    path = next(tmp_path.rglob('dino.safetensors'))
    net = load_model(find_checkpoint(str(path), kind='idm')).net
    assert net.family == 'dinov2'
    assert net.config.views == ((0, 0, SIZE, SIZE),)
    # The frozen backbone is in the checkpoint, as it was loaded.
    fresh = make_network(recipe(backbone), CONTRACT)
    for name, value in fresh.backbone.state_dict().items():
        np.testing.assert_array_equal(net.backbone.state_dict()[name], value)


def test_a_backbone_that_is_not_there(tmp_path):
    with pytest.raises(BackboneError, match='no DINOv2 weights'):
        make_network(recipe(tmp_path / 'empty'), CONTRACT)
