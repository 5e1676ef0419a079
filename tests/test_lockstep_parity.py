"""The library in lock-step and the node graph in lock-step give the same actions, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from graph_tools import unique_domain
from vera_bringup.evaluation import EvaluationOptions, evaluate, evaluation_contract
from vera_bringup.ros_evaluation import evaluate_through_ros

EPISODES = 2


def compare(planner: str, tmp_path, translator: str = '') -> None:
    contract = evaluation_contract('finger')
    options = EvaluationOptions(
        planner=planner, translator=translator, episodes=EPISODES, seed=3, keep=True
    )
    pure = list(evaluate(contract, options))
    ros = list(evaluate_through_ros(contract, options, str(unique_domain()), 'vera', tmp_path))
    assert len(pure) == len(ros) == EPISODES
    for ours, theirs in zip(pure, ros, strict=True):
        assert (ours.seed, ours.prompt, ours.target) == (theirs.seed, theirs.prompt, theirs.target)
        assert ours.outcome == theirs.outcome
        # The graph may run on a little before it is told to stop; what both did must be equal.
        assert len(theirs.chunks) >= len(ours.chunks) >= 2
        for (stamp_a, a), (stamp_b, b) in zip(ours.chunks, theirs.chunks, strict=False):
            assert stamp_a == stamp_b
            assert np.array_equal(a, b)
        assert ours.commands is not None
        assert theirs.commands is not None
        n = len(ours.commands)
        assert n > 50
        assert len(theirs.commands) >= n
        assert np.array_equal(ours.commands, theirs.commands[:n])


@pytest.mark.timeout(300)
def test_oracle_gives_the_same_actions_with_and_without_ros(tmp_path):
    compare('oracle', tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_translator_that_needs_the_joints_gets_the_same_ones_with_and_without_ros(tmp_path):
    compare('oracle', tmp_path, 'analytic')


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compact_gives_the_same_actions_with_and_without_ros(tmp_path):
    compare('compact', tmp_path)
