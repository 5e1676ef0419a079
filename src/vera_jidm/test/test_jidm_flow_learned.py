"""Estimators that are networks.

The weights of RAFT are not ours to ship. Sizes, directions, batches and units are tested with a
small network that really finds a global shift, the real RAFT with random weights where torchvision
works.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jidm_toys import shifted, texture
from torch import nn
from torch.nn import functional

from vera_jidm.flow import FlowError, estimators, make_flow
from vera_jidm.flow.learned import NetworkFlow
from vera_jidm.flow.ptlflow import PtlFlow
from vera_jidm.flow.raft import RaftFlow


class GlobalShift(nn.Module):
    """Gauss-Newton for one displacement of the whole picture; images [B, 3, H, W] in any scale."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, a, b, num_flow_updates=12):
        self.seen.append(tuple(a.shape))
        h, w = a.shape[-2:]
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing='ij')
        d = torch.zeros(len(a), 2)
        for _ in range(num_flow_updates // 2):
            at = torch.stack(
                [(x + d[:, 0, None, None]) * 2 / w - 1, (y + d[:, 1, None, None]) * 2 / h - 1], -1
            )
            warped = functional.grid_sample(b, at, padding_mode='border', align_corners=False)
            dx = (warped[..., 1:-1, 2:] - warped[..., 1:-1, :-2]) / 2
            dy = (warped[..., 2:, 1:-1] - warped[..., :-2, 1:-1]) / 2
            rows = torch.stack([dx, dy], -1)[..., 12:-12, 12:-12, :].flatten(1, 3)
            miss = (a - warped)[..., 1:-1, 1:-1][..., 12:-12, 12:-12].flatten(1)
            normal = rows.mT @ rows
            d = d + torch.linalg.solve(normal, rows.mT @ miss[..., None])[..., 0]
        flow = (self.gain * d)[:, :, None, None].expand(-1, -1, h, w)
        return [torch.zeros_like(flow), flow]


class ShiftFlow(NetworkFlow):
    def __init__(self, **options):
        super().__init__('shift', device='cpu', **options)
        self.net = GlobalShift()

    def _forward(self, a, b):
        return self.net(a, b)[-1]


@pytest.fixture
def fake_torchvision(monkeypatch):
    nets = []

    def make(weights=None, progress=False):
        nets.append(GlobalShift())
        return nets[-1]

    url = 'https://nowhere.invalid/raft_small-01234567.pth'
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=url))
    module = SimpleNamespace(
        raft_small=make, raft_large=make, Raft_Small_Weights=weights, Raft_Large_Weights=weights
    )
    monkeypatch.setitem(sys.modules, 'torchvision.models.optical_flow', module)
    monkeypatch.setitem(sys.modules, 'torchvision.models', SimpleNamespace())
    monkeypatch.setitem(sys.modules, 'torchvision', SimpleNamespace(__path__=[]))
    monkeypatch.delenv('VERA_RAFT_WEIGHTS', raising=False)
    return nets


def pairs(height=40, width=52):
    motions = [(1.5, -0.7), (-0.4, 1.2), (0.0, 0.0)]
    a = np.stack([texture(i, 64, 3.0)[:height, :width] for i in range(3)])
    b = np.stack([shifted(texture(i, 64, 3.0), *m)[:height, :width] for i, m in enumerate(motions)])
    return a, b, np.array(motions, np.float32)


@pytest.mark.parametrize('side', [40, 61, 128])
def test_units_are_pixels_of_the_images_that_came_in(side):
    a, b, motions = pairs()
    flow = ShiftFlow(side=side)
    pair = flow.both(a, b)
    assert pair.forward.shape == (3, 40, 52, 2) and pair.forward.dtype == np.float32
    np.testing.assert_allclose(pair.forward.mean((1, 2)), motions, atol=0.08)
    np.testing.assert_allclose(pair.backward.mean((1, 2)), -motions, atol=0.08)
    # One forward for all pairs and both directions, in multiples of 8.
    assert len(flow.net.seen) == 1
    n, _, h, w = flow.net.seen[0]
    assert n == 6 and h % 8 == 0 and w % 8 == 0 and side <= h < side + 8


def test_what_leaves_the_picture_weighs_nothing():
    a, b, _ = pairs()
    pair = ShiftFlow(side=40).both(a[:1], b[:1])
    assert (pair.weight_forward[0, :, -1] == 0).all()  # moves 1.5 px to the right
    assert pair.weight_forward[0, 4:-4, 4:-4].min() > 0.9


