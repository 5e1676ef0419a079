"""`vera eval` without ROS: the loop reaches its goals, a blind one does not, always alike."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from graph_tools import vera
from vera_bringup.evaluation import EvaluationOptions, evaluate, evaluation_contract
from vera_bringup.lockstep import RandomMotion

CONTRACT = evaluation_contract('finger')


@pytest.mark.timeout(200)
def test_the_oracle_reaches_every_goal_and_again_the_same_way():
    options = EvaluationOptions(planner='oracle', episodes=4, seed=1, keep=True)
    first, second = (list(evaluate(CONTRACT, options)) for _ in range(2))
    assert [r.outcome for r in first] == ['reached'] * 4
    assert len({r.prompt for r in first}) > 1
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.commands, b.commands)
        # Only the safety filter speaks to the robot: no set-point leaves the limits.
        low, high = CONTRACT.position_limits
        assert ((a.commands >= low) & (a.commands <= high)).all()
        speed = np.abs(np.diff(a.commands, axis=0)) * CONTRACT.control.rate
        assert (speed <= CONTRACT.velocity_limits * (1 + 1e-6)).all()


@pytest.mark.timeout(120)
def test_an_episode_does_not_depend_on_those_before_it():
    options = EvaluationOptions(planner='random', episodes=3, seed=5, frames=10, keep=True)
    together = list(evaluate(CONTRACT, options))
    spread = sorted(evaluate(CONTRACT, replace(options, jobs=2)), key=lambda r: r.index)
    for a, b in zip(together, spread, strict=True):
        assert (a.seed, a.prompt) == (b.seed, b.prompt)
        assert np.array_equal(a.commands, b.commands)


def test_random_motion_stays_within_self_play():
    values = RandomMotion(CONTRACT).values(3)
    assert values.shape == (4, 3)
    assert np.abs(values).max() <= 0.12


@pytest.mark.timeout(120)
def test_json_on_the_last_line(tmp_path):
    code, text = vera(
        'eval', 'finger', '--planner', 'random', '--episodes', '2', '--frames', '8', '--json',
        cwd=tmp_path, timeout=100,
    )  # fmt: skip
    assert code == 0
    report = json.loads(text.splitlines()[-1])
    assert report['n'] == 2
    assert report['success_rate'] == 0.0
    assert report['ci_low'] == 0.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_compact_planner_reaches_most_goals():
    results = list(evaluate(CONTRACT, EvaluationOptions(planner='compact', episodes=20, seed=11)))
    # 96% of 200 in docs/results/planner.md: fewer than 16 of 20 is hardly chance.
    assert sum(r.success for r in results) >= 16
