"""Pieces of the Panda's pictures: which pixels belong to each, and how each moves in each view.

What a segmenter and a tracker of points would tell about real videos; no joint and no action is in
it. A piece is a body, or two that move as one. Its track in a view is where its middle is [px,
pixel centres at +0.5] and how its extent is seen: the columns of a 2 x 3 matrix are the image of
its three half axes [px]. From two of them follows the affine motion of the piece in the picture.
The table's track in a view is the homography from metres of the table to pixels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_core.kinematics.camera import Camera
from vera_core.kinematics.transforms import Float, inverse
from vera_sim.panda import PandaEnv
from vera_sim.panda_scene import Scene, redrawn
from vera_sim.panda_tasks import COLOURS

Single = NDArray[np.float32]
Image = NDArray[np.uint8]

# In the order in which they are painted.
PIECES: dict[str, tuple[str, ...]] = {
    'bowl': ('bowl',),
    'button': ('button', 'button_cap'),
    **{f'cube_{colour}': () for colour in COLOURS},
    **{f'link_{k}': (f'panda_link{k}',) for k in range(2, 7)},
    'hand': ('panda_link7', 'panda_hand'),
    'left_finger': ('panda_leftfinger',),
    'right_finger': ('panda_rightfinger',),
}
TURNS = {'hand': 1, **{f'cube_{colour}': 4 for colour in COLOURS}}  # symmetry about the vertical
TRACK = 8  # numbers: the middle [2], and the half axes [2, 3] row by row
_NEAR = 0.03  # m


class PandaPieces:
    """Tracks and masks of one environment's scenes."""

    def __init__(self, env: PandaEnv) -> None:
        self.env = env
        self._bodies = list(env._made.bodies)
        solids = [part.solid for part in env._made.parts]
        self._solid_body = np.array([s.body for s in solids])
        self._middle, self._half = {}, {}
        for k, body in enumerate(self._bodies):
            mine = [s for s in solids if s.body == k]
            reach = [np.abs(s.origin[:3, :3]) @ s.half for s in mine]
            low = np.min([s.origin[:3, 3] - r for s, r in zip(mine, reach, strict=True)], axis=0)
            high = np.max([s.origin[:3, 3] + r for s, r in zip(mine, reach, strict=True)], axis=0)
            self._middle[body], self._half[body] = (low + high) / 2, (high - low) / 2

    def _of(self, scene: Scene) -> dict[str, tuple[str, ...]]:
        """Bodies of each piece that is in a scene."""
        there = dict(PIECES)
        for i, colour in enumerate(scene.colours):
            there[f'cube_{colour}'] = (f'cube{i}',)
        if scene.bowl is None:
            there['bowl'] = ()
        if scene.button is None:
            there['button'] = ()
        return there

    def frames(self, state: Any) -> Float:
        """T [B, 4, 4] of all bodies that are seen."""
        env = self.env
        with env._seeing:
            env._mj.mj_setState(env._model, env._shown, state.vector, env._signature)
            return env._frames(env._shown)

    def tracks(self, frames: Float, scene: Scene) -> tuple[Single, Single]:
        """Of one moment.

        Args:
            frames: of the bodies.
            scene: says who looks.

        Returns:
            float32 [V, K, TRACK], NaN where a piece is not in the scene or behind the camera; and
            the table's, float32 [V, 3, 3].
        """
        cameras = self.env.cameras_of(frames, scene)
        track = np.full((len(cameras), len(PIECES), TRACK), np.nan, np.float32)
        bodies = list(self._of(scene).values())
        here = [k for k, names in enumerate(bodies) if names]
        places = [self._bodies.index(bodies[k][-1]) for k in here]
        R, p = frames[places, :3, :3], frames[places, :3, 3]
        names = [bodies[k][-1] for k in here]
        middle = p + np.einsum('kij,kj->ki', R, np.array([self._middle[n] for n in names]))
        axes = R * np.array([self._half[n] for n in names])[:, None]
        planes = []
        for v, (camera, pose) in enumerate(cameras):
            out = inverse(pose)
            at = middle @ out[:3, :3].T + out[:3, 3]
            seen = at[:, 2] > _NEAR
            at[~seen] = (0, 0, 1)
            track[v, here, :2] = np.where(seen[:, None], camera.project(at) + 0.5, np.nan)
            seen_axes = camera.project_jacobian(at)[..., :2, :3] @ (out[:3, :3] @ axes)
            track[v, here, 2:] = seen_axes.reshape(len(here), 6)
            planes.append(_plane(camera, out))
        return track, np.array(planes, np.float32)

    def turns(self, frames: Float, scene: Scene) -> Single:
        """Cosine and sine of the turns of TURNS about the vertical, float32 [K, 2]; else NaN."""
        out = np.full((len(PIECES), 2), np.nan, np.float32)
        bodies = self._of(scene)
        for k, name in enumerate(PIECES):
            if name in TURNS and bodies[name]:
                R = frames[self._bodies.index(bodies[name][-1]), :3, :3]
                # The axis that lies: of a cube any of them, by its symmetry.
                axis = R[:, 0] if name == 'hand' else R[:, int(np.abs(R[2]).argmin())]
                angle = TURNS[name] * np.arctan2(axis[1], axis[0])
                out[k] = np.cos(angle), np.sin(angle)
        return out

    def picture(self, frames: Float, scene: Scene) -> tuple[Image, NDArray[np.int8]]:
        """All views uint8 [V, H, W, 3]; the piece that each ray meets or -1, int8 [V, s H, s W]."""
        images, owner = self.env.paint_with_owners(frames, scene)
        piece_of = {body: k for k, names in enumerate(self._of(scene).values()) for body in names}
        # FLOOR and TABLE, negative, are the last ones.
        label = np.full(len(self._solid_body) + 2, -1, np.int8)
        for i, body in enumerate(self._solid_body):
            label[i] = piece_of.get(self._bodies[body], -1)
        return images, label[owner]


def another_look(scene: Scene, rng: np.random.Generator, size: int) -> Scene:
    """The same scene under other light, by cameras that stand a little elsewhere."""
    look, views = redrawn(rng, size)
    return dataclasses.replace(scene, look=look, views=views)


def _plane(camera: Camera, out: Float) -> Float:
    """Homography [3, 3] from x, y [m] of the table to pixels, centres at +0.5."""
    (fx, fy), (cx, cy) = camera.focal, camera.centre
    K = np.array([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1]])
    return np.asarray(K @ out[:3, [0, 1, 3]])
