"""Channels that name where a joint goes, learned as what pictures show: that it moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import Contract

KINDS = ('joint_target', 'gripper')
Float = NDArray[np.float64]


class TargetError(ValueError):
    """Targets that cannot be told; the message says what is missing."""


class TargetChannels:
    """Makes targets of changes: where the joint is, and all its changes up to each step.

    Falsy where the contract has no channel of the KINDS; changes then are the actions.

    Args:
        contract: channels and joints.
    """

    def __init__(self, contract: Contract) -> None:
        self._joints = contract.joint_names
        chosen = [i for i, c in enumerate(contract.channels) if c.kind in KINDS]
        low, high = contract.position_limits
        self._columns = np.array(chosen, int)
        at = [contract.joint_index(contract.channels[i].joint or '') for i in chosen]
        self._at = np.array(at, int)
        # A ratio is 0 at the low limit of its joint and 1 at the high one.
        ratio = np.array([contract.channels[i].unit == 'ratio' for i in chosen], bool)
        self._zero = np.where(ratio, low[self._at], 0.0)
        self._span = np.where(ratio, (high - low)[self._at], 1.0)

    def __bool__(self) -> bool:
        return bool(len(self._columns))

    def values(self, changes: Float, state: Float | None) -> Float:
        """Actions float64 [K, n] from changes [K, n] and joint positions [j] at the first frame.

        Raises:
            TargetError: no joint positions, or not as many finite ones as there are joints.
        """
        if not self:
            return changes
        q = None if state is None else np.asarray(state, np.float64)
        if q is None or q.shape != (len(self._joints),) or not np.isfinite(q).all():
            given = 'none' if q is None else q.tolist()
            raise TargetError(
                f'joint positions: {given}; channels that name a target need '
                f'{len(self._joints)} finite numbers, when the anchor was taken: '
                f'{", ".join(self._joints)}'
            )
        out = changes.copy()
        start = (q[self._at] - self._zero) / self._span
        out[:, self._columns] = start + np.cumsum(changes[:, self._columns], axis=0)
        return out


__all__ = ['KINDS', 'TargetChannels', 'TargetError']
