"""The cockpit: a web page beside the robot. Nothing waits for it, and it is no reason to fail.

It publishes nothing. Images, joint states and debug pictures are subscribed to only while somebody
looks at a page. The process is of low priority, so that the robot's own come first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.executors import ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from vera_bringup.cockpit.actions import TRIGGERS, Action
from vera_bringup.cockpit.dreams import Dream
from vera_bringup.cockpit.guard import TokenError, is_local, make_token
from vera_bringup.cockpit.model import Controller, Goal
from vera_bringup.supervisor import CONFIGURATION_ERROR
from vera_core.canvas import CanvasError
from vera_core.chunk import ChunkError
from vera_core.contract import load_contract, parse_overrides
from vera_core.contract_reader import ContractError
from vera_core.image_codec import ImageError
from vera_core.kinematics.urdf import UrdfError
from vera_core.nodes.convert import (
    StateError,
    chunk_from_msg,
    frames_from_msgs,
    image_from_msg,
    joints_from_msg,
    stamp_from_msg,
)
from vera_core.nodes.qos import CHUNK, IMAGE, LATCHED, NEWEST_STATE, PLAN
from vera_core.state_history import HistoryError, StateHistory
from vera_msgs.msg import ActionChunk, ControllerStatus, GoalStatus, PlanVerdict, VisualPlan
from vera_msgs.srv import ResetSim, SetGoal

TOKEN_VARIABLE = 'VERA_COCKPIT_TOKEN'
NICENESS, SESSION_NICENESS = 10, 5
PAUSE = 0.05  # s between looks at what has come: a look costs as much for one message as for many
IMAGE_RATE, POSE_RATE, STATUS_RATE = 8.0, 12.0, 10.0  # Hz
WATCH_PERIOD = 0.2  # s between looks whether somebody looks
PATIENCE = 5.0  # s with a service
DEBUG = ('flow', 'jacobian')


class CockpitNode(Node):
    """Listens to the graph, tells the page, calls services for it."""

    def __init__(self) -> None:
        # Without parameters and logs of its own on the network: recordings are of the robot.
        super().__init__(
            'cockpit', namespace='vera', enable_rosout=False, start_parameter_services=False
        )
        host = self._parameter('host', '127.0.0.1', 'address to listen on')
        port = self._parameter('port', 8080, 'first port to try; 0: any')
        description = self._parameter('description', '', "as scene_node's")
        overrides = parse_overrides(self._parameter('contract_overrides', '', 'YAML mapping'))
        name = self._parameter('contract', 'finger', 'embodiment: a name, or a YAML file')
        contract = load_contract(name, overrides)
        token = make_token(os.environ.get(TOKEN_VARIABLE, ''), host)
        # viser takes a second to import, and may be missing.
        from vera_bringup.cockpit.session import Session

        self._contract = contract
        self.session = Session(contract, self.get_namespace().strip('/'), description)
        self._states = StateHistory(maxlen=300)
        self._due: dict[str, float] = {}
        self._watching: list[Any] = []
        self._latest_joints: np.ndarray | None = None
        self._asked: dict[Any, tuple[Client, float, Any]] = {}
        self._callers: dict[str, Client] = {
            **{name: self.create_client(Trigger, name) for name in TRIGGERS},
            'goal': self.create_client(SetGoal, 'set_goal'),
        }
        if contract.sim is not None:
            self._callers['new_scene'] = self.create_client(ResetSim, 'reset_sim')
        for kind, topic, heard, qos in (
            (GoalStatus, 'goal_status', self._on_goal, LATCHED),
            (ControllerStatus, 'controller_status', self._on_controller, LATCHED),
            (VisualPlan, 'visual_plan', self._on_plan, PLAN),
            (ActionChunk, 'action_chunk', self._on_chunk, CHUNK),
            (PlanVerdict, 'plan_verdict', self._on_verdict, PLAN),
        ):
            self.create_subscription(kind, topic, heard, qos)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1 / STATUS_RATE, self._tick, clock=steady)
        self.create_timer(WATCH_PERIOD, self._watch, clock=steady)
        self.session.open(host, port, token, self._act)
        self.get_logger().info(f'cockpit: {_address(host, self.session.port, token)}')

    def _parameter(self, name: str, default: Any, words: str) -> Any:
        described = ParameterDescriptor(description=words, read_only=True)
        return self.declare_parameter(name, default, described).value

    # What the page asks for; in the web server's thread ---------------------------------------

    def _act(self, action: Action, say: Any) -> None:
        client = self._callers.get(action.name)
        if client is None or not client.service_is_ready():
            why = 'there is no simulation' if client is None else 'nobody answers; is it running?'
            say(_answer(action, False, f'{action.name}: {why}'))
            return
        request = client.srv_type.Request()
        if action.name == 'goal':
            request.prompt = action.prompt
        elif action.name == 'new_scene':
            request.seed = action.seed
        future = client.call_async(request)
        self._asked[future] = client, time.monotonic() + PATIENCE, (action, say)
        future.add_done_callback(partial(self._answered, action, say))

    def _answered(self, action: Action, say: Any, future: Any) -> None:
        self._asked.pop(future, None)
        if future.cancelled():
            return
        result = future.result()
        good = result.accepted if action.name == 'goal' else result.success
        say(_answer(action, good, result.message))

    def _give_up(self) -> None:
        """On services that do not answer."""
        now = time.monotonic()
        late = [future for future, (_, due, _) in list(self._asked.items()) if now > due]
        for future in late:
            client, _, (action, say) = self._asked.pop(future)
            client.remove_pending_request(future)
            say(_answer(action, False, f'{action.name}: no answer within {PATIENCE:.0f} s'))

    # What the graph says ----------------------------------------------------------------------

    def _on_goal(self, msg: GoalStatus) -> None:
        self.session.hear_goal(Goal(msg.goal_id, msg.prompt, msg.status, msg.message, msg.plans))

    def _on_controller(self, msg: ControllerStatus) -> None:
        status = Controller(
            msg.state, msg.reason, msg.plan_age, msg.remaining, msg.ticks, msg.clipped,
            msg.underruns, msg.rejected, msg.last_rejection,
        )  # fmt: skip
        executed = msg.goal_id, msg.plan_seq, stamp_from_msg(msg), msg.remaining
        self.session.hear_controller(status, executed)

    def _on_plan(self, msg: VisualPlan) -> None:
        try:
            frames = frames_from_msgs([msg.anchor, *msg.frames])
        except ValueError as error:
            self.session.complain('visual_plan', str(error))
            return
        dream = Dream(
            goal_id=msg.goal_id,
            plan_seq=msg.plan_seq,
            anchor=stamp_from_msg(msg),
            frames=frames,
            stamps=(stamp_from_msg(msg), *(stamp_from_msg(frame) for frame in msg.frames)),
            committed=msg.committed,
            pending=msg.pending,
            prompt=msg.prompt,
            planner=msg.planner_id,
            motion=msg.motion,
        )
        self.session.hear_plan(dream, msg.latency)

    def _on_chunk(self, msg: ActionChunk) -> None:
        try:
            chunk = chunk_from_msg(msg)
        except ChunkError as error:
            self.session.complain('action_chunk', str(error))
            return
        try:
            q = self._states.at(chunk.stamp)
        except HistoryError:
            if self._latest_joints is None:
                self.session.hear_chunk(chunk, None)
                return
            q = self._latest_joints
        try:
            self.session.hear_chunk(chunk, q)
        except (ContractError, UrdfError) as error:
            self.session.complain('action_chunk', str(error))

    def _on_verdict(self, msg: PlanVerdict) -> None:
        self.session.hear_verdict(msg.goal_id, msg.plan_seq, msg.accepted, msg.reason)

    # While somebody looks ---------------------------------------------------------------------

    def _watch(self) -> None:
        watched = self.session.watched
        if watched and not self._watching:
            for camera in self._contract.cameras:
                self._look(Image, camera.topic, partial(self._on_image, camera.name), IMAGE)
            for name in DEBUG:
                self._look(Image, f'debug/{name}', partial(self._on_debug, name), IMAGE)
            self._look(JointState, 'joint_states', self._on_state, NEWEST_STATE)
        elif not watched and self._watching:
            for subscription in self._watching:
                self.destroy_subscription(subscription)
            self._watching = []
            self._states.clear()
            self._latest_joints = None

    def _look(self, kind: Any, topic: str, heard: Any, qos: Any) -> None:
        # Raw: most messages are passed over, and reading one costs more than that.
        self._watching.append(self.create_subscription(kind, topic, heard, qos, raw=True))

    def _is_due(self, what: str, rate: float) -> bool:
        now = time.monotonic()
        due = self._due.get(what, 0.0)
        if now < due:
            return False
        self._due[what] = max(due + 1 / rate, now + 0.5 / rate)
        return True

    def _on_image(self, camera: str, data: bytes) -> None:
        if not self._is_due(camera, IMAGE_RATE):
            return
        try:
            msg = deserialize_message(data, Image)
            self.session.hear_image(camera, image_from_msg(msg), stamp_from_msg(msg))
        except (ImageError, CanvasError) as error:
            self.session.complain(f'camera {camera}', str(error))

    def _on_debug(self, name: str, data: bytes) -> None:
        try:
            msg = deserialize_message(data, Image)
            self.session.hear_debug(name, image_from_msg(msg), stamp_from_msg(msg))
        except ImageError as error:
            self.session.complain(f'debug/{name}', str(error))

    def _on_state(self, data: bytes) -> None:
        if not self._is_due('joint_states', POSE_RATE):
            return
        try:
            state = joints_from_msg(
                deserialize_message(data, JointState), self._contract.joint_names
            )
        except StateError as error:
            self.session.complain('joint_states', str(error))
            return
        if state.stamp <= (self._states.newest or 0):
            self._states.clear()  # the clock of the simulation was set back
        self._states.add(state.stamp, state.positions)
        self._latest_joints = state.positions
        self.session.hear_joints(state.positions)

    def _tick(self) -> None:
        self._give_up()
        self.session.tell()


def _answer(action: Action, good: bool, message: str) -> dict[str, Any]:
    words = message or 'done'
    return {'type': 'answer', 'action': action.name, 'good': good, 'message': words}


def _address(host: str, port: int, token: str) -> str:
    """What a person opens in a browser, here or elsewhere."""
    if host in ('0.0.0.0', '::', ''):
        name = socket.gethostname()
    else:
        name = f'[{host}]' if ':' in host else host
    name = 'localhost' if is_local(host) else name
    return f'http://{name}:{port}/' + (f'?token={token}' if token else '')


def _give_way() -> None:
    """Let the robot's own processes go first."""
    os.nice(NICENESS)
    # Where each session has its share (sched_autogroup), niceness counts inside it only. `vera up`
    # gives each node a session; with others in it, theirs would be lowered, too.
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path('/proc/self/autogroup').write_text(f'{SESSION_NICENESS}\n')


def _handle(executor: SingleThreadedExecutor) -> None:
    """Everything that is there now. `spin_once` would look anew for each message."""
    with contextlib.suppress(TimeoutException, ShutdownException):
        while True:
            handler, *_ = executor.wait_for_ready_callbacks(timeout_sec=0.0)
            handler()
            handler.result()  # raises what the callback has raised


def main() -> int:
    """Entry point of cockpit_node; exit code 2 where there can be no cockpit."""
    _give_way()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    log = rclpy.logging.get_logger('cockpit')
    if find_spec('viser') is None:
        log.warning('no cockpit: viser is not installed (pip install viser==1.1.1)')
        return CONFIGURATION_ERROR
    try:
        node = CockpitNode()
    except (TokenError, OSError, ContractError, UrdfError, ImportError) as error:
        log.warning(f'no cockpit: {error}')
        return CONFIGURATION_ERROR
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.wait(PAUSE):
            _handle(executor)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    sys.stdout.flush()
    # Nothing here has to be saved, and viser's threads would take seconds to end.
    os._exit(0)


if __name__ == '__main__':
    sys.exit(main())
