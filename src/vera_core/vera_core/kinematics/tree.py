"""Forward kinematics and Jacobians of a tree of links, batched over postures.

All positions, axes and Jacobians are in the frame of the root link, metres and radians.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vera_core.kinematics.transforms import Float, apply
from vera_core.kinematics.urdf import MOVING, Urdf, UrdfError


@dataclass(frozen=True)
class Posture:
    """Where everything is, for a batch of joint positions.

    Attributes:
        links: T float64 [..., L, 4, 4], frame of each link in the root's.
        axes: float64 [..., m, 3], unit axis of each moving joint, in the root's frame.
        centres: float64 [..., m, 3], a point on that axis.
    """

    links: Float
    axes: Float
    centres: Float


class KinematicTree:
    """The kinematics of a URDF, for named joints.

    Args:
        urdf: the robot.
        joints: names of the j joints that a posture holds, in that order; every moving joint that
            mimics no other unless given. The rest stay at zero, or at the limit nearest to it.

    Raises:
        UrdfError: a joint that there is not, does not move, or mimics another.
    """

    def __init__(self, urdf: Urdf, joints: Sequence[str] | None = None) -> None:
        self.urdf = urdf
        moving = [joint for joint in urdf.joints.values() if joint.kind in MOVING]
        free = [joint.name for joint in moving if joint.mimic is None]
        self.joint_names = tuple(free if joints is None else joints)
        for name in self.joint_names:
            self._check(name, free)
        self.link_names = _parents_first(urdf)
        self._link = {name: i for i, name in enumerate(self.link_names)}
        self._above = {joint.child: joint for joint in urdf.joints.values()}
        self._moving = [joint.name for joint in moving]
        index = {name: i for i, name in enumerate(self._moving)}
        # Positions of the m moving joints: gain [m, j] @ q + rest [m].
        self._gain = np.zeros((len(moving), len(self.joint_names)))
        self._rest = np.zeros(len(moving))
        for joint in moving:
            of, factor, offset = self._driver(joint.name)
            row = index[joint.name]
            if of in self.joint_names:
                self._gain[row, self.joint_names.index(of)] = factor
                self._rest[row] = offset
            else:
                self._rest[row] = factor * np.clip(0.0, *urdf.joints[of].limits) + offset
        self._slides = np.array([joint.kind == 'prismatic' for joint in moving], bool)
        # Which of the m joints carry which link.
        self._carries = np.zeros((len(self.link_names), len(moving)), bool)
        for i, name in enumerate(self.link_names):
            above = self._above.get(name)
            if above is not None:
                self._carries[i] = self._carries[self._link[above.parent]]
                if above.name in index:
                    self._carries[i, index[above.name]] = True
        self._parent = [
            self._link[self._above[name].parent] if name in self._above else -1
            for name in self.link_names
        ]
        self._local(index)

    def _local(self, index: dict[str, int]) -> None:
        """Frames of links in their parents': origin + sin(q) A + (1 - cos(q)) B + q C."""
        count = len(self.link_names)
        self._origin = np.tile(np.eye(4), (count, 1, 1))
        # The link and the axis (in the link's frame) of each of the m moving joints.
        self._child = np.zeros(len(self._moving), int)
        self._axis = np.zeros((len(self._moving), 3))
        terms = np.zeros((3, len(self._moving), 4, 4))
        for i, name in enumerate(self.link_names):
            joint = self._above.get(name)
            if joint is None:
                continue
            self._origin[i] = joint.origin
            m = index.get(joint.name)
            if m is None:
                continue
            self._child[m], self._axis[m] = i, joint.axis
            if self._slides[m]:
                terms[2, m, :3, 3] = joint.origin[:3, :3] @ joint.axis
                continue
            K = np.cross(np.eye(3), joint.axis)
            terms[0, m, :3, :3] = joint.origin[:3, :3] @ K
            terms[1, m, :3, :3] = joint.origin[:3, :3] @ K @ K
        self._turn, self._versine, self._slide = terms

    def link_index(self, name: str) -> int:
        """Place of a link in `Posture.links`; raises UrdfError for an unknown one."""
        if name not in self._link:
            raise UrdfError(f'no link {name!r} in the URDF{_hint(name, self.link_names)}')
        return self._link[name]

    def posture(self, q: Float) -> Posture:
        """Frames of all links and axes of all moving joints.

        Args:
            q: float64 [..., j] rad or m, in the order of `joint_names`.

        Raises:
            UrdfError: another number of joints, or a position that is not finite.
        """
        q = np.asarray(q, np.float64)
        if q.shape[-1:] != (len(self.joint_names),):
            raise UrdfError(
                f'a posture of shape {list(q.shape)}; {len(self.joint_names)} joints are needed: '
                f'{", ".join(self.joint_names)}'
            )
        if not np.isfinite(q).all():
            raise UrdfError('a joint position is not a finite number')
        positions = q @ self._gain.T + self._rest
        batch = q.shape[:-1]
        links = np.zeros((*batch, len(self.link_names), 4, 4))
        at = positions[..., None, None]
        local = np.broadcast_to(self._origin, links.shape).copy()
        local[..., self._child, :, :] += (
            np.sin(at) * self._turn + (1 - np.cos(at)) * self._versine + at * self._slide
        )
        for i, parent in enumerate(self._parent):
            if parent < 0:
                links[..., i, :, :] = local[..., i, :, :]
            else:
                np.matmul(
                    links[..., parent, :, :], local[..., i, :, :], out=links[..., i, :, :]
                )
        carried = links[..., self._child, :3, :]
        axes = (carried[..., :3] @ self._axis[..., None])[..., 0]
        return Posture(links, axes, carried[..., 3])

    def point_jacobian(
        self, posture: Posture, links: NDArray[np.integer], points: Float
    ) -> Float:
        """How points that are fixed to links move: d point / d q, float64 [P, 3, j].

        Args:
            posture: of one configuration, not a batch.
            links: int [P], on which link each point is.
            points: float64 [P, 3], root frame.
        """
        arm = points[:, None] - posture.centres
        axes = np.broadcast_to(posture.axes, arm.shape)
        motion = np.where(self._slides[:, None], axes, np.cross(axes, arm))
        motion = motion * self._carries[links][..., None]
        return np.einsum('pmx,mj->pxj', motion, self._gain)

    def frame_jacobian(self, posture: Posture, link: str, point: Float | None = None) -> Float:
        """The geometric Jacobian of a link: rows v (3) and omega (3), float64 [6, j].

        Args:
            posture: of one configuration, not a batch.
            link: whose motion.
            point: float64 [3] of the link, root frame; its origin unless given.
        """
        i = self.link_index(link)
        at = posture.links[i, :3, 3] if point is None else np.asarray(point, np.float64)
        linear = self.point_jacobian(posture, np.array([i]), at[None])[0]
        turns = np.where(self._slides[:, None], 0.0, posture.axes) * self._carries[i][:, None]
        return np.concatenate([linear, turns.T @ self._gain])

    def moves(self, link: str) -> tuple[str, ...]:
        """Names of the joints that move a link."""
        by = self._carries[self.link_index(link)] @ np.abs(self._gain) > 0
        return tuple(name for name, yes in zip(self.joint_names, by, strict=True) if yes)

    def positions(self, posture: Posture, link: str, points: Float) -> Float:
        """Points [P, 3] of a link's own frame, in the root's, float64 [..., P, 3]."""
        return apply(posture.links[..., self.link_index(link), :, :], points)

    def _check(self, name: str, free: list[str]) -> None:
        joint = self.urdf.joints.get(name)
        if joint is None:
            raise UrdfError(f'no joint {name!r} in the URDF{_hint(name, self.urdf.joints)}')
        if joint.mimic is not None:
            raise UrdfError(f'joint {name!r} mimics {joint.mimic[0]!r}; name that one instead')
        if name not in free:
            raise UrdfError(f'joint {name!r} is fixed; it cannot be moved')

    def _driver(self, name: str) -> tuple[str, float, float]:
        """(joint, factor, offset) that a joint follows in the end; itself if it mimics none."""
        factor, offset, seen = 1.0, 0.0, {name}
        while (mimic := self.urdf.joints[name].mimic) is not None:
            name, multiplier, shift = mimic
            offset += factor * shift
            factor *= multiplier
            if name in seen:
                raise UrdfError(f'joints {", ".join(sorted(seen))} mimic each other')
            seen.add(name)
        if self.urdf.joints[name].kind not in MOVING:
            raise UrdfError(f'joint {name!r} is mimicked, but it is fixed')
        return name, factor, offset


def _parents_first(urdf: Urdf) -> tuple[str, ...]:
    children: dict[str, list[str]] = {}
    for joint in urdf.joints.values():
        children.setdefault(joint.parent, []).append(joint.child)
    order, waiting = [], [urdf.root]
    while waiting:
        name = waiting.pop(0)
        order.append(name)
        waiting += children.get(name, [])
    return tuple(order)


def _hint(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    listed = ', '.join(known) or 'none'
    return (f'; did you mean {close[0]!r}?' if close else ';') + f' There are {listed}'


__all__ = ['KinematicTree', 'Posture']
