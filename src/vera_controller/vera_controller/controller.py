"""The controller: chunks and measured states in, safe set-points out."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vera_controller.chunk_queue import (
    Anchor,
    ChunkQueue,
    ChunkRefusedError,
    ImplausibleChunkError,
)
from vera_controller.guard import make_guard
from vera_controller.home_motion import HomeMotion
from vera_controller.late_plans import from_rest
from vera_controller.limits import Limits, SafetyError, Vector
from vera_controller.measurement import DISORDER_NS, Measurement, News
from vera_controller.safety_filter import SafetyFilter, Violation
from vera_controller.state_machine import Cause, Event, State, StateMachine
from vera_core.clocks import NS_PER_S, MonotonicClock, ns_to_seconds, seconds_to_ns

if TYPE_CHECKING:
    from vera_controller.waypoints import Route
    from vera_core.chunk import ActionChunk
    from vera_core.clocks import Clock
    from vera_core.contract import Contract
    from vera_core.seams import RobotState

# A tick that lasts longer than so many periods only brakes.
LATE_PERIODS = 5
# Set-points repeated after the robot came to rest, in case one is lost; then there is silence.
SETTLE_TICKS = 20
# An anchor may be this much newer than the newest joint state [ns]: two topics, two latencies. One
# that continues the chunk being executed may lie as far ahead as that lasts.
LEAD_NS = NS_PER_S // 2
# Further than this from the last set-point, in seconds at the velocity limit: it was moved.
MOVED_S = 0.025


@dataclass(frozen=True)
class Setpoint:
    """What the robot gets: stamp [ns], positions and velocities float64 [n]."""

    stamp: int
    positions: Vector
    velocities: Vector
    violations: tuple[Violation, ...] = ()


@dataclass(frozen=True)
class ControllerStatus:
    """As vera_msgs/ControllerStatus; times in seconds.

    `limited` says in words what of the plan being executed is done less than asked; while RUNNING
    the reason says it, too.
    """

    state: State
    reason: str
    goal_id: int
    plan_seq: int
    remaining: float
    plan_age: float
    ticks: int
    clipped: int
    underruns: int
    rejected: int
    last_rejection: str
    goal_time: float = 0.0
    idle_fraction: float = 0.0
    limited: str = ''


@dataclass(frozen=True)
class _Ready:
    """A chunk that may be executed from its anchor; it arrived at `now_ns`."""

    chunk: ActionChunk
    now_ns: int
    anchor: Anchor


class Controller:
    """Chunk queue, state machine and safety filter. Its methods may be called from any thread.

    Live, call `tick` at the control rate; it measures the time between two ticks on `clock`. In
    lock-step no clock is read: `tick` answers one measured state, each lasts one period, and there
    is no set-point unless a chunk has a target for it. Once the robot is at rest with nothing to
    do, `tick` returns None: whoever moves it then (a hand, a reset simulation) is not fought.

    Args:
        contract: limits, channels, rate.
        clock: of the watchdogs; monotonic unless given.
        lockstep: as above.

    Raises:
        SafetyError: no limits. UnsupportedChannelError: a channel it cannot execute.
    """

    def __init__(
        self, contract: Contract, *, clock: Clock | None = None, lockstep: bool = False
    ) -> None:
        self.contract = contract
        self.lockstep = lockstep
        self.limits = Limits.from_contract(contract)
        self._clock = clock if clock is not None else MonotonicClock()
        self._period = contract.control.period
        self._period_ns = contract.control.period_ns
        self._measured = Measurement(contract, self.limits, self._clock, lockstep)
        self._filter = SafetyFilter(
            self.limits, max_dt=LATE_PERIODS * self._period, guard=make_guard(contract)
        )
        self._queue = ChunkQueue(contract, self._measured.history)
        self._machine = StateMachine()
        self._home: HomeMotion | None = None
        self._lock = threading.Lock()
        # Appending needs no lock: that is what `stop` and `estop` do, and nothing else.
        self._requests: deque[tuple[Event, str]] = deque()
        self._waiting: tuple[ActionChunk, int] | None = None
        self._limited: tuple[str, ...] = ()
        self._known_goal = 0
        self._last_now: int | None = None
        self._last_tick: int | None = None
        self._settled = 0
        self._ticks = self._clipped = self._underruns = self._rejected = 0
        self._last_rejection = ''
        self._pursuing = False  # a chunk of the goal in progress has come
        self._goal_time = self._idle_time = 0.0

    # What people ask for ----------------------------------------------------------------------

    def stop(self, reason: str = 'stop requested') -> None:
        """Decelerate to a hold from the next tick on; waits for no lock."""
        self._requests.append((Event.STOP, reason))

    def estop(self, reason: str = 'emergency stop requested') -> None:
        """Like `stop`, and stay so until `reset` and `enable`; waits for no lock."""
        self._requests.append((Event.ESTOP, reason))

    def reset(self) -> tuple[bool, str]:
        """STOPPED -> READY, ESTOP -> IDLE; whether that was so, and a sentence for people."""
        with self._lock:
            self._drain()
            if not self._machine.handle(Event.RESET, 'reset'):
                return False, f'nothing to reset: the controller is {self._machine.state.name}'
            self._measured.watchdog.reset()
            name = self._machine.state.name
            return True, f'{name}; call enable next' if name == 'IDLE' else name

    def enable(self) -> tuple[bool, str]:
        """IDLE -> READY; whether that was so, and a sentence for people."""
        with self._lock:
            self._drain()
            state, positions = self._machine.state, self._measured.positions
            if state is not State.IDLE:
                cure = '; call reset first' if state in (State.STOPPED, State.ESTOP) else ''
                return False, f'the controller is {state.name}{cure}'
            outside = None if positions is None else self.limits.outside(positions)
            if outside:
                return False, f'{outside}; move it back by hand, then enable'
            self._measured.watchdog.reset()
            self._machine.handle(Event.ENABLE, 'enabled')
            return True, 'READY'

    def home(self) -> tuple[bool, str]:
        """Move slowly to the home pose of the contract, through the same filter."""
        with self._lock:
            self._drain()
            problem = self._cannot_move()
            if problem is None and self._queue.goal_id is not None:
                problem = f'goal {self._queue.goal_id} is active; cancel it first'
            problem = problem or self._take_hold()
            if problem:
                return False, f'not moving home: {problem}'
            self._home = HomeMotion(self.contract.home_positions, self.limits, self._period_ns)
            self._machine.handle(Event.RUN, 'moving home')
            return True, 'moving home'

    # What the topics say ----------------------------------------------------------------------

    def on_goal(self, goal_id: int, active: bool) -> None:
        """The newest word about the goal: chunks of the active one are taken, of no other."""
        with self._lock:
            self._drain()
            self._known_goal = goal_id
            wanted = goal_id if active else None
            if wanted != self._queue.goal_id:
                self._queue.expect(wanted)
                self._pursuing = False
                reason = f'goal {goal_id} ended' if goal_id else 'no goal'
                if active:
                    reason = f'waiting for the first plan of goal {goal_id}'
                if self._home is None:
                    self._machine.handle(Event.FINISH, reason)
                if self._machine.holds_for(Cause.PLAN):
                    self._machine.handle(Event.RESUME, reason)
            ready = self._retry()
        self._execute(ready)

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> str | None:
        """Take over a chunk that arrived at `now_ns`.

        Returns:
            None, or why it is refused. A chunk that is ahead of the news about its goal or of the
            joint states waits for them; if it is refused later, `status` says so. In lock-step an
            implausible chunk counts as refused, and the robot holds for as long as it lasts.
        """
        with self._lock:
            self._drain()
            ready = self._take(chunk, now_ns)
        return self._execute(ready)

    def on_bad_chunk(self, problem: str) -> None:
        """A chunk came that cannot be read at all; `problem` in words."""
        with self._lock:
            self._refuse(problem)

    def on_state(self, state: RobotState) -> str | None:
        """Note a measured state; what is wrong with it or with the robot, or None."""
        with self._lock:
            self._drain()
            news, why = self._measured.take(state)
            if news is News.UNUSABLE:
                self._machine.handle(Event.HOLD, why, Cause.STATE)
                return why
            if news is News.OLD:
                return None
            if news is not News.NORMAL:
                self._lose_place(why, moved=news is not News.BACK)
            if self._machine.holds_for(Cause.STATE):
                self._machine.handle(Event.RESUME, 'joint states are back')
            problem = self.limits.outside(state.positions)
            if problem is None and self._machine.state is State.RUNNING:
                problem = self._measured.not_following()
            if problem and self._machine.may_move:
                self._halt(Event.STOP, problem)
            ready = self._retry()
        self._execute(ready)
        return problem

    def on_bad_state(self, problem: str) -> None:
        """A joint state came that cannot be used at all; `problem` in words."""
        with self._lock:
            self._drain()
            self._machine.handle(Event.HOLD, problem, Cause.STATE)

    # The clock ticks --------------------------------------------------------------------------

    def tick(self, now_ns: int) -> Setpoint | None:
        """The next set-point, to be reached one period after `now_ns`; None for silence."""
        with self._lock:
            self._drain()
            dt = self._period
            if not self.lockstep:
                dt = self._elapsed()
                self._watch(now_ns)
            target = self._target(now_ns)
            self._count(dt, target)
            if not self._filter.started or (target is None and self.lockstep):
                return None
            if target is not None or not self._filter.at_rest:
                self._settled = 0
            elif self._settled < SETTLE_TICKS:
                self._settled += 1
            else:
                return None
            positions, violations = self._filter.apply(target, None, dt)
            self._ticks += 1
            self._clipped += bool(violations)
            self._measured.sent(now_ns, positions)
            return Setpoint(now_ns, positions, self._filter.velocities, tuple(violations))

    def status(self, now_ns: int) -> ControllerStatus:
        """What it is doing and what it has done."""
        with self._lock:
            self._drain()
            queue, stamp, seen = self._queue, self._queue.stamp, self._queue.seen
            limited = '; '.join(self._limited) if stamp is not None else ''
            reason = self._machine.reason
            if limited and self._machine.state is State.RUNNING:
                reason = f'{reason}; {limited}'
            return ControllerStatus(
                state=self._machine.state,
                reason=reason,
                goal_id=(queue.goal_id or 0) if stamp is not None else 0,
                plan_seq=queue.plan_seq,
                remaining=queue.remaining(now_ns),
                plan_age=ns_to_seconds(now_ns - seen) if seen is not None else 0.0,
                ticks=self._ticks,
                clipped=self._clipped,
                underruns=self._underruns,
                rejected=self._rejected,
                last_rejection=self._last_rejection,
                goal_time=self._goal_time,
                idle_fraction=self._idle_time / self._goal_time if self._goal_time else 0.0,
                limited=limited,
            )

    @property
    def news(self) -> tuple[State, str, str]:
        """State, its reason, last rejection: to see that they changed. Waits for no lock."""
        return self._machine.state, self._machine.reason, self._last_rejection

    @property
    def at_rest(self) -> bool:
        """Whether the last set-point stands still, or there was none."""
        with self._lock:
            return not self._filter.started or self._filter.at_rest

    # Inside, with the lock held ---------------------------------------------------------------

    def _drain(self) -> None:
        while self._requests:
            self._halt(*self._requests.popleft())

    def _halt(self, event: Event, reason: str) -> None:
        if self._machine.handle(event, reason):
            self._queue.clear()
            self._home = self._waiting = None

    def _elapsed(self) -> float:
        last, self._last_tick = self._last_tick, self._clock.now()
        return self._period if last is None else ns_to_seconds(self._last_tick - last)

    def _watch(self, now_ns: int) -> None:
        if self._last_now is not None and now_ns < self._last_now - DISORDER_NS:
            back = ns_to_seconds(self._last_now - now_ns)
            self._lose_place(f'the clock went back by {back:.1f} s', moved=False)
        self._last_now = now_ns
        if stale := self._measured.stale():
            self._machine.handle(Event.HOLD, stale, Cause.STATE)

    def _target(self, now_ns: int) -> Vector | None:
        machine = self._machine
        if not machine.may_move or machine.holds_for(Cause.STATE):
            self._home = None
            return None
        time = now_ns + self._period_ns
        set_point = self._filter.positions
        if self._home is not None:
            target = self._home.sample(time, set_point)
            if target is None:
                self._home = None
                machine.handle(Event.FINISH, 'at home')
            return target
        target = self._queue.sample(time, set_point)
        if target is not None and machine.state is State.READY:
            machine.handle(Event.RUN, f'executing goal {self._queue.goal_id}')
        if target is None and machine.state is State.RUNNING and not self.lockstep:
            self._underruns += 1
            reason = f'ran out of actions after plan {self._queue.plan_seq}'
            machine.handle(Event.HOLD, reason, Cause.PLAN)
        return target

    def _count(self, dt: float, target: Vector | None) -> None:
        """How much of a goal's time there is something to execute; in lock-step time waits."""
        if self._pursuing and not (target is None and self.lockstep):
            self._goal_time += dt
            self._idle_time += dt * (target is None)

    def _cannot_move(self) -> str | None:
        machine = self._machine
        if not machine.may_move:
            return f'the controller is {machine.state.name} ({machine.reason})'
        if machine.holds_for(Cause.STATE):
            return f'the controller holds: {machine.reason}'
        return self._measured.stale()

    def _take(self, chunk: ActionChunk, now_ns: int) -> _Ready | str | None:
        """A chunk that may be executed, None if it waits, or why it is refused."""
        self._waiting = None
        problem = self._cannot_move()
        if problem is None and self._home is not None:
            problem = 'the robot is moving home'
        if problem is None:
            try:
                resting = not self._filter.started or self._filter.at_rest
                if resting and not self.lockstep and not self._queue.remaining(now_ns):
                    chunk = from_rest(chunk, self._measured.history, self.limits)
                if self._must_wait(chunk, now_ns):
                    self._waiting = (chunk, now_ns)
                    return None
                return _Ready(chunk, now_ns, self._queue.anchor(chunk))
            except ChunkRefusedError as refused:
                problem = str(refused)
        return self._refuse(problem)

    def _execute(self, ready: _Ready | str | None) -> str | None:
        """Without the lock: inverse kinematics takes longer than a tick may wait."""
        if not isinstance(ready, _Ready):
            return ready
        chunk, route, implausible = ready.chunk, None, None
        try:
            route = self._queue.solve(chunk, ready.anchor)
        except ImplausibleChunkError as error:
            implausible = str(error)
        with self._lock:
            self._drain()
            problem = self._cannot_move()
            if problem is None and self._home is not None:
                problem = 'the robot is moving home'
            if problem is None and route is None and not self.lockstep:
                problem = implausible  # the robot holds until the next plan
            if problem is None:
                problem = self._take_hold()
            if problem is None:
                try:
                    self._offer(ready, route)
                except ChunkRefusedError as refused:
                    problem = str(refused)
                else:
                    if implausible is not None:
                        # In lock-step time would stand still; so the robot does, for its time.
                        self._refuse(implausible)
                    return None
            return self._refuse(problem)

    def _offer(self, ready: _Ready, route: Route | None) -> None:
        arrival, hold = self._arrival(ready.now_ns), self._filter.positions
        splice = self._queue.offer(ready.chunk, arrival, hold, still=route is None, route=route)
        self._limited = splice.notes
        if not self._pursuing:
            self._pursuing, self._goal_time, self._idle_time = True, 0.0, 0.0
        self._machine.handle(Event.RUN, f'executing goal {ready.chunk.goal_id}')

    def _refuse(self, problem: str) -> str:
        self._rejected += 1
        self._last_rejection = problem
        return problem

    def _arrival(self, now_ns: int) -> int:
        """In lock-step everything happens at the time of the newest state."""
        newest = self._measured.stamp if self.lockstep else None
        return now_ns if newest is None else newest

    def _must_wait(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Whether a chunk is ahead of what it needs; raises ChunkRefusedError if it is hopeless."""
        if chunk.goal_id > self._known_goal:
            return True
        self._queue.check(chunk, self._arrival(now_ns))
        newest = self._measured.stamp
        lead = 0 if newest is None else chunk.stamp - newest
        covered = seconds_to_ns(self._queue.remaining(newest or now_ns))
        return lead > 0 and (self.lockstep or lead <= max(LEAD_NS, covered))

    def _retry(self) -> _Ready | str | None:
        if self._waiting is None:
            return None
        chunk, arrival = self._waiting
        # What it fades from is the target of now, however early it came.
        return self._take(chunk, max(arrival, self._measured.stamp or arrival))

    def _take_hold(self) -> str | None:
        """Make sure that the filter starts from where the robot is; what prevents that, or None."""
        measured, safety = self._measured.positions, self._filter
        if measured is None:
            return 'no joint state is known yet'
        away = np.abs(measured - safety.positions) > MOVED_S * self.limits.velocity
        gripper = self.limits.gripper
        assert gripper is not None
        if safety.started and not (safety.at_rest and (away & ~gripper).any()):
            return None
        if safety.started:
            # Fingers are where the thing is that they hold: they go on pressing.
            measured = np.where(gripper, safety.positions, measured)
        try:
            safety.start(measured)
        except SafetyError as error:
            return str(error)
        self._measured.forget_sent()
        return None

    def _lose_place(self, reason: str, moved: bool) -> None:
        """Nothing planned is true any more. If the robot was `moved`, set-points would fight it."""
        self._queue.clear()
        self._home = None
        if moved:
            self._queue.forget()
            self._filter.release()
        if self.lockstep or self._queue.goal_id is None:
            self._machine.handle(Event.FINISH, reason)
        elif self._machine.state is State.RUNNING:
            self._machine.handle(Event.HOLD, reason, Cause.PLAN)


__all__ = ['Controller', 'ControllerStatus', 'Setpoint']
