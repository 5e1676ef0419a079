"""Turns each imagined plan into an action chunk unless the gate rejects it; commands nothing."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image as ImageMsg
from sensor_msgs.msg import JointState

from vera_core.canvas import CanvasError
from vera_core.chunk import ActionChunk, ChunkError
from vera_core.clocks import ns_to_seconds, seconds_to_ns, to_ns
from vera_core.gates import MODES as GATES
from vera_core.gates import PlanRejectedError, Verdict, gate_path, read_gates
from vera_core.image_codec import ImageError
from vera_core.nodes.base import OK, WARN, VeraNode, run_node
from vera_core.nodes.convert import (
    StateError,
    canvas_to_image_msg,
    chunk_to_msg,
    image_from_msg,
    joints_from_msg,
    stamp_from_msg,
    verdict_to_msg,
)
from vera_core.nodes.qos import CHUNK, IMAGE, LATCHED, PLAN, STATE, STATE_RELIABLE
from vera_core.nodes.view_report import report_views
from vera_core.seams import Frame, Translation
from vera_core.state_history import HistoryError, StateHistory
from vera_core.views import ViewAssembler
from vera_jidm.pictures import flow_strip, jacobian_colours
from vera_jidm.plan_gate import PlanGate
from vera_jidm.plan_reading import plan_chunk, plan_images
from vera_jidm.registry import TRANSLATORS, make_translator
from vera_jidm.servo import Dream, ServoError, VisualServo
from vera_jidm.translator import MODES, Explanation, TranslationError
from vera_jidm.worker import NewestWorker
from vera_msgs.msg import ActionChunk as ActionChunkMsg
from vera_msgs.msg import GoalStatus, PlanVerdict, VisualPlan

# Joint states may swap places on the way; further back than this their clock was set back [ns].
_DISORDER_NS = 500_000_000
STATE_POLL_S = 0.01
FOLLOW = ('chunk', 'servo')
_ERRORS = (TranslationError, ImageError, ChunkError)


@dataclass(frozen=True)
class _Job:
    """A plan to translate; in servo mode the newest canvas, and a plan only if it is new."""

    plan: VisualPlan | None
    received: int
    canvas: Frame | None = None


class TranslatorNode(VeraNode):
    """Publishes `action_chunk`, `debug/flow` and `debug/jacobian` for each `visual_plan`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('translator', **kwargs)

    def setup(self) -> None:
        name = self.param(
            'translator', self.contract.defaults.translator, 'which translator',
            choices=TRANSLATORS,
        )
        checkpoint = self.param(
            'checkpoint', '', "translator checkpoint, a name or a path; empty = the contract's"
        )
        mode = self.param(
            'mode', MODES[0], 'stacked: both frames of a pair; paper: Eq. 6 alone', choices=MODES
        )
        self._debug = self.param('debug', True, 'publish debug/flow and debug/jacobian')
        threads = self.param('threads', 1, 'threads of the network', low=1)
        lockstep = self.param('lockstep', False, 'no joint state may be lost on the way')
        self._state_qos = STATE_RELIABLE if lockstep else STATE
        self._follow = self.param(
            'follow', FOLLOW[0],
            'chunk: a plan becomes one chunk; servo: its frames are goals for what the camera sees',
            choices=FOLLOW,
        )
        rate = self.param('servo_rate', 10.0, '[Hz] corrections in servo mode', low=1.0, high=20.0)
        self._servo_period_ns = seconds_to_ns(1 / rate)
        self._gate = self.param(
            'gate', 'report', 'on: plans that look impossible get no chunk; report: told only',
            choices=GATES,
        )
        if self._gate != 'off':
            read_gates(gate_path(self.contract.embodiment))  # a damaged file is said now
        self._stacked = mode == MODES[0]  # what was measured
        self._gates: dict[tuple[str, str], PlanGate] = {}
        _set_threads(threads)
        self._translator = make_translator(name, self.contract, checkpoint, mode=mode)
        self._servo = None
        if self._follow == 'servo':
            if lockstep:
                raise ServoError('servo mode is for live use: in lock-step time waits for the plan')
            self._servo = VisualServo(self._translator, self.contract)
        self._history = StateHistory(max_gap=self.contract.control.state_timeout)
        self._history_lock = threading.Lock()
        self._bad_state = False
        self._warm_up()
        self._chunks = self.create_publisher(ActionChunkMsg, 'action_chunk', CHUNK)
        self._verdicts = self.create_publisher(PlanVerdict, 'plan_verdict', PLAN)
        self._flow = self.create_publisher(ImageMsg, 'debug/flow', IMAGE)
        self._jacobian = self.create_publisher(ImageMsg, 'debug/jacobian', IMAGE)
        self._translated = self._refused = 0
        self.get_logger().info(
            f'{name} {self._translator.checkpoint_hash}, {mode}, {self._follow}, '
            f'flow {self._translator.flow_id}, channels {", ".join(self._translator.channels)}'
        )

    def start(self) -> None:
        self._worker: NewestWorker[_Job] = NewestWorker(self._work, self._failed, 'translate')
        self._worker.start()
        if self._translator.needs_state:
            self.create_subscription(JointState, 'joint_states', self._on_state, self._state_qos)
        self.create_subscription(VisualPlan, 'visual_plan', self._on_plan, PLAN)
        if self._servo is None:
            return
        self._views = ViewAssembler(self.contract)
        self._new_plan: VisualPlan | None = None
        self._ended_goal = self._servo_due = 0
        for camera in self.contract.cameras:
            self.create_subscription(
                ImageMsg, camera.topic, partial(self._on_image, camera.name), IMAGE
            )
        self.create_subscription(GoalStatus, 'goal_status', self._on_goal, LATCHED)

    def publish_diagnostics(self) -> None:
        """As of every node; in servo mode with how well the images of several cameras meet."""
        if self.active and self._servo is not None:
            report_views(self, self._views)
        super().publish_diagnostics()

    def halt(self) -> None:
        worker = getattr(self, '_worker', None)
        if worker is not None and not worker.stop():
            self.get_logger().warning('a translation did not end within 5 s')

    def _on_plan(self, plan: VisualPlan) -> None:
        with self.monitor('visual_plan'):
            if self._servo is None:
                self._worker.submit(_Job(plan, self.now_ns()))
            else:
                self._new_plan, self._servo_due = plan, 0  # followed from the next frame on

    def _on_goal(self, msg: GoalStatus) -> None:
        if msg.status != GoalStatus.ACTIVE:
            self._ended_goal = int(msg.goal_id)

    def _on_image(self, name: str, msg: ImageMsg) -> None:
        with self.monitor('image'):
            try:
                frame = self._views.add(name, image_from_msg(msg), stamp_from_msg(msg))
            except (ImageError, CanvasError) as error:
                self.report(f'camera {name}', WARN, f'image refused: {error}')
                return
            if frame is None or frame.stamp < self._servo_due:
                return
            self._servo_due = frame.stamp + self._servo_period_ns
            self._worker.submit(_Job(None, self.now_ns(), frame))

    def _on_state(self, msg: JointState) -> None:
        with self.monitor('joint_states'):
            try:
                state = joints_from_msg(msg, self.contract.joint_names)
            except StateError as error:
                self._bad_state = True
                self.report('joint_states', WARN, f'joint_states: {error}')
                return
            if self._bad_state:
                self._bad_state = False
                self.report('joint_states', OK)
            with self._history_lock:
                newest = self._history.newest
                if newest is not None and state.stamp < newest - _DISORDER_NS:
                    self._history.clear()
                elif newest is not None and state.stamp <= newest:
                    return
                self._history.add(state.stamp, state.positions)

    def _state_at(self, stamp: int) -> NDArray[np.float64] | None:
        """Joint positions when the anchor was taken, float64 [joints]; None where nobody asks."""
        if not self._translator.needs_state:
            return None
        self._await_state(stamp)
        try:
            with self._history_lock:
                return self._history.at(stamp)
        except HistoryError as error:
            raise TranslationError(
                f'{self._translator.translator_id} needs the joint positions at its anchor, '
                f'and joint_states does not tell them: {error}'
            ) from error

    def _await_state(self, stamp: int) -> None:
        """An anchor may be still to come: wait until the joints have been there."""
        most = ns_to_seconds(stamp - self.now_ns()) + self.contract.control.state_timeout
        deadline = time.monotonic() + most
        while (self._history.newest or 0) < stamp and time.monotonic() < deadline:
            if self.stopping.wait(STATE_POLL_S):
                return

    def _work(self, job: _Job) -> None:
        if job.canvas is not None:
            self._correct(job.canvas, job.received)
        elif job.plan is not None:
            self._translate(job.plan, job.received)

    def _correct(self, canvas: Frame, received: int) -> None:
        """One step of the servo loop."""
        servo = self._servo
        assert servo is not None
        plan, self._new_plan = self._new_plan, None
        if plan is not None:
            try:
                servo.take(self._dream(plan))
            except Exception as error:  # the last plan is followed to its end, then the robot holds
                self._failed(_Job(plan, received), error)
        if servo.goal_id == self._ended_goal:
            servo.clear()
        if not servo.wants(canvas.stamp):
            return
        with self.monitor('servo'):
            state = self._state_at(canvas.stamp)
            correction = servo.step(canvas.image, canvas.stamp, state)
            if correction is None or self.stopping.is_set():
                return
            latency = max(0.0, ns_to_seconds(self.now_ns() - received))
            chunk = replace(correction.chunk, latency=latency)
            self._chunks.publish(chunk_to_msg(chunk))
        self._translated += 1
        self._tell(chunk, correction.explanation, correction.doubt)

    def _dream(self, plan: VisualPlan) -> Dream:
        anchor, candidates = plan_images(plan, self.contract)
        stamp, frames = stamp_from_msg(plan), candidates[0]
        if self._gate != 'off':
            # An anchor may be still to come; the servo loop does not wait for it.
            known = min(stamp, self._history.newest or stamp)
            chosen = self._judged(plan, anchor, candidates, self._state_at(known))[2]
            frames = candidates[chosen.chosen]
        return Dream(
            goal_id=int(plan.goal_id),
            plan_seq=int(plan.plan_seq),
            anchor=anchor,
            frames=frames,
            stamp=stamp,
            period=self.contract.video.frame_period_ns,
            seen=to_ns(plan.observed) or stamp,
        )

    def _translate(self, plan: VisualPlan, received: int) -> None:
        with self.monitor('translate'):
            anchor, candidates = plan_images(plan, self.contract)
            state = self._state_at(stamp_from_msg(plan))
            translation, explanation, _ = self._judged(plan, anchor, candidates, state)
            if self.stopping.is_set():
                return
            latency = max(0.0, ns_to_seconds(self.now_ns() - received))
            chunk = plan_chunk(plan, translation, self._translator, latency)
            self._chunks.publish(chunk_to_msg(chunk))
        self._translated += 1
        self._tell(chunk, explanation)

    def _judged(
        self,
        plan: VisualPlan,
        anchor: np.ndarray,
        candidates: list[np.ndarray],
        state: NDArray[np.float64] | None,
    ) -> tuple[Translation, Explanation, Verdict]:
        """The most executable candidate; raises PlanRejectedError if it must not be executed."""
        key = (str(plan.planner_id), str(plan.planner_hash))
        if key not in self._gates:
            mine = (self._translator.translator_id, self._translator.checkpoint_hash)
            mode = self._gate if self._stacked else 'off'
            self._gates[key] = PlanGate.of(self.contract.embodiment, key, mine, mode)
        gate = self._gates[key]
        translation, explanation, verdict = gate.translate(
            self._translator, anchor, candidates, state
        )
        if self._gate != 'off':
            self._verdicts.publish(
                verdict_to_msg(
                    verdict, int(plan.goal_id), int(plan.plan_seq), stamp_from_msg(plan),
                    'translator',
                )
            )
        if not verdict.accepted:
            raise PlanRejectedError(verdict)
        return translation, explanation, verdict

    def _failed(self, job: _Job, error: Exception) -> None:
        self._refused += 1
        what = 'a camera frame is not translated'
        if job.plan is not None:
            what = f'plan {job.plan.plan_seq} of goal {job.plan.goal_id} is not translated'
        if isinstance(error, PlanRejectedError):
            self.get_logger().warning(f'{what}: {error}', throttle_duration_sec=1.0)
        elif isinstance(error, _ERRORS):
            self.get_logger().error(f'{what}: {error}')
        else:
            self.get_logger().error(f'{what}: {type(error).__name__}: {error}')
        self.report('plans', WARN, f'{what}: {error}', **self._counts())

    def _tell(self, chunk: ActionChunk, explanation: Explanation, doubt: str = '') -> None:
        """Debug pictures and diagnostics of a translation."""
        problems = [f'follows the plan blindly: {doubt}'] if doubt else []
        problems += [f'step {k}: {p}' for k, p in enumerate(explanation.problems) if p]
        self.report(
            'plans', WARN if problems else OK, '; '.join(problems),
            residual=' '.join(f'{r:.2f}' for r in chunk.residual),
            observability=' '.join(f'{o:.2g}' for o in chunk.observability),
            largest=float(np.abs(chunk.values).max()),
            still=int(explanation.still.sum()),
            condition=f'{explanation.condition.max():.0f}',
            latency_ms=round(chunk.latency * 1e3, 1),
            **_honesty(explanation),
            **self._counts(),
        )
        if not self._debug:
            return
        height = explanation.flow.shape[1]
        scale = max(1, height // explanation.jacobian.shape[0])
        # Nobody may be looking; painting is cheap beside the flow, but not free.
        if self._flow.get_subscription_count():
            self._flow.publish(canvas_to_image_msg(flow_strip(explanation.flow), chunk.stamp))
        if self._jacobian.get_subscription_count():
            maps = jacobian_colours(explanation.jacobian, scale)
            self._jacobian.publish(canvas_to_image_msg(maps, chunk.stamp))

    def _counts(self) -> dict[str, int]:
        return {
            'translated': self._translated,
            'refused': self._refused,
            'superseded': self._worker.superseded,
            'blind': self._servo.fallbacks if self._servo is not None else 0,
        }

    def _warm_up(self) -> None:
        """The first solve is slow and would come with the first goal."""
        canvas = self.contract.canvas
        grey = np.full((canvas.height, canvas.width, 3), 128, np.uint8)
        home = self.contract.home_positions if self._translator.needs_state else None
        self._translator.translate(grey, grey[None], home)


def _honesty(explanation: Explanation) -> dict[str, str]:
    """Score of each step, the threshold, and what speaks against those above it."""
    honesty = explanation.honesty
    if honesty is None or not honesty.calibrated:
        return {}
    against = [
        f'{k}:{honesty.worst[k]}' for k in range(len(honesty.worst)) if honesty.suspicious[k]
    ]
    return {
        'honesty': ' '.join(f'{score:.1f}' for score in honesty.score),
        'honesty_threshold': f'{honesty.threshold:.1f}',
        'suspicious': ' '.join(against),
    }


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def main() -> int:
    """Entry point of the executable."""
    return run_node(TranslatorNode)


if __name__ == '__main__':
    sys.exit(main())
