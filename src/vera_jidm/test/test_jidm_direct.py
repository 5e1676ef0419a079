"""The direct baselines: as large as the J-IDM, trained by the same program, seen as translators."""

import json

import numpy as np
import pytest
import torch
from jidm_toys import CONTRACT, SIZE, patch, write_folder

from vera_core.checkpoint import CheckpointError, find_checkpoint
from vera_jidm.dataset import AnalyticSource, ShardFolder, TransitionStore
from vera_jidm.direct import (
    HEADS,
    KINDS,
    NO_FLOW,
    DirectConfig,
    DirectNet,
    NoFlow,
    TrainedDirect,
    flow_rows,
    load_direct,
    match,
    pair_images,
)
from vera_jidm.direct_translator import DirectTranslator
from vera_jidm.evaluation import evaluate
from vera_jidm.flow import DisFlow, FarnebackFlow, FlowPair
from vera_jidm.model import Scales
from vera_jidm.models.convolutional import JacobianNet, NetworkConfig
from vera_jidm.recipe import TrainingConfig, TrainingError
from vera_jidm.registry import make_translator
from vera_jidm.training import main_train, train
from vera_jidm.translator import TranslationError

CHANNELS = CONTRACT.channel_names


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('direct')
    write_folder(root / 'train', 2, 40)
    write_folder(root / 'test', 1, 20, seed=9)
    return root / 'train', root / 'test'


def recipe(**changes):
    values = {
        'flow': 'analytic', 'steps': 60, 'batch': 8, 'evaluate_every': 30, 'save_every': 60,
        'widths': (8, 16), 'stem': 8, 'precision': 'float32', 'rate': 1e-2,
    }
    return TrainingConfig(**{**values, **changes})


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize(('channels', 'side'), [(1, 64), (5, 64), (10, 64), (16, 128)])
def test_as_many_parameters_as_the_jidm(kind, head, channels, side):
    like = NetworkConfig(channels, side, side)
    config = match(like, kind, head)
    with torch.device('meta'):
        ours = JacobianNet(like).parameters_count
        theirs = DirectNet(config).parameters_count
    assert abs(theirs - ours) <= 0.05 * ours
    assert (config.stem, config.widths) == (like.stem, like.widths)


def test_no_match_is_said():
    with pytest.raises(ValueError, match='parameters at the nearest'):
        match(NetworkConfig(2, 32, 32, stem=128, widths=(8,), merge=1), 'direct_flow')


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('frames', [1, 2])
def test_every_input_reaches_the_action(head, frames):
    torch.manual_seed(0)
    net = DirectNet(DirectConfig(3, 32, 48, head=head, frames=frames, widths=(8, 16), stem=8))
    images = torch.rand(2, 3 * frames, 32, 48, requires_grad=True)
    flow = torch.randn(2, 3, 16, 24, requires_grad=True)
    out = net(images, flow)
    assert out.shape == (2, 3)
    out.square().sum().backward()
    assert (images.grad.abs().sum((0, 2, 3)) > 0).all()
    assert (flow.grad.abs().sum((0, 2, 3)) > 0).all()


def test_both_directions_are_laid_out_as_said():
    before, after = torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)
    one = pair_images(DirectConfig(2, 32, 32), before, after)
    two = pair_images(DirectConfig(2, 32, 32, kind='direct_pair', frames=2), before, after)
    assert one[:2].max() == 0 and one[2:].min() == 1
    assert two[:2, :3].max() == 0 and two[:2, 3:].min() == 1
    assert two[2:, :3].min() == 1 and two[2:, 3:].max() == 0
    forward, backward = np.full((2, 2, 4, 4), 3.0), np.full((2, 2, 4, 4), -3.0)
    rows = flow_rows((forward, backward), (np.ones((2, 4, 4)), np.zeros((2, 4, 4))), 1.5)
    assert rows.shape == (4, 3, 4, 4)
    assert (rows[:2, :2] == 2).all() and (rows[2:, :2] == -2).all()
    assert (rows[:2, 2] == 1).all() and (rows[2:, 2] == 0).all()


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'kind': 'direct_dream'}, 'no direct translator'),
        ({'head': 'oracle'}, 'no head'),
        ({'kind': 'direct_pair', 'frames': 1}, 'frames is 1'),
        ({'height': 60}, 'height is 60'),
    ],
)
def test_configs_that_make_no_sense(values, words):
    with pytest.raises(ValueError, match=words):
        DirectConfig(**{'channels': 2, 'height': 64, 'width': 64, **values})


