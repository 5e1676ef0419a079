"""The whole loop in one process and in simulated time: Algorithm 1 without ROS.

The very classes of the nodes: observer, scheduler, planner, translator, controller (queue, state
machine, safety filter) and simulated world, called in the order in which the nodes' messages
arrive in lock-step. So the graph with `lockstep: true` gives the same actions bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_bringup.dream_judge import DreamJudge
from vera_bringup.film import Film
from vera_bringup.selfplay_motion import REACH
from vera_bringup.statistics import (
    IMPLAUSIBLE,
    NO_MOTION,
    REACHED,
    RESTED,
    STOPPED,
    TIME,
    WRONG,
    EpisodeResult,
    jerk_squares,
    root_mean,
)
from vera_controller.controller import Controller
from vera_controller.state_machine import State
from vera_core.chunk import ActionChunk
from vera_core.clocks import ManualClock, ns_to_seconds
from vera_core.gates import PlanRejectedError, Verdict
from vera_core.seeds import mix, plan_seed
from vera_drivers.sim_world import SimWorld, make_world
from vera_jidm.plan_gate import PlanGate
from vera_planner.goal import Goal, GoalCode, GoalKeeper, GoalState, PlanRefusedError, SettleRule
from vera_planner.observer import Observer
from vera_planner.plan_checks import PlanChecks, Reality
from vera_planner.planning import PlanRequest, imagine_checked
from vera_planner.scheduler import PlanScheduler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.contract import Contract
    from vera_core.seams import Image, Plan, Translation, Translator, VideoPlanner


AGE_TICKS = 10  # set-points between two notes of the plan's age


class LoopError(RuntimeError):
    """The loop cannot go on; the message says why."""


def episode_seed(seed: int, index: int) -> int:
    """Scene seed of episode `index`, for both ways of evaluation and for the demo."""
    return mix(seed, index)


def instruction(world: SimWorld, seed: int, held_out: bool) -> tuple[str, str]:
    """(prompt, target) of the scene in `world`: one of its objects, in one of the phrasings."""
    drawn = world.env.instruction(np.random.default_rng(seed), held_out=held_out)  # type: ignore[attr-defined]
    return drawn.text, drawn.target


class RandomMotion:
    """The baseline that looks at nothing: self-play actions in place of plan and translation."""

    def __init__(self, contract: Contract) -> None:
        self._shape = (contract.video.committed, len(contract.channels))
        self._reach = REACH * contract.channel_scales

    def values(self, seed: int) -> Any:
        """float64 [K, n], in the units of the channels."""
        rng = np.random.default_rng(seed)
        return rng.uniform(-self._reach, self._reach, self._shape)


class LockstepLoop:
    """Runs episodes; one at a time.

    Args:
        contract: of a simulated embodiment.
        make_planner: makes the planner, given what tells an oracle the future; None for
            actions without pictures in place of planner and translator.
        translator: imagined frames to actions; None without a planner.
        base_seed: of the planner's noise.
        keep: keep chunks and commands in the results.
        gate: 'on', 'report' or 'off': whether plans are judged.
        candidates: plans to choose from.
        expert: whether the actions without pictures are the scripted expert's; else RandomMotion.
        judge: whether each executed dream is compared with what the expert would do; where plans
            are judged if None.
        film: keep the pictures of each episode.
    """

    def __init__(
        self,
        contract: Contract,
        make_planner: Callable[[Any], VideoPlanner] | None,
        translator: Translator | None,
        base_seed: int = 0,
        keep: bool = False,
        gate: str = 'off',
        candidates: int = 1,
        expert: bool = False,
        judge: bool | None = None,
        film: bool = False,
    ) -> None:
        self.contract = contract
        self.world = make_world(contract)
        self.expert = expert
        self._planner = make_planner(self._future) if make_planner else None
        self._translator = translator
        self._random = RandomMotion(contract)
        self._base_seed = base_seed
        self._keep, self._film = keep, film
        self._checks, self._gate = PlanChecks(), PlanGate()
        self._judge: DreamJudge | None = None
        if self._planner is not None and self._translator is not None:
            planner = (self._planner.planner_id, self._planner.checkpoint_hash)
            self._checks = PlanChecks.of(self._planner, contract, gate, candidates)
            stacked = getattr(translator, 'mode', 'stacked') == 'stacked'
            self._gate = PlanGate.of(
                contract.embodiment, planner,
                (self._translator.translator_id, self._translator.checkpoint_hash),
                gate if stacked else 'off',
            )
            wanted = gate != 'off' if judge is None else judge
            self._judge = DreamJudge(self.world) if wanted else None

    def _future(self, prompt: str, anchor: int, frames: int) -> Image:
        """The oracle's provider."""
        return self.world.expert_future(prompt, anchor, frames)

    def run(self, index: int, seed: int, held_out: bool, frames: int) -> EpisodeResult:
        """One episode.

        Args:
            index: of the episode; the goal's id is the next number.
            seed: of the scene and of the instruction.
            held_out: whether to phrase it as no training did.
            frames: frame periods until it counts as not reached.
        """
        self.world.reset(seed, self.world.next_episode())
        prompt, target = instruction(self.world, seed, held_out)
        return _Episode(self, index, prompt, target).run(frames)

    def run_on(self, index: int, seed: int, held_out: bool, frames: int) -> EpisodeResult | None:
        """Another goal in the scene as the last episode left it; arguments as of `run`.

        Returns:
            None where the scene has no goal that the robot is not in already.
        """
        truth = self.world.truth()
        free = [name for name, inside in zip(truth.objects, truth.inside, strict=True)
                if not inside]
        if not free or self.world.success_coverage is not None:
            return None
        while True:
            prompt, target = instruction(self.world, seed, held_out)
            if target in free:
                break
            seed = mix(seed, 1)
        self.world.again()
        return _Episode(self, index, prompt, target).run(frames)


