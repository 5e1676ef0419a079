"""Scenes of the Panda's table drawn at random: where things lie, how they look, who sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vera_core.kinematics.camera import PINHOLE, Camera
from vera_core.kinematics.transforms import Float, rotation_about, transform
from vera_sim.panda_model import CUBES, HAND
from vera_sim.panda_tasks import COLOURS, DIRECTIONS, HELD_OUT_COLOURS, Goal
from vera_sim.ray_painter import Look

CAMERAS = ('front', 'side', 'wrist')
# What objects may lie in, and the tool begins in [m]: low and high corner.
FIELD = (np.array([0.36, -0.22]), np.array([0.62, 0.22]))
BEGIN = (np.array([0.38, -0.15, 0.16]), np.array([0.56, 0.15, 0.28]))
SETS = {'training': COLOURS, 'held_out': HELD_OUT_COLOURS, 'all': {**COLOURS, **HELD_OUT_COLOURS}}
_APART = 0.105  # m between cubes, so that open fingers fit
_ROOM = {'bowl': (0.074, 0.045), 'button': (0.05, 0.045)}  # m: own radius, and air around it
PUSH_WAY = 0.16  # m that must be free before a cube that is pushed


@dataclass(frozen=True, eq=False)
class View:
    """A camera as it stands in an episode.

    Attributes:
        name: of the camera.
        camera: how it projects; `link` is the body that carries it.
    """

    name: str
    camera: Camera


@dataclass(frozen=True, eq=False)
class Scene:
    """An episode's beginning, and what stays as it is for all of it.

    Attributes:
        task: one of panda_tasks.TASKS.
        colours: names of the cubes' colours.
        asked: those of the set that was chosen.
        paints: RGB 0..255 [C, 3] of the cubes.
        cubes: float64 [C, 3]: x, y [m], yaw [rad].
        bowl, button: float64 [2] m, or None.
        bowl_paint, button_paint: RGB 0..255.
        tool: float64 [3] m; yaw: of the tool [rad].
        opening: of one finger [m].
        look: light and table.
        views: cameras.
    """

    task: str
    colours: tuple[str, ...]
    asked: tuple[str, ...]
    paints: Float
    cubes: Float
    bowl: Float | None
    button: Float | None
    bowl_paint: tuple[float, float, float]
    button_paint: tuple[float, float, float]
    tool: Float
    yaw: float
    opening: float
    look: Look
    views: tuple[View, ...]


def nominal_view(name: str, size: int) -> View:
    """A camera where the contract's calibration says it is, `size` x `size` pixels."""
    if name == 'wrist':
        tilt, mount = np.radians(18.0), np.array([0.078, 0.0, 0.022])
        # Looks along the fingers and towards them; the fingers are at the bottom of the picture.
        forward = np.array([-np.sin(tilt), 0.0, np.cos(tilt)])
        down = np.array([-np.cos(tilt), 0.0, -np.sin(tilt)])
        R = np.stack([np.cross(down, forward), down, forward], axis=1)
        return View(name, _camera(size, 0.62, transform(R, mount), HAND))
    eye, target, focal = {
        'front': ((1.22, 0.0, 0.60), (0.47, 0.0, 0.09), 1.3),
        'side': ((0.58, 0.96, 0.52), (0.46, 0.0, 0.10), 1.4),
    }[name]
    mount = _towards(np.array(eye), np.array(target))
    return View(name, _camera(size, focal, mount, 'panda_link0'))


def draw(rng: np.random.Generator, task: str, colours: str, size: int, jitter: float) -> Scene:
    """A scene in which the task can be done.

    Args:
        rng: of everything.
        task: see panda_tasks.TASKS.
        colours: which set of SETS the cubes have.
        size: of the pictures.
        jitter: of cameras, light and paint; 1 is as trained, 0 none.
    """
    palette = SETS[colours]
    names = list(rng.permutation(list(palette))[:CUBES])
    # A set with fewer colours than cubes is filled up with others that nobody is asked about.
    names += [c for c in COLOURS if c not in names][: CUBES - len(names)]
    while True:
        bowl = task == 'bowl' or rng.random() < 0.35
        button = task == 'press' or rng.random() < 0.35
        placed = _place(rng, bowl, button)
        if placed is None:
            continue
        cubes, foot_bowl, foot_button = placed
        if task != 'push' or _pushable(cubes, foot_bowl, foot_button):
            break
    # Grasping tasks begin with an open hand as often as not; the others mostly with a closed one.
    opened = rng.random() < (0.8 if task in ('lift', 'stack', 'bowl') else 0.25)
    shade = 1 + jitter * rng.uniform(-0.1, 0.1, (CUBES, 3))
    return Scene(
        task=task,
        colours=tuple(str(name) for name in names),
        asked=tuple(str(name) for name in names if name in palette),
        paints=np.array([SETS['all'][str(name)] for name in names]) * shade,
        cubes=cubes,
        bowl=foot_bowl,
        button=foot_button,
        bowl_paint=_shaded(rng, (226, 222, 210), jitter),
        button_paint=_shaded(rng, (206, 40, 52), jitter),
        tool=rng.uniform(*BEGIN),
        yaw=float(rng.uniform(-0.35, 0.35)),
        opening=0.04 if opened else 0.0,
        look=_look(rng, jitter),
        views=tuple(_shaken(nominal_view(name, size), rng, jitter) for name in CAMERAS),
    )


def redrawn(rng: np.random.Generator, size: int) -> tuple[Look, tuple[View, ...]]:
    """Another light, and cameras that stand a little elsewhere."""
    views = tuple(_shaken(nominal_view(name, size), rng, 1.0) for name in CAMERAS)
    return _look(rng, 1.0), views


