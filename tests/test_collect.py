"""`vera collect`: the commands, the random motion, and the live robot's actions by its joints."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from graph_tools import unique_domain, vera
from vera_bringup.coverage import coverage_of
from vera_bringup.selfplay_motion import MotionError, RandomWalk, ToolWalk, random_walk
from vera_core.contract import load_contract
from vera_core.contract_files import known_embodiments
from vera_core.kinematics.arm import Arm
from vera_core.kinematics.description import find_urdf
from vera_core.rotations import matrix_from_rotation_vector, rotation_vector
from vera_jidm.dataset import AnalyticSource, DatasetError, ShardFolder, TransitionStore
from vera_jidm.episodes import read_shard, write_shard


@pytest.mark.parametrize('seed', range(5))
def test_random_motion_stays_in_its_range_and_below_the_limits(seed):
    contract = load_contract('finger')
    low, high = contract.position_limits
    for span in (None, 0.3):
        walk = RandomWalk(contract, np.random.default_rng(seed), None, span)
        q = contract.home_positions
        seen = []
        for _ in range(200):
            values = walk.chunk(q)
            assert values.shape == (4, 3)
            assert np.abs(values).max() <= 0.12 + 1e-12
            path = q + np.cumsum(values, axis=0)
            seen.append(path)
            q = path[-1]
        seen = np.concatenate(seen)
        assert (seen > low).all() and (seen < high).all()
        reach = np.abs(seen - contract.home_positions).max()
        assert reach <= 0.3 + 1e-9 if span else reach > 0.8
        # It moves, in both directions of every joint.
        assert (seen.std(0) > 0.05).all()


def test_from_outside_of_its_range_motion_comes_back_slowly():
    contract = load_contract('finger')
    walk = RandomWalk(contract, np.random.default_rng(0), 0.05, 0.2)
    q = contract.home_positions + 0.5
    for _ in range(10):
        values = walk.chunk(q)
        assert np.abs(values).max() <= 0.05 + 1e-12
        q = q + values.sum(0)
    assert (np.abs(q - contract.home_positions) <= 0.2 + 1e-9).all()


def test_targets_and_speed_limits():
    contract = load_contract('finger')
    channels = tuple(dataclasses.replace(c, kind='joint_target') for c in contract.channels)
    target = dataclasses.replace(contract, channels=channels)
    q = contract.home_positions
    delta = RandomWalk(contract, np.random.default_rng(1)).chunk(q)
    absolute = RandomWalk(target, np.random.default_rng(1)).chunk(q)
    np.testing.assert_allclose(absolute, q + np.cumsum(delta, axis=0))
    # 0.8 of 2 rad/s in 0.2 s.
    fast = RandomWalk(contract, np.random.default_rng(1), 5.0)
    np.testing.assert_allclose(fast.reach, 0.32)


def test_motions_that_cannot_be_are_refused():
    contract = load_contract('finger')
    rng = np.random.default_rng(0)
    for max_delta, span in ((0.0, None), (None, -1.0), (np.nan, None)):
        with pytest.raises(MotionError, match='positive'):
            RandomWalk(contract, rng, max_delta, span)
    gripper = dataclasses.replace(
        contract.channels[0], name='hand', kind='gripper', unit='ratio', joint=None
    )
    handy = dataclasses.replace(contract, channels=(*contract.channels, gripper))
    with pytest.raises(MotionError, match="'hand' is of kind gripper"):
        RandomWalk(handy, rng)


@pytest.mark.parametrize(
    ('words', 'why'),
    [
        (['--live', '--from', 'x'], 'choose'),
        (['--live', '--discs', '0'], '--discs is for the simulator alone'),
        (['--max-delta', '0'], 'max_delta is 0.0 rad'),
        (['--live', '--joints', '5'], '--joints is for the simulator alone'),
        (['--licence', 'x'], '--licence is for --live'),
        (['--from', 'nowhere'], 'nowhere is no recording'),
        (['--span', '-1'], 'span is -1.0 rad'),
        (['--live', '--span', '0'], 'positive'),
    ],
)
def test_wrong_options_are_refused_with_one_message(tmp_path, capsys, monkeypatch, words, why):
    from vera_bringup import cli

    domain = str(unique_domain())
    command = ['vera', 'collect', 'finger', '--out', str(tmp_path / 'out'), *words]
    monkeypatch.setattr('sys.argv', [*command, '--domain', domain, '--runs', str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert why in capsys.readouterr().err


def test_a_real_robot_does_not_move_unasked(tmp_path, monkeypatch):
    from vera_bringup.commands import collect

    real = dataclasses.replace(load_contract('finger'), sim=None)
    prepared = dataclasses.make_dataclass('P', ['contract'])(real)
    monkeypatch.setattr('vera_bringup.graph.prepare', lambda *_, **__: prepared)
    options = collect.CollectOptions(transitions=5)
    with pytest.raises(collect.CommandError, match='emergency stop within reach'):
        collect.live(
            'finger', tmp_path, options, domain=str(unique_domain()), namespace='vera',
            runs=tmp_path, yes=False,
        )


@pytest.mark.timeout(300)
def test_live_self_play_is_measured_by_the_joints(tmp_path):
    domain = str(unique_domain())
    code, text = vera(
        'collect', 'finger', '--live', '--out', 'data', '--transitions', '30', '--seed', '3',
        '--domain', domain, cwd=tmp_path, timeout=280,
    )  # fmt: skip
    assert code in (0, 1), text  # 1: a loaded machine may lose frames, and says so
    folder = ShardFolder(tmp_path / 'data')
    data, meta = read_shard(folder.paths[0])
    assert sum(folder.lengths) >= 10, text
    contract = load_contract('finger')
    assert meta['simulated'] and meta['seed'] == 3
    np.testing.assert_allclose(
        np.diff(data.stamps)[:, 0] / 1e9, contract.video.frame_period, atol=0.026
    )

    # The joint states of the first recording itself, read by other people's reader.
    bag = min((tmp_path / 'runs').glob('*/bag/*.mcap'))
    with bag.open('rb') as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        messages = [m for *_, m in reader.iter_decoded_messages('/vera/joint_states')]
        images = {
            m.header.stamp.sec * 10**9 + m.header.stamp.nanosec
            for *_, m in reader.iter_decoded_messages('/vera/top/color/image_raw')
        }
    times = np.array([m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages])
    states = np.array([[dict(zip(m.name, m.position, strict=True))[c.joint]
                        for c in contract.channels] for m in messages])  # fmt: skip
    for (begin, end), action in zip(data.stamps.tolist(), data.actions, strict=True):
        assert {begin, end} <= images
        q0, q1 = (
            [np.interp(s - times[0], times - times[0], column) for column in states.T]
            for s in (begin, end)
        )
        np.testing.assert_allclose(action, np.subtract(q1, q0), atol=1e-6)
    assert np.abs(data.actions).max() < 0.3
    assert np.abs(data.actions).max(0).min() > 0.01  # every joint has moved
    assert folder.statistics.transitions == sum(folder.lengths)
    with pytest.raises(DatasetError, match='no analytic flow'):
        TransitionStore(folder, AnalyticSource(2), 2, 0).batch(0)
    assert json.loads((tmp_path / 'data' / 'statistics.json').read_text())['digest']


def test_training_takes_other_peoples_episodes_as_they_are(tmp_path, monkeypatch):
    from vera_bringup import selfplay
    from vera_jidm import training

    asked = {}
    monkeypatch.setattr(training, 'main_train', lambda contract, **kw: asked.update(kw) or {})
    contract = load_contract('finger')
    selfplay.collect(contract, tmp_path / 'simulated', 4, 0)
    data, meta = read_shard(tmp_path / 'simulated' / 'shard_00000.mcap')
    write_shard(tmp_path / 'train' / 'mine.mcap', data, {**meta, 'source': 'my robot'})
    selfplay.train_idm('finger', transitions=9, held_out=3, data=tmp_path)
    assert ShardFolder(tmp_path / 'train').lengths == [4]
    assert ShardFolder(tmp_path / 'heldout').lengths == [3]
    assert asked['data'] == tmp_path / 'train' and asked['held_out'] == tmp_path / 'heldout'


@pytest.mark.parametrize('span', [None, 0.08])
def test_the_tool_of_an_arm_stays_in_its_workspace(span):
    contract = load_contract('panda')
    walk = random_walk(contract, np.random.default_rng(0), None, span)
    assert isinstance(walk, ToolWalk)
    arm = Arm.from_urdf(find_urdf(contract), contract.joint_names, 'panda_hand_tcp')
    home_R, home_p = arm.pose(contract.home_positions)
    q, seen, grips = contract.home_positions, [], set()
    for _ in range(40):
        values = walk.chunk(q)
        assert values.shape == (4, 7)
        assert (np.abs(values[:, :6]) <= walk.reach + 1e-12).all()
        grips |= set(values[:, 6])
        for value in values:
            R, p = arm.pose(q)
            R = matrix_from_rotation_vector(value[3:6]) @ R
            found = arm.solve(R, p + value[:3], q)
            assert found.converged
            q = found.q
            R, p = arm.pose(q)
            assert np.linalg.norm(rotation_vector(R @ home_R.T)) < 0.45
            seen.append(p)
    box = contract.safety.workspace
    for axis, (low, high) in enumerate((box.x, box.y, box.z)):
        column = np.array(seen)[:, axis]
        assert low < column.min() and column.max() < high
        assert np.ptp(column) > 0.1
        if span:
            assert np.abs(column - home_p[axis]).max() <= span + 2e-3
    assert grips == {0.0, 1.0}


def test_coverage_tells_what_is_thin(tmp_path):
    from vera_bringup import selfplay

    contract = load_contract('finger')
    selfplay.collect(contract, tmp_path / 'wide', 300, 0, analytic=False)
    found = coverage_of(tmp_path / 'wide', contract)
    assert found.transitions == 300
    assert all(channel.share > 0.8 for channel in found.channels)
    assert all(joint.share > 0.7 for joint in found.joints)
    assert 'thin' not in found.text()
    data, meta = read_shard(tmp_path / 'wide' / 'shard_00000.mcap')
    still = data.actions * (1, 1, 0) + (0, 0, 0.01)
    write_shard(tmp_path / 'thin' / 'a.mcap',
                dataclasses.replace(data, actions=still.astype(np.float32)), meta)  # fmt: skip
    assert 'thin: joint_3' in coverage_of(tmp_path / 'thin', contract).text()


def test_a_live_collection_that_is_complete_is_left_alone(tmp_path, capsys):
    from vera_bringup import selfplay
    from vera_bringup.commands import collect

    selfplay.collect(load_contract('finger'), tmp_path, 4, 0)
    options = collect.CollectOptions(transitions=4)
    collect.live('finger', tmp_path, options, domain=str(unique_domain()), namespace='vera',
                 runs=tmp_path, yes=False)  # fmt: skip
    assert 'already holds 4 transitions' in capsys.readouterr().out


def test_every_embodiment_can_play():
    for name in known_embodiments():
        contract = load_contract(name)
        walk = random_walk(contract, np.random.default_rng(0))
        values = np.concatenate([walk.chunk(contract.home_positions) for _ in range(20)])
        assert values.shape == (20 * contract.video.committed, len(contract.channels)), name
        assert np.isfinite(values).all() and (np.ptp(values, axis=0) > 0).all(), name
