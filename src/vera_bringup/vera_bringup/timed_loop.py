"""The whole loop in one process while the world goes on: what a slow planner does to a robot.

Like `lockstep.LockstepLoop` the very classes of the nodes in simulated time, but a plan asked for
at t comes at t + latency, and until then the controller ticks as it does live. Nothing is measured
with a real clock, so the same episode gives the same numbers on every machine.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup.dream_judge import DreamJudge
from vera_bringup.film import Film
from vera_bringup.lockstep import AGE_TICKS, instruction, one_thread, outcome
from vera_bringup.statistics import REACHED, EpisodeResult, jerk_squares, root_mean
from vera_controller.controller import Controller
from vera_controller.state_machine import State
from vera_core.chunk import ActionChunk
from vera_core.clocks import ManualClock, ns_to_seconds, seconds_to_ns
from vera_core.gates import PlanRejectedError
from vera_core.seeds import plan_seed
from vera_drivers.sim_world import make_world
from vera_jidm.servo import Dream, VisualServo
from vera_planner.execution import Execution, Latency
from vera_planner.goal import GoalKeeper, PlanRefusedError, SettleRule
from vera_planner.observer import Observer
from vera_planner.plan_checks import Reality, unrealised
from vera_planner.planning import (
    PlanRequest,
    committed_frames,
    continued,
    imagine,
    knows_pending,
    rooted,
    waited,
)
from vera_planner.scheduler import PlanScheduler, replan_period

if TYPE_CHECKING:
    from vera_core.contract import Contract
    from vera_core.seams import Image, Plan, VideoPlanner
    from vera_drivers.sim_world import SimWorld

MODES = ('sync', 'async', 'servo')
TRANSLATE_S = 0.05  # from a plan or a camera frame to its chunk
SERVO_HZ = 10.0
MOVING = 0.01  # share of the velocity limit above which a joint counts as moving
AFTER_S = 1.5  # an episode goes on so long after the goal has ended


@dataclass(frozen=True)
class Timing:
    """How the loop is closed.

    Attributes:
        mode: 'sync' plans when the last plan has been executed (stop and go); 'async' plans while
            it is being executed; 'servo' does too, and follows the planned frames by sight.
        latency: of the planner [s].
        pending: whether planners that can are told the frames still to be executed.
        horizon: [s] that a plan reaches at least; None for what the latency needs.
        servo_rate: corrections a second.
    """

    mode: str
    latency: float = 0.0
    pending: bool = False
    horizon: float | None = None
    servo_rate: float = SERVO_HZ

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f'no mode {self.mode!r}; there are {", ".join(MODES)}')
        if not (math.isfinite(self.latency) and self.latency >= 0):
            raise ValueError(f'a latency of {self.latency} s; it must be a number, at least 0')
        if not 1 <= self.servo_rate <= 20:
            raise ValueError(f'a servo rate of {self.servo_rate} Hz; it must be 1 to 20')

    def frames(self, contract: Contract) -> int:
        """Frames that a plan needs: until the actions of the next one are there, and one more."""
        video = contract.video
        if self.mode == 'sync':
            return video.committed
        seconds = self.horizon
        if seconds is None:
            between = max(self.latency, replan_period(contract))
            seconds = between + self.latency + TRANSLATE_S + video.frame_period
        return max(video.look_ahead, math.ceil(seconds / video.frame_period - 1e-9))


@dataclass(frozen=True)
class TimedEpisode(EpisodeResult):
    """What an episode was like; `jerk` is that of the way.

    Attributes:
        way: [s] from the first action until the goal was reached, or the end.
        moving: [s] of the way in which some joint moved.
        jerks: float64 [J], of `jerk_squares` over the way.
        ages: float64 [A], age of the plan at each tick that executed one [s].
        goal_time, idle: as the controller counts them [s].
        plans: made; fallbacks: share of servo steps that did not believe the flow.
    """

    way: float = 0.0
    moving: float = 0.0
    jerks: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False)
    ages: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False)
    goal_time: float = 0.0
    idle: float = 0.0
    plans: int = 0
    fallbacks: float = 0.0


class TimedLoop:
    """Runs episodes; one at a time.

    Args:
        contract: of a simulated embodiment.
        make_planner: makes the planner, given what tells an oracle the future.
        translator: with `explain`.
        base_seed: of the planner's noise.
        judge: whether each executed dream is compared with what the expert would do.
        film: keep the pictures of each episode.
    """

    def __init__(
        self,
        contract: Contract,
        make_planner: Callable[[Any], VideoPlanner],
        translator: Any,
        base_seed: int = 0,
        judge: bool = False,
        film: bool = False,
    ) -> None:
        self.contract = contract
        self.world = make_world(contract)
        self.planner = make_planner(self._future)
        self.translator = translator
        self.base_seed = base_seed
        self.film = film
        self.judge = DreamJudge(self.world) if judge else None

    def _future(self, prompt: str, anchor: int, frames: int) -> Image:
        """The oracle's provider."""
        return self.world.expert_future(prompt, anchor, frames)

    def run(
        self,
        seed: int,
        timing: Timing,
        *,
        index: int = 0,
        held_out: bool = False,
        frames: int | None = None,
        whole: bool = False,
    ) -> TimedEpisode:
        """One episode of the scene and the words of `seed`.

        Args:
            seed: of the scene and of the instruction.
            timing: how the loop is closed.
            index: of the episode.
            held_out: whether to phrase it as no training did.
            frames: frame periods until it counts as not reached; the contract's goal time if None.
            whole: go on where more of a goal can be covered than is asked for, see SimWorld.over.
        """
        self.world.reset(seed, self.world.next_episode())
        prompt, target = instruction(self.world, seed, held_out)
        seconds = self.contract.goal.timeout
        if frames is not None:
            seconds = frames * self.contract.video.frame_period
        return _Run(self, timing, index, prompt, target, seconds, whole).run()


