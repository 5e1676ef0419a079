"""The planner as a node: camera frames and a goal in words in, imagined frames out.

Callbacks never wait for a planner: it runs in a worker thread, whose outcome comes back to the
executor through a guard condition, so that all state below is touched by one thread only.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from sensor_msgs.msg import Image as ImageMsg

from vera_core.canvas import CanvasError
from vera_core.clocks import ns_to_seconds, seconds_to_ns
from vera_core.contract import CameraSpec, Contract
from vera_core.gates import MODES as GATES
from vera_core.gates import PlanRejectedError, Verdict
from vera_core.image_codec import ImageError
from vera_core.nodes.base import OK, WARN, VeraNode, run_node
from vera_core.nodes.convert import image_from_msg, stamp_from_msg, verdict_to_msg
from vera_core.nodes.qos import CHUNK, IMAGE, IMAGE_RELIABLE, LATCHED, PLAN
from vera_core.nodes.run import describe
from vera_core.nodes.view_report import report_views
from vera_core.seams import Image, VideoPlanner
from vera_core.seeds import plan_seed
from vera_msgs.msg import ActionChunk, ControllerStatus, GoalStatus, PlanVerdict, VisualPlan
from vera_planner.execution import Execution, Latency
from vera_planner.goal import (
    MAX_REJECTED,
    Goal,
    GoalCode,
    GoalKeeper,
    PlanRefusedError,
    PromptError,
    SettleRule,
)
from vera_planner.nodes.expert_client import ExpertClient
from vera_planner.nodes.goal_server import GoalServer
from vera_planner.nodes.plan_msgs import goal_to_msg, plan_to_msg, strip_to_msg
from vera_planner.observer import Observer
from vera_planner.plan_checks import PlanChecks, Reality
from vera_planner.planning import (
    PlanRequest,
    continued,
    imagine_checked,
    knows_pending,
    rooted,
    waited,
    warm_up,
)
from vera_planner.registry import PLANNERS, make_planner
from vera_planner.scheduler import PlanScheduler, replan_period
from vera_planner.worker import PlanOutcome, PlanWorker

WATCH_PERIOD_S = 0.1
CLOCK_SLACK_NS = 500_000_000  # a frame further ahead of the clock is from before it was set back
STATES = ('IDLE', 'READY', 'RUNNING', 'HOLD', 'STOPPED', 'ESTOP')
ENDS_GOALS = ('STOPPED', 'ESTOP')


class PlannerNode(VeraNode):
    """Serves set_goal, cancel_goal and execute_goal; publishes visual_plan while a goal is active.

    Args:
        make: makes the planner of a contract instead of the parameters `planner`, `checkpoint`,
            `threads` and `steps`; for tests and for planners of others.
    """

    def __init__(
        self, make: Callable[[Contract], VideoPlanner] | None = None, **kwargs: Any
    ) -> None:
        super().__init__('planner', **kwargs)
        self._make = make

    def setup(self) -> None:
        name = self.param('planner', '', "empty = the contract's", choices=('', *PLANNERS))
        checkpoint = self.param(
            'checkpoint', '', "name or path, of a remote planner its URL; empty = the contract's"
        )
        threads = self.param('threads', 0, 'CPU threads; 0 = all cores but one', low=0)
        steps = self.param('steps', 0, "sampling steps; 0 = the planner's choice", low=0)
        self._lockstep = self.param('lockstep', False, 'plan when the last plan was executed')
        self._seed = self.param('seed', 0, 'base seed of all plans', low=0)
        replan = self.param(
            'replan_period', replan_period(self.contract),
            '[s] least time between the anchors of plans, live; half of what a plan commits',
            low=0.01,
        )
        self.param(
            'plan_timeout', 15.0, '[s] after which a planner is taken to hang, live', low=0.1,
            read_only=False,
        )
        self._mode = self.param(
            'mode', 'async', 'async: plan while the last plan is executed; sync: stop and go; live',
            choices=('async', 'sync'),
        )
        pending = self.param(
            'pending', False, 'tell a planner that can use them the frames still to be executed'
        )
        horizon = self.param(
            'horizon', 0.0, '[s] that plans reach at least, live: two latencies and a frame, or '
            "more; 0 = the planner's look-ahead", low=0.0,
        )
        still = self.param(
            'still_motion', SettleRule.still_motion, '[grey levels] below it a plan is still',
            low=1e-3,
        )
        gate = self.param(
            'gate', 'report', 'on: plans that look impossible are not executed; report: told only',
            choices=GATES,
        )
        candidates = self.param(
            'candidates', 1, 'plans to choose from, each a whole sampling', low=1, high=16
        )
        rejected = self.param(
            'max_rejected', MAX_REJECTED, 'plans in a row that may be rejected', low=0
        )
        contract = self.contract
        self._planner = self._make(contract) if self._make else make_planner(
            name or contract.defaults.planner,
            contract,
            checkpoint=checkpoint or None,
            provider=ExpertClient(self, self.stopping),
            steps=steps or None,
            threads=threads or None,
        )
        seconds = warm_up(self._planner, contract)
        self.get_logger().info(
            f'planner {self._planner.planner_id} {self._planner.checkpoint_hash}: first plan took '
            f'{seconds:.2f} s'
        )
        self._scheduler = (
            PlanScheduler.lockstep(contract) if self._lockstep else PlanScheduler.live(replan)
        )
        self._horizon = 0 if self._lockstep else math.ceil(horizon / contract.video.frame_period)
        self._pending = pending and self._mode == 'async' and knows_pending(self._planner)
        self._execution = Execution(contract)
        self._latency, self._translation_ns, self._asked = Latency(), 0, 0
        self._goals = GoalKeeper(SettleRule.of(contract, still), self._on_goal, rejected)
        self._checks = PlanChecks.of(self._planner, contract, gate, candidates)
        self._reality = Reality(contract.video.frame_period_ns)
        self._realised = math.nan
        self._verdicts = self.create_publisher(PlanVerdict, 'plan_verdict', PLAN)
        self._plans = self.create_publisher(VisualPlan, 'visual_plan', PLAN)
        self._strips = self.create_publisher(ImageMsg, 'plan/image', IMAGE)
        self._statuses = self.create_publisher(GoalStatus, 'goal_status', LATCHED)
        self._plan_seq = 0
        self._unsent: VisualPlan | None = None
        self._forgiven = 0  # the goal of which one plan failed for the clock was set back
        self._warm_start: Any = None
        self._controller = ''
        self._residual = math.nan
        self._server = GoalServer(
            self, self._goals, self._begin, self._goal_clock, contract.goal.timeout
        )
        self._done = self.create_guard_condition(self._on_outcome)
        self._worker = PlanWorker(
            lambda request: imagine_checked(self._planner, request, contract, self._checks),
            self._wake,
        )

    def start(self) -> None:
        self._plan_seq = 0
        self._observer = Observer(self.contract)
        self._silences = 0
        qos = IMAGE_RELIABLE if self._lockstep else IMAGE
        for camera in self.contract.cameras:
            self.create_subscription(
                ImageMsg, camera.topic, partial(self._on_image, camera.name), qos
            )
        self.create_subscription(
            ControllerStatus, 'controller_status', self._on_controller, LATCHED
        )
        self.create_subscription(ActionChunk, 'action_chunk', self._on_chunk, CHUNK)
        self.create_subscription(PlanVerdict, 'plan_verdict', self._on_verdict, PLAN)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=steady)
        self._on_goal(self._goals.goal)

    def publish_diagnostics(self) -> None:
        """As of every node, with how well the images of several cameras meet."""
        if self.active:
            report_views(self, self._observer.views)
        super().publish_diagnostics()

    def halt(self) -> None:
        self._goals.cancel('the planner was deactivated')

    def teardown(self) -> None:
        if hasattr(self, '_planner') and hasattr(self._planner, 'close'):
            self._planner.close()  # a remote one hangs up, which ends the plan in progress
        if hasattr(self, '_worker') and not self._worker.close(timeout=3.0):
            self.get_logger().warning('the planner is still busy; it is left to end by itself')
        if hasattr(self, '_done'):
            self.destroy_guard_condition(self._done)

    def _wake(self) -> None:
        with suppress(InvalidHandle):  # a plan that ends after the node did
            self._done.trigger()

    # Goals -----------------------------------------------------------------------------------

    def _goal_clock(self) -> int:
        """What timeouts of goals count on, ns: in lock-step only frames bring time."""
        if not self._lockstep:
            return time.monotonic_ns()
        return self._observer.newest or 0

    def _begin(self, prompt: str) -> Goal:
        if not self.active:
            raise PromptError('the planner is not active')
        silent = self._topics(self._observer.expect())
        parts = [f'waits for camera frames on {silent}'] if silent else []
        if self._controller in ENDS_GOALS:
            parts.append(f'the controller is {self._controller}: it needs reset')
        goal, _ = self._goals.begin(prompt, '; '.join(parts))
        self._warm_start = self._unsent = None
        self._execution.forget()
        self._reality.forget()
        self._realised = math.nan
        self._residual = math.nan
        if self._lockstep:
            # Live, the first plan waits for a frame that is younger than the goal.
            self._plan_if_due()
        return goal

    def _on_goal(self, goal: Goal) -> None:
        self._statuses.publish(goal_to_msg(goal, self.now_ns()))
        self._server.on_goal(goal)
        if goal.goal_id and (not goal.active or goal.plans == 0):
            text = f'goal {goal.goal_id} {goal.state.name}: {goal.prompt!r}: {goal.message}'
            self.get_logger().info(text.rstrip(': '))

    def _on_controller(self, msg: ControllerStatus) -> None:
        self._controller = STATES[msg.state] if msg.state < len(STATES) else str(msg.state)
        running = msg.state == ControllerStatus.RUNNING and msg.plan_seq > 0
        self._execution.heard(running, int(msg.plan_seq), stamp_from_msg(msg))
        if self._controller in ENDS_GOALS:
            reason = msg.reason or 'it gave no reason'
            self._goals.cancel(f'the controller is {self._controller}: {reason}', GoalCode.STOPPED)

    def _on_chunk(self, msg: ActionChunk) -> None:
        if len(msg.residual):
            self._residual = float(np.mean(msg.residual))
        self._goals.accepted()
        if msg.part == 0:
            self._translation_ns = seconds_to_ns(msg.latency)

    def _topics(self, cameras: Iterable[CameraSpec]) -> str:
        return ', '.join(self.resolve_topic_name(camera.topic) for camera in cameras)

    def _watch(self) -> None:
        goal = self._goals.goal
        if self._unsent is not None and self._translator_listens():
            message, self._unsent = self._unsent, None
            self._plans.publish(message)
        if not goal.active:
            return
        silent = self._topics(self._observer.silent)
        trouble = self._observer.trouble
        # Twice in a row: after a delay of our own, the images that came meanwhile are taken first.
        self._silences = self._silences + 1 if silent or trouble else 0
        if self._silences > 1 and not self._lockstep:
            timeout = self.contract.video.frame_timeout
            why = f'no camera frames on {silent} for {timeout:g} s' if silent else trouble
            self._goals.abort(GoalCode.NO_OBSERVATION, why)
        patience = float(self.get_parameter('plan_timeout').value)
        if not self._lockstep and self._worker.busy_seconds > patience:
            self._goals.abort(
                GoalCode.INTERNAL, f'no plan within {patience:g} s; the planner hangs'
            )
        self._server.check_timeout()
        self._server.feedback(self._controller or 'unknown', goal.plans, self._residual)

    # Planning --------------------------------------------------------------------------------

    def _on_image(self, name: str, msg: ImageMsg) -> None:
        with self.monitor('image'):
            try:
                complete = self._observer.add(name, image_from_msg(msg), stamp_from_msg(msg))
            except (ImageError, CanvasError) as error:
                self.report(f'camera {name}', WARN, f'image refused: {error}')
                self.get_logger().warning(f'image refused: {error}', throttle_duration_sec=5.0)
                return
            if complete:
                self._plan_if_due()

    def _plan_if_due(self) -> None:
        goal, newest = self._goals.goal, self._observer.newest
        if newest is None or not goal.active or self._worker.busy or self._unsent is not None:
            return
        if not self._scheduler.due(goal.goal_id, newest):
            return
        if self._mode == 'sync' and not self._lockstep and not self._execution.over(newest):
            return
        context = self._observer.context()
        self._compare(newest, context[-1])
        request = PlanRequest(
            context=context,
            anchor=newest,
            prompt=goal.prompt,
            goal_id=goal.goal_id,
            plan_index=goal.plans,
            seed=plan_seed(self._seed, goal.goal_id, goal.plans),
            warm_start=self._warm_start,
            horizon=self._horizon,
        )
        if self._pending and not self._lockstep:
            request = continued(request, self._observer, self._execution, self._latency.ns)
        self._asked = time.monotonic_ns()
        self._scheduler.began(goal.goal_id, newest)
        self._worker.submit(request)

    def _compare(self, stamp: int, canvas: Image) -> None:
        """What the last plan showed for this moment against what came."""
        promised = self._reality.promised(stamp)
        if promised is None:
            return
        missing, verdict = self._checks.came(*promised, canvas)
        self._realised = 1 - missing
        if verdict.reason:
            self._warm_start = None  # a dream that failed is no beginning for the next one
        self.report(
            'reality', WARN if verdict.reason else OK, verdict.reason,
            realised=f'{self._realised:.2f}',
        )

    def _on_verdict(self, msg: PlanVerdict) -> None:
        """The translator's; a rejected plan is not executed and another one is made at once."""
        mine = msg.goal_id == self._goals.goal.goal_id and msg.plan_seq <= self._plan_seq
        if msg.judge == 'planner' or msg.accepted or not mine:
            return
        self._warm_start = None
        self._goals.rejected(msg.reason, counted=True)
        if msg.plan_seq < self._plan_seq:
            return  # a newer plan is under way already
        self._execution.forget()
        self._reality.forget()
        self._scheduler.again()
        self._plan_if_due()

    def _on_outcome(self) -> None:
        outcome = self._worker.take()
        if outcome is None:
            return
        goal = self._goals.goal
        if goal.active and goal.goal_id == outcome.request.goal_id:
            self._use(outcome)
        if self._lockstep:
            self._plan_if_due()  # for a goal that came meanwhile: no frame will

    def _use(self, outcome: PlanOutcome) -> None:
        plan, request = outcome.plan, outcome.request
        if isinstance(outcome.error, PlanRejectedError):
            self._reject(outcome.error.verdict, request)
            return
        if plan is None and self._of_another_time(request):
            return  # the next frame is before that one, and so a plan is due
        if plan is None:
            refused = isinstance(outcome.error, PlanRefusedError)
            code = GoalCode.NOTHING_TO_DO if refused else GoalCode.INTERNAL
            why = describe(outcome.error) if outcome.error is not None else 'no plan'
            if type(outcome.error).__name__ == 'OutOfMemoryError':  # of torch
                why += '; end what else runs on the GPU, or choose a smaller planner'
            self._goals.abort(code, f'planner {self._planner.planner_id}: {why}')
            return
        self._warm_start = plan.warm_start
        goal = self._goals.planned(plan.motion, request.context[-1])
        self._latency.add(time.monotonic_ns() - self._asked + self._translation_ns)
        request, plan = rooted(request, plan, self.contract)
        if not self._lockstep:
            request = waited(request, self._observer, self._execution)
        self._strips.publish(strip_to_msg(plan, request))
        self.report(
            'planner', OK, self._planner.planner_id,
            hash=self._planner.checkpoint_hash, latency_s=f'{plan.latency:.3f}',
            motion=f'{plan.motion:.1f}', context=len(request.context),
            pending=request.lead, mode=self._mode,
            until_executed_s=f'{ns_to_seconds(self._latency.ns):.3f}',
            doubt=plan.verdict.reason if plan.verdict else '',
        )
        if not goal.active:
            return  # the plan came to rest: there is nothing to execute
        self._plan_seq += 1
        message = plan_to_msg(
            plan, request, self._plan_seq, self._planner, self.contract, self._realised
        )
        frames = plan.frames[: message.committed]
        self._reality.dreamt(request.anchor, request.start, frames)
        newest = self._observer.newest or request.anchor
        self._execution.sent(
            self._plan_seq, request.anchor, frames, newest, continued=request.lead > 0
        )
        if self._lockstep and not self._translator_listens():
            self._unsent = message  # nobody would execute it, and the loop would stand for ever
        else:
            self._plans.publish(message)

    def _of_another_time(self, request: PlanRequest) -> bool:
        """Whether the clock was set back since that frame, so that a simulation knows it no more.

        Once for a goal: a camera's clock that is ahead would hide every failure.
        """
        ahead = request.anchor - self.get_clock().now().nanoseconds
        if self._lockstep or ahead <= CLOCK_SLACK_NS or self._forgiven == request.goal_id:
            return False
        self._forgiven = request.goal_id
        return True

    def _reject(self, verdict: Verdict, request: PlanRequest) -> None:
        """No candidate may be executed: hold, and plan again with other noise."""
        self._warm_start = None
        self._verdicts.publish(
            verdict_to_msg(verdict, request.goal_id, 0, request.anchor, 'planner')
        )
        goal = self._goals.rejected(verdict.reason)
        self.report('planner', WARN, goal.message)
        self.get_logger().warning(goal.message, throttle_duration_sec=1.0)
        self._scheduler.again()
        if not self._lockstep:
            self._plan_if_due()

    def _translator_listens(self) -> bool:
        found = self.get_subscriptions_info_by_topic(self._plans.topic_name)
        return any(info.node_name == 'translator' for info in found)


def main() -> int:
    """Entry point of the executable."""
    return run_node(PlannerNode)


if __name__ == '__main__':
    sys.exit(main())
