"""The only node that speaks to the robot. Named `controller` wherever it appears.

Live: a set-point at every tick of the control rate. Lock-step (`lockstep: true`): one set-point
for each joint state, as soon as there is a target for it; no clock is read.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from vera_controller.controller import Controller, ControllerStatus
from vera_controller.nodes.rivals import Rivals, listen
from vera_controller.registry import TOPIC_ROBOTS, RobotError, make_robot
from vera_controller.state_machine import State
from vera_controller.ticker import Ticker, hurry
from vera_core.chunk import ChunkError
from vera_core.nodes.base import ERROR, OK, WARN, VeraNode, run_node
from vera_core.nodes.convert import chunk_from_msg, joints_to_msg, stamp_to_msg
from vera_core.nodes.qos import CHUNK, LATCHED, STATE
from vera_core.seams import RobotState
from vera_msgs.msg import ActionChunk as ActionChunkMsg
from vera_msgs.msg import ControllerStatus as ControllerStatusMsg
from vera_msgs.msg import GoalStatus

STATUS_PERIOD_S = 0.1
# Longer than braking takes at any sensible limits.
BRAKE_LIMIT_S = 2.0
LEVELS = {State.HOLD: WARN, State.STOPPED: ERROR, State.ESTOP: ERROR}


class ControllerNode(VeraNode):
    """Takes action chunks and joint states, commands the robot, publishes `controller_status`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('controller', **kwargs)

    def setup(self) -> None:
        name = self.param(
            'robot', self.contract.defaults.robot, 'which robot follows the set-points'
        )
        self._lockstep = self.param(
            'lockstep',
            False,
            'answer each joint state; read no clock: for evaluation in simulation',
        )
        self.controller = Controller(self.contract, lockstep=self._lockstep)
        self._listening = MutuallyExclusiveCallbackGroup()
        address = self.param('robot_ip', '', "of a robot that has one; empty: the contract's")
        if self._lockstep and name not in TOPIC_ROBOTS:
            raise RobotError(
                f'robot {name!r} cannot wait for a planner; lock-step is for simulation'
            )
        self.robot = make_robot(
            name,
            self.contract,
            on_state=self._on_state,
            on_bad_state=self._on_bad_state,
            on_fault=self.controller.stop,
            ros={'node': self, 'reliable': self._lockstep, 'callback_group': self._listening},
            address=address,
        )
        # Nobody else says where a robot is that is no ROS topic.
        self._states = None
        if name not in TOPIC_ROBOTS:
            self._states = self.create_publisher(JointState, 'joint_states', STATE)
        self._statuses = self.create_publisher(ControllerStatusMsg, 'controller_status', LATCHED)
        self._announced: tuple[State, str] | None = None
        self._announcing = threading.Lock()
        self._news = threading.Event()
        self._told: object = None
        self._rivals = Rivals()
        # Ticks in a thread of their own: they never wait for a callback.
        self._ticker = Ticker(self._tick, self.contract.control.period, self._tick_failed)
        self._unanswered: int | None = None
        self._rejection = ''

    def start(self) -> None:
        rival = None if self._lockstep else listen(self.context, self.get_namespace())
        if rival is not None:
            raise RobotError(
                f'{rival}, in {self.get_namespace()}; stop it first, or give this one another '
                'namespace'
            )
        self.robot.connect()
        self.controller.enable()
        group, steady = self._listening, Clock(clock_type=ClockType.STEADY_TIME)
        self.create_subscription(
            ActionChunkMsg, 'action_chunk', self._on_chunk, CHUNK, callback_group=group
        )
        self.create_subscription(
            GoalStatus, 'goal_status', self._on_goal, LATCHED, callback_group=group
        )
        for name in ('stop', 'estop', 'reset', 'enable', 'home'):
            self.create_service(
                Trigger,
                name,
                getattr(self, f'_on_{name}'),
                callback_group=MutuallyExclusiveCallbackGroup(),
            )
        self.create_timer(STATUS_PERIOD_S, self._publish_status, clock=steady, callback_group=group)
        self._publish_status()
        if not self._lockstep:
            self.create_subscription(
                ControllerStatusMsg, 'controller_status', self._on_status, LATCHED,
                callback_group=group,
            )
            self._ticker = Ticker(self._tick, self.contract.control.period, self._tick_failed)
            threading.Thread(target=self._tell, name='news', daemon=True).start()
            self._ticker.start()

    def halt(self) -> None:
        """The last set-points are decelerating ones; the very last stands still."""
        self._ticker.stop()
        self.controller.on_goal(0, False)
        deadline = time.monotonic() + BRAKE_LIMIT_S
        braking = not self._lockstep
        while braking and time.monotonic() < deadline:
            # One more after it came to rest: the last set-point repeats the one before.
            braking = not self.controller.at_rest
            self._tick()
            time.sleep(self.contract.control.period)
        self._announce()
        self.robot.close()

    # Set-points -------------------------------------------------------------------------------

    def _tick(self) -> None:
        with self.monitor('tick'):
            self._command(self.now_ns())
        # Who logs waits for whoever reads the log: that is not for this thread.
        news = self.controller.news
        if news != self._told:
            self._told = news
            self._news.set()

    def _tell(self) -> None:
        while not self.stopping.is_set():
            if self._news.wait(STATUS_PERIOD_S):
                self._news.clear()
                self._announce()

    def _tick_failed(self, error: BaseException) -> None:
        self.robot.stop()
        self.fail(f'the thread of the set-points ended: {error!r}')

    def _command(self, now: int) -> bool:
        set_point = self.controller.tick(now)
        if set_point is None:
            return False
        self.robot.command(set_point.positions, set_point.stamp)
        return True

    def _answer(self) -> None:
        """In lock-step: the set-point for the last joint state, if it lacks one and can have it."""
        if self._lockstep and self._unanswered is not None and self._command(self._unanswered):
            self._unanswered = None
        self._announce()

    # Topics -----------------------------------------------------------------------------------

    def _on_state(self, state: RobotState) -> None:
        with self.monitor('joint_states'):
            self.controller.on_state(state)
            if self._states is not None:
                names = self.contract.joint_names
                self._states.publish(
                    joints_to_msg(names, state.positions, state.stamp, state.velocities)
                )
            self._unanswered = state.stamp
            self._answer()

    def _on_bad_state(self, problem: str) -> None:
        self.controller.on_bad_state(problem)
        self._announce()

    def _on_chunk(self, msg: ActionChunkMsg) -> None:
        with self.monitor('action_chunk'):
            try:
                chunk = chunk_from_msg(msg)
            except ChunkError as error:
                self.controller.on_bad_chunk(f'plan {msg.plan_seq} cannot be read: {error}')
                self._announce()
                return
            self.controller.on_chunk(chunk, self.now_ns())
            self._answer()

    def _on_goal(self, msg: GoalStatus) -> None:
        self.controller.on_goal(int(msg.goal_id), msg.status == GoalStatus.ACTIVE)
        self._answer()

    def _on_status(self, msg: ControllerStatusMsg) -> None:
        rival = self._rivals.heard(msg)
        if rival is not None:
            self.controller.stop(f'{rival}, in {self.get_namespace()}; stop one of the two')

    # Services ---------------------------------------------------------------------------------

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.controller.stop('stop was called')
        return self._reply(response, True, 'decelerating to a hold; call reset to go on')

    def _on_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.controller.estop('estop was called')
        self.robot.stop()
        return self._reply(response, True, 'stopping; call reset, then enable, to go on')

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._reply(response, *self.controller.reset())

    def _on_enable(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._reply(response, *self.controller.enable())

    def _on_home(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._reply(response, *self.controller.home())

    def _reply(self, response: Trigger.Response, success: bool, message: str) -> Trigger.Response:
        response.success, response.message = success, message
        self._answer()
        return response

    # Status -----------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Publish and log a transition, once; whoever else is about to does it."""
        if self._announcing.acquire(blocking=False):
            try:
                self._say()
            finally:
                self._announcing.release()

    def _say(self) -> None:
        status = self.controller.status(self.now_ns())
        if status.last_rejection != self._rejection:
            self._rejection = status.last_rejection
            self.get_logger().warning(
                f'chunk refused: {self._rejection}', throttle_duration_sec=1.0
            )
        if (status.state, status.reason) == self._announced:
            return
        changed = self._announced is None or self._announced[0] is not status.state
        self._announced = (status.state, status.reason)
        if changed:
            self._log(status)
        self._publish(status)

    def _log(self, status: ControllerStatus) -> None:
        text = f'{status.state.name}: {status.reason}'
        level = LEVELS.get(status.state, OK)
        # One call for each level: rclpy ties the severity to the place in the code.
        if level == ERROR:
            self.get_logger().error(text)
        elif level == WARN:
            self.get_logger().warning(text)
        else:
            self.get_logger().info(text)

    def _publish_status(self) -> None:
        self._announce()
        self._publish(self.controller.status(self.now_ns()))

    def _publish(self, status: ControllerStatus) -> None:
        msg = ControllerStatusMsg(
            state=int(status.state),
            reason=status.reason,
            goal_id=status.goal_id,
            plan_seq=status.plan_seq,
            remaining=status.remaining,
            plan_age=status.plan_age,
            ticks=status.ticks,
            clipped=status.clipped,
            underruns=status.underruns,
            rejected=status.rejected,
            last_rejection=status.last_rejection,
            goal_time=status.goal_time,
            idle_fraction=status.idle_fraction,
        )
        stamp = self.now_ns()
        self._rivals.published(stamp)
        msg.header.stamp = stamp_to_msg(stamp)
        self._statuses.publish(msg)

    def publish_diagnostics(self) -> None:
        """As of every node, with the state, and whether somebody else commands the robot."""
        if self.active:
            status = self.controller.status(self.now_ns())
            level, message = LEVELS.get(status.state, OK), f'{status.state.name}: {status.reason}'
            rivals = self.count_publishers('joint_commands') - 1
            if rivals > 0 and level == OK:
                level, message = WARN, f'{rivals} more publisher(s) of joint_commands'
            if status.limited and level == OK:
                level = WARN
            jitter = self._ticker.jitter()
            self.report(
                'controller',
                level,
                message,
                tick_jitter_p99_ms=f'{jitter.p99:.2f}' if jitter else '',
                tick_jitter_max_ms=f'{jitter.worst:.2f}' if jitter else '',
                underruns=status.underruns,
                rejected=status.rejected,
                clipped=status.clipped,
                ticks=status.ticks,
                plan_age_s=f'{status.plan_age:.2f}',
                idle_fraction=f'{status.idle_fraction:.2f}',
            )
        super().publish_diagnostics()


def main() -> int:
    """Entry point of the executable."""
    priority = hurry()

    def make() -> ControllerNode:
        node = ControllerNode()
        node.get_logger().info(priority)
        return node

    return run_node(make)


if __name__ == '__main__':
    sys.exit(main())
