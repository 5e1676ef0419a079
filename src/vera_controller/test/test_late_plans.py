"""A plan that took longer than it lasts still moves a robot that waited for it."""

from __future__ import annotations

import numpy as np
import pytest

from vera_controller.late_plans import PATIENCE_NS, from_rest
from vera_controller.limits import Limits
from vera_core.chunk import ActionChunk
from vera_core.contract import load_contract
from vera_core.state_history import StateHistory

CONTRACT = load_contract('finger')
LIMITS = Limits.from_contract(CONTRACT)
TICK = CONTRACT.control.period_ns


def chunk_at(stamp: int) -> ActionChunk:
    values = np.full((4, 3), 0.05)
    return ActionChunk(
        stamp, 1, 1, CONTRACT.channel_names, 0.2, values, np.zeros(4, np.float32),
        np.ones(3, np.float32),
    )  # fmt: skip


def history(ticks: int, speed: float = 0.0) -> StateHistory:
    made = StateHistory()
    for i in range(ticks):
        made.add(i * TICK, np.full(3, 0.1 + speed * i * CONTRACT.control.period))
    return made


def test_a_robot_at_rest_starts_a_late_plan_now():
    moved = from_rest(chunk_at(0), history(300), LIMITS)
    assert moved.stamp == 299 * TICK
    assert np.array_equal(moved.values, chunk_at(0).values)


def test_a_robot_that_moved_meanwhile_does_not():
    chunk = chunk_at(0)
    assert from_rest(chunk, history(300, speed=0.05), LIMITS) is chunk


def test_a_plan_about_another_world_is_left_to_expire():
    chunk = chunk_at(0)
    assert from_rest(chunk, history(PATIENCE_NS // TICK + 2), LIMITS) is chunk


@pytest.mark.parametrize('stamp', [-5 * TICK, 500 * TICK])
def test_a_stamp_that_no_state_knows_is_left_alone(stamp):
    chunk = chunk_at(stamp)
    assert from_rest(chunk, history(300), LIMITS) is chunk