def test_a_large_data_set_is_cut():
    image = np.zeros((40, 16, 16, 3), np.uint8)

    class Zero(NetworkFlow):
        batches = []

        def _forward(self, a, b):
            self.batches.append(len(a))
            return torch.zeros(len(a), 2, *a.shape[-2:])

    assert Zero('zero', side=16, device='cpu')(image, image)[0].shape == (40, 16, 16, 2)
    assert Zero.batches == [32, 32, 16]


def test_numbers_that_are_none_weigh_nothing_and_do_not_spread():
    class Broken(NetworkFlow):
        def _forward(self, a, b):
            flow = torch.zeros(len(a), 2, *a.shape[-2:])
            flow[:, 0, 10, 20] = float('nan')
            flow[:, 1, 20, 10] = float('inf')
            flow[:, 0, 5, 5] = 1e9
            return flow

    image = texture(1, 32)[None]
    pair = Broken('broken', side=32, device='cpu').both(image, image)
    assert np.isfinite(pair.forward[..., 1]).all() and np.isfinite(pair.weight_forward).all()
    assert sorted(zip(*np.where(pair.weight_forward[0] < 0.5), strict=True)) == [
        (5, 5),
        (10, 20),
        (20, 10),
    ]
    assert (pair.weight_forward[0, [5, 10, 20], [5, 20, 10]] == 0).all()


def test_a_network_of_another_shape_is_refused():
    class Small(NetworkFlow):
        def _forward(self, a, b):
            return torch.zeros(len(a), 2, 4, 4)

    image = texture(1, 32)[None]
    with pytest.raises(FlowError, match=r'small gave flow \[2, 2, 4, 4\]'):
        Small('small', side=32, device='cpu').both(image, image)


def test_raft_by_its_weights_file(fake_torchvision, tmp_path):
    path = tmp_path / 'w.pth'
    torch.save(GlobalShift().state_dict(), path)
    flow = make_flow(f'raft_small:{path}')
    a, b, motions = pairs()
    np.testing.assert_allclose(flow(a, b)[0].mean((1, 2)), motions, atol=0.08)
    # Inputs are what RAFT was trained on: -1..1 and at least 128 px.
    assert fake_torchvision[0].seen[0][-2:] == (256, 336)
    assert flow.flow_id.startswith('raft_small-256-u12-') and len(flow.flow_id) == 27


def test_other_weights_are_another_estimator(fake_torchvision, tmp_path, monkeypatch):
    one, two = tmp_path / 'one.safetensors', tmp_path / 'two.pth'
    from safetensors.torch import save_file

    save_file({'gain': torch.ones(1)}, one)
    torch.save({'state_dict': {'module.gain': torch.full((1,), 0.5)}}, two)
    first, second = RaftFlow(weights=one), RaftFlow(weights=two)
    assert first.flow_id != second.flow_id
    a, b, motions = pairs()
    np.testing.assert_allclose(second(a, b)[0].mean((1, 2)), motions / 2, atol=0.08)
    monkeypatch.setenv('VERA_RAFT_WEIGHTS', str(one))
    assert make_flow(first.flow_id).flow_id == first.flow_id
    with pytest.raises(FlowError, match='this version has'):
        make_flow(second.flow_id)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (None, 'cannot be read'),
        (b'no weights', 'holds no weights that can be read'),
        ({'other': torch.ones(1)}, 'does not fit'),
        ([1, 2], 'holds no state dict'),
    ],
)
def test_weights_that_cannot_be_used(fake_torchvision, tmp_path, content, words):
    path = tmp_path / 'w.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(FlowError, match=words):
        make_flow(f'raft_small:{path}')


def test_weights_that_are_nowhere(fake_torchvision, tmp_path, monkeypatch):
    monkeypatch.setenv('VERA_RAFT_WEIGHTS', str(tmp_path))
    with pytest.raises(FlowError, match=r'there is no .*raft_large\.pth'):
        make_flow('raft_large')
    monkeypatch.delenv('VERA_RAFT_WEIGHTS')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))

    def offline(*_, **__):
        raise OSError('no route to host')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', offline)
    with pytest.raises(FlowError, match='raft_small:PATH or VERA_RAFT_WEIGHTS=PATH'):
        make_flow('raft_small')


