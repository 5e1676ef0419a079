import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from vera_core.chunk import ActionChunk
from vera_core.contract import load_contract
from vera_core.seams import RobotState

# The helpers beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

# A laden machine is slow; that is no mistake of the code under test.
settings.register_profile('vera', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('vera')

MS = 1_000_000


LIMITS = {
    f'joints.joint_{i}': {'position': [-2.6, 2.6], 'velocity': 2.0, 'acceleration': 25.0}
    for i in (1, 2, 3)
}


@pytest.fixture
def contract():
    """The finger, with limits that these tests may name."""
    return load_contract('finger', {**LIMITS, 'control': {'rate': 100, 'state_timeout': 0.5}})


@pytest.fixture
def make_chunk(contract):
    """A chunk of the finger; `values` are rows of deltas, or one number for all of them."""

    def make(stamp=0, values=0.05, *, steps=4, seq=1, goal=1, period=0.2, channels=None):
        channels = channels or contract.channel_names
        grid = np.broadcast_to(np.asarray(values, np.float64), (steps, len(channels))).copy()
        return ActionChunk(
            stamp=stamp,
            goal_id=goal,
            plan_seq=seq,
            channels=tuple(channels),
            period=period,
            values=grid,
            residual=np.zeros(steps, np.float32),
            observability=np.ones(len(channels), np.float32),
        )

    return make


@pytest.fixture
def make_state(contract):
    def make(stamp, positions=0.0):
        n = len(contract.joint_names)
        where = np.broadcast_to(np.asarray(positions, np.float64), (n,)).copy()
        return RobotState(stamp=stamp, positions=where, velocities=np.zeros(n))

    return make
