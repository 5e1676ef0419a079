"""The Panda's table as a MuJoCo model: the arm of config/urdf/panda.urdf, cubes, a bowl, a button.

MuJoCo is imported where it is used, so that nothing else needs it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vera_core.contract_files import embodiment_folders
from vera_core.kinematics.shapes import Box, Cylinder, Shape, Sphere
from vera_core.kinematics.transforms import Float, rotation_about, transform
from vera_core.kinematics.urdf import MOVING, Urdf, read_urdf
from vera_sim.ray_painter import Solid

ARM_JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))
FINGER_JOINT = 'panda_finger_joint1'
JOINTS = (*ARM_JOINTS, FINGER_JOINT)
HAND, TOOL = 'panda_hand', 'panda_hand_tcp'
TIMESTEP = 0.002  # s
CUBES = 3
CUBE_HALF = 0.02  # m
BOWL_INNER, BOWL_HEIGHT = 0.058, 0.036  # m: radius at half its height, height of the rim
BUTTON_TOP, BUTTON_RADIUS, BUTTON_TRAVEL = 0.032, 0.024, 0.012  # m
FINGER_SPEED = 0.08  # m/s of one finger, as the hand's own controller limits it
# The tip of a finger lies this far beyond the tool's frame, along its z [m].
TIP = 0.0084
TABLE = (-0.35, 0.95, -0.65, 0.65)  # x0, x1, y0, y1 [m]

# Servo of each joint: stiffness [Nm/rad] and damping [Nms/rad]; critically damped or nearly so
# about the posture in which the arm works, set-points are followed 12 ms late.
_STIFFNESS = (14000.0, 14000.0, 10000.0, 9000.0, 2500.0, 2500.0, 1500.0)
_LAG = 0.012  # s
_FORCE = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # Nm, the maker's limits
_FINGER_FORCE = 40.0  # N
_BOWL_WALLS = 12


@dataclass(frozen=True, eq=False)
class Part:
    """A solid and its colour, RGB 0..255; None where the scene says it."""

    solid: Solid
    colour: tuple[float, float, float] | None
    item: str  # the body it belongs to


@dataclass(frozen=True, eq=False)
class PandaModel:
    """What does not change from episode to episode.

    Attributes:
        model: mujoco.MjModel.
        urdf: of the arm.
        bodies: names of the bodies that are seen, the order of frames.
        ids: their ids in the model.
        parts: what is painted; `solid.body` counts in `bodies`.
        joints: place of the eight joints in qpos (and, of the arm, in qvel).
    """

    model: Any
    urdf: Urdf
    bodies: tuple[str, ...]
    ids: tuple[int, ...]
    parts: tuple[Part, ...]
    joints: tuple[int, ...]


def mujoco() -> Any:
    """The module; ValueError with the cure where it is not installed."""
    try:
        import mujoco as module
    except ModuleNotFoundError as error:
        if error.name != 'mujoco':
            raise
        raise ValueError('the simulated Panda needs MuJoCo; run: pip install mujoco') from error
    return module


def panda_urdf() -> Path:
    """The file of the arm's description; ValueError if there is none."""
    folders = [folder.parent / 'urdf' for folder in embodiment_folders()]
    for folder in folders:
        if (folder / 'panda.urdf').is_file():
            return folder / 'panda.urdf'
    raise ValueError(
        f'no urdf/panda.urdf beside the contracts (looked in {", ".join(map(str, folders))})'
    )


@lru_cache(maxsize=1)
def load_model() -> PandaModel:
    """The model; made once in a process, and never written to.

    Raises:
        ValueError: MuJoCo or the arm's description is missing.
    """
    mj = mujoco()
    path = panda_urdf()
    urdf = read_urdf(path)
    model = mj.MjModel.from_xml_string(_mjcf(urdf))
    parts = _parts(urdf, _colours(path))
    bodies = tuple(dict.fromkeys(part.item for part in parts))
    ids = tuple(model.body(name).id for name in bodies)
    joints = tuple(int(model.joint(name).qposadr[0]) for name in JOINTS)
    return PandaModel(model, urdf, bodies, ids, parts, joints)


def cube_name(index: int) -> str:
    """Body of a cube."""
    return f'cube{index}'


# Physics ------------------------------------------------------------------------------------


