"""Pictures of a board and the joints at which they were taken: collected, kept, read again.

A folder holds `samples.json` and the pictures it names:

    {"camera": "front", "link": null, "board_link": "panda_hand_tcp",
     "board": {"columns": 7, "rows": 5, "square": 0.035, "marker": 0.0, "dictionary": "4X4_50"},
     "intrinsics": {"focal": [610.0, 610.0], "centre": [319.5, 239.5]},
     "samples": [{"image": "000.png", "joints": {"panda_joint1": 0.1}},
                 {"image": "001.png", "pose": {"position": [0.4, 0.0, 0.5],
                                               "orientation": [0.0, 0.0, 0.0, 1.0]}}]}

`link` is the one the camera is fixed to, null for a camera that stands still; `board_link` the one
that then carries the board. A pose [m; x, y, z, w] is that of the moving link in the root's frame
and stands where the joints are not known. `intrinsics` may be null: then they are found from the
same pictures.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.contract import Contract
from vera_core.contract_reader import ContractError, build
from vera_core.kinematics.description import find_urdf
from vera_core.kinematics.transforms import Float, transform
from vera_core.kinematics.tree import KinematicTree
from vera_core.kinematics.urdf import UrdfError, read_urdf
from vera_core.rotations import matrix_from_quaternion, rotation_vector
from vera_core.seams import Image
from vera_core.state_history import HistoryError, StateHistory
from vera_drivers.calibration.board import Board, BoardError
from vera_drivers.calibration.hand_eye import LEAST_CORNERS, CalibrationError, View
from vera_drivers.cameras.base import Intrinsics

FILE = 'samples.json'
IN_HAND_NAMES = ('wrist', 'hand', 'gripper')


@dataclass(frozen=True)
class Mounting:
    """What is fixed to what.

    Attributes:
        tree: the arm, with the contract's joints.
        link: that carries the camera; None for one that stands still.
        moving: link whose poses the samples tell: the camera's, or the board's.
    """

    tree: KinematicTree
    link: str | None
    moving: str

    @property
    def in_hand(self) -> bool:
        """Whether the camera is on the arm."""
        return self.link is not None

    def pose(self, joints: NDArray[np.float64]) -> Float:
        """T [4, 4] of the moving link at joints float64 [j] in the contract's order."""
        posture = self.tree.posture(joints)
        found: Float = posture.links[self.tree.link_index(self.moving)]
        return found


def mounting(
    contract: Contract, camera: str, link: str | None = '', board_link: str = ''
) -> Mounting:
    """What is fixed to what.

    Args:
        contract: needs `kinematics`.
        camera: of the contract.
        link: that carries the camera; None or the root for one that stands still. Empty: the one
            of its calibration so far; without one, the tool for a camera with `wrist`, `hand` or
            `gripper` in its name, and none for others.
        board_link: that carries the board, if the camera stands still; the tool unless given.

    Raises:
        CalibrationError: no arm, no tool, an unknown link, or a board that nothing moves.
    """
    contract.camera(camera)
    if contract.kinematics is None:
        raise CalibrationError(
            f'the contract of {contract.embodiment!r} has no `kinematics`: the poses of the arm '
            'are not known; add kinematics: {urdf: robot.urdf, tool: hand}'
        )
    try:
        tree = KinematicTree(read_urdf(find_urdf(contract)), contract.joint_names)
        tool = contract.kinematics.tool or ''
        if link == '':
            known = [c.link or tree.urdf.root for c in contract.calibration if c.name == camera]
            if known:
                link = known[0]
            elif any(word in camera for word in IN_HAND_NAMES):
                link = tool
        carries = bool(link and tree.moves(link))
        moving = link if carries else board_link or tool
        if not moving:
            raise CalibrationError('nothing is known to carry the board: name its link')
        if not tree.moves(moving):
            raise CalibrationError(f'link {moving!r}, which carries the board, does not move')
    except UrdfError as error:
        raise CalibrationError(str(error)) from error
    return Mounting(tree, link if carries else None, moving)


@dataclass(frozen=True)
class Samples:
    """A folder of samples, read.

    Attributes:
        camera: name in the contract.
        board: that is seen.
        mounting: what is fixed to what.
        intrinsics: of the pictures, or None.
        size: (width, height) of the pictures [px].
        views: corners and poses; also of pictures that show no board.
    """

    camera: str
    board: Board
    mounting: Mounting
    intrinsics: Intrinsics | None
    size: tuple[int, int]
    views: tuple[View, ...]


@dataclass(frozen=True)
class _Pose:
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Sample:
    image: str
    joints: dict[str, float] | None = None
    pose: _Pose | None = None


@dataclass(frozen=True)
class _Lens:
    focal: tuple[float, float]
    centre: tuple[float, float]


@dataclass(frozen=True)
class _Folder:
    camera: str
    samples: tuple[_Sample, ...]
    board: Board = dataclasses.field(default_factory=Board)
    link: str | None = None
    board_link: str | None = None
    intrinsics: _Lens | None = None


