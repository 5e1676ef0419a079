"""What is still to be executed, when the robot has come to rest, and requests that continue it."""

import numpy as np
import pytest

from vera_core.clocks import ManualClock
from vera_core.contract import load_contract
from vera_core.seams import Plan
from vera_planner.compact import PENDING_LEVEL, CompactPlanner
from vera_planner.execution import GRACE_NS, Execution, Latency
from vera_planner.network import NetworkConfig, build
from vera_planner.observer import Observer
from vera_planner.oracle import OraclePlanner
from vera_planner.planning import (
    PlanRequest,
    committed_frames,
    continued,
    imagine,
    knows_pending,
    rooted,
    waited,
)

MS = 1_000_000
T0 = 1_795_000_000_000_000_000
CONTRACT = load_contract('finger')


def frames(count, first=0):
    """Frames that tell their number."""
    levels = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, 64, 64, 3)).copy()


@pytest.fixture
def execution():
    found = Execution(CONTRACT)
    found.sent(1, T0, frames(8, 1), T0)
    found.heard(True, 1, T0 + 50 * MS)
    return found


def numbers(pending):
    return pending.frames[:, 0, 0, 0].tolist()


def test_what_is_executed_until_the_next_plan_comes_is_pending(execution):
    # 0.25 s after the anchor frame 2 is next; in 0.5 s frames 2 and 3 will be over and 4 under way.
    pending = execution.pending(T0 + 250 * MS, 300 * MS)
    assert numbers(pending) == [2, 3]
    assert pending.anchor == T0 + 600 * MS
    assert pending.observed == T0 + 200 * MS
    assert numbers(execution.pending(T0 + 250 * MS, 150 * MS)) == [2]
    assert numbers(execution.pending(T0 + 200 * MS, 200 * MS)) == [2]


def test_at_least_one_seen_frame_stays_in_the_context(execution):
    assert numbers(execution.pending(T0 + 250 * MS, 5000 * MS)) == [2, 3, 4]


def test_nothing_is_pending_where_nothing_is_executed(execution):
    assert execution.pending(T0 + 250 * MS, 0) is None
    assert execution.pending(T0 + 1600 * MS, 300 * MS) is None
    execution.heard(False, 0, T0 + 300 * MS)
    assert execution.pending(T0 + 350 * MS, 300 * MS) is None
    execution.heard(True, 1, T0 + 400 * MS)
    execution.forget()
    assert execution.pending(T0 + 450 * MS, 300 * MS) is None


def test_a_plan_for_later_leaves_the_frames_before_it(execution):
    execution.sent(2, T0 + 600 * MS, frames(8, 101), T0 + 400 * MS)
    assert numbers(execution.pending(T0 + 410 * MS, 500 * MS)) == [3, 101, 102]


def test_every_other_plan_begins_at_what_is_seen(execution):
    """From imagined frames the next are imagined, and so on: after ten plans nothing is right."""
    assert execution.pending(T0 + 250 * MS, 300 * MS) is not None
    execution.sent(2, T0 + 200 * MS, frames(8, 2), T0 + 400 * MS, continued=True)
    assert execution.pending(T0 + 450 * MS, 300 * MS) is None
    execution.sent(3, T0 + 450 * MS, frames(8, 50), T0 + 800 * MS)
    assert numbers(execution.pending(T0 + 850 * MS, 300 * MS)) == [52, 53]


def test_stop_and_go_waits_for_the_end_and_for_the_brakes(execution):
    assert not execution.over(T0 + 900 * MS)
    execution.heard(False, 0, T0 + 1600 * MS)
    assert not execution.over(T0 + 1650 * MS)
    assert execution.over(T0 + 1700 * MS)
    assert not execution.rested(T0 + 1600 * MS)
    assert execution.rested(T0 + 1700 * MS)


def test_stop_and_go_does_not_wait_for_ever_for_a_plan_that_nobody_begins():
    execution = Execution(CONTRACT)
    assert execution.over(T0)
    execution.sent(1, T0, frames(4), T0 + 500 * MS)
    assert not execution.over(T0 + 600 * MS)
    assert execution.over(T0 + 500 * MS + GRACE_NS)


def test_the_latency_is_the_longest_of_the_last_few():
    latency = Latency(count=2)
    assert latency.ns == 0
    for ns in (50, 10, 20):
        latency.add(ns)
    assert latency.ns == 20


@pytest.fixture
def observer():
    found = Observer(CONTRACT, ManualClock())
    for i in range(20):
        image = np.full((128, 128, 3), 200 + i, np.uint8)
        found.add('top', image, T0 + i * 50 * MS)
    return found


def request(observer, **changes):
    values = {'context': observer.context(), 'anchor': observer.newest, 'prompt': 'red', **changes}
    return PlanRequest(**values)


