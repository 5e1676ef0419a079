"""PushT behind the Environment seam: a pusher on two prismatic axes, a T-shaped block, a goal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vera_sim import pusht_painter
from vera_sim.language import Instruction
from vera_sim.pusht_expert import ExpertConfig, Push, PushTExpert, corner_error, pose_distance
from vera_sim.pusht_painter import PushTPainter
from vera_sim.pusht_physics import (
    OUTLINE,
    PUSHER_RADIUS,
    STEP,
    TABLE,
    Float,
    PushTPhysics,
    PushTState,
    coverage,
    to_world,
)

# One unit of gym-pusht's 512 x 512 table is a millimetre here.
UNITS_PER_METRE = 1000.0
CONTROLS = ('velocity', 'position')
TARGET = 'goal'
TRAINING: tuple[str, ...] = (
    'push the T onto its goal',
    'push the T to the green goal',
    'push the T onto the green T',
    'push the block onto the green T',
    'push the block to the goal',
    'push the T-shaped block to its target',
    'please push the T to the green shape',
    'move the T to the goal',
    'move the block onto its outline',
    'move the grey T to the green one',
    'bring the T to the green area',
    'bring the block home',
    'cover the green T with the block',
    'cover the goal',
    'put the T on its outline',
    'put the block on the green T',
    'put the T where it belongs',
    'align the T with the green T',
    'align the block with its goal',
    'turn and push the T until it fits the goal',
    'could you push the T into place?',
    'I want the T on the green T',
    'push T',
    'the T goes on the green shape',
)
HELD_OUT: tuple[str, ...] = (
    'slide the tee into the green shape',
    'line the block up with the target',
    'shove the T over to the green spot',
    'fit the block into the green outline',
    'get the T onto the green mark',
    'place the T-block exactly on the goal',
    'can you push the tee to where it should be?',
    'make the block match the green T',
)


# Units of the table: this far from what the guide foresaw it decides anew, and this near to where
# it decided before it decides the same.
_ASTRAY, _HABIT = 40.0, 12.0


@dataclass(frozen=True)
class PushTTransition:
    """One self-play transition: states before and after, action float64 [2] in metres."""

    before: PushTState
    after: PushTState
    action: Float


class PushTEnv:
    """PushT, pictured `size` x `size`.

    Joints are `pusher_x` and `pusher_y` [m], along the picture's x (right) and y (down).

    Args:
        size: side of the picture, pixels.
        control: 'velocity': the pusher goes straight to each set-point, at most 0.512 m/s along an
            axis, as in VERA's PushT; 'position': gym-pusht's servo, which lags by 0.2 s.
        success: coverage of the goal from which the block counts as there.
        smooth: see PushTPainter.

    Raises:
        ValueError: an option out of its range.
    """

    joint_names = ('pusher_x', 'pusher_y')

    def __init__(
        self,
        size: int = 96,
        control: str = 'velocity',
        success: float = 0.82,
        smooth: bool = True,
    ) -> None:
        if control not in CONTROLS:
            raise ValueError(f'no control {control!r}; there are {", ".join(CONTROLS)}')
        if not 0 < success <= 1:
            raise ValueError(f'success is a coverage of {success:g}; it lies in 0..1')
        self.size = size
        self.control = control
        self.success_coverage = success
        self._painter = PushTPainter(size, smooth)
        self.physics = PushTPhysics()
        self._scratch = PushTPhysics()
        self.expert = PushTExpert()
        # The expert whose future is shown: asked anew all the time, it should not change its mind.
        self._guide = PushTExpert(ExpertConfig(habit=_HABIT))
        self._foreseen: list[tuple[PushTState, Push | None]] = []
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start the episode of this seed, the uniform start that gym-pusht draws from it."""
        self.physics.reset(seed)
        self._forget()

    def step(self, target: Float, dt: float) -> None:
        """Advance by `dt` seconds with the set-point `target` [m] held constant."""
        goal = np.asarray(target, np.float64) * UNITS_PER_METRE
        if self.control == 'velocity':
            self.physics.follow(goal, dt)
        else:
            self.physics.servo(goal, dt)

    def state(self) -> tuple[Float, Float]:
        """Pusher's position [m] and velocity [m/s], float64 [2] each."""
        now = self.physics.state()
        return now.pusher / UNITS_PER_METRE, now.velocity / UNITS_PER_METRE

    def set_state(self, q: Float, dq: Float | None = None) -> None:
        """Put the pusher at `q` [m] with velocity `dq` [m/s], zero unless given."""
        now = self.physics.state()
        velocity = np.zeros(2) if dq is None else np.asarray(dq, np.float64) * UNITS_PER_METRE
        self.physics.set_state(
            replace(now, pusher=np.asarray(q, np.float64) * UNITS_PER_METRE, velocity=velocity)
        )

    def set_scene(self, state: PushTState) -> None:
        """Put pusher and block there."""
        self.physics.set_state(state)
        self._forget()

    def scene(self) -> PushTState:
        """Where pusher and block are."""
        return self.physics.state()

    def render(self) -> NDArray[np.uint8]:
        """The camera image now, RGB uint8 [size, size, 3]."""
        return self.render_scene(self.physics.state())

    def render_scene(self, state: PushTState) -> NDArray[np.uint8]:
        """The image of another state; the present one stays as it is."""
        return self._painter.paint(state)

    def coverage(self) -> float:
        """Share of the goal that the block covers now, 0..1."""
        return coverage(self.physics.state().block)

    @property
    def objects(self) -> tuple[str, ...]:
        """What a goal can name: the goal."""
        return (TARGET,)

    def tip(self) -> Float:
        """Where the block is [px of the picture], float64 [2]: it has to come to rest."""
        return self.physics.state().block[:2] * (self.size / TABLE)

    def distances(self) -> Float:
        """Mean distance of the block's corners from the goal's [px of the picture], float64 [1]."""
        return np.array([corner_error(self.physics.state().block) * self.size / TABLE])

    def inside(self) -> NDArray[np.bool_]:
        """Whether the goal is covered, bool [1]."""
        return np.array([self.coverage() >= self.success_coverage])

    def instruction(self, rng: np.random.Generator, *, held_out: bool = False) -> Instruction:
        """The task in one of its phrasings."""
        return Instruction(str(rng.choice(HELD_OUT if held_out else TRAINING)), TARGET)

    def parse(self, text: str) -> str | None:
        """'goal' for one of our own phrasings, else None."""
        return TARGET if text in TRAINING or text in HELD_OUT else None

    def progress(self, target: str, start: float) -> float:
        """Share of the way from the start distance [px of the picture] to the goal, 0..1."""
        return float(np.clip(1 - float(self.distances()[0]) / max(start, 1e-9), 0, 1))

    def expert_rollout(
        self,
        target: str,
        frames: int,
        q: Float | None = None,
        scene: PushTState | None = None,
    ) -> list[NDArray[np.uint8]]:
        """The expert's next `frames` camera images, 0.1 s apart.

        Args:
            target: there is one goal.
            frames: how many.
            q: where the pusher starts [m]; where `scene` says unless given.
            scene: where everything starts; as it is now unless given.
        """
        start = self.physics.state() if scene is None else scene
        if q is not None:
            start = replace(start, pusher=np.asarray(q, np.float64) * UNITS_PER_METRE)
        return [self.render_scene(state) for state in self.expert_states(frames, start)]

    def expert_view(self, target: str, frames: int, scene: PushTState) -> NDArray[np.uint8]:
        """The last image of `expert_rollout` alone."""
        return self.render_scene(self.expert_states(frames, scene)[-1])

    def expert_states(self, frames: int, start: PushTState | None = None) -> list[PushTState]:
        """The states of `expert_rollout`, from `start`; from the present one unless given."""
        start = self.physics.state() if start is None else start
        # A push that was begun is gone on with, by whoever follows these frames however far.
        push = self._guide.push = self._push_at(start)
        _, states, memory = self._guide.foresee(start, frames)
        self._foreseen = list(zip([start, *states], [push, *memory], strict=True))
        return list(states)

    def _forget(self) -> None:
        self.expert.reset()
        self._guide.reset()
        self._foreseen = []

    def _push_at(self, state: PushTState) -> Push | None:
        """The push under way in the foreseen state nearest to `state`; None if none is near."""
        away = [_difference(state, foreseen) for foreseen, _ in self._foreseen]
        if not away or min(away) > _ASTRAY:
            return None
        return self._foreseen[int(np.argmin(away))][1]

    def self_play(self, rng: np.random.Generator, max_delta: float = 0.024) -> PushTTransition:
        """A random transition: half of them begin at the block, and most of these push it.

        Args:
            rng: of everything random.
            max_delta: longest displacement [m]; lengths are uniform, directions too.
        """
        at_block = rng.random() < 0.5
        while True:
            block = np.array([*rng.uniform(70, TABLE - 70, 2), rng.uniform(-np.pi, np.pi)])
            pusher = rng.uniform(22, TABLE - 22, 2)
            if at_block:
                pusher = _beside(rng, block)
            if _clear(pusher, block):
                break
        angle = rng.uniform(-np.pi, np.pi)
        if at_block and rng.random() < 0.6:
            towards = to_world(np.array([0.0, 45.0]), block) - pusher
            angle = float(np.arctan2(towards[1], towards[0])) + rng.normal(0, 0.6)
        length = rng.uniform(0, max_delta) * UNITS_PER_METRE
        delta = length * np.array([np.cos(angle), np.sin(angle)])
        # Towards the middle rather than off the table.
        delta = np.where((pusher + delta > 22) & (pusher + delta < TABLE - 22), delta, -delta)
        before = PushTState.at(pusher, block)
        self._scratch.set_state(before)
        self._scratch.move(delta, STEP)
        return PushTTransition(before, self._scratch.state(), delta / UNITS_PER_METRE)

    def analytic_flow(
        self, before: PushTState, after: PushTState, size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Exact flow, float32 [S, S, 2] px, and what stays visible, bool [S, S]."""
        return pusht_painter.analytic_flow(before, after, size)


def _difference(a: PushTState, b: PushTState) -> float:
    """How far pusher and block are apart in two states, units of the table."""
    return float(np.linalg.norm(a.pusher - b.pusher)) + pose_distance(a.block, b.block)


def _beside(rng: np.random.Generator, block: Float) -> Float:
    """A pusher's centre at the block's outline, touching it or up to 25 units away."""
    edge = int(rng.integers(len(OUTLINE)))
    a, b = OUTLINE[edge], OUTLINE[(edge + 1) % len(OUTLINE)]
    along = (b - a) / np.linalg.norm(b - a)
    gap = PUSHER_RADIUS + (rng.uniform(0, 3) if rng.random() < 0.6 else rng.uniform(3, 25))
    point = a + rng.random() * (b - a) + gap * np.array([along[1], -along[0]])
    return to_world(point, block)


def _clear(pusher: Float, block: Float) -> bool:
    """Whether pusher and block are on the table and do not overlap."""
    corners = to_world(OUTLINE, block)
    if not ((corners > 12) & (corners < TABLE - 12)).all():
        return False
    if not ((pusher > 22) & (pusher < TABLE - 22)).all():
        return False
    c, s = np.cos(block[2]), np.sin(block[2])
    x, y = (pusher - block[:2]) @ np.array([[c, -s], [s, c]])
    bar = np.hypot(max(abs(x) - 60, 0), max(-y, y - 30, 0))
    stem = np.hypot(max(abs(x) - 15, 0), max(30 - y, y - 120, 0))
    return float(min(bar, stem)) >= PUSHER_RADIUS