@pytest.mark.parametrize(('kind', 'head'), [('direct_flow', 'flatten'), ('direct_flow', 'votes'),
                                            ('direct_pair', 'flatten')])
def test_learns_the_toy(folders, tmp_path, kind, head):
    # Eighty transitions are too few for Muon's large steps.
    config = recipe(
        translator=kind, direct_head=head, steps=120, optimizer='adamw', rate=2e-3
    )
    metrics = train(config, CONTRACT, *folders, tmp_path, 'toy')
    assert metrics['mse_stacked'] < (0.2 if kind == 'direct_flow' else 0.7)
    low, high = metrics['mse_paper_ci']
    assert low <= metrics['mse_paper'] <= high
    assert metrics['translator'] == kind
    like = JacobianNet(NetworkConfig(2, SIZE, SIZE, stem=8, widths=(8, 16)))
    assert metrics['parameters'] == pytest.approx(like.parameters_count, rel=0.05)

    info = find_checkpoint('toy', [tmp_path], kind='idm')
    assert info.config['translator'] == kind
    again = evaluate(load_direct(info), ShardFolder(folders[1]), 'analytic')
    assert again['mse_stacked'] == pytest.approx(metrics['mse_stacked'], rel=1e-6)
    assert again['flow_id'] == (NO_FLOW if kind == 'direct_pair' else 'analytic')


def test_same_keys_as_the_jidm(folders, tmp_path):
    found = {}
    for kind in ('jacobian', *KINDS):
        found[kind] = train(
            recipe(translator=kind, steps=2), CONTRACT, *folders, tmp_path, f'toy_{kind}'
        )
    assert found['jacobian'].keys() == found['direct_flow'].keys() == found['direct_pair'].keys()
    assert found['direct_flow']['relative_flow'] is None
    assert found['jacobian']['relative_flow'] is not None
    json.dumps(found)


def test_the_two_directions_are_averaged(folders):
    torch.manual_seed(1)
    shards = ShardFolder(folders[1])
    net = DirectNet(DirectConfig(2, SIZE, SIZE, widths=(8, 16), stem=8))
    model = TrainedDirect(net, Scales(shards.action_scale, shards.action_max, 1.0), 'analytic')
    store = TransitionStore(shards, AnalyticSource(2), 1, 0)
    batch = store.gather(np.array([[0, i] for i in range(20)]))
    first, second = model.recover_batch(batch)
    a = batch.actions / shards.action_scale
    metrics = evaluate(model, shards, 'analytic')
    assert metrics['mse_paper'] == pytest.approx(np.square(first - a).mean())
    assert metrics['mse_stacked'] == pytest.approx(np.square((first + second) / 2 - a).mean())
    assert not np.allclose(first, second)


def test_no_flow_is_computed_for_the_pair(folders, tmp_path):
    config = recipe(translator='direct_pair', flow='dis', steps=1)
    metrics = train(config, CONTRACT, *folders, tmp_path, 'toy')
    assert metrics['flow_id'] == NO_FLOW
    assert not (folders[0] / 'flow').exists()


def test_no_flow_is_zero_everywhere(folders):
    store = TransitionStore(ShardFolder(folders[1]), NoFlow(), 4, 0)
    assert store.prepare() == 0
    assert store.batch(0).flow.weight_forward.max() == 0


def model(kind='direct_flow', flow_id=None, seed=0):
    torch.manual_seed(seed)
    frames = 2 if kind == 'direct_pair' else 1
    net = DirectNet(DirectConfig(2, SIZE, SIZE, kind=kind, frames=frames, widths=(8, 16), stem=8))
    torch.nn.init.normal_(net.head.weight)
    scales = Scales(np.array([0.1, 0.2]), np.array([0.3, 0.6]), 1.0)
    return TrainedDirect(net, scales, flow_id or DisFlow().flow_id)


def images(count=3):
    return np.stack([patch(6 + 0.5 * i, 8)[0] for i in range(count + 1)])


