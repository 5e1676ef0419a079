import copy

import numpy as np
import pytest
import torch
from jidm_toys import SIZE

from vera_core.checkpoint import CheckpointError, find_checkpoint, write_checkpoint
from vera_core.contract import load_contract
from vera_core.seams import JacobianModel, Translator
from vera_jidm.flow import DisFlow, FarnebackFlow, FlowError, make_flow
from vera_jidm.model import Scales, TrainedJacobian, config_of, load_model
from vera_jidm.models.convolutional import JacobianNet, NetworkConfig
from vera_jidm.registry import SHIPPED, UnknownTranslatorError, make_translator
from vera_jidm.translator import JacobianTranslator, TranslationError


@pytest.fixture(scope='module')
def contract():
    return load_contract('finger')


@pytest.fixture(scope='module')
def translator(contract):
    torch.set_num_threads(1)
    return make_translator('jacobian', contract)


def frames(count, seed=0, size=64):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3), np.uint8)


def small(flow_id):
    torch.manual_seed(0)
    scales = Scales(np.array([0.1, 0.2]), np.array([0.2, 0.4]), 1.5)
    return TrainedJacobian(JacobianNet(NetworkConfig(2, SIZE, SIZE)), scales, flow_id, 5e-5)


def test_the_shipped_checkpoint_fits_the_contract(translator, contract):
    assert isinstance(translator, Translator)
    assert translator.channels == contract.channel_names
    assert translator.flow_id == make_flow('dis_lk').flow_id
    assert len(translator.checkpoint_hash) == 16
    assert (SHIPPED / 'jidm_finger3.safetensors').stat().st_size < 4e6


def test_a_still_plan_is_a_zero_action_without_a_complaint(translator):
    image = frames(1)[0]
    translation, explanation = translator.explain(image, np.stack([image] * 3))
    assert np.abs(translation.values).max() < 1e-3
    assert translation.residual.max() < 0.2
    assert explanation.still.all()
    assert explanation.problems == ('', '', '')


def test_nonsense_frames_give_finite_bounded_actions(translator):
    largest = 2 * 0.12 + 1e-6
    black = np.zeros((1, 64, 64, 3), np.uint8)
    for images in (frames(5), np.concatenate([black, frames(2), black, 255 - black])):
        translation = translator.translate(images[0], images[1:])
        assert translation.values.shape == (4, 3)
        assert np.isfinite(translation.values).all()
        assert np.abs(translation.values).max() <= largest
        assert np.isfinite(translation.residual).all()


def test_a_batch_gives_what_single_steps_give(translator):
    images = frames(4, seed=2)
    batch = translator.translate(images[0], images[1:])
    for k in range(3):
        alone = translator.translate(images[k], images[k + 1 : k + 2])
        np.testing.assert_allclose(alone.values[0], batch.values[k], atol=1e-5)


@pytest.mark.parametrize(
    ('anchor', 'plan', 'words'),
    [
        (np.zeros((64, 64, 3), np.float32), frames(2), 'the anchor is float32'),
        (np.zeros((32, 64, 3), np.uint8), frames(2), r'\[32, 64, 3\]'),
        (frames(1)[0], frames(2, size=32), r'\[2, 32, 32, 3\]'),
        (frames(1)[0], frames(2)[0], 'the frames are'),
        (frames(1)[0], frames(0), 'without frames'),
    ],
)
def test_frames_that_do_not_fit(translator, anchor, plan, words):
    with pytest.raises(TranslationError, match=words):
        translator.translate(anchor, plan)


def test_another_estimator_is_refused_by_name():
    model = small(DisFlow().flow_id)
    with pytest.raises(TranslationError, match=r'dis-256.*refuses .farneback'):
        JacobianTranslator(model, ('x', 'y'), FarnebackFlow())
    with pytest.raises(TranslationError, match=r'refuses .dis-128'):
        JacobianTranslator(model, ('x', 'y'), DisFlow(side=128))
    JacobianTranslator(model, ('x', 'y'), DisFlow())


def test_analytic_flow_cannot_be_deployed(contract):
    five = copy.copy(contract)
    info = find_checkpoint('jidm_finger5_analytic', [SHIPPED], kind='idm')
    object.__setattr__(five, 'action_fields', lambda: info.contract)
    with pytest.raises(FlowError, match='simulator'):
        JacobianTranslator.load(info, five)


def test_modes(contract):
    model = small(DisFlow().flow_id)
    images = frames(3, size=SIZE)
    both, paper = (
        JacobianTranslator(model, ('x', 'y'), DisFlow(), mode=mode).translate(
            images[0], images[1:]
        )
        for mode in ('stacked', 'paper')
    )
    assert not np.allclose(both.values, paper.values)
    with pytest.raises(TranslationError, match='stacked, paper'):
        JacobianTranslator(model, ('x', 'y'), DisFlow(), mode='servo')
    with pytest.raises(TranslationError, match='2 channels'):
        JacobianTranslator(model, ('x',), DisFlow())


def test_names(contract):
    with pytest.raises(UnknownTranslatorError, match='there are jacobian'):
        make_translator('vggt', contract)
    with pytest.raises(CheckpointError, match='vera train idm'):
        make_translator('jacobian', contract, 'nowhere')
    without = load_contract('finger', {'defaults.translator_checkpoint': None})
    with pytest.raises(UnknownTranslatorError, match='names no translator_checkpoint'):
        make_translator('jacobian', without)


def test_a_checkpoint_of_another_contract_names_the_difference():
    wide = load_contract('finger', {'canvas.width': 128})
    with pytest.raises(CheckpointError, match=r'canvas.width: checkpoint 64, contract 128'):
        make_translator('jacobian', wide)


def test_a_model_survives_its_checkpoint(tmp_path):
    model = small('dis-x')
    tensors = {k: v.numpy() for k, v in model.net.state_dict().items()}
    config = config_of(model.net, model.scales, 'dis-x', 5e-5)
    kind = {'kind': 'idm', 'contract': {}, 'training': {}}
    info = write_checkpoint(tmp_path / 'm.safetensors', tensors, config=config, **kind)
    again = load_model(info)
    assert isinstance(again, JacobianModel)
    images = frames(2, size=SIZE)
    J = again(images)
    np.testing.assert_array_equal(J, model(images))
    assert J.shape == (2, SIZE, SIZE, 2, 2)

    for change, words in (
        ({'scales': {**config['scales'], 'flow': -1}}, 'positive'),
        ({'network': {**config['network'], 'stem': 8}}, 'do not fit'),
        ({'flow_id': None, 'ridge': 'much'}, 'config is wrong'),
    ):
        info = write_checkpoint(
            tmp_path / 'n.safetensors', tensors, config={**config, **change}, **kind
        )
        with pytest.raises(CheckpointError, match=words):
            load_model(info)
    poisoned = {**tensors, 'head.bias': tensors['head.bias'] * np.nan}
    info = write_checkpoint(tmp_path / 'p.safetensors', poisoned, config=config, **kind)
    with pytest.raises(CheckpointError, match='not a finite number'):
        load_model(info)
