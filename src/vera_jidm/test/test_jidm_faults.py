"""Bad input: a clear error or a flagged, safe chunk; never an unbounded action."""

import json
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jidm_toys import FIELDS, SIZE, texture

from vera_core.checkpoint import CheckpointError, find_checkpoint, write_checkpoint
from vera_core.contract import load_contract
from vera_jidm.flow import FlowPair, PairFlow
from vera_jidm.model import Scales, TrainedJacobian, config_of, load_model
from vera_jidm.models import build
from vera_jidm.registry import SHIPPED, make_translator
from vera_jidm.translator import JacobianTranslator, TranslationError

NAMES = ('x', 'y')
# Twice the largest action of the training.
LARGEST = 0.4


class GivenFlow(PairFlow):
    """Reports the flow it is told to report, fully trusted."""

    flow_id = 'given'

    def __init__(self, forward, weight=None):
        self.forward, self.weight = forward, weight

    def directions(self, a, b):
        return self.forward, -self.forward

    def both(self, a, b):
        count = len(a)
        flow = np.broadcast_to(np.asarray(self.forward, np.float32), (count, SIZE, SIZE, 2)).copy()
        ones = np.ones(flow.shape[:3], np.float32)
        weight = ones if self.weight is None else ones * np.float32(self.weight)
        with np.errstate(invalid='ignore', over='ignore'):
            return FlowPair(flow, -flow, weight, weight)


def model(flow_id='given', seed=0):
    torch.manual_seed(seed)
    config = {'family': 'convolutional', 'channels': 2, 'height': SIZE, 'width': SIZE}
    net = build(config)
    scales = Scales(np.array([0.1, 0.1]), np.array([0.2, 0.2]), 1.5)
    return TrainedJacobian(net, scales, flow_id, 5e-5)


def translator(flow, weight=None, made=None, mode='stacked'):
    return JacobianTranslator(made or model(), NAMES, GivenFlow(flow, weight), mode=mode)


def frames(count=3):
    return np.stack([texture(s) for s in range(count)])


def safe(translation, explanation):
    """Nothing that leaves here is unbounded or no number."""
    assert np.isfinite(translation.values).all()
    assert np.abs(translation.values).max() <= LARGEST * (1 + 1e-9)
    assert np.isfinite(translation.residual).all() and np.isfinite(translation.observability).all()
    assert all(np.isfinite(v).all() for v in explanation.honesty.signals.values())
    assert np.isfinite(explanation.honesty.explained).all()


@pytest.mark.parametrize('mode', ['stacked', 'paper'])
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e12], ids=str)
def test_flow_that_makes_no_sense_is_a_flagged_zero(bad, mode):
    images = frames()
    translation, explanation = translator(bad, mode=mode).explain(images[0], images[1:])
    safe(translation, explanation)
    assert (translation.values == 0).all() and (translation.residual == 1).all()
    assert explanation.problems == ('flow or Jacobian say nothing: zero action',) * 2


@pytest.mark.parametrize('bad', [np.nan, 1e12])
def test_a_few_bad_rows_are_left_out(bad):
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 0.5, (SIZE, SIZE, 2)).astype(np.float32)
    holes = flow.copy()
    holes[:6, :6] = bad
    images = frames()
    whole = translator(flow).translate(images[0], images[1:])
    translation, explanation = translator(holes).explain(images[0], images[1:])
    safe(translation, explanation)
    assert explanation.problems == ('', '')
    np.testing.assert_allclose(translation.values, whole.values, atol=0.05)


def test_a_flow_that_would_need_a_huge_action_is_scaled_down_and_flagged():
    images = frames()
    made = model()
    J = torch.from_numpy(made(images[:1])[0])
    push = (J @ torch.tensor([30.0, -10.0])).numpy()
    # The answer must be long: 150 times the limit.
    translation, explanation = translator(push, mode='paper').explain(images[0], images[1:2])
    safe(translation, explanation)
    assert np.abs(translation.values).max() == pytest.approx(LARGEST)
    assert 'scaled down' in explanation.problems[0]