@pytest.mark.parametrize('mode', ['stacked', 'paper'])
@pytest.mark.parametrize('kind', KINDS)
def test_translates(kind, mode):
    pair = kind == 'direct_pair'
    translator = DirectTranslator(
        model(kind, NO_FLOW if pair else None), CHANNELS, None if pair else DisFlow(), mode=mode
    )
    frames = images()
    translation, explanation = translator.explain(frames[0], frames[1:])
    assert translator.translator_id == kind and not translator.needs_state
    assert translation.values.shape == (3, 2) and np.isfinite(translation.values).all()
    assert (translation.observability == 1).all()
    assert ((translation.residual >= 0) & (translation.residual <= 1)).all()
    assert (translation.residual.max() == 0) == (mode == 'paper')
    assert explanation.jacobian.shape == (SIZE // 2, SIZE // 2, 2, 2)
    one = translator.translate(frames[0], frames[1:2])
    np.testing.assert_allclose(one.values[0], translation.values[0], atol=1e-5)


def test_units_are_the_contract_s():
    trained = model()
    translator = DirectTranslator(trained, CHANNELS, DisFlow(), mode='paper')
    frames = images(1)
    pair = DisFlow().both(frames[:1], frames[1:])
    v = pair.forward.reshape(1, SIZE // 2, 2, SIZE // 2, 2, 2).mean((2, 4)).transpose(0, 3, 1, 2)
    trust = pair.weight_forward.reshape(1, SIZE // 2, 2, SIZE // 2, 2).mean((2, 4))
    flow = torch.from_numpy(np.concatenate([v, trust[:, None]], axis=1))
    image = torch.from_numpy(frames[:1].transpose(0, 3, 1, 2) / 255).float()
    with torch.inference_mode():
        expected = trained.net(image, flow)[0].numpy() * [0.1, 0.2]
    found = translator.translate(frames[0], frames[1:]).values[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


class Broken(DisFlow):
    """Flow as it should never be."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def both(self, a, b):
        flow = np.full((*a.shape[:3], 2), self.value, np.float32)
        ones = np.ones(a.shape[:3], np.float32)
        return FlowPair(flow, flow, ones, ones)


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e6])
def test_flow_that_says_nothing_moves_nothing(value):
    translator = DirectTranslator(model(), CHANNELS, Broken(value))
    frames = images(2)
    translation, explanation = translator.explain(frames[0], frames[1:])
    assert (translation.values == 0).all()
    assert (translation.residual == 1).all()
    assert all('zero action' in p for p in explanation.problems)


def test_no_action_is_beyond_bounds():
    trained = model()
    trained = TrainedDirect(
        trained.net, Scales(np.array([0.1, 0.2]), np.array([0.3, 0.8]), 1.0), trained.flow_id
    )
    torch.nn.init.constant_(trained.net.head.bias, 1e4)
    translator = DirectTranslator(trained, CHANNELS, DisFlow(), mode='paper')
    translation, explanation = translator.explain(images()[0], images()[1:])
    # Both are equally far off in their units; the first reaches twice its largest action of the
    # training first, and the direction stays.
    np.testing.assert_allclose(translation.values, [[0.6, 1.2]] * 3, rtol=0.02)
    assert all('scaled down' in p for p in explanation.problems)


def test_refusals(folders, tmp_path):
    with pytest.raises(TranslationError, match='refuses'):
        DirectTranslator(model(), CHANNELS, FarnebackFlow())
    with pytest.raises(TranslationError, match='refuses'):
        DirectTranslator(model(), CHANNELS, None)
    with pytest.raises(TranslationError, match='no mode'):
        DirectTranslator(model(), CHANNELS, DisFlow(), mode='servo')
    with pytest.raises(TranslationError, match='2 channels, the contract 1'):
        DirectTranslator(model(), ('x',), DisFlow())
    translator = DirectTranslator(model(), CHANNELS, DisFlow())
    with pytest.raises(TranslationError, match='anchor'):
        translator.translate(np.zeros((8, 8, 3), np.uint8), images()[1:])
    with pytest.raises(TranslationError, match='without frames'):
        translator.translate(images()[0], images()[:0])
    with pytest.raises(TrainingError, match='no translator'):
        recipe(translator='direct_dream')


def test_the_registry_keeps_translators_apart(folders, tmp_path):
    config = recipe(translator='direct_pair', steps=1)
    train(config, CONTRACT, *folders, tmp_path, 'pair')
    path = str(tmp_path / 'pair.safetensors')
    assert make_translator('direct_pair', CONTRACT, path).flow_id == NO_FLOW
    for other in ('jacobian', 'direct_flow'):
        with pytest.raises(CheckpointError, match="is of translator 'direct_pair'"):
            make_translator(other, CONTRACT, path)


def test_names_of_checkpoints(folders, tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(
        'vera_jidm.training.train', lambda *args, **kw: names.append(args[5]) or {}
    )
    for kind, flow in [
        ('jacobian', 'dis'), ('direct_flow', 'analytic'), ('direct_pair', 'dis_lk'),
    ]:
        main_train('finger', data=folders[0], held_out=folders[1], translator=kind, flow=flow)
    assert names == ['jidm_finger3', 'direct_flow_finger3_analytic', 'direct_pair_finger3']

