"""`vera train video` from the command line: one step of the tiny size, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vera_bringup.cli import app
from vera_bringup.exits import CommandError
from vera_planner.clips import ClipWriter
from vera_planner.wan.checkpoints import read_planner, verify

TINY = Path(__file__).parents[3] / 'config' / 'planners' / 'train_tiny.yaml'


@pytest.fixture
def data(tmp_path):
    contract = {
        'canvas': {'height': 32, 'width': 32},
        'cameras': [{'name': 'top', 'crop': None, 'canvas_width': 32}],
        'frame_period': 0.2,
    }
    writer = ClipWriter(tmp_path / 'clips', contract, {'seed': 0})
    frames = np.random.default_rng(0).integers(0, 256, (4, 14, 32, 32, 3)).astype(np.uint8)
    index = np.tile(np.array([14, 0, writer.group(['wave'])], np.int32), (4, 1))
    writer.write(frames, index)
    return f'data=[{{kind: clips, path: {tmp_path / "clips"}}}]'


def call(*arguments: str):
    return CliRunner().invoke(
        app, ['train', 'video', '--config', str(TINY), *arguments], catch_exceptions=False,
        standalone_mode=False,
    )  # fmt: skip


def test_one_step_leaves_a_planner_and_says_where(data, tmp_path):
    small = ['--set', data, '--set', 'canvas={height: 32, width: 32}', '--set', 'optimiser.batch=1']
    done = call(*small, '--steps', '1', '--out', str(tmp_path / 'out'), '--device', 'cpu', '--json')
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result['step'] == 1 and np.isfinite(result['loss'])
    info = read_planner(Path(result['planner']))
    assert info.layout.name == 'tiny' and not verify(info)


def test_what_cannot_be_trained_is_refused_in_one_line(data, tmp_path):
    for arguments, message in (
        (['--layout', 'wan-huge'], "layout: unknown size 'wan-huge'; known: tiny"),
        (['--set', 'optimiser.rat=1'], 'optimiser.rat: unknown key; did you mean'),
        (['--set', 'steps'], 'write KEY=VALUE'),
        (['--set', data, '--precompute'], 'precomputed: is missing'),
        (['--set', data, '--device', 'tpu'], "unknown device 'tpu'"),
        (['--set', data, '--resume', '--out', str(tmp_path)], 'nothing to resume'),
        (['--set', 'data=[{kind: clips, path: /nowhere}]'], '/nowhere: no such folder'),
    ):
        with pytest.raises(CommandError, match=message.replace('.', r'\.')):
            call('--set', 'canvas={height: 32, width: 32}', *arguments)
