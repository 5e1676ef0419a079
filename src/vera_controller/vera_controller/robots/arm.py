"""What every arm with its own real-time loop shares: one thread that reads, commands and recovers.

Set-points come at 100 Hz from the controller; the arm's library makes 1000 commands a second of
them, in C++. Here nothing waits: `command` and `stop` leave a note for the thread of the arm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vera_controller.limits import Vector
from vera_controller.registry import RobotError
from vera_controller.robots.gripper import GripperLink, GripperThread
from vera_controller.robots.tracker import SetpointTracker
from vera_core.clocks import NS_PER_S, MonotonicClock, ns_to_seconds, seconds_to_ns
from vera_core.seams import RobotState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vera_core.clocks import Clock
    from vera_core.contract import Contract, RobotSpec

PositionLimits = tuple[tuple[float, ...], tuple[float, ...]]

JOINTS = 7
# Without set-points for so many periods the arm itself brakes; the next begins as if anew.
SILENCE_PERIODS = 5
# s without set-points after which a motion is over even if they did not come to rest.
OVER_S = 2.0
# A motion begins where the arm is: the first set-point may be so far from it, in seconds at the
# velocity limit. The controller takes the measured position if it is further than 0.025 s.
NEAR_S = 0.1
# A reading older than this many periods is no basis for a command.
OLD_PERIODS = 10
# Between two attempts to recover [s], and between two reports of the same fault.
RETRY_S = 1.0
REPORT_S = 0.5
MINUTE_NS = 60 * NS_PER_S
JOIN_S = 2.0

# Position limits that the makers publish, float [7] rad: of the FER (libfranka 0.9,
# rate_limiting.h), and of the FR3 from system 5.9 on (URDF that the arm itself delivers).
FER_LIMITS: PositionLimits = (
    (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
)
FR3_LIMITS: PositionLimits = (
    (-2.9007, -1.8361, -2.9007, -3.0770, -2.8763, 0.4398, -3.0508),
    (2.9007, 1.8361, 2.9007, -0.1169, 2.8763, 4.6216, 3.0508),
)

log = logging.getLogger(__name__)


class LinkError(Exception):
    """The arm refused, aborted or was lost; the message is for people.

    Attributes:
        recoverable: whether an automatic recovery may be tried.
        reading: where the arm is nevertheless, if that is known.
    """

    def __init__(
        self, message: str, recoverable: bool = True, reading: Reading | None = None
    ) -> None:
        super().__init__(message)
        self.recoverable = recoverable
        self.reading = reading


@dataclass(frozen=True)
class Reading:
    """One look at the arm: measured q [rad] and dq [rad/s], desired q_d [rad], float64 [7] each."""

    q: Vector
    dq: Vector
    q_d: Vector


class ArmLink(Protocol):
    """An arm as its library gives it. All but `halt` are called from one thread only."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def open(self) -> GripperLink | None:
        """Connect; the gripper, if there is one. Raises RobotError naming the arm and the cure."""

    def read(self) -> Reading:
        """The newest state.

        Raises:
            LinkError: whatever keeps the arm from moving; also what went wrong in a motion since
                the last call.
        """

    def begin(self) -> None:
        """A motion is about to begin."""

    def move(self, target: Vector, velocity: Vector, forward: Vector) -> None:
        """Follow, for at most SILENCE_PERIODS more periods, then brake to rest.

        Args:
            target: float64 [7] rad, to be reached one period from now.
            velocity: float64 [7] rad/s with feedback, for arms that take velocities.
            forward: float64 [7] rad/s without it.
        """

    def halt(self) -> None:
        """Brake to rest now; from any thread, waiting for no lock of ours."""

    def recover(self) -> None:
        """Clear the error of the arm, or connect again. Raises LinkError if it refuses."""

    def close(self) -> None:
        """Leave the arm at rest; safe to call twice."""


