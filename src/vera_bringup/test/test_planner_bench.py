"""`vera bench planner`: rows for what can be had, reasons for what cannot."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vera_bringup import planner_bench
from vera_bringup.plan_fidelity import Comparison
from vera_bringup.planner_bench import UNET, BenchError, measure, text_of, variant
from vera_planner.wan.planner import read_options

QUICK = {'repeats': 2, 'scene_count': 1, 'steps': 6, 'threads': 1}


def test_a_size_of_a_gpu_is_the_tiny_one_without_one(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    said = []
    found = measure(
        '14b', ['no-guidance', 'taylor', 'int8', 'context-parallel'], on_row=said.append, **QUICK
    )
    assert (found['asked'], found['size'], found['weights']) == ('i2v-14b', 'tiny', 'random')
    rows = {row['option']: row for row in found['rows']}
    assert said == found['rows'] and list(rows) == [
        'full', 'no-guidance', 'taylor', 'int8', 'context-parallel'
    ]  # fmt: skip
    for name in ('full', 'no-guidance', 'taylor'):
        row = rows[name]
        assert row['steps'] == 6 and 0 < row['p50_ms'] <= row['p95_ms'] and row['memory_mb'] > 50
        stages = [row[f'{s}_p50_ms'] for s in ('text', 'encode', 'denoise', 'decode')]
        assert all(value >= 0 for value in stages) and row['step_p50_ms'] > 0
    assert 'psnr_db' not in rows['full'] and 'action_mse' not in rows['taylor']
    assert 0 < rows['taylor']['latent_error'] < rows['no-guidance']['latent_error']
    assert 0 < rows['taylor']['cache_saved'] < 1
    assert 'torchao' in rows['int8']['skipped'] or 'torchao' in sys.modules
    assert 'GPU' in rows['context-parallel']['skipped']
    assert all(text_of(row) for row in found['rows'])
    json.dumps(found)


def test_the_shipped_compact_planner_is_judged_by_its_actions():
    found = measure(UNET, ['steps-2'], **{**QUICK, 'steps': 8})
    rows = {row['option']: row for row in found['rows']}
    assert set(rows) == {'full', 'shipped', 'steps-2'} and rows['shipped']['steps'] == 4
    assert rows['steps-2']['psnr_db'] > 20 and rows['shipped']['action_mse'] < 1
    assert rows['steps-2']['action_mse'] > rows['shipped']['action_mse']


def test_comparison_with_itself_is_exact():
    scene = planner_bench.scenes(planner_bench.bench_contract(False), 1, 9, seed=1)[0]
    assert scene.context.shape == (9, 64, 64, 3) and (scene.context[0] != scene.context[-1]).any()
    from vera_core.seams import Plan

    plan = Plan(frames=scene.context[:4], frame_period=0.2)
    comparison = Comparison([scene], lambda a, f: f.mean((1, 2, 3))[:, None], 4)
    comparison.take_reference([plan])
    assert comparison.row([plan])['action_mse'] == 0
    assert comparison.row([plan]).get('ssim', 1) == pytest.approx(1)
    other = Plan(frames=255 - scene.context[:4], frame_period=0.2)
    assert comparison.row([other])['action_mse'] > 0
    assert comparison.row([other]).get('ssim', 0) < 0.9
    assert comparison.row([other])['psnr_db'] < comparison.row([plan])['psnr_db']


def test_unknown_sizes_and_options_name_the_known_ones():
    with pytest.raises(BenchError, match='compact-unet'):
        measure('huge')
    with pytest.raises(BenchError, match='steps-10'):
        variant('warp-speed')
    with pytest.raises(BenchError, match='steps-N'):
        measure(UNET, ['taylor'])
    assert variant('lora=a.safetensors').speed == {'lora': 'a.safetensors'}


def test_the_files_of_options_in_config_can_be_read():
    folder = Path(__file__).parents[3] / 'config' / 'planners'
    files = sorted(folder.glob('wan*.yaml'))
    assert len(files) >= 4
    for file in files:
        options = read_options(str(file))
        assert options.checkpoint == str(folder / 'wan_checkpoint')
        assert np.isfinite(options.speed.lora_scale)
