"""What viewers show of a robot: the frames of its TF tree, and where a chunk leads the tool.

Frames are named as in REP-103 and REP-105: `world` at the root of the URDF, the links by their
names, `<camera>_link` (x forward, y left, z up) and `<camera>_color_optical_frame` (z forward,
x right, y down) where the contract has a calibration of the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vera_core.chunk import ActionChunk
from vera_core.contract import Calibration, Contract
from vera_core.kinematics.transforms import (
    Float,
    inverse,
    rotation_from_quaternion,
    rotation_from_rpy,
    transform,
)
from vera_core.kinematics.tree import KinematicTree
from vera_core.kinematics.urdf import MOVING, UrdfError, read_urdf

WORLD = 'world'
# Optical axes in those of a camera's body: z forward becomes x forward.
OPTICAL = rotation_from_rpy((-np.pi / 2, 0.0, -np.pi / 2))
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]


@dataclass(frozen=True, eq=False)
class Edge:
    """A frame in its parent's: T float64 [4, 4], metres."""

    parent: str
    child: str
    T: Float


class Scene:
    """The frames of an embodiment.

    Args:
        contract: its joints, calibration and tool.
        description: URDF text; None for a robot without one, whose only frames are the cameras'.

    Attributes:
        root: frame of the base of the robot; `world` without a URDF.
        reach: how far the robot reaches from its root at home [m]; the size of texts goes by it.

    Raises:
        UrdfError: the URDF cannot be used, or lacks a joint, tool or camera link of the contract.
    """

    def __init__(self, contract: Contract, description: str | None) -> None:
        self._contract = contract
        self._tree: KinematicTree | None = None
        self.root, self.reach = WORLD, 1.0
        self._tool: str | None = None
        if description is not None:
            self._tree = tree = self._read(description)
            self.root = tree.urdf.root
            posture = tree.posture(contract.home_positions)
            self.reach = max(0.1, float(np.linalg.norm(posture.links[:, :3, 3], axis=1).max()))
            self._tool = contract.kinematics.tool if contract.kinematics else None
            if self._tool is not None:
                tree.link_index(self._tool)
        self._cameras = [edge for c in contract.calibration for edge in self._mount(c)]

    def _read(self, description: str) -> KinematicTree:
        try:
            return KinematicTree(read_urdf(description), self._contract.joint_names)
        except UrdfError as error:
            raise UrdfError(
                f'the joints of {self._contract.embodiment!r} and of its description do not fit: '
                f'{error}'
            ) from error

    def _mount(self, calibration: Calibration) -> list[Edge]:
        link = calibration.link or self.root
        if self._tree is not None:
            self._tree.link_index(link)
        optical = transform(rotation_from_quaternion(calibration.orientation), calibration.position)
        turned = transform(OPTICAL)
        body = f'{calibration.name}_link'
        return [
            Edge(link, body, optical @ inverse(turned)),
            Edge(body, f'{calibration.name}_color_optical_frame', turned),
        ]

    def still_frames(self, robot: bool = True) -> list[Edge]:
        """What never moves: the world, the cameras and, unless `robot` is false, fixed joints."""
        edges = [] if self.root == WORLD else [Edge(WORLD, self.root, np.eye(4))]
        if robot and self._tree is not None:
            edges += [
                Edge(joint.parent, joint.child, joint.origin)
                for joint in self._tree.urdf.joints.values()
                if joint.kind not in MOVING
            ]
        return edges + self._cameras

    def moving_frames(self, q: NDArray[np.float64]) -> list[Edge]:
        """The link behind each moving joint at q, float64 [j] rad or m, mimicking ones too."""
        if self._tree is None:
            return []
        tree, links = self._tree, self._tree.posture(q).links
        return [
            Edge(
                joint.parent,
                joint.child,
                inverse(links[tree.link_index(joint.parent)])
                @ links[tree.link_index(joint.child)],
            )
            for joint in tree.urdf.joints.values()
            if joint.kind in MOVING
        ]

    def tool_path(self, chunk: ActionChunk, q: NDArray[np.float64]) -> Float | None:
        """Where a chunk leads the tool, float64 [K + 1, 3] m in the root's axes.

        Args:
            chunk: of this contract.
            q: joint positions at its anchor, float64 [j].

        Returns:
            None without a tool, or if no channel of the chunk moves it.

        Raises:
            ContractError: a channel that the contract has not.
        """
        if self._tree is None or self._tool is None:
            return None
        contract, link = self._contract, self._tree.link_index(self._tool)
        axes = contract.kinematics.axes if contract.kinematics else {}
        joints = np.tile(q, (chunk.steps + 1, 1))
        shift = np.zeros((chunk.steps + 1, 3))
        moved = False
        for name, values in zip(chunk.channels, chunk.values.T, strict=True):
            channel = contract.channels[contract.channel_index(name)]
            if channel.kind == 'joint_delta' and channel.joint is not None:
                joints[1:, contract.joint_index(channel.joint)] += np.cumsum(values)
            elif channel.kind == 'joint_target' and channel.joint is not None:
                joints[1:, contract.joint_index(channel.joint)] = values
            elif axes.get(name) in ('x', 'y', 'z'):
                shift[1:, 'xyz'.index(axes[name])] += np.cumsum(values)
            else:
                continue
            moved = True
        if not moved:
            return None
        return self._tree.posture(joints).links[:, link, :3, 3] + shift


def box_edges(low: NDArray[np.float64], high: NDArray[np.float64]) -> Float:
    """The 12 edges of a box between two corners [3], float64 [24, 3]: begin, end, begin ..."""
    corners = np.array([[(high if i >> k & 1 else low)[k] for k in range(3)] for i in range(8)])
    return corners[np.array(_EDGES).ravel()]


__all__ = ['WORLD', 'Edge', 'Scene', 'box_edges']
