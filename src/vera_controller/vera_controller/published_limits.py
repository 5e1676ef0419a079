"""Limits of Franka's arms as their maker publishes them, and whether a contract keeps them.

Source: "Control parameters specifications" of the FCI documentation, tables "Joint space limits",
https://frankarobotics.github.io/docs/control_parameters.html; the same numbers are in
include/franka/rate_limiting.h of libfranka 0.9.2 (FER) and 0.21 (FR3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vera_controller.limits import Limits, Vector
from vera_controller.registry import RobotError

if TYPE_CHECKING:
    from vera_core.contract import Contract

JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))
# Places between the limits at which velocities are compared.
_GRID = 200


@dataclass(frozen=True, eq=False)
class Published:
    """Of one arm; arrays are float64 [7].

    Attributes:
        arm: its name.
        low, high: rad. velocity: rad/s. acceleration: rad/s^2. jerk: rad/s^3.
        towards: of an arm whose velocity limit falls towards its position limits, (offset [rad/s],
            slope [rad/s^2], low end, high end [rad]): the limit at q is
            min(velocity, -offset + sqrt(slope (end - q))) upwards, mirrored downwards.
    """

    arm: str
    low: Vector
    high: Vector
    velocity: Vector
    acceleration: Vector
    jerk: Vector
    towards: tuple[Vector, Vector, Vector, Vector] | None = None


FER = Published(
    'Franka Emika Robot (Panda)',
    np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]),
    np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]),
    np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61]),
    np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]),
    np.array([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0]),
)
FR3 = Published(
    'Franka Research 3',
    np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]),
    np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]),
    np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26]),
    np.full(7, 10.0),
    np.full(7, 5000.0),
    (
        np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35]),
        np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0]),
        np.array([-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196]),
        np.array([2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196]),
    ),
)


def beyond(limits: Limits, arm: Published) -> list[str]:
    """Which limits of the seven joints are beyond those of an arm, in words; none is good.

    The velocities that the safety filter reaches at a position are min(V, sqrt(2 A room)): it
    brakes in time for the position limit. These are compared with the published ones.

    Args:
        limits: of a contract; joints of other names are not looked at.
        arm: the one that is to be moved.

    Raises:
        ValueError: a joint of the arm is missing.
    """
    missing = [name for name in JOINTS if name not in limits.names]
    if missing:
        raise ValueError(f'{arm.arm}: joint {", ".join(missing)} is missing from the contract')
    at = [limits.names.index(name) for name in JOINTS]
    low, high, velocity, acceleration = (
        x[at] for x in (limits.low, limits.high, limits.velocity, limits.acceleration)
    )
    assert limits.jerk is not None
    jerk = limits.jerk[at]
    found = []
    for i, name in enumerate(JOINTS):
        for what, ours, theirs, over in (
            ('low position', low[i], arm.low[i], low[i] < arm.low[i]),
            ('high position', high[i], arm.high[i], high[i] > arm.high[i]),
            ('velocity', velocity[i], arm.velocity[i], velocity[i] > arm.velocity[i]),
            ('acceleration', acceleration[i], arm.acceleration[i],
             acceleration[i] > arm.acceleration[i]),
            ('jerk', jerk[i], arm.jerk[i], jerk[i] > arm.jerk[i]),
        ):
            if over:
                found.append(f'{name}: {what} limit {ours:g} is beyond {theirs:g} of {arm.arm}')
        if arm.towards is None:
            continue
        offset, slope, bottom, top = (x[i] for x in arm.towards)
        q = np.linspace(low[i], high[i], _GRID)
        for side, room, way in (('high', high[i] - q, top - q), ('low', q - low[i], q - bottom)):
            ours_at = np.minimum(velocity[i], np.sqrt(2 * acceleration[i] * room))
            theirs_at = -offset + np.sqrt(slope * np.maximum(way, 0))
            if (ours_at > theirs_at).any():
                k = int(np.argmax(ours_at - theirs_at))
                found.append(
                    f'{name}: at {q[k]:.2f} rad it may go to its {side} limit at '
                    f'{ours_at[k]:.2f} rad/s, {arm.arm} at {max(theirs_at[k], 0):.2f}; lower its '
                    'acceleration, or move the position limit inside'
                )
    return found


def require(contract: Contract, arm: Published) -> None:
    """Raise RobotError unless the limits of a contract are within those of an arm."""
    try:
        found = beyond(Limits.from_contract(contract), arm)
    except ValueError as error:
        raise RobotError(str(error)) from error
    if found:
        more = f' (and {len(found) - 1} more)' if len(found) > 1 else ''
        raise RobotError(f'{found[0]}{more}; write limits of this arm into the contract')


__all__ = ['FER', 'FR3', 'Published', 'beyond', 'require']
