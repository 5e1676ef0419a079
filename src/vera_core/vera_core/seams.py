"""The seams of the stack: what each organ promises, and nothing of how it does it.

Shapes: T context frames, M look-ahead frames, K committed transitions, H x W pixels of the canvas,
n action channels. Images are RGB uint8, flow is in pixels of the canvas (x right, y down).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vera_core.chunk import ActionChunk
from vera_core.gates import Verdict

Image = NDArray[np.uint8]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """An imagined future.

    Attributes:
        frames: uint8 [M, H, W, 3], o_{t+1} .. o_{t+M}.
        frame_period: seconds between frames.
        latency: seconds the planner took.
        motion: mean absolute change between the newest seen frame and the last one of the
            contract's look-ahead over the 1% most changed pixels, grey levels 0..255; near zero
            means that the plan stands still.
        warm_start: what the planner wants back at the next call, or None.
        alternatives: uint8 [n, K, H, W, 3], further candidates for the committed frames, or None.
        disagreement: mean difference of the candidates at the last committed frame, grey levels;
            NaN with one candidate.
        verdict: what the frames tell about the plan; None where nobody looked.
    """

    frames: Image
    frame_period: float
    latency: float = 0.0
    motion: float = 0.0
    warm_start: Any = field(default=None, repr=False)
    alternatives: Image | None = field(default=None, repr=False)
    disagreement: float = float('nan')
    verdict: Verdict | None = None


@runtime_checkable
class VideoPlanner(Protocol):
    """Eq. 1: frames to come, from frames seen and a goal in words. It never sees an action."""

    planner_id: str
    checkpoint_hash: str

    def plan(self, context: Image, prompt: str, *, seed: int = 0, warm_start: Any = None) -> Plan:
        """Imagine the future of `context`, uint8 [T, H, W, 3], T >= 1, oldest first.

        A planner that takes a further `pending`, uint8 [P, H, W, 3], gets there the frames of the
        last plan that are still being executed: they follow the context, and the plan follows them.
        """


@runtime_checkable
class FlowEstimator(Protocol):
    """Optical flow between batches of images."""

    flow_id: str

    def __call__(self, a: Image, b: Image) -> tuple[Array, Array]:
        """uint8 [N, H, W, 3] twice -> flow a->b float32 [N, H, W, 2] px, weight [N, H, W] 0..1."""


@runtime_checkable
class JacobianModel(Protocol):
    """Eq. 3: image -> per-pixel Jacobian."""

    def __call__(self, images: Image) -> Array:
        """uint8 [N, H, W, 3] -> float32 [N, H, W, 2, n], pixels per unit of each channel."""


@dataclass(frozen=True)
class Translation:
    """K actions recovered from K + 1 frames (anchor first), in the units of the contract.

    Attributes:
        values: float64 [K, n].
        residual: float32 [K], ||J a - v|| / ||v|| over the weighted rows.
        observability: float32 [n], diag(J'WJ) of each channel relative to the largest.
        latency: seconds.
    """

    values: NDArray[np.float64]
    residual: Array
    observability: Array
    latency: float = 0.0


@runtime_checkable
class Translator(Protocol):
    """Imagined motion -> actions of one embodiment.

    Attributes:
        needs_state: whether `translate` wants the joint positions; others ignore them.
    """

    translator_id: str
    checkpoint_hash: str
    channels: tuple[str, ...]
    needs_state: bool

    def translate(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None = None
    ) -> Translation:
        """Anchor uint8 [H, W, 3] and frames uint8 [K, H, W, 3] -> K actions.

        `state`: float64 [joints], measured positions [rad or m] when the anchor was taken, in the
        order of the contract's joints.
        """


@dataclass(frozen=True)
class Frame:
    """One camera image: rgb uint8 [H, W, 3] and its acquisition time, integer nanoseconds."""

    image: Image
    stamp: int


@runtime_checkable
class Camera(Protocol):
    """A source of frames; a context manager."""

    def connect(self) -> None:
        """Open the device; raises CameraError naming it and the cure."""

    def read_latest(self, max_age: float) -> Frame:
        """The newest frame, at most `max_age` seconds old; raises CameraError when it is older."""

    def close(self) -> None:
        """Release the device; safe to call twice."""


@dataclass(frozen=True)
class RobotState:
    """Measured joint positions [rad or m] and velocities, by the contract's joint order.

    `stamp` is the acquisition time in integer nanoseconds.
    """

    stamp: int
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]


@runtime_checkable
class Robot(Protocol):
    """A robot that follows joint set-points; a context manager."""

    def connect(self) -> None:
        """Open the robot; raises RobotError naming it and the cure."""

    def state(self) -> RobotState | None:
        """Newest measured state, or None before the first."""

    def command(self, positions: NDArray[np.float64], stamp: int) -> None:
        """Send one joint set-point; only the safety filter's output may come here."""

    def stop(self) -> None:
        """Stop now, waiting for no lock."""

    def close(self) -> None:
        """Release the robot; safe to call twice."""


@runtime_checkable
class Environment(Protocol):
    """A simulated embodiment with a task in words. Used by the sim node, data and evaluation."""

    joint_names: tuple[str, ...]

    def reset(self, seed: int) -> None:
        """Start the episode of this seed."""

    def step(self, target: NDArray[np.float64], dt: float) -> None:
        """Advance the physics by `dt` seconds towards the joint set-point [rad]."""

    def state(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Joint positions [rad] and velocities [rad/s]."""

    def render(self) -> Image:
        """The camera image now, uint8 [H, W, 3]."""


__all__ = [
    'ActionChunk',
    'Array',
    'Camera',
    'Environment',
    'FlowEstimator',
    'Frame',
    'Image',
    'JacobianModel',
    'Plan',
    'Robot',
    'RobotState',
    'Translation',
    'Translator',
    'VideoPlanner',
]
