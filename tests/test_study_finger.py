"""The finger study: which cells it runs, what its rows say, and one small run of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from vera_bringup import ablation_study
from vera_bringup.finger_study import (
    QUICK,
    Cell,
    FingerStudy,
    Runner,
    data_needed,
    markdown,
    plot,
    ratios,
    spread,
)
from vera_core.contract_checks import check_name


def row(model: str, joints: int, n: int, mse: float, seed: int = 0, flow: str = 'analytic') -> Any:
    return {
        'model': model, 'joints': joints, 'n': n, 'flow': flow, 'seed': seed, 'mse': mse,
        'params': 1, 'recipe': {},
    }


def test_cells_are_what_the_paper_sweeps() -> None:
    cells = FingerStudy().cells()
    analytic, dis = (
        {(c.joints, c.n) for c in cells if c.model == 'jacobian' and c.flow == flow}
        for flow in ('analytic', 'dis')
    )
    assert {j for j, n in analytic if n == 4000} == {1, 2, 3, 4, 5, 8, 10}
    assert {n for j, n in analytic if j == 5} == {128, 256, 512, 1000, 2000, 4000, 8000}
    assert dis == analytic
    assert {c.seed for c in cells} == {0, 1, 2}
    # A pair of images has no flow: it is trained once, whatever the flows are.
    pairs = [c for c in cells if c.model == 'direct_pair']
    assert {c.flow for c in pairs} == {'none'}
    assert len([c for c in pairs if not c.recipe]) == 3 * len(analytic)
    assert len({c.name for c in cells}) == len(cells)
    assert {c.joints for c in cells if c.flow == 'dis_lk'} == {2, 5, 10}
    own = [c for c in cells if dict(c.recipe).get('rate')]
    assert {c.model for c in own} == {'direct_flow', 'direct_pair'}
    fewer = FingerStudy(joints=(5,), models=('jacobian', 'direct_flow'), flows=('dis',)).cells()
    assert {(c.joints, c.flow) for c in fewer if dict(c.recipe).get('rate')} == {(5, 'dis')}
    long = {(c.model, c.joints, c.flow) for c in cells if dict(c.recipe).get('steps') == 1200}
    assert len(long) == 2 * 5  # 5 and 10 joints: two models with two flows, one that sees none


def test_spread_is_students_interval_of_the_logarithms() -> None:
    middle, low, high = spread([0.01, 0.02, 0.04])
    half = 4.303 * math.log(2) / math.sqrt(3)
    assert middle == pytest.approx(0.02)
    assert (low, high) == pytest.approx((0.02 * math.exp(-half), 0.02 * math.exp(half)), rel=1e-3)
    middle, low, high = spread([0.5])
    assert middle == pytest.approx(0.5) and math.isnan(low) and math.isnan(high)


def test_ratios_are_paired_by_seed() -> None:
    rows = [
        row('jacobian', 5, 4000, 0.01, 0), row('jacobian', 5, 4000, 0.04, 1),
        row('direct_flow', 5, 4000, 0.02, 0), row('direct_flow', 5, 4000, 0.08, 1),
        row('direct_flow', 5, 4000, 9.0, 2), row('direct_pair', 5, 4000, 0.1, 0, flow='none'),
    ]
    assert ratios(rows, 'direct_flow', 'analytic')[5, 4000] == pytest.approx((2.0, 2.0, 2.0))
    assert ratios(rows, 'direct_pair', 'analytic')[5, 4000][0] == pytest.approx(10.0)
    table = markdown(rows, 'analytic')
    assert '| 5 | 4000 | 0.0200' in table and '2.00 (2.00-2.00)' in table


def test_data_needed_is_the_horizontal_distance_of_the_curves() -> None:
    rows = [row('jacobian', 5, n, 10.0 / n) for n in (500, 1000, 2000)]
    rows += [row('direct_flow', 5, n, 20.0 / n) for n in (500, 1000, 2000)]
    needs = data_needed(rows, 'direct_flow', 'analytic', 5)
    assert [need['times'] for need in needs[:2]] == pytest.approx([2.0, 2.0])
    # With 2000 it does not get there: more than the one time that was tried.
    assert needs[2]['times'] is None and needs[2]['more_than'] == 1.0


def test_plot_is_a_picture(tmp_path: Path) -> None:
    rows = [row(m, j, 4000, 0.01 * j) for m in ('jacobian', 'direct_flow') for j in (2, 5)]
    plot(rows, FingerStudy(), tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').stat().st_size > 10_000


def test_the_quick_study_has_every_model_and_both_flows() -> None:
    cells = QUICK.cells()
    assert {(c.model, c.flow) for c in cells} == {
        ('jacobian', 'analytic'), ('direct_flow', 'analytic'), ('direct_pair', 'none'),
        ('jacobian', 'dis_lk'), ('direct_flow', 'dis_lk'),
    }
    with pytest.raises(ValueError, match='no model'):
        FingerStudy(models=('magic',))


@pytest.mark.slow
def test_a_small_study_runs_and_goes_on(tmp_path: Path) -> None:
    cells = [Cell('jacobian', 2, 64, 'analytic', 0), Cell('direct_pair', 2, 64, 'none', 0)]
    rows = Runner(tmp_path, steps=4, held_out=20, jobs=2).run(cells)
    assert [r['model'] for r in rows] == ['jacobian', 'direct_pair']
    assert all(0 < r['mse'] < 100 for r in rows)
    stamp = (tmp_path / 'rows' / f'{cells[0].name}.json').stat().st_mtime_ns
    again = Runner(tmp_path, steps=4, held_out=20).run(cells)
    assert again == rows
    assert (tmp_path / 'rows' / f'{cells[0].name}.json').stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match='choose another --out'):
        Runner(tmp_path, steps=5, held_out=20).run(cells)
    assert json.loads((tmp_path / 'rows' / f'{cells[1].name}.json').read_text())['steps'] == 4


def test_every_training_has_a_name_that_a_checkpoint_may_have() -> None:
    cells = [*FingerStudy().cells(), *ablation_study.cells(5, 4000, (0, 1))]
    assert any(cell.recipe for cell in cells)
    for cell in cells:
        check_name(cell.name)
    assert len({cell.name for cell in cells}) == len({(c.name, str(c.recipe)) for c in cells})
