"""The analytic Jacobian as a teacher: its units and joints, against the simulator's own flow."""

import json

import numpy as np
import pytest

from vera_bringup.selfplay import collect
from vera_core.contract import load_contract
from vera_jidm import training
from vera_jidm.dataset import AnalyticSource, ShardFolder, TransitionStore
from vera_jidm.recipe import TrainingConfig


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('teacher')
    collect(load_contract('finger'), path, 12, 3, max_delta=0.02)
    return path


def test_explains_the_flow_of_small_motions(folder):
    shards = ShardFolder(folder)
    batch = TransitionStore(shards, AnalyticSource(2), 12, 0).batch(0)
    J = training._teacher(load_contract('finger'), shards, 2)(batch).numpy()
    signed = np.concatenate([batch.actions, -batch.actions])
    predicted = np.einsum('bnchw,bn->bchw', J, signed)
    flow = np.concatenate([batch.flow.forward, batch.flow.backward]).astype(np.float64)
    wrong = np.square(predicted - flow).sum() / np.square(flow).sum()
    # Second order in the motion, and cells at the border of a link that it leaves.
    assert wrong < 0.02
    # With the sign, the joints or the units wrong it would be far from it.
    assert np.square(predicted + flow).sum() / np.square(flow).sum() > 3


def test_teaches(folder, tmp_path):
    contract = load_contract('finger')
    config = TrainingConfig(
        flow='analytic', steps=40, batch=4, widths=(8, 16), stem=8, precision='float32',
        evaluate_every=10, save_every=40, rate=4e-3, photometric=0.0, teacher=1.0,
        flow_weight=0.0, action_weight=0.0,
    )
    training.train(config, contract, folder, folder, tmp_path, 'taught')
    points = json.loads((tmp_path / 'taught.curve.json').read_text())['points']
    assert points[-1]['teacher'] < 0.9 * points[0]['teacher']
    # Nothing but the teacher was learned from, and the flow is explained all the same.
    assert points[-1]['relative_flow'] < points[0]['relative_flow']
