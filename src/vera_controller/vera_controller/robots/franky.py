"""A Franka Research 3 (FR3) through franky-control: 1 kHz in its C++, set-points from here.

Each set-point becomes a joint velocity motion that replaces the one before; behind it waits
standing still, so that the arm brakes by itself, within its limits, when set-points stay away.
Compared on franky-sim with a joint impedance motion whose reference is set at 100 Hz, for a sine of
0.3 rad at 0.25 Hz: velocities were at most 1 mrad off (2.6 mrad at the wrist) and not late, the
impedance (600 N m/rad) 8.5 mrad and 12 ms; and velocities stay stable when packets come late.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_controller.limits import Vector
from vera_controller.published_limits import FR3, require
from vera_controller.registry import RobotError
from vera_controller.robots import fci
from vera_controller.robots.arm import (
    FR3_LIMITS,
    JOINTS,
    SILENCE_PERIODS,
    ArmRobot,
    LinkError,
    Reading,
    has_hand,
    need_address,
)
from vera_controller.robots.gripper import GripperLink

if TYPE_CHECKING:
    from vera_core.contract import Contract, RobotSpec

# m, largest opening of the hand: also how far a grip may be from the width that was asked for.
HAND = 0.08
# s until the arm is at rest when it is closed.
REST_S = 1.0
# What is imported of a library: the parts are not all there with the whole.
MODULES = {
    'panda_franky': ('franky',),
    'panda_fer': ('panda_py', 'libfranka', 'controllers'),
}
# Modes in which the arm takes no motion, and what to do; nothing to recover from.
WAITING = {
    'UserStopped': 'the user stop is pressed: release it',
    'Guiding': 'the arm is guided by hand: let its buttons go',
    'AutomaticErrorRecovery': 'the arm is recovering from an error',
    'Other': 'the arm is not ready: unlock its joints and activate FCI in Desk',
}

log = logging.getLogger(__name__)


def load(name: str) -> Any:
    """The library of an arm; raises RobotError with the command that installs it."""
    import importlib

    module, *parts = MODULES[name]
    try:
        for part in parts:
            importlib.import_module(f'{module}.{part}')
        return importlib.import_module(module)
    except ImportError as error:
        raise RobotError(
            f'robot {name} needs {module} ({error}): pip install {fci.WHEELS[name]}'
        ) from error


def has_realtime_kernel() -> bool:
    """Whether this kernel has PREEMPT_RT, as libfranka finds out."""
    try:
        return Path('/sys/kernel/realtime').read_text().strip() == '1'
    except OSError:
        return False


def enforce_realtime(spec: RobotSpec) -> bool:
    """Whether the library is to insist on real time; raises RobotError where it cannot be had."""
    if spec.realtime == 'ignore':
        log.warning('robot.realtime is ignore: without PREEMPT_RT motions may be aborted')
        return False
    if not has_realtime_kernel():
        raise RobotError(
            'the kernel has no PREEMPT_RT: install one, with rtprio limits, or write '
            'robot.realtime: ignore (for tests: motions may be aborted)'
        )
    return True


def refused(address: str, error: Exception) -> RobotError:
    """Why a connection was refused, as far as the arm itself tells."""
    try:
        answer = fci.ask(address)
    except RobotError as reason:
        return reason
    if fci.ADAPTERS.get(answer.version) is None or 'version' in str(error).lower():
        return RobotError(f'{address} is another arm: {fci.advice(answer.version)}')
    return RobotError(f'{address}: {plain(error)}; it is an {fci.advice(answer.version)}')


def plain(error: BaseException) -> str:
    """The message of a library, in one line and without its name."""
    lines = [line.strip() for line in str(error).splitlines()]
    return '; '.join(line for line in lines if line).removeprefix('libfranka: ')


def checked(state: Any) -> Reading:
    """The reading of a state of libfranka; raises LinkError for modes and errors, with it."""
    reading = Reading(np.array(state.q), np.array(state.dq), np.array(state.q_d))
    mode, errors = state.robot_mode.name.removeprefix('k'), names(state.current_errors)
    if mode in WAITING:
        raise LinkError(WAITING[mode], recoverable=False, reading=reading)
    if mode == 'Reflex' or errors:
        named = ', '.join(errors) or 'no error is named'
        raise LinkError(f'reflex of the arm: {named}', reading=reading)
    return reading


class Hand:
    """The Franka hand; its commands block in C++, without holding Python up.

    Args:
        connect: makes a connection.
        look: the state of a connection, with width [m] and is_grasped.
    """

    def __init__(self, connect: Callable[[], Any], look: Callable[[Any], Any]) -> None:
        self._connect = connect
        self._look = look
        self._lock = threading.Lock()
        self._hand: Any = connect()

    @property
    def widest(self) -> float:
        """Largest opening as the hand knows it [m]; nearly zero before it was ever homed."""
        return float(self._look(self._hand).max_width)

    def measure(self) -> tuple[float, bool]:
        """Opening of one finger [m], and whether something is held."""
        state = self._try(self._look)
        return state.width / 2, bool(state.is_grasped)

    def move(self, opening: float, speed: float) -> bool:
        """Blocks until it is there."""
        return bool(self._try(lambda hand: hand.move(2.0 * opening, 2.0 * speed)))

    def grasp(self, speed: float, force: float) -> bool:
        """Blocks until it holds something, of any width, or is closed."""
        return bool(self._try(lambda hand: hand.grasp(0.0, 2.0 * speed, force, HAND, HAND)))

    def _try(self, act: Callable[[Any], Any]) -> Any:
        """What `act` makes of the hand; after a failure the next attempt connects again."""
        hand = self._hand
        try:
            if hand is None:
                with self._lock:
                    hand = self._hand = self._hand or self._connect()
            return act(hand)
        except Exception as error:
            if self._hand is hand:
                self._hand = None
            raise LinkError(plain(error)) from error


def take_hand(address: str, connect: Callable[[], Any], look: Callable[[Any], Any]) -> GripperLink:
    """The hand of an arm; raises RobotError with the cure if none answers."""
    try:
        hand = Hand(connect, look)
        if hand.widest < HAND / 2:
            log.warning('gripper: its largest opening is %.3f m; home it in Desk', hand.widest)
    except Exception as error:
        raise RobotError(
            f'{address} has no gripper that answers ({plain(error)}); if it has none, write '
            'robot.gripper: false, and start without the gripper channel'
        ) from error
    return hand


class FrankyLink:
    """One connection to the arm.

    Args:
        address: IP address or host name.
        spec: thresholds, realtime.
        period: s between set-points.
        hand: whether there is a gripper.
    """

    low, high = FR3_LIMITS
    # s without a new state of the arm after which it counts as lost; 1000 a second should come.
    silence = 0.1

    def __init__(self, address: str, spec: RobotSpec, period: float, hand: bool = True) -> None:
        self._address = address
        self._spec = spec
        self._hand = hand
        self._hold_ms = math.ceil(1000 * SILENCE_PERIODS * period)
        self._franky: Any = None
        self._robot: Any = None
        self._lost = False
        self._told: int | None = None
        self._heard = 0.0

    def open(self) -> GripperLink | None:
        """Connect to arm and hand; set the collision thresholds."""
        self._franky = load('panda_franky')
        self._connect()
        if not self._hand:
            return None
        return take_hand(
            self._address, lambda: self._franky.Gripper(self._address), lambda hand: hand.state
        )

    def read(self) -> Reading:
        """The newest state; what went wrong meanwhile is raised."""
        if self._robot is None or self._lost:
            raise LinkError('the connection to the arm is lost')
        try:
            self._robot.poll_motion()
            state = self._robot.state
        except self._franky.NetworkException as error:
            self._lost = True
            raise LinkError(f'the connection to the arm is lost: {plain(error)}') from error
        except Exception as error:
            raise LinkError(plain(error)) from error
        self._listen(state.time.to_msec())
        return checked(state)

    def begin(self) -> None:
        """Nothing: the first velocity starts the motion."""

    def move(self, target: Vector, velocity: Vector, forward: Vector) -> None:
        """Replace the motion in progress."""
        franky = self._franky
        motion = franky.JointVelocityWaypointMotion(
            [
                franky.JointVelocityWaypoint(
                    velocity, hold_target_duration=franky.Duration(self._hold_ms)
                ),
                franky.JointVelocityWaypoint(
                    np.zeros(JOINTS), hold_target_duration=franky.Duration(0)
                ),
            ]
        )
        self._send(motion)

    def halt(self) -> None:
        """Brake as hard as the limits of the arm allow."""
        if self._robot is not None and not self._lost and self._robot.is_in_control:
            self._send(self._franky.JointVelocityStopMotion())

    def recover(self) -> None:
        """Clear the arm's error; a lost connection is made anew."""
        if self._robot is None or self._lost:
            try:
                self._connect()
            except RobotError as error:
                raise LinkError(str(error)) from error
        try:
            recovered = self._robot.recover_from_errors()
        except Exception as error:
            raise LinkError(plain(error)) from error
        if not recovered:
            raise LinkError('the arm refused; look at it in Desk')

    def close(self) -> None:
        """Come to rest and disconnect."""
        robot = self._robot
        if robot is None:
            return
        try:
            self.halt()
            robot.join_motion(timeout=REST_S)
        except Exception as error:
            log.warning('closing the arm: %s', plain(error))
        self._robot = None

    def _connect(self) -> None:
        franky, spec = self._franky, self._spec
        kinds = franky.RealtimeConfig
        config = kinds.Enforce if enforce_realtime(spec) else kinds.Ignore
        try:
            robot = franky.Robot(
                self._address,
                default_torque_threshold=float(spec.torque_threshold),
                default_force_threshold=float(spec.force_threshold),
                realtime_config=config,
            )
            robot.set_collision_behavior(float(spec.torque_threshold), float(spec.force_threshold))
        except Exception as error:
            raise refused(self._address, error) from error
        self._robot, self._lost, self._told = robot, False, None

    def _listen(self, told: int) -> None:
        """Raise LinkError if the arm's own time [ms] stands still.

        In a motion, the last state is repeated for a second before anybody says that it is lost.
        """
        now = time.monotonic()
        if told != self._told:
            self._told, self._heard = told, now
        elif now - self._heard > self.silence:
            raise LinkError(f'the connection to the arm is lost: no state for {self.silence:g} s')

    def _send(self, motion: Any) -> None:
        robot = self._robot
        try:
            if robot is not None:
                robot.move(motion, asynchronous=True)
        except Exception as error:
            raise LinkError(plain(error)) from error


def names(errors: Any) -> list[str]:
    """The flags that are set in the errors of an arm, in words."""
    return [
        name.replace('_', ' ')
        for name in dir(errors)
        if not name.startswith('_') and getattr(errors, name) is True
    ]


def panda_franky(contract: Contract, *, address: str = '', **options: Any) -> ArmRobot:
    """Robot `panda_franky`: an FR3 with server version 10 (system 5.9 and later)."""
    require(contract, FR3)
    spec = contract.robot
    where, hand = need_address(spec, address), has_hand(contract)
    link = FrankyLink(where, spec, contract.control.period, hand)
    return ArmRobot(contract, link, **options)


__all__ = [
    'FrankyLink',
    'Hand',
    'checked',
    'enforce_realtime',
    'has_realtime_kernel',
    'load',
    'names',
    'panda_franky',
    'plain',
    'refused',
    'take_hand',
]
