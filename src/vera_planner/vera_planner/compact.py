"""The compact planner: a small video diffusion model that runs on a laptop's CPU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from vera_core.checkpoint import CheckpointInfo
from vera_core.seams import Image, Plan
from vera_planner.diffusion import sample
from vera_planner.network import NetworkConfig, VideoNetwork, build, check_canvas
from vera_planner.text import shared_encoder

STEPS = 4
PENDING_LEVEL = 0.2  # noise level of frames that were only imagined; training goes to 0.25


class PlannerError(ValueError):
    """A context that this planner cannot continue; the message names what is wrong with it."""


def check_frames(frames: Image, canvas: tuple[int, int], name: str = 'context') -> None:
    """Raise PlannerError unless `frames` are uint8 [T, H, W, 3], T >= 1, of the canvas (H, W)."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) == 0 or (
        frames.shape[1:] != (*canvas, 3)
    ):
        raise PlannerError(
            f'{name} has shape {frames.shape}, {frames.dtype}; expected [T >= 1, {canvas[0]}, '
            f"{canvas[1]}, 3], uint8: check the contract's canvas"
        )


def to_signal(frames: Image) -> torch.Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 127.5 - 1


def to_frames(signal: torch.Tensor) -> Image:
    """The inverse of `to_signal`, rounded to uint8."""
    levels = ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(-3, -1).numpy())


def default_threads() -> int:
    """One core is left to the rest of the graph: torch's threads wait for each other spinning."""
    return max(1, min(4, (os.cpu_count() or 1) - 1))


class CompactPlanner:
    """VideoPlanner over a trained `VideoNetwork`.

    Args:
        network: the trained network, in evaluation mode.
        frame_period: seconds between frames.
        canvas: height and width of the frames, multiples of 16 px; the network's own if None.
        checkpoint_hash: first 16 hex digits of the weights' SHA-256.
        steps: sampling steps; more steps cost time in proportion.
    """

    planner_id = 'compact'

    def __init__(
        self,
        network: VideoNetwork,
        frame_period: float,
        checkpoint_hash: str = '',
        steps: int = STEPS,
        canvas: tuple[int, int] | None = None,
    ) -> None:
        if steps < 1:
            raise PlannerError(f'{steps} sampling steps; at least 1 is needed')
        self.canvas = canvas or (network.config.height, network.config.canvas_width)
        check_canvas(*self.canvas)
        self.network = network.eval().requires_grad_(False)
        self.frame_period = frame_period
        self.checkpoint_hash = checkpoint_hash
        self.steps = steps
        self._encoder = shared_encoder()

    @classmethod
    def load(
        cls,
        info: CheckpointInfo,
        frame_period: float,
        canvas: tuple[int, int],
        threads: int | None = None,
        steps: int = STEPS,
    ) -> CompactPlanner:
        """Build the network that the checkpoint describes and load its weights.

        Args:
            info: a planner's checkpoint.
            frame_period: the contract's, s.
            canvas: the contract's height and width; one network serves several.
            threads: CPU threads of this process's torch; `default_threads` if None.
            steps: sampling steps.
        """
        torch.set_num_threads(threads or default_threads())
        network = build(NetworkConfig(**info.config))
        network.load_state_dict(
            {name: torch.from_numpy(array).float() for name, array in info.tensors().items()}
        )
        return cls(network, frame_period, info.short_hash, steps, canvas)

    def plan(
        self,
        context: Image,
        prompt: str,
        *,
        seed: int = 0,
        warm_start: Any = None,
        pending: Image | None = None,
    ) -> Plan:
        """Imagine what follows `context`, uint8 [T, H, W, 3]; the newest T <= N frames count.

        `pending` frames, uint8 [P, H, W, 3], count with the context and are slightly noised: they
        were only imagined. The last one is not: the plan is painted from it.

        Raises:
            PlannerError: no frame, or frames of another size than the canvas.
        """
        c = self.network.config
        check_frames(context, self.canvas)
        doubt = np.zeros(len(context), np.float32)
        if pending is not None:
            check_frames(pending, self.canvas, 'pending')
            context = np.concatenate([context, pending])
            doubt = np.append(doubt, np.full(len(pending), PENDING_LEVEL, np.float32))
            doubt[-1] = 0
        context, doubt = context[-c.context :], doubt[-c.context :]
        text = torch.from_numpy(self._encoder(prompt))[None]
        future = sample(
            self.network,
            to_signal(context)[None],
            text,
            slots=c.context,
            look_ahead=c.look_ahead,
            steps=self.steps,
            generator=torch.Generator().manual_seed(seed),
            context_levels=torch.from_numpy(doubt),
        )
        return Plan(frames=to_frames(future[0]), frame_period=self.frame_period)