class _Run:
    """The state of one episode."""

    def __init__(
        self, loop: TimedLoop, timing: Timing, index: int, prompt: str, target: str,
        seconds: float, whole: bool,
    ) -> None:
        contract = loop.contract
        self.index, self.seconds, self.whole = index, seconds, whole
        self.loop, self.contract, self.timing = loop, contract, timing
        self.world: SimWorld = loop.world
        self.prompt, self.target = prompt, target
        self.clock = ManualClock()
        self.observer = Observer(contract, self.clock)
        self.controller = Controller(contract, clock=self.clock)
        self.scheduler = PlanScheduler.live(replan_period(contract))
        self.execution = Execution(contract)
        self.latency = Latency()
        self.goals = GoalKeeper(SettleRule.of(contract))
        self.servo = VisualServo(loop.translator, contract) if timing.mode == 'servo' else None
        self.servo_due = 0
        self.frames = timing.frames(contract)
        self.pending = timing.pending and knows_pending(loop.planner)
        self.planning = False
        self.warm_start: Any = None
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.count = 0
        self.last_outside = self.world.stamp
        self.begin: int | None = None
        self.commands: list[NDArray[np.float64]] = []
        self.stamps: list[int] = []
        self.moved: list[bool] = []
        self.ages: list[float] = []
        self.noted_ages: list[float] = []
        self.replan_ms: list[float] = []
        self.reality = Reality(contract.video.frame_period_ns)
        self.realised: list[float] = []
        self.share: float | None = None  # of the plan in execution, as far as it came
        self.right: list[bool] = []
        self.film = Film(contract) if loop.film else None

    @property
    def now(self) -> int:
        return self.world.stamp

    def run(self) -> TimedEpisode:
        world = self.world
        start = self.now
        end = start + seconds_to_ns(self.seconds)
        self.way_to_go = self._distance()
        self._sense()
        self.controller.enable()
        goal, _ = self.goals.begin(self.prompt)
        self.goal_id = goal.goal_id
        self.controller.on_goal(self.goal_id, True)
        while self.now < end and not (world.over if self.whole else world.reached):
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
            if not self.goals.goal.active:
                self.controller.on_goal(self.goal_id, False)
                end = min(end, self.now + seconds_to_ns(AFTER_S))
            else:
                self._plan_if_due()
                self._servo_if_due()
            self._tick()
        return self._result(start)

    # The world -------------------------------------------------------------------------------

    def _sense(self) -> None:
        due = self.world.cameras_due()
        for camera in due:
            self.observer.add(camera.name, self.world.image(camera), self.now)
        promised = self.reality.promised(self.now) if due else None
        if promised is not None:
            self.share = 1 - unrealised(*promised, self.world.canvas())
        self.controller.on_state(self.world.robot_state())
        if self.film is not None:
            self.film.see(self.world)

    def _distance(self) -> float:
        return float(self.world.env.distances()[self.world.env.objects.index(self.target)])

    def _tick(self) -> None:
        set_point = self.controller.tick(self.now)
        status = self.controller.status(self.now)
        running = status.state is State.RUNNING
        self.execution.heard(running, status.plan_seq, self.now)
        if running and status.plan_seq:
            self.begin = self.now if self.begin is None else self.begin
            self.ages.append(status.plan_age)
            if len(self.commands) % AGE_TICKS == 0:
                self.noted_ages.append(status.plan_age)
        state = self.world.robot_state()
        speed = np.abs(state.velocities) / self.contract.velocity_limits
        last = self.commands[-1] if self.commands else state.positions
        self.commands.append(last if set_point is None else set_point.positions)
        self.stamps.append(self.now)
        self.moved.append(bool((speed > MOVING).any()))
        self.world.step(self.commands[-1])
        self.clock.advance(self.contract.control.period_ns)
        self._sense()
        truth = self.world.truth()
        # Staying in the goal is no standing still; covering it takes no stay.
        stays = self.world.success_coverage is None
        if not (stays and truth.inside[truth.objects.index(self.target)]):
            self.last_outside = self.now

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + seconds_to_ns(seconds), self.count, what))

    # Plans -----------------------------------------------------------------------------------

    def _plan_if_due(self) -> None:
        newest = self.observer.newest
        assert newest is not None
        if self.planning:
            return
        if self.timing.mode == 'sync':
            if not self.execution.over(newest):
                return
        elif not self.scheduler.due(self.goal_id, newest):
            return
        plans = self.goals.goal.plans
        request = PlanRequest(
            context=self.observer.context(),
            anchor=newest,
            prompt=self.prompt,
            goal_id=self.goal_id,
            plan_index=plans,
            seed=plan_seed(self.loop.base_seed, self.world.seed, plans),
            warm_start=self.warm_start,
            horizon=self.frames,
        )
        if self.pending and self.timing.mode != 'sync':
            request = continued(request, self.observer, self.execution, self.latency.ns)
        self.scheduler.began(self.goal_id, newest)
        self.planning = True
        asked = self.now
        try:
            plan = imagine(self.loop.planner, request, self.contract)
        except PlanRefusedError:
            self._after(self.timing.latency, lambda: self._finish())
            return
        except PlanRejectedError as error:
            reason = str(error)
            self._after(self.timing.latency, lambda: self._rejected(reason))
            return
        self._after(self.timing.latency, lambda: self._arrived(request, plan, asked))

    def _finish(self) -> None:
        self.goals.cancel('refused')

    def _rejected(self, reason: str) -> None:
        """The planner itself finds its plan implausible: another one at once."""
        self.planning, self.warm_start = False, None
        self.goals.rejected(reason)
        self.scheduler.again()

    def _arrived(self, request: PlanRequest, plan: Plan, asked: int) -> None:
        self.planning = False
        self.replan_ms.append(plan.latency * 1e3)
        self.latency.add(self.now - asked + seconds_to_ns(TRANSLATE_S))
        if not self.goals.planned(plan.motion, request.context[-1]).active:
            return
        self.goals.accepted()
        self.warm_start = plan.warm_start
        request, plan = rooted(request, plan, self.contract)
        request = waited(request, self.observer, self.execution)
        frames = plan.frames[: committed_frames(plan, request, self.contract)]
        seq = self.goals.goal.plans
        newest = self.observer.newest
        assert newest is not None
        self.execution.sent(seq, request.anchor, frames, newest, continued=request.lead > 0)
        self._dreamt(request, frames)
        if self.servo is not None:
            period = self.contract.video.frame_period_ns
            self.servo.take(
                Dream(
                    self.goal_id, seq, request.start, frames, request.anchor, period, request.seen
                )
            )
            self.servo_due = 0
            return
        self._translate(request, frames, seq)

    def _dreamt(self, request: PlanRequest, frames: Image) -> None:
        """Remember what is to come, and ask whether it is what was asked for."""
        self.realised += [] if self.share is None else [self.share]
        self.share = None
        self.reality.dreamt(request.anchor, request.start, frames)
        if self.film is not None:
            self.film.dream(request.anchor, frames)
        if self.loop.judge is not None:
            committed = frames[: self.contract.video.committed]
            right = self.loop.judge.right(self.prompt, request.anchor, request.start, committed)
            self.right += [] if right is None else [right]

    def _translate(self, request: PlanRequest, frames: Image, seq: int) -> None:
        translator = self.loop.translator
        state = self.world.positions_at(request.anchor) if translator.needs_state else None
        with one_thread():
            translation = translator.translate(request.start, frames, state)
        chunk = ActionChunk(
            stamp=request.anchor,
            goal_id=self.goal_id,
            plan_seq=seq,
            channels=self.contract.channel_names,
            period=self.contract.video.frame_period,
            values=translation.values,
            residual=translation.residual,
            observability=translation.observability,
            observed=request.seen,
        )
        self._after(TRANSLATE_S, lambda: self._execute(chunk))

    def _execute(self, chunk: ActionChunk) -> None:
        # A refusal is counted by the controller; the robot holds until the next chunk.
        self.controller.on_chunk(chunk, self.now)

    def _servo_if_due(self) -> None:
        newest = self.observer.newest
        if self.servo is None or newest is None or newest < self.servo_due:
            return
        state = self.world.positions_at(newest)
        with one_thread():
            correction = self.servo.step(self.observer.context()[-1], newest, state)
        if correction is not None:
            self.servo_due = newest + seconds_to_ns(1 / self.timing.servo_rate)
            chunk = correction.chunk
            self._after(TRANSLATE_S, lambda: self._execute(chunk))

    # What came of it -------------------------------------------------------------------------

    def _result(self, start: int) -> TimedEpisode:
        world, status = self.world, self.controller.status(self.now)
        found = outcome(world.reached, self.target, self.goals.goal)
        stamps = np.array(self.stamps)
        begin = self.now if self.begin is None else self.begin
        end = self.last_outside if found == REACHED else self.now
        way = (stamps >= begin) & (stamps < end)
        period = self.contract.control.period
        jerks = jerk_squares(np.array(self.commands)[way], period)
        servo = self.servo
        return TimedEpisode(
            index=self.index,
            seed=world.seed,
            prompt=self.prompt,
            target=self.target,
            outcome=found,
            progress=world.progress(self.target, self.way_to_go),
            duration=ns_to_seconds(self.now - start),
            replan_ms=tuple(self.replan_ms),
            coverage=world.best_coverage,
            reached=world.reached,
            left=self._distance(),
            reason=self.goals.goal.message,
            plan_ages=tuple(self.noted_ages),
            underruns=status.underruns,
            jerk=root_mean(jerks),
            setpoints=status.ticks,
            clipped=status.clipped,
            dreams=tuple(self.right),
            realised=tuple(self.realised),
            film=self.film.frames() if self.film is not None else None,
            way=float(way.sum() * period),
            moving=float(np.array(self.moved)[way].sum() * period),
            jerks=jerks,
            ages=np.array(self.ages),
            goal_time=status.goal_time,
            idle=status.idle_fraction * status.goal_time,
            plans=self.goals.goal.plans,
            fallbacks=servo.fallbacks / servo.steps if servo and servo.steps else 0.0,
        )
