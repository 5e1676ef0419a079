"""Set-points on a curve with limited jerk, from which the robot can always stop in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vera_controller.guard import Guard
from vera_controller.limits import Limits, Vector

# Joints without a limit of jerk: acceleration changes within microseconds.
NO_JERK = 1e6
# Limits are approached to this share only, so that rounding never crosses them.
MARGIN = 1e-6
# Closer than this to its target [rad or m] a joint comes to rest.
THERE = 1e-9
# Accelerations that are tried in one tick: a coarse row, then a finer one inside it.
_COARSE, _FINE = np.linspace(0, 1, 9)[:, None], np.linspace(0, 1, 7)[:, None]
# Where a stop is looked at, as shares of its time: at equal distances if it brakes evenly.
_LOOK = 1 - np.sqrt(1 - np.arange(6) / 5)
# Shares of the way from stopping to going on that are tried where going on is not allowed.
_SHARES = np.array([0.75, 0.5, 0.25, 0.1])[:, None]


@dataclass(frozen=True)
class _State:
    """Position, velocity and acceleration, float64 [..., n] each."""

    q: Vector
    v: Vector
    a: Vector


class _Stop:
    """The quickest way of each joint to rest: jerk down, braking, jerk up (three pieces).

    With the sign s of v + a|a|/2J, what is left of the speed when the acceleration is taken back,
    the first piece takes the acceleration to -s A', the second keeps it, the third takes it to 0;
    A' = min(A, sqrt(J s v + a^2/2)), and the second piece is there only if A' = A.
    """

    def __init__(self, state: _State, A: Vector, J: Vector) -> None:
        self.state = state
        left = state.v + state.a * np.abs(state.a) / (2 * J)
        sign = np.sign(left)
        self._s = np.where(sign == 0, -np.sign(state.a), sign)
        self._v, self._a, self._J = self._s * state.v, self._s * state.a, J
        peak = np.maximum(J * self._v + self._a * self._a / 2, 0.0)
        root = np.sqrt(peak)
        capped = np.minimum(root, A)
        self._t1 = np.maximum(self._a + capped, 0.0) / J
        self._t2 = np.where(root > A, (peak - A * A) / (J * A), 0.0)
        self._t3 = capped / J
        self.time = self._t1 + self._t2 + self._t3
        # The speed that the acceleration still leads to.
        self.speed = np.maximum(np.abs(left), np.abs(state.v))

    def at(self, t: Vector | float) -> _State:
        """Where it is after `t` seconds, which broadcast with [..., n]."""
        J, a, v = self._J, self._a, self._v
        u1 = np.minimum(t, self._t1)
        u2 = np.minimum(np.maximum(t - self._t1, 0.0), self._t2)
        u3 = np.minimum(np.maximum(t - self._t1 - self._t2, 0.0), self._t3)
        a1 = a - J * u1
        v1 = v + (a - J * u1 / 2) * u1
        v2 = v1 + a1 * u2
        x = (v + (a / 2 - J * u1 / 6) * u1) * u1 + (v1 + a1 * u2 / 2) * u2
        x += (v2 + (a1 / 2 + J * u3 / 6) * u3) * u3
        moving = t < self.time
        return _State(
            self.state.q + self._s * x,
            np.where(moving, self._s * (v2 + (a1 + J * u3 / 2) * u3), 0.0),
            np.where(moving, self._s * (a1 + J * u3), 0.0),
        )

    def span(self) -> tuple[Vector, Vector, Vector]:
        """Lowest and highest position on the way, and the last, float64 [..., n] each."""
        q, J = self.state.q, self._J
        v1 = self._v + (self._a - J * self._t1 / 2) * self._t1
        a1 = self._a - J * self._t1
        v2 = v1 + a1 * self._t2
        x = (self._v + (self._a / 2 - J * self._t1 / 6) * self._t1) * self._t1
        x += (v1 + a1 * self._t2 / 2) * self._t2
        end = q + self._s * (x + (v2 + (a1 / 2 + J * self._t3 / 6) * self._t3) * self._t3)
        # It first moves the other way where the acceleration is about to turn it round.
        back = np.maximum(-self._v, 0.0)
        if not back.any():
            return np.minimum(q, end), np.maximum(q, end), end
        root = np.sqrt(np.maximum(self._a * self._a - 2 * J * back, 0.0))
        t = np.where(back > 0, np.maximum(self._a - root, 0.0) / J, 0.0)
        turn = q + self._s * (self._v + (self._a / 2 - J * t / 6) * t) * t
        return np.minimum(np.minimum(q, end), turn), np.maximum(np.maximum(q, end), turn), end


class SmoothMotion:
    """Chooses set-points that lie on a curve within limits, and can stop within them.

    The curve q(t) has a piecewise constant third derivative. The invariant: **after every tick the
    stop from there (`_Stop`) has been shown to keep |v| <= V, |a| <= A, |j| <= J, lo <= q <= hi and
    all that the guard looks at.** A tick of any length dt tries to go on: it takes the acceleration
    to a new value a1 at full jerk and keeps it for the rest of the tick, with the a1 that brings
    the end of the *next* stop closest to the target without crossing it. If the invariant can be
    shown for where that ends, it is taken. If not, points between it and the stop are tried: both
    obey V, A and J and so do all their mixtures, since these sets are convex. If none will do, the
    tick takes the next dt of the stop that was shown to be good before. What is left of a stop is
    the quickest stop from there, so the invariant holds again. At the start the stop is to stay.
    The argument never compares two dt. QED

    What follows: any four set-points have divided differences within V, A and J, for ticks of any
    length, since they lie on one curve with such derivatives.

    The guard looks at a stop in six points. A path that bends with a radius of half a metre leaves
    the chord between two of them by less than `guard.SAG`, which it adds to its limits.

    Args:
        limits: of the joints.
        guard: of tool and links, or None.
    """

    def __init__(self, limits: Limits, guard: Guard | None = None) -> None:
        assert limits.jerk is not None
        n = len(limits.names)
        self._limits, self._guard = limits, guard
        self._V = limits.velocity * (1 - MARGIN)
        self._A = limits.acceleration * (1 - MARGIN)
        self._J = np.minimum(limits.jerk, NO_JERK) * (1 - MARGIN)
        self._now = _State(np.zeros(n), np.zeros(n), np.zeros(n))
        self._stop = _Stop(self._now, self._A, self._J)
        self._broken = np.zeros(0)
        self._tool = np.zeros((4, 4))
        self._haste = 0.0

    @property
    def positions(self) -> Vector:
        """Last set-point, float64 [n]."""
        return self._now.q

    @property
    def velocities(self) -> Vector:
        """Of the curve at the last set-point, float64 [n]."""
        return self._now.v

    @property
    def at_rest(self) -> bool:
        """Whether it stands still there, and stays."""
        return not (self._now.v.any() or self._now.a.any())

    def start(self, q: Vector) -> None:
        """Stand at q [n], which lies within the limits; SafetyError if the guard forbids that."""
        if self._guard is not None:
            self._guard.check_start(q)
            broken, tool = self._guard.look(q[None])
            self._broken, self._tool, self._haste = broken[0], tool[0], 0.0
        self._take(_State(q.copy(), np.zeros_like(q), np.zeros_like(q)))

    def advance(self, target: Vector | None, dt: float) -> list[tuple[str, str]]:
        """Go on for `dt` s; [(kind, words)] of what kept the guard from letting it.

        Args:
            target: float64 [n] within the position limits, or None to stop.
            dt: s, positive.
        """
        there = target is None or bool((np.abs(target - self._now.q) <= THERE).all())
        if there and self.at_rest:
            return []
        stop = self._stop.at(dt)
        if target is None:
            go, goes = stop, False
        else:
            go, goes = self._towards(target, dt, stop)
        if self._guard is None or not goes:
            self._see(go, dt)
            self._take(go)
            return []
        return self._guarded(go, stop, dt)

    def _take(self, state: _State) -> None:
        low, high = self._limits.low, self._limits.high
        # The clip only takes away the last bit of rounding.
        self._now = _State(np.minimum(np.maximum(state.q, low), high), state.v, state.a)
        self._stop = _Stop(self._now, self._A, self._J)

    def _towards(self, target: Vector, dt: float, stop: _State) -> tuple[_State, bool]:
        """The best new state of each joint on its own, and whether one does not just stop."""
        q, a = self._now.q, self._now.a
        way = target - self._stop.span()[2]
        # Mirrored, so that every joint has to go up.
        up = np.where(way < 0, -1.0, 1.0)
        lowest = np.maximum(up * a - self._J * dt, -self._A)
        highest = np.minimum(up * a + self._J * dt, self._A)

        def tried(a1: Vector) -> tuple[_State, Vector, NDArray[np.bool_]]:
            """New states, where their stops end beyond the target, and whether they may be."""
            state = self._ramp(a1 * up, dt)
            after = _Stop(state, self._A, self._J)
            low, high, end = after.span()
            beyond = up * (end - target)
            allowed = (
                (beyond <= THERE)
                & (after.speed <= self._V)
                & (np.abs(state.q - q) <= self._V * dt)
                & (low >= self._limits.low)
                & (high <= self._limits.high)
            )
            return state, beyond, allowed

        columns = np.arange(q.size)

        def bracket(
            low: Vector, high: Vector, row: Vector
        ) -> tuple[Vector, Vector, Vector, Vector, NDArray[np.bool_]]:
            """The highest of a row of accelerations that is allowed, and the next above it."""
            grid = low + row * (high - low)
            _, beyond, allowed = tried(grid)
            last = len(row) - 1 - np.argmax(allowed[::-1], axis=0)
            following = np.minimum(last + 1, len(row) - 1)
            found = allowed[last, columns]
            return (
                grid[last, columns], grid[following, columns],
                beyond[last, columns], beyond[following, columns], found,
            )

        best, above, _, _, found = bracket(lowest, highest, _COARSE)
        best, above, below_by, above_by, found2 = bracket(best, above, _FINE)
        found &= found2
        # The end of a stop is a convex function of the acceleration: the chord does not cross.
        rise = above_by - below_by
        share = np.divide(-below_by, rise, out=np.zeros_like(rise), where=rise > 1e-15)
        between = best + np.clip(share, 0, 1) * (above - best)
        state, _, allowed = tried(np.stack([between, best]))
        row = np.where(allowed[0], 0, 1)
        found &= allowed[row, columns] & (np.abs(way) > THERE)
        return _State(
            np.where(found, state.q[row, columns], stop.q),
            np.where(found, state.v[row, columns], stop.v),
            np.where(found, state.a[row, columns], stop.a),
        ), bool(found.any())

    def _ramp(self, a1: Vector, dt: float) -> _State:
        """After dt, the acceleration taken to a1 [..., n] at full jerk at once."""
        q, v, a = self._now.q, self._now.v, self._now.a
        less = a - a1
        t = np.abs(less) / self._J
        return _State(
            q + (v + a1 * dt / 2) * dt + less * t * (dt / 2 - t / 6),
            v + a1 * dt + less * t / 2,
            a1,
        )

    # What the guard says ----------------------------------------------------------------------

    def _guarded(self, go: _State, stop: _State, dt: float) -> list[tuple[str, str]]:
        why = self._choose(_State(go.q[None], go.v[None], go.a[None]), dt)
        if why is None:
            return []
        mixed = _State(
            stop.q + _SHARES * (go.q - stop.q),
            stop.v + _SHARES * (go.v - stop.v),
            stop.a + _SHARES * (go.a - stop.a),
        )
        if self._choose(mixed, dt) is not None:
            self._see(stop, dt)
            self._take(stop)
        return [why]

    def _choose(self, states: _State, dt: float) -> tuple[str, str] | None:
        """Take the first of the states [C, n] that is allowed; what is wrong with the last if none.

        Allowed: the stop from there keeps the limits of the joints, and the guard's.
        """
        assert self._guard is not None
        after = _Stop(states, self._A, self._J)
        low, high, _ = after.span()
        within = (
            (after.speed <= self._V) & (low >= self._limits.low) & (high <= self._limits.high)
        ).all(axis=1)
        times = after.time.max(axis=1)[:, None] * _LOOK
        on_the_way = _Stop(_State(*(x[:, None] for x in (states.q, states.v, states.a))),
                           self._A, self._J).at(times[..., None]).q
        looked, tools = self._guard.look(on_the_way.reshape(-1, states.q.shape[1]))
        why = ('position', 'no way to go on leaves room to stop')
        for i in np.flatnonzero(within):
            part = slice(i * len(_LOOK), (i + 1) * len(_LOOK))
            # What is broken already may not get worse.
            worst = looked[part].max(axis=0, initial=-np.inf)
            over = worst - np.maximum(self._broken, 0.0)
            if over.size and over.max() > 0:
                k = int(np.argmax(over))
                why = self._guard.name(k, float(worst[k]))
                continue
            frames = np.concatenate([self._tool[None], tools[part]])
            haste = self._guard.speeding(frames, np.concatenate([[dt], np.diff(times[i])]))
            if haste.max() > max(1.0, self._haste):
                why = 'tool', f'the tool would move at {haste.max():.2f} times its speed limit'
                continue
            self._broken, self._tool = looked[i * len(_LOOK)], tools[i * len(_LOOK)]
            self._haste = float(haste[0])
            self._take(_State(states.q[i], states.v[i], states.a[i]))
            return None
        return why

    def _see(self, state: _State, dt: float) -> None:
        """Note where the tool is, where nothing had to be asked."""
        if self._guard is None:
            return
        broken, tool = self._guard.look(state.q[None])
        frames = np.concatenate([self._tool[None], tool])
        self._haste = float(self._guard.speeding(frames, np.array([dt]))[0])
        self._broken, self._tool = broken[0], tool[0]


__all__ = ['SmoothMotion']
