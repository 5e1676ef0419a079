import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jidm_toys import CONTRACT, FIELDS, write_folder
from safetensors.numpy import load_file

from vera_core.checkpoint import find_checkpoint
from vera_jidm.dataset import DatasetError, ShardFolder
from vera_jidm.evaluation import evaluate
from vera_jidm.model import load_model
from vera_jidm.progress import StateError
from vera_jidm.recipe import TrainingConfig, TrainingError
from vera_jidm.training import Trainer, main_train, train


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('toy')
    write_folder(root / 'train', 2, 40)
    write_folder(root / 'test', 1, 20, seed=9)
    return root / 'train', root / 'test'


def recipe(**changes):
    values = {
        'flow': 'analytic', 'steps': 12, 'batch': 8, 'evaluate_every': 4, 'save_every': 4,
        'widths': (8, 16), 'stem': 8, 'precision': 'float32',
    }
    return TrainingConfig(**{**values, **changes})


def test_learns_the_toy(folders, tmp_path):
    fast = recipe(steps=60, rate=1e-2, evaluate_every=5, save_every=60)
    metrics = train(fast, CONTRACT, *folders, tmp_path, 'toy')
    assert metrics['n'] == 20
    assert metrics['mse_stacked'] < 0.05
    low, high = metrics['mse_stacked_ci']
    assert low <= metrics['mse_stacked'] <= high
    points = json.loads((tmp_path / 'toy.curve.json').read_text())['points']
    assert points[-1]['held_out'] < points[0]['held_out'] / 3
    assert (tmp_path / 'toy.curve.png').stat().st_size > 5000

    info = find_checkpoint('toy', [tmp_path], kind='idm')
    assert info.training['metrics']['mse_stacked'] == metrics['mse_stacked']
    assert info.training['seed'] == 0 and info.training['steps'] == 60
    assert info.training['licence'] == 'not stated'  # as the toy's files
    again = evaluate(load_model(info), ShardFolder(folders[1]), 'analytic')
    assert again['mse_stacked'] == pytest.approx(metrics['mse_stacked'], rel=1e-6)


def test_resuming_changes_nothing(folders, tmp_path, monkeypatch):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    train(recipe(), CONTRACT, *folders, whole, 'toy')

    advance = Trainer.advance

    def interrupted(self):
        if self.step == 6:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Trainer, 'advance', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), CONTRACT, *folders, parts, 'toy')
    monkeypatch.undo()
    assert not (parts / 'toy.safetensors').exists()
    train(recipe(), CONTRACT, *folders, parts, 'toy', resume=True)

    a, b = load_file(whole / 'toy.safetensors'), load_file(parts / 'toy.safetensors')
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    steps = [p['step'] for p in json.loads((parts / 'toy.curve.json').read_text())['points']]
    assert steps == [4, 8, 12]


def test_refuses_to_resume_something_else(folders, tmp_path):
    with pytest.raises(StateError, match='nothing to resume'):
        train(recipe(), CONTRACT, *folders, tmp_path, 'toy', resume=True)
    train(recipe(steps=4), CONTRACT, *folders, tmp_path, 'toy')
    with pytest.raises(StateError, match=r'config.steps = 4, not 8'):
        train(recipe(steps=8), CONTRACT, *folders, tmp_path, 'toy', resume=True)
    (tmp_path / 'toy.state.safetensors').write_bytes(b'nonsense')
    with pytest.raises(StateError, match='cannot be read'):
        train(recipe(steps=4), CONTRACT, *folders, tmp_path, 'toy', resume=True)


def test_seeds_differ_and_repeat(folders, tmp_path):
    def weights(seed, name):
        train(recipe(steps=3, seed=seed), CONTRACT, *folders, tmp_path, name)
        return load_file(tmp_path / f'{name}.safetensors')['head.weight']

    first = weights(1, 'a')
    np.testing.assert_array_equal(first, weights(1, 'b'))
    assert not np.array_equal(first, weights(2, 'c'))


def test_data_of_another_contract_is_refused(folders, tmp_path):
    other = SimpleNamespace(**vars(CONTRACT))
    other.action_fields = lambda: {**FIELDS, 'cameras': []}
    with pytest.raises(DatasetError, match='another contract'):
        train(recipe(), other, *folders, tmp_path, 'toy')


def test_a_loss_that_is_not_finite_stops_the_training(folders, tmp_path, monkeypatch):
    def broken(self, batch, part):
        return {'loss': torch.tensor(float('nan'), requires_grad=True)}

    monkeypatch.setattr(Trainer, 'loss', broken)
    with pytest.raises(TrainingError, match='lower the rate'):
        train(recipe(), CONTRACT, *folders, tmp_path, 'toy')


@pytest.mark.parametrize(
    ('changes', 'words'),
    [({'steps': 0}, 'steps'), ({'rate': -1.0}, 'rate'), ({'warm_up': 2.0}, 'warm_up')],
)
def test_recipes_that_make_no_sense(changes, words):
    with pytest.raises(TrainingError, match=words):
        recipe(**changes)


def test_unknown_options_are_named(folders):
    with pytest.raises(TrainingError, match="no option 'stepz'"):
        main_train('finger', data=folders[0], held_out=folders[1], stepz=3)


def test_schedules():
    config = recipe(steps=100)
    rates = [config.learning_rate(s) for s in range(100)]
    assert max(rates) == pytest.approx(config.rate, rel=1e-3)
    assert rates[0] < config.rate / 10 and rates[-1] < config.rate / 100
    assert config.action_term(5) == 0
    assert config.action_term(20) == pytest.approx(config.action_weight / 2)
    assert config.action_term(99) == config.action_weight
    assert dataclasses.replace(config, warm_up=0.0).action_term(0) == config.action_weight
