"""The shipped J-IDMs on fresh self-play of the simulated finger, and the self-play itself."""

import dataclasses

import numpy as np
import pytest
import torch

from vera_bringup.selfplay import collect, contract_with_joints
from vera_core import canvas
from vera_core.checkpoint import find_checkpoint
from vera_core.contract import load_contract
from vera_jidm.dataset import ShardFolder, read_shard
from vera_jidm.evaluation import evaluate
from vera_jidm.model import load_model
from vera_jidm.registry import SHIPPED
from vera_sim import make_environment

# Not the seed of any training or of its held-out set.
FRESH = 77


@pytest.mark.parametrize(
    ('name', 'joints', 'flow', 'count', 'most'),
    [
        # Measured on 500: 0.0067 and 0.0132. The bound leaves room for few samples.
        ('jidm_finger3', 3, 'dis', 40, 0.03),
        ('jidm_finger5_analytic', 5, 'analytic', 100, 0.03),
    ],
)
def test_recovers_the_actions_of_fresh_transitions(tmp_path, name, joints, flow, count, most):
    torch.set_num_threads(1)
    contract = contract_with_joints(load_contract('finger'), joints)
    collect(contract, tmp_path, count, FRESH)
    model = load_model(find_checkpoint(name, [SHIPPED], kind='idm'))
    metrics = evaluate(model, ShardFolder(tmp_path), flow)
    assert metrics['n'] == count
    assert metrics['mse_stacked'] < most
    assert metrics['mse_stacked'] < metrics['mse_paper']


def test_predicts_the_jacobian_and_not_just_the_action():
    """Against the simulator's own Jacobian: relative squared error over all cells."""
    model = load_model(find_checkpoint('jidm_finger5_analytic', [SHIPPED], kind='idm'))
    contract = contract_with_joints(load_contract('finger'), 5)
    env = make_environment('finger', contract.sim.options, 128)
    rng = np.random.default_rng(FRESH)
    wrong = power = 0.0
    for seed in range(10):
        env.reset(seed)
        q, _ = env.self_play(rng)
        cells = env.analytic_jacobian(q, 64).reshape(32, 2, 32, 2, 2, 5)
        true = cells.mean((1, 3))
        found = model(canvas.tile({'top': env.render_at(q)}, contract)[None])[0, ::2, ::2]
        wrong += float(np.square(found - true).sum())
        power += float(np.square(true).sum())
    assert wrong / power < 0.1


def test_self_play_is_reproducible_and_goes_on(tmp_path):
    contract = load_contract('finger')
    assert collect(contract, tmp_path / 'a', 12, 5) == 12
    assert collect(contract, tmp_path / 'a', 12, 5) == 0
    collect(contract, tmp_path / 'b', 12, 5)
    a, b = (read_shard(tmp_path / f / 'shard_00000.npz')[0] for f in 'ab')
    for name in ('before', 'after', 'actions', 'flow', 'flow_back'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert np.abs(a.actions).max() <= 0.12 + 1e-6
    assert ShardFolder(tmp_path / 'a').contract == contract.action_fields()
    with pytest.raises(ValueError, match='another recipe'):
        collect(contract, tmp_path / 'a', 12, 6)


def test_self_play_is_for_simulated_fingers(tmp_path):
    contract = load_contract('finger')
    real = dataclasses.replace(contract, sim=None)
    with pytest.raises(ValueError, match='no simulated environment'):
        collect(real, tmp_path, 5)
    with pytest.raises(ValueError, match='fixed number of joints'):
        contract_with_joints(real, 5)
    with pytest.raises(ValueError, match='at least one'):
        collect(contract, tmp_path, 0)


@pytest.mark.parametrize('joints', [2, 5, 12])
def test_other_numbers_of_joints(joints):
    contract = contract_with_joints(load_contract('finger'), joints)
    assert contract.channel_names == tuple(f'joint_{i + 1}' for i in range(joints))
    assert len(contract.home_positions) == joints
    env = make_environment('finger', contract.sim.options, 32)
    assert env.joint_names == contract.joint_names