def _mjcf(urdf: Urdf) -> str:
    root = ET.Element('mujoco', model='panda table')
    ET.SubElement(root, 'compiler', angle='radian', inertiafromgeom='true')
    ET.SubElement(
        root, 'option', timestep=str(TIMESTEP), integrator='implicitfast', cone='elliptic',
        impratio='10', iterations='30',
    )
    default = ET.SubElement(root, 'default')
    # Contact bits: the arm touches things and the table, not itself. Rubber on the fingers, wood
    # under the cubes: the product of both frictions stays under 1, or pushing would be a wedge.
    for name, values in {
        'arm': {'contype': '1', 'conaffinity': '0', 'density': '900', 'friction': '1 0.02 0.001'},
        'finger': {
            'contype': '1', 'conaffinity': '0', 'mass': '0.02', 'friction': '1.2 0.02 0.001',
            'condim': '4', 'solref': '0.006 1',
        },
        'thing': {
            'contype': '2', 'conaffinity': '3', 'friction': '0.35 0.01 0.001', 'condim': '4',
            'solref': '0.006 1',
        },
    }.items():
        ET.SubElement(ET.SubElement(default, 'default', {'class': name}), 'geom', values)
    world = ET.SubElement(root, 'worldbody')
    ET.SubElement(
        world, 'geom', {'class': 'thing'}, type='box', name='table',
        pos=_text([(TABLE[0] + TABLE[1]) / 2, 0, -0.02]),
        size=_text([(TABLE[1] - TABLE[0]) / 2, (TABLE[3] - TABLE[2]) / 2, 0.02]),
    )
    _arm(urdf, urdf.root, world, None)
    _things(world)
    ET.SubElement(
        ET.SubElement(root, 'equality'), 'joint', joint1='panda_finger_joint2',
        joint2=FINGER_JOINT, solref='0.004 1',
    )
    actuators = ET.SubElement(root, 'actuator')
    for name, stiffness, force in zip(ARM_JOINTS, _STIFFNESS, _FORCE, strict=True):
        _servo(actuators, urdf, name, stiffness, stiffness * _LAG, force)
    for name in (FINGER_JOINT, 'panda_finger_joint2'):
        _servo(actuators, urdf, name, 2000.0, 40.0, _FINGER_FORCE)
    return ET.tostring(root, encoding='unicode')


def _servo(
    parent: ET.Element, urdf: Urdf, joint: str, stiffness: float, damping: float, force: float
) -> None:
    low, high = urdf.joints[joint].limits
    ET.SubElement(
        parent, 'position', name=joint, joint=joint, kp=str(stiffness), kv=str(damping),
        forcerange=_text([-force, force]), ctrlrange=_text([low, high]),
    )


def _arm(urdf: Urdf, link: str, parent: ET.Element, joint_name: str | None) -> None:
    body = ET.SubElement(parent, 'body', name=link, gravcomp='1')
    if joint_name is not None:
        joint = urdf.joints[joint_name]
        _place(body, joint.origin)
        if joint.kind in MOVING:
            slide = joint.kind == 'prismatic'
            # Hard stops: what a finger is pressed on must not spread the hand beyond them.
            ET.SubElement(
                body, 'joint', name=joint.name, type='slide' if slide else 'hinge',
                axis=_text(joint.axis), range=_text(joint.limits), limited='true',
                armature='0.05' if slide else '0.1', damping='0' if slide else '1',
                solreflimit='0.004 1', solimplimit='0.99 0.999 0.0005',
            )
    moves = joint_name is not None and urdf.joints[joint_name].kind == 'prismatic'
    for part in urdf.links[link].collision:
        if not isinstance(part.shape, (Box, Cylinder, Sphere)):
            raise ValueError(f'link {link!r} collides with a mesh; use boxes, cylinders, spheres')
        geom = ET.SubElement(body, 'geom', {'class': 'finger' if moves else 'arm'})
        _place(geom, part.origin)
        _shape(geom, part.shape)
    for child in urdf.joints.values():
        if child.parent == link:
            _arm(urdf, child.child, body, child.name)


def _things(world: ET.Element) -> None:
    for i in range(CUBES):
        body = ET.SubElement(world, 'body', name=cube_name(i), pos=_text([0.4, 0.15 * i, 0.02]))
        ET.SubElement(body, 'freejoint', name=cube_name(i))
        ET.SubElement(
            body, 'geom', {'class': 'thing'}, type='box', size=_text([CUBE_HALF] * 3), mass='0.05'
        )
    # Mocap bodies: where they stand is state, and nothing moves them.
    bowl = ET.SubElement(world, 'body', name='bowl', mocap='true', pos='0 0 -3')
    for origin, shape in _bowl_shapes():
        geom = ET.SubElement(bowl, 'geom', {'class': 'thing'})
        _place(geom, origin)
        _shape(geom, shape)
    base = ET.SubElement(world, 'body', name='button', mocap='true', pos='0 0 -3')
    ET.SubElement(
        base, 'geom', {'class': 'thing'}, type='box', pos='0 0 0.009', size='0.036 0.036 0.009'
    )
    cap = ET.SubElement(base, 'body', name='button_cap', gravcomp='1')
    ET.SubElement(
        cap, 'joint', name='button', type='slide', axis='0 0 -1',
        range=_text([0, BUTTON_TRAVEL]), limited='true', stiffness='400', springref='-0.004',
        damping='4', armature='0.05',
    )
    # Its sides are inside of the base: only the arm, and things on it, touch the cap.
    ET.SubElement(
        cap, 'geom', type='cylinder', contype='0', conaffinity='1', mass='0.02',
        pos=_text([0, 0, BUTTON_TOP - 0.008]), size=_text([BUTTON_RADIUS, 0.008]),
    )