class ArmRobot:
    """The Robot seam over an `ArmLink`.

    A fault (reflex, user stop, lost connection ...) stops the controller within a period, with the
    reason; the arm's error is cleared automatically, at most `recoveries` times a minute. It moves
    again only after the controller was reset and when a new motion begins where the arm is.

    Args:
        contract: joints by name, limits, robot.
        link: the arm, not yet connected.
        on_state, on_bad_state, on_fault: see `registry.make_robot`.
        clock: monotonic unless given.
        stamp: the time of day [ns], for the stamps of the states.
        threaded: whether `connect` starts the thread; without it somebody calls `cycle`.

    Raises:
        RobotError: the contract's joints are not those of such an arm, or reach beyond its limits.
    """

    def __init__(
        self,
        contract: Contract,
        link: ArmLink,
        *,
        on_state: Callable[[RobotState], Any],
        on_bad_state: Callable[[str], Any],
        on_fault: Callable[[str], Any],
        clock: Clock | None = None,
        stamp: Callable[[], int] = time.time_ns,
        threaded: bool = True,
    ) -> None:
        self.link = link
        self._contract = contract
        self._arm, self._finger = _split(contract)
        _check_limits(contract, self._arm, link)
        self._on_state, self._on_fault = on_state, on_fault
        self._on_bad_state = on_bad_state
        self._clock = clock if clock is not None else MonotonicClock()
        self._stamp = stamp
        self._threaded = threaded
        self._period = contract.control.period
        self._velocity = contract.velocity_limits[self._arm]
        self._tracker = SetpointTracker(self._velocity, self._period)
        self._budget = Recoveries(contract.robot.recoveries)
        self.gripper: GripperThread | None = None

        self._state: RobotState | None = None
        self._reading: Reading | None = None
        self._read_at = 0
        # Set-points [8] and their stamp, newest last: a deque of one needs no lock.
        self._mail: deque[tuple[Vector, int]] = deque(maxlen=1)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._halted = False
        self._muted = False  # set-points of an interrupted motion still come
        self._last: Vector | None = None  # set-point
        self._told = 0  # when it came
        self._rested = False  # whether it repeated the one before
        self._previous: int | None = None  # its stamp, if the next belongs to the same motion
        self._fault = self._outcome = ''  # the first cause, and what became of its recovery
        self._recoverable = False
        self._reported = self._tried = 0

    def __enter__(self) -> ArmRobot:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # The seam ---------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the arm and its gripper; raises RobotError naming it and the cure."""
        gripper = self.link.open()
        if self._finger is not None:
            self.gripper = self._grip(gripper, self._finger)
        self._closing.clear()
        self._mail.clear()
        self._last, self._fault = None, ''
        self._halted = self._muted = self._rested = False
        if self._threaded:
            self._thread = threading.Thread(target=self._run, name='arm', daemon=True)
            self._thread.start()

    def state(self) -> RobotState | None:
        """Newest measured state, or None before the first."""
        return self._state

    @property
    def fault(self) -> str:
        """What keeps the arm from moving; empty if nothing does."""
        return self._fault

    def command(self, positions: NDArray[np.float64], stamp: int) -> None:
        """Take over one set-point [rad, m]; waits for nothing."""
        self._mail.append((np.array(positions, np.float64), stamp))
        self._wake.set()

    def stop(self) -> None:
        """Brake to rest now; the motion in progress does not go on. Waits for no lock."""
        self._halted = True
        self._wake.set()
        if self.gripper is not None:
            self.gripper.forget()
        try:
            self.link.halt()
        except LinkError as error:
            self._on_fault(f'the arm did not take the stop: {error}')

    def close(self) -> None:
        """Brake, disconnect; safe to call twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=JOIN_S)
        if self.gripper is not None:
            self.gripper.close()
        self.link.close()

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        due = time.monotonic()
        while not self._closing.is_set():
            # A set-point wakes it; without one it still reads once a period.
            self._wake.wait(timeout=max(due - time.monotonic(), 0.0))
            self._wake.clear()
            # A little later than the next set-point, which then does not find it reading already.
            due = time.monotonic() + 1.2 * self._period
            try:
                self.cycle()
            except Exception as error:  # the arm brakes by itself; nobody must wait in vain
                log.exception('thread of the arm')
                self._fail(f'mistake in the driver of the arm: {error!r}', recoverable=False)

    def cycle(self) -> None:
        """Read, command, report: once for each set-point, and once a period without one."""
        now = self._clock.now()
        if self._halted:
            self._halted, self._muted = False, True
            self._halt()
        reading = self._read()
        mail = self._mail.popleft() if self._mail else None
        if mail is not None and not self._closing.is_set():
            self._follow(*mail, now)
        if reading is not None:
            self._publish(reading)
        if self._fault:
            self._care(now)

    def _read(self) -> Reading | None:
        try:
            reading = self.link.read()
        except LinkError as error:
            self._fail(str(error), error.recoverable)
            return error.reading
        self._read_at = self._clock.now()
        self._reading = reading
        if self._fault and not self._recoverable:
            # The user stop was released, say: nothing to clear in the arm.
            self._fault = ''
        return reading

    def _publish(self, reading: Reading) -> None:
        positions = np.zeros(len(self._contract.joints))
        velocities = np.zeros_like(positions)
        positions[self._arm], velocities[self._arm] = reading.q, reading.dq
        if self.gripper is not None and self._finger is not None:
            positions[self._finger], velocities[self._finger] = self.gripper.measured
        self._state = RobotState(self._stamp(), positions, velocities)
        self._on_state(self._state)

    def _follow(self, positions: Vector, stamp: int, now: int) -> None:
        last, self._last = self._last, positions
        same = last is not None and np.array_equal(positions, last)
        # Set-points that repeat end a motion, the next that does not begins another: so no gap in
        # those of an interrupted motion ever brings it back to life.
        gap = ns_to_seconds(now - self._told)
        begins = last is None or gap > OVER_S or (self._rested and not same)
        silent = gap > SILENCE_PERIODS * self._period
        self._rested, self._told = same, now
        if not self._fault and (begins or (silent and not self._muted)):
            self._muted = self._away(positions)
            if not self._muted:
                self._tracker.start()
                self._previous = None
                self._act(self.link.begin)
        if self._muted or self._fault:
            return
        reading = self._reading
        age = ns_to_seconds(now - self._read_at)
        if reading is None or age > OLD_PERIODS * self._period:
            return  # the arm brakes by itself; the controller holds when states are missing
        target = positions[self._arm]
        if not (np.isfinite(reading.q_d).all() and np.isfinite(positions).all()):
            self._muted = True
            self._halt()
            self._on_bad_state('the arm says that a joint should be nowhere: NaN')
            return
        dt = self._period if self._previous is None else ns_to_seconds(stamp - self._previous)
        self._previous = stamp
        velocity, forward = self._tracker.follow(target, reading.q_d, dt)
        self._act(lambda: self.link.move(target, velocity, forward))
        if self.gripper is not None and self._finger is not None:
            self.gripper.target(float(positions[self._finger]))

    def _away(self, positions: Vector) -> bool:
        """Whether a motion would begin elsewhere than where the arm is; that is a fault, too."""
        if self._reading is None:
            return True
        away = np.abs(positions[self._arm] - self._reading.q)
        far = np.flatnonzero(~(away <= NEAR_S * self._velocity))
        if not far.size:
            return False
        name = self._contract.joint_names[self._arm[far[0]]]
        self._on_fault(
            f'the first set-point of {name} is {away[far[0]]:.3f} rad from where it is; '
            'reset, and the next motion begins where the arm is'
        )
        return True

    def _act(self, action: Callable[[], None]) -> None:
        try:
            action()
        except LinkError as error:
            self._fail(str(error), error.recoverable)

    def _halt(self) -> None:
        self._act(self.link.halt)

    # Faults -----------------------------------------------------------------------------------

    def _fail(self, reason: str, recoverable: bool = True) -> None:
        """Keep the first cause, and tell the controller: one that was reset must hear it again."""
        now = self._clock.now()
        self._recoverable, self._muted = recoverable, True
        if not self._fault:
            self._fault, self._outcome, self._tried = reason, '', now
            if self.gripper is not None:
                self.gripper.forget()
        elif now - self._reported < seconds_to_ns(REPORT_S):
            return
        self._reported = now
        self._on_fault(self._fault + self._outcome)

    def _care(self, now: int) -> None:
        """Clear the error of the arm, if that may be tried again."""
        if not self._recoverable or now - self._tried < seconds_to_ns(RETRY_S):
            return
        self._tried = now
        if not self._budget.take(now):
            self._outcome = self._budget.spent
            return
        try:
            self.link.recover()
        except LinkError as error:
            self._outcome = f'; recovery failed: {error}'
            return
        log.warning('the arm recovered from: %s', self._fault)
        self._fault = ''

    # The gripper ------------------------------------------------------------------------------

    def _grip(self, link: GripperLink | None, finger: int) -> GripperThread:
        name = self._contract.joint_names[finger]
        if link is None:
            raise RobotError(
                f'{name} has no gripper behind it: write robot.gripper: true, or take the joint '
                'and its channel out of the contract'
            )
        joint, spec = self._contract.joints[finger], self._contract.gripper
        gripper = GripperThread(
            link,
            widest=joint.position[1],
            speed=joint.velocity,
            force=spec.force if spec is not None else 30.0,
            on_fault=self._on_fault,
        )
        gripper.start()
        return gripper


class Recoveries:
    """At most `most` automatic recoveries within a minute."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: deque[int] = deque()

    def take(self, now: int) -> bool:
        """Whether one more may be tried at `now` [ns]; it counts then."""
        while self._times and now - self._times[0] >= MINUTE_NS:
            self._times.popleft()
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        return True

    @property
    def spent(self) -> str:
        """To add to a reason, once."""
        if not self._most:
            return '; automatic recovery is off (robot.recoveries)'
        return f'; {self._most} automatic recoveries within a minute did not help: look at the arm'


