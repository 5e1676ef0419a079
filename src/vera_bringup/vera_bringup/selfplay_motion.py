"""Random small motions of a robot, as chunks for its controller: pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import Channel, Contract
from vera_core.kinematics.arm import Arm
from vera_core.kinematics.description import find_urdf
from vera_core.rotations import matrix_from_rotation_vector, rotation_vector

# Of the joint range: how far self-play stays away from the limits of the safety filter.
MARGIN = 0.05
# Of the velocity limit: how fast it moves at most.
SPEED = 0.8
# In multiples of a channel's scale: its largest change in one frame period, unless told.
REACH = 1.2
# Of the tool: m from the faces of the workspace, rad from its attitude at home, and m around home
# where a contract has no workspace.
INSIDE, TILT, AROUND = 0.03, 0.4, 0.15
# Manipulability (sqrt det J J^T, m and rad) below which the arm is too stretched to play.
DEXTEROUS = 0.01
# How often a chunk opens or closes the gripper.
GRASP = 0.2
AXES = ('x', 'y', 'z', 'rx', 'ry', 'rz')


class MotionError(ValueError):
    """A contract or a range that leaves no motion; the message says what."""


class RandomWalk:
    """Chunks of uniform random joint motions that turn back at the ends of a range.

    Args:
        contract: channels, limits, frame period. Every channel must move a joint.
        rng: of the motions.
        max_delta: largest change in one frame period, for every joint [rad or m]; REACH times the
            channel's scale unless given. Never faster than SPEED of the velocity limit.
        span: joints stay within +-span of the home pose [rad or m]; within their limits unless
            given.

    Raises:
        MotionError: a channel of another kind, or no range to move in.
    """

    def __init__(
        self,
        contract: Contract,
        rng: np.random.Generator,
        max_delta: float | None = None,
        span: float | None = None,
    ) -> None:
        for channel in contract.channels:
            kinds = ('joint_delta', 'joint_target', 'gripper')
            if channel.joint is None or channel.kind not in kinds:
                raise MotionError(
                    f'channel {channel.name!r} is of kind {channel.kind}; self-play moves joints: '
                    'joint_delta, joint_target, and a gripper that has a joint'
                )
        _check_positive(max_delta, span)
        self._rng = rng
        self._fingers = _Fingers(contract, rng)
        self.steps = contract.video.committed
        self.period = contract.video.frame_period
        self.joints = [contract.joint_index(channel.joint or '') for channel in contract.channels]
        self._relative = np.array([c.kind == 'joint_delta' for c in contract.channels])
        low, high = (limit[self.joints] for limit in contract.position_limits)
        margin = MARGIN * (high - low)
        self.low, self.high = low + margin, high - margin
        if span is not None:
            home = contract.home_positions[self.joints]
            self.low = np.maximum(self.low, home - span)
            self.high = np.minimum(self.high, home + span)
        if (self.low >= self.high).any():
            empty = contract.channels[int(np.argmax(self.low >= self.high))]
            raise MotionError(f'{empty.joint} has no range to move in; choose a larger span')
        reach = REACH * contract.channel_scales
        if max_delta is not None:
            reach = np.full(len(self.joints), max_delta)
        self.reach = np.minimum(reach, SPEED * contract.velocity_limits[self.joints] * self.period)

    def chunk(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The next actions from measured positions [j], contract order: float64 [K, n]."""
        q = np.asarray(positions, np.float64)[self.joints]
        values = np.empty((self.steps, len(q)))
        for k in range(self.steps):
            step = self._rng.uniform(-self.reach, self.reach)
            leaves = (q + step < self.low) | (q + step > self.high)
            target = np.clip(np.where(leaves, q - step, q + step), self.low, self.high)
            # From outside of the range it comes back no faster than it plays.
            step = np.clip(target - q, -self.reach, self.reach)
            q = q + step
            values[k] = np.where(self._relative, step, q)
        self._fingers.fill(values)
        return values


