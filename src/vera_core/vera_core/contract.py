"""The contract: everything that is particular to one embodiment, from one YAML file.

The same frozen object configures live nodes, recording, training and evaluation. Channels and
joints are matched by name, never by index.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from vera_core import contract_checks
from vera_core.clocks import seconds_to_ns
from vera_core.contract_files import find_contract
from vera_core.contract_reader import Checked, ContractError, build, read_document

POSITIVE = {'above': 0}
HZ = {'above': 0, 'unit': 'Hz'}
SECONDS = {'above': 0, 'unit': 's'}
PIXELS = {'min': 1, 'unit': 'px'}
FRAMES = {'min': 1, 'unit': 'frames'}


@dataclass(frozen=True)
class Channel(Checked):
    """One number of an action.

    Attributes:
        name: matched by name everywhere.
        kind: joint_delta, joint_target, cartesian_delta or gripper.
        unit: rad, m or ratio (0..1, grippers).
        joint: the joint it moves; none for Cartesian channels.
        scale: typical size of one action, in `unit`; what training divides by.
    """

    name: str
    kind: str
    unit: str
    joint: str | None = None
    scale: float = field(default=1.0, metadata=POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        contract_checks.check_channel(self)


@dataclass(frozen=True)
class Joint(Checked):
    """Limits of one joint.

    Attributes:
        position: (low, high), rad or m.
        velocity: rad/s or m/s.
        acceleration: rad/s^2 or m/s^2.
        jerk: rad/s^3 or m/s^3; not limited if None.
    """

    name: str
    position: tuple[float, float]
    velocity: float = field(metadata=POSITIVE)
    acceleration: float = field(metadata=POSITIVE)
    jerk: float | None = field(default=None, metadata=POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        contract_checks.check_joint(self)


@dataclass(frozen=True)
class Control(Checked):
    """Set-points: their rate [Hz], and seconds without joint states before the robot holds."""

    rate: float = field(metadata=HZ)
    state_timeout: float = field(metadata=SECONDS)

    @property
    def period(self) -> float:
        """Seconds between set-points."""
        return 1.0 / self.rate

    @property
    def period_ns(self) -> int:
        """Nanoseconds between set-points."""
        return seconds_to_ns(self.period)


@dataclass(frozen=True)
class Video(Checked):
    """The planner's grid of time.

    Attributes:
        frame_period: seconds between the frames of a plan.
        context: N, frames of the past that the planner sees.
        look_ahead: M, frames imagined.
        committed: K <= M, frames translated into one action chunk.
        frame_timeout: seconds without camera frames before the planner reports it.
        max_skew: most seconds between the images of one canvas, where there are several cameras;
            the period of the first camera unless given.
    """

    frame_period: float = field(metadata=SECONDS)
    context: int = field(metadata=FRAMES)
    look_ahead: int = field(metadata=FRAMES)
    committed: int = field(metadata=FRAMES)
    frame_timeout: float = field(metadata=SECONDS)
    max_skew: float | None = field(default=None, metadata=SECONDS)

    @property
    def frame_period_ns(self) -> int:
        """Nanoseconds between the frames of a plan."""
        return seconds_to_ns(self.frame_period)


@dataclass(frozen=True)
class CanvasSpec(Checked):
    """Size of the image that planner and translator work on, pixels."""

    height: int = field(metadata=PIXELS)
    width: int = field(metadata=PIXELS)


@dataclass(frozen=True)
class Crop(Checked):
    """The part of a camera image that is used: top left corner and size, pixels of the camera."""

    x: int = field(metadata={'min': 0, 'unit': 'px'})
    y: int = field(metadata={'min': 0, 'unit': 'px'})
    width: int = field(metadata=PIXELS)
    height: int = field(metadata=PIXELS)


@dataclass(frozen=True)
class CameraSpec(Checked):
    """One view: images of `width` x `height` pixels at `rate` Hz on a relative topic.

    Attributes:
        crop: the part that is used; everything unless given.
        driver: what reads the real camera: realsense, opencv or video_file.
        source: serial number of a RealSense, device of opencv, path of a video file; text.
        options: of that driver, by name.
    """

    name: str
    topic: str
    width: int = field(metadata=PIXELS)
    height: int = field(metadata=PIXELS)
    rate: float = field(metadata=HZ)
    crop: Crop | None = None
    driver: str = 'opencv'
    source: str = ''
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        contract_checks.check_camera(self)

    @property
    def info_topic(self) -> str:
        """Topic of the camera_info that goes with `topic`."""
        base, _, _ = self.topic.rpartition('/')
        return f'{base}/camera_info' if base else 'camera_info'

    @property
    def period_ns(self) -> int:
        """Nanoseconds between images."""
        return seconds_to_ns(1.0 / self.rate)

    @property
    def used(self) -> Crop:
        """The crop, or the whole image."""
        return self.crop or Crop(x=0, y=0, width=self.width, height=self.height)


@dataclass(frozen=True)
class GoalSpec(Checked):
    """When a goal is over.

    Attributes:
        timeout: seconds after which execute_goal gives up, unless its goal says otherwise.
        least_change: of the canvas from a goal's begin to its end, mean absolute difference of all
            pixels, grey levels 0..255; a robot that comes to rest with less has done nothing. 0
            does not judge.
    """

    timeout: float = field(metadata=SECONDS)
    least_change: float = field(default=0.0, metadata={'min': 0, 'unit': 'grey levels'})


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint by name; `sha256` (at least 8 hex digits) pins its weights."""

    name: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        contract_checks.check_checkpoint_ref(self)


