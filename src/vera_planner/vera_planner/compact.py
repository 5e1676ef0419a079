"""The compact planner: a small video diffusion model that runs on a laptop's CPU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from vera_core.checkpoint import CheckpointInfo
from vera_core.seams import Image, Plan
from vera_planner.diffusion import sample
from vera_planner.network import NetworkConfig, VideoNetwork, build
from vera_planner.text import shared_encoder

STEPS = 4


class PlannerError(ValueError):
    """A context that this planner cannot continue; the message names what is wrong with it."""


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
        frame_period: seconds between frames, from the checkpoint's contract.
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
    ) -> None:
        if steps < 1:
            raise PlannerError(f'{steps} sampling steps; at least 1 is needed')
        self.network = network.eval().requires_grad_(False)
        self.frame_period = frame_period
        self.checkpoint_hash = checkpoint_hash
        self.steps = steps
        self._encoder = shared_encoder()

    @classmethod
    def load(
        cls, info: CheckpointInfo, threads: int | None = None, steps: int = STEPS
    ) -> CompactPlanner:
        """Build the network that the checkpoint describes and load its weights.

        Args:
            info: a planner's checkpoint.
            threads: CPU threads of this process's torch; `default_threads` if None.
            steps: sampling steps.
        """
        torch.set_num_threads(threads or default_threads())
        network = build(NetworkConfig(**info.config))
        network.load_state_dict(
            {name: torch.from_numpy(array).float() for name, array in info.tensors().items()}
        )
        return cls(network, float(info.contract['frame_period']), info.short_hash, steps)

    def plan(self, context: Image, prompt: str, *, seed: int = 0, warm_start: Any = None) -> Plan:
        """Imagine what follows `context`, uint8 [T, H, W, 3]; the newest T <= N frames count.

        Raises:
            PlannerError: no frame, or frames of another size than the network's canvas.
        """
        c = self.network.config
        expected = (c.height, c.canvas_width, 3)
        if context.ndim != 4 or len(context) == 0 or context.shape[1:] != expected:
            raise PlannerError(
                f'context has shape {context.shape}; expected [T >= 1, '
                f"{c.height}, {c.canvas_width}, 3]: check the contract's canvas"
            )
        context = context[-c.context :]
        text = torch.from_numpy(self._encoder(prompt))[None]
        future = sample(
            self.network,
            to_signal(context)[None],
            text,
            slots=c.context,
            look_ahead=c.look_ahead,
            steps=self.steps,
            generator=torch.Generator().manual_seed(seed),
        )
        return Plan(frames=to_frames(future[0]), frame_period=self.frame_period)
