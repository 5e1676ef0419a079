"""The contracts of the Panda keep what its maker publishes."""

import numpy as np
import pytest

from vera_controller.limits import Limits
from vera_controller.published_limits import FER, FR3, beyond
from vera_controller.registry import RobotError, make_robot
from vera_controller.safety_filter import SafetyFilter
from vera_core.contract import load_contract


@pytest.mark.parametrize(
    ('name', 'arm'), [('panda', FER), ('panda_joints', FER), ('panda_fr3', FR3)]
)
def test_shipped_contracts_are_within(name, arm):
    assert beyond(Limits.from_contract(load_contract(name)), arm) == []


def test_what_is_beyond_is_named():
    limits = Limits.from_contract(
        load_contract('panda', {'joints.panda_joint4': {'velocity': 2.2, 'jerk': None}})
    )
    assert beyond(limits, FER) == [
        'panda_joint4: velocity limit 2.2 is beyond 2.175 of Franka Emika Robot (Panda)',
        'panda_joint4: jerk limit inf is beyond 6250 of Franka Emika Robot (Panda)',
    ]


def test_the_contract_of_one_arm_is_not_that_of_the_other():
    words = ' '.join(beyond(Limits.from_contract(load_contract('panda')), FR3))
    assert 'panda_joint6: low position limit 0.02 is beyond 0.5445 of Franka Research 3' in words
    assert 'panda_joint2: at ' in words and 'lower its acceleration' in words


@pytest.mark.parametrize(('robot', 'name'), [('panda_franky', 'panda'), ('panda_fer', 'panda_fr3')])
def test_an_arm_is_not_moved_with_the_limits_of_the_other(robot, name):
    contract = load_contract(name, {'robot.address': '127.0.0.9'})
    with pytest.raises(RobotError, match=r'panda_joint\d: .* is beyond .*and \d+ more'):
        make_robot(robot, contract, on_state=print, on_bad_state=print)


def test_joints_of_another_robot_are_refused():
    with pytest.raises(ValueError, match='panda_joint1, panda_joint2'):
        beyond(Limits.from_contract(load_contract('finger')), FER)


def test_braking_for_a_limit_stays_below_the_velocity_that_falls_towards_it():
    """As the filter really moves: joint 2 of the FR3 sent to its end at full speed."""
    contract = load_contract('panda_fr3', {'safety': None})
    limits = Limits.from_contract(contract)
    safety = SafetyFilter(limits)
    safety.start(contract.home_positions)
    offset, slope, _, top = (x[1] for x in FR3.towards)
    target = contract.home_positions
    target[1] = 9.0
    for _ in range(400):
        q, _ = safety.apply(target, None, 0.01)
        assert safety.velocities[1] <= -offset + np.sqrt(slope * (top - q[1])) + 1e-9
    assert q[1] == pytest.approx(limits.high[1], abs=1e-4)
