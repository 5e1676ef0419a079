"""Actions measured from joint positions, for every kind of channel."""

import dataclasses

import numpy as np
import pytest

from vera_core.contract import load_contract
from vera_core.kinematics.arm import Arm
from vera_core.kinematics.description import find_urdf
from vera_core.kinematics.motion import MeasuredMotion
from vera_core.rotations import matrix_from_rotation_vector

PANDA = load_contract('panda')


def test_what_inverse_kinematics_was_asked_for_is_measured():
    arm = Arm.from_urdf(find_urdf(PANDA), PANDA.joint_names, 'panda_hand_tcp')
    motion = MeasuredMotion(PANDA)
    rng = np.random.default_rng(0)
    q = PANDA.home_positions
    R, p = arm.pose(q)
    for _ in range(20):
        shift, turn = rng.uniform(-0.03, 0.03, 3), rng.uniform(-0.15, 0.15, 3)
        found = arm.solve(matrix_from_rotation_vector(turn) @ R, p + shift, q)
        assert found.converged
        after = found.q.copy()
        after[7] = 0.01
        action = motion.between(q, after)
        np.testing.assert_allclose(action[:3], shift, atol=2e-4)
        np.testing.assert_allclose(action[3:6], turn, atol=2e-3)
        assert action[6] == pytest.approx((0.01 - q[7]) / 0.04)


def test_joints_are_subtracted():
    finger = load_contract('finger')
    found = MeasuredMotion(finger).between([0.1, 0.2, 0.3], [0.2, 0.1, 0.3])
    np.testing.assert_allclose(found, [0.1, -0.1, 0.0])


@pytest.mark.parametrize('q', [np.zeros(7), np.full(8, np.nan)])
def test_odd_positions_are_refused(q):
    with pytest.raises(ValueError, match='8 finite numbers'):
        MeasuredMotion(PANDA).between(PANDA.home_positions, q)


def test_a_cartesian_channel_wants_an_axis():
    made = dataclasses.replace(PANDA)
    object.__setattr__(made, 'kinematics', None)
    with pytest.raises(ValueError, match=r"'x' is Cartesian.*kinematics\.axes\.x"):
        MeasuredMotion(made)
