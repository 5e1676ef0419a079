"""From actions to joint positions: deltas and targets of joints, of the tool, of the gripper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vera_controller.limits import SafetyError, Vector
from vera_core.kinematics.arm import Arm, manipulability
from vera_core.kinematics.transforms import rotation_about
from vera_core.kinematics.tree import KinematicTree
from vera_core.kinematics.urdf import UrdfError, read_urdf

if TYPE_CHECKING:
    from vera_core.chunk import ActionChunk
    from vera_core.contract import Budget, Contract

AXES = ('x', 'y', 'z', 'rx', 'ry', 'rz')
# The tool may stay this far behind an action [m, rad] before that is said.
SHORT = (0.002, 0.02)
# Less manipulability (sqrt det J J^T, m and rad) than this is a singular posture.
SINGULAR = 5e-3
# The workspace of a plan is this much [m] smaller than that of the safety filter.
INSIDE = 2e-3


class ChunkRefusedError(ValueError):
    """A chunk that is not executed; the message says why."""


class ImplausibleChunkError(ChunkRefusedError):
    """A chunk for us and in time, with an action that no plan for this robot can mean."""


class UnsupportedChannelError(ValueError):
    """A contract with a channel that this controller cannot execute; the message names it."""


@dataclass(frozen=True, eq=False)
class Route:
    """Where the joints are at the end of each action.

    Attributes:
        knots: float64 [K + 1, m], the joints of `Waypoints.joints`; the anchor first.
        notes: what was done less than asked, and why, in words.
    """

    knots: Vector
    notes: tuple[str, ...] = ()


class Waypoints:
    """Turns the actions of a chunk into joint positions.

    joint_delta: added to the position at the anchor; joint_target: taken. cartesian_delta: from
    the tool's pose at the anchor, p' = p + (x, y, z) and R' = exp([rx, ry, rz]) R with the axes of
    the root link, then inverse kinematics from the joint positions before; spare joints are drawn
    home. Where the tool cannot follow it goes as near as it can, and that is noted; the next action
    starts from there. gripper: a target; a ratio goes from 0, closed, to 1, open. With a `gripper`
    section it is open or closed, with hysteresis.

    Args:
        contract: channels, limits, kinematics, budgets.
        margin: an action may not ask a joint for more than velocity limit x period x margin.

    Raises:
        UnsupportedChannelError: a channel that cannot be executed.
        SafetyError: the kinematics cannot be used.
    """

    def __init__(self, contract: Contract, margin: float = 1.25) -> None:
        self._contract = contract
        self._margin = margin
        channels, names = contract.channels, contract.joint_names
        self._cartesian = [i for i, c in enumerate(channels) if c.kind == 'cartesian_delta']
        self._own = [i for i, c in enumerate(channels) if c.kind != 'cartesian_delta']
        for i in self._own:
            if channels[i].joint is None:
                raise UnsupportedChannelError(f'channel {channels[i].name!r} names no joint')
        own = [names.index(channels[i].joint or '') for i in self._own]
        self._axes = self._wired()
        self._arm = self._make_arm()
        arm = [] if self._arm is None else np.flatnonzero(self._arm.moving).tolist()
        twice = set(arm) & set(own) if self._cartesian else set()
        if twice:
            raise UnsupportedChannelError(
                f'joint {names[min(twice)]} is moved by the tool and by a channel of its own'
            )
        #: int [m], place in the contract of each joint that a chunk moves.
        self.joints: NDArray[np.int64] = np.array([*(arm if self._cartesian else []), *own], int)
        self._at_arm = arm
        self._column = len(arm) if self._cartesian else 0
        self._gripper = np.array([channels[i].kind == 'gripper' for i in self._own], bool)
        self._relative = np.array([channels[i].kind == 'joint_delta' for i in self._own], bool)
        self._ratio = np.array([channels[i].unit == 'ratio' for i in self._own], bool)
        self._low, self._high = (limit[own] for limit in contract.position_limits)
        self._speed = contract.velocity_limits

    def __call__(
        self, chunk: ActionChunk, base: Vector, closed: NDArray[np.bool_] | None = None
    ) -> Route:
        """The route of a chunk; takes milliseconds where it needs inverse kinematics.

        Args:
            chunk: whose channels are those of the contract, in any order.
            base: float64 [joints], measured positions at the anchor.
            closed: bool [m], which grippers were told to be closed then; by position if None.

        Raises:
            ImplausibleChunkError: an action beyond velocity limits or budgets.
        """
        order = [chunk.channels.index(name) for name in self._contract.channel_names]
        values = np.asarray(chunk.values, np.float64)[:, order]
        knots = np.tile(base[self.joints], (len(values) + 1, 1))
        notes: tuple[str, ...] = ()
        if self._own:
            knots[:, self._column :] = self._of_joints(values, base, closed)
        self._check_joints(chunk, knots)
        if self._cartesian:
            knots[:, : self._column], notes = self._of_tool(chunk, values, base)
        elif self._arm is not None:
            self._check_tool(chunk, base, knots)
        return Route(knots, notes)

    # Joints and grippers ----------------------------------------------------------------------

    def _of_joints(
        self, values: Vector, base: Vector, closed: NDArray[np.bool_] | None
    ) -> Vector:
        start = base[self.joints[self._column :]]
        given = values[:, self._own]
        reach = self._high - self._low
        absolute = np.where(self._ratio, self._low + np.clip(given, 0, 1) * reach, given)
        knots = np.vstack(
            [start, np.where(self._relative, start + np.cumsum(given, axis=0), absolute)]
        )
        spec = self._contract.gripper
        for i in np.flatnonzero(self._gripper) if spec is not None else ():
            assert spec is not None
            shut = (
                bool(start[i] < self._low[i] + reach[i] / 2)
                if closed is None
                else bool(closed[self._column + i])
            )
            for k, value in enumerate(given[:, i]):
                shut = value < (spec.open_above if shut else spec.close_below)
                knots[k + 1, i] = self._low[i] if shut else self._high[i]
        # Not from where the fingers are: they may be round a thing, and press on it.
        knots[0, self._gripper] = knots[1, self._gripper]
        return knots

    def _check_joints(self, chunk: ActionChunk, knots: Vector) -> None:
        """Refuse what no plan for this robot can mean."""
        moves = np.abs(np.diff(knots[:, self._column :], axis=0))
        moves[:, self._gripper] = 0.0  # as fast as the filter lets it
        places = self.joints[self._column :]
        allowed = self._speed[places] * chunk.period * self._margin
        bad = np.argwhere(~(moves <= allowed))
        if bad.size:
            step, column = (int(i) for i in bad[0])
            channel = self._contract.channels[self._own[column]]
            raise ImplausibleChunkError(
                f'action {step} of plan {chunk.plan_seq} moves {channel.joint} by '
                f'{moves[step, column]:.3g} {channel.unit} in {chunk.period:g} s; at most '
                f'{allowed[column]:.3g} is plausible'
            )
        ways = np.abs(knots[1:, self._column :] - knots[0, self._column :])
        ways[:, self._gripper] = 0.0
        for name, way in (('step', moves), ('chunk', ways)):
            limit = self._budget(name, 'joint')
            if limit is not None and way.size and way.max() > limit:
                step, column = (int(i) for i in np.argwhere(way > limit)[0])
                channel = self._contract.channels[self._own[column]]
                by = f'{way[step, column]:.3g} {channel.unit}'
                self._over(chunk, name, step, f'{channel.joint} by {by}', limit)

    # The tool ---------------------------------------------------------------------------------

    def _of_tool(
        self, chunk: ActionChunk, values: Vector, base: Vector
    ) -> tuple[Vector, tuple[str, ...]]:
        arm = self._arm
        notes: list[str] = []
        assert arm is not None
        moves = np.zeros((len(values), 6))
        moves[:, self._axes] = values[:, self._cartesian]
        self._check_moves(chunk, moves)
        allowed = self._speed * chunk.period
        limit = self._budget('step', 'joint')
        if limit is not None:
            allowed = np.minimum(allowed, np.where(arm.moving, limit, np.inf))
        # What no channel moves is kept, where there are joints enough for that.
        commanded = np.zeros(6, bool)
        commanded[self._axes] = True
        axes = None if int(arm.moving.sum()) >= 6 else commanded.tolist()
        home = self._contract.home_positions
        q = np.clip(base, arm.low, arm.high)
        R, p = arm.pose(q)
        rows = [base]
        for k, move in enumerate(moves):
            to = self._inside(p + move[:3])
            if np.abs(to - p - move[:3]).max() > SHORT[0]:
                notes.append(f'action {k}: the tool stays in its workspace')
            angle = float(np.linalg.norm(move[3:]))
            turned = rotation_about(move[3:] / angle, angle) @ R if angle > 0 else R
            found = arm.solve(turned, to, q, rest=home, axes=axes)
            step = found.q - q
            share = float(np.max(np.abs(step) / allowed, initial=1.0, where=arm.moving))
            q = q + step / share
            if found.converged and share <= 1:
                R, p = turned, to
            else:
                R, p = arm.pose(q)
                notes += self._short(k, arm, q, to - p, R, turned)
            rows.append(q)
        return np.array(rows)[:, self._at_arm], tuple(notes)

    def _short(
        self, k: int, arm: Arm, q: Vector, missing: Vector, R: Vector, wanted: Vector
    ) -> list[str]:
        """Why the tool did not get where action k wants it, if that is worth saying."""
        far = float(np.linalg.norm(missing))
        angle = float(np.arccos(np.clip((np.trace(wanted @ R.T) - 1) / 2, -1, 1)))
        if far < SHORT[0] and angle < SHORT[1]:
            return []
        slack = 1e-3
        at = (q <= arm.low + slack) | (q >= arm.high - slack)
        stuck = [n for n, yes in zip(arm.joint_names, at & arm.moving, strict=True) if yes]
        if stuck:
            why = f'{", ".join(stuck)} at its limit'
        elif manipulability(arm.jacobian(q)[:, arm.moving]) < SINGULAR:
            why = 'the posture is singular'
        else:
            why = 'the joints are too slow, or it is out of reach'
        return [f'action {k}: the tool stays {far * 1e3:.0f} mm and {angle:.2f} rad short: {why}']

    def _check_moves(self, chunk: ActionChunk, moves: Vector) -> None:
        """Budgets of what is asked of the tool."""
        total = np.cumsum(moves, axis=0)
        for name, way in (('step', moves), ('chunk', total)):
            self._check_way(chunk, name, 'translation', np.linalg.norm(way[:, :3], axis=1))
            self._check_way(chunk, name, 'rotation', np.linalg.norm(way[:, 3:], axis=1))

    def _check_tool(self, chunk: ActionChunk, base: Vector, knots: Vector) -> None:
        """Budgets of what joint actions make of the tool."""
        kinds = [(name, kind) for name in ('step', 'chunk') for kind in ('translation', 'rotation')]
        if not any(self._budget(*kind) for kind in kinds):
            return
        assert self._arm is not None
        tree = self._arm.tree
        postures = np.tile(base, (len(knots), 1))
        postures[:, self.joints] = knots
        tool = tree.posture(postures).links[:, tree.link_index(self._arm.tool)]
        for name, before in (('step', tool[:-1]), ('chunk', tool[:1])):
            way = tool[1:, :3, 3] - before[:, :3, 3]
            turn = np.swapaxes(before[:, :3, :3], 1, 2) @ tool[1:, :3, :3]
            cosine = (np.trace(turn, axis1=1, axis2=2) - 1) / 2
            self._check_way(chunk, name, 'translation', np.linalg.norm(way, axis=1))
            self._check_way(chunk, name, 'rotation', np.arccos(np.clip(cosine, -1, 1)))

    def _check_way(self, chunk: ActionChunk, name: str, kind: str, way: Vector) -> None:
        limit = self._budget(name, kind)
        if limit is not None and way.max() > limit:
            step = int(np.argmax(way > limit))
            unit = 'm' if kind == 'translation' else 'rad'
            self._over(chunk, name, step, f'the tool by {way[step]:.3g} {unit}', limit)

    def _over(self, chunk: ActionChunk, name: str, step: int, move: str, limit: float) -> None:
        since = 'moves' if name == 'step' else 'and those before it move'
        of = 'an action' if name == 'step' else 'a chunk'
        raise ImplausibleChunkError(
            f'action {step} of plan {chunk.plan_seq} {since} {move}; the budget of {of} is '
            f'{limit:g}'
        )

    def _budget(self, name: str, kind: str) -> float | None:
        safety = self._contract.safety
        of: Budget | None = getattr(safety, f'per_{name}') if safety is not None else None
        value: float | None = getattr(of, kind) if of is not None else None
        return value

    def _inside(self, p: Vector) -> Vector:
        safety = self._contract.safety
        if safety is None or safety.workspace is None:
            return p
        box = np.array([safety.workspace.x, safety.workspace.y, safety.workspace.z])
        return np.clip(p, box[:, 0] + INSIDE, box[:, 1] - INSIDE)

    def _make_arm(self) -> Arm | None:
        kinematics, contract = self._contract.kinematics, self._contract
        if kinematics is None or kinematics.tool is None:
            return None
        if not self._cartesian and contract.safety is None:
            return None
        text = kinematics.urdf
        source: Any = text if text.lstrip().startswith('<') else contract.resolve(text)
        low, high = contract.position_limits
        slack = 1e-3 * (high - low)
        try:
            tree = KinematicTree(read_urdf(source), contract.joint_names)
            return Arm(tree, kinematics.tool, (low + slack, high - slack))
        except UrdfError as error:
            raise SafetyError(f'the tool cannot be moved: {error}') from error

    def _wired(self) -> list[int]:
        """Which of x, y, z, rx, ry, rz each cartesian_delta channel moves."""
        if not self._cartesian:
            return []
        kinematics = self._contract.kinematics
        wired = []
        for i in self._cartesian:
            channel = self._contract.channels[i]
            if kinematics is None or kinematics.tool is None:
                raise UnsupportedChannelError(
                    f'channel {channel.name!r} moves a tool, and none is named: add kinematics.tool'
                )
            axis = kinematics.axes.get(channel.name)
            if axis is None:
                raise UnsupportedChannelError(
                    f'channel {channel.name!r} has no axis; add it to kinematics.axes'
                )
            wired.append(AXES.index(axis))
        return wired


__all__ = [
    'ChunkRefusedError',
    'ImplausibleChunkError',
    'Route',
    'UnsupportedChannelError',
    'Waypoints',
]
