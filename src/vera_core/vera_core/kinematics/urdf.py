"""Reads URDF: links, joints and shapes, with one clear error for whatever is wrong.

Only what pictures and Jacobians need is read; inertia, materials, transmissions and plugins are
passed over. A DOCTYPE is refused before any entity in it could be expanded.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote
from xml.parsers import expat

import numpy as np

from vera_core.kinematics.shapes import Box, Cylinder, Shape, ShapeError, Sphere, read_stl
from vera_core.kinematics.transforms import Float, rotation_from_rpy, transform

Item = TypeVar('Item')
MOVING = ('revolute', 'continuous', 'prismatic')


class UrdfError(ValueError):
    """A robot description that cannot be used; the message names the element and the cure."""


@dataclass(frozen=True)
class MeshFile:
    """A mesh that is named and not read yet: URI or path, and scale of each axis."""

    uri: str
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Part:
    """A shape and its pose in the frame of its link, T float64 [4, 4]."""

    origin: Float
    shape: Shape | MeshFile


@dataclass(frozen=True)
class UrdfLink:
    """What is seen of a link, and what it collides with."""

    name: str
    visual: tuple[Part, ...] = ()
    collision: tuple[Part, ...] = ()


@dataclass(frozen=True, eq=False)
class UrdfJoint:
    """How a link hangs on its parent.

    Attributes:
        name: of the joint.
        kind: revolute, continuous, prismatic or fixed.
        parent, child: names of links.
        origin: T float64 [4, 4], frame of the child in the parent's at position zero.
        axis: unit vector in the frame of the child, float64 [3].
        limits: (low, high) rad or m; infinite for continuous joints.
        mimic: (joint, multiplier, offset), or None.
    """

    name: str
    kind: str
    parent: str
    child: str
    origin: Float
    axis: Float
    limits: tuple[float, float] = (-np.inf, np.inf)
    mimic: tuple[str, float, float] | None = None


@dataclass(frozen=True)
class Urdf:
    """A robot description: a tree of links.

    Attributes:
        name: of the robot.
        links, joints: by name, in the order of the file.
        root: the link that hangs on no other.
        folder: where relative mesh paths start, or None.
    """

    name: str
    links: dict[str, UrdfLink]
    joints: dict[str, UrdfJoint]
    root: str
    folder: Path | None = None

    def parts(self, link: str) -> tuple[tuple[Float, Shape], ...]:
        """(pose in the link's frame [4, 4], shape) of what is seen of a link.

        Visual shapes; where one is a mesh of a format other than STL, the link's collision shapes
        stand in for all of them.

        Raises:
            UrdfError: a mesh is missing or damaged, or nothing of the link can be read.
        """
        item = self.links[link]
        readable = all(_readable(part) for part in item.visual)
        chosen = item.visual if readable else item.collision
        if not readable and not (chosen and all(_readable(part) for part in chosen)):
            bad = next(p.shape.uri for p in item.visual if isinstance(p.shape, MeshFile))
            raise UrdfError(
                f'link {link!r}: {bad!r} is no STL, and there is no collision shape to stand in; '
                'convert the mesh to STL'
            )
        return tuple((part.origin, self._load(link, part.shape)) for part in chosen)

    def _load(self, link: str, shape: Shape | MeshFile) -> Shape:
        if not isinstance(shape, MeshFile):
            return shape
        try:
            return read_stl(find_mesh(shape.uri, self.folder), shape.scale)
        except (ShapeError, UrdfError) as error:
            raise UrdfError(f'link {link!r}: {error}') from error


def package_folders() -> list[Path]:
    """Where the package of a package:// URI is looked for: ROS_PACKAGE_PATH, AMENT_PREFIX_PATH."""
    plain = [Path(p) for p in os.environ.get('ROS_PACKAGE_PATH', '').split(':') if p]
    ament = [Path(p) / 'share' for p in os.environ.get('AMENT_PREFIX_PATH', '').split(':') if p]
    return [*plain, *ament]


def find_mesh(uri: str, folder: Path | None) -> Path:
    """The file of a mesh: package://, file://, absolute, or relative to `folder`.

    A package is also looked for among the parents of `folder`, as in a description package that
    is not installed.

    Raises:
        UrdfError: no such file, with the places that were looked at.
    """
    if uri.startswith('package://'):
        package, _, inside = unquote(uri[len('package://') :]).partition('/')
        above = [p.parent for p in (folder, *folder.parents) if p.name == package] if folder else []
        places = [place / package / inside for place in (*package_folders(), *above)]
        cure = f'; add the folder above {package} to ROS_PACKAGE_PATH'
    elif uri.startswith('file://'):
        places, cure = [Path(unquote(uri[len('file://') :]))], ''
    elif '://' in uri:
        raise UrdfError(f'mesh {uri!r} is not a file; copy it beside the URDF')
    elif Path(uri).is_absolute():
        places, cure = [Path(uri)], ''
    elif folder is None:
        raise UrdfError(f'mesh {uri!r} is relative, but the URDF is no file; write package://...')
    else:
        places, cure = [folder / uri], ''
    for place in places:
        if place.is_file():
            return place
    looked = ', '.join(str(place) for place in places) or 'nowhere'
    raise UrdfError(f'mesh {uri!r} is not there (looked at {looked}){cure}')


def read_urdf(source: str | Path) -> Urdf:
    """A robot description from a file, or from its text (which starts with '<').

    Raises:
        UrdfError: it is missing, is no URDF, or describes no tree of links.
    """
    if isinstance(source, str) and source.lstrip().startswith('<'):
        return _parse(source, 'URDF text', None)
    path = Path(source).expanduser()
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it is no UTF-8 text'
        raise UrdfError(f'URDF {path} cannot be read: {reason}') from error
    return _parse(text, str(path), path.resolve().parent)


def _parse(text: str, where: str, folder: Path | None) -> Urdf:
    def refuse(*_: object) -> None:
        raise UrdfError(f'{where}: a DOCTYPE has no place in a URDF; take it out')

    scan = expat.ParserCreate()
    scan.StartDoctypeDeclHandler = refuse
    try:
        scan.Parse(text.encode(), True)
        robot = ET.fromstring(text)
    except (expat.ExpatError, ET.ParseError) as error:
        raise UrdfError(f'{where}: broken XML: {error}') from error
    if robot.tag != 'robot':
        raise UrdfError(f'{where}: the outermost element is <{robot.tag}>; <robot> is needed')
    if any('xacro' in str(element.tag) for element in robot.iter()):
        raise UrdfError(f'{where}: it has xacro macros; expand them first: xacro FILE > robot.urdf')
    try:
        links = _named(robot, 'link', _link)
        joints = _named(robot, 'joint', _joint)
        root = _root(links, joints)
    except (UrdfError, ShapeError) as error:
        raise UrdfError(f'{where}: {error}') from error
    return Urdf(robot.get('name', ''), links, joints, root, folder)


def _named(
    robot: ET.Element, tag: str, make: Callable[[str, ET.Element], Item]
) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for element in robot.findall(tag):
        name = element.get('name')
        if not name:
            raise UrdfError(f'a <{tag}> has no name')
        if name in found:
            raise UrdfError(f'{tag} {name!r} stands there twice')
        try:
            found[name] = make(name, element)
        except (UrdfError, ShapeError) as error:
            raise UrdfError(f'{tag} {name!r}: {error}') from error
    return found


def _link(name: str, element: ET.Element) -> UrdfLink:
    parts = {
        kind: tuple(part for e in element.findall(kind) if (part := _part(e)) is not None)
        for kind in ('visual', 'collision')
    }
    return UrdfLink(name, parts['visual'], parts['collision'])


def _part(element: ET.Element) -> Part | None:
    geometry = element.find('geometry')
    if geometry is None or not len(geometry):
        raise UrdfError(f'<{element.tag}> has no geometry')
    shape = geometry[0]
    made: Shape | MeshFile
    if shape.tag == 'box':
        made = Box(_three(shape, 'size'))
    elif shape.tag == 'cylinder':
        made = Cylinder(_number(shape, 'radius'), _number(shape, 'length'))
    elif shape.tag == 'sphere':
        made = Sphere(_number(shape, 'radius'))
    elif shape.tag == 'mesh':
        uri = shape.get('filename')
        if not uri:
            raise UrdfError('<mesh> has no filename')
        made = MeshFile(uri, _three(shape, 'scale', (1.0, 1.0, 1.0)))
    else:
        raise UrdfError(f'geometry <{shape.tag}> is unknown; use box, cylinder, sphere or mesh')
    return Part(_origin(element), made)


def _joint(name: str, element: ET.Element) -> UrdfJoint:
    kind = element.get('type', '')
    if kind not in (*MOVING, 'fixed'):
        raise UrdfError(
            f'type {kind!r} is not supported; use {", ".join(MOVING)} or fixed'
        )
    ends = []
    for tag in ('parent', 'child'):
        end = element.find(tag)
        link = end.get('link') if end is not None else None
        if not link:
            raise UrdfError(f'it names no {tag} link')
        ends.append(link)
    axis_element = element.find('axis')
    axis = np.array(
        (1.0, 0.0, 0.0) if axis_element is None else _three(axis_element, 'xyz', (1.0, 0.0, 0.0))
    )
    length = float(np.linalg.norm(axis))
    if kind != 'fixed' and length < 1e-9:
        raise UrdfError('its axis is zero')
    limit, low, high = element.find('limit'), -np.inf, np.inf
    if limit is not None and kind in ('revolute', 'prismatic'):
        low, high = _number(limit, 'lower', 0.0), _number(limit, 'upper', 0.0)
        if low > high:
            raise UrdfError(f'its limits are reversed: {low:g} is above {high:g}')
    mimic_element, mimic = element.find('mimic'), None
    if mimic_element is not None:
        of = mimic_element.get('joint')
        if not of:
            raise UrdfError('<mimic> names no joint')
        multiplier = _number(mimic_element, 'multiplier', 1.0)
        mimic = (of, multiplier, _number(mimic_element, 'offset', 0.0))
    return UrdfJoint(
        name, kind, ends[0], ends[1], _origin(element), axis / max(length, 1e-9), (low, high), mimic
    )


def _root(links: dict[str, UrdfLink], joints: dict[str, UrdfJoint]) -> str:
    parent: dict[str, str] = {}
    for joint in joints.values():
        for end in (joint.parent, joint.child):
            if end not in links:
                raise UrdfError(f'joint {joint.name!r} names link {end!r}, which is not there')
        if joint.child in parent:
            raise UrdfError(f'link {joint.child!r} is the child of two joints')
        parent[joint.child] = joint.parent
        if joint.mimic and joint.mimic[0] not in joints:
            raise UrdfError(
                f'joint {joint.name!r} mimics {joint.mimic[0]!r}, which is not there'
            )
    roots = [name for name in links if name not in parent]
    if len(roots) != 1:
        raise UrdfError(
            f'{len(roots)} links hang on no other ({", ".join(roots) or "a loop"}); one is needed'
        )
    for name in links:
        seen, at = {name}, name
        while at in parent:
            at = parent[at]
            if at in seen:
                raise UrdfError(f'links {", ".join(sorted(seen))} hang in a loop')
            seen.add(at)
    return roots[0]


def _origin(element: ET.Element) -> Float:
    origin = element.find('origin')
    if origin is None:
        return np.eye(4)
    zero = (0.0, 0.0, 0.0)
    rpy, xyz = _three(origin, 'rpy', zero), _three(origin, 'xyz', zero)
    return transform(rotation_from_rpy(rpy), xyz)


def _number(element: ET.Element, key: str, default: float | None = None) -> float:
    return _numbers(element, key, 1, None if default is None else (default,))[0]


def _three(
    element: ET.Element, key: str, default: tuple[float, float, float] | None = None
) -> tuple[float, float, float]:
    x, y, z = _numbers(element, key, 3, default)
    return x, y, z


def _numbers(
    element: ET.Element, key: str, count: int, default: Sequence[float] | None
) -> Sequence[float]:
    text = element.get(key)
    if text is None:
        if default is None:
            raise UrdfError(f'<{element.tag}> has no {key}')
        return default
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        need = 'a number is needed' if count == 1 else f'{count} numbers are needed'
        raise UrdfError(f'<{element.tag} {key}={text!r}>: {need}')
    return values


def _readable(part: Part) -> bool:
    return not isinstance(part.shape, MeshFile) or part.shape.uri.lower().endswith('.stl')


__all__ = [
    'MOVING',
    'MeshFile',
    'Part',
    'Urdf',
    'UrdfError',
    'UrdfJoint',
    'UrdfLink',
    'find_mesh',
    'package_folders',
    'read_urdf',
]
