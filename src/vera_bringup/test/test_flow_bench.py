import json

import numpy as np
import pytest
from typer.testing import CliRunner

from vera_bringup import flow_bench
from vera_bringup.cli import app
from vera_bringup.flow_bench import action_errors, draw, make_scenes, measure
from vera_jidm.flow import FlowPair, PairFlow

SMALL = {'pairs': 3, 'size': 32, 'max_delta': 0.05, 'seed': 3}


@pytest.fixture(scope='module')
def scenes():
    return make_scenes(2, 3, 32, 0.05, 3)


class Off(PairFlow):
    """The truth, off by a vector."""

    flow_id = 'off'

    def __init__(self, scenes, by):
        self.truth, self.by = scenes.truth, np.array(by, np.float32)

    def directions(self, a, b):
        n = len(a)
        return self.truth.forward[:n] + self.by, self.truth.backward[:n] - self.by


def test_the_true_flow_gives_the_true_action(scenes):
    assert action_errors(scenes, scenes.truth, 0.05).max() < 0.01
    still = FlowPair(*(np.zeros_like(x) for x in (scenes.truth.forward, scenes.truth.backward)),
                     scenes.truth.weight_forward, scenes.truth.weight_backward)
    # Predicting zero costs the variance of the actions.
    want = np.square(scenes.actions / (0.05 / np.sqrt(3))).mean(1)
    np.testing.assert_allclose(action_errors(scenes, still, 0.05), want)


def test_end_point_errors_are_what_the_flow_is_off_by(scenes, monkeypatch):
    monkeypatch.setattr(flow_bench, 'CHUNK', 8)
    monkeypatch.setattr(flow_bench, 'make_flow', lambda name: Off(scenes, [0.3, 0.4]))
    monkeypatch.setattr(flow_bench, 'make_scenes', lambda *_: scenes)
    first, row = measure(['off'], [2], **SMALL)
    assert first['flow'] == 'analytic' and first['epe_on'] == first['epe_off'] == 0
    assert row['epe_on'] == pytest.approx(0.5, abs=1e-4)
    assert row['epe_off'] == pytest.approx(0.5, abs=1e-4)
    assert row['epe_on_ci'][0] <= row['epe_on'] <= row['epe_on_ci'][1]
    assert row['mse'] > 10 * first['mse'] and row['n'] == 3 and row['flow_id'] == 'off'


def test_the_arm_and_the_table_are_told_apart(scenes):
    assert not (scenes.on & scenes.off).any()
    assert (scenes.truth.forward[scenes.off] == 0).all()
    assert 0.02 < scenes.on.mean() < 0.5


def test_the_picture_is_drawn(scenes, tmp_path):
    path = tmp_path / 'new' / 'flow.png'
    draw(path, [(scenes, {'analytic': scenes.truth, 'other': scenes.truth})])
    assert path.stat().st_size > 5000


def test_the_command_prints_json_on_its_last_line():
    arguments = ['bench', 'flow', '--flow', 'farneback', '--joints', '2', '--pairs', '2', '--json']
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output.strip().splitlines()[-1])['rows']
    assert [(r['flow'], r['joints'], r['n']) for r in rows] == [
        ('analytic', 2, 2), ('farneback', 2, 2),
    ]
    assert 0 < rows[1]['epe_on'] < 1 and rows[1]['cpu_ms'] > 0


def test_an_estimator_that_is_none_is_named():
    done = CliRunner().invoke(app, ['bench', 'flow', '--flow', 'magic', '--pairs', '2'])
    assert done.exit_code != 0
    assert "no flow estimator 'magic'" in str(done.exception)
