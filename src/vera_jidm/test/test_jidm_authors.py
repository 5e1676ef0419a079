"""The authors' checkpoints in their published layout, with random weights."""

import os

import jidm_published as published
import numpy as np
import pytest
import torch
import yaml
from jidm_published import PUBLISHED, SMALL, Raw, random_weights, run_config, write_published
from torch import nn

from vera_core.checkpoint import CheckpointError, find_checkpoint
from vera_core.contract import build_contract, load_contract
from vera_core.seams import JacobianModel
from vera_jidm import authors_config
from vera_jidm.authors import AuthorsError, import_checkpoint, read_weights
from vera_jidm.flow import DisFlow, FlowPair
from vera_jidm.model import load_model
from vera_jidm.models import vggt
from vera_jidm.registry import make_translator

FLOW = DisFlow().flow_id
DPT = ('dpt', 'dpt_v2', 'dpt_vggt_fusion')
# A head of VGGT's shape, small.
TINY = {'patch_size': 14, 'embed_dim': 16, 'decoder_features': 16,
        'decoder_out_channels': [16, 16, 24, 24]}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Everything but `test_the_published_one` runs at a small width."""
    torch.set_num_threads(1)
    monkeypatch.setitem(authors_config.BACKBONES, 'small', (SMALL.dim, SMALL.heads))
    monkeypatch.setitem(authors_config.NECKS, 'M', SMALL.neck)
    monkeypatch.setattr(authors_config, 'FUSED', SMALL.fused)


def contract(joints=2, cameras=1, size=32, width=None, **changes):
    """The finger's contract with other joints and cameras."""
    names = [f'joint_{i + 1}' for i in range(joints)]
    camera = {'width': width or size, 'height': size, 'rate': 20}
    return build_contract({
        **load_contract('finger').to_dict(),
        'channels': [{'name': j, 'joint': j, 'kind': 'joint_delta', 'unit': 'rad'} for j in names],
        'joints': [
            {'name': j, 'position': [-2, 2], 'velocity': 2, 'acceleration': 25} for j in names
        ],
        'home': dict.fromkeys(names, 0.0),
        'canvas': {'height': size, 'width': size * cameras},
        'cameras': [
            {'name': f'view_{i}', 'topic': f'view_{i}/image_raw', **camera} for i in range(cameras)
        ],
        'sim': None, 'kinematics': None, 'calibration': [], **changes,
    })  # fmt: skip


@pytest.fixture(scope='module')
def encoder():
    return random_weights(published.encoder_shapes(SMALL))


def weights_of(model, encoder, n=2):
    return {**encoder, **random_weights(published.decoder_shapes(model, n, SMALL), seed=1)}


def imported(folder, weights, run, embodiment, **options):
    source = write_published(folder / 'published', weights, run)
    return import_checkpoint(
        source, embodiment, folder / 'ours.safetensors', flow_id=FLOW, **options
    )