class _Episode:
    """The state of one episode."""

    def __init__(self, loop: LockstepLoop, index: int, prompt: str, target: str) -> None:
        contract = loop.contract
        self.loop, self.world, self.contract = loop, loop.world, contract
        self.index, self.prompt, self.target = index, prompt, target
        self.goal_id = index + 1
        self.observer = Observer(contract, ManualClock())
        self.scheduler = PlanScheduler.lockstep(contract)
        self.goals = GoalKeeper(SettleRule.of(contract))
        self.controller = Controller(contract, clock=ManualClock(), lockstep=True)
        self.warm_start: Any = None
        self.replan_ms: list[float] = []
        self.chunks: list[tuple[int, Any]] = []
        self.commands: list[Any] = []
        self.reality = Reality(contract.video.frame_period_ns)
        self.rejected: list[str] = []
        self.right: list[bool] = []
        self.realised: list[float] = []
        self.ages: list[float] = []
        self.film = Film(contract) if loop._film else None
        self.stopped = False

    def run(self, frames: int) -> EpisodeResult:
        world = self.world
        begin = world.stamp
        end = begin + frames * self.contract.video.frame_period_ns
        start = float(world.env.distances()[world.env.objects.index(self.target)])
        # As after reset_sim: the camera's frame, then the joint state, then the goal.
        self._publish()
        ok, why = self.controller.enable()
        if not ok:
            raise LoopError(f'the controller does not start: {why}')
        goal, _ = self.goals.begin(self.prompt)
        self.controller.on_goal(self.goal_id, True)
        while world.stamp < end and not world.over:
            if not self._plan_if_due() or not self._tick():
                break
        goal = self.goals.goal
        status = self.controller.status(world.stamp)
        commands = np.array(self.commands)
        return EpisodeResult(
            index=self.index,
            seed=world.seed,
            prompt=self.prompt,
            target=self.target,
            outcome=STOPPED if self.stopped else outcome(world.reached, self.target, goal),
            reached=world.reached,
            left=float(world.env.distances()[world.env.objects.index(self.target)]),
            reason=status.reason if self.stopped else goal.message,
            plan_ages=tuple(self.ages),
            underruns=status.underruns,
            jerk=root_mean(jerk_squares(commands, self.contract.control.period)),
            setpoints=status.ticks,
            clipped=status.clipped,
            progress=world.progress(self.target, start),
            coverage=world.best_coverage,
            duration=ns_to_seconds(world.stamp - begin),
            replan_ms=tuple(self.replan_ms),
            chunks=tuple((stamp - begin, values) for stamp, values in self.chunks),
            commands=commands if self.loop._keep else None,
            rejected=tuple(self.rejected),
            dreams=tuple(self.right),
            realised=tuple(self.realised),
            film=self.film.frames() if self.film is not None else None,
        )

    def _publish(self) -> None:
        for camera in self.world.cameras_due():
            # Who plans without looking needs the moment of a picture, not the picture.
            blind = self.loop._planner is None
            shape = (camera.height, camera.width, 3)
            image = np.zeros(shape, np.uint8) if blind else self.world.image(camera)
            self.observer.add(camera.name, image, self.world.stamp)
        self.controller.on_state(self.world.robot_state())
        if self.film is not None:
            self.film.see(self.world)

    def _tick(self) -> bool:
        """One set-point; False if the controller has stopped, as when something holds the arm."""
        setpoint = self.controller.tick(self.world.stamp)
        if setpoint is None:
            status = self.controller.status(self.world.stamp)
            if status.state is State.STOPPED:
                self.stopped = True
                return False
            raise LoopError(
                f'no set-point at {ns_to_seconds(self.world.stamp):.2f} s: the controller is '
                f'{status.state.name} ({status.reason}); last refusal: '
                f'{status.last_rejection or "none"}'
            )
        if len(self.commands) % AGE_TICKS == 0:
            self.ages.append(self.controller.status(self.world.stamp).plan_age)
        self.commands.append(setpoint.positions)
        self.world.step(setpoint.positions)
        self._publish()
        return True

    def _plan_if_due(self) -> bool:
        """Plan and translate when it is time; False if the goal has ended."""
        newest = self.observer.newest
        assert newest is not None
        if not self.scheduler.due(self.goal_id, newest):
            return True
        self.scheduler.began(self.goal_id, newest)
        if self.loop._planner is None:
            self.goals.planned(np.inf)
            if self.loop.expert:
                count = self.contract.video.committed
                values = self.world.expert_actions(self.prompt, newest, count)
            else:
                seed = plan_seed(self.loop._base_seed, self.goal_id, self.goals.goal.plans)
                values = self.loop._random.values(seed)
            ones = np.ones(len(self.contract.channels), np.float32)
            self._execute(newest, values, np.zeros(len(values), np.float32), ones)
            return True
        context = self.observer.context()
        self._compare(newest, context[-1])
        while self.goals.goal.active:
            request = PlanRequest(
                context=context,
                anchor=newest,
                prompt=self.prompt,
                goal_id=self.goal_id,
                plan_index=self.goals.goal.plans,
                seed=plan_seed(self.loop._base_seed, self.goal_id, self.goals.goal.plans),
                warm_start=self.warm_start,
            )
            before = self.goals.goal.plans
            try:
                plan = self._imagine(request)
                if plan is None or not self.goals.goal.active:
                    return False
                self.warm_start = plan.warm_start
                translation = self._translate(request, plan)
            except PlanRejectedError as error:
                self._note(error.verdict)
                self.warm_start = None
                self.goals.rejected(str(error), counted=self.goals.goal.plans > before)
                continue
            self.goals.accepted()
            self._execute(
                newest, translation.values, translation.residual, translation.observability
            )
            return True
        return False

    def _compare(self, stamp: int, canvas: Image) -> None:
        """What the last plan showed for this moment against what came."""
        promised = self.reality.promised(stamp)
        if promised is None:
            return
        missing, verdict = self.loop._checks.came(*promised, canvas)
        self.realised.append(1 - missing)
        if verdict.reason:
            self.warm_start = None

    def _note(self, verdict: Verdict | None) -> None:
        if verdict is not None and verdict.reason:
            self.rejected.append(verdict.signal)

    def _imagine(self, request: PlanRequest) -> Plan | None:
        assert self.loop._planner is not None
        try:
            plan = imagine_checked(
                self.loop._planner, request, self.contract, self.loop._checks
            )
        except PlanRefusedError:
            return None
        self._note(plan.verdict)
        self.replan_ms.append(plan.latency * 1e3)
        self.goals.planned(plan.motion, request.context[-1])
        return plan

    def _translate(self, request: PlanRequest, plan: Plan) -> Translation:
        translator = self.loop._translator
        assert translator is not None
        state = self.world.positions_at(request.anchor) if translator.needs_state else None
        start = request.start
        candidates = [plan.frames[: self.contract.video.committed], *(
            plan.alternatives if plan.alternatives is not None else ()
        )]
        with one_thread():
            if self.loop._gate.normal is None and len(candidates) == 1:
                translation, verdict = translator.translate(start, candidates[0], state), Verdict()
            else:
                translation, _, verdict = self.loop._gate.translate(
                    translator, start, candidates, state
                )
        if not verdict.accepted:
            raise PlanRejectedError(verdict)
        self._note(verdict)
        frames = candidates[verdict.chosen]
        self.reality.dreamt(request.anchor, start, frames)
        if self.film is not None:
            self.film.dream(request.anchor, frames)
        if self.loop._judge is not None:
            right = self.loop._judge.right(self.prompt, request.anchor, start, frames)
            self.right += [] if right is None else [right]
        return translation

    def _execute(self, anchor: int, values: Any, residual: Any, observability: Any) -> None:
        chunk = ActionChunk(
            stamp=anchor,
            goal_id=self.goal_id,
            plan_seq=self.goals.goal.plans,
            channels=self.contract.channel_names,
            period=self.contract.video.frame_period,
            values=values,
            residual=residual,
            observability=observability,
        )
        why = self.controller.on_chunk(chunk, self.world.stamp)
        if why:
            raise LoopError(f'chunk of plan {chunk.plan_seq} refused: {why}')
        if self.loop._keep:
            self.chunks.append((anchor, chunk.values))


def outcome(reached: str, target: str, goal: Goal) -> str:
    """What became of an episode, by ground truth; the goal's own word only explains failures."""
    if reached == target:
        return REACHED
    if reached:
        return WRONG
    if goal.state is GoalState.SUCCEEDED:
        return RESTED
    if goal.code is GoalCode.IMPLAUSIBLE:
        return IMPLAUSIBLE
    return NO_MOTION if goal.state is GoalState.ABORTED else TIME


@contextmanager
def one_thread() -> Iterator[None]:
    """The translator's node computes with one thread; sums of floats depend on that."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
