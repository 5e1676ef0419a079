"""A scripted expert for PushT: it tries pushes in a copy of the physics and takes the best one.

A push is a contact on the block's outline, a straight direction and a length. All contacts and
directions are tried from the block's present pose; the drop of the corners' distance to the goal,
for each step that it costs, decides. The pusher walks to the contact round the block, at a
distance from it, and every few steps the rest of the push is tried again from what is true by now.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vera_sim.pusht_physics import (
    GOAL,
    OUTLINE,
    PUSHER_RADIUS,
    SUBSTEP,
    Float,
    PushTPhysics,
    PushTState,
    to_world,
)

# Corners of the block in its own frame, and where the goal wants them.
_CORNERS = [
    (float(x), float(y), float(gx), float(gy))
    for (x, y), (gx, gy) in zip(OUTLINE, to_world(OUTLINE, GOAL), strict=True)
]
# The pusher's centre stays this far from the table's edges.
MARGIN = 22.0
LOW, HIGH = MARGIN, 512.0 - MARGIN
TOUCH = PUSHER_RADIUS + 2.5  # where a push begins: outline (drawn 2 wide) and a little air
CLEAR = PUSHER_RADIUS + 6.0  # distance kept on the way to it
_NEAR = 12.0  # corners' distance under which fine pushes are tried
_ARM = 60.0  # distance of the block's ends from its middle
_CHOICES = 16  # that are remembered


@dataclass(frozen=True)
class ExpertConfig:
    """How the expert moves.

    Attributes:
        travel: largest step on the way to a contact, units of the table per action.
        push: largest step while pushing.
        contacts: points of the outline that are tried.
        angles: directions tried at each, rad from the inward normal.
        overhead: steps that a change of contact counts for, beyond those of the way.
        enough: corners' distance at which there is nothing left to do.
        habit: how far the block may be from where a push was chosen before, units of the table,
            for that push to be chosen again without a search; at most half its error, and only if
            it still promises half of what it did. 0: always search. Who foresees the same future
            over and over, from states that differ a little, then foresees the same pushes.
    """

    travel: float = 20.0
    push: float = 10.0
    contacts: int = 32
    angles: tuple[float, ...] = (-0.5, 0.0, 0.5)
    overhead: float = 2.0
    enough: float = 0.5
    habit: float = 0.0


@dataclass(frozen=True)
class Push:
    """A push: in the frame of the block as it was when the push was chosen.

    Attributes:
        start: float64 [2], pusher's centre at the contact, on the table.
        direction: float64 [2], unit vector on the table.
        length: units of the table.
        begun: whether the pusher is past `start`.
        before: error when it was chosen.
    """

    start: Float
    direction: Float
    length: float
    begun: bool
    before: float

    @property
    def end(self) -> Float:
        """Where the pusher's centre ends, float64 [2]."""
        end: Float = self.start + self.direction * self.length
        return end


def corner_error(block: Sequence[float] | Float) -> float:
    """Mean distance of the corners of a block at (x, y, angle) from where the goal wants them."""
    bx, by, c, s = float(block[0]), float(block[1]), math.cos(block[2]), math.sin(block[2])
    total = 0.0
    for x, y, gx, gy in _CORNERS:
        total += math.hypot(bx + c * x - s * y - gx, by + s * x + c * y - gy)
    return total / len(_CORNERS)


