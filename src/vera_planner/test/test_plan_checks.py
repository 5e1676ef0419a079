"""Plans judged by their frames: each fault has its signal, and a choice among candidates."""

import math

import numpy as np
import pytest

from vera_core.gates import GateError, PlanRejectedError, Verdict
from vera_core.normal import Normal
from vera_core.seams import Plan
from vera_planner.goal import GoalCode, GoalKeeper, GoalState
from vera_planner.plan_checks import (
    ROUNDING,
    PlanChecks,
    Reality,
    candidate_seed,
    frame_signals,
    unrealised,
)
from vera_planner.scheduler import PlanScheduler

SIZE, STEPS = 48, 4


def picture(x, rng=None):
    """A block on a table; with `rng`, each pixel off by up to a grey level."""
    frame = np.full((SIZE, SIZE, 3), 200.0)
    left = round(x)
    frame[16:28, left : left + 12] = (30, 60, 220)
    if rng is not None:
        frame += rng.uniform(-1, 1, frame.shape)
    return frame.clip(0, 255).astype(np.uint8)


def way(seed, speed=2.0):
    """(anchor, frames): the block goes right."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(2, 8)
    xs = start + (speed + rng.uniform(-0.5, 0.5)) * np.arange(STEPS + 1)
    frames = np.stack([picture(x, rng) for x in xs])
    return frames[0], frames[1:]


def alike(frames, seed, count=3):
    """Candidates that differ by a few grey levels."""
    rng = np.random.default_rng(1000 + seed)
    return [
        (frames + rng.uniform(-2, 3, frames.shape)).clip(0, 255).astype(np.uint8)
        for _ in range(count)
    ]


def known(count=80, candidates=1):
    good = []
    for seed in range(count):
        anchor, frames = way(seed)
        first, *near = alike(frames, seed, candidates) if candidates > 1 else [frames]
        good.append(frame_signals(anchor, first, near))
    return Normal.of(good, 0.02)


@pytest.fixture(scope='module')
def normal():
    return known()


@pytest.mark.parametrize(
    ('spoil', 'signal'),
    [
        (lambda a, f, rng: f[::-1], 'back'),
        (lambda a, f, rng: np.repeat(a[None], STEPS, axis=0), 'copy'),
        (lambda a, f, rng: (f + rng.normal(0, 20, f.shape)).clip(0, 255).astype(np.uint8), 'noise'),
        (lambda a, f, rng: np.concatenate([f[:2], 255 - f[2:]]), 'jump'),
    ],
    ids=['reversed', 'frozen', 'noise', 'jump'],
)
def test_each_fault_is_stopped_and_named(normal, spoil, signal):
    checks = PlanChecks(normal)
    for seed in range(200, 210):
        anchor, frames = way(seed)
        assert checks.judge(anchor, [frames])[0].accepted
        bad = spoil(anchor, frames, np.random.default_rng(seed))
        assert frame_signals(anchor, bad)[signal] > 2 * frame_signals(anchor, frames)[signal]
        verdict, _ = checks.judge(anchor, [bad])
        assert not verdict.accepted and verdict.reason


def test_a_plan_at_rest_is_no_fault_where_rest_is_normal():
    good = [frame_signals(*way(seed, speed=0.0 if seed % 3 else 2.0)) for seed in range(90)]
    anchor, frames = way(301, speed=0.0)
    assert PlanChecks(Normal.of(good, 0.02)).judge(anchor, [frames])[0].accepted


def test_a_plan_of_other_words_has_no_neighbour():
    checks = PlanChecks(known(candidates=3), candidates=3)
    anchor, frames = way(500)
    first, *near = alike(frames, 500)
    other = first[:, ::-1].copy()  # it goes elsewhere, as smoothly
    verdict, each = checks.judge(anchor, [other, *near])
    assert [one.accepted for one in each] == [False, True, True]
    assert each[0].signal == 'nearest_3' and 'no other candidate' in each[0].reason
    assert verdict.accepted and verdict.chosen != 0


def still(anchor):
    """A plan that rests."""
    return np.repeat(anchor[None], STEPS, axis=0)


def known_to_rest():
    """As `known` with three candidates, of a planner that also rests: then all of them do."""
    good = []
    for seed in range(120):
        anchor, frames = way(seed)
        if not seed % 3:
            frames = still(anchor)
        first, *near = alike(frames, seed)
        good.append(frame_signals(anchor, first, near))
    return Normal.of(good, 0.02)


def test_rest_is_stopped_where_the_others_move_and_not_where_they_rest():
    checks = PlanChecks(known_to_rest(), candidates=3)
    anchor, frames = way(500)
    (rest, *resting), moving = alike(still(anchor), 501), alike(frames, 500, 2)
    verdict, each = checks.judge(anchor, [rest, *moving])
    assert [one.accepted for one in each] == [False, True, True] and verdict.chosen != 0
    assert frame_signals(anchor, rest, moving)['rest_3'] > 5
    # One of the others rests, too: it may be that there is nothing to do.
    assert frame_signals(anchor, rest, [rest, moving[0]])['rest_3'] < 1
    assert checks.judge(anchor, [rest, *resting])[0].accepted


class Asleep:
    """A planner whose first `asleep` plans rest."""

    def __init__(self, asleep):
        self.asleep, self.asked = asleep, 0

    def __call__(self, seed):
        self.asked += 1
        anchor, frames = way(7)
        frames = still(anchor) if self.asked <= self.asleep else frames
        frames = alike(frames, self.asked, 1)[0]
        return Plan(frames, 0.2, motion=float(self.asked))


@pytest.mark.parametrize(
    ('asleep', 'asked', 'taken'), [(0, 1, 1), (1, 3, 2), (3, 3, 1)],
    ids=['moves', 'rests alone', 'all rest'],
)  # fmt: skip
def test_a_single_plan_that_rests_is_believed_beside_two_others_only(asleep, asked, taken):
    planner = Asleep(asleep)
    plan = PlanChecks(known_to_rest()).ask(planner, way(7)[0], lambda plan: 4, 1)
    assert (planner.asked, plan.motion) == (asked, taken)


def test_who_only_reports_or_knows_nothing_of_rest_asks_for_no_more():
    for checks in (PlanChecks(known_to_rest(), mode='report'), PlanChecks(None)):
        planner = Asleep(3)
        checks.ask(planner, way(7)[0], lambda plan: 4, 1)
        assert planner.asked == 1


def test_signals_do_not_fall_below_rounding():
    anchor, _ = way(1)
    frames = np.repeat(anchor[None], 2, axis=0)
    signals = frame_signals(anchor, frames, [frames])
    assert signals['noise'] == signals['back'] == signals['nearest_2'] == ROUNDING


class Sampler:
    """Plans by seed; those in `bad` flicker."""

    def __init__(self, bad=()):
        self.bad, self.asked = bad, []

    def __call__(self, seed):
        index = len(self.asked)
        self.asked.append(seed)
        frames = way(7)[1]
        if index in self.bad:
            noise = np.random.default_rng(index).normal(0, 30, frames.shape)
            frames = (frames + noise).clip(0, 255).astype(np.uint8)
        return Plan(frames, 0.2, latency=0.1, motion=float(index))


def test_candidates_are_asked_for_with_other_noise_and_the_bad_ones_left_out(normal):
    sampler = Sampler(bad=(0, 2))
    plan = PlanChecks(normal, candidates=4).ask(sampler, way(7)[0], lambda plan: 3, 99)
    assert sampler.asked == [99, *(candidate_seed(99, i) for i in (1, 2, 3))]
    assert len(set(sampler.asked)) == 4
    assert plan.motion == 1  # the first good one
    assert plan.alternatives.shape == (1, 3, SIZE, SIZE, 3)
    assert plan.latency == pytest.approx(0.4)
    assert plan.disagreement > 1 and plan.verdict.accepted


def test_one_candidate_is_the_plan_itself(normal):
    plan = PlanChecks(normal).ask(Sampler(), way(7)[0], lambda plan: 3, 99)
    assert plan.alternatives is None and math.isnan(plan.disagreement)


def test_nothing_good_is_an_error_with_the_reason_unless_only_reported(normal):
    anchor = way(7)[0]
    with pytest.raises(PlanRejectedError, match='too much changes'):
        PlanChecks(normal, candidates=2).ask(Sampler((0, 1)), anchor, lambda plan: 4, 1)
    told = PlanChecks(normal, mode='report').ask(Sampler((0,)), anchor, lambda plan: 4, 1)
    assert 'too much changes' in told.verdict.reason
    silent = PlanChecks(normal, mode='off').ask(Sampler((0,)), anchor, lambda plan: 4, 1)
    assert silent.verdict.reason == ''
    with pytest.raises(GateError, match="no gate 'perhaps'; there are on, report, off"):
        PlanChecks(normal, mode='perhaps')
    with pytest.raises(ValueError, match='0 candidates'):
        PlanChecks(normal, candidates=0)


def test_a_candidate_that_the_planner_itself_rejects_is_left_out(normal):
    def make(refusing):
        sampler = Sampler()

        def one(seed):
            plan = sampler(seed)
            if plan.motion in refusing:
                raise PlanRejectedError(Verdict(accepted=False, reason='a piece is missing'))
            return plan

        return one

    anchor = way(7)[0]
    plan = PlanChecks(normal, candidates=3).ask(make({0, 2}), anchor, lambda plan: 4, 1)
    assert plan.motion == 1 and plan.alternatives is None
    with pytest.raises(PlanRejectedError, match='a piece is missing'):
        PlanChecks(normal, candidates=3).ask(make({0, 1, 2}), anchor, lambda plan: 4, 1)


def test_what_did_not_come_true():
    anchor, frames = way(3)
    assert unrealised(anchor, frames[-1], frames[-1]) == 0
    assert 0.7 < unrealised(anchor, frames[-1], anchor) < 1
    assert unrealised(anchor, frames[-1], 255 - anchor) > 5
    assert unrealised(anchor, anchor, anchor) == 0  # of rest nothing is missing


def test_promises_are_found_by_their_time():
    period = 200_000_000
    reality = Reality(period)
    anchor, frames = way(4)
    assert reality.promised(0) is None
    reality.dreamt(1000, anchor, frames)
    start, frame = reality.promised(1000 + 2 * period + period // 5)
    assert (start == anchor).all() and (frame == frames[1]).all()
    assert reality.promised(1000 + 2 * period + period // 2) is None
    # The next plan begins at the second frame: what was promised until then stays.
    reality.dreamt(1000 + 2 * period, frames[1], 255 - frames)
    assert (reality.promised(1000 + period)[1] == frames[0]).all()
    assert (reality.promised(1000 + 3 * period)[1] == 255 - frames[0]).all()
    reality.forget()
    assert reality.promised(1000 + period) is None


def test_rejected_plans_are_told_counted_and_not_endless():
    goals = GoalKeeper(max_rejected=2)
    goals.begin('touch the red disc')
    goals.planned(100.0)
    assert goals.rejected('it flickers', counted=True).plans == 1
    goal = goals.rejected('it flickers')
    assert goal.active and goal.plans == 2  # another plan number is another noise
    assert goal.message == 'plan 2 rejected, 2 in a row: it flickers'
    goals.accepted()
    assert goals.rejected('it flickers').active and goals.rejected('it flickers').active
    goal = goals.rejected('it repeats a frame')
    assert (goal.state, goal.code) == (GoalState.ABORTED, GoalCode.IMPLAUSIBLE)
    assert goal.message == (
        '3 plans in a row were rejected, the last one because it repeats a frame'
    )
    goals.begin('touch the blue disc')
    assert goals.rejected('it flickers').active  # counted anew


def test_after_a_rejection_the_next_plan_is_due_at_once():
    scheduler = PlanScheduler.live(0.4)
    scheduler.began(1, 1000)
    assert not scheduler.due(1, 1001)
    scheduler.again()
    assert scheduler.due(1, 1001)
