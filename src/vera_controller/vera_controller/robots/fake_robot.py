"""A fake arm: no physics, no network; it follows velocities exactly and has faults to order.

For tests, and to run the whole stack where there is neither an arm nor a simulator.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_controller.limits import Vector
from vera_controller.robots.arm import (
    FER_LIMITS,
    JOINTS,
    SILENCE_PERIODS,
    ArmRobot,
    LinkError,
    Reading,
)
from vera_controller.robots.gripper import GripperLink
from vera_core.clocks import MonotonicClock, ns_to_seconds

if TYPE_CHECKING:
    from vera_core.clocks import Clock
    from vera_core.contract import Contract

# rad/s^2, with which it brakes.
BRAKE = 10.0


@dataclass
class Faults:
    """What goes wrong, in seconds of the fake's clock after it was opened; None for never.

    Attributes:
        reflex_at: a collision: the arm stops dead and has to be recovered.
        lost_at: the connection is lost; recovering connects again.
        nan_at, nan_until: the states are not numbers.
        stop_from, stop_until: the user stop is pressed.
        refuse_move_at: a motion is refused once.
        refuses_recovery: every attempt fails.
        gripper_jams: the hand reports success and does not move.
    """

    reflex_at: float | None = None
    lost_at: float | None = None
    nan_at: float | None = None
    nan_until: float = float('inf')
    stop_from: float | None = None
    stop_until: float = float('inf')
    refuse_move_at: float | None = None
    refuses_recovery: bool = False
    gripper_jams: bool = False


class FakeGripper:
    """A hand that takes its time, and may hold something.

    Args:
        opening: m of one finger.
        thing: m, half the width of what is between the fingers; 0 for nothing.
        real_time: whether it really takes its time.
    """

    def __init__(self, opening: float, thing: float = 0.0, real_time: bool = True) -> None:
        self.opening = opening
        self.thing = thing
        self.jams = False
        self.commands: list[tuple[str, float]] = []
        self._real_time = real_time
        self._held = False

    def measure(self) -> tuple[float, bool]:
        """Opening of one finger [m], and whether something is held."""
        return self.opening, self._held

    def move(self, opening: float, speed: float) -> bool:
        """Blocks for as long as the way takes."""
        self.commands.append(('move', opening))
        self._held = False
        self._go(max(opening, self.thing), speed)
        return True

    def grasp(self, speed: float, force: float) -> bool:
        """Closes until it holds the thing."""
        self.commands.append(('grasp', 0.0))
        self._go(self.thing, speed)
        self._held = self.thing > 0 and not self.jams
        return True

    def _go(self, opening: float, speed: float) -> None:
        if self.jams:
            return
        if self._real_time:
            time.sleep(abs(opening - self.opening) / speed)
        self.opening = opening


class FakeLink:
    """An arm that does what it is told, until a fault.

    Args:
        start: float64 [7] rad.
        period: s between set-points.
        clock: monotonic unless given.
        faults: to order; may be changed at any time.
        gripper: its hand, or None.
    """

    low, high = FER_LIMITS

    def __init__(
        self,
        start: Vector,
        period: float,
        *,
        clock: Clock | None = None,
        faults: Faults | None = None,
        gripper: FakeGripper | None = None,
    ) -> None:
        self.faults = faults or Faults()
        self.gripper = gripper
        self.recoveries = 0
        self._clock = clock if clock is not None else MonotonicClock()
        self._hold = SILENCE_PERIODS * period
        self._q, self._dq = np.array(start, np.float64), np.zeros(JOINTS)
        self._wanted = np.zeros(JOINTS)
        self._opened = self._last = self._told = self._clock.now()
        self._reflex = self._lost = False
        # The arm's own, as the C++ of a real one has: `halt` comes from another thread.
        self._inside = threading.Lock()

    def open(self) -> GripperLink | None:
        """Time begins."""
        self._opened = self._last = self._clock.now()
        if self.gripper is not None:
            self.gripper.jams = self.faults.gripper_jams
        return self.gripper

    def put(self, q: Vector) -> None:
        """Somebody moves the arm by hand."""
        with self._inside:
            self._q, self._dq = np.array(q, np.float64), np.zeros(JOINTS)

    def read(self) -> Reading:
        """Where it is now; raises LinkError for what keeps it from moving."""
        with self._inside:
            self._advance()
            self._check()
            if self._between(self.faults.nan_at, self.faults.nan_until):
                nowhere = np.full(JOINTS, np.nan)
                return Reading(nowhere, nowhere, nowhere)
            return Reading(self._q.copy(), self._dq.copy(), self._q.copy())

    def begin(self) -> None:
        """Nothing to do."""

    def move(self, target: Vector, velocity: Vector, forward: Vector) -> None:
        """Take a velocity over."""
        with self._inside:
            self._advance()
            self._check()
            if self._due('refuse_move_at'):
                raise LinkError('motion refused')
            self._wanted, self._told = np.array(velocity, np.float64), self._clock.now()

    def halt(self) -> None:
        """Brake."""
        with self._inside:
            self._advance()
            self._wanted = np.zeros(JOINTS)

    def recover(self) -> None:
        """Clear a reflex, or connect again."""
        self.recoveries += 1
        if self.faults.refuses_recovery:
            raise LinkError('the arm refused')
        self._reflex = self._lost = False

    def close(self) -> None:
        """Stand still."""
        self.halt()

    def _between(self, begin: float | None, end: float) -> bool:
        return begin is not None and begin <= self._time < end

    @property
    def _time(self) -> float:
        return ns_to_seconds(self._clock.now() - self._opened)

    def _due(self, name: str) -> bool:
        """Whether a fault happens now; it happens once."""
        at = getattr(self.faults, name)
        if at is None or self._time < at:
            return False
        setattr(self.faults, name, None)
        return True

    def _check(self) -> None:
        if self._due('reflex_at'):
            self._reflex = True
        if self._due('lost_at'):
            self._lost = True
        stopped = self._between(self.faults.stop_from, self.faults.stop_until)
        if self._reflex or self._lost or stopped:
            self._dq, self._wanted = np.zeros(JOINTS), np.zeros(JOINTS)
        if self._lost:
            raise LinkError('the connection to the arm is lost')
        still = Reading(self._q.copy(), self._dq.copy(), self._q.copy())
        if self._reflex:
            raise LinkError('reflex of the arm: cartesian reflex', reading=still)
        if stopped:
            raise LinkError('the user stop is pressed: release it', False, still)

    def _advance(self) -> None:
        now = self._clock.now()
        dt, self._last = ns_to_seconds(now - self._last), now
        if ns_to_seconds(now - self._told) > self._hold:
            self._wanted = np.zeros(JOINTS)
        # It reaches a velocity at once, but comes to rest like an arm.
        slower = np.sign(self._dq) * np.maximum(np.abs(self._dq) - BRAKE * dt, 0.0)
        self._dq = np.where(self._wanted == 0, slower, self._wanted)
        self._q = self._q + self._dq * dt


def fake_arm(
    contract: Contract, *, address: str = '', faults: Faults | None = None, **options: Any
) -> ArmRobot:
    """Robot `fake_arm`: at the home pose of the contract; the address does not matter."""
    fingers = {c.joint for c in contract.channels if c.kind == 'gripper'}
    arm = np.array([v for n, v in zip(contract.joint_names, contract.home_positions, strict=True)
                    if n not in fingers])  # fmt: skip
    hand = [contract.home[name] for name in fingers if name is not None]
    link = FakeLink(
        arm,
        contract.control.period,
        clock=options.get('clock'),
        faults=faults,
        gripper=FakeGripper(hand[0]) if hand else None,
    )
    return ArmRobot(contract, link, **options)


__all__ = ['FakeGripper', 'FakeLink', 'Faults', 'fake_arm']
