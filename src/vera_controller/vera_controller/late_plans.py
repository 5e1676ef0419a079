"""Plans that were long on their way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vera_controller.limits import Limits
from vera_core.chunk import ActionChunk
from vera_core.clocks import NS_PER_S
from vera_core.state_history import HistoryError, StateHistory

# A joint no further than this from where it was, in seconds at its velocity limit, stood still.
STOOD_S = 0.01
# A plan that was on its way for longer than this [ns] is about another world; large planners take
# many seconds.
PATIENCE_NS = 30 * NS_PER_S


def from_rest(chunk: ActionChunk, history: StateHistory, limits: Limits) -> ActionChunk:
    """For a robot that rests: a late plan is not too late while it still is where the plan begins.

    The plan's motion then starts now, whole. So a planner that is slower than its own plans makes
    the robot stop and go, instead of letting every plan expire on its way. In motion the stamps
    decide, as ever.

    Args:
        chunk: what arrived; the robot has nothing to execute and is at rest.
        history: measured positions.
        limits: their velocities say what standing still means.

    Returns:
        The chunk anchored at the newest state, or as it is if that would not be the same.
    """
    newest = history.newest
    if newest is None or not 0 < newest - chunk.stamp <= PATIENCE_NS:
        return chunk
    try:
        moved = np.abs(history.at(newest) - history.at(chunk.stamp))
    except HistoryError:
        return chunk  # the queue says what is wrong with it
    if ((moved > STOOD_S * limits.velocity) & ~np.asarray(limits.gripper)).any():
        return chunk
    return replace(chunk, stamp=newest)