def _bowl_shapes() -> list[tuple[Float, Shape]]:
    """(pose, shape) of a round bottom and leaning walls."""
    parts: list[tuple[Float, Shape]] = [
        (transform(None, [0, 0, 0.003]), Cylinder(BOWL_INNER - 0.004, 0.006))
    ]
    lean = 0.45
    width = 2 * (BOWL_INNER + 0.012) * np.tan(np.pi / _BOWL_WALLS)
    for k in range(_BOWL_WALLS):
        turn = rotation_about([0, 0, 1], 2 * np.pi * k / _BOWL_WALLS)
        tilt = rotation_about([0, 1, 0], lean)
        middle = turn @ np.array([BOWL_INNER + 0.003, 0, BOWL_HEIGHT / 2])
        height = BOWL_HEIGHT / np.cos(lean)
        parts.append((transform(turn @ tilt, middle), Box((0.005, float(width), float(height)))))
    return parts


def _place(element: ET.Element, T: Float) -> None:
    element.set('pos', _text(T[:3, 3]))
    quat = np.empty(4)
    mujoco().mju_mat2Quat(quat, np.ascontiguousarray(T[:3, :3]).ravel())
    element.set('quat', _text(quat))


def _shape(geom: ET.Element, shape: Shape) -> None:
    if isinstance(shape, Box):
        geom.set('type', 'box')
        geom.set('size', _text(np.asarray(shape.size) / 2))
    elif isinstance(shape, Cylinder):
        geom.set('type', 'cylinder')
        geom.set('size', _text([shape.radius, shape.length / 2]))
    else:
        assert isinstance(shape, Sphere)
        geom.set('type', 'sphere')
        geom.set('size', _text([shape.radius]))


def _text(values: Any) -> str:
    return ' '.join(f'{float(v):.17g}' for v in values)


# Looks --------------------------------------------------------------------------------------


def _parts(urdf: Urdf, colours: dict[str, list[tuple[float, float, float]]]) -> tuple[Part, ...]:
    """Everything that is seen, body after body."""
    found: list[tuple[str, Shape, Float, tuple[float, float, float] | None, dict[str, Any]]] = []
    for name, link in urdf.links.items():
        hand = name == HAND or 'finger' in name
        for part, colour in zip(link.visual, colours[name], strict=True):
            assert isinstance(part.shape, (Box, Cylinder, Sphere))
            style = {'texture': 0.11, 'grain': 120.0 if hand else 70.0, 'casts': hand}
            found.append((name, part.shape, part.origin, colour, style))
    for i in range(CUBES):
        side = 2 * CUBE_HALF
        style = {'texture': 0.1, 'grain': 200.0, 'casts': True}
        found.append((cube_name(i), Box((side, side, side)), np.eye(4), None, style))
    for origin, shape in _bowl_shapes():
        style = {'texture': 0.05, 'grain': 90.0, 'casts': isinstance(shape, Box)}
        found.append(('bowl', shape, origin, None, style))
    found.append((
        'button', Box((0.072, 0.072, 0.018)), transform(None, [0, 0, 0.009]), (52.0, 54.0, 60.0),
        {'texture': 0.08, 'grain': 120.0, 'casts': True},
    ))
    found.append((
        'button_cap', Cylinder(BUTTON_RADIUS, 0.016), transform(None, [0, 0, BUTTON_TOP - 0.008]),
        None, {'texture': 0.06, 'grain': 160.0},
    ))
    bodies = list(dict.fromkeys(item[0] for item in found))
    return tuple(
        Part(Solid(shape, bodies.index(body), origin, **style), colour, body)
        for body, shape, origin, colour, style in found
    )


def _colours(path: Path) -> dict[str, list[tuple[float, float, float]]]:
    """RGB 0..255 of each visual of each link, from the materials of a URDF file."""
    robot = ET.parse(path).getroot()
    materials = {}
    for material in robot.findall('material'):
        rgba = material.find('color')
        if rgba is not None:
            r, g, b, _ = (255 * float(x) for x in rgba.get('rgba', '').split())
            materials[material.get('name')] = (r, g, b)
    plain = (220.0, 220.0, 220.0)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for link in robot.findall('link'):
        names = [v.find('material') for v in link.findall('visual')]
        found[str(link.get('name'))] = [
            materials.get(m.get('name') if m is not None else None, plain) for m in names
        ]
    return found


__all__ = [
    'ARM_JOINTS',
    'CUBES',
    'CUBE_HALF',
    'FINGER_JOINT',
    'HAND',
    'JOINTS',
    'TIMESTEP',
    'TIP',
    'TOOL',
    'PandaModel',
    'Part',
    'cube_name',
    'load_model',
    'mujoco',
    'panda_urdf',
]
