import copy
import dataclasses
import json

import numpy as np
import pytest
from jidm_toys import FIELDS, transitions, write_folder

from vera_jidm.dataset import (
    AnalyticSource,
    DatasetError,
    EstimatedSource,
    ShardFolder,
    TransitionStore,
    write_shard,
)
from vera_jidm.episodes_statistics import FlowCounter, Statistics, action_statistics
from vera_jidm.flow import FarnebackFlow


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match='vera collect'):
        ShardFolder(tmp_path)
    (tmp_path / 'shard_00000.npz').write_bytes(b'')
    with pytest.raises(DatasetError, match='older format'):
        ShardFolder(tmp_path)


def test_names_the_damaged_file(tmp_path):
    write_folder(tmp_path, 2, 8)
    ShardFolder(tmp_path)
    victim = tmp_path / 'shard_00001.mcap'
    victim.write_bytes(victim.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=r'shard_00001\.mcap cannot be read'):
        ShardFolder(tmp_path)


def test_files_of_two_contracts_do_not_mix(tmp_path):
    write_folder(tmp_path, 1, 8)
    other = copy.deepcopy(FIELDS)
    other['channels'][0]['name'] = 'z'
    write_shard(tmp_path / 'shard_9.mcap', transitions(4), {'contract': other})
    with pytest.raises(DatasetError, match='another contract'):
        ShardFolder(tmp_path)


def test_the_licence_is_that_of_every_file(tmp_path):
    meta = {'contract': FIELDS, 'joints': []}
    write_shard(tmp_path / 'a.mcap', transitions(4), meta)
    assert ShardFolder(tmp_path).licence == 'not stated'
    for name, licence in (('b', 'CC-BY-4.0'), ('c', 'Apache-2.0, generated'), ('d', 'CC-BY-4.0')):
        write_shard(tmp_path / f'{name}.mcap', transitions(4), {**meta, 'licence': licence})
    assert ShardFolder(tmp_path).licence == 'not stated and CC-BY-4.0 and Apache-2.0'


def test_an_epoch_shows_everything_once_and_is_its_own_function(tmp_path):
    folder = ShardFolder(write_folder(tmp_path, 3, 20))
    store = TransitionStore(folder, AnalyticSource(2), 10, 7)
    first = [store.batch(i).actions for i in range(6)]
    assert len(np.unique(np.concatenate(first), axis=0)) == 60
    second = [store.batch(i).actions for i in range(6, 12)]
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    again = TransitionStore(folder, AnalyticSource(2), 10, 7)
    np.testing.assert_array_equal(again.batch(8).actions, second[2])
    np.testing.assert_array_equal(again.batch(1).actions, first[1])


def test_holds_no_more_than_it_may(tmp_path):
    folder = ShardFolder(write_folder(tmp_path, 4, 20))
    each = 32 * 32 * 6 + 16 * 16 * 12
    store = TransitionStore(folder, AnalyticSource(2), 10, 0, memory=2 * 20 * each)
    seen = [store.batch(i).actions for i in range(8)]
    assert len(store._held) == 2
    assert len(np.unique(np.concatenate(seen), axis=0)) == 80


def test_too_few_for_a_batch(tmp_path):
    with pytest.raises(DatasetError, match='too few'):
        TransitionStore(ShardFolder(write_folder(tmp_path, 1, 4)), AnalyticSource(2), 5, 0)


def test_analytic_flow_is_averaged_over_cells(tmp_path):
    folder = ShardFolder(write_folder(tmp_path, 1, 6))
    batch = TransitionStore(folder, AnalyticSource(2), 6, 0).gather(np.array([[0, 3]]))
    flow = transitions(6).flow[3]
    cell = flow[6:8, 10:12].astype(np.float32).mean((0, 1))
    np.testing.assert_allclose(batch.flow.forward[0, :, 3, 5], cell, rtol=1e-3)


def test_positions_come_with_the_batch(tmp_path):
    data = transitions(6)
    positions = np.random.default_rng(0).normal(size=(6, 2, 3))
    meta = {'contract': FIELDS, 'joints': ['a', 'b', 'c']}
    write_shard(tmp_path / 'x.mcap', dataclasses.replace(data, positions=positions), meta)
    folder = ShardFolder(tmp_path)
    batch = TransitionStore(folder, AnalyticSource(2), 2, 0).gather(np.array([[0, 4], [0, 1]]))
    assert folder.joints == ['a', 'b', 'c']
    np.testing.assert_array_equal(batch.positions, positions[[4, 1]])


class Counting(FarnebackFlow):
    calls = 0

    def both(self, a, b, *args, **options):
        self.calls += len(a)
        return super().both(a, b, *args, **options)


def test_estimated_flow_is_computed_once(tmp_path):
    folder = ShardFolder(write_folder(tmp_path, 2, 6))
    estimator = Counting()
    first = TransitionStore(folder, EstimatedSource(estimator, 2), 3, 0)
    first.prepare()
    assert estimator.calls == 12
    second = TransitionStore(ShardFolder(tmp_path), EstimatedSource(estimator, 2), 3, 0)
    assert second.prepare() == first.prepare()
    np.testing.assert_array_equal(second.batch(1).flow.forward, first.batch(1).flow.forward)
    assert estimator.calls == 12
    # The same name with other transitions in it must not find the old flow.
    write_folder(tmp_path, 2, 6, seed=1)
    TransitionStore(ShardFolder(tmp_path), EstimatedSource(estimator, 2), 3, 0).prepare()
    assert estimator.calls == 24