def test_nothing_trusted_is_a_flagged_zero():
    images = frames()
    translation, explanation = translator(1.0, weight=0.0).explain(images[0], images[1:])
    safe(translation, explanation)
    assert (translation.values == 0).all() and all(explanation.problems)


@pytest.mark.parametrize('hidden', [0, 1])
def test_a_joint_that_moves_no_pixel_gets_nothing_and_is_named(hidden):
    made = model()
    with torch.no_grad():
        made.net.head.weight[2 * hidden : 2 * hidden + 2] = 0
        made.net.head.bias[2 * hidden : 2 * hidden + 2] = 0
    rng = np.random.default_rng(1)
    flow = rng.normal(0, 0.5, (SIZE, SIZE, 2)).astype(np.float32)
    images = frames()
    translation, explanation = translator(flow, made=made).explain(images[0], images[1:])
    safe(translation, explanation)
    assert np.abs(translation.values[:, hidden]).max() < 1e-6
    assert translation.observability[hidden] == 0
    assert all(repr(NAMES[hidden]) in problem for problem in explanation.problems)
    assert np.isfinite(explanation.condition).all()


def test_two_joints_that_look_alike_share_the_motion():
    made = model()
    with torch.no_grad():
        made.net.head.weight[2:4] = made.net.head.weight[0:2]
        made.net.head.bias[2:4] = made.net.head.bias[0:2]
    images = frames(2)
    J = torch.from_numpy(made(images[:1])[0])
    push = (J[..., :1] @ torch.tensor([0.1])).numpy()
    translation, explanation = translator(push, made=made, mode='paper').explain(
        images[0], images[1:]
    )
    safe(translation, explanation)
    np.testing.assert_allclose(translation.values, [[0.05, 0.05]], rtol=1e-2)
    assert 'cannot be seen' in explanation.problems[0]


@pytest.mark.parametrize('bad', [0.0, np.nan, np.inf])
def test_a_jacobian_that_says_nothing_is_a_flagged_zero(bad):
    made = model()
    with torch.no_grad():
        made.net.head.weight[:4] = 0
        made.net.head.bias[:4] = bad
    images = frames()
    translation, explanation = translator(1.0, made=made).explain(images[0], images[1:])
    safe(translation, explanation)
    assert (translation.values == 0).all()
    assert explanation.problems == ('flow or Jacobian say nothing: zero action',) * 2


def test_zero_motion_is_a_zero_action_and_no_fault():
    images = np.stack([texture(0)] * 3)
    translation, explanation = translator(0.0).explain(images[0], images[1:])
    safe(translation, explanation)
    assert (translation.values == 0).all() and (translation.residual == 0).all()
    assert explanation.still.all() and explanation.problems == ('', '')