class PushTExpert:
    """Decides one step after another; `push`, and with a habit its choices, is all it remembers.

    Args:
        config: how it moves.
    """

    def __init__(self, config: ExpertConfig | None = None) -> None:
        self.config = config or ExpertConfig()
        self.push: Push | None = None
        self._physics = PushTPhysics()
        self._contacts, self._normals = _outline_contacts(self.config.contacts)
        # The block's pose, the push that was chosen there, and what fall of error it promised at
        # least.
        self._choices: deque[tuple[Float, Push, float]] = deque(maxlen=_CHOICES)

    def reset(self) -> None:
        """Forget the push under way and the choices."""
        self.push = None
        self._choices.clear()

    def act(self, state: PushTState) -> Float:
        """The pusher's next displacement, float64 [2], units of the table."""
        if self.push is not None and self.push.begun:
            self.push = self._rest(state, self.push)
        if self.push is None:
            self.push = self._choose(state)
            if self.push is None:
                return np.zeros(2)
        if not self.push.begun:
            path = self._path(state, self.push.start)
            if path is None:
                self.push = self._choose(state)
                path = self._path(state, self.push.start) if self.push else None
                if path is None:
                    self.push = None
                    return np.zeros(2)
            step = path[1] - state.pusher
            size = float(np.linalg.norm(step))
            assert self.push is not None
            if size <= self.config.travel:
                if len(path) == 2:
                    self.push = replace(self.push, begun=True)
                return step
            return step * (self.config.travel / size)
        return self._toward(state.pusher, self.push.end, self.config.push)

    def rollout(self, state: PushTState, steps: int) -> tuple[Float, list[PushTState]]:
        """What the expert would do from `state`, without doing it.

        `push` is afterwards what it was before.

        Returns:
            Displacements float64 [steps, 2], and the states after each.
        """
        moves, states, _ = self.foresee(state, steps)
        return moves, states

    def foresee(
        self, state: PushTState, steps: int
    ) -> tuple[Float, list[PushTState], list[Push | None]]:
        """As `rollout`, and what the expert would remember after each step."""
        kept = self.push
        physics = PushTPhysics()
        physics.set_state(state)
        moves, states, memory = [], [], []
        for _ in range(steps):
            move = self.act(physics.state())
            physics.move(move)
            moves.append(move)
            states.append(physics.state())
            memory.append(self.push)
        self.push = kept
        return np.array(moves), states, memory

    @staticmethod
    def _toward(a: Float, b: Float, most: float) -> Float:
        step: Float = b - a
        return step * min(1.0, most / max(float(np.linalg.norm(step)), 1e-9))

    def _rest(self, state: PushTState, push: Push) -> Push | None:
        """The push with the length that is best from here, or None when it is better to stop."""
        along = float((state.pusher - push.start) @ push.direction)
        aside = float(np.linalg.norm(state.pusher - push.start - along * push.direction))
        if aside > 8:
            return None
        now = corner_error(state.block)
        # A little further than was planned: what the pusher missed so far can be made up for.
        left = max(0.0, push.length - along) + 15
        errors, lengths = self._try(state, push.direction, left)
        if len(errors) == 0 or errors.min() > now - 0.05:
            return None
        best = float(lengths[int(errors.argmin())])
        return replace(push, start=state.pusher, length=best, before=now)

    def _try(
        self, state: PushTState, direction: Float, length: float, stride: float = 1.0
    ) -> tuple[Float, Float]:
        """Errors after pushing on, and how far the pusher went for each, float64 [k] both.

        The pusher goes by `stride` in each substep of the physics.
        """
        step = min(self.config.push, max(1.0, length / 12))
        errors, lengths = [], []
        physics = self._physics
        physics.set_state(replace(state, velocity=np.zeros(2)))
        (x, y), (dx, dy) = state.pusher.tolist(), (direction * step).tolist()
        seconds = SUBSTEP * max(1, round(step / stride))
        for k in range(1, int(length / step) + 1):
            if not (LOW < x + k * dx < HIGH and LOW < y + k * dy < HIGH):
                break
            physics.move((dx, dy), seconds)
            errors.append(corner_error(physics.block_pose()))
            lengths.append(k * step)
        return np.array(errors), np.array(lengths)

    def _choose(self, state: PushTState) -> Push | None:
        """The push with the steepest fall of error for each step, or None when none helps."""
        now = corner_error(state.block)
        if now < self.config.enough:
            return None
        push = self._again(state, now) if self.config.habit > 0 else None
        return push or self._search(state, now)

    def _again(self, state: PushTState, now: float) -> Push | None:
        """The choice made for the nearest pose of the block, where the block is now; or None."""
        near = min(self.config.habit, now / 2)
        choices = sorted(
            ((pose_distance(block, state.block), k) for k, (block, _, _) in
             enumerate(self._choices))
        )  # fmt: skip
        for away, k in choices:
            if away > near:
                break
            block, push, promised = self._choices[k]
            turn = state.block[2] - block[2]
            c, s = math.cos(turn), math.sin(turn)
            turned = np.array([[c, s], [-s, c]])
            start = (push.start - block[:2]) @ turned + state.block[:2]
            direction = push.direction @ turned
            if not ((start > LOW) & (start < HIGH)).all():
                continue
            rest = PushTState.at(start, state.block)
            errors, lengths = self._try(rest, direction, push.length + 15, 2.0)
            if len(errors) == 0 or now - errors.min() < max(0.1, promised / 2):
                continue
            if self._path(state, start) is None:
                continue
            return Push(start, direction, float(lengths[int(errors.argmin())]), False, now)
        return None

    def _search(self, state: PushTState, now: float) -> Push | None:
        """As `_choose`, among all contacts and directions."""
        config = self.config
        rest = PushTState.at(state.pusher, state.block)
        c, s = np.cos(state.block[2]), np.sin(state.block[2])
        R = np.array([[c, s], [-s, c]])
        near = now < _NEAR
        farthest = 30.0 if near else 130.0
        options: list[tuple[float, Push]] = []
        for point, normal in zip(self._contacts, self._normals, strict=True):
            start = to_world(point + normal * TOUCH, state.block)
            if not ((start > LOW) & (start < HIGH)).all():
                continue
            for angle in config.angles:
                ca, sa = np.cos(angle), np.sin(angle)
                inward = -normal @ np.array([[ca, sa], [-sa, ca]])
                direction = inward @ R
                # Coarse and quick: the rest is tried again while pushing.
                from_here = replace(rest, pusher=start)
                errors, lengths = self._try(from_here, direction, farthest, 2.0)
                if len(errors) == 0:
                    continue
                cost = lengths / config.push + config.overhead
                way = float(np.linalg.norm(start - state.pusher)) / config.travel
                gain = (now - errors) / (cost + way)
                best = int(gain.argmax())
                if errors[best] < now - 0.1:
                    push = Push(start, direction, float(lengths[best]), False, now)
                    options.append((float(gain[best]), push))
        options.sort(key=lambda option: -option[0])
        chosen: Push | None = None
        worth = 0.0
        for rank, (hoped, push) in enumerate(options):
            # A block in a corner of the table may hide all of the best contacts.
            if hoped <= worth or (rank >= 16 and chosen is not None):
                break
            path = self._path(state, push.start)
            if path is None:
                continue
            hops = itertools.pairwise(path)
            detour = sum(float(np.linalg.norm(b - a)) for a, b in hops) / config.travel
            straight = float(np.linalg.norm(push.start - state.pusher)) / config.travel
            effort = push.length / config.push + config.overhead
            real = hoped * (effort + straight) / (effort + detour)
            if real > worth:
                chosen, worth = push, real
        if chosen is not None:
            effort = chosen.length / config.push + config.overhead
            self._choices.append((state.block.copy(), chosen, worth * effort))
        return chosen

    def _path(self, state: PushTState, target: Float) -> list[Float] | None:
        """Way points from the pusher to `target` round the block, both included, or None."""
        corners = to_world(_DETOUR, state.block)
        inside = ((corners > LOW - 8) & (corners < HIGH + 8)).all(-1)
        nodes = np.concatenate([[state.pusher], corners[inside], [target]])
        outline = to_world(OUTLINE, state.block)
        n = len(nodes)
        first, second = np.triu_indices(n, 1)
        clear = _distance(nodes[first], nodes[second], outline)
        ends = _distance(nodes, nodes, outline)
        # Where a way begins or ends closer than CLEAR, it may be as close, not closer.
        needed = np.minimum(CLEAR, np.minimum(ends[first], ends[second]) - 0.05)
        # Through the block is never a way, not even for a pusher that overlaps it a little.
        open_ways = (clear >= needed) & (clear > PUSHER_RADIUS - 3)
        length = np.full((n, n), np.inf)
        size = np.linalg.norm(nodes[first] - nodes[second], axis=-1)
        length[first, second] = length[second, first] = np.where(open_ways, size, np.inf)
        way = _shortest(nodes, length)
        if way is None:
            return None
        # A pusher that stands on a corner of the detour has been there: going on is what is left.
        while len(way) > 2 and np.linalg.norm(way[1] - way[0]) < _THERE:
            del way[1]
        return way


