"""The simulated robot and its cameras on the topics of a real one. Named `sim` wherever it appears.

Live: physics in real time, stamps are the node's time. Lock-step (`lockstep: true`): simulated
time moves only when the controller has answered the last joint state.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import JointState

from vera_core.clocks import NS_PER_S
from vera_core.contract import CameraSpec
from vera_core.nodes.base import OK, WARN, VeraNode, run_node
from vera_core.nodes.convert import (
    StateError,
    frames_to_msgs,
    joints_from_msg,
    joints_to_msg,
    stamp_from_msg,
    stamp_to_msg,
)
from vera_core.nodes.qos import COMMAND, IMAGE, IMAGE_RELIABLE, STATE, STATE_RELIABLE
from vera_drivers.commands import CommandError, check_jump
from vera_drivers.nodes.camera_msgs import CameraPublisher
from vera_drivers.pacing import Pacer
from vera_drivers.sim_world import make_world
from vera_msgs.msg import SimStatus
from vera_msgs.srv import ExpertFuture, ResetSim

STATUS_PERIOD_NS = NS_PER_S // 20
PEER_SETTLE_S = 0.5
# Beside cameras and joint states: what must be heard for the loop to go round in lock-step.
LISTENERS = (('visual_plan', 'translator'), ('action_chunk', 'controller'))


class SimNode(VeraNode):
    """Publishes cameras, joint_states and sim_status; follows joint_commands."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('sim', **kwargs)

    def setup(self) -> None:
        seed = self.param('seed', 0, 'of the first episode', low=0)
        self._lockstep = self.param('lockstep', False, 'wait for the controller at each tick')
        self._peer_timeout = self.param(
            'peer_timeout', 10.0, '[s] that reset_sim waits for the others in lock-step', low=0.0
        )
        catch_up = self.param(
            'max_catch_up', 0.1, '[s] made up at once after a delay', low=0.001
        )
        self.world = make_world(self.contract)
        assert self.contract.sim is not None
        self._pacer = Pacer(self.contract.sim.physics_rate, catch_up)
        image_qos = IMAGE_RELIABLE if self._lockstep else IMAGE
        state_qos = STATE_RELIABLE if self._lockstep else STATE
        self._cameras = {c.name: CameraPublisher(self, c, image_qos) for c in self.contract.cameras}
        self._states = self.create_publisher(JointState, 'joint_states', state_qos)
        self._truths = self.create_publisher(SimStatus, 'sim_status', STATE)
        self._target: Any = None
        self._refused = 0
        self._refusal = ''
        self._met = False  # whether the others were there at a reset
        self._status_due = self._images_from = 0
        # In real time, pictures and the expert's future are made beside the physics, not within.
        self._beside = self.world.concurrent and not self._lockstep
        self._service_group = None
        if self._beside:
            self.threads = 2
            self._service_group = MutuallyExclusiveCallbackGroup()
        self._asked: tuple[tuple[CameraSpec, ...], Callable[[], Any], int] | None = None
        self._ask = threading.Condition()
        self._painting: threading.Thread | None = None
        self.world.reset(seed, 0 if self._lockstep else self.now_ns())

    def start(self) -> None:
        self.create_subscription(JointState, 'joint_commands', self._on_command, COMMAND)
        self.create_service(ResetSim, 'reset_sim', self._on_reset)
        self.create_service(
            ExpertFuture, 'expert_future', self._on_expert_future,
            callback_group=self._service_group,
        )
        if self._beside:
            self._painting = threading.Thread(target=self._paint, name='pictures', daemon=True)
            self._painting.start()
        if not self._lockstep:
            self._begin_live(self.world.seed)
            self.create_timer(
                self.contract.control.period,
                self._tick,
                clock=Clock(clock_type=ClockType.STEADY_TIME),
            )

    def halt(self) -> None:
        if self._painting is not None:
            with self._ask:
                self._ask.notify_all()
            self._painting.join()
            self._painting = None

    def publish_diagnostics(self) -> None:
        """As of every node, with how well real time is kept."""
        if self.active:
            slow = self._pacer.dropped_seconds > 0
            self.report(
                'simulation',
                WARN if slow or self._refusal else OK,
                self._refusal or ('fell behind real time' if slow else 'simulated'),
                seed=self.world.seed,
                lockstep=self._lockstep,
                simulated_seconds_dropped=f'{self._pacer.dropped_seconds:.3f}',
                commands_refused=self._refused,
            )
            self._refusal = ''
        super().publish_diagnostics()

    # Live ------------------------------------------------------------------------------------

    def _begin_live(self, seed: int, pause_ns: int = 0) -> None:
        with self._ask:
            self._asked = None  # of the scene before
        self.world.reset(seed, self.now_ns())
        self._images_from = self.world.stamp + pause_ns
        self._target = None
        self._pacer.start(time.monotonic_ns())
        self._publish()

    def _tick(self) -> None:
        with self.monitor('tick'):
            now = time.monotonic_ns()
            steps = self._pacer.due(now)
            if steps:
                # The stamp of the physics, not of this callback: it may run late.
                stamp = self.now_ns() - self._pacer.residue_ns(now)
                self.world.step(self._target, self._pacer.duration_ns(steps), stamp)
                self._publish()

    # Both ------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Images before the joint states: in lock-step the planner's frame must not come later."""
        world = self.world
        due = world.cameras_due() if world.stamp >= self._images_from else ()
        if due and self._beside:
            with self._ask:
                # Who paints too slowly leaves pictures out; they are never late and many.
                self._asked = due, world.glimpse(), world.stamp
                self._ask.notify_all()
        else:
            for camera in due:
                with self.monitor('render'):
                    self._cameras[camera.name].publish(world.image(camera), world.stamp)
        state = world.robot_state()
        self._states.publish(
            joints_to_msg(
                self.contract.joint_names, state.positions, state.stamp, state.velocities
            )
        )
        if world.stamp >= self._status_due or world.stamp < self._status_due - NS_PER_S:
            self._status_due = (world.stamp // STATUS_PERIOD_NS + 1) * STATUS_PERIOD_NS
            self._publish_status()

    def _paint(self) -> None:
        """In a thread of its own: the pictures that were asked for last."""
        while True:
            with self._ask:
                while self._asked is None and not self.stopping.is_set():
                    self._ask.wait(0.5)
                if self.stopping.is_set():
                    return
                assert self._asked is not None
                (due, draw, stamp), self._asked = self._asked, None
            with self.monitor('render'):
                views = draw()
                for camera in due:
                    self._cameras[camera.name].publish(views[camera.name], stamp)

    def _publish_status(self) -> None:
        truth = self.world.truth()
        msg = SimStatus(
            seed=truth.seed,
            objects=list(truth.objects),
            distances=truth.distances.tolist(),
            inside=truth.inside.tolist(),
            dwelled=truth.dwelled,
            coverage=truth.coverage,
            best_coverage=truth.best_coverage,
        )
        msg.header.stamp = stamp_to_msg(truth.stamp)
        self._truths.publish(msg)

    def _on_command(self, msg: JointState) -> None:
        with self.monitor('joint_commands'):
            try:
                target = joints_from_msg(msg, self.contract.joint_names).positions
                if not self._lockstep:
                    check_jump(target, self.world.positions(), self.contract)
            except (StateError, CommandError) as error:
                self._refuse_command(f'joint_commands refused: {error}')
                return
            if not self._lockstep:
                self._target = target
            elif stamp_from_msg(msg) == self.world.stamp:
                self.world.step(target)
                self._publish()

    def _refuse_command(self, why: str) -> None:
        self._refused += 1
        self._refusal = why
        self.get_logger().warning(why, throttle_duration_sec=5.0)

    # Services --------------------------------------------------------------------------------

    def _on_reset(
        self, request: ResetSim.Request, response: ResetSim.Response
    ) -> ResetSim.Response:
        if self._lockstep:
            missing = self._wait_for_peers()
            if missing:
                response.message = missing
                return response
            self.world.reset(request.seed, self.world.next_episode())
            self._status_due = 0
            self._publish()
        else:
            # The cameras pause, so that no planner's context spans the jump to another scene.
            self._begin_live(request.seed, 2 * self.contract.video.frame_period_ns)
        response.success = True
        response.message = f'episode {request.seed}'
        response.objects = list(self.world.env.objects)
        return response

    def _wait_for_peers(self) -> str:
        """Wait until the whole loop would get every message; else say who would not."""
        deadline = time.monotonic() + self._peer_timeout
        waited = not self._met
        while missing := self._missing_peer():
            waited = True
            if time.monotonic() > deadline or self.stopping.wait(0.02):
                return missing
        if waited:
            # A writer can know a reader before the reader knows the writer; nothing tells when.
            self.stopping.wait(PEER_SETTLE_S)
        self._met = True
        return ''

    def _missing_peer(self) -> str:
        reliable = [*((c.images.topic_name, 'planner') for c in self._cameras.values())]
        reliable.append((self._states.topic_name, 'controller'))
        others = [(self.resolve_topic_name(topic), node) for topic, node in LISTENERS]
        for topic, peer in (*reliable, *others):
            found = self.get_subscriptions_info_by_topic(topic)
            mine = [info.qos_profile for info in found if info.node_name == peer]
            if not mine:
                return f'no node {peer!r} listens to {topic}; start it'
            lossy = any(qos.reliability != ReliabilityPolicy.RELIABLE for qos in mine)
            if lossy and (topic, peer) in reliable:
                return f'node {peer!r} may lose messages of {topic}; start it with lockstep true'
        for publisher in (*(c.images for c in self._cameras.values()), self._states):
            listeners = self.count_subscribers(publisher.topic_name)
            if publisher.get_subscription_count() < listeners:
                return f'not all of {listeners} listeners to {publisher.topic_name} are connected'
        commands = self.resolve_topic_name('joint_commands')
        senders = [info.node_name for info in self.get_publishers_info_by_topic(commands)]
        return '' if 'controller' in senders else f"no node 'controller' sends {commands}; start it"

    def _on_expert_future(
        self, request: ExpertFuture.Request, response: ExpertFuture.Response
    ) -> ExpertFuture.Response:
        with self.monitor('expert_future'):
            anchor = stamp_from_msg(request.anchor)
            try:
                frames = self.world.expert_future(request.prompt, anchor, request.frames)
            except ValueError as error:
                # A WorldError, or another episode has begun meanwhile.
                response.message = str(error)
                return response
            response.frames = frames_to_msgs(frames, anchor, self.contract.video.frame_period)
            response.success = True
        return response


def main() -> int:
    """Entry point of the executable."""
    return run_node(SimNode)


if __name__ == '__main__':
    sys.exit(main())
