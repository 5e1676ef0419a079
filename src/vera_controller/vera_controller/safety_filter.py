"""The only path to a robot: whatever comes in, what goes out stays within the limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vera_controller.guard import Guard
from vera_controller.limits import TOLERANCE, Limits, SafetyError, Vector
from vera_controller.smooth_motion import SmoothMotion

# Below this no time has passed: differences of doubles over it would be noise.
MIN_DT = 1e-5
# Limits are approached to this share only, so that rounding of q + v dt never crosses them.
MARGIN = 1e-6
# Longer gaps count as this one; every joint is at rest long before.
LONGEST = 1e3


@dataclass(frozen=True)
class Violation:
    """Why a set-point is not what was commanded.

    Attributes:
        kind: 'command' (shape, NaN, absent), 'position', 'velocity', 'acceleration', 'stale',
            'time', 'workspace', 'collision' or 'tool'.
        message: in words, naming joint, value and limit.
    """

    kind: str
    message: str

    def __str__(self) -> str:
        return f'{self.kind}: {self.message}'


class SafetyFilter:
    """Turns any command into a set-point within limits.

    Limits of position, velocity and acceleration are kept as follows. With a limit of jerk, or a
    guard of workspace, floor, self-collision and speed of the tool, `SmoothMotion` keeps them all;
    its proof is there.

    It keeps its own last set-point q and velocity v. With the limits [lo, hi], V and A, a tick of
    length dt chooses v' and puts out q' = q + v' dt, where

        (1) |v'| <= V,   (2) |v' - v| <= A dt,   (3) q' + max(v', 0)^2 / (2 A) <= hi, same for lo.

    (3) says: after this tick there is room left to brake. Solved for v' it is
    v' <= -A dt + sqrt(A^2 dt^2 + 2 A (hi - q)), which is never negative.

    Such a v' always exists. (1), (2) and each side of (3) are intervals; 0 lies in all of them but
    (2), so only a v > 0 (or its mirror image) that cannot be reduced enough could fail. Take
    v' = max(v - A dt, 0), the hardest braking. It fulfils (1) and (2). If v <= A dt, then v' = 0
    and q' = q <= hi. Otherwise q' + v'^2/2A = q + (v - A dt) dt + (v - A dt)^2/2A
    = q + v^2/2A - A dt^2/2 < q + v^2/2A <= hi by (3) of the tick before, however long that was:
    the argument never compares two dt. At the start v = 0 and lo <= q <= hi. QED.

    Within these sets v' comes closest to the velocity that brings the joint to its target without
    overshoot, the same formula with the target instead of hi. A target that moves at speed u is
    followed at a distance of u^2/2A: the price of stopping in time if it stands still next.

    A tick longer than `max_dt` only brakes, with its true length: one late set-point does not make
    up for many lost ones in one jump. A dt that is no time at all repeats the last set-point.

    Args:
        limits: of the robot.
        max_dt: [s] longest tick that still moves towards the target.
        state_timeout: [s] of ticks with the same measured state after which it is stale; None
            leaves that to the caller.
        guard: of the tool and the links, or None.

    Raises:
        SafetyError: no limits.
    """

    def __init__(
        self,
        limits: Limits | None,
        *,
        max_dt: float = 0.05,
        state_timeout: float | None = None,
        guard: Guard | None = None,
    ) -> None:
        if not isinstance(limits, Limits):
            raise SafetyError('the safety filter got no limits: nothing moves without them')
        if not (math.isfinite(max_dt) and max_dt > MIN_DT):
            raise SafetyError(f'max_dt is {max_dt} s; it must be finite and above {MIN_DT} s')
        self.limits = limits
        self.max_dt = max_dt
        self.state_timeout = state_timeout
        n = len(limits.names)
        self._v_max = limits.velocity * (1 - MARGIN)
        self._a_max = limits.acceleration * (1 - MARGIN)
        self._q = np.zeros(n)
        self._v = np.zeros(n)
        assert limits.jerk is not None
        smooth = guard is not None or bool(np.isfinite(limits.jerk).any())
        self._smooth = SmoothMotion(limits, guard) if smooth else None
        self._started = False
        self._stamp: Any = None
        self._state_age = 0.0

    @property
    def started(self) -> bool:
        """Whether it has a set-point to start from."""
        return self._started

    @property
    def positions(self) -> Vector:
        """Last set-point, float64 [n]."""
        return self._q.copy()

    @property
    def velocities(self) -> Vector:
        """Velocity of the last set-point, float64 [n]."""
        return self._v.copy()

    @property
    def at_rest(self) -> bool:
        """Whether the last set-point stands still."""
        return self._smooth.at_rest if self._smooth else not self._v.any()

    def start(self, positions: Any) -> None:
        """Take the measured positions, at rest, as the last set-point.

        Raises:
            SafetyError: not n finite numbers, or outside the limits by more than the tolerance, or
                where the guard lets nothing move.
        """
        values, problem = self._read(positions)
        if values is None:
            raise SafetyError(f'cannot start: the measured positions are no command: {problem}')
        outside = self.limits.outside(values, TOLERANCE)
        if outside:
            raise SafetyError(f'cannot start: {outside}; move it back by hand')
        inside = np.clip(values, self.limits.low, self.limits.high)
        if self._smooth:
            self._smooth.start(inside)
        self._q, self._v = inside, np.zeros_like(inside)
        self._stamp, self._state_age = None, 0.0
        self._started = True

    def release(self) -> None:
        """Forget the last set-point; `start` is needed before the next."""
        self._started = False

    def apply(self, command: Any, state: Any, dt: Any) -> tuple[Vector, list[Violation]]:
        """The next set-point.

        Args:
            command: float64 [n] target positions, or None to decelerate to a hold. Anything that
                is not n finite numbers does that too.
            state: the newest measured RobotState; its `stamp` tells whether it is stale.
            dt: seconds since the previous call.

        Returns:
            float64 [n] set-point, and what made it differ from the command.

        Raises:
            SafetyError: it was not started.
        """
        if not self._started:
            raise SafetyError('the safety filter was not started with a measured state')
        seconds = _seconds(dt)
        if seconds is None:
            return self._q.copy(), [Violation('time', f'a tick of {dt!r} s is no time; repeated')]
        violations: list[Violation] = []
        target: Vector | None = None
        if command is not None:
            target, problem = self._read(command)
            if target is None:
                violations.append(Violation('command', f'{problem}; decelerating to a hold'))
        if not self._fresh(state, seconds):
            violations.append(
                Violation('stale', f'no new joint state for {self._state_age:.2f} s; holding')
            )
            target = None
        if seconds > self.max_dt:
            violations.append(
                Violation('time', f'a tick of {seconds:.3f} s is too long to move on; braking')
            )
            target = None
        self._advance(target, seconds, violations)
        return self._q.copy(), violations

    def _advance(self, target: Vector | None, dt: float, violations: list[Violation]) -> None:
        if self._smooth:
            self._advance_smoothly(self._smooth, target, dt, violations)
            return
        q, v, low, high = self._q, self._v, self.limits.low, self.limits.high
        step = self._a_max * dt
        wanted = np.zeros_like(q)
        if target is not None:
            inside = np.minimum(np.maximum(target, low), high)
            if (inside != target).any():
                violations.append(self._worst('position', target, low, high))
            wanted = self._towards(inside - q, step)
        bottom = np.maximum(v - step, np.maximum(-self._v_max, -self._reach(q - low, step)))
        top = np.minimum(v + step, np.minimum(self._v_max, self._reach(high - q, step)))
        chosen = np.minimum(np.maximum(wanted, bottom), top)
        if target is not None and (chosen != wanted).any():
            fast = np.abs(wanted) > self._v_max
            if fast.any():
                violations.append(self._worst('velocity', wanted, -self._v_max, self._v_max))
            if (np.abs(np.clip(wanted, -self._v_max, self._v_max) - v) > step).any():
                change = (wanted - v) / dt
                violations.append(self._worst('acceleration', change, -self._a_max, self._a_max))
        # The clip only takes away the last bit of rounding: (3) holds without it.
        self._q = np.minimum(np.maximum(q + chosen * dt, low), high)
        self._v = chosen

    def _advance_smoothly(
        self, motion: SmoothMotion, target: Vector | None, dt: float, violations: list[Violation]
    ) -> None:
        if target is not None:
            inside = np.minimum(np.maximum(target, self.limits.low), self.limits.high)
            if (inside != target).any():
                violations.append(
                    self._worst('position', target, self.limits.low, self.limits.high)
                )
            target = inside
        violations += [Violation(kind, words) for kind, words in motion.advance(target, dt)]
        self._q, self._v = motion.positions, motion.velocities
        if target is not None and (np.abs(self._v) >= (1 - 1e-3) * self.limits.velocity).any():
            wanted = (target - self._q) / dt
            if (np.abs(wanted) > self.limits.velocity).any():
                violations.append(
                    self._worst('velocity', wanted, -self.limits.velocity, self.limits.velocity)
                )

    def _towards(self, way: Vector, step: Vector) -> Vector:
        """Wanted velocities; nothing of what is promised depends on them."""
        return np.copysign(self._reach(np.abs(way), step), way)

    def _reach(self, distance: Vector, step: Vector) -> Vector:
        """Highest speed for one tick that leaves room to stop within `distance` >= 0."""
        a = self._a_max
        # The same as -step + sqrt(step^2 + 2 a distance), without its cancellation.
        room = 2 * a * np.maximum(distance, 0.0)
        return room / (step + np.sqrt(step * step + room))

    def _read(self, command: Any) -> tuple[Vector | None, str]:
        """The command as float64 [n], or None and what is wrong with it."""
        n = len(self.limits.names)
        try:
            raw = np.asarray(command)
        except Exception as error:  # whatever a foreign object raises, the robot must stop gently
            return None, f'the command cannot be read as numbers ({error})'
        if raw.dtype.kind not in 'fiu':
            return None, f'the command is {type(command).__name__}, not {n} numbers'
        if raw.shape != (n,):
            return None, f'the command has shape {raw.shape}; {n} joints need ({n},)'
        with np.errstate(over='ignore'):
            values = raw.astype(np.float64)
        if not np.isfinite(values).all():
            i = int(np.flatnonzero(~np.isfinite(values))[0])
            return None, f'the command of {self.limits.names[i]} is {values[i]}'
        return values, ''

    def _fresh(self, state: Any, dt: float) -> bool:
        """Whether the measured state changed within the timeout, counted in ticks."""
        if self.state_timeout is None:
            return True
        stamp = getattr(state, 'stamp', None)
        if type(stamp) is int and stamp != self._stamp:
            self._stamp, self._state_age = stamp, 0.0
        else:
            self._state_age += dt
        return self._state_age <= self.state_timeout

    def _worst(self, kind: str, values: Vector, low: Vector, high: Vector) -> Violation:
        excess = np.maximum(values - high, low - values)
        i = int(np.argmax(excess))
        limit = high[i] if values[i] > high[i] else low[i]
        return Violation(
            kind, f'{self.limits.names[i]} wants {values[i]:.4g}, its limit is {limit:.4g}'
        )


def _seconds(dt: Any) -> float | None:
    """`dt` as a usable number of seconds, or None when it is no time at all."""
    if isinstance(dt, bool) or not isinstance(dt, (int, float, np.integer, np.floating)):
        return None
    if not dt >= MIN_DT:  # NaN, negative, zero
        return None
    return min(float(dt), LONGEST) if dt < LONGEST else LONGEST


__all__ = ['Limits', 'SafetyError', 'SafetyFilter', 'Violation']
