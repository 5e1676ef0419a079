"""The planar finger: 1 to 20 joints, coloured discs on a table, goals in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vera_sim import finger_painter, language
from vera_sim.finger_kinematics import BASE, CANVAS, REACH, Float, expert_path, joint_limits, points
from vera_sim.finger_painter import DISC_RADIUS, LINK_WIDTH, PALETTE, FingerPainter
from vera_sim.language import Instruction

# Natural frequency of the simulated joint servos [rad/s]: they lag set-points by about 2 / OMEGA.
OMEGA = 60.0


class FingerEnv:
    """A finger with `joints` links and `discs` discs, pictured `size` x `size`.

    The joint servos are critically damped second-order systems, integrated exactly, so the
    result does not depend on how a stretch of time is cut into steps with one set-point.

    Raises:
        ValueError: a number of joints outside 1..20 or of discs outside 0..4.
    """

    def __init__(self, joints: int = 3, discs: int = 3, size: int = 128) -> None:
        if not 1 <= joints <= 20:
            raise ValueError(f'the finger has 1 to 20 joints, not {joints}')
        if not 0 <= discs <= len(PALETTE):
            raise ValueError(f'the finger has 0 to {len(PALETTE)} discs, not {discs}')
        self.joints = joints
        self.joint_names = tuple(f'joint_{i + 1}' for i in range(joints))
        self.size = size
        self._count = discs
        self._painter = FingerPainter(joints, size)
        self._low, self._high = joint_limits(joints)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start the episode of this seed: uniform posture, uniform discs that can be seen."""
        rng = np.random.default_rng(seed)
        self._q, self._discs = self.random_scene(rng)
        self._dq = np.zeros(self.joints)

    def random_scene(self, rng: np.random.Generator) -> tuple[Float, list[tuple[str, Float]]]:
        """A posture inside the picture, and discs within reach that the arm does not hide."""
        while True:
            q = rng.uniform(self._low, self._high)
            chain = points(q)
            inside = ((chain[1:] > 4) & (chain[1:] < CANVAS - 4)).all()
            if inside and np.linalg.norm(chain[-1] - BASE) > 12:
                break
        names = rng.permutation(list(PALETTE))[: self._count]
        discs: list[tuple[str, Float]] = []
        for _ in range(1000):
            if len(discs) == self._count:
                return q, discs
            centre = rng.uniform(7, CANVAS - 7, size=2)
            away = np.linalg.norm(centre - BASE)
            clear = (
                17 < away < 0.92 * REACH
                and _distance_to_chain(centre, chain) > LINK_WIDTH / 2 + 2
                and np.linalg.norm(centre - chain[-1]) > 10
                and all(np.linalg.norm(centre - c) > 13 for _, c in discs)
            )
            if clear:
                discs.append((str(names[len(discs)]), centre))
        return self.random_scene(rng)

    def set_scene(self, q: Float, discs: list[tuple[str, Float]]) -> None:
        """Put the finger at rest at `q` [rad] with these (name, centre [canvas px]) discs."""
        self._discs = list(discs)
        self.set_state(q)

    def set_state(self, q: Float, dq: Float | None = None) -> None:
        """Put the joints at `q` [rad] with velocity `dq` [rad/s], zero unless given."""
        self._q = np.array(q, dtype=np.float64)
        self._dq = np.zeros(self.joints) if dq is None else np.array(dq, dtype=np.float64)

    def state(self) -> tuple[Float, Float]:
        """Joint positions [rad] and velocities [rad/s], float64 [joints] each."""
        return self._q.copy(), self._dq.copy()

    def step(self, target: Float, dt: float) -> None:
        """Advance by `dt` seconds with the joint set-point `target` [rad] held constant."""
        error = self._q - target
        slope = self._dq + OMEGA * error
        decay = np.exp(-OMEGA * dt)
        q = target + (error + slope * dt) * decay
        dq = (slope - OMEGA * (error + slope * dt)) * decay
        self._q = np.clip(q, self._low, self._high)
        self._dq = np.where(self._q == q, dq, 0.0)

    def render(self) -> NDArray[np.uint8]:
        """The camera image now, RGB uint8 [size, size, 3]."""
        return self.render_at(self._q)

    def render_at(self, q: Float) -> NDArray[np.uint8]:
        """The image of this scene with the joints at `q`; the state stays as it is."""
        return self._painter.paint(np.asarray(q, dtype=np.float64), self._discs)

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the discs in the scene."""
        return tuple(name for name, _ in self._discs)

    @property
    def discs(self) -> list[tuple[str, Float]]:
        """(name, centre [canvas px]) of each disc."""
        return list(self._discs)

    def tip(self) -> Float:
        """Tip position [canvas px], float64 [2]."""
        return points(self._q)[-1]

    def distances(self) -> Float:
        """From the tip to each disc's centre [canvas px], in the order of `objects`."""
        return np.array([np.linalg.norm(self.tip() - c) for _, c in self._discs])

    def inside(self) -> NDArray[np.bool_]:
        """Whether the tip is inside each disc, in the order of `objects`."""
        return self.distances() <= DISC_RADIUS

    def instruction(self, rng: np.random.Generator, *, held_out: bool = False) -> Instruction:
        """A goal for this scene: one of its discs, in one of the phrasings."""
        if not self._discs:
            raise ValueError('the scene has no disc to name; make the finger with discs >= 1')
        return language.phrase(rng, str(rng.choice(list(self.objects))), held_out=held_out)

    def parse(self, text: str) -> str | None:
        """The disc of this scene that one of our own phrasings names, or None."""
        return language.parse(text, self.objects)

    def progress(self, target: str, start: float) -> float:
        """Share of the way from the start distance [canvas px] to the disc's edge, 0..1."""
        left = max(0.0, float(self.distances()[self.objects.index(target)]) - DISC_RADIUS)
        return float(np.clip(1 - left / max(start - DISC_RADIUS, 1e-9), 0, 1))

    def expert_joint_path(self, target: str, frames: int, q: Float | None = None) -> Float:
        """Joint angles that the scripted expert would pass through, float64 [frames, joints]."""
        goal = dict(self._discs)[target]
        return expert_path(self._q if q is None else np.asarray(q, np.float64), goal, frames)

    def expert_rollout(
        self, target: str, frames: int, q: Float | None = None
    ) -> list[NDArray[np.uint8]]:
        """The expert's future as camera images, one for each frame period to come."""
        return [self.render_at(p) for p in self.expert_joint_path(target, frames, q)]

    def expert_view(self, target: str, frames: int, q: Float | None = None) -> NDArray[np.uint8]:
        """The last image of `expert_rollout` alone."""
        return self.render_at(self.expert_joint_path(target, frames, q)[-1])

    def self_play(
        self,
        rng: np.random.Generator,
        max_dq: float = 0.12,
        *,
        span: float | None = None,
        start: Float | None = None,
    ) -> tuple[Float, Float]:
        """A random transition (q0, q1) [rad] inside the limits, |q1 - q0| <= max_dq per joint.

        Args:
            rng: of both postures.
            max_dq: largest change of a joint [rad].
            span: keep every joint within +-span [rad], and within its limits.
            start: q0; a posture inside the picture is drawn unless it is given.
        """
        low, high = self._low, self._high
        if span is not None:
            if not span > 0:
                raise ValueError(f'a span of {span} rad leaves no posture')
            low, high = np.maximum(low, -span), np.minimum(high, span)
        q0 = rng.uniform(low, high) if start is None else np.asarray(start, np.float64)
        while start is None and not self._pictured(q0):
            q0 = rng.uniform(low, high)
        for _ in range(100):
            q1 = np.clip(q0 + rng.uniform(-max_dq, max_dq, self.joints), low, high)
            if start is None or self._pictured(q1):
                break
        return q0, q1

    @staticmethod
    def _pictured(q: Float) -> bool:
        chain = points(q)[1:]
        return bool(((chain > 2) & (chain < CANVAS - 2)).all())

    def analytic_flow(
        self, q0: Float, q1: Float, size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Exact flow, float32 [S, S, 2] px, and what stays visible, bool [S, S]."""
        return finger_painter.analytic_flow(q0, q1, size)

    def analytic_jacobian(self, q: Float, size: int) -> NDArray[np.float32]:
        """Exact image Jacobian, float32 [S, S, 2, joints], px/rad."""
        return finger_painter.analytic_jacobian(q, size)


class DwellJudge:
    """Decides an episode: the tip must come to rest inside a disc.

    That is: be inside it for `dwell` frames in a row and move by no more than `rest` canvas pixels
    over them. A straight path to one disc may well lead across another: passing is not touching.
    """

    def __init__(self, dwell: int = 5, rest: float = 3.0) -> None:
        self.dwell = dwell
        self.rest = rest
        self._tips: dict[str, list[Float]] = {}

    def observe(
        self, objects: tuple[str, ...], inside: NDArray[np.bool_], tip: Float
    ) -> str | None:
        """Feed one frame; the name of the disc in which the tip has come to rest, or None."""
        for name, within in zip(objects, inside, strict=True):
            tips = [*self._tips.get(name, []), tip][-self.dwell :] if within else []
            self._tips[name] = tips
            if len(tips) == self.dwell and np.linalg.norm(tips[-1] - tips[0]) <= self.rest:
                return name
        return None


def _distance_to_chain(point: Float, chain: Float) -> float:
    a, b = chain[:-1], chain[1:]
    t = np.clip(((point - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1), 0, 1)
    return float(np.linalg.norm(point - a - t[:, None] * (b - a), axis=-1).min())
