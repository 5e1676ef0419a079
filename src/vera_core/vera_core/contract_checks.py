"""What a contract must fulfil beyond the types of its fields; each mistake has its own message."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vera_core.contract_reader import ContractError, check_bounds, join, suggestion

if TYPE_CHECKING:
    from vera_core.contract import (
        Calibration,
        CameraSpec,
        CanvasSpec,
        Channel,
        CheckpointRef,
        Contract,
        GripperSpec,
        Joint,
        RobotSpec,
        SafetySpec,
        Workspace,
    )

UNITS_OF_KIND = {
    'joint_delta': ('rad', 'm'),
    'joint_target': ('rad', 'm'),
    'cartesian_delta': ('m', 'rad'),
    'gripper': ('m', 'rad', 'ratio'),
}
UNITS = tuple(dict.fromkeys(unit for units in UNITS_OF_KIND.values() for unit in units))
IDENTIFIER = re.compile(r'[a-z][a-z0-9_]*')
TOPIC = re.compile(r'[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')
# Joint names come from other people's URDFs: 'joint_0.0' is one.
NAME = re.compile(r'[A-Za-z][A-Za-z0-9_.]*')
GRID_TOLERANCE = 1e-6
CAMERA_MODELS = ('pinhole', 'orthographic')
AXES = {'x': 'm', 'y': 'm', 'z': 'm', 'rx': 'rad', 'ry': 'rad', 'rz': 'rad'}


def index_of(name: str, names: Sequence[str], what: str) -> int:
    """Place of `name` in `names`; raises ContractError for an unknown one."""
    try:
        return names.index(name)
    except ValueError:
        raise ContractError(f'unknown {what} {name!r}{suggestion(name, names)}') from None


def check_name(name: str, key: str = 'name', pattern: re.Pattern[str] = NAME) -> None:
    """Raise ContractError for a name that ROS or a file system would not take."""
    if not pattern.fullmatch(name):
        raise ContractError(
            f'is {name!r}; a name starts with a letter and holds only '
            + ('a-z, 0-9 and _' if pattern is IDENTIFIER else 'letters, digits, _ and .'),
            key,
        )


def check_channel(channel: Channel) -> None:
    """Kind, unit, and whether it names a joint where one is needed."""
    check_name(channel.name)
    if channel.kind not in UNITS_OF_KIND:
        raise ContractError(
            f'unknown kind {channel.kind!r}{suggestion(channel.kind, UNITS_OF_KIND)}', 'kind'
        )
    units = UNITS_OF_KIND[channel.kind]
    if channel.unit not in UNITS:
        raise ContractError(
            f'unknown unit {channel.unit!r}{suggestion(channel.unit, units)}', 'unit'
        )
    if channel.unit not in units:
        raise ContractError(
            f'{channel.kind} cannot be in {channel.unit!r}; use {" or ".join(units)}', 'unit'
        )
    if channel.kind.startswith('joint_') and channel.joint is None:
        raise ContractError(f'is missing: a {channel.kind} channel moves a joint', 'joint')
    if channel.kind == 'cartesian_delta' and channel.joint is not None:
        raise ContractError('a cartesian_delta channel names no joint; take it away', 'joint')


def check_joint(joint: Joint) -> None:
    """Name and position limits."""
    check_name(joint.name)
    low, high = joint.position
    for value in (low, high):
        check_bounds(value, 'position', {})
    if low > high:
        raise ContractError(
            f'limits are reversed: low {low:g} is above high {high:g}; write [{high:g}, {low:g}]',
            'position',
        )
    if low == high:
        raise ContractError(f'limits leave no room: both are {low:g}', 'position')


def check_gripper(gripper: GripperSpec) -> None:
    """Thresholds of a gate that has hysteresis."""
    for key in ('close_below', 'open_above'):
        check_bounds(getattr(gripper, key), key, {})
    if gripper.close_below > gripper.open_above:
        raise ContractError(
            f'{gripper.close_below:g} is above open_above, {gripper.open_above:g}: the gripper '
            'would open and close at once',
            'close_below',
        )


def check_workspace(workspace: Workspace) -> None:
    """A box that has room inside."""
    for key in ('x', 'y', 'z'):
        low, high = getattr(workspace, key)
        for value in (low, high):
            check_bounds(value, key, {})
        if low >= high:
            raise ContractError(f'leaves no room: [{low:g}, {high:g}]', key)


def check_safety(safety: SafetySpec) -> None:
    """Numbers that limit something."""
    if safety.floor is not None:
        check_bounds(safety.floor, 'floor', {})
        if safety.spheres is None:
            raise ContractError('needs spheres: it is the links that stay above it', 'floor')
    for value in safety.tool_speed or ():
        check_bounds(value, 'tool_speed', {'above': 0})


def check_camera(camera: CameraSpec) -> None:
    """Name, topic and crop."""
    check_name(camera.name, pattern=IDENTIFIER)
    if camera.topic.startswith(('/', '~')):
        raise ContractError(
            f'is {camera.topic!r}; topics are relative so that two robots can live in two '
            f'namespaces: write {camera.topic.lstrip("/~")!r}',
            'topic',
        )
    if not TOPIC.fullmatch(camera.topic):
        raise ContractError(
            f'is {camera.topic!r}, no valid topic; write e.g. {camera.name}/color/image_raw',
            'topic',
        )
    crop = camera.crop
    if crop and (crop.x + crop.width > camera.width or crop.y + crop.height > camera.height):
        raise ContractError(
            f'reaches to ({crop.x + crop.width}, {crop.y + crop.height}), outside the image of '
            f'{camera.width}x{camera.height}',
            'crop',
        )


def check_calibration(calibration: Calibration) -> None:
    """Model, and numbers that make a camera."""
    check_name(calibration.name, pattern=IDENTIFIER)
    if calibration.model not in CAMERA_MODELS:
        raise ContractError(
            f'unknown model {calibration.model!r}{suggestion(calibration.model, CAMERA_MODELS)}',
            'model',
        )
    for value in calibration.focal:
        check_bounds(value, 'focal', {'above': 0})
    for key in ('centre', 'position', 'orientation'):
        for value in getattr(calibration, key):
            check_bounds(value, key, {})
    if math.hypot(*calibration.orientation) < 1e-6:
        raise ContractError('is zero; no turn at all is [0, 0, 0, 1]', 'orientation')


def check_checkpoint_ref(ref: CheckpointRef) -> None:
    """Name and digest."""
    check_name(ref.name)
    if ref.sha256 is not None and not re.fullmatch('[0-9a-f]{8,64}', ref.sha256):
        raise ContractError(
            f'is {ref.sha256!r}; a SHA-256 is 8 to 64 of the digits 0-9 a-f', 'sha256'
        )


def check_robot(robot: RobotSpec) -> None:
    """Realtime, and names of controllers that are topics."""
    if robot.realtime not in ('enforce', 'ignore'):
        raise ContractError(f"is {robot.realtime!r}; write 'enforce' or 'ignore'", 'realtime')
    for key, name in (
        ('controller', robot.controller),
        ('gripper_controller', robot.gripper_controller or 'none'),
    ):
        if not TOPIC.fullmatch(name):
            raise ContractError(f'is {name!r}, no name of a controller', key)


def slot_width(camera: CameraSpec, canvas: CanvasSpec) -> int:
    """Pixels of the canvas that a view takes: its aspect at the height of the canvas, >= 1."""
    used = camera.used
    return max(1, math.floor(used.width * canvas.height / used.height + 0.5))


def check_contract(contract: Contract) -> None:
    """Everything that takes more than one field to see."""
    check_name(contract.embodiment, 'embodiment', IDENTIFIER)
    for key, things in (
        ('channels', contract.channels),
        ('joints', contract.joints),
        ('cameras', contract.cameras),
    ):
        if not things:
            raise ContractError('is empty; at least one is needed', key)
        _refuse_twice((thing.name for thing in things), key, 'name')
    _refuse_twice((camera.topic for camera in contract.cameras), 'cameras', 'topic')
    _check_channels(contract)
    _check_home(contract)
    _check_time(contract)
    _check_canvas(contract)
    _check_kinematics(contract)


def _refuse_twice(values: Iterable[str], key: str, what: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            inner = join(key, value) if what == 'name' else key
            raise ContractError(f'duplicate {what} {value!r}', inner)
        seen.add(value)


def _check_channels(contract: Contract) -> None:
    moved: dict[str, str] = {}
    for channel in contract.channels:
        if channel.joint is None:
            continue
        key = join('channels', channel.name, 'joint')
        if channel.joint not in contract.joint_names:
            raise ContractError(
                f'unknown joint {channel.joint!r}{suggestion(channel.joint, contract.joint_names)}',
                key,
            )
        if channel.joint in moved:
            raise ContractError(
                f'joint {channel.joint!r} is moved by channel {moved[channel.joint]!r} already',
                key,
            )
        moved[channel.joint] = channel.name


def _check_home(contract: Contract) -> None:
    for name in contract.home:
        if name not in contract.joint_names:
            raise ContractError(
                f'unknown joint {name!r}{suggestion(name, contract.joint_names)}',
                join('home', name),
            )
    for joint in contract.joints:
        key = join('home', joint.name)
        if joint.name not in contract.home:
            raise ContractError('is missing: every joint has a home position', key)
        value, (low, high) = contract.home[joint.name], joint.position
        check_bounds(value, key, {})
        if not low <= value <= high:
            raise ContractError(
                f'{value:g} is outside the position limits [{low:g}, {high:g}] of {joint.name}',
                key,
            )


def _whole(value: float) -> bool:
    return round(value) >= 1 and abs(value - round(value)) <= GRID_TOLERANCE * max(1.0, value)


def _check_time(contract: Contract) -> None:
    video, control = contract.video, contract.control
    if video.committed > video.look_ahead:
        raise ContractError(
            f'is {video.committed}, more than the {video.look_ahead} frames of look_ahead; only '
            'imagined frames can be committed',
            'video.committed',
        )
    ticks = control.rate * video.frame_period
    if not _whole(ticks):
        raise ContractError(
            f'control.rate * video.frame_period is {ticks:g} set-points per frame; it must be a '
            f'whole number (a rate of {max(1, round(ticks)) / video.frame_period:g} Hz would do)',
            'control.rate',
        )
    for camera in contract.cameras:
        images = camera.rate * video.frame_period
        if not _whole(images):
            raise ContractError(
                f'{camera.rate:g} Hz gives {images:g} images per frame period of '
                f"{video.frame_period:g} s; the frames of the context must lie on the camera's "
                f'grid (a rate of {max(1, round(images)) / video.frame_period:g} Hz would do)',
                join('cameras', camera.name, 'rate'),
            )
    if contract.sim is not None and not _whole(contract.sim.physics_rate / control.rate):
        raise ContractError(
            f'{contract.sim.physics_rate:g} Hz is no whole multiple of control.rate, '
            f'{control.rate:g} Hz',
            'sim.physics_rate',
        )


def _check_canvas(contract: Contract) -> None:
    needed = sum(slot_width(camera, contract.canvas) for camera in contract.cameras)
    if needed > contract.canvas.width:
        raise ContractError(
            f'{contract.canvas.width} px are too few: {len(contract.cameras)} views at a height '
            f'of {contract.canvas.height} px need {needed} px',
            'canvas.width',
        )


def _check_kinematics(contract: Contract) -> None:
    _refuse_twice((c.name for c in contract.calibration), 'calibration', 'name')
    for calibration in contract.calibration:
        if calibration.name not in contract.camera_names:
            raise ContractError(
                f'unknown camera {calibration.name!r}'
                f'{suggestion(calibration.name, contract.camera_names)}',
                join('calibration', calibration.name),
            )
    _check_safety(contract)
    if contract.kinematics is None:
        return
    cartesian = {c.name: c.unit for c in contract.channels if c.kind == 'cartesian_delta'}
    for channel, axis in contract.kinematics.axes.items():
        key = join('kinematics.axes', channel)
        if channel not in cartesian:
            raise ContractError(
                f'unknown cartesian_delta channel {channel!r}{suggestion(channel, cartesian)}', key
            )
        if AXES.get(axis) != cartesian[channel]:
            fitting = [a for a, unit in AXES.items() if unit == cartesian[channel]]
            raise ContractError(
                f'is {axis!r}; a channel in {cartesian[channel]} moves along {", ".join(fitting)}',
                key,
            )


def _check_safety(contract: Contract) -> None:
    grippers = [c for c in contract.channels if c.kind == 'gripper']
    if contract.gripper is not None and not grippers:
        raise ContractError('there is no channel of kind gripper; take the section away', 'gripper')
    safety, kinematics = contract.safety, contract.kinematics
    if safety is None:
        return
    if safety.spheres is not None and kinematics is None:
        raise ContractError('need to know the links: add a kinematics section', 'safety.spheres')
    tool = kinematics.tool if kinematics is not None else None
    needing = {'workspace': safety.workspace, 'tool_speed': safety.tool_speed}
    for name in ('per_step', 'per_chunk'):
        budget = getattr(safety, name)
        if budget is not None and (budget.translation or budget.rotation):
            needing[name] = budget
    for name, value in needing.items():
        if value is not None and tool is None:
            raise ContractError('limits the tool, and none is named: add kinematics.tool',
                                join('safety', name))
