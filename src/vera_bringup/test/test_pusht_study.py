"""The PushT study: the loop, its resumption and its rows."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from vera_bringup import pusht_data, selfplay
from vera_bringup.pusht_study import (
    PushTEpisode,
    StudyOptions,
    loop_rows,
    plot_loop,
    run_episode,
    run_loop,
    tables,
)
from vera_core.contract import load_contract
from vera_core.seams import Translation
from vera_jidm.dataset import ShardFolder
from vera_jidm.episodes import read_shard
from vera_sim import make_environment


@pytest.fixture(scope='module')
def contract():
    return load_contract('pusht')


@pytest.fixture
def env(contract):
    return make_environment('pusht', contract.sim.options, contract.cameras[0].height)


class BlueFinder:
    """A translator by eye: where the blue pusher's middle is in each frame."""

    translator_id = 'blue'
    checkpoint_hash = 'by-eye'
    channels = ('pusher_x', 'pusher_y')
    needs_state = False

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain
        self.calls = 0

    def translate(self, anchor, frames, state=None):
        self.calls += 1
        at = np.array([self._middle(image) for image in (anchor, *frames)])
        k = len(frames)
        values = self.gain * np.diff(at, axis=0) * 512 / 96 / 1000
        return Translation(values, np.zeros(k, np.float32), np.ones(2, np.float32))

    @staticmethod
    def _middle(image):
        r, _, b = np.moveaxis(image.astype(float), -1, 0)
        blue = np.clip(b - r - 60, 0, None)
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        return np.array([(blue * x).sum(), (blue * y).sum()]) / max(blue.sum(), 1e-9)


def test_the_expert_s_own_actions_cover_the_goal(contract, env):
    episode = run_episode(contract, env, None, 3, StudyOptions())
    assert episode.error == 0
    assert episode.best(200) > 0.95
    assert episode.coverage[-1] == episode.best(300)
    assert len(episode.coverage) < 200


def test_frames_alone_are_enough_when_they_are_read_well(contract, env):
    translator = BlueFinder()
    episode = run_episode(contract, env, translator, 5, StudyOptions())
    assert translator.calls >= (len(episode.coverage) - 1) / 3
    assert 0 < episode.error < 0.02
    assert episode.best(200) >= 0.82


def test_a_translator_that_reads_badly_fails(contract, env):
    episode = run_episode(contract, env, BlueFinder(-0.3), 5, StudyOptions(), horizon=60)
    assert episode.error > 1
    assert episode.best(60) < 0.5
    assert len(episode.coverage) == 61


def test_what_is_watched_is_what_was_imagined_beside_what_came(contract, env):
    moments = []
    run_episode(
        contract, env, BlueFinder(), 5, StudyOptions(), horizon=9, watch=moments.append
    )
    assert [m.step for m in moments] == [3, 6, 9]
    for moment in moments:
        assert moment.imagined.shape == moment.real.shape == (3, 96, 96, 3)
        assert np.abs(moment.imagined.astype(int) - moment.real).mean() < 2


def test_a_loop_goes_on_where_it_stopped_and_refuses_other_episodes(contract, tmp_path):
    options = StudyOptions(episodes=1)
    path = tmp_path / 'loop.jsonl'
    first = run_loop(contract, None, options, path, 'expert')
    again = run_loop(contract, None, dataclasses.replace(options, episodes=2), path, 'expert')
    assert again[0] == first[0]
    assert len(path.read_text().splitlines()) == 3
    with pytest.raises(ValueError, match='another checkpoint or plan'):
        run_loop(contract, None, dataclasses.replace(options, execute=2), path, 'expert')


def test_rows_count_each_threshold_within_each_horizon():
    late = PushTEpisode(0, (*np.linspace(0, 0.7, 240), 0.96), 0.1)
    soon = PushTEpisode(1, (0.1, 0.9, 0.4), 0.3)
    rows = loop_rows([late, soon], 'jacobian', StudyOptions())
    rate = {(r['horizon'], r['coverage']): r['success_rate'] for r in rows}
    assert rate == {
        (200, 0.738): 0.5, (200, 0.82): 0.5, (200, 0.95): 0,
        (300, 0.738): 1, (300, 0.82): 1, (300, 0.95): 0.5,
    }
    assert all(r['n'] == 2 and r['ci_low'] < r['success_rate'] + 1e-9 for r in rows)
    json.dumps(rows)
    text = tables(rows)
    assert '| jacobian | 2 | 50% ' in text
    assert '200 steps, >= 0.82' in text


def test_curves_are_drawn(tmp_path):
    plot_loop({'expert': [PushTEpisode(0, (0.0, 0.8, 0.97), 0.0)]}, tmp_path / 'plot.png')
    assert (tmp_path / 'plot.png').stat().st_size > 5000


def test_self_play_is_written_once_and_read_by_the_training(contract, tmp_path):
    assert selfplay.collect(contract, tmp_path, 12, 3) == 12
    assert pusht_data.collect(contract, tmp_path, 12, 3) == 0
    folder = ShardFolder(tmp_path)
    assert folder.analytic
    assert folder.contract == json.loads(json.dumps(contract.action_fields()))
    assert folder.action_max.max() <= 0.024
    data, _ = read_shard(tmp_path / 'shard_00000.mcap')
    # The largest flow in the picture is at least the pusher's.
    flow = np.linalg.norm(data.flow.astype(float), axis=-1).max((1, 2))
    pusher = np.linalg.norm(data.actions, axis=-1) * 1000 * 96 / 512
    assert (flow >= pusher - 0.02).all()
    with pytest.raises(ValueError, match='another recipe'):
        pusht_data.collect(contract, tmp_path, 12, 4)


def test_bad_options_are_refused(contract, tmp_path):
    with pytest.raises(ValueError, match='5 actions'):
        StudyOptions(execute=5)
    with pytest.raises(ValueError, match='direct_pear'):
        StudyOptions(models=('direct_pear',))
    with pytest.raises(ValueError, match='not the simulated PushT'):
        pusht_data.collect(load_contract('finger'), tmp_path, 5, 0)
    for wrong in ({'discs': 2}, {'frames': 3}, {'span': 0.1}):
        with pytest.raises(ValueError, match=f'{next(iter(wrong))} is for the simulated finger'):
            selfplay.collect(contract, tmp_path, 5, 0, **wrong)
    with pytest.raises(ValueError, match='max_delta is -1 m'):
        selfplay.collect(contract, tmp_path, 5, 0, max_delta=-1)


def test_self_play_goes_no_further_than_was_asked_for(contract, tmp_path):
    selfplay.collect(contract, tmp_path, 8, 3, max_delta=0.01)
    assert 0.001 < ShardFolder(tmp_path).action_max.max() <= 0.01
