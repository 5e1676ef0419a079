"""Channels that name a target: learned as changes, executed as targets."""

import dataclasses

import numpy as np
import pytest

from vera_core.contract import load_contract
from vera_jidm.targets import TargetChannels, TargetError

PANDA = load_contract('panda')
REST = PANDA.home_positions


def test_a_gripper_s_changes_become_ratios_from_where_it_is():
    state = REST.copy()
    state[7] = 0.03  # of 0.04 m
    changes = np.zeros((3, 7))
    changes[:, 0] = 0.01
    changes[:, 6] = -0.25
    values = TargetChannels(PANDA).values(changes, state)
    np.testing.assert_allclose(values[:, 6], [0.5, 0.25, 0.0], atol=1e-12)
    np.testing.assert_array_equal(values[:, :6], changes[:, :6])


def test_a_joint_target_is_in_its_own_unit():
    finger = load_contract('finger')
    channels = tuple(
        dataclasses.replace(c, kind='joint_target' if i == 1 else c.kind)
        for i, c in enumerate(finger.channels)
    )
    finger = dataclasses.replace(finger, channels=channels)
    changes = np.full((2, 3), 0.1)
    values = TargetChannels(finger).values(changes, np.array([0.0, 0.5, 0.0]))
    np.testing.assert_allclose(values, [[0.1, 0.6, 0.1], [0.1, 0.7, 0.1]])


@pytest.mark.parametrize('state', [None, np.zeros(3), np.full(8, np.nan)])
def test_without_joint_positions_there_is_no_target(state):
    with pytest.raises(TargetError, match='8 finite numbers'):
        TargetChannels(PANDA).values(np.zeros((2, 7)), state)


def test_deltas_alone_need_nothing():
    targets = TargetChannels(load_contract('finger'))
    assert not targets
    changes = np.ones((2, 3))
    assert targets.values(changes, None) is changes
