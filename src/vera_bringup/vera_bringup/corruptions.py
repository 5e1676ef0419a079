"""Frame pairs of the simulated finger in which something happens that no motion of it can explain.

Each corruption draws its own strength, uniformly from the range that RANGES states, and spoils the
second frame of a real self-play transition (another robot is in both frames). What would hardly be
seen, because the arm hides it, is drawn again: SEEN pixels of the canvas must change by LEVELS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core import canvas
from vera_core.contract import Contract
from vera_core.seams import Image
from vera_sim import FingerEnv, make_environment
from vera_sim.finger_kinematics import CANVAS
from vera_sim.finger_painter import DISC_RADIUS, FingerPainter

SEEN, LEVELS = 12, 12.0
# Of self-play's: the demonstrated motions are slower than those the translator trained on.
SPEED = (0.1, 1.0)
RANGES = {
    'teleport': 'a disc jumps by 6 to 40 px to anywhere in the picture',
    'robot': 'a second arm on another side, each joint moving by up to 0.12 rad, hidden by nothing',
    'frozen': 'the frame before again, half of them with noise of up to 2 grey levels',
    'colours': 'two discs exchange their colours (half) or the picture its channels (half)',
    'noise': 'Gaussian noise of 10 to 40 grey levels, white or smoothed by up to 1.5 px',
    'faint noise': 'the same, of 2 to 10 grey levels',
}
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """A self-play transition of a finger among discs: from q0 to q1 [rad]."""

    env: FingerEnv
    contract: Contract
    q0: Float
    q1: Float

    def picture(self, q: Float) -> Image:
        """The camera's image, uint8 [S, S, 3]."""
        return self.env.render_at(q)

    def tile(self, image: Image) -> Image:
        """The canvas, uint8 [H, W, 3]."""
        return canvas.tile({self.contract.cameras[0].name: image}, self.contract)


Pair = tuple[Image, Image]


def _teleport(scene: Scene, rng: np.random.Generator) -> Pair:
    discs = scene.env.discs
    which = int(rng.integers(len(discs)))
    name, old = discs[which]
    while True:
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(6, 40)
        new = old + length * np.array([np.cos(angle), np.sin(angle)])
        if ((new > DISC_RADIUS) & (new < CANVAS - DISC_RADIUS)).all():
            break
    before = scene.picture(scene.q0)
    moved = [(name, new) if i == which else disc for i, disc in enumerate(discs)]
    return before, _with_discs(scene, moved)


def _robot(scene: Scene, rng: np.random.Generator) -> Pair:
    painter = FingerPainter(scene.env.joints, scene.env.size)
    q0, q1 = scene.env.self_play(rng)
    turns = int(rng.integers(1, 4))
    out = []
    for own, other in ((scene.q0, q0), (scene.q1, q1)):
        image = scene.picture(own).astype(np.float32)
        arm = np.rot90(painter.paint(other, []).astype(np.float32), turns)
        table = np.rot90(painter.background.astype(np.float32), turns)
        mask = (np.abs(arm - table).max(-1) > LEVELS).astype(np.float32)
        alpha = cv2.GaussianBlur(mask, (3, 3), 0.5)[..., None]
        out.append((image * (1 - alpha) + arm * alpha).astype(np.uint8))
    return out[0], out[1]


def _frozen(scene: Scene, rng: np.random.Generator) -> Pair:
    before = scene.picture(scene.q0)
    return before, before


def _colours(scene: Scene, rng: np.random.Generator) -> Pair:
    before = scene.picture(scene.q0)
    if rng.random() < 0.5:
        return before, scene.picture(scene.q1)[..., rng.permutation([[1, 2, 0], [2, 0, 1]])[0]]
    discs = scene.env.discs
    i, j = rng.permutation(len(discs))[:2]
    swapped = list(discs)
    swapped[i], swapped[j] = (discs[i][0], discs[j][1]), (discs[j][0], discs[i][1])
    return before, _with_discs(scene, swapped)


def _same(scene: Scene, rng: np.random.Generator) -> Pair:
    return scene.picture(scene.q0), scene.picture(scene.q1)


_DRAW: dict[str, Callable[[Scene, np.random.Generator], Pair]] = {
    'real': _same, 'teleport': _teleport, 'robot': _robot, 'frozen': _frozen, 'colours': _colours,
    'noise': _same, 'faint noise': _same,
}
_NOISE = {'noise': (10, 40), 'faint noise': (2, 10)}
KINDS = tuple(_DRAW)


def _finish(kind: str, before: Image, after: Image, rng: np.random.Generator) -> Pair:
    """What happens on the canvas rather than in the scene."""
    if kind == 'frozen' and rng.random() < 0.5:
        noise = rng.normal(0, rng.uniform(0, 2), after.shape)
    elif kind in _NOISE:
        noise = rng.normal(0, 1, after.shape)
        blur = rng.uniform(0, 1.5)
        if blur > 0.3:
            noise = cv2.GaussianBlur(noise, (0, 0), blur)
        noise *= rng.uniform(*_NOISE[kind]) / noise.std()
    else:
        return before, after
    return before, np.clip(after + noise + 0.5, 0, 255).astype(np.uint8)


def draw(contract: Contract, kind: str, count: int, seed: int) -> Pair:
    """Frame pairs of one kind, each in a scene of its own.

    Args:
        contract: of the simulated finger.
        kind: 'real' or one of RANGES.
        count: how many.
        seed: of scenes and strengths; all kinds of one seed share their transitions.

    Returns:
        before, after: uint8 [count, H, W, 3].

    Raises:
        ValueError: an embodiment without this simulator, an unknown kind.
    """
    if contract.sim is None or contract.sim.environment != 'finger':
        raise ValueError(
            f'embodiment {contract.embodiment!r} is not the simulated finger, the only one whose '
            'frames can be corrupted here'
        )
    if kind not in _DRAW:
        raise ValueError(f'no corruption {kind!r}; there are {", ".join(KINDS)}')
    env = make_environment(
        contract.sim.environment, contract.sim.options, contract.cameras[0].height
    )
    shape = (count, contract.canvas.height, contract.canvas.width, 3)
    before, after = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for i in range(count):
        for attempt in range(100):
            rng = np.random.default_rng([seed, i, attempt])
            env.reset(int(rng.integers(1 << 62)))
            q0, q1 = env.self_play(rng)
            scene = Scene(env, contract, q0, q0 + rng.uniform(*SPEED) * (q1 - q0))
            truth = scene.tile(scene.picture(scene.q1)).astype(np.float32)
            a, b = (scene.tile(image) for image in _DRAW[kind](scene, rng))
            before[i], after[i] = _finish(kind, a, b, rng)
            changed = np.abs(after[i] - truth).max(-1) > LEVELS
            if kind in ('real', 'faint noise') or changed.sum() >= SEEN:
                break
        else:
            raise RuntimeError(f'{kind}: nothing to be seen in 100 scenes')
    return before, after


def _with_discs(scene: Scene, discs: list[tuple[str, Float]]) -> Image:
    """The second picture with other discs; the scene stays as it is."""
    env, own = scene.env, scene.env.discs
    q, dq = env.state()
    env.set_scene(q, discs)
    image = env.render_at(scene.q1)
    env.set_scene(q, own)
    env.set_state(q, dq)
    return image
