"""The planner node behind the gate: rejected plans are not published, the goal says why."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sensor_msgs.msg import Image as ImageMsg

from vera_core.gates import GateEntry, save_gate
from vera_core.nodes.convert import image_to_msg
from vera_core.nodes.qos import CHUNK, IMAGE, LATCHED, PLAN
from vera_core.normal import Normal, Tail
from vera_core.seams import Plan
from vera_core.seeds import plan_seed
from vera_msgs.action import ExecuteGoal
from vera_msgs.msg import ActionChunk, GoalStatus, PlanVerdict, VisualPlan
from vera_msgs.srv import SetGoal
from vera_planner.nodes.planner_node import PlannerNode

CAMERA = '/vera/top/color/image_raw'


class Planner:
    """A block appears and stays; `seeds` are those it was asked with."""

    planner_id, checkpoint_hash = 'small', '0123456789abcdef'

    def __init__(self):
        self.seeds = []

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        self.seeds.append(seed)
        frames = np.repeat(context[-1][None], 4, axis=0).copy()
        frames[:, :32, :32] ^= 255
        return Plan(frames, 0.2)


class World:
    """What surrounds the planner node: a camera, judges, and someone who wants things."""

    def __init__(self, graph, wait_for, node):
        self.graph, self.wait_for, self.node = graph, wait_for, node
        helper = self.helper = graph.helper()
        self.plans, self.statuses, self.verdicts = [], [], []
        listen = helper.create_subscription
        listen(VisualPlan, 'visual_plan', self.plans.append, PLAN)
        listen(GoalStatus, 'goal_status', self.statuses.append, LATCHED)
        listen(PlanVerdict, 'plan_verdict', self.verdicts.append, PLAN)
        self.camera = helper.create_publisher(ImageMsg, CAMERA, IMAGE)
        self.chunks = helper.create_publisher(ActionChunk, 'action_chunk', CHUNK)
        self.judge = helper.create_publisher(PlanVerdict, 'plan_verdict', PLAN)
        wait_for(lambda: self.judge.get_subscription_count() == 2)
        wait_for(lambda: self.camera.get_subscription_count() == 1)
        wait_for(lambda: self.statuses)

    def frame(self):
        self.camera.publish(image_to_msg(np.full((128, 128, 3), 100, np.uint8), time.time_ns()))

    def want(self, prompt):
        """A goal, and frames at 20 Hz from now on."""
        if not hasattr(self, 'timer'):
            self.timer = self.helper.create_timer(0.05, self.frame)
        self.graph.call(self.helper, SetGoal, 'set_goal', SetGoal.Request(prompt=prompt))


def normal(signal, largest, threshold=2.0):
    """Values up to `largest` are normal."""
    return Normal({signal: Tail(np.linspace(0, largest, 20), largest / 100)}, threshold, 100)


class Flicker(Planner):
    """Every plan flickers whose seed is among `bad`, or all."""

    def __init__(self, bad=None):
        super().__init__()
        self.bad = bad

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        plan = super().plan(context, prompt, seed=seed, warm_start=warm_start)
        if self.bad is None or seed in self.bad:
            noise = np.random.default_rng(0).integers(0, 60, plan.frames.shape, dtype=np.uint8)
            return Plan(plan.frames + noise, 0.2)
        return plan


@pytest.fixture
def start(graph, wait_for, tmp_path, monkeypatch):
    monkeypatch.setenv('VERA_CONFIG_PATH', str(tmp_path))

    def begin(planner, gate='on', **parameters):
        save_gate(
            GateEntry(
                planner.planner_id, planner.checkpoint_hash, 'jacobian', 'x',
                normal('noise', 1.0), normal('residual', 1.0), normal('unrealised', 0.5),
            ),
            tmp_path / 'finger.gate.json',
        )
        node = graph.start(
            lambda **kwargs: PlannerNode(lambda contract: planner, **kwargs),
            **{'replan_period': 0.1, 'seed': 5, 'gate': gate, **parameters},
        )
        planner.seeds.clear()  # the warm-up
        return World(graph, wait_for, node)

    return begin


def test_a_planner_that_only_flickers_ends_the_goal_with_the_reason(start, wait_for):
    planner = Flicker()
    world = start(planner, max_rejected=3)
    world.want('touch the red disc')
    wait_for(lambda: world.statuses[-1].status == GoalStatus.ABORTED)
    done = world.statuses[-1]
    assert done.message.startswith(
        '4 plans in a row were rejected, the last one because its frames flicker'
    )
    assert world.node._goals.goal.code == ExecuteGoal.Result.IMPLAUSIBLE
    assert not world.plans
    # Each try had noise of its own.
    assert planner.seeds == [plan_seed(5, 1, k) for k in range(4)]
    wait_for(lambda: len(world.verdicts) == 4)
    verdict = world.verdicts[0]
    assert (verdict.judge, verdict.accepted, verdict.plan_seq) == ('planner', False, 0)
    assert 'noise' in verdict.reason and verdict.scores[0] > verdict.threshold
    # The node lives on.
    planner.bad = ()
    world.want('touch the blue disc')
    wait_for(lambda: world.plans)


def test_one_bad_plan_costs_one_plan(start, wait_for):
    planner = Flicker(bad=(plan_seed(5, 1, 1),))
    world = start(planner)
    world.want('touch the red disc')
    wait_for(lambda: any('plan 2 rejected, 1 in a row: its frames' in s.message
                         for s in world.statuses))
    wait_for(lambda: len(world.plans) >= 3)
    assert world.statuses[-1].status == GoalStatus.ACTIVE
    assert [p.plan_seq for p in world.plans[:3]] == [1, 2, 3]


def test_a_reported_plan_is_published_all_the_same(start, wait_for):
    world = start(Flicker(), gate='report')
    world.want('touch the red disc')
    wait_for(lambda: len(world.plans) >= 2)
    assert not world.verdicts


def test_candidates_go_out_with_the_plan(start, wait_for):
    world = start(Planner(), candidates=3)
    world.want('touch the red disc')
    wait_for(lambda: world.plans)
    plan = world.plans[0]
    assert len(plan.alternatives) == 2 * plan.committed
    assert plan.disagreement == 0  # this planner does not know chance


def test_what_the_translator_rejects_is_planned_again_at_once(start, wait_for):
    world = start(Planner(), replan_period=600.0)  # nothing but a rejection makes a second plan
    world.want('touch the red disc')
    wait_for(lambda: world.plans)

    def judge(**changes):
        world.judge.publish(
            PlanVerdict(
                **{'goal_id': 1, 'plan_seq': 1, 'judge': 'translator', 'accepted': False,
                   'reason': 'no action explains its motion', **changes}
            )
        )

    # Verdicts about other goals, of its own, or good ones change nothing.
    for changes in ({'goal_id': 9}, {'plan_seq': 99}, {'judge': 'planner'}, {'accepted': True}):
        judge(**changes)
    judge()
    wait_for(lambda: len(world.plans) == 2)
    assert [p.plan_seq for p in world.plans] == [1, 2]
    words = 'plan 1 rejected, 1 in a row: no action explains its motion'
    wait_for(lambda: any(s.message == words for s in world.statuses))
    assert world.statuses[-1].status == GoalStatus.ACTIVE
    # An action chunk says that a plan is being executed: the count begins anew.
    assert world.node._goals._rejected == 1
    world.chunks.publish(ActionChunk(residual=[0.1]))
    wait_for(lambda: world.node._goals._rejected == 0)


def test_a_dream_that_did_not_come_true_is_told(start, wait_for):
    world = start(Planner(), replan_period=0.4)
    world.want('touch the red disc')  # the camera never shows the block of the plans
    wait_for(lambda: any(p.realised < 0.2 for p in world.plans))