@dataclass(frozen=True)
class Defaults:
    """Which organs to use unless told otherwise."""

    planner: str
    translator: str
    robot: str
    planner_checkpoint: CheckpointRef | None = None
    translator_checkpoint: CheckpointRef | None = None


@dataclass(frozen=True)
class SimSpec(Checked):
    """The simulated environment: its name, physics rate [Hz] and its own options."""

    environment: str
    physics_rate: float = field(metadata=HZ)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KinematicsSpec:
    """The robot's description, for what is computed and not learned.

    Attributes:
        urdf: path of the URDF, relative to the contract's file; or its text. Joints are matched
            by name with those of the contract.
        tool: link whose motion the cartesian_delta channels command.
        axes: cartesian_delta channel -> x, y, z, rx, ry or rz of the root link.
    """

    urdf: str
    tool: str | None = None
    axes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """Where a camera is and how it sees; its images are rectified.

    Attributes:
        name: of the camera.
        model: pinhole, or orthographic for views from above that show no perspective.
        focal: (fx, fy), pixels of the camera image; pixels per metre if orthographic.
        centre: (cx, cy), pixels; the centre of the first pixel is (0, 0).
        position: float [3] m, of the optical frame (z forward, x right, y down) in `link`.
        orientation: quaternion (x, y, z, w) of the optical frame in `link`.
        link: that the camera is fixed to; the root of the URDF unless given.
    """

    name: str
    focal: tuple[float, float]
    centre: tuple[float, float]
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float]
    model: str = 'pinhole'
    link: str | None = None

    def __post_init__(self) -> None:
        contract_checks.check_calibration(self)


@dataclass(frozen=True)
class GripperSpec(Checked):
    """How a gripper channel moves its joint, and how hard it grips.

    The gate has hysteresis: open, it closes below `close_below`; closed, it opens above
    `open_above`. Speed and acceleration are the limits of the joint.

    Attributes:
        close_below, open_above: thresholds of the channel, in its unit.
        force: N, when it grips something.
        width: m, largest opening between the fingers.
    """

    close_below: float
    open_above: float
    force: float = field(metadata={'above': 0, 'unit': 'N'})
    width: float = field(metadata={'above': 0, 'unit': 'm'})

    def __post_init__(self) -> None:
        super().__post_init__()
        contract_checks.check_gripper(self)


@dataclass(frozen=True)
class RobotSpec(Checked):
    """The real robot, and how it is to react.

    Attributes:
        address: IP address or host name of an arm; whoever starts the controller may give another.
        torque_threshold: N m of external torque on a joint that is a collision.
        force_threshold: N of external force on the tool that is a collision.
        realtime: enforce, or ignore where the kernel has no PREEMPT_RT: motions may then be
            aborted.
        recoveries: automatic recoveries from a reflex or a lost connection within a minute; the
            robot moves again only after a reset.
        gripper: whether the arm has its gripper.
        controller: of ros2_control, for the robot joint_trajectory.
        gripper_controller: likewise for the gripper's joint; empty: the same controller has it.
    """

    address: str = ''
    torque_threshold: float = field(default=20.0, metadata={'above': 0, 'unit': 'N m'})
    force_threshold: float = field(default=30.0, metadata={'above': 0, 'unit': 'N'})
    realtime: str = 'enforce'
    recoveries: int = field(default=3, metadata={'min': 0})
    gripper: bool = True
    controller: str = 'joint_trajectory_controller'
    gripper_controller: str = ''

    def __post_init__(self) -> None:
        super().__post_init__()
        contract_checks.check_robot(self)


