"""Set-points that a real drive would refuse are refused by the simulated one too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import Contract

# A drive refuses a set-point that its joint could not reach in this time [s] at top speed: what
# real arms call a discontinuity. It catches a controller that has not noticed a reset.
JUMP_S = 0.25


class CommandError(ValueError):
    """A set-point that is not executed; the message names the joint and what is wrong."""


def check_jump(
    target: NDArray[np.float64], measured: NDArray[np.float64], contract: Contract
) -> None:
    """Refuse a set-point too far from the measured positions.

    Args:
        target: float64 [j] by the contract's order, rad or m.
        measured: likewise.
        contract: its velocity limits bound the distance.

    Raises:
        CommandError: names the joint, the distance and the bound.
    """
    allowed = contract.velocity_limits * JUMP_S
    distance = np.abs(target - measured)
    far = np.flatnonzero(~(distance <= allowed))
    if far.size:
        i = int(far[0])
        raise CommandError(
            f'set-point of joint {contract.joint_names[i]!r} is {distance[i]:.3f} away from its '
            f'measured position; the drive refuses more than {allowed[i]:.3f}'
        )


__all__ = ['CommandError', 'check_jump']
