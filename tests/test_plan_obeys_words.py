"""The shipped planner does what it is told, in words that its training never saw."""

import numpy as np
import pytest

from vera_bringup.words import measure
from vera_core.contract import load_contract
from vera_planner.goal import SettleRule
from vera_planner.registry import make_planner


@pytest.fixture(scope='module')
def found():
    contract = load_contract('finger')
    return measure(make_planner('compact', contract, threads=2), contract, scenes=24, seed=5)


def test_the_right_sentence_predicts_the_future_better_than_a_wrong_one(found):
    gap, low, _ = found.gap()
    assert gap >= 2
    assert low > 0


def test_a_disc_that_is_there_moves_the_dream(found):
    assert np.mean(found.moving > SettleRule().still_motion) >= 0.9


def test_what_is_not_there_leaves_the_dream_mostly_still(found):
    assert np.mean(found.absent) < 0.5 * np.mean(found.moving)
