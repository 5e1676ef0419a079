"""PushT as the finger: the same graph, the same evaluation, the same commands."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

from graph_tools import Vera, processes_of, unique_domain, vera
from vera_bringup.demo import make_tasks
from vera_bringup.evaluation import (
    EvaluationOptions,
    episode_frames,
    evaluate,
    evaluation_contract,
    make_loop,
)
from vera_bringup.lockstep import RandomMotion
from vera_bringup.nodes.client import VeraClient
from vera_bringup.ros_evaluation import evaluate_through_ros
from vera_bringup.statistics import REACHED, RESTED, summarise
from vera_core.contract import load_contract
from vera_core.seams import Plan
from vera_msgs.msg import ControllerStatus, GoalStatus

EASY = 74  # a start from which the expert covers 0.82 of the goal in 9 steps
NODES = {'sim', 'controller', 'translator', 'planner'}
PATIENCE = 60.0  # s: two cores, and other tests beside this one
WORDS = 'push the T onto its goal'


@pytest.fixture(scope='module')
def loop():
    return make_loop(load_contract('pusht'), EvaluationOptions(planner='oracle', keep=True))


# --- evaluation --------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_an_episode_ends_with_the_goal_covered_and_never_leaves_the_limits(loop):
    contract = loop.contract
    result = loop.run(0, EASY, False, 200)
    assert result.outcome == REACHED
    assert result.coverage >= 0.95
    assert result.coverage == loop.world.best_coverage
    assert result.progress == 1.0
    assert result.duration < 10
    low, high = contract.position_limits
    assert ((result.commands >= low) & (result.commands <= high)).all()
    speed = np.abs(np.diff(result.commands, axis=0)) * contract.control.rate
    assert (speed <= contract.velocity_limits * (1 + 1e-6)).all()


def test_time_is_up_before_the_goal_is_covered(loop):
    result = loop.run(0, EASY, True, 4)
    assert not result.success
    assert result.duration == pytest.approx(0.4)
    # It had been covered a little from the start: that is what VERA's reward counts.
    assert 0.4 < result.coverage < 0.82
    assert result.progress == pytest.approx(result.coverage / 0.82)


class Resting:
    """The planner of another, until it believes that all is done."""

    planner_id, checkpoint_hash = 'resting', ''

    def __init__(self, planner, plans):
        self.planner, self.left = planner, plans
        self.anchor_at = planner.anchor_at

    def plan(self, context, prompt, **options):
        self.left -= 1
        plan = self.planner.plan(context, prompt, **options)
        if self.left >= 0:
            return plan
        return Plan(np.repeat(context[-1:], len(plan.frames), 0), plan.frame_period)


def test_a_planner_that_rests_too_early_has_failed(loop):
    planner = loop._planner
    loop._planner = Resting(planner, 1)
    try:
        result = loop.run(0, EASY, False, 200)
    finally:
        loop._planner = planner
    assert result.outcome == RESTED
    assert result.coverage < 0.82
    assert summarise([result])['failures'] == {RESTED: 1}


def test_random_motion_is_one_that_the_pusher_can_make():
    contract = load_contract('pusht')
    assert np.abs(RandomMotion(contract).values(3)).max() <= 0.024
    options = EvaluationOptions(planner='random', episodes=1, frames=12, keep=True)
    (result,) = evaluate(contract, options)
    assert np.ptp(result.commands, axis=0).max() > 0.01
    # With the finger's reach every chunk would be refused as implausible.
    assert len(result.chunks) == 3


def test_success_is_the_coverage_that_was_asked_for():
    contract = evaluation_contract('pusht', coverage=0.95)
    assert contract.sim is not None
    assert contract.sim.options == {'control': 'velocity', 'success': 0.95}
    assert episode_frames(contract, EvaluationOptions()) == 200
    assert episode_frames(contract, EvaluationOptions(frames=7)) == 7
    assert episode_frames(load_contract('finger'), EvaluationOptions()) == 60
    with pytest.raises(ValueError, match="'finger' is to be covered"):
        evaluation_contract('finger', coverage=0.95)
    with pytest.raises(ValueError, match='above 0'):
        evaluation_contract('pusht', coverage=1.5)


def test_three_coverages_are_counted_at_once(loop):
    base = loop.run(0, EASY, False, 1)
    best = (0.5, 0.75, 0.9, 0.96)
    report = summarise([dataclasses.replace(base, coverage=value) for value in best])
    assert [row['coverage'] for row in report['coverage_rates']] == [0.738, 0.82, 0.95]
    assert [row['success_rate'] for row in report['coverage_rates']] == [0.75, 0.5, 0.25]
    assert report['mean_best_coverage'] == pytest.approx(np.mean(best), abs=1e-4)
    assert all(row['ci_low'] < row['success_rate'] < row['ci_high']
               for row in report['coverage_rates'])  # fmt: skip


@pytest.mark.timeout(120)
def test_json_on_the_last_line(tmp_path):
    code, text = vera(
        'eval', 'pusht', '--planner', 'random', '--episodes', '2', '--steps', '4',
        '--coverage', '.95', '--json', cwd=tmp_path, timeout=100,
    )  # fmt: skip
    assert code == 0, text
    report = json.loads(text.splitlines()[-1])
    assert (report['n'], report['frames'], report['success_rate']) == (2, 4, 0.0)
    assert len(report['coverage_rates']) == 3


@pytest.mark.timeout(300)
def test_with_and_without_ros_the_same_actions_bit_for_bit(tmp_path):
    contract = load_contract('pusht')
    options = EvaluationOptions(planner='oracle', episodes=1, seed=3, frames=24, keep=True)
    (pure,) = evaluate(contract, options)
    (ros,) = evaluate_through_ros(contract, options, str(unique_domain()), 'vera', tmp_path)
    assert (pure.prompt, pure.outcome, pure.coverage) == (ros.prompt, ros.outcome, ros.coverage)
    assert pure.progress == ros.progress
    assert len(ros.chunks) >= len(pure.chunks) >= 5
    for (stamp_a, a), (stamp_b, b) in zip(pure.chunks, ros.chunks, strict=False):
        assert stamp_a == stamp_b
        assert np.array_equal(a, b)
    n = len(pure.commands)
    assert n == 240
    assert np.array_equal(pure.commands, ros.commands[:n])
    assert np.ptp(pure.commands, axis=0).max() > 0.02  # it moved


# --- the live graph ----------------------------------------------------------------------------


def test_tasks_of_the_demo_differ_though_there_is_one_goal():
    tasks = make_tasks(load_contract('pusht'), 5, 0)
    assert len({task.seed for task in tasks}) == 5
    assert all(task.target == 'goal' for task in tasks)
    assert all(a.prompt != b.prompt for a, b in pairwise(tasks))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_goal_in_words_is_covered_live_and_a_stop_holds(tmp_path):
    from rosbags.highlevel import AnyReader

    domain = unique_domain()
    up = Vera(
        'up', 'pusht', '--planner', 'oracle', '--seed', str(EASY), '--domain', str(domain),
        '--record', cwd=tmp_path,
    )  # fmt: skip
    try:
        up.wait_for('all nodes are ready', 150)
        with VeraClient(domain, patience=PATIENCE) as client:
            assert client.until(lambda: client.sim is not None and client.complete(), PATIENCE)
            assert client.sim.objects == ['goal']
            assert 0.3 < client.sim.coverage < 0.7
            answer = client.set_goal(WORDS)
            assert answer.accepted, answer.message
            covered = lambda: client.sim.best_coverage >= 0.82  # noqa: E731
            client.until(lambda: covered() or client.goal_ended(answer.goal_id), 120)
            assert covered(), (client.sim, client.goal)

            # Another scene, another goal, and its end by cancel_goal; then one ended by stop.
            assert client.reset_sim(EASY + 1).success
            assert client.until(lambda: client.sim.seed == EASY + 1, PATIENCE)
            answer = client.set_goal('cover the goal')
            assert client.trigger('cancel_goal')[0]
            assert client.until(lambda: client.goal_ended(answer.goal_id), PATIENCE)
            answer = client.set_goal('push T')
            assert client.trigger('stop')[0]
            assert client.until(
                lambda: client.controller.state == ControllerStatus.STOPPED
                and client.goal.status == GoalStatus.CANCELLED,
                PATIENCE,
            )
            assert client.trigger('reset')[0]

            # Words that the expert does not know.
            answer = client.set_goal('touch the red disc')
            assert client.until(lambda: client.goal_ended(answer.goal_id), PATIENCE)
            assert client.goal.status == GoalStatus.ABORTED
            assert 'objects of the scene: goal' in client.goal.message
        assert up.end() == 0, up.text
        assert processes_of(tmp_path) == {}
        assert 'Traceback' not in up.text
    finally:
        up.kill()
    (run,) = (tmp_path / 'runs').iterdir()
    with AnyReader([run / 'bag']) as bag:
        seen = {c.topic: c for c in bag.connections if c.msgcount}
        assert {'/vera/top/color/image_raw', '/vera/visual_plan', '/vera/sim_status'} <= set(seen)
        best = [
            bag.deserialize(data, c.msgtype).best_coverage
            for c, _, data in bag.messages([seen['/vera/sim_status']])
        ]
    assert max(best) >= 0.82