@dataclass(frozen=True)
class Workspace:
    """Where the tool may be: (low, high) m along each axis of the root link."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: tuple[float, float]

    def __post_init__(self) -> None:
        contract_checks.check_workspace(self)


@dataclass(frozen=True)
class Budget(Checked):
    """How far one action, or one chunk, may ask to go; what is None is not limited.

    Attributes:
        joint: rad or m, every joint that is no gripper.
        translation: m, the tool.
        rotation: rad, the tool.
    """

    joint: float | None = field(default=None, metadata=POSITIVE)
    translation: float | None = field(default=None, metadata=POSITIVE)
    rotation: float | None = field(default=None, metadata=POSITIVE)


@dataclass(frozen=True)
class SafetySpec(Checked):
    """Limits beyond those of single joints; the tool and the links are those of `kinematics`.

    Attributes:
        workspace: box of the tool.
        spheres: path of a YAML file, relative to the contract's: spheres round the links.
        clearance: m that spheres of links which are no neighbours keep from each other.
        floor: m, height in the root link's frame below which no sphere of a moving link goes.
        tool_speed: (m/s, rad/s) of the tool.
        per_step, per_chunk: budgets.
    """

    workspace: Workspace | None = None
    spheres: str | None = None
    clearance: float = field(default=0.01, metadata={'min': 0, 'unit': 'm'})
    floor: float | None = None
    tool_speed: tuple[float, float] | None = None
    per_step: Budget | None = None
    per_chunk: Budget | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        contract_checks.check_safety(self)


@dataclass(frozen=True)
class Contract:
    """What is particular to one embodiment. Use `load_contract` to make one.

    Attributes:
        embodiment: its name, of letters, digits and underscores.
        channels: what an action is; the order is that of the J-IDM's columns.
        joints: limits of the safety filter, for every joint that moves.
        home: position of each joint, rad or m, that `home` and evaluation begin from.
        control: set-points.
        video: the grid of time of plans.
        canvas: what planner and translator see.
        cameras: left to right on the canvas.
        goal: when a goal is over.
        defaults: which organs to use unless told otherwise.
        description: in words, for people.
        sim: the simulated robot; without it there is only the real one.
        kinematics: links and tool; for Cartesian channels, the analytic translator and viewers.
        calibration: where cameras are; for the analytic translator and viewers.
        gripper: of a gripper channel.
        safety: limits beyond those of single joints.
        robot: the real one.
    """

    embodiment: str
    channels: tuple[Channel, ...]
    joints: tuple[Joint, ...]
    home: dict[str, float]
    control: Control
    video: Video
    canvas: CanvasSpec
    cameras: tuple[CameraSpec, ...]
    goal: GoalSpec
    defaults: Defaults
    description: str = ''
    sim: SimSpec | None = None
    kinematics: KinematicsSpec | None = None
    calibration: tuple[Calibration, ...] = ()
    gripper: GripperSpec | None = None
    safety: SafetySpec | None = None
    robot: RobotSpec = RobotSpec()
    # Of the file: where its relative paths start. No part of what the contract says.
    folder: Path | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        contract_checks.check_contract(self)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The n channels, in the order of the J-IDM's columns."""
        return tuple(channel.name for channel in self.channels)

    @property
    def channel_scales(self) -> NDArray[np.float64]:
        """float64 [n], typical size of one action, unit of each channel."""
        return np.array([channel.scale for channel in self.channels])

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The j joints, in the order of `home_positions` and all limits."""
        return tuple(joint.name for joint in self.joints)

    @property
    def home_positions(self) -> NDArray[np.float64]:
        """float64 [j], rad or m."""
        return np.array([self.home[name] for name in self.joint_names])

    @property
    def position_limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest positions, float64 [j] each, rad or m."""
        limits = np.array([joint.position for joint in self.joints], dtype=np.float64)
        return limits[:, 0], limits[:, 1]

    @property
    def velocity_limits(self) -> NDArray[np.float64]:
        """float64 [j], rad/s or m/s."""
        return np.array([joint.velocity for joint in self.joints])

    @property
    def acceleration_limits(self) -> NDArray[np.float64]:
        """float64 [j], rad/s^2 or m/s^2."""
        return np.array([joint.acceleration for joint in self.joints])

    @property
    def jerk_limits(self) -> NDArray[np.float64]:
        """float64 [j], rad/s^3 or m/s^3; infinite where there is none."""
        return np.array([np.inf if j.jerk is None else j.jerk for j in self.joints])

    @property
    def ticks_per_frame(self) -> int:
        """Set-points in one frame period."""
        return round(self.control.rate * self.video.frame_period)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The views, left to right on the canvas."""
        return tuple(camera.name for camera in self.cameras)

    def joint_index(self, name: str) -> int:
        """Place of a joint in all arrays; raises ContractError for an unknown one."""
        return contract_checks.index_of(name, self.joint_names, 'joint')

    def channel_index(self, name: str) -> int:
        """Place of a channel in an action; raises ContractError for an unknown one."""
        return contract_checks.index_of(name, self.channel_names, 'channel')

    def camera(self, name: str) -> CameraSpec:
        """A camera by its name; raises ContractError for an unknown one."""
        return self.cameras[contract_checks.index_of(name, self.camera_names, 'camera')]

    def slot_width(self, camera: CameraSpec) -> int:
        """Pixels of the canvas that a view takes: its aspect at the height of the canvas."""
        return contract_checks.slot_width(camera, self.canvas)

    def visual_fields(self) -> dict[str, Any]:
        """What a planner checkpoint depends on: plain data, for its JSON and `check_contract`."""
        return {**self._view_fields(), 'frame_period': self.video.frame_period}

    def action_fields(self) -> dict[str, Any]:
        """What a translator checkpoint depends on: plain data, likewise."""
        channels = [{'name': c.name, 'kind': c.kind, 'unit': c.unit} for c in self.channels]
        return {**self._view_fields(), 'channels': channels}

    def to_dict(self) -> dict[str, Any]:
        """The whole contract as plain data; `build_contract` makes it again."""
        values = dataclasses.asdict(self)
        del values['folder']
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def portable_dict(self) -> dict[str, Any]:
        """As `to_dict`, for a file in another folder: relative paths made absolute."""
        plain = self.to_dict()
        if self.folder is None:
            return plain
        if self.kinematics and not self.kinematics.urdf.lstrip().startswith('<'):
            plain['kinematics']['urdf'] = str(self.resolve(self.kinematics.urdf))
        if self.safety and self.safety.spheres:
            plain['safety']['spheres'] = str(self.resolve(self.safety.spheres))
        return plain

    def resolve(self, path: str) -> Path:
        """A path of the contract, which starts at the contract's own folder."""
        return ((self.folder or Path()) / path).resolve()

    @property
    def hash(self) -> str:
        """SHA-256 of the whole contract."""
        return hash_fields(self.to_dict())

    def _view_fields(self) -> dict[str, Any]:
        return {
            'canvas': {'height': self.canvas.height, 'width': self.canvas.width},
            'cameras': [
                {
                    'name': camera.name,
                    'crop': dataclasses.asdict(camera.crop) if camera.crop else None,
                    'canvas_width': self.slot_width(camera),
                }
                for camera in self.cameras
            ],
        }


