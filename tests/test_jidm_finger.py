"""The shipped J-IDMs on fresh self-play of the simulated finger, and the self-play itself."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from rosbags.highlevel import AnyReader

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
        # Measured on 500: see docs/results/jidm.md. The bound leaves room for few samples.
        ('jidm_finger3', 3, 'dis_lk', 40, 0.015),
        ('jidm_finger5_analytic', 5, 'analytic', 100, 0.02),
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


def arrays(path):
    data, meta = read_shard(path)
    return {k: v for k, v in vars(data).items() if v is not None}, meta


def test_self_play_is_reproducible_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr('vera_bringup.selfplay.SHARD', 5)
    contract = load_contract('finger')
    assert collect(contract, tmp_path / 'a', 12, 5) == 12
    assert collect(contract, tmp_path / 'a', 12, 5) == 0
    # Interrupted after the first file, then asked for more: the same in the end.
    collect(contract, tmp_path / 'b', 3, 5)
    (tmp_path / 'b' / '.shard_00001.mcap.part').write_bytes(b'half a file')
    assert collect(contract, tmp_path / 'b', 12, 5) == 12
    names = [f'shard_{i:05d}.mcap' for i in range(3)]
    for name in names:
        (a, meta), (b, _) = (arrays(tmp_path / f / name) for f in 'ab')
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
        assert np.abs(a['actions']).max() <= 0.12 + 1e-6
        moved = a['positions'][:, 1] - a['positions'][:, 0]
        np.testing.assert_allclose(a['actions'], moved, atol=1e-7)
    assert meta['seed'] == 5 and meta['joints'] == list(contract.joint_names)
    folder = ShardFolder(tmp_path / 'a')
    assert folder.contract == contract.action_fields()
    assert folder.lengths == [5, 5, 2]
    assert folder.digest == ShardFolder(tmp_path / 'b').digest
    with AnyReader([tmp_path / 'a']) as bag:
        assert bag.topics['/vera/action'].msgcount == 12
    with pytest.raises(ValueError, match='another recipe'):
        collect(contract, tmp_path / 'a', 12, 6)
    with pytest.raises(ValueError, match=r'another recipe \(recipe differ\)'):
        collect(contract, tmp_path / 'a', 12, 5, max_delta=0.05)
    with pytest.raises(ValueError, match='already holds 12'):
        collect(contract, tmp_path / 'a', 6, 5)


def test_span_discs_and_walks(tmp_path):
    contract = contract_with_joints(load_contract('finger'), 5)
    collect(contract, tmp_path, 9, 1, span=0.5, max_delta=0.04, frames=4, discs=0, analytic=False)
    data, meta = arrays(tmp_path / 'shard_00000.mcap')
    assert 'flow' not in data
    assert meta['recipe']['options']['discs'] == 0
    assert np.abs(data['positions']).max() <= 0.5
    assert np.abs(data['actions']).max() <= 0.04 + 1e-6
    # Three episodes of four frames: within one, the frame after is the next one's frame before.
    np.testing.assert_array_equal(data['after'][0], data['before'][1])
    np.testing.assert_array_equal(data['stamps'][[0, 1, 3, 4, 6, 7], 1],
                                  data['stamps'][[1, 2, 4, 5, 7, 8], 0])
    assert not np.array_equal(data['after'][2], data['before'][3])
    assert ShardFolder(tmp_path).files[0].messages['/vera/canvas'] == 12
    for wrong in ({'span': 0}, {'max_delta': float('nan')}, {'frames': 1}, {'discs': 9}):
        with pytest.raises(ValueError, match=r'span|max_delta|frames|discs'):
            collect(contract, tmp_path / 'x', 5, **wrong)


def test_a_full_disk_stops_it_before_it_is_full(tmp_path, monkeypatch):
    contract = load_contract('finger')
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=60 * 2**20))
    with pytest.raises(OSError, match=r'60 MiB free; 8 transitions need about'):
        collect(contract, tmp_path, 8)
    assert not list(tmp_path.glob('*.mcap'))


def test_self_play_is_for_simulated_fingers(tmp_path):
    contract = load_contract('finger')
    real = dataclasses.replace(contract, sim=None)
    with pytest.raises(ValueError, match='no simulated environment'):
        collect(real, tmp_path, 5)
    with pytest.raises(ValueError, match='fixed number of joints'):
        contract_with_joints(real, 5)
    with pytest.raises(ValueError, match='at least one'):
        collect(contract, tmp_path, 0)


@pytest.mark.parametrize('joints', [1, 2, 3, 4, 5, 8, 10])
def test_other_numbers_of_joints(joints, tmp_path):
    contract = contract_with_joints(load_contract('finger'), joints)
    assert contract.channel_names == tuple(f'joint_{i + 1}' for i in range(joints))
    assert len(contract.home_positions) == joints
    env = make_environment('finger', contract.sim.options, 32)
    assert env.joint_names == contract.joint_names
    low, high = contract.position_limits
    assert (low < contract.home_positions).all() and (contract.home_positions < high).all()
    if joints != 3:
        np.testing.assert_allclose(high, env._high)
    assert collect(contract, tmp_path, 6, 2) == 6
    data, _ = read_shard(tmp_path / 'shard_00000.mcap')
    # Every joint moves something that is seen.
    assert np.abs(data.flow.astype(np.float32)).max((1, 2, 3)).min() > 0.05
    with pytest.raises(ValueError, match='1 to 20 joints'):
        contract_with_joints(load_contract('finger'), 0)
