"""Rates with their uncertainty, and the keys that `vera eval --json` promises."""

from __future__ import annotations

import pytest

from vera_bringup.lockstep import outcome
from vera_bringup.statistics import (
    NO_MOTION,
    REACHED,
    RESTED,
    TIME,
    WRONG,
    EpisodeResult,
    summarise,
    wilson,
)
from vera_planner.goal import Goal, GoalState


@pytest.mark.parametrize(
    ('k', 'n', 'low', 'high'),
    [
        # Brown, Cai, DasGupta 2001, and R's binom.confint(method='wilson')
        (15, 20, 0.5313, 0.8881),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def episode(index: int, what: str, **kwargs) -> EpisodeResult:
    return EpisodeResult(index, index, 'touch the red disc', 'red', what, 0.5, 3.0, **kwargs)


def test_summary_has_the_promised_keys_and_counts():
    results = [episode(0, REACHED, replan_ms=(10.0, 20.0)), episode(1, WRONG), episode(2, TIME)]
    report = summarise([*results, episode(3, TIME)])
    for key in ('success_rate', 'n', 'ci_low', 'ci_high', 'progress', 'wrong_rate',
                'replan_ms_p50', 'replan_ms_p95'):  # fmt: skip
        assert key in report
    assert (report['success_rate'], report['n'], report['wrong_rate']) == (0.25, 4, 0.25)
    assert report['replan_ms_p50'] == 15.0
    assert report['failures'] == {TIME: 2, WRONG: 1}


@pytest.mark.parametrize(
    ('dwelled', 'state', 'expected'),
    [
        ('red', GoalState.ACTIVE, REACHED),
        # What the planner believes does not make a success.
        ('', GoalState.SUCCEEDED, RESTED),
        ('blue', GoalState.SUCCEEDED, WRONG),
        ('', GoalState.ABORTED, NO_MOTION),
        ('', GoalState.ACTIVE, TIME),
    ],
)
def test_outcome_is_the_truth(dwelled, state, expected):
    assert outcome(dwelled, 'red', Goal(state=state)) == expected
