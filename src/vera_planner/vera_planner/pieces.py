"""The pieces planner: it imagines how the pieces of a picture move, and paints that."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vera_core.gates import PlanRejectedError, Verdict
from vera_core.seams import Image, Plan
from vera_planner.compact import PlannerError, check_frames, to_frames, to_signal
from vera_planner.pieces_codec import check_canvas, read_poses
from vera_planner.pieces_compose import compose
from vera_planner.pieces_network import PiecesNetwork, PoseShape
from vera_planner.text import shared_encoder

STEPS = 8  # of sampling


class PiecesPlanner:
    """VideoPlanner over a trained `PiecesNetwork`; one network serves several embodiments.

    Args:
        network: the trained network, in evaluation mode.
        embodiment: which of the network's.
        frame_period: seconds between frames.
        canvas: height and width of the frames, multiples of 16 px.
        checkpoint_hash: first 16 hex digits of the weights' SHA-256.
        steps: sampling steps of the motions; they cost little.

    Raises:
        PlannerError: an embodiment that the network does not know, or no step.
        ValueError: a canvas that does not fit.
    """

    planner_id = 'compact'

    def __init__(
        self,
        network: PiecesNetwork,
        embodiment: str,
        frame_period: float,
        canvas: tuple[int, int],
        checkpoint_hash: str = '',
        steps: int = STEPS,
    ) -> None:
        if steps < 1:
            raise PlannerError(f'{steps} sampling steps; at least 1 is needed')
        shape = network.config.shapes.get(embodiment)
        if not isinstance(shape, PoseShape):
            known = ', '.join(network.config.shapes)
            raise PlannerError(f'no poses of {embodiment!r} in this checkpoint; it knows {known}')
        check_canvas(*canvas)
        self.network = network.eval().requires_grad_(False)
        self.embodiment = embodiment
        self.frame_period = frame_period
        self.canvas = canvas
        self.checkpoint_hash = checkpoint_hash
        self.steps = steps
        self.shape = shape
        self._moving = network.motion.poses(embodiment).moving
        self._encoder = shared_encoder()

    @torch.inference_mode()
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

        `pending` frames, uint8 [P, H, W, 3], count with the context; the plan is painted from the
        last of them. A black picture shows nothing, and nothing moves.

        Raises:
            PlannerError: no frame, or frames of another size than the canvas.
            PlanRejectedError: not all moving pieces are in the picture; the next one may be better.
        """
        c = self.shape
        check_frames(context, self.canvas)
        if pending is not None:
            check_frames(pending, self.canvas, 'pending')
            context = np.concatenate([context, pending])
        context = context[-c.context :]
        pictures = to_signal(context)
        dark = not context[-1].any()
        masks, past, real, there = self.look(pictures, insist=not dark)
        text = torch.from_numpy(self._encoder(prompt))[None]
        motion = self.network.motion
        scene = motion.encode(
            self.embodiment, past[None], torch.tensor([real]), there[None], text, self.canvas
        )
        moves = motion.sample(
            self.embodiment, scene, self.steps, torch.Generator().manual_seed(seed)
        )[0]
        future = compose(pictures[-1], masks, past[-1], moves, self._moving)
        if dark:  # all of this was for warming up
            future = pictures[-1:].expand_as(future)
        return Plan(frames=to_frames(future), frame_period=self.frame_period)

    def look(self, pictures: Tensor, insist: bool = True) -> tuple[Tensor, Tensor, int, Tensor]:
        """What is where in pictures [T, 3, H, W] in -1..1, the last one the anchor.

        Args:
            pictures: the context.
            insist: on all moving pieces.

        Returns:
            Masks [K, H, W] of the anchor; poses [N, K, 3] of the past, the first one repeated
            where there are fewer than N; how many of them count; which pieces were found, [K].

        Raises:
            PlanRejectedError: a moving piece is not in the anchor.
        """
        c, codec = self.shape, self.network.codec
        logits, votes = codec(pictures, self.embodiment)
        masks = logits.sigmoid()
        poses = read_poses(masks, votes)
        least = codec.least(self.embodiment).clone()
        # A link may be half out of the picture, and is a link; half a disc may be a reflection.
        least[self._moving] *= 0.2
        found = masks.sum((2, 3)) >= least
        names = c.pieces
        lost = [names[k] for k in self._moving if not found[-1, k]]
        if lost and insist:
            raise PlanRejectedError(
                Verdict(
                    accepted=False,
                    reason=f'cannot find {", ".join(lost)} in the picture; check camera and light',
                )
            )
        # Motion is known as far back as all that moves was seen.
        seen = found[:, self._moving].all(1).flip(0).int().cumprod(0)
        real = max(1, int(seen.sum()))
        past = poses[-real:].clone()
        there = found[-1].clone()
        for k in range(len(names)):
            if k not in self._moving and found[:, k].any():
                # What never moves is where it was seen, if something hides it now.
                past[:, k] = poses[found[:, k], k].mean(0)
                there[k] = True
        turn = past[..., 2] - past[-1, :, 2]
        past[..., 2] = past[-1, :, 2] + torch.atan2(turn.sin(), turn.cos())
        if real < c.context:
            past = torch.cat([past[:1].expand(c.context - real, -1, -1), past])
        return masks[-1] * there[:, None, None], past, real, there
