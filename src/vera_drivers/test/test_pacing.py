"""Real time for a simulation, and what a drive refuses."""

from __future__ import annotations

import numpy as np
import pytest

from vera_core.contract import load_contract
from vera_drivers.commands import CommandError, check_jump
from vera_drivers.pacing import Pacer

MS = 1_000_000


def test_steps_follow_the_clock_exactly():
    pacer = Pacer(1000, max_catch_up=0.1)
    pacer.start(5 * MS)
    rng = np.random.default_rng(1)
    now, steps = 5 * MS, 0
    for _ in range(1000):
        now += int(rng.integers(0, 20 * MS))
        steps += pacer.due(now)
        assert 0 <= pacer.residue_ns(now) <= MS
    assert steps == (now - 5 * MS) // MS
    assert pacer.dropped == 0


def test_a_long_delay_is_not_made_up():
    pacer = Pacer(1000, max_catch_up=0.1)
    pacer.start(0)
    assert pacer.due(10 * MS) == 10
    assert pacer.due(2_000 * MS) == 100
    assert pacer.dropped_seconds == pytest.approx(1.89)
    assert pacer.due(2_010 * MS) == 10  # and then goes on in real time
    assert pacer.residue_ns(2_010 * MS) == 0


def test_time_that_stands_or_goes_back_asks_for_nothing():
    pacer = Pacer(1000)
    pacer.start(10 * MS)
    assert pacer.due(20 * MS) == 10
    assert pacer.due(20 * MS) == 0
    assert pacer.due(15 * MS) == 0
    assert pacer.due(21 * MS) == 1


def test_a_rate_that_divides_nothing_does_not_drift():
    pacer = Pacer(300, max_catch_up=10)
    pacer.start(0)
    assert sum(pacer.due(k * 7 * MS) for k in range(1, 1001)) == 2100
    assert pacer.duration_ns(300) == 1_000 * MS
    with pytest.raises(ValueError, match='must be positive'):
        Pacer(0)


def test_a_jump_is_refused_and_a_fast_motion_is_not():
    contract = load_contract('finger')
    q = contract.home_positions
    check_jump(q + 0.49, q, contract)
    with pytest.raises(CommandError, match=r"joint 'joint_2' is 0.510 away"):
        check_jump(q + np.array([0, 0.51, 0]), q, contract)
    with pytest.raises(CommandError, match='joint_3'):
        check_jump(q + np.array([0, 0, np.nan]), q, contract)