def _split(contract: Contract) -> tuple[NDArray[np.intp], int | None]:
    """Places of the arm's seven joints, in its own order, and of the finger."""
    fingers = [c.joint for c in contract.channels if c.kind == 'gripper' and c.joint]
    names = contract.joint_names
    arm = [name for name in names if name not in fingers]
    ends = [f'joint{i + 1}' for i in range(JOINTS)]
    if len(arm) != JOINTS or len(fingers) > 1:
        raise RobotError(
            f'this arm has {JOINTS} joints and at most one gripper; the contract has '
            f'{", ".join(names)}'
        )
    places = []
    for end in ends:
        found = [name for name in arm if name.endswith(end)]
        if len(found) != 1:
            raise RobotError(
                f'which joint is {end} of the arm? the contract has {", ".join(arm)}; names end in '
                'joint1 .. joint7'
            )
        places.append(names.index(found[0]))
    return np.array(places), names.index(fingers[0]) if fingers else None


def _check_limits(contract: Contract, arm: NDArray[np.intp], link: ArmLink) -> None:
    low, high = (limit[arm] for limit in contract.position_limits)
    for i in range(JOINTS):
        if low[i] < link.low[i] or high[i] > link.high[i]:
            raise RobotError(
                f'{contract.joint_names[arm[i]]} may go from {low[i]:g} to {high[i]:g} rad in the '
                f'contract of {contract.embodiment}, this arm only from {link.low[i]:g} to '
                f'{link.high[i]:g}; use the contract of this arm (panda: FER, panda_fr3: FR3)'
            )


def has_hand(contract: Contract) -> bool:
    """Whether the arm has a gripper that a channel moves."""
    return contract.robot.gripper and any(c.kind == 'gripper' for c in contract.channels)


def need_address(spec: RobotSpec, address: str) -> str:
    """The address of the arm; raises RobotError if nobody gave one."""
    found = address or spec.address
    if not found:
        raise RobotError(
            'no address of the arm: write robot.address in the contract, or start with '
            'robot_ip:=172.16.0.2'
        )
    return found


__all__ = [
    'FER_LIMITS',
    'FR3_LIMITS',
    'JOINTS',
    'SILENCE_PERIODS',
    'ArmLink',
    'ArmRobot',
    'LinkError',
    'Reading',
    'Recoveries',
    'has_hand',
    'need_address',
]