def hash_fields(fields: Mapping[str, Any]) -> str:
    """SHA-256, 64 hex digits, of plain data; the order of keys does not matter."""
    text = json.dumps(fields, sort_keys=True, separators=(',', ':'), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def build_contract(data: Mapping[str, Any]) -> Contract:
    """The contract of plain data, as `Contract.to_dict` gives; raises ContractError."""
    return build(Contract, data)


def load_contract(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Contract:
    """Read and validate the contract of an embodiment.

    Args:
        name_or_path: 'finger', or the path of a YAML file. Names are looked for in the folders of
            VERA_CONFIG_PATH, in the source tree, and in share/vera_bringup/config/embodiments.
        overrides: values put over those of the file: nested mappings or dotted keys such as
            {'joints.joint_1.velocity': 1.0, 'video': {'committed': 2}}; None takes a key away.

    Raises:
        ContractError: one precise message, with file and line, for whatever is wrong.
    """
    path = find_contract(name_or_path)
    document = read_document(path)
    if overrides:
        document.override(overrides)
    try:
        contract = build_contract(document.data)
        object.__setattr__(contract, 'folder', path.resolve().parent)
        return contract
    except ContractError as error:
        raise ContractError(error.message, error.key, document.where(error.key)) from None


def parse_overrides(text: str) -> dict[str, Any]:
    """Overrides of a contract from one line of YAML.

    Args:
        text: e.g. '{video.committed: 2, joints.joint_1.velocity: 1.0}'; empty for none.

    Raises:
        ContractError: no YAML mapping.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(f'broken YAML: {error}', where=f'overrides {text!r}') from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ContractError(
            "is no mapping; write e.g. '{video.committed: 2}'", where=f'overrides {text!r}'
        )
    return {str(key): value for key, value in data.items()}


__all__ = [
    'Budget',
    'Calibration',
    'CameraSpec',
    'CanvasSpec',
    'Channel',
    'CheckpointRef',
    'Contract',
    'ContractError',
    'Control',
    'Crop',
    'Defaults',
    'GoalSpec',
    'GripperSpec',
    'Joint',
    'KinematicsSpec',
    'RobotSpec',
    'SafetySpec',
    'SimSpec',
    'Video',
    'Workspace',
    'build_contract',
    'hash_fields',
    'load_contract',
    'parse_overrides',
]
