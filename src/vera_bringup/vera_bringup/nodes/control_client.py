"""The world around a controller that is measured: a robot that obeys, a planner, and a stop."""

from __future__ import annotations

import time

import numpy as np
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from vera_bringup.nodes.client import NoGraphError, VeraClient
from vera_core.chunk import ActionChunk
from vera_core.contract import Contract
from vera_core.nodes.convert import chunk_to_msg, joints_from_msg, joints_to_msg, stamp_from_msg
from vera_core.nodes.qos import CHUNK, LATCHED, STATE
from vera_msgs.msg import ActionChunk as ActionChunkMsg
from vera_msgs.msg import ControllerStatus, GoalStatus

# Share of a typical action that each one here has; actions of a chunk, and s between two chunks.
SHARE, STEPS, CHUNK_S = 0.5, 8, 0.6
# s of motion before a stop, and of patience with it.
MOVE_S, PATIENCE_S = 1.5, 3.0


class ControlClient(VeraClient):
    """Moves the first channel to and fro and stops it now and then.

    Attributes:
        stamps, positions: of the set-points, as the controller stamped them.
        calls, taken: [ns], when stop was called, and when the controller said STOPPED.
    """

    def __init__(self, domain: int, namespace: str, contract: Contract) -> None:
        super().__init__(domain, namespace, patience=30.0)
        self._contract = contract
        self._q = contract.home_positions
        self._sent_state = self._sent_chunk = 0.0
        self._sequence, self._sign = 0, 1.0
        self.stamps: list[int] = []
        self.positions: list[np.ndarray] = []
        self.calls: list[int] = []
        self.taken: list[int] = []

    def __enter__(self) -> ControlClient:
        super().__enter__()
        self._states = self.node.create_publisher(JointState, 'joint_states', STATE)
        self._chunks = self.node.create_publisher(ActionChunkMsg, 'action_chunk', CHUNK)
        self._goals = self.node.create_publisher(GoalStatus, 'goal_status', LATCHED)
        # As deep as it takes: this process is late where the planner has the cores.
        self.node.create_subscription(JointState, 'joint_commands', self._on_command, 1000)
        self._stop = self.node.create_client(Trigger, 'stop')
        return self

    def measure(self, seconds: float) -> None:
        """Move and stop for so long.

        Raises:
            NoGraphError: the controller does not start, or does not take a stop.
        """
        self._play(0.2)
        self._await(ControllerStatus.READY, self._patience, chunks=False)
        self._goals.publish(GoalStatus(goal_id=1, status=GoalStatus.ACTIVE))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._await(ControllerStatus.RUNNING, self._patience)
            self._play(MOVE_S)
            if self.controller is None or self.controller.state != ControllerStatus.RUNNING:
                continue
            self.calls.append(time.time_ns())
            self._stop.call_async(Trigger.Request())
            self._await(ControllerStatus.STOPPED, PATIENCE_S, chunks=False)
            assert self.controller is not None
            self.taken.append(stamp_from_msg(self.controller))
            self._play(0.4, chunks=False)
            self.call(Trigger, 'reset', Trigger.Request())

    def _await(self, state: int, timeout: float, chunks: bool = True) -> None:
        deadline = time.monotonic() + timeout
        while self.controller is None or self.controller.state != state:
            if time.monotonic() > deadline:
                said = 'nothing' if self.controller is None else self.controller.reason
                raise NoGraphError(f'the controller did not get to state {state}: {said}')
            self._play(0.01, chunks)

    def _play(self, seconds: float, chunks: bool = True) -> None:
        """Be robot and planner for so long."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if now - self._sent_state >= self._contract.control.period:
                self._sent_state = now
                names = self._contract.joint_names
                stamp = time.time_ns()
                self._states.publish(joints_to_msg(names, self._q, stamp, np.zeros(len(names))))
                if chunks and now - self._sent_chunk >= CHUNK_S:
                    self._sent_chunk = now
                    self._chunks.publish(chunk_to_msg(self._chunk(stamp)))
            self._executor.spin_once(timeout_sec=0.002)

    def _chunk(self, stamp: int) -> ActionChunk:
        channels = self._contract.channels
        values = np.zeros((STEPS, len(channels)))
        values[:, 0] = self._sign * SHARE * channels[0].scale
        values[:, [c.kind == 'gripper' for c in channels]] = 1.0
        self._sequence, self._sign = self._sequence + 1, -self._sign
        return ActionChunk(
            stamp=stamp,
            goal_id=1,
            plan_seq=self._sequence,
            channels=self._contract.channel_names,
            period=self._contract.video.frame_period,
            values=values,
            residual=np.zeros(STEPS, np.float32),
            observability=np.ones(len(channels), np.float32),
        )

    def _on_command(self, msg: JointState) -> None:
        state = joints_from_msg(msg, self._contract.joint_names)
        self._q = state.positions
        self.stamps.append(state.stamp)
        self.positions.append(state.positions)


__all__ = ['ControlClient']