NUMBERS = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True), st.floats(-5, 5, width=32)
)


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(NUMBERS, min_size=8, max_size=8),
    weight=st.floats(0, 1),
    mode=st.sampled_from(['stacked', 'paper']),
)
def test_no_flow_whatever_makes_an_unbounded_action(values, weight, mode):
    small = np.array(values, np.float32).reshape(2, 2, 2)
    flow = small.repeat(SIZE // 2, 0).repeat(SIZE // 2, 1)
    images = frames(2)
    with np.errstate(invalid='ignore', over='ignore'):
        safe(*translator(flow, weight, mode=mode).explain(images[0], images[1:]))


def test_images_of_another_size_or_type():
    good = frames()
    small = np.zeros((1, 16, 16, 3), np.uint8)
    for anchor, plan, words in (
        (small[0], good[1:], r'the anchor is uint8 \[16, 16, 3\]'),
        (good[0], small, r'the frames are uint8 \[1, 16, 16, 3\]'),
        (good[0].astype(np.float32), good[1:], 'the anchor is float32'),
        (good[0], good[1:, ..., :2], r'3\]'),
        (good[0], good[:0], 'without frames'),
    ):
        with pytest.raises(TranslationError, match=words):
            translator(0.0).translate(anchor, plan)


def test_another_number_of_channels_than_the_model_has():
    with pytest.raises(TranslationError, match='the model has 2 channels, the contract 3'):
        JacobianTranslator(model(), ('a', 'b', 'c'), GivenFlow(0.0))
    info = find_checkpoint('jidm_finger3', [SHIPPED], kind='idm')
    five = load_contract('finger')
    object.__setattr__(five, 'action_fields', lambda: {**info.contract, 'channels': ['only one']})
    with pytest.raises(CheckpointError, match='channels'):
        JacobianTranslator.load(info, five)


def test_weights_that_are_missing_or_of_another_network(tmp_path):
    made = model()
    tensors = {k: v.numpy() for k, v in made.net.state_dict().items()}
    config = config_of(made.net, made.scales, 'given', 5e-5)
    kind = {'kind': 'idm', 'contract': FIELDS, 'training': {}}
    lacking = {k: v for k, v in tensors.items() if k != 'head.weight'}
    info = write_checkpoint(tmp_path / 'a.safetensors', lacking, config=config, **kind)
    with pytest.raises(CheckpointError, match=r'(?s)a.safetensors.*head.weight'):
        load_model(info)
    three = {**config, 'network': {**config['network'], 'channels': 3}}
    info = write_checkpoint(tmp_path / 'b.safetensors', tensors, config=three, **kind)
    with pytest.raises(CheckpointError, match='do not fit'):
        load_model(info)
    (tmp_path / 'a.safetensors').unlink()
    with pytest.raises(CheckpointError, match=r"'a' not found.*vera train idm"):
        find_checkpoint('a', [tmp_path], kind='idm')


def test_a_damaged_calibration_is_named(tmp_path, monkeypatch):
    for suffix in ('safetensors', 'json'):
        source = SHIPPED / f'jidm_finger3.{suffix}'
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / 'jidm_finger3.honesty.json').write_text(json.dumps({'format': 1}))
    with pytest.raises(ValueError, match=r'jidm_finger3.honesty.json.*make it again'):
        make_translator(
            'jacobian', load_contract('finger'), str(tmp_path / 'jidm_finger3.safetensors')
        )


class Spoilt:
    """The translator's estimator, whose answers are spoilt."""

    def __init__(self, estimator, value):
        self.estimator, self.value = estimator, value
        self.flow_id = estimator.flow_id

    def both(self, a, b):
        pair = self.estimator.both(a, b)
        flow = np.full_like(pair.forward, self.value)
        return FlowPair(flow, -flow, np.ones_like(pair.weight_forward),
                        np.ones_like(pair.weight_forward))


@pytest.mark.parametrize('bad', [np.nan, 1e30], ids=['nan', 'huge'])
def test_through_the_node_bad_flow_is_a_zero_chunk_that_is_reported(bad):
    node_test = pytest.importorskip('test_jidm_node')
    world = node_test.World()
    try:
        world.begin()
        made = world.node._translator
        made._estimator = Spoilt(made._estimator, bad)
        told, heard = threading.Event(), []
        report = world.node.report

        def listen(name, level, message='', **values):
            if name == 'plans':
                heard.append(message)
                told.set()
            report(name, level, message, **values)

        world.node.report = listen
        world.plans.publish(node_test.plan())
        node_test.wait_for(lambda: world.chunks)
        chunk = node_test.chunk_from_msg(world.chunks[0])
        assert (chunk.values == 0).all() and (chunk.residual == 1).all()
        assert told.wait(20)
        assert 'zero action' in heard[-1]
    finally:
        world.close()


@pytest.mark.parametrize('size', [32, 128])
def test_through_the_node_frames_of_another_size_give_no_chunk(size):
    node_test = pytest.importorskip('test_jidm_node')
    world = node_test.World()
    try:
        world.begin()
        world.plans.publish(node_test.plan(images=np.zeros((5, size, size, 3), np.uint8)))
        node_test.wait_for(lambda: world.errors)
        assert f'[{size}, {size}, 3]' in world.errors[0]
        assert not world.chunks
    finally:
        world.close()
