"""Moves a robot at random through its controller, so that there is something to record."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState

from vera_bringup.exits import CommandError, Exit
from vera_bringup.nodes.client import VeraClient, constant_name
from vera_bringup.selfplay_motion import RandomWalk, ToolWalk
from vera_core.chunk import ActionChunk
from vera_core.contract import Contract
from vera_core.nodes.convert import StateError, chunk_to_msg, joints_from_msg, stamp_to_msg
from vera_core.nodes.qos import CHUNK, LATCHED, STATE
from vera_core.seams import RobotState
from vera_msgs.msg import ActionChunk as ActionChunkMsg
from vera_msgs.msg import ControllerStatus, GoalStatus

PROMPT = 'self-play'
REST_S = 0.6  # for the robot to come to rest between two episodes


class SelfPlayer(VeraClient):
    """A client in the places of planner and translator: goals without words, random chunks.

    The controller treats its chunks as any other: through splicing, limits and safety filter.
    """

    def __init__(self, contract: Contract, domain: int, namespace: str, patience: float) -> None:
        super().__init__(domain, namespace, patience)
        self._contract = contract
        self._state: RobotState | None = None
        self._goal_id = self._plan = 0

    def __enter__(self) -> SelfPlayer:
        super().__enter__()
        self.node.create_subscription(JointState, 'joint_states', self._on_state, STATE)
        self._goals = self.node.create_publisher(GoalStatus, 'goal_status', LATCHED)
        self._chunks = self.node.create_publisher(ActionChunkMsg, 'action_chunk', CHUNK)
        return self

    def _on_state(self, message: Any) -> None:
        try:
            self._state = joints_from_msg(message, self._contract.joint_names)
        except StateError:
            return  # the controller says so, and holds

    def new_episode(self, seed: int) -> None:
        """In simulation: another scene; the robot is at rest before and after.

        Raises:
            CommandError: the simulator does not answer.
        """
        answer = self.reset_sim(seed)
        if not answer.success:
            raise CommandError(f'reset_sim refused: {answer.message}', Exit.FAILED)
        if not self.until(lambda: self.sim is not None and self.sim.seed == seed, 10.0):
            raise CommandError('the simulator is silent after reset_sim', Exit.FAILED)

    def play(self, walk: RandomWalk | ToolWalk, seconds: float) -> None:
        """Move for so long, then come to rest.

        Raises:
            CommandError: the controller is stopped, or there are no joint states.
        """
        self._say(GoalStatus.ACTIVE)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                self._send(walk)
                # The next chunk comes one action before the end of this one.
                chunk = max(walk.steps - 1, 1) * walk.period
                self.spin(min(chunk, max(0.0, end - time.monotonic())))
                self._check()
        finally:
            self._say(GoalStatus.SUCCEEDED)
            self.spin(REST_S)

    def _send(self, walk: RandomWalk | ToolWalk) -> None:
        last = self._state
        if not self.until(lambda: self._state is not last, 2.0) or self._state is None:
            raise CommandError('no joint_states within 2 s', Exit.FAILED)
        self._plan += 1
        values = walk.chunk(self._state.positions)
        chunk = ActionChunk(
            stamp=self._state.stamp,
            goal_id=self._goal_id,
            plan_seq=self._plan,
            channels=self._contract.channel_names,
            period=walk.period,
            values=values,
            residual=np.zeros(len(values), np.float32),
            observability=np.ones(values.shape[1], np.float32),
            translator_id=PROMPT,
        )
        self._chunks.publish(chunk_to_msg(chunk))

    def _say(self, status: int) -> None:
        if status == GoalStatus.ACTIVE:
            self._goal_id += 1
        message = GoalStatus(goal_id=self._goal_id, prompt=PROMPT, status=status)
        message.header.stamp = stamp_to_msg(time.time_ns())
        self._goals.publish(message)

    def _check(self) -> None:
        status = self.controller
        if status and status.state in (ControllerStatus.STOPPED, ControllerStatus.ESTOP):
            state = constant_name(ControllerStatus, status.state)
            raise CommandError(f'the controller is {state}: {status.reason}', Exit.FAILED)
