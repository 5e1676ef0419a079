"""Where the description of an embodiment's robot comes from: its URDF, or a user's xacro."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from vera_core.contract_files import embodiment_folders
from vera_core.kinematics.urdf import UrdfError

if TYPE_CHECKING:
    from vera_core.contract import Contract

# Elements whose names of links and joints are references to each other.
_NAMED = ('link', 'joint', 'parent', 'child', 'mimic')


def find_urdf(contract: Contract) -> str | Path:
    """What a contract's `kinematics.urdf` means: text as it is, or a path.

    Relative paths start at the contract's file; without one (plain data), at the folders where
    contracts are looked for.

    Raises:
        UrdfError: the contract names none, or there is no such file.
    """
    if contract.kinematics is None:
        raise UrdfError(
            f'the contract of {contract.embodiment!r} names no URDF; add '
            'kinematics: {urdf: robot.urdf}'
        )
    urdf = contract.kinematics.urdf
    if urdf.lstrip().startswith('<'):
        return urdf
    path = Path(urdf).expanduser()
    folders = [contract.folder] if contract.folder else embodiment_folders()
    places = [path] if path.is_absolute() else [folder / path for folder in folders]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise UrdfError(
        f'kinematics.urdf: no file {urdf!r} (looked at {", ".join(map(str, places))}); relative '
        "paths start at the contract's folder"
    )


def description_text(contract: Contract, description: str = '') -> str:
    """The URDF of an embodiment as text: what `robot_description` holds.

    Args:
        contract: its own URDF is taken unless another one is named.
        description: path of a URDF, or of a xacro and its arguments: 'robot.urdf.xacro hand:=true'.
            Where its joints are those of the contract but for the prefix of their names, it gets
            the contract's: fr3_joint1, of link fr3_link1, becomes panda_joint1, of panda_link1.

    Raises:
        UrdfError: there is no such file, it cannot be expanded, or xacro is not installed.
    """
    if not description.strip():
        source = find_urdf(contract)
        return _read(source) if isinstance(source, Path) else source
    name, *arguments = shlex.split(description)
    path = Path(name).expanduser()
    if not name.endswith('.xacro'):
        if arguments:
            raise UrdfError(f'{name} is no .xacro and takes no arguments: {" ".join(arguments)}')
        return _as_named(contract, _read(path))
    pairs = [word.partition(':=') for word in arguments]
    for key, mark, _ in pairs:
        if not (key and mark):
            raise UrdfError(f'{key!r} is no argument of a xacro; write name:=value')
    _read(path)  # for the error of a file that is not there
    return _as_named(contract, _expanded(path, {key: value for key, _, value in pairs}))


def _as_named(contract: Contract, text: str) -> str:
    """A description with the contract's prefix of names; as it is where that is not the matter."""
    try:
        if '<!DOCTYPE' in text:
            return text  # its entities are not expanded here; whoever reads it refuses it
        robot = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return text  # whoever reads it says what is wrong
    joints = {joint.get('name', '') for joint in robot.findall('joint')}
    ours = contract.joint_names[0].partition('_')[0] + '_'
    if not all(name.startswith(ours) for name in contract.joint_names):
        return text
    bare = [name.removeprefix(ours) for name in contract.joint_names]
    found = [
        name.removesuffix(bare[0])
        for name in joints
        if name.endswith(bare[0]) and {name.removesuffix(bare[0]) + b for b in bare} <= joints
    ]
    if set(contract.joint_names) <= joints or len(found) != 1 or not found[0]:
        return text
    for element in robot.iter():
        for key in ('name', 'link', 'joint') if element.tag in _NAMED else ():
            value = element.get(key)
            if value is not None and value.startswith(found[0]):
                element.set(key, ours + value.removeprefix(found[0]))
    return ElementTree.tostring(robot, encoding='unicode')


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it is no UTF-8 text'
        raise UrdfError(f'robot description {path} cannot be read: {reason}') from error


def _expanded(path: Path, arguments: dict[str, str]) -> str:
    try:
        import xacro
    except ImportError as error:
        raise UrdfError(
            f'{path} is a xacro; to expand it install xacro (pip install xacro, or '
            'sudo apt install ros-$ROS_DISTRO-xacro)'
        ) from error
    try:
        return str(xacro.process_file(str(path), mappings=arguments).toxml())
    except Exception as error:  # its exceptions have no common base
        why = ' '.join(str(error).split()) or type(error).__name__
        raise UrdfError(f'{path} cannot be expanded: {why}') from error


__all__ = ['description_text', 'find_urdf']