@pytest.mark.parametrize(
    ('name', 'module', 'words'),
    [
        ('raft_small', 'torchvision.models.optical_flow', 'pip install torchvision'),
        ('ptlflow:raft:things', 'ptlflow', 'pip install ptlflow'),
    ],
)
def test_packages_that_are_missing_are_named_with_the_cure(monkeypatch, name, module, words):
    monkeypatch.setitem(sys.modules, module.split('.')[0], None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FlowError, match=words):
        make_flow(name)


def test_estimators_say_what_they_need():
    found = estimators()
    assert found['dis'] == found['dis_lk'] == found['farneback'] == ''
    assert found['raft_small'] in ('', 'torchvision') and found['ptlflow'] in ('', 'ptlflow')


@pytest.fixture
def fake_ptlflow(monkeypatch):
    made = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = GlobalShift()

        def forward(self, inputs):
            # BGR: the blue channel, first here, is dark in the pictures of these tests.
            assert inputs['images'][:, :, 0].max() == 0
            a, b = inputs['images'].unbind(1)
            return {'flows': self.net(a, b)[-1][:, None]}

    def get_model(name, ckpt_path):
        if ckpt_path == 'wrong':
            raise ValueError('Invalid checkpoint name wrong')
        made.append((name, ckpt_path, Model()))
        return made[-1][2]

    module = SimpleNamespace(get_model=get_model, get_model_names=lambda: ['quick'])
    monkeypatch.setitem(sys.modules, 'ptlflow', module)
    return made


def test_ptlflow_models(fake_ptlflow, tmp_path):
    a, b, motions = pairs()
    a[..., 2] = b[..., 2] = 0
    flow = make_flow('ptlflow:quick:things')
    np.testing.assert_allclose(flow(a, b)[0].mean((1, 2)), motions, atol=0.08)
    assert flow.flow_id == 'ptlflow-quick-256-things'
    assert make_flow(flow.flow_id).flow_id == flow.flow_id
    path = tmp_path / 'w.ckpt'
    path.write_bytes(b'weights')
    assert PtlFlow('quick', path).flow_id != flow.flow_id
    assert fake_ptlflow[-1][:2] == ('quick', str(path))


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('ptlflow:slow:things', "no model 'slow'; it has quick"),
        ('ptlflow:quick:wrong', 'Invalid checkpoint name'),
        ('ptlflow:quick:no/such.ckpt', 'no weights no/such.ckpt'),
        ('ptlflow-quick-256-0123abcd', 'VERA_PTLFLOW_WEIGHTS'),
    ],
)
def test_ptlflow_models_that_cannot_be_had(fake_ptlflow, monkeypatch, name, words):
    monkeypatch.delenv('VERA_PTLFLOW_WEIGHTS', raising=False)
    with pytest.raises(FlowError, match=words):
        make_flow(name)


@pytest.mark.parametrize('size', ['small', 'large'])
def test_the_real_raft_with_random_weights(size, tmp_path):
    try:
        from torchvision.models import optical_flow
    except (ImportError, RuntimeError) as error:
        pytest.skip(f'torchvision is missing or does not work here: {error}')
    torch.manual_seed(0)
    net = getattr(optical_flow, f'raft_{size}')(weights=None).eval()
    path = tmp_path / 'w.pth'
    torch.save(net.state_dict(), path)
    flow = RaftFlow(size, path, side=128, updates=2, device='cpu')
    a, b, _ = pairs(20, 29)
    pair = flow.both(a, b)
    assert pair.forward.shape == (3, 20, 29, 2) and np.isfinite(pair.forward).all()

    # Against the same network by hand: upscaled 6.4 times to 128 x 186, padded to 128 x 192.
    def image(x):
        x = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
        x = functional.interpolate(x, size=(128, 186), mode='bilinear')
        return functional.pad(x, (0, 6, 0, 0), mode='replicate') * 2 - 1

    with torch.inference_mode():
        want = net(image(b), image(a), num_flow_updates=2)[-1][..., :186]
    want = functional.interpolate(want, size=(20, 29), mode='area') / 6.4
    got = pair.backward.transpose(0, 3, 1, 2)
    assert np.abs(got - want.numpy()).mean() < 0.03 * np.abs(want.numpy()).mean() + 1e-3
