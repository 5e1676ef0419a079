import copy

import numpy as np
import pytest
from jidm_toys import FIELDS, transitions, write_folder

from vera_jidm.dataset import (
    AnalyticSource,
    DatasetError,
    EstimatedSource,
    ShardFolder,
    Transitions,
    TransitionStore,
    read_shard,
    write_shard,
)
from vera_jidm.flow import FarnebackFlow


def test_a_shard_comes_back_as_it_was(tmp_path):
    data = transitions(5)
    write_shard(tmp_path / 'a.npz', data, {'contract': FIELDS, 'seed': 3})
    found, meta = read_shard(tmp_path / 'a.npz')
    assert meta == {'contract': FIELDS, 'seed': 3}
    for name in ('before', 'after', 'actions', 'flow', 'flow_back'):
        np.testing.assert_array_equal(getattr(found, name), getattr(data, name))
    assert list(tmp_path.iterdir()) == [tmp_path / 'a.npz']


def test_flow_is_optional(tmp_path):
    data = transitions(5)
    write_shard(
        tmp_path / 'shard_0.npz', Transitions(data.before, data.after, data.actions),
        {'contract': FIELDS},
    )
    assert read_shard(tmp_path / 'shard_0.npz')[0].flow is None
    store = TransitionStore(ShardFolder(tmp_path), AnalyticSource(2), 2, 0)
    with pytest.raises(DatasetError, match='no analytic flow'):
        store.batch(0)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda d: {'actions': d.actions[:-1]}, 'do not belong together'),
        (lambda d: {'actions': d.actions * np.nan}, 'not a finite number'),
        (lambda d: {'before': d.before.astype(np.float32)}, 'uint8'),
        (lambda d: {'after': d.after[:, :-1]}, 'do not belong together'),
        (lambda d: {'flow': d.flow[:, :-1]}, 'flow is'),
    ],
)
def test_refuses_to_write_nonsense(tmp_path, change, words):
    data = transitions(4)
    spoiled = Transitions(**{**vars(data), **change(data)})
    with pytest.raises(DatasetError, match=words):
        write_shard(tmp_path / 'shard_0.npz', spoiled, {'contract': FIELDS})
    assert not list(tmp_path.iterdir())


def test_names_the_damaged_file(tmp_path):
    write_folder(tmp_path, 2)
    victim = tmp_path / 'shard_00001.npz'
    victim.write_bytes(victim.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=r'shard_00001\.npz cannot be read'):
        ShardFolder(tmp_path)


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match='vera collect'):
        ShardFolder(tmp_path)


def test_shards_of_two_contracts_do_not_mix(tmp_path):
    write_folder(tmp_path, 1)
    other = copy.deepcopy(FIELDS)
    other['channels'][0]['name'] = 'z'
    write_shard(tmp_path / 'shard_9.npz', transitions(4), {'contract': other})
    with pytest.raises(DatasetError, match='another contract'):
        ShardFolder(tmp_path)


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


class Counting(FarnebackFlow):
    calls = 0

    def both(self, a, b):
        self.calls += 1
        return super().both(a, b)


def test_estimated_flow_is_computed_once(tmp_path):
    folder = ShardFolder(write_folder(tmp_path, 2, 6))
    estimator = Counting()
    first = TransitionStore(folder, EstimatedSource(estimator, 2), 3, 0)
    first.prepare()
    assert estimator.calls == 12
    second = TransitionStore(folder, EstimatedSource(estimator, 2), 3, 0)
    assert second.prepare() == first.prepare()
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
