"""Families of Jacobian networks: the interface, DINOv2, and backbones that the user brings."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from vera_core.checkpoint import find_checkpoint, write_checkpoint
from vera_jidm.model import Scales, TrainedJacobian, config_of, load_model
from vera_jidm.model_families import FAMILIES
from vera_jidm.models import BackboneError, build, dinov2, families, vggt
from vera_jidm.models.dinov2 import Dinov2, Dinov2Config, Dinov2Jacobian, renamed
from vera_jidm.models.vggt import VggtConfig, VggtJacobian, make_backbone

SMALL = {
    'dim': 24, 'heads': 2, 'positions': 5, 'neck': (8, 8, 12, 12), 'neck_width': 16, 'fusion': 16,
    'hidden': 8, 'input': (42, 42), 'bands': 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small(**changes):
    values = {'channels': 3, 'height': 32, 'width': 48, **SMALL, **changes}
    return Dinov2Jacobian(Dinov2Config(**values))


class Tokens(nn.Module):
    """A backbone that mixes the views."""

    licence = 'MIT'

    def __init__(self, dim=32, layers=4):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 14, stride=14)
        self.layers = layers

    def forward(self, images):
        b, v = images.shape[:2]
        x = self.embed(images.flatten(0, 1)).flatten(2).mT.unflatten(0, (b, v))
        return [x + k * x.mean(dim=1, keepdim=True) for k in range(self.layers)]


def joint(backbone=None, **changes):
    values = {
        'channels': 2, 'height': 28, 'width': 56, 'dim': 32, 'sizes': (16, 16, 24, 24),
        'features': 16, 'input': (28, 28), 'views': ((0, 0, 28, 28), (28, 0, 56, 28)), **changes,
    }  # fmt: skip
    return VggtJacobian(VggtConfig(**values), backbone or Tokens(values['dim']))


def test_the_families():
    assert families() == tuple(FAMILIES) == ('convolutional', 'dinov2', 'vggt')
    net = build({'channels': 2, 'height': 32, 'width': 32})
    assert net.family == 'convolutional'
    with pytest.raises(ValueError, match="'unet'; there are convolutional, dinov2"):
        build({'family': 'unet', 'channels': 2, 'height': 32, 'width': 32})
    with pytest.raises(ValueError, match="of family 'vggt', not 'dinov2'"):
        Dinov2Config.from_dict({'family': 'vggt', 'channels': 1, 'height': 8, 'width': 8})


@pytest.mark.parametrize('make', [small, joint], ids=['dinov2', 'vggt'])
def test_the_interface(make):
    net = make().eval()
    c = net.config
    with torch.inference_mode():
        J, weight = net(torch.rand(2, 3, c.height, c.width))
    assert J.shape == (2, c.channels, 2, c.height // 2, c.width // 2)
    assert weight.shape == (2, 3, c.height // 2, c.width // 2)
    assert (weight > 0).all()
    assert torch.isfinite(J).all()
    assert J.std() > 0


@pytest.mark.parametrize('make', [small, joint], ids=['dinov2', 'vggt'])
def test_half_precision_is_nearly_the_same(make):
    net = make().eval()
    images = torch.rand(1, 3, net.config.height, net.config.width)
    with torch.inference_mode():
        J, _ = net(images)
        with torch.autocast('cpu', torch.bfloat16):
            half, weight = net(images)
    assert half.dtype == weight.dtype == torch.float32
    assert not torch.equal(half, J)
    assert (half - J).abs().max() < 0.05 * J.abs().max()


def test_a_config_survives_json(tmp_path):
    net = small(views=((0, 0, 16, 32), (16, 0, 48, 32)), confidence=True, pixels=(2.0, 3.0))
    scales = Scales(np.ones(3), np.ones(3), 1.5)
    info = write_checkpoint(
        tmp_path / 'm.safetensors', {k: v.numpy() for k, v in net.state_dict().items()},
        kind='idm', config=config_of(net, scales, 'dis-x', 1e-4), contract={}, training={},
    )
    again = load_model(find_checkpoint(str(info.path), kind='idm')).net
    assert again.config == net.config
    images = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(net.eval()(images)[0], again(images)[0])


def test_the_confidence_stays_in_its_range():
    for make in (small, lambda **c: build({'channels': 2, 'height': 32, 'width': 32, **c})):
        net = make(confidence=True, confidence_range=(0.5, 2.0)).eval()
        head = net.head.predict if hasattr(net.head, 'predict') else net.head
        with torch.no_grad():
            head.weight *= 3000
            images = torch.rand(1, 3, net.config.height, net.config.width)
            weight = net(images)[1]
        assert weight[:, 0].min() == 0.5
        assert weight[:, 0].max() == 2.0
        assert weight[:, 1:].max() > 2
    with pytest.raises(ValueError, match='confidence_range'):
        small(confidence_range=(2.0, 1.0))


def test_views_are_seen_apart():
    net = small(views=((0, 0, 16, 32), (16, 0, 32, 32))).eval()
    images = torch.rand(1, 3, 32, 48)
    other = images.clone()
    other[..., 16:] = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        J, weight = net(images)
        J2, _ = net(other)
    # A change in the right view leaves the left alone, and the padding says nothing.
    assert torch.equal(J[..., :8], J2[..., :8])
    assert not torch.allclose(J[..., 8:16], J2[..., 8:16])
    assert not J[..., 16:].any()
    assert weight[..., 16:].max() < 1e-5
    # A view alone on its canvas gives the same.
    alone = small(width=16)
    alone.load_state_dict(net.state_dict())
    with torch.inference_mode():
        J3, _ = alone.eval()(images[..., :16])
    torch.testing.assert_close(J3, J[..., :8])


def test_vggt_sees_views_together_if_joint():
    backbone = Tokens()
    images = torch.rand(1, 3, 28, 56)
    other = images.clone()
    other[..., 28:] = 0
    for together in (True, False):
        net = joint(backbone, joint=together).eval()
        with torch.inference_mode():
            left, changed = net(images)[0][..., :14], net(other)[0][..., :14]
        assert torch.equal(left, changed) != together


@pytest.mark.parametrize(('changes', 'words'), [
    ({'views': ((0, 0, 64, 32),)}, r'view \[0, 0, 64, 32\] does not lie on the canvas'),
    ({'views': ((0, 0, 15, 32),)}, r'cuts through cells'),
    ({'input': (12, 42)}, 'a patch alone has 14'),
    ({'heads': 5}, 'multiple of heads'),
    ({'stages': (1, 2, 3)}, 'four each'),
    ({'stages': (1, 2, 4, 3)}, 'rising'),
    ({'head': 'linear'}, "no head 'linear'; there are fusion"),
    ({'height': 33}, 'height is 33'),
])  # fmt: skip
def test_configs_that_make_no_sense(changes, words):
    with pytest.raises(ValueError, match=words):
        small(**changes)


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """transformers' own DINOv2 with random weights, and its folder."""
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(1)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=5, num_attention_heads=2, image_size=70, patch_size=14,
        out_features=['stage1', 'stage2', 'stage4', 'stage5'], reshape_hidden_states=False,
    )
    model = transformers.Dinov2Backbone(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    folder = tmp_path_factory.mktemp('dinov2')
    whole = transformers.Dinov2Model(config)
    whole.load_state_dict(model.state_dict())
    whole.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize('size', [(70, 70), (84, 56), (60, 75)])
def test_the_backbone_is_that_of_transformers(reference, size):
    model, _ = reference
    stages = (1, 2, 4, 5)
    mine = Dinov2(24, 2, 5, stages).eval()
    mine.load_state_dict(renamed(model.state_dict(), stages))
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        theirs = model(images).feature_maps
        tokens, patches = mine(images)
    assert patches == (size[0] // 14, size[1] // 14)
    for a, b in zip(theirs, tokens, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_backbone_weights_from_a_folder(reference, caplog):
    model, folder = reference
    net = small(backbone=str(folder), stages=(1, 2, 3, 4))
    before = net.backbone.patches.weight.clone()
    with caplog.at_level('INFO'):
        net.load_backbone()
    assert not torch.equal(net.backbone.patches.weight, before)
    kept = model.state_dict()['embeddings.patch_embeddings.projection.weight']
    assert torch.equal(net.backbone.patches.weight, kept)
    assert 'Apache-2.0' in caplog.text
    with pytest.raises(BackboneError, match='no backbone for this network'):
        small(backbone=str(folder), dim=48).load_backbone()


def test_backbone_weights_with_a_hole(reference, tmp_path):
    from safetensors.torch import load_file, save_file

    _, folder = reference
    weights = load_file(folder / 'model.safetensors')
    # The names on disk are those of facebook/dinov2-small.
    assert 'encoder.layer.0.attention.attention.query.weight' in weights
    del weights['layernorm.weight']
    save_file(weights, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    (tmp_path / 'config.json').write_text((folder / 'config.json').read_text())
    with pytest.raises(BackboneError, match=r'lack layernorm.weight; fetch them again'):
        small(backbone=str(tmp_path)).load_backbone()


def test_backbone_weights_that_are_nowhere(tmp_path, monkeypatch):
    pytest.importorskip('transformers')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    for source in (str(tmp_path), 'nobody/no-such-dinov2'):
        with pytest.raises(BackboneError, match=r'no DINOv2 weights at .*hf download'):
            small(backbone=source).load_backbone()
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(BackboneError, match='pip install transformers'):
        small().load_backbone()


def test_a_frozen_backbone_stays(reference):
    for freeze in (True, False):
        net = small(freeze=freeze)
        J, weight = net(torch.rand(1, 3, 32, 48))
        (J.square().mean() + weight.mean()).backward()
        assert all((p.grad is None) == freeze for p in net.backbone.blocks[:3].parameters())
        assert net.neck.convs[0].weight.grad.abs().max() > 0
        trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        assert net.parameters_count == trained
        assert (trained < sum(p.numel() for p in net.parameters())) == freeze


def test_the_small_authors_network_has_the_published_size():
    config = Dinov2Config(2, 128, 128, head='plain', learned_weights=False, stages=(1, 2, 3, 12))
    with torch.device('meta'):
        net = Dinov2Jacobian(config)
    count = sum(p.numel() for p in net.parameters())
    # What 34.8 M have besides: the mask token, and a unit of the neck that is never reached.
    assert count == 34_848_068 - 384 - 2 * (256 * 256 * 9 + 256)


@pytest.mark.parametrize('head', dinov2.HEADS)
def test_it_learns(head):
    """A Jacobian that depends on the picture: red pixels move with the first action."""
    net = small(head=head, learned_weights=False, channels=1, freeze=False, width=32)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        images = torch.zeros(4, 3, 32, 32)
        target = torch.zeros(4, 1, 2, 16, 16)
        for i in range(4):
            x = 16 * int(torch.randint(2, ()))
            images[i, 0, :, x : x + 16] = 1
            target[i, 0, 0, :, x // 2 : x // 2 + 8] = 1
        J, _ = net(images)
        loss = (J - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * losses[0], losses


def test_a_backbone_of_the_users(monkeypatch):
    module = types.ModuleType('my_backbones')
    module.good = Tokens
    module.silent = lambda: nn.Identity()
    restricted = Tokens()
    restricted.licence = 'CC-BY-NC-4.0'
    module.restricted = lambda: restricted
    monkeypatch.setitem(sys.modules, 'my_backbones', module)
    monkeypatch.delenv(vggt.ACCEPTED, raising=False)
    names = ('good', 'silent', 'restricted', 'none')
    with pytest.raises(BackboneError, match='VERA_BACKBONES=my_backbones:good'):
        make_backbone('my_backbones:good')
    monkeypatch.setenv(vggt.ALLOWED, ','.join(f'my_backbones:{name}' for name in names))
    assert isinstance(make_backbone('my_backbones:good'), Tokens)
    for factory, words in (
        ('my_backbones:silent', 'states no licence'),
        ('my_backbones:none', 'cannot be made'),
        ('my_backbones', 'module:function'),
        ('my_backbones:restricted', r'CC-BY-NC-4.0, which restricts.*VERA_ACCEPT_LICENCE'),
    ):
        with pytest.raises(BackboneError, match=words):
            make_backbone(factory)
    assert make_backbone('my_backbones:restricted', 'CC-BY-NC-4.0') is restricted
    monkeypatch.setenv(vggt.ACCEPTED, 'CC-BY-NC-4.0')
    assert make_backbone('my_backbones:restricted') is restricted


def test_the_adapter_of_the_package_vggt(monkeypatch, caplog):
    class Aggregator(nn.Module):
        def forward(self, images):
            b, v = images.shape[:2]
            layers = [torch.full((b, v, 5 + 4, 6), float(k)) for k in range(24)]
            for layer in layers:
                layer[:, :, :5] = -1  # camera and register tokens
            return layers, 5

    class Vggt:
        def __init__(self, **heads):
            assert not any(heads.values())
            self.aggregator = Aggregator()

    package = types.ModuleType('vggt.models.vggt')
    package.VGGT = Vggt
    monkeypatch.setitem(sys.modules, 'vggt.models.vggt', None)
    with pytest.raises(BackboneError, match='facebookresearch/vggt'):
        make_backbone(vggt.FACEBOOK, 'CC-BY-NC-4.0')
    monkeypatch.setitem(sys.modules, 'vggt.models.vggt', package)
    with pytest.raises(BackboneError, match='CC-BY-NC'):
        make_backbone(vggt.FACEBOOK)
    backbone = make_backbone(vggt.FACEBOOK, 'CC-BY-NC-4.0')
    # A restricting licence is a warning: that is shown everywhere.
    assert [(r.levelname, 'CC-BY-NC-4.0' in r.message) for r in caplog.records] == [
        ('WARNING', True)
    ]
    tokens = backbone(torch.rand(1, 2, 3, 28, 28))
    assert [t.shape for t in tokens] == [(1, 2, 4, 6)] * 4
    assert [float(t.unique()) for t in tokens] == [4, 11, 17, 23]


def test_tokens_that_do_not_fit_the_head():
    for backbone in (Tokens(layers=3), Tokens(dim=40)):
        with pytest.raises(BackboneError, match=r'the head wants 4 times \[2, 4, 32\]'):
            joint(backbone)(torch.rand(1, 3, 28, 56))


def test_units_of_a_head_that_speaks_of_its_input():
    net = small(pixels=(2.0, 5.0), learned_weights=False, channels=1, head='plain').eval()
    nn.init.zeros_(net.head.predict.weight)
    with torch.no_grad():
        net.head.predict.bias.copy_(torch.tensor([3.0, -1.0]))
    model = TrainedJacobian(net, Scales(np.array([0.5]), np.array([1.0]), 1.0), 'dis-x', 1e-4)
    J = model(np.zeros((1, 32, 48, 3), np.uint8))
    # 42 px of the input are 48 of the canvas in x and 32 in y; one action is two units.
    np.testing.assert_allclose(J[..., 0, 0], 3 * 2 * 48 / 42 / 0.5, rtol=1e-6)
    np.testing.assert_allclose(J[..., 1, 0], -1 * 5 * 32 / 42 / 0.5, rtol=1e-6)
