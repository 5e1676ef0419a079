"""Random small motions of a robot, as chunks for its controller: pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import Contract

# Of the joint range: how far self-play stays away from the limits of the safety filter.
MARGIN = 0.05
# Of the velocity limit: how fast it moves at most.
SPEED = 0.8
# In multiples of a channel's scale: its largest change in one frame period, unless told.
REACH = 1.2


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
            if channel.joint is None or channel.kind not in ('joint_delta', 'joint_target'):
                raise MotionError(
                    f'channel {channel.name!r} is of kind {channel.kind}; self-play moves joints: '
                    'joint_delta and joint_target'
                )
        for name, value in (('max_delta', max_delta), ('span', span)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise MotionError(f'{name} is {value}; it must be a positive number')
        self._rng = rng
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
        return values
