"""The client of an evaluation through the graph: keeps truth, chunks and set-points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

from vera_bringup.nodes.client import VeraClient
from vera_core.nodes.convert import chunk_from_msg, stamp_from_msg
from vera_core.nodes.qos import PLAN
from vera_msgs.msg import ActionChunk, SimStatus, VisualPlan

# Deep: simulated time runs faster than this process may look.
DEEP = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
QUIET = 0.3  # s without a new truth: simulated time stands


class LockstepClient(VeraClient):
    """A client that can tell what happened when, in simulated time.

    Args:
        keep: also keep chunks and set-points.
    """

    def __init__(self, domain: int, namespace: str, patience: float, keep: bool) -> None:
        super().__init__(domain, namespace, patience)
        self._keep = keep
        self.forget()

    def __enter__(self) -> LockstepClient:
        super().__enter__()
        self.node.create_subscription(VisualPlan, 'visual_plan', self._on_plan, PLAN)
        if self._keep:
            self.node.create_subscription(ActionChunk, 'action_chunk', self._on_chunk, DEEP)
            self.node.create_subscription(JointState, 'joint_commands', self._on_command, DEEP)
        return self

    def forget(self) -> None:
        """A new episode begins."""
        self._truths: list[SimStatus] = []
        self.plan_latencies: list[float] = []
        self.chunks: list[tuple[int, NDArray[np.float64]]] = []
        self.commands: dict[int, NDArray[np.float64]] = {}

    @property
    def stamp(self) -> int:
        """Simulated time of the newest truth of this episode [ns]; 0 before the first."""
        return stamp_from_msg(self._truths[-1]) if self._truths else 0

    def is_now(self, over: Callable[[SimStatus], bool]) -> bool:
        """Whether the newest truth of this episode is such a one."""
        return bool(self._truths) and over(self._truths[-1])

    def truth(self, seed: int) -> SimStatus | None:
        """The newest truth of the episode of `seed`; what came before it is dropped."""
        self._truths = [t for t in self._truths if t.seed == seed]
        return self._truths[-1] if self._truths else None

    def deciding_truth(self, over: Callable[[SimStatus], bool], end: int) -> SimStatus:
        """The first truth with which the episode was over, else the newest one up to `end` [ns]."""
        until = [t for t in self._truths if stamp_from_msg(t) <= end]
        return next((t for t in until if over(t)), until[-1])

    def settle(self) -> None:
        """Return when simulated time stands, so that nothing of this episode comes later."""
        while True:
            before = self.stamp
            self.spin(QUIET)
            if self.stamp == before:
                return

    def _remember(self, message: Any) -> None:
        super()._remember(message)
        if isinstance(message, SimStatus):
            self._truths.append(message)

    def _on_plan(self, message: VisualPlan) -> None:
        self.plan_latencies.append(message.latency)

    def _on_chunk(self, message: ActionChunk) -> None:
        chunk = chunk_from_msg(message)
        self.chunks.append((chunk.stamp, chunk.values))

    def _on_command(self, message: JointState) -> None:
        self.commands[stamp_from_msg(message)] = np.array(message.position)