def pose_distance(a: Float, b: Float) -> float:
    """How far two poses (x, y, angle) of the block are apart, units of the table."""
    turn = math.remainder(a[2] - b[2], 2 * math.pi)
    return math.hypot(a[0] - b[0], a[1] - b[1]) + _ARM * abs(turn)


def _outline_contacts(count: int) -> tuple[Float, Float]:
    """Points spread over the outline and outward normals there, float64 [count, 2] each."""
    a, b = OUTLINE, np.roll(OUTLINE, -1, axis=0)
    sizes = np.linalg.norm(b - a, axis=-1)
    ends = np.cumsum(sizes)
    points, normals = [], []
    for at in (np.arange(count) + 0.5) / count * ends[-1]:
        edge = int(np.searchsorted(ends, at))
        along = (b[edge] - a[edge]) / sizes[edge]
        points.append(a[edge] + along * (at - ends[edge] + sizes[edge]))
        normals.append([along[1], -along[0]])
    return np.array(points), np.array(normals)


_THERE = 1e-6
_D = CLEAR + 1.0
# Corners of a T grown by _D, for going round it; those in the armpits are never on a way.
_DETOUR: Float = np.array(
    [
        [-60 - _D, -_D], [60 + _D, -_D], [60 + _D, 30 + _D], [15 + _D, 120 + _D],
        [-15 - _D, 120 + _D], [-60 - _D, 30 + _D], [15 + _D, 30 + _D], [-15 - _D, 30 + _D],
    ]
)