def test_the_context_ends_where_the_pending_frames_begin(observer, execution):
    plain = request(observer)
    found = continued(plain, observer, execution, 300 * MS)
    # Newest: 0.95 s. Frame 5 is due at 1.0 s, so the context ends at 0.8 s: image 216.
    assert found.observed == found.seen == T0 + 800 * MS
    assert found.context[:, 0, 0, 0].tolist() == [204, 208, 212, 216]
    assert found.pending[:, 0, 0, 0].tolist() == [5, 6, 7]
    assert found.anchor == T0 + 1400 * MS
    assert (found.start == 7).all()
    assert continued(plain, observer, Execution(CONTRACT), 300 * MS) is plain


def test_a_continued_plan_is_executed_from_the_last_seen_frame_on(observer, execution):
    asked = continued(request(observer), observer, execution, 300 * MS)
    others = np.stack([frames(4, 30), frames(4, 50)])
    plan = Plan(frames(6, 8), 0.2, alternatives=others)
    found, whole = rooted(asked, plan, CONTRACT)
    # A frame of 0.8 s was seen (image 216); frames 5, 6, 7 were pending, 8 and on were imagined.
    assert found.anchor == found.seen == T0 + 800 * MS
    assert (found.start == 216).all() and found.pending is None and found.lead == 3
    assert whole.frames[:, 0, 0, 0].tolist() == [5, 6, 7, *range(8, 14)]
    assert committed_frames(whole, found, CONTRACT) == 3 + CONTRACT.video.committed
    assert whole.alternatives[:, :, 0, 0, 0].tolist() == [
        [5, 6, 7, 30, 31, 32, 33], [5, 6, 7, 50, 51, 52, 53]
    ]
    plain = request(observer)
    assert rooted(plain, plan, CONTRACT) == (plain, plan)


def test_a_plan_begins_at_the_newest_frame_if_the_robot_only_waited_for_it(observer):
    asked = request(observer, anchor=T0 + 100 * MS, context=observer.context(T0 + 100 * MS))
    execution = Execution(CONTRACT)
    found = waited(asked, observer, execution)
    assert found.anchor == observer.newest and found.seen == T0 + 100 * MS
    assert (found.start == 219).all()
    execution.heard(True, 1, T0 + 500 * MS)
    assert waited(asked, observer, execution) is asked
    execution.heard(False, 0, T0 + 600 * MS)
    assert waited(asked, observer, execution) is asked  # it moved meanwhile


class Counting:
    """A planner that goes on counting from the last frame it sees."""

    planner_id, checkpoint_hash = 'counting', ''

    def __init__(self):
        self.contexts, self.seeds = [], []

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        self.contexts.append(context[:, 0, 0, 0].tolist())
        self.seeds.append(seed)
        return Plan(frames(4, int(context[-1, 0, 0, 0]) + 1), 0.2, warm_start='warm')


def test_a_horizon_beyond_the_look_ahead_is_reached_from_its_own_frames():
    planner = Counting()
    plan = imagine(planner, PlanRequest(frames(2, 1), T0, 'red', horizon=9), CONTRACT)
    assert plan.frames[:, 0, 0, 0].tolist() == list(range(3, 12))
    assert planner.contexts == [[1, 2], [3, 4, 5, 6], [7, 8, 9, 10]]
    assert len(set(planner.seeds)) == 3
    assert plan.warm_start == 'warm'
    # Whether the goal is reached is judged at the look-ahead, as without a horizon.
    assert plan.motion == 4


def test_a_planner_that_does_not_know_pending_frames_is_not_given_any():
    assert not knows_pending(Counting())
    # Nor the oracle: it knows where the robot is, and that need not be where they show it.
    assert not knows_pending(OraclePlanner(lambda *_: frames(4), CONTRACT))
    assert knows_pending(CompactPlanner(build(NetworkConfig(width=16, depth=1)), 0.2, steps=1))


def test_the_oracle_gives_as_many_frames_as_the_horizon_wants():
    asked = []

    def provider(prompt, anchor, count):
        asked.append((anchor, count))
        return frames(count, 1)

    planner = OraclePlanner(provider, CONTRACT)
    assert imagine(planner, PlanRequest(frames(1), T0, 'red'), CONTRACT).frames[0, 0, 0, 0] == 1
    plan = imagine(planner, PlanRequest(frames(1), T0, 'red', horizon=6), CONTRACT)
    assert asked == [(T0, 4), (T0, 6)]
    assert plan.frames[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_the_compact_planner_sees_pending_frames_slightly_noised_and_paints_from_the_last():
    network = build(NetworkConfig(width=16, depth=1))
    planner = CompactPlanner(network, 0.2, steps=1)
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append([x.clone() for x in inputs]))
    context = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    plan = planner.plan(context[:2], 'touch the red disc', pending=context[2:])
    assert plan.frames.shape == (4, 64, 64, 3)
    noisy, levels, _ = seen[0]
    assert levels[0, :4].tolist() == pytest.approx([0, 0, PENDING_LEVEL, 0])
    clean = context.transpose(0, 3, 1, 2) / 127.5 - 1
    apart = np.abs(noisy[0, :4].numpy() - clean).mean(axis=(1, 2, 3))
    assert apart[[0, 1, 3]].max() < 1e-5 and 0.05 < apart[2] < 0.4