def test_degraded_copies_change_the_flow_and_repeat(tmp_path):
    folder = ShardFolder(write_folder(tmp_path, 1, 8))
    rows = np.array([[0, i] for i in range(8)])

    def forward(degrade, seed):
        source = EstimatedSource(FarnebackFlow(), 2, degrade, seed)
        return TransitionStore(folder, source, 4, 0).gather(rows).flow.forward

    clean = forward(0.0, 0)
    assert not np.array_equal(clean, forward(1.0, 0))
    np.testing.assert_array_equal(forward(1.0, 0), forward(1.0, 0))


# Statistics -----------------------------------------------------------------------------------


def test_statistics_are_those_of_all_transitions_and_computed_once(tmp_path, monkeypatch):
    write_folder(tmp_path, 2, 40)
    folder = ShardFolder(tmp_path)
    actions = np.concatenate([transitions(40, i).actions for i in range(2)]).astype(np.float64)
    np.testing.assert_allclose(folder.action_scale, np.sqrt((actions**2).mean(0)), rtol=1e-12)
    np.testing.assert_allclose(folder.action_max, np.abs(actions).max(0))
    np.testing.assert_allclose(
        folder.statistics.action_scale('p90'), np.percentile(np.abs(actions), 90, axis=0)
    )
    with pytest.raises(ValueError, match='rms and p90'):
        folder.statistics.action_scale('p95')

    store = TransitionStore(folder, AnalyticSource(2), 10, 0)
    rms = store.prepare()
    kept = json.loads((tmp_path / 'statistics.json').read_text())
    assert kept['transitions'] == 80 and kept['channels'] == ['x', 'y']
    assert kept['flow']['analytic.x2']['rms'] == rms
    monkeypatch.setattr('vera_jidm.dataset.read_shard', None)
    again = ShardFolder(tmp_path)
    assert TransitionStore(again, AnalyticSource(2), 10, 0).prepare() == rms
    assert again.digest == folder.digest


def test_statistics_of_other_episodes_are_refused_by_name(tmp_path):
    write_folder(tmp_path / 'a', 1, 8)
    write_folder(tmp_path / 'b', 1, 8, seed=1)
    ShardFolder(tmp_path / 'a')
    path = tmp_path / 'b' / 'statistics.json'
    path.write_bytes((tmp_path / 'a' / 'statistics.json').read_bytes())
    with pytest.raises(DatasetError, match=r'b/statistics.json belongs .* its digest'):
        ShardFolder(tmp_path / 'b')
    ShardFolder(tmp_path / 'a')
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, 'contract_hash': '0' * 64}))
    with pytest.raises(DatasetError, match='its contract_hash is 0000000000000000'):
        ShardFolder(tmp_path / 'b')
    path.write_text('{')
    with pytest.raises(DatasetError, match=r'cannot be read .* delete it'):
        ShardFolder(tmp_path / 'b')
    path.unlink()
    assert ShardFolder(tmp_path / 'b').statistics.transitions == 8


def test_flow_is_counted_over_active_cells():
    rng = np.random.default_rng(0)
    flow = np.zeros((10, 2, 20, 20), np.float16)
    flow[:, :, :4] = rng.normal(0, (3.0, 1.0), (10, 4, 20, 2)).transpose(0, 3, 1, 2)
    flow[:, :, 4:8] = 0.05
    counter = FlowCounter()
    counter.add(flow[:3])
    counter.add(flow[3:])
    found = counter.result()
    moving = flow[:, :, :4].astype(np.float64)
    active = np.hypot(moving[:, 0], moving[:, 1]) > 0.1
    for axis in range(2):
        size = np.abs(moving[:, axis])[active]
        assert found.p90[axis] == pytest.approx(np.percentile(size, 90), abs=0.02)
    assert found.active == pytest.approx(active.sum() / 4000)
    assert found.cells == 4000
    assert found.rms == pytest.approx(np.sqrt((flow.astype(np.float64) ** 2).mean()))
    assert FlowCounter().result().p90 == [0.0, 0.0]


def test_flow_scales():
    counter = FlowCounter()
    counter.add(np.full((1, 2, 2, 2), 3.0))
    actions = action_statistics(np.ones((4, 2)))
    found = Statistics('', '', 4, ['x', 'y'], actions, {'f': counter.result()})
    assert found.flow_scale('f') == pytest.approx(3.0)
    assert found.flow_scale('f', 'p90') == pytest.approx(3.0, abs=1 / 256)
    assert found.actions.quantiles['99.9'] == [1.0, 1.0]


def test_views_lie_as_the_contract_says(tmp_path):
    wide = copy.deepcopy(FIELDS)
    wide['cameras'] = [
        {'name': 'top', 'crop': None, 'canvas_width': 20},
        {'name': 'side', 'crop': None, 'canvas_width': 8},
    ]
    folder = ShardFolder(write_folder(tmp_path, 1, 4, fields=wide))
    assert [(v.name, v.x0, v.x1, v.y1) for v in folder.views] == [
        ('top', 0, 20, 32), ('side', 20, 28, 32),
    ]  # fmt: skip
