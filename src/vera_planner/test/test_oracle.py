"""Plans: what they must be, how they move, and the privileged oracle."""

from __future__ import annotations

import numpy as np
import pytest

from vera_core.contract import load_contract
from vera_core.seams import Plan, VideoPlanner
from vera_planner.goal import PlanRefusedError
from vera_planner.motion import plan_motion
from vera_planner.oracle import OraclePlanner
from vera_planner.planning import (
    PlanError,
    PlanRequest,
    imagine,
    warm_up,
)
from vera_planner.registry import make_planner


@pytest.fixture(scope='module')
def contract():
    return load_contract('finger')


def frames(count=4, level=0, size=(64, 64)):
    return np.full((count, *size, 3), level, np.uint8)


class Fixed:
    """A planner that always gives the same plan."""

    planner_id, checkpoint_hash = 'fixed', ''

    def __init__(self, plan):
        self._plan = plan
        self.calls: list = []

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        self.calls.append((context, prompt, seed, warm_start))
        return self._plan


def request(**fields):
    return PlanRequest(**{'context': frames(2), 'anchor': 5, 'prompt': 'red', **fields})


def test_motion_is_that_of_the_most_changed_pixels():
    anchor = frames(1)[0]
    assert plan_motion(anchor, anchor) == 0
    last = anchor.copy()
    last[:5, :8] = 100  # 40 of 4096 pixels, and 1% are 41
    assert plan_motion(anchor, last) == pytest.approx(100 * 40 / 41)
    last[...] = 250
    assert plan_motion(anchor, last) == plan_motion(last, anchor) == 250
    one = anchor.copy()
    one[:, :, 0] = 90  # a third of the colour
    assert plan_motion(anchor, one) == pytest.approx(30)


def test_imagine_asks_checks_and_measures(contract):
    planner = Fixed(Plan(frames(level=50), 0.2, warm_start='next'))
    assert isinstance(planner, VideoPlanner)
    plan = imagine(planner, request(seed=9, warm_start='last'), contract)
    assert planner.calls[0][1:] == ('red', 9, 'last')
    assert plan.motion == 50
    assert plan.latency > 0
    assert plan.warm_start == 'next'
    assert warm_up(planner, contract) > 0
    assert planner.calls[1][0].shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ('plan', 'message'),
    [
        (Plan(frames(3), 0.2), 'gave 3 frames; the contract commits 4'),
        (Plan(frames(size=(32, 64)), 0.2), r'gave frames \[32, 64, 3\]; the contract says'),
        (Plan(frames().astype(np.float32), 0.2), 'gave float32 frames; expected uint8'),
        (Plan(frames()[0], 0.2), 'expected uint8'),
        (Plan([1, 2], 0.2), 'gave list frames'),
        (Plan(frames(), 0.1), r'works at 0\.1 s between frames, the contract at 0\.2 s'),
        (Plan(frames(), float('nan')), 'works at nan s'),
    ],
)
def test_what_is_no_plan_is_refused(contract, plan, message):
    with pytest.raises(PlanError, match=message):
        imagine(Fixed(plan), request(), contract)


def test_oracle_passes_the_future_on_and_is_told_the_anchor(contract):
    asked = []

    def provider(prompt, anchor, count):
        asked.append((prompt, anchor, count))
        return frames(count, level=7)

    planner = make_planner('oracle', contract, provider=provider)
    assert isinstance(planner, VideoPlanner)
    assert planner.planner_id == 'oracle'
    assert planner.privileged
    plan = imagine(planner, request(anchor=123), contract)
    assert asked == [('red', 123, 4)]
    assert (plan.frames == 7).all()
    assert plan.frame_period == 0.2
    assert warm_up(planner, contract) == 0.0


def test_oracle_does_not_guess_the_anchor(contract):
    planner = OraclePlanner(lambda prompt, anchor, count: frames(count), contract)
    with pytest.raises(ValueError, match='anchor_at'):
        planner.plan(frames(1), 'red')
    planner.anchor_at(3)
    planner.plan(frames(1), 'red')
    with pytest.raises(ValueError, match='anchor_at'):  # nor takes the last one again
        planner.plan(frames(1), 'red')


def test_oracle_lets_refusals_through(contract):
    def provider(prompt, anchor, count):
        raise PlanRefusedError(f'knows no goal {prompt!r}')

    with pytest.raises(PlanRefusedError, match="no goal 'red'"):
        imagine(OraclePlanner(provider, contract), request(), contract)


def test_oracle_needs_someone_who_knows_the_future(contract):
    with pytest.raises(ValueError, match='needs a simulation'):
        make_planner('oracle', contract)
