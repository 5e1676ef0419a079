"""A Franka Emika Robot (FER, the Panda) through panda-python, which speaks libfranka 0.9.

Its joint position controller (an impedance, 1 kHz in its C++) takes a position and a velocity at
each set-point, and holds the last one when set-points stay away; it is ended when a motion is over.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_controller.limits import Vector
from vera_controller.published_limits import FER, require
from vera_controller.robots.arm import (
    FER_LIMITS,
    JOINTS,
    ArmRobot,
    LinkError,
    Reading,
    has_hand,
    need_address,
)
from vera_controller.robots.franky import (
    checked,
    enforce_realtime,
    load,
    plain,
    refused,
    take_hand,
)
from vera_controller.robots.gripper import GripperLink

if TYPE_CHECKING:
    from vera_core.contract import Contract, RobotSpec

FORCES = 6
# Words of libfranka where panda-python has one type for every error.
LOST = ('connection', 'udp', 'tcp', 'socket')
# Reads without a set-point after which a motion is over.
REST_READS = 50

log = logging.getLogger(__name__)


class PandaLink:
    """One connection to the arm.

    Args:
        address: IP address or host name.
        spec: thresholds, realtime.
        hand: whether there is a gripper.
    """

    low, high = FER_LIMITS

    def __init__(self, address: str, spec: RobotSpec, hand: bool = True) -> None:
        self._address = address
        self._spec = spec
        self._hand = hand
        self._library: Any = None
        self._panda: Any = None
        self._controller: Any = None
        self._idle = 0
        self._lost = False

    def open(self) -> GripperLink | None:
        """Connect to arm and hand; set the collision thresholds."""
        self._library = load('panda_fer')
        self._connect()
        if not self._hand:
            return None
        return take_hand(
            self._address,
            lambda: self._library.libfranka.Gripper(self._address),
            lambda hand: hand.read_once(),
        )

    def read(self) -> Reading:
        """The newest state; what went wrong meanwhile is raised."""
        panda = self._panda
        if panda is None or self._lost:
            raise LinkError('the connection to the arm is lost')
        try:
            panda.refresh_state()
            reading = checked(panda.get_state())
            panda.raise_error()
            self._rest()
        except LinkError:
            self._controller = None
            raise
        except Exception as error:
            self._controller = None
            text = plain(error)
            self._lost = any(word in text.lower() for word in LOST)
            lost = 'the connection to the arm is lost: ' if self._lost else ''
            raise LinkError(lost + text) from error
        return reading

    def begin(self) -> None:
        """Start the controller where the arm is."""
        if self._controller is not None:
            return
        try:
            controller = self._library.controllers.JointPosition()
            self._panda.start_controller(controller)
        except Exception as error:
            raise LinkError(plain(error)) from error
        self._controller, self._idle = controller, 0

    def move(self, target: Vector, velocity: Vector, forward: Vector) -> None:
        """A new position and velocity for the controller."""
        self._idle = 0
        self._steer(target, forward)

    def halt(self) -> None:
        """Hold where the arm is now."""
        if self._panda is not None and not self._lost:
            self._steer(np.array(self._panda.get_state().q), np.zeros(JOINTS))

    def recover(self) -> None:
        """Clear the arm's error; a lost connection is made anew."""
        self._controller = None
        try:
            if self._panda is None or self._lost:
                self._connect()
            self._panda.recover()
        except Exception as error:
            raise LinkError(plain(error)) from error

    def close(self) -> None:
        """End the controller and disconnect."""
        if self._panda is None:
            return
        try:
            self.halt()
            self._panda.stop_controller()
        except Exception as error:
            log.warning('closing the arm: %s', plain(error))
        self._panda = self._controller = None

    def _connect(self) -> None:
        library, spec = self._library, self._spec
        kinds = library.libfranka.RealtimeConfig
        config = kinds.kEnforce if enforce_realtime(spec) else kinds.kIgnore
        torque, force = float(spec.torque_threshold), float(spec.force_threshold)
        try:
            panda = library.Panda(self._address, realtime_config=config)
            panda.get_robot().set_collision_behavior(
                [torque] * JOINTS, [torque] * JOINTS, [force] * FORCES, [force] * FORCES
            )
        except Exception as error:
            raise refused(self._address, error) from error
        self._panda, self._lost = panda, False

    def _steer(self, position: Vector, velocity: Vector) -> None:
        try:
            if self._controller is not None:
                self._controller.set_control(position, velocity)
        except Exception as error:
            raise LinkError(plain(error)) from error

    def _rest(self) -> None:
        """End the controller of a motion that is over: the arm holds itself from then on."""
        self._idle += 1
        if self._controller is not None and self._idle > REST_READS:
            self._panda.stop_controller()
            self._controller = None


def panda_fer(contract: Contract, *, address: str = '', **options: Any) -> ArmRobot:
    """Robot `panda_fer`: a Panda with server version 5 (system 4.2.1 and later)."""
    require(contract, FER)
    spec = contract.robot
    link = PandaLink(need_address(spec, address), spec, has_hand(contract))
    return ArmRobot(contract, link, **options)


__all__ = ['PandaLink', 'panda_fer']
