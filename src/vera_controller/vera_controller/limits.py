"""The limits of a robot's joints, and the refusal to work without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vera_core.contract import Contract

Vector = NDArray[np.float64]

# A measured joint may be this share of its range outside of its limits: encoders are not exact.
TOLERANCE = 0.01

# Fingers press on each other and on what they hold; theirs is [m or rad].
GRIPPER_TOLERANCE = 0.005


class SafetyError(ValueError):
    """Limits or a start state that nothing may move with; the message names joint and value."""


@dataclass(frozen=True)
class Limits:
    """What the set-points of a robot may never leave.

    Attributes:
        names: of the n joints, the order of all arrays.
        low, high: positions [rad or m], float64 [n].
        velocity: [rad/s or m/s], float64 [n].
        acceleration: [rad/s^2 or m/s^2], float64 [n].
        jerk: [rad/s^3 or m/s^3], float64 [n]; infinite where there is none.
        gripper: bool [n], joints that grip: they stop where the thing is, not where they are sent.

    Raises:
        SafetyError: no joints, a limit that is missing, not finite, not positive, or reversed.
    """

    names: tuple[str, ...]
    low: Vector
    high: Vector
    velocity: Vector
    acceleration: Vector
    jerk: Vector | None = None
    gripper: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        n = len(self.names)
        if n == 0:
            raise SafetyError('no joints: a robot without limits is not moved')
        jerk = np.full(n, np.inf) if self.jerk is None else np.array(self.jerk, np.float64)
        if jerk.shape != (n,) or not (jerk > 0).all():
            raise SafetyError(f'jerk limits are {list(jerk)}; {n} positive numbers are needed')
        gripper = np.zeros(n, bool) if self.gripper is None else np.array(self.gripper, bool)
        for field, array in (('jerk', jerk), ('gripper', gripper)):
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        for field in ('low', 'high', 'velocity', 'acceleration'):
            value = getattr(self, field)
            if value is None:
                raise SafetyError(f'{field} limits are missing: nothing moves without them')
            values = np.array(value, dtype=np.float64)
            if values.shape != (n,):
                raise SafetyError(f'{field} limits have shape {values.shape}; {n} joints need {n}')
            for name, number in zip(self.names, values, strict=True):
                if not np.isfinite(number):
                    raise SafetyError(f'{name}: {field} limit is {number}; it must be finite')
                if field in ('velocity', 'acceleration') and number <= 0:
                    raise SafetyError(f'{name}: {field} limit is {number}; it must be positive')
            values.flags.writeable = False
            object.__setattr__(self, field, values)
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if low >= high:
                raise SafetyError(f'{name}: low limit {low} is not below high limit {high}')

    @classmethod
    def from_contract(cls, contract: Contract) -> Limits:
        """The joint limits of a contract."""
        low, high = contract.position_limits
        return cls(
            names=contract.joint_names,
            low=low,
            high=high,
            velocity=contract.velocity_limits,
            acceleration=contract.acceleration_limits,
            jerk=contract.jerk_limits,
            gripper=np.isin(
                contract.joint_names,
                [c.joint for c in contract.channels if c.kind == 'gripper' and c.joint],
            ),
        )

    def outside(self, positions: Vector, tolerance: float = TOLERANCE) -> str | None:
        """The first joint outside its limits, in words, or None.

        Args:
            positions: float64 [n].
            tolerance: share of the range of each joint that is forgiven.
        """
        assert self.gripper is not None
        slack = tolerance * (self.high - self.low)
        slack = np.where(self.gripper, np.maximum(slack, GRIPPER_TOLERANCE), slack)
        below, above = positions < self.low - slack, positions > self.high + slack
        bad = np.flatnonzero(below | above | ~np.isfinite(positions))
        if not bad.size:
            return None
        i = int(bad[0])
        value = float(positions[i])
        if not np.isfinite(value):
            return f'{self.names[i]} is at {value}, which is no position'
        side, limit = ('below', self.low[i]) if below[i] else ('above', self.high[i])
        return f'{self.names[i]} is at {value:.4f}, {side} its limit {limit:.4f}'


__all__ = ['TOLERANCE', 'Limits', 'SafetyError', 'Vector']