class ToolWalk:
    """Chunks of uniform random motions of the tool, inside the workspace and about upright.

    The controller's inverse kinematics and its safety checks have the last word: what they refuse
    is not moved.

    Args:
        contract: with Cartesian channels and `kinematics`; other channels are grippers.
        rng: of the motions.
        max_delta: largest shift along an axis in one frame period [m]; REACH times the channel's
            scale unless given. Never faster than SPEED of `safety.tool_speed`.
        span: the tool stays within +-span of its place at home [m]; within the workspace anyway.

    Raises:
        MotionError: a channel of another kind, or no room to move in.
        UrdfError: the contract does not tell where its tool is.
    """

    def __init__(
        self,
        contract: Contract,
        rng: np.random.Generator,
        max_delta: float | None = None,
        span: float | None = None,
    ) -> None:
        kinematics = contract.kinematics
        if kinematics is None or kinematics.tool is None:
            raise MotionError(f'the contract of {contract.embodiment!r} names no kinematics.tool')
        for channel in contract.channels:
            if channel.kind not in ('cartesian_delta', 'gripper'):
                raise MotionError(
                    f'channel {channel.name!r} is of kind {channel.kind}; beside motions of the '
                    'tool self-play moves grippers'
                )
        _check_positive(max_delta, span)
        self._rng = rng
        self._fingers = _Fingers(contract, rng)
        self._arm = Arm.from_urdf(find_urdf(contract), contract.joint_names, kinematics.tool)
        self._columns = [
            (i, AXES.index(kinematics.axes[c.name]))
            for i, c in enumerate(contract.channels)
            if c.kind == 'cartesian_delta'
        ]
        self.steps, self.period = contract.video.committed, contract.video.frame_period
        self._attitude, home = self._arm.pose(contract.home_positions)
        self.low, self.high = _box(contract, home, span)
        if (self.low >= self.high).any():
            axis = AXES[int(np.argmax(self.low >= self.high))]
            raise MotionError(f'the tool has no room along {axis}; choose another span or home')
        self._reach = np.zeros(6)
        for column, place in self._columns:
            self._reach[place] = REACH * contract.channel_scales[column]
        if max_delta is not None:
            self._reach[:3] = np.where(self._reach[:3] > 0, max_delta, 0)
        safety = contract.safety
        if safety and safety.tool_speed:
            speeds = np.repeat(safety.tool_speed, 3) * SPEED * self.period / np.sqrt(3)
            self._reach = np.minimum(self._reach, speeds)
        self.reach = np.array([self._reach[axis] for _, axis in self._columns])

    def chunk(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The next actions from measured positions [j], contract order: float64 [K, n]."""
        q = np.asarray(positions, np.float64)
        R, p = self._arm.pose(q)
        values = np.zeros((self.steps, len(self._columns) + len(self._fingers.columns)))
        for k in range(self.steps):
            step = self._rng.uniform(-self._reach, self._reach)
            shift = step[:3]
            leaves = (p + shift < self.low) | (p + shift > self.high)
            target = np.clip(np.where(leaves, p - shift, p + shift), self.low, self.high)
            shift = np.clip(target - p, -self._reach[:3], self._reach[:3])
            moved = np.concatenate([shift, self._turn(R, step[3:])])
            # Corners of the box may be out of reach: then to the middle, or not at all.
            inward = np.clip((self.low + self.high) / 2 - p, -self._reach[:3], self._reach[:3])
            for attempt in (moved, np.concatenate([inward, self._turn(R, 0 * step[3:])])):
                there = matrix_from_rotation_vector(attempt[3:]) @ R
                found = self._arm.solve(there, p + attempt[:3], q)
                if found.converged and found.manipulability > DEXTEROUS:
                    q, p, R = found.q, p + attempt[:3], there
                    for i, axis in self._columns:
                        values[k, i] = attempt[axis]
                    break
        self._fingers.fill(values)
        return values

    def _turn(self, R: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
        """The turn that was drawn, the opposite one, or one back: none leaves TILT behind."""
        for candidate in (turn, -turn):
            after = matrix_from_rotation_vector(candidate) @ R
            if np.linalg.norm(rotation_vector(after @ self._attitude.T)) <= TILT:
                return candidate
        back = rotation_vector(self._attitude @ R.T)
        return np.asarray(np.clip(back, -self._reach[3:], self._reach[3:]))


def _box(
    contract: Contract, home: NDArray[np.float64], span: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the tool may be, (low, high) [3] m."""
    low, high = home - AROUND, home + AROUND
    space = contract.safety.workspace if contract.safety else None
    if space is not None:
        low, high = np.array([space.x, space.y, space.z]).T
        low, high = low + INSIDE, high - INSIDE
    if span is not None:
        low, high = np.maximum(low, home - span), np.minimum(high, home + span)
    return low, high


class _Fingers:
    """Opens and closes grippers now and then."""

    def __init__(self, contract: Contract, rng: np.random.Generator) -> None:
        self._rng = rng
        self.columns = [i for i, c in enumerate(contract.channels) if c.kind == 'gripper']
        self._ends = [self._range(contract, contract.channels[i]) for i in self.columns]
        self._now = [high for _, high in self._ends]

    @staticmethod
    def _range(contract: Contract, channel: Channel) -> tuple[float, float]:
        if channel.unit == 'ratio' or channel.joint is None:
            return 0.0, 1.0
        low, high = (limit[contract.joint_index(channel.joint)] for limit in
                     contract.position_limits)  # fmt: skip
        return float(low), float(high)

    def fill(self, values: NDArray[np.float64]) -> None:
        """Targets of the grippers into a chunk [K, n]."""
        for n, (column, ends) in enumerate(zip(self.columns, self._ends, strict=True)):
            if self._rng.random() < GRASP:
                self._now[n] = ends[0] if self._now[n] == ends[1] else ends[1]
            values[:, column] = self._now[n]


def _check_positive(max_delta: float | None, span: float | None) -> None:
    for name, value in (('max_delta', max_delta), ('span', span)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise MotionError(f'{name} is {value}; it must be a positive number')


def random_walk(
    contract: Contract,
    rng: np.random.Generator,
    max_delta: float | None = None,
    span: float | None = None,
) -> RandomWalk | ToolWalk:
    """Self-play of a contract: of its tool where channels are Cartesian, else of its joints.

    Raises:
        MotionError: channels or a range that leave no motion.
        UrdfError: Cartesian channels, and no kinematics that tell where the tool is.
    """
    tool = any(channel.kind == 'cartesian_delta' for channel in contract.channels)
    return (ToolWalk if tool else RandomWalk)(contract, rng, max_delta, span)