def _distance(a: Float, b: Float, outline: Float) -> Float:
    """From segments a-b [m, 2] to a polygon's outline [k, 2]; zero where they cross it; [m]."""
    c, d = outline[None], np.roll(outline, -1, axis=0)[None]
    a, b = a[:, None], b[:, None]
    near = np.minimum(
        np.minimum(_to_segment(a, c, d), _to_segment(b, c, d)),
        np.minimum(_to_segment(c, a, b), _to_segment(d, a, b)),
    )
    one = _cross(b - a, c - a) * _cross(b - a, d - a) < 0
    two = _cross(d - c, a - c) * _cross(d - c, b - c) < 0
    distance: Float = np.where(one & two, 0.0, near).min(-1)
    return distance


def _to_segment(p: Float, a: Float, b: Float) -> Float:
    along = b - a
    size = np.maximum((along**2).sum(-1), 1e-12)
    t = np.clip(((p - a) * along).sum(-1) / size, 0, 1)
    distance: Float = np.linalg.norm(p - a - t[..., None] * along, axis=-1)
    return distance


def _cross(a: Float, b: Float) -> Float:
    out: Float = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return out


def _shortest(nodes: Float, length: NDArray[np.float64]) -> list[Float] | None:
    """Dijkstra from the first node to the last."""
    n = len(nodes)
    best = np.full(n, np.inf)
    best[0] = 0
    before = np.full(n, -1)
    todo = set(range(n))
    while todo:
        i = min(todo, key=lambda k: best[k])
        if not np.isfinite(best[i]):
            return None
        if i == n - 1:
            break
        todo.remove(i)
        for j in todo:
            if best[i] + length[i, j] < best[j]:
                best[j], before[j] = best[i] + length[i, j], i
    way = [n - 1]
    while way[-1] != 0:
        way.append(int(before[way[-1]]))
    return [nodes[i] for i in reversed(way)]
