"""The pieces planner's ends of an embodiment that several cameras see.

The codec is shown one view after the other. The planner of motions sees where each piece is in each
view, where it was when the goal began, and the sentence; it imagines how all pieces move in all
views, in the coordinates of the motions' principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vera_planner.pieces_trunk import Ends, Trunk, waves
from vera_planner.view_pieces_motion import (
    AFFINE,
    PLANE,
    REACH,
    affine_between,
    homography,
    plane_between,
)

RIM = 1.0  # px: a middle nearer to the picture's rim does not count as seen
_OCTAVES = 5
_FAR = 80.0  # px: a larger motion within a plan is taken as this


@dataclass(frozen=True)
class ViewShape:
    """An embodiment that several cameras see.

    Attributes:
        views: names, left to right on the canvas; all square and of one size.
        moving_view: the one whose camera rides along.
        pieces: names in the order in which they are painted.
        kin: pieces that differ in a word only; they share weights.
        still: pieces that never move by themselves.
        tool: pieces whose middle says where the tool is; they ride with the moving camera.
        look_ahead: frames imagined.
        components: principal components of the motions.
    """

    views: tuple[str, ...]
    moving_view: str
    pieces: tuple[str, ...]
    kin: tuple[str, ...]
    still: tuple[str, ...]
    tool: tuple[str, ...]
    look_ahead: int = 8
    components: int = 64

    def place(self, names: tuple[str, ...]) -> list[int]:
        """Where those pieces are among all."""
        return [self.pieces.index(name) for name in names]

    def moves(self, view: int) -> list[int]:
        """Pieces that may move in a view."""
        if self.views[view] == self.moving_view:
            return self.place((*self.still, *self.kin, *self.tool))
        return [k for k, name in enumerate(self.pieces) if name not in self.still]

    @property
    def numbers(self) -> int:
        """How many numbers the motion of one frame has."""
        return AFFINE * sum(len(self.moves(v)) for v in range(len(self.views))) + PLANE


def plane_affine(plane: Tensor, at: Tensor, size: tuple[int, int]) -> Tensor:
    """How the plane moves about points: motions [B, K, 6] at [B, K, 2] from [B, 8]."""
    h = homography(plane, size)[:, None]
    steps = torch.tensor([[0.0, 0.0], [REACH, 0.0], [0.0, REACH]])
    points = at[:, :, None] + steps  # [B, K, 3, 2]
    moved = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ h.mT
    shift = moved[..., :2] / moved[..., 2:].clamp_min(1e-3) - points
    x, y = shift[..., 1, :] - shift[..., 0, :], shift[..., 2, :] - shift[..., 0, :]
    linear = torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
    return torch.cat([shift[..., 0, :], linear], -1)


def motion_numbers(
    shape: ViewShape, now: Tensor, future: Tensor, plane: Tensor, size: tuple[int, int]
) -> Tensor:
    """Motions of windows, [B, M, numbers]; 0 where something is not there.

    Args:
        shape: which pieces.
        now: tracks [B, V, K, 8] of the anchor.
        future: tracks [B, M, V, K, 8].
        plane: homographies [B, M + 1, 3, 3] of the ground in the moving view.
        size: height and width of a view.
    """
    b, m = future.shape[:2]
    ground = plane_between(plane[:, :1].expand(b, m, 3, 3), plane[:, 1:], size)
    parts = []
    for v, name in enumerate(shape.views):
        moves = shape.moves(v)
        before = now[:, v, moves][:, None].expand(b, m, len(moves), -1)
        found = affine_between(before, future[:, :, v, moves])
        if name == shape.moving_view:
            loose = [i for i, k in enumerate(moves) if shape.pieces[k] not in shape.tool]
            at = now[:, v, moves][:, loose, :2]
            inside = ((at > 0) & (at < at.new_tensor([size[1], size[0]]))).all(-1)
            at = at.nan_to_num()
            about = plane_affine(
                ground.flatten(0, 1), at.repeat_interleave(m, 0), size
            ).unflatten(0, (b, m))
            found[:, :, loose] = torch.where(
                inside[:, None, :, None], found[:, :, loose] - about, 0.0
            )
        parts.append(found.flatten(2))
    parts.append(ground)
    return torch.cat(parts, -1).nan_to_num().clamp(-_FAR, _FAR)


def importance(shape: ViewShape) -> Tensor:
    """What an error of 1 px of each number weighs, [M, numbers]: what the translator lives on."""
    parts = []
    for v, name in enumerate(shape.views):
        moves = shape.moves(v)
        weight = torch.full((len(moves), AFFINE), 1.5)
        if name == shape.moving_view:
            weight[:] = 0.5
            weight[[moves.index(k) for k in shape.place(shape.tool)]] = 3.0
        weight[:, 2:] *= 0.5
        parts.append(weight.flatten())
    parts.append(torch.ones(PLANE))
    ahead = torch.linspace(1.0, 0.6, shape.look_ahead)
    return ahead[:, None] * torch.cat(parts)


class ViewEnds(Ends):
    """What an embodiment seen by several cameras has of its own.

    Motions are in units of their principal components' spread, [B, components].
    """

    def __init__(self, shape: ViewShape, width: int, hidden: int) -> None:
        super().__init__()
        self.shape = c = shape
        views = len(c.views)
        # The other pieces go where the hand goes.
        self.eyed = c.place((*c.still, *c.kin, 'hand', *c.tool))
        eyed = [c.pieces[k] for k in self.eyed]
        self.body = [eyed.index(name) for name in ('hand', *c.tool)]
        kinds = [c.kin[0] if name in c.kin else name for name in eyed]
        names = list(dict.fromkeys(kinds))
        self.kind = [names.index(kind) for kind in kinds]
        self.fixed = [v for v in range(views) if c.views[v] != c.moving_view]
        features = views * (1 + 4 * _OCTAVES + 4 * (_OCTAVES + 1)) + 3 + 3 * len(self.fixed)
        self.own = nn.Parameter(torch.randn(len(names), features, width) / features**0.5)
        self.bias = nn.Parameter(torch.randn(len(eyed), width) * 0.3)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.gather = nn.Linear(width, hidden)
        self._attach((c.components,), hidden)
        # From components to motions [components, M * numbers], each of its spread in the data.
        self.basis: Tensor
        self.register_buffer('basis', torch.zeros(c.components, c.look_ahead * c.numbers))

    def encode(
        self,
        trunk: Trunk,
        middles: Tensor,
        seen: Tensor,
        turns: Tensor,
        start: Tensor,
        start_seen: Tensor,
        text: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        """The scene as one vector [B, hidden].

        Args:
            trunk: the shared one.
            middles: of pieces [B, V, K, 2] px.
            seen: bool [B, V, K], where they count.
            turns: cosines and sines [B, K, 2]; 0 where not known.
            start: middles when the goal began.
            start_seen: bool, likewise.
            text: the sentence's embedding [B, 384].
            size: height and width of a view, px.
        """
        c = self.shape
        half = middles.new_tensor([size[1] / 2, size[0] / 2])
        at = torch.where(seen[..., None], middles, half)
        tool = c.place(c.tool)
        weight = seen[:, :, tool, None].to(at)
        where = (at[:, :, tool] * weight).sum(2) / weight.sum(2).clamp_min(1)
        away = (at - where[:, :, None]) / half
        known = seen[..., None].to(at)
        both = known * (weight.sum(2) > 0)[:, :, None]
        here = torch.cat(
            [known, known * waves((at - half) / half, _OCTAVES),
             both * waves(away, _OCTAVES + 1)], -1,
        ).transpose(1, 2).flatten(2)  # fmt: skip
        here, turns = here[:, self.eyed], turns[:, self.eyed]
        then = (seen & start_seen)[:, self.fixed]
        gone = torch.where(
            then[..., None], middles[:, self.fixed] - start[:, self.fixed], 0.0
        )
        before = torch.cat([(gone / 8).clamp(-4, 4), then[..., None].to(at)], -1)
        before = before[:, :, self.eyed].transpose(1, 2).flatten(2)
        there = seen.any(1)[:, self.eyed]
        features = torch.cat([here, turns, there[..., None].to(at), before], -1)
        tokens = torch.einsum('bkf,kfc->bkc', features, self.own[self.kind]) + self.bias
        tokens = tokens + self.mlp(tokens)
        x = trunk.read(tokens, there, self.words(text))
        body = (x[:, self.body] * there[:, self.body, None]).mean(1)
        return trunk.scene(self.gather(body), x[:, -1])

    def motions(self, clean: Tensor) -> Tensor:
        """Motions [B, M, numbers] since the anchor."""
        c = self.shape
        return (clean @ self.basis).unflatten(-1, (c.look_ahead, c.numbers))