def push_is_free(
    colour: int, direction: str, cubes: Float, obstacles: list[tuple[Float, float]]
) -> bool:
    """Whether nothing lies where a cube is pushed to, nor where the fingers begin.

    Args:
        colour: place of the cube.
        direction: of panda_tasks.DIRECTIONS.
        cubes: float64 [C, >= 2] m.
        obstacles: (place [2], radius) of what else there is.
    """
    along = DIRECTIONS[direction]
    start = cubes[colour, :2] - 0.085 * along
    end = cubes[colour, :2] + PUSH_WAY * along
    low, high = FIELD
    if not ((end > low - 0.07) & (end < high + 0.07)).all():
        return False
    if not ((start > low - 0.07) & (start < high + 0.05)).all():
        return False
    others = [(cubes[i, :2], 0.03) for i in range(len(cubes)) if i != colour]
    for place, radius in (*others, *obstacles):
        t = np.clip((place - start) @ along, 0, float((end - start) @ along))
        if np.linalg.norm(start + t * along - place) < radius + 0.035:
            return False
    return True


def obstacles(scene: Scene) -> list[tuple[Float, float]]:
    """(place [2], radius) of bowl and button, m."""
    return [
        (foot, _ROOM[name][0])
        for name, foot in (('bowl', scene.bowl), ('button', scene.button))
        if foot is not None
    ]


def feasible(goal: Goal, scene: Scene) -> bool:
    """Whether the expert is asked for this in this scene."""
    if goal.cube and goal.cube not in scene.asked:
        return False
    if goal.task == 'push':
        i = scene.colours.index(goal.cube)
        return push_is_free(i, goal.other, scene.cubes, obstacles(scene))
    return True


def _place(
    rng: np.random.Generator, bowl: bool, button: bool
) -> tuple[Float, Float | None, Float | None] | None:
    low, high = FIELD
    taken: list[tuple[Float, float]] = []
    feet: dict[str, Float | None] = {'bowl': None, 'button': None}
    for name, wanted in (('bowl', bowl), ('button', button)):
        if not wanted:
            continue
        radius, air = _ROOM[name]
        foot = rng.uniform(low + 0.02, high - 0.02)
        if any(np.linalg.norm(foot - p) < radius + r + 0.02 for p, r in taken):
            return None
        feet[name] = foot
        taken.append((foot, radius + air))
    cubes = np.empty((CUBES, 3))
    for i in range(CUBES):
        for _ in range(60):
            at = rng.uniform(low, high)
            apart = all(np.linalg.norm(at - cubes[j, :2]) > _APART for j in range(i))
            if apart and all(np.linalg.norm(at - p) > r + 0.025 for p, r in taken):
                break
        else:
            return None
        cubes[i] = *at, rng.uniform(-np.pi / 4, np.pi / 4)
    return cubes, feet['bowl'], feet['button']


def _pushable(cubes: Float, bowl: Float | None, button: Float | None) -> bool:
    others = [(p, _ROOM[n][0]) for n, p in (('bowl', bowl), ('button', button)) if p is not None]
    free = [
        push_is_free(i, d, cubes, others) for i in range(len(cubes)) for d in DIRECTIONS
    ]
    return sum(free) >= 2


def _look(rng: np.random.Generator, jitter: float) -> Look:
    azimuth, slope = rng.uniform(-np.pi, np.pi), 0.2 + 0.25 * rng.random()
    light = np.array([slope * np.cos(azimuth), slope * np.sin(azimuth), 1.0])
    if jitter == 0:
        light = np.array([0.2, 0.25, 1.0])
    light /= np.linalg.norm(light)
    x, y, z = (float(v) for v in light)
    return Look(
        light=(x, y, z),
        brightness=float(1 + jitter * rng.uniform(-0.12, 0.08)),
        tint=_shaded(rng, (1.0, 1.0, 1.0), 0.5 * jitter),
        wood=_shaded(rng, (188, 148, 104), jitter),
        floor=_shaded(rng, (98, 102, 108), jitter),
        wall=_shaded(rng, (176, 182, 188), jitter),
        wood_seed=int(rng.integers(8)) if jitter else 0,
    )


def _shaded(
    rng: np.random.Generator, colour: tuple[float, float, float], jitter: float
) -> tuple[float, float, float]:
    r, g, b = np.asarray(colour) * (1 + jitter * rng.uniform(-0.08, 0.08, 3))
    return float(r), float(g), float(b)


def _shaken(view: View, rng: np.random.Generator, jitter: float) -> View:
    """A camera that was bumped into: by millimetres and tenths of a degree."""
    wrist = view.name == 'wrist'
    turn, shift = (0.006, 0.0015) if wrist else (0.01, 0.008)
    mount = view.camera.mount.copy()
    vector = jitter * turn * rng.uniform(-1, 1, 3)
    angle = float(np.linalg.norm(vector))
    if angle > 0:
        mount[:3, :3] = mount[:3, :3] @ rotation_about(vector / angle, angle)
    mount[:3, 3] += jitter * shift * rng.uniform(-1, 1, 3)
    c = view.camera
    return View(view.name, Camera(c.model, c.focal, c.centre, c.width, c.height, mount, c.link))


def _camera(size: int, focal: float, mount: Float, link: str) -> Camera:
    """`focal`: in widths of the picture."""
    middle = (size - 1) / 2
    return Camera(
        PINHOLE, (focal * size, focal * size), (middle, middle), size, size, mount, link
    )


def _towards(eye: Float, target: Float) -> Float:
    """T [4, 4] of an upright optical frame at `eye` that looks at `target`."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    return transform(np.stack([right, np.cross(forward, right), forward], axis=1), eye)


__all__ = ['CAMERAS', 'FIELD', 'SETS', 'Scene', 'View', 'draw', 'feasible', 'nominal_view']
