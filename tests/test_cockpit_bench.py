"""`vera bench cockpit`: its arithmetic, and all of it with a graph, a cockpit and a viewer."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from vera_bringup.cockpit_bench import Phase, draw, report

PERIOD = 0.01


def phase(late_ms: float, seed: int = 0, ticks: int = 1000) -> Phase:
    """Set-points at 100 Hz that are up to `late_ms` late."""
    late = np.random.default_rng(seed).uniform(0, late_ms, ticks)
    stamps = ((np.arange(ticks) * 10 + late) * 1e6).astype(np.int64)
    return Phase(stamps, underruns=1, goals=2, cockpit_cores=0.1, viewer_cores=0.2)


def test_the_same_twice_is_kept_and_more_jitter_is_not():
    quiet = [phase(1.0, seed) for seed in range(4)]
    same = report(quiet, quiet, PERIOD)
    assert same.kept and same.rate_ratio == 1 and same.jitter_interval == (1, 1)
    assert same.rate == pytest.approx((100, 100), abs=0.1)
    assert same.underruns == (4, 4) and same.goals == (8, 8)
    worse = report(quiet, [phase(1.3, seed) for seed in range(4)], PERIOD)
    assert worse.jitter_ratio == pytest.approx(1.3, abs=0.02) and not worse.kept
    low, high = worse.jitter_interval
    assert 1.2 < low <= worse.jitter_ratio <= high < 1.4


def test_a_slower_loop_is_not_kept_though_it_is_even():
    slow = Phase(np.arange(1000) * 11_200_000, 0, 1)
    found = report([phase(3.0)], [slow], PERIOD)
    assert found.rate_ratio == pytest.approx(0.893, abs=0.001)
    assert found.jitter_ratio < 1 and not found.kept


def test_silence_between_motions_is_no_jitter():
    broken = phase(1.0).stamps.copy()
    broken[500:] += 5_000_000_000
    found = report([phase(1.0)], [Phase(broken, 0, 1)], PERIOD)
    assert found.jitter_ratio == pytest.approx(1, abs=0.01) and found.ticks == (999, 998)


def test_a_graph_that_did_not_move_is_said():
    with pytest.raises(ValueError, match='too few'):
        report([phase(1.0)], [phase(1.0, ticks=50)], PERIOD)


def test_the_picture_is_drawn(tmp_path):
    draw([phase(1.0)], [phase(1.2)], PERIOD, tmp_path / 'jitter.png')
    assert (tmp_path / 'jitter.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
@pytest.mark.parametrize('viewer', ['socket', 'browser'])
def test_a_cockpit_is_measured_beside_a_graph(viewer, tmp_path):
    if viewer == 'browser':
        from browser import programs

        programs()
    command = [sys.executable, '-m', 'vera_bringup.cli', 'bench', 'cockpit', '--json']
    done = subprocess.run(
        [*command, '--viewer', viewer, '--seconds', '8', '--pairs', '1',
         '--domain', str(101 - os.getpid() % 50)],
        capture_output=True, text=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    # 1: so few seconds may show more than the promised difference.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(next(x for x in done.stdout.splitlines() if x.startswith('{')))
    assert min(found['ticks']) > 300 and min(found['goals']) >= 1
    assert found['rate_ratio'] == pytest.approx(1, abs=0.1)
    # It worked and was looked at: both took some of the processor.
    assert found['cockpit_cores'] > 0.01 and found['viewer_cores'] > 0
