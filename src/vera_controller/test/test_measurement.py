"""What set-points and measured states say about each other when clocks are set."""

import numpy as np

from vera_controller.limits import Limits
from vera_controller.measurement import Measurement
from vera_core.clocks import NS_PER_S, ManualClock
from vera_core.contract import load_contract
from vera_core.seams import RobotState

PERIOD = NS_PER_S // 100


def test_after_the_clock_was_set_back_old_set_points_do_not_count():
    contract = load_contract('finger')
    limits = Limits.from_contract(contract)
    measured = Measurement(contract, limits, ManualClock(), lockstep=False)
    joints = len(contract.joints)

    def go(begin: int, place: float) -> None:
        for k in range(30):
            stamp = begin + k * PERIOD
            measured.sent(stamp, np.full(joints, place))
            measured.take(RobotState(stamp, np.full(joints, place), np.zeros(joints)))

    go(0, 0.0)
    go(20 * NS_PER_S, 1.5)  # the clock was set ahead, and the robot went on
    go(NS_PER_S, 0.0)  # and back, between the two
    assert measured.not_following() is None
    measured.sent(2 * NS_PER_S, np.full(joints, 1.5))
    measured.take(RobotState(2 * NS_PER_S, np.zeros(joints), np.zeros(joints)))
    assert measured.not_following() is not None
