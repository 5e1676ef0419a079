"""The planner of several cameras: it imagines how pieces move in each view, and paints that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vera_core.gates import PlanRejectedError, Verdict
from vera_core.seams import Image, Plan
from vera_planner.compact import PlannerError, check_frames, to_frames, to_signal
from vera_planner.pieces import STEPS
from vera_planner.pieces_codec import check_canvas, count_votes
from vera_planner.pieces_network import PiecesNetwork
from vera_planner.text import shared_encoder
from vera_planner.view_pieces_motion import AFFINE, PLANE, compose_view
from vera_planner.view_pieces_network import RIM, ViewShape, importance, plane_affine

# Motions that are sampled. Where the expert would go on or rest, which cannot always be seen, some
# rest, and a plan that rests would rest for ever: one of those that go is painted. While there is
# some way to go it is the one in the middle, since the farthest may be the odd one out that goes
# somewhere else; for the last bit it is the farthest.
CANDIDATES = 32
GOES = 0.5  # of the farthest way of the hand: a motion that reaches it goes
BIT = 4.0  # px of the hand within a plan
_TRACE = 0.1  # of a mask: fainter is nothing
_STILL = 0.05  # px: a piece that moves no further in the whole plan is left as it is in the picture


@dataclass(frozen=True, eq=False)
class Sight:
    """What the codec found in one picture of all views.

    Attributes:
        masks: [V, K, H, W] in 0..1.
        middles: [V, K, 2] px of the view; seen: bool [V, K], where a piece was found.
        turns: [K, 2], cosine and sine; 0 where not known.
    """

    masks: Tensor
    middles: Tensor
    seen: Tensor
    turns: Tensor


class ViewPiecesPlanner:
    """VideoPlanner over a trained `PiecesNetwork`, of an embodiment that several cameras see.

    It remembers one thing from plan to plan, through `warm_start`: where everything was when the
    goal began. Otherwise only the newest frame counts.

    Args:
        network: the trained network, in evaluation mode.
        embodiment: which of the network's.
        frame_period: seconds between frames.
        canvas: height and width of the frames: the views side by side, square, multiples of 16 px.
        checkpoint_hash: first 16 hex digits of the weights' SHA-256.
        steps: sampling steps of the motions; they cost little.

    Raises:
        PlannerError: an embodiment that the network does not know in views, a canvas that does not
            hold them, or no step.
        ValueError: a size that the codec cannot take.
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
        if not isinstance(shape, ViewShape):
            known = ', '.join(network.config.shapes)
            raise PlannerError(f'no views of {embodiment!r} in this checkpoint; it knows {known}')
        height, width = canvas
        views = len(shape.views)
        if width != views * height:
            raise PlannerError(
                f'canvas {height}x{width}: {views} square views side by side are needed'
            )
        check_canvas(height, height)
        self.network = network.eval().requires_grad_(False)
        self.embodiment, self.shape = embodiment, shape
        self.frame_period, self.canvas = frame_period, canvas
        self.checkpoint_hash, self.steps = checkpoint_hash, steps
        self._size = (height, height)
        self._encoder = shared_encoder()

    @torch.inference_mode()
    def plan(
        self,
        context: Image,
        prompt: str,
        *,
        seed: int = 0,
        warm_start: Sight | None = None,
        pending: Image | None = None,
    ) -> Plan:
        """Imagine what follows the newest frame of `context`, uint8 [T, H, W, 3].

        After `pending` frames, uint8 [P, H, W, 3], the plan follows the last of them. A black
        picture shows nothing, and nothing moves.

        Raises:
            PlannerError: no frame, or frames of another size than the canvas.
            PlanRejectedError: the hand is in no picture of a fixed camera.
        """
        check_frames(context, self.canvas)
        if pending is not None:
            check_frames(pending, self.canvas, 'pending')
        anchor = context[-1] if pending is None else pending[-1]
        views = to_signal(np.stack(np.split(anchor, len(self.shape.views), axis=1)))
        dark = not anchor.any()
        now = self.look(views, insist=not dark)
        if dark:  # this is for warming up
            began = now
        elif warm_start is not None:
            began = warm_start
        elif pending is None:
            began = now
        else:
            first = np.stack(np.split(context[-1], len(views), axis=1))
            began = self.look(to_signal(first))
        text = torch.from_numpy(self._encoder(prompt))[None]
        motion = self.network.motion
        scene = motion.encode(
            self.embodiment, now.middles[None], now.seen[None], now.turns[None],
            began.middles[None], began.seen[None], text, self._size,
        )
        found = motion.sample(
            self.embodiment, scene.expand(CANDIDATES, -1), self.steps,
            torch.Generator().manual_seed(seed),
        )
        numbers = found[self._chosen(found)]
        frames = self.paint(views, now, numbers)
        if dark:
            frames = torch.cat(list(views), -1).expand_as(frames)
        return Plan(
            frames=to_frames(frames), frame_period=self.frame_period,
            warm_start=None if dark else began,
        )

    def look(self, views: Tensor, insist: bool = True) -> Sight:
        """What is where in one picture, [V, 3, H, W] in -1..1.

        Raises:
            PlanRejectedError: `insist`, and the hand is in no fixed camera's picture.
        """
        c, codec = self.shape, self.network.codec
        logits, votes = codec(views, self.embodiment)
        masks = logits.sigmoid()
        middles, ways = count_votes(masks, votes)
        area = masks.sum((2, 3))
        limit = middles.new_tensor([self._size[1], self._size[0]]) - RIM
        inside = ((middles > RIM) & (middles < limit)).all(-1)
        seen = (area >= codec.least(self.embodiment)) & inside
        hand, fixed = c.pieces.index('hand'), self.network.motion.views(self.embodiment).fixed
        if insist and not seen[fixed, hand].any():
            raise PlanRejectedError(
                Verdict(
                    accepted=False,
                    reason='cannot find the hand in the pictures; check cameras and light',
                )
            )
        # The camera that rides along does not see how anything is turned in the room.
        weight = (area * seen)[fixed, :, None]
        turns = (ways[fixed] * weight).sum(0) / weight.sum(0).clamp_min(1e-6)
        turns = turns / turns.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        turned = torch.tensor([name == 'hand' or name in c.kin for name in c.pieces])
        turns = turns * (seen[fixed].any(0) & turned)[:, None]
        return Sight(masks, middles, seen, turns)

    def _chosen(self, numbers: Tensor) -> int:
        """Which of the motions [B, M, numbers] is painted."""
        c = self.shape
        first = AFFINE * c.moves(0).index(c.pieces.index('hand'))
        away = numbers[..., first : first + 2].norm(dim=-1)
        way = away.sum(1)
        if away.max() < BIT:
            return int(way.argmax())
        going = (way >= GOES * way.max()).nonzero()[:, 0]
        rows = (numbers[going] * importance(c)).flatten(1)
        return int(going[torch.cdist(rows, rows).sum(1).argmin()])

    def paint(self, views: Tensor, now: Sight, numbers: Tensor) -> Tensor:
        """Frames [M, 3, H, W] of the canvas, from the motions [M, numbers] since the anchor."""
        c = self.shape
        ground = numbers[:, -PLANE:]
        # A trace of a piece that is not there would take what lies under it away.
        masks = ((now.masks - _TRACE) / (1 - _TRACE)).clamp_min(0)
        here = (masks.sum((2, 3)) >= 3) & (masks.amax((2, 3)) >= 0.5)
        out, begin = [], 0
        for v, name in enumerate(c.views):
            moves = torch.tensor(c.moves(v))
            end = begin + AFFINE * len(moves)
            motion = numbers[:, begin:end].unflatten(1, (len(moves), AFFINE)).clone()
            begin = end
            moving = name == c.moving_view
            if moving:
                loose = [i for i, k in enumerate(c.moves(v)) if c.pieces[k] not in c.tool]
                at = now.middles[v, moves[loose]].expand(len(motion), -1, -1)
                motion[:, loose] += plane_affine(ground, at, self._size)
            there = here[v, moves]
            # What rides with the camera stays in place, while the ground goes.
            if moving:
                hand = torch.tensor([c.pieces.index('hand')])
                moves = torch.cat([moves, hand])
                motion = torch.cat([motion, torch.zeros_like(motion[:, :1])], 1)
                there = torch.cat([there, torch.ones_like(there[:1])])
            else:
                there &= motion.abs().amax((0, 2)) > _STILL
            order = moves[there].argsort()
            shown = moves[there][order]
            out.append(
                compose_view(
                    views[v], masks[v, shown], now.middles[v, shown],
                    motion[:, there][:, order], ground if moving else None,
                )
            )
        return torch.cat(out, -1)


__all__ = ['Sight', 'ViewPiecesPlanner']