def frames(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def test_the_published_one(tmp_path, monkeypatch):
    """pusht-idm at its real size."""
    monkeypatch.undo()
    shapes = {**published.encoder_shapes(), **published.decoder_shapes('dpt', 2)}
    # The model card gives it 34.8 M parameters.
    assert round(sum(np.prod(shape) for shape in shapes.values()) / 1e6, 1) == 34.8
    weights = random_weights(shapes)
    info = imported(tmp_path, weights, run_config('dpt', 2, 42), contract())
    views = torch.rand(1, 1, 3, 42, 42)
    with torch.inference_mode():
        theirs = Raw(weights, PUBLISHED).jacobian('dpt', views[:, 0])
        mine = load_model(info).net.jacobian(views)[:, 0]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize('size', [42, 64])
@pytest.mark.parametrize('model', DPT)
def test_the_jacobian_is_theirs(tmp_path, encoder, model, size):
    weights = weights_of(model, encoder)
    info = imported(tmp_path, weights, run_config(model, 2, size), contract())
    net = load_model(info).net
    views = torch.rand(2, 1, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        theirs = Raw(weights, SMALL).jacobian(model, views[:, 0])
        mine = net.jacobian(views)[:, 0]
    assert theirs.std() > 0.05
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_weights_survive_import_and_reload_to_the_last_bit(tmp_path, encoder):
    weights = weights_of('dpt', encoder)
    info = imported(tmp_path, weights, run_config('dpt', 2, 42), contract())
    again = find_checkpoint(str(tmp_path / 'ours.safetensors'), kind='idm')
    assert again.sha256 == info.sha256
    assert again.training['licence'] == 'Apache-2.0'
    first, second = load_model(info), load_model(again)
    assert isinstance(second, JacobianModel)
    images = frames(2, 32, 32)
    np.testing.assert_array_equal(first(images), second(images))
    kept = second.net.state_dict()
    name = 'model.encoder.neck.fusion_stage.layers.2.residual_layer2.convolution1.weight'
    assert torch.equal(kept['neck.fuse.2.refine.conv1.weight'], weights[name])
    name = 'model.encoder.backbone.encoder.layer.3.attention.attention.key.bias'
    assert torch.equal(kept['backbone.blocks.3.key.bias'], weights[name])
    assert len(second.net.backbone.blocks) == 4


def test_names_of_torch_compile_and_safetensors(tmp_path, encoder):
    from safetensors.torch import save_file

    weights = weights_of('dpt', encoder)
    info = imported(tmp_path, weights, run_config('dpt', 2, 42), contract())
    compiled = {k.replace('model.', 'model._orig_mod.', 1): v for k, v in weights.items()}
    save_file(compiled, tmp_path / 'published' / 'weights.safetensors')
    again = import_checkpoint(
        tmp_path / 'published' / 'weights.safetensors', contract(),
        tmp_path / 'again.safetensors', flow_id=FLOW,
    )
    assert again.sha256 == info.sha256


def constant(encoder, biases, model='dpt'):
    """Weights whose normalised Jacobian is the same everywhere."""
    weights = weights_of(model, encoder, len(biases) // 2)
    weights['model.decoder.net.4.weight'] = torch.zeros(len(biases), SMALL.fused // 4, 1, 1)
    weights['model.decoder.net.4.bias'] = torch.tensor(biases)
    return weights


def test_units_by_hand(tmp_path, encoder):
    # Joint 1 moves pixels by (1, 2), joint 2 by (-4, .5), in units of flow per unit of action.
    weights = constant(encoder, [1.0, 2.0, -4.0, 0.5])
    run = run_config(
        'dpt', 2, 42, views=('left', 'right'), oflow_abs_scale=[6.0, 9.0],
        action_abs_scale=[0.05, 0.1], action_scale=2.0, du_scale=0.5,
    )
    # Each view has 24 x 32 px of the canvas, the network sees 42 x 42: its pixels are 24/42 of the
    # canvas' high and 32/42 wide. Actions: .05 stands for 2 * .5 * q, so 1 rad is 20 units of
    # joint 1 and 10 of joint 2.
    embodiment = contract(cameras=2, size=24, width=32, canvas={'height': 24, 'width': 72})
    info = imported(tmp_path, weights, run, embodiment)
    J = load_model(info)(frames(1, 24, 72))
    assert J.shape == (1, 24, 72, 2, 2)
    x, y = 6 * 32 / 42, 9 * 24 / 42
    by_hand = np.array([[1 * x * 20, -4 * x * 10], [2 * y * 20, 0.5 * y * 10]])
    seen = J[:, :, :64]
    np.testing.assert_allclose(seen, np.broadcast_to(by_hand, seen.shape), rtol=1e-5)
    # The canvas ends in 8 px of padding.
    assert not J[:, :, 64:].any()


class Drift:
    """An estimator that sees the same motion everywhere."""

    flow_id = FLOW

    def __init__(self, dx, dy):
        self.flow = np.array([dx, dy], np.float32)

    def both(self, before, after):
        flow = np.broadcast_to(self.flow, (*before.shape[:3], 2)).copy()
        weight = np.ones(before.shape[:3], np.float32)
        return FlowPair(flow, -flow, weight, weight)


def test_an_imported_checkpoint_translates_in_the_contracts_units(tmp_path, encoder, monkeypatch):
    weights = constant(encoder, [1.0, 0.0, 0.0, 1.0])
    run = run_config('dpt', 2, 42, oflow_abs_scale=[6.0, 9.0], action_abs_scale=[0.05, 0.1])
    embodiment = contract(size=32)
    imported(tmp_path, weights, run, embodiment)
    # One radian of joint 1 is 6 / .05 px of the input to the right, 32/42 of that on the canvas.
    x, y = 6 / 0.05 * 32 / 42, 9 / 0.1 * 32 / 42
    translator = make_translator(
        'jacobian', embodiment, str(tmp_path / 'ours.safetensors'),
        estimator=Drift(0.02 * x, -0.03 * y),
    )
    images = frames(3, 32, 32)
    translation = translator.translate(images[0], images[1:])
    # The checkpoint's own ridge, .01 of J'WJ, takes a hundredth away.
    np.testing.assert_allclose(translation.values, [[0.02, -0.03]] * 2, rtol=0.02)
    assert translation.residual.max() < 0.03


def test_gains_where_the_configuration_cannot_know_the_unit(tmp_path, encoder):
    weights = constant(encoder, [1.0, 0.0, 0.0, 1.0])
    run = run_config(
        'dpt', 2, 42, action_mode='pusht_pos_cmd', name='pusht', action_abs_scale=[0.05, 0.1]
    )
    with pytest.raises(AuthorsError, match=r"'joint_1' is in rad.*no known unit.*--gain joint_1"):
        imported(tmp_path, weights, run, contract())
    gains = {'joint_1': 4.0, 'joint_2': 8.0}
    info = imported(tmp_path, weights, run, contract(), gains=gains)
    scale = load_model(info).scales.action
    np.testing.assert_allclose(scale, [0.05 / 4, 0.1 / 8], rtol=1e-6)
    for bad, words in (({'joint_9': 1.0}, 'joint_9'), ({**gains, 'joint_1': 0.0}, 'positive')):
        with pytest.raises(AuthorsError, match=words):
            imported(tmp_path, weights, run, contract(), gains=bad)


def change(run, path, value):
    *parents, last = path.split('.')
    for key in parents:
        run = run[key]
    if value is None:
        run.pop(last)
    else:
        run[last] = value


@pytest.mark.parametrize(('path', 'value', 'words'), [
    ('algorithm.name', 'latent_jacobian', 'latent_jacobian.*only image_jacobian'),
    ('algorithm.model.name', 'unet', "'unet'; there are dpt, dpt_v2"),
    ('algorithm.model.depth', 7, 'dpt with depth is not known'),
    ('algorithm.model.spatial_dim', 3, 'spatial_dim is 3'),
    ('algorithm.model.command_dim', None, 'command_dim is None'),
    ('algorithm.model.backbone_preset', 'giant', "'giant'; there are small"),
    ('algorithm.model.neck_preset', 'S', "'S'; there are M"),
    ('algorithm.model.neck_preset', 'L', r'128, 192, 192, 256|instead of'),
    ('algorithm.image_size', 'large', "image_size is 'large'"),
    ('algorithm.image_size', '${dataset.camera.size}', 'leads nowhere'),
    ('dataset', None, "no section 'dataset'"),
    ('dataset.action_abs_scale', [0.1], r'action_abs_scale is \[0.1\]; it must be 2'),
    ('dataset.action_abs_scale', [0.1, 0.0], 'positive'),
    ('dataset.action_normalization_mode', 'zscore', 'zscore'),
    ('dataset.flow_normalization_mode', 'percentile_minmax', 'percentile_minmax'),
    ('dataset.flow_normalization_space', 'half', 'half'),
    ('dataset.action_mode', 'se3_quat', "command_dim is 2, but actions 'se3_quat' have 7"),
    ('dataset.action_mode', 'thrust', 'thrust'),
    ('dataset.camera.views', ['left', 'right'], r'2 views \(left, right\), the contract 1'),
])  # fmt: skip
def test_a_configuration_that_does_not_fit_is_refused_by_name(
    tmp_path, encoder, path, value, words
):
    run = run_config('dpt', 2, 42)
    change(run, path, value)
    with pytest.raises(AuthorsError, match=words):
        imported(tmp_path, weights_of('dpt', encoder), run, contract())


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, encoder):
    run = run_config('dpt', 2, 42)
    good = weights_of('dpt', encoder)
    name = 'model.encoder.neck.convs.1.weight'
    for changed, words in (
        ({k: v for k, v in good.items() if k != name}, 'it lacks neck.convs.1.weight'),
        ({**good, 'model.decoder.extra.weight': torch.zeros(2)}, 'besides model.decoder.extra'),
        ({**good, name: torch.zeros(16, 6, 3, 3)},
         r'neck.convs.1.weight \[16, 6, 3, 3\] instead of \[16, 8, 3, 3\]'),
        ({**good, name: good[name] * np.nan}, 'not a finite number'),
        (weights_of('dpt_v2', encoder), r'besides model.decoder.proj_layers.0.* and 12 more'),
    ):  # fmt: skip
        with pytest.raises(AuthorsError, match=words):
            imported(tmp_path, changed, run, contract())
    assert not (tmp_path / 'ours.safetensors').exists()
    with pytest.raises(AuthorsError, match='3 channels'):
        imported(tmp_path, good, run, contract(joints=3))
    with pytest.raises(AuthorsError, match='hf download'):
        import_checkpoint(tmp_path / 'no', contract(), tmp_path / 'x.safetensors', flow_id=FLOW)
    (tmp_path / 'published' / 'config.yaml').unlink()
    with pytest.raises(AuthorsError, match=r'none of config.yaml'):
        import_checkpoint(
            tmp_path / 'published', contract(), tmp_path / 'x.safetensors', flow_id=FLOW
        )


class Foreign:
    """A configuration object as Lightning keeps them."""

    def __init__(self):
        self.content = {'a': 1}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


class Evaluated(Bomb):
    def __reduce__(self):
        return eval, (f'open({str(self.path)!r}, "w")',)


def test_nothing_of_a_checkpoint_is_run(tmp_path):
    weights = {'model.a': torch.ones(2)}
    extra = {'hyper_parameters': Foreign(), 'callbacks': {'where': tmp_path}}
    folder = write_published(tmp_path / 'lightning', weights, {}, extra)
    assert torch.equal(read_weights(folder / 'model.ckpt')['model.a'], torch.ones(2))
    trace = tmp_path / 'trace'
    for i, bomb in enumerate((Bomb(trace), Evaluated(trace))):
        folder = write_published(tmp_path / f'bomb{i}', weights, {}, {'callbacks': bomb})
        try:
            read_weights(folder / 'model.ckpt')
        except AuthorsError as error:
            assert 'without running code' in str(error)
        assert not trace.exists()
    (tmp_path / 'garbage.ckpt').write_bytes(b'no checkpoint')
    with pytest.raises(AuthorsError, match='cannot be read'):
        read_weights(tmp_path / 'garbage.ckpt')
    torch.save({'state_dict': {'a': 1}}, tmp_path / 'empty.ckpt')
    with pytest.raises(AuthorsError, match='no state_dict of tensors'):
        read_weights(tmp_path / 'empty.ckpt')


class Aggregator(nn.Module):
    """Stands in for VGGT's: 24 layers of tokens, five special ones first, views mixed."""

    def __init__(self, dim=32):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 14, stride=14)

    def forward(self, images):
        b, v = images.shape[:2]
        x = self.embed(images.flatten(0, 1)).flatten(2).mT.unflatten(0, (b, v))
        x = x + x.mean(dim=1, keepdim=True)
        x = torch.cat([torch.full_like(x[:, :, :5], 9.0), x], dim=2)
        return [x * (1 + 0.1 * i) for i in range(24)], 5


@pytest.fixture
def tiny_vggt(monkeypatch):
    monkeypatch.setattr(vggt, 'facebook_vggt', lambda: vggt.FacebookVggt(Aggregator()))
    monkeypatch.delenv(vggt.ACCEPTED, raising=False)
    torch.manual_seed(5)
    aggregator = Aggregator()
    weights = random_weights(published.vggt_shapes(7, 32, 16, (16, 16, 24, 24)))
    for name, value in aggregator.state_dict().items():
        weights[f'model.vggt.aggregator.{name}'] = value
    run = run_config(
        'vggt_jacobian', 7, 40, ('agentview_image', 'robot0_eye_in_hand_image'),
        name='robomimic', action_mode='se3_quat', action_abs_scale=[0.5] * 7,
    )
    run['algorithm']['model'] |= TINY
    cartesian = [
        {'name': c, 'kind': 'cartesian_delta', 'unit': 'm' if c in 'xyz' else 'rad'}
        for c in ('x', 'y', 'z', 'rx', 'ry', 'rz')
    ]
    finger = {'name': 'finger', 'joint': 'joint_1', 'kind': 'joint_delta', 'unit': 'm'}
    embodiment = contract(1, 2, 40, channels=[*cartesian, finger])
    return aggregator, weights, run, embodiment


def test_vggt_only_with_its_licence_accepted(tmp_path, tiny_vggt, monkeypatch):
    _, weights, run, embodiment = tiny_vggt
    with pytest.raises(AuthorsError, match=r'CC-BY-NC-4.0.*--accept-licence CC-BY-NC-4.0'):
        imported(tmp_path, weights, run, embodiment)
    with pytest.raises(AuthorsError, match='CC-BY-NC'):
        imported(tmp_path, weights, run, embodiment, accept_licence='MIT')
    info = imported(tmp_path, weights, run, embodiment, accept_licence='CC-BY-NC-4.0')
    assert info.training['licence'] == 'CC-BY-NC-4.0'
    monkeypatch.setenv(vggt.ACCEPTED, 'CC-BY-NC-4.0')
    imported(tmp_path, weights, run, embodiment)


def test_vggts_jacobian_is_theirs_and_its_confidence_weighs_rows(tmp_path, tiny_vggt):
    aggregator, weights, run, embodiment = tiny_vggt
    info = imported(tmp_path, weights, run, embodiment, accept_licence='CC-BY-NC-4.0')
    model = load_model(info)
    images = frames(2, 40, 80)
    views = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    views = torch.stack([views[..., :40], views[..., 40:]], dim=1)
    # 40 px are padded to three patches of 14, and the padding is cut off again.
    padded = nn.functional.pad(views.flatten(0, 1), (0, 2, 0, 2), mode='replicate')
    with torch.inference_mode():
        tokens, start = aggregator(padded.unflatten(0, (2, 2)))
        four = [tokens[i][:, :, start:].flatten(0, 1) for i in (4, 11, 17, 23)]
        J, raw = Raw(weights).vggt(four, (3, 3))
        J, raw = J[..., :40, :40], raw[..., :40, :40]
        mine = model.net.jacobian(views).flatten(0, 1)
        _, weight = model.grid(images)
    assert J.std() > 0.05
    torch.testing.assert_close(mine, J, rtol=1e-4, atol=1e-4 * float(J.abs().max()))
    confidence = nn.functional.softplus(nn.functional.avg_pool2d(raw, 2)) + 1e-4
    assert confidence.max() > 20, 'the clamp would not be seen'
    confidence = confidence.clamp(max=20)
    both = confidence.unflatten(0, (2, 2))
    both = torch.cat([both[:, 0], both[:, 1]], dim=-1)
    torch.testing.assert_close(weight[:, :1], both, rtol=1e-4, atol=1e-4)
    # 50 numbers of the action are a metre or a radian, 80 a metre of the finger; .5 is one unit.
    np.testing.assert_allclose(model.scales.action, [0.01] * 6 + [0.5 / 80], rtol=1e-6)


def test_vggt_without_its_package(tmp_path, tiny_vggt, monkeypatch):
    _, weights, run, embodiment = tiny_vggt
    monkeypatch.undo()
    with pytest.raises(AuthorsError, match='facebookresearch/vggt'):
        imported(tmp_path, weights, run, embodiment, accept_licence='CC-BY-NC-4.0')
    run['algorithm']['model']['decoder_intermediate_layer_idx'] = [1, 2, 3, 4]
    with pytest.raises(AuthorsError, match='decoder_intermediate_layer_idx'):
        imported(tmp_path, weights, run, embodiment, accept_licence='CC-BY-NC-4.0')


def test_channels_in_another_order_are_refused(tmp_path, tiny_vggt):
    _, weights, run, embodiment = tiny_vggt
    channels = embodiment.to_dict()['channels']
    turned = contract(1, 2, 40, channels=[*channels[3:6], *channels[:3], channels[6]])
    with pytest.raises(AuthorsError, match=r"'rx' is in rad; number 1 .* is in m"):
        imported(tmp_path, weights, run, turned, accept_licence='CC-BY-NC-4.0')
    turned = contract(1, 2, 40, channels=[channels[6], *channels[:6]])
    with pytest.raises(AuthorsError, match=r"'finger' is a joint_delta; number 1"):
        imported(tmp_path, weights, run, turned, accept_licence='CC-BY-NC-4.0')


def test_a_gripper_in_another_unit(tmp_path, tiny_vggt):
    _, weights, run, embodiment = tiny_vggt
    channels = embodiment.to_dict()['channels']
    gripper = {'name': 'gripper', 'joint': 'joint_1', 'kind': 'gripper', 'unit': 'ratio'}
    closing = contract(1, 2, 40, channels=[*channels[:6], gripper])
    with pytest.raises(AuthorsError, match=r"'gripper' is in ratio; number 7 .* is in m; say how"):
        imported(tmp_path, weights, run, closing, accept_licence='CC-BY-NC-4.0')
    # .5 stands for 80 numbers a metre; the finger travels 4 cm from 0 to 1.
    info = imported(
        tmp_path, weights, run, closing, accept_licence='CC-BY-NC-4.0', gains={'gripper': 0.04}
    )
    assert load_model(info).scales.action[6] == pytest.approx(0.5 / (80 * 0.04))
    assert info.training['gains'] == {'gripper': 0.04}


def test_wandbs_own_form_of_the_configuration(tmp_path):
    run = run_config('dpt', 2, 42)
    wrapped = {k: {'desc': None, 'value': v} for k, v in run.items()}
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(wrapped))
    found = authors_config.read_run(tmp_path / 'model.ckpt')
    read = authors_config.read_config(found, 'here')
    assert read.network['input'] == (42, 42)
    assert issubclass(AuthorsError, CheckpointError)


def test_flow_scaled_by_one_number(tmp_path):
    run = run_config('dpt', 2, 42, flow_normalization_mode='scale', oflow_scale=0.1)
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(run))
    read = authors_config.read_config(authors_config.read_run(tmp_path / 'model.ckpt'), 'here')
    assert read.flow_scale == pytest.approx((10, 10))