def read_samples(folder: Path, contract: Contract) -> Samples:
    """Read a folder and find the board in its pictures.

    Raises:
        CalibrationError: names the file and what is wrong with it.
    """
    path = folder / FILE
    try:
        found = build(_Folder, json.loads(path.read_text(encoding='utf-8')))
    except OSError as error:
        raise CalibrationError(f'{path} cannot be read: {error.strerror}') from error
    except (ValueError, BoardError) as error:  # ContractError too
        raise CalibrationError(f'{path}: {error}') from error
    try:
        mount = mounting(contract, found.camera, found.link, found.board_link or '')
    except ContractError as error:
        raise CalibrationError(f'{path}: {error}') from error
    views: list[View] = []
    size: tuple[int, int] | None = None
    for sample in found.samples:
        where = f'{path}: {sample.image}'
        image = _read_image(folder / sample.image)
        shape = (image.shape[1], image.shape[0])
        size = size or shape
        if shape != size:
            raise CalibrationError(
                f'{where} is {shape[0]}x{shape[1]}, the first one {size[0]}x{size[1]}'
            )
        pose = _pose(sample, mount, where)
        views.append(View(sample.image, found.board.detect(image), pose))
    if size is None:
        raise CalibrationError(f'{path} names no picture')
    lens = found.intrinsics
    return Samples(
        found.camera, found.board, mount,
        None if lens is None else Intrinsics(lens.focal, lens.centre), size, tuple(views),
    )


def _pose(sample: _Sample, mount: Mounting, where: str) -> Float:
    if sample.pose is not None:
        try:
            R = matrix_from_quaternion(sample.pose.orientation)
        except ValueError as error:
            raise CalibrationError(f'{where}: {error}') from error
        return transform(R, sample.pose.position)
    if sample.joints is None:
        raise CalibrationError(f'{where} has neither joints nor a pose')
    missing = [name for name in mount.tree.joint_names if name not in sample.joints]
    needed = set(mount.tree.moves(mount.moving))
    if needed & set(missing):
        raise CalibrationError(f'{where} lacks joint {", ".join(sorted(needed & set(missing)))}')
    unknown = [name for name in sample.joints if name not in mount.tree.joint_names]
    if unknown:
        raise CalibrationError(
            f'{where} has joint {unknown[0]!r}; the contract has '
            f'{", ".join(mount.tree.joint_names)}'
        )
    # Fingers, say, do not matter.
    return mount.pose(np.array([sample.joints.get(name, 0.0) for name in mount.tree.joint_names]))


def _read_image(path: Path) -> Image:
    if not path.is_file():
        raise CalibrationError(f'{path}: there is no such picture')
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise CalibrationError(f'{path} is no picture that OpenCV reads')
    rgb: Image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


class Collector:
    """Takes a picture whenever the arm rests at a new pose and the board is seen.

    Args:
        folder: written to; made if it is not there.
        camera: name in the contract.
        board: to look for.
        mount: what is fixed to what.
        intrinsics: of the pictures, or None.
        turn, shift: how far from every earlier pose a new one must be [rad], [m]; either will do.
        rest: seconds that the joints must have been still.

    Raises:
        CalibrationError: samples lie in the folder already.
    """

    def __init__(
        self,
        folder: Path,
        camera: str,
        board: Board,
        mount: Mounting,
        intrinsics: Intrinsics | None,
        *,
        turn: float = np.deg2rad(6.0),
        shift: float = 0.04,
        rest: float = 0.5,
    ) -> None:
        self.folder, self.board, self.mount = folder, board, mount
        self._turn, self._shift, self._rest_ns = turn, shift, round(rest * 1e9)
        self._poses: list[Float] = []
        if (folder / FILE).exists():
            raise CalibrationError(f'{folder} holds samples already; name another folder')
        folder.mkdir(parents=True, exist_ok=True)
        self._said: dict[str, Any] = {
            'camera': camera,
            'link': mount.link,
            'board_link': None if mount.in_hand else mount.moving,
            'board': dataclasses.asdict(board),
            'intrinsics': None if intrinsics is None else dataclasses.asdict(intrinsics),
            'samples': [],
        }

    @property
    def count(self) -> int:
        """Pictures taken."""
        return len(self._poses)

    def offer(self, image: Image, stamp: int, states: StateHistory) -> tuple[bool, str]:
        """Take a picture, or not.

        Args:
            image: uint8 [H, W, 3].
            stamp: of its acquisition [ns].
            states: measured joint positions in the contract's order, up to `stamp` or later.

        Returns:
            Whether it was taken, and in words why not or what is seen.
        """
        try:
            joints = states.at(stamp)
            still = np.abs(joints - states.at(stamp - self._rest_ns)).max() < 2e-3
        except HistoryError as error:
            return False, f'waits for joint_states: {error}'
        if not still:
            return False, 'the arm moves'
        pose = self.mount.pose(joints)
        if not self._new(pose):
            return False, 'move the arm: tilt it and shift it'
        seen = self.board.detect(image)
        if seen.count < LEAST_CORNERS:
            return False, f'the board is not seen ({seen.count} corners)'
        self._keep(image, joints, pose)
        return True, f'{seen.count} corners'

    def _new(self, pose: Float) -> bool:
        for other in self._poses:
            turn = np.linalg.norm(rotation_vector(other[:3, :3].T @ pose[:3, :3]))
            if turn < self._turn and np.linalg.norm(other[:3, 3] - pose[:3, 3]) < self._shift:
                return False
        return True

    def _keep(self, image: Image, joints: NDArray[np.float64], pose: Float) -> None:
        name = f'{self.count:03d}.png'
        cv2.imwrite(str(self.folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        named: Mapping[str, float] = dict(
            zip(self.mount.tree.joint_names, joints.tolist(), strict=True)
        )
        self._said['samples'].append({'image': name, 'joints': named})
        self._poses.append(pose)
        # Whole at any time: whoever stops half-way keeps what there is.
        part = self.folder / f'{FILE}.part'
        part.write_text(json.dumps(self._said, indent=1), encoding='utf-8')
        part.replace(self.folder / FILE)


__all__ = ['FILE', 'Collector', 'Mounting', 'Samples', 'mounting', 'read_samples']
