"""What the joints did between two moments, as the actions of a contract."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vera_core.contract import Contract
from vera_core.kinematics.arm import Arm
from vera_core.kinematics.description import find_urdf
from vera_core.kinematics.transforms import Float
from vera_core.rotations import rotation_vector

_AXES = ('x', 'y', 'z', 'rx', 'ry', 'rz')


class MeasuredMotion:
    """Changes of all channels from joint positions: what a translator learns to see.

    A Cartesian channel's is the tool's shift [m] or turn [rad, rotation vector] in axes of the root
    link. Of a channel that names a target (`joint_target`, `gripper`) it is the change of its
    joint, in the channel's unit: pictures show motion, and `TargetChannels` makes targets of it.

    Args:
        contract: channels, joints, and `kinematics` where channels are Cartesian.

    Raises:
        UrdfError, ValueError: Cartesian channels and no kinematics that tell of their tool.
    """

    def __init__(self, contract: Contract) -> None:
        self._joint = np.zeros(len(contract.channels), int)
        self._axis = np.full(len(contract.channels), -1)
        self._span = np.ones(len(contract.channels))
        low, high = contract.position_limits
        self._count = len(contract.joints)
        kinematics = contract.kinematics
        for i, channel in enumerate(contract.channels):
            if channel.kind == 'cartesian_delta':
                axis = kinematics.axes.get(channel.name) if kinematics else None
                if axis is None:
                    raise ValueError(
                        f'channel {channel.name!r} is Cartesian and the contract of '
                        f'{contract.embodiment!r} has no kinematics.axes.{channel.name}'
                    )
                self._axis[i] = _AXES.index(axis)
                continue
            j = contract.joint_index(channel.joint or '')
            self._joint[i] = j
            if channel.unit == 'ratio':
                self._span[i] = high[j] - low[j]
        self._arm: Arm | None = None
        if (self._axis >= 0).any():
            if kinematics is None or kinematics.tool is None:
                raise ValueError(
                    f'the contract of {contract.embodiment!r} names no kinematics.tool that its '
                    'Cartesian channels move'
                )
            self._arm = Arm.from_urdf(find_urdf(contract), contract.joint_names, kinematics.tool)

    def between(self, before: ArrayLike, after: ArrayLike) -> Float:
        """Changes float64 [n] from joint positions [j] before to those after, contract's order.

        Raises:
            ValueError: another number of joints, or a number that is not finite.
        """
        a, b = (np.asarray(q, np.float64) for q in (before, after))
        for q in (a, b):
            if q.shape != (self._count,) or not np.isfinite(q).all():
                raise ValueError(
                    f'joint positions {q.tolist()}; {self._count} finite numbers are needed'
                )
        out = (b - a)[self._joint] / self._span
        if self._arm is not None:
            (R0, p0), (R1, p1) = self._arm.pose(a), self._arm.pose(b)
            twist = np.concatenate([p1 - p0, rotation_vector(R1 @ R0.T)])
            cartesian = self._axis >= 0
            out[cartesian] = twist[self._axis[cartesian]]
        return np.asarray(out)


__all__ = ['MeasuredMotion']
