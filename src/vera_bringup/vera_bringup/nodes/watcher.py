"""What a demonstration looks at while the robot works: truth, plans, chunks and camera frames."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image as ImageMsg

from vera_bringup.executions import Executions
from vera_bringup.nodes.client import VeraClient
from vera_core.canvas import tile
from vera_core.clocks import seconds_to_ns
from vera_core.contract import Contract
from vera_core.nodes.convert import frames_from_msgs, image_from_msg, stamp_from_msg
from vera_core.nodes.qos import CHUNK, IMAGE, PLAN
from vera_msgs.msg import ActionChunk, ControllerStatus, VisualPlan

CAMERA_SECONDS = 60.0  # of frames kept to lay beside imagined ones


@dataclass(frozen=True)
class SeenPlan:
    """One visual plan: anchor uint8 [H, W, 3], frames uint8 [M, H, W, 3], stamps in ns."""

    goal_id: int
    plan_seq: int
    anchor_stamp: int
    anchor: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    frame_stamps: tuple[int, ...]
    latency: float
    motion: float
    duration: int  # of its committed frames, ns


class Watcher(VeraClient):
    """A client that also keeps plans, chunks' latencies and camera frames.

    Attributes:
        plans: every plan since the start.
        chunk_latencies: seconds from a plan's arrival to its chunk.
    """

    def __init__(self, contract: Contract, domain: int, namespace: str, patience: float) -> None:
        super().__init__(domain, namespace, patience)
        self._contract = contract
        self.plans: list[SeenPlan] = []
        self.chunk_latencies: list[float] = []
        self._executions = Executions()
        self._frames: dict[str, deque[tuple[int, ImageMsg]]] = {
            camera.name: deque(maxlen=int(CAMERA_SECONDS * camera.rate))
            for camera in contract.cameras
        }

    def __enter__(self) -> Watcher:
        super().__enter__()
        for camera in self._contract.cameras:
            self.node.create_subscription(
                ImageMsg, camera.topic, partial(self._on_image, camera.name), IMAGE
            )
        self.node.create_subscription(VisualPlan, 'visual_plan', self._on_plan, PLAN)
        self.node.create_subscription(ActionChunk, 'action_chunk', self._on_chunk, CHUNK)
        return self

    def _remember(self, message: Any) -> None:
        super()._remember(message)
        if isinstance(message, ControllerStatus) and message.plan_seq:
            self._executions.note(
                message.goal_id, message.plan_seq, stamp_from_msg(message), message.remaining
            )

    def execution(self, plan: SeenPlan) -> tuple[int, int]:
        """See Executions.of."""
        return self._executions.of(plan.goal_id, plan.plan_seq, plan.anchor_stamp, plan.duration)

    def _on_image(self, camera: str, message: ImageMsg) -> None:
        self._frames[camera].append((stamp_from_msg(message), message))

    def _on_plan(self, message: VisualPlan) -> None:
        self.plans.append(
            SeenPlan(
                goal_id=message.goal_id,
                plan_seq=message.plan_seq,
                anchor_stamp=stamp_from_msg(message),
                anchor=image_from_msg(message.anchor).copy(),
                frames=frames_from_msgs(message.frames),
                frame_stamps=tuple(stamp_from_msg(frame) for frame in message.frames),
                latency=message.latency,
                motion=message.motion,
                duration=message.committed * seconds_to_ns(message.frame_period),
            )
        )

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunk_latencies.append(message.latency)

    @property
    def dwelled(self) -> str:
        """The first object in which the tip stayed in this episode; '' if none."""
        return self.sim.dwelled if self.sim is not None else ''

    def canvas_at(self, stamp: int) -> NDArray[np.uint8] | None:
        """The canvas of the images nearest to `stamp` [ns]; None if one is a period away."""
        images = {}
        for camera in self._contract.cameras:
            frames = self._frames[camera.name]
            if not frames:
                return None
            nearest, message = min(frames, key=lambda frame: abs(frame[0] - stamp))
            if abs(nearest - stamp) > camera.period_ns:
                return None
            images[camera.name] = image_from_msg(message)
        return tile(images, self._contract)

    def wait_for_episode(self, seed: int, timeout: float) -> bool:
        """Whether the simulator's truth of this episode arrives in time."""
        return self.until(lambda: self.sim is not None and self.sim.seed == seed, timeout)

    def wait_for_frames(self, since: int, timeout: float) -> bool:
        """Whether a frame younger than `since` [ns] arrives in time, from every camera."""
        return self.until(
            lambda: all(f and f[-1][0] > since for f in self._frames.values()), timeout
        )

    @staticmethod
    def now() -> int:
        """ROS time, ns since the epoch."""
        return time.time_ns()
