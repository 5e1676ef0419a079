"""When to plan: live and in lock-step."""

from __future__ import annotations

import pytest

from vera_core.contract import load_contract
from vera_planner.scheduler import PlanScheduler

MS = 1_000_000


def run(scheduler, goals, stamps):
    """Anchors of the plans made when frames with these stamps come and planning takes no time."""
    anchors = []
    for goal, stamp in zip(goals, stamps, strict=True):
        if scheduler.due(goal, stamp):
            scheduler.began(goal, stamp)
            anchors.append(stamp)
    return anchors


def test_lockstep_plans_when_the_committed_part_is_over():
    contract = load_contract('finger', {'video.committed': 2})
    scheduler = PlanScheduler.lockstep(contract)
    stamps = range(10_000 * MS, 11_500 * MS, 50 * MS)
    anchors = run(scheduler, [1] * len(stamps), stamps)
    assert anchors == [10_000 * MS, 10_400 * MS, 10_800 * MS, 11_200 * MS]


def test_live_plans_are_at_least_a_period_apart_whatever_frames_are_lost():
    scheduler = PlanScheduler.live(0.4)
    stamps = [t * MS for t in (0, 50, 390, 400, 450, 1000, 1350, 1410)]
    assert run(scheduler, [1] * len(stamps), stamps) == [0, 400 * MS, 1000 * MS, 1410 * MS]


def test_a_new_goal_plans_at_once():
    scheduler = PlanScheduler.live(0.4)
    stamps = [t * MS for t in (0, 50, 100, 150, 500)]
    assert run(scheduler, [1, 1, 2, 2, 2], stamps) == [0, 100 * MS, 500 * MS]


def test_time_that_jumps_back_is_a_new_beginning():
    scheduler = PlanScheduler.live(0.4)
    stamps = [t * MS for t in (90_000, 90_100, 10, 100, 420)]
    assert run(scheduler, [1] * 5, stamps) == [90_000 * MS, 10 * MS, 420 * MS]


def test_plans_need_some_distance():
    with pytest.raises(ValueError, match='some distance'):
        PlanScheduler.live(0.0)
