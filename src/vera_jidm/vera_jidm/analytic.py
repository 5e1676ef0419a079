"""The image Jacobian of a calibrated robot, computed from its URDF: no training, no guess.

For a pixel p that shows a point X of link l, J[p] = d p / d q = dpi(X) R^T (dX/dq), the camera's
projection times the point's motion. Which link a pixel shows comes from drawing the robot's shapes
at the joint positions, or from a measured depth image. Pixels that show no link have J = 0.

Cartesian channels: q moves by the damped pseudo-inverse of the tool's geometric Jacobian times the
commanded motion. With six joints or more before the tool, what is not commanded of the tool's
motion is held at zero; with fewer, it is left free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import Contract, hash_fields
from vera_core.kinematics.camera import Camera
from vera_core.kinematics.description import find_urdf
from vera_core.kinematics.render import NOTHING, Painter, Surface, optical_frame
from vera_core.kinematics.transforms import (
    Float,
    apply,
    rotation_from_quaternion,
    transform,
)
from vera_core.kinematics.tree import KinematicTree, Posture
from vera_core.kinematics.urdf import UrdfError, read_urdf
from vera_core.seams import Array, Image
from vera_jidm.views import ViewBox, view_boxes

# Damping of the pseudo-inverse for Cartesian channels, relative to its largest singular value.
DAMPING = 1e-3
_AXES = ('x', 'y', 'z', 'rx', 'ry', 'rz')


class CalibrationError(ValueError):
    """A robot whose Jacobian cannot be computed; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class View:
    """One camera's place on the canvas, and the camera that would take that picture directly."""

    box: ViewBox
    camera: Camera


@dataclass(frozen=True, eq=False)
class Rows:
    """The pixels of a canvas that show the robot, P of them, in one posture.

    Attributes:
        v, u: int64 [P], row and column on the canvas.
        link: int64 [P], place in `AnalyticJacobian.tree.link_names`.
        J: float64 [P, 2, n], pixels of the canvas per unit of each channel.
        view: float64 [P], weight of the pixel's view.
    """

    v: NDArray[np.int64]
    u: NDArray[np.int64]
    link: NDArray[np.int64]
    J: Float
    view: Float


class ChannelMap:
    """From the channels of a contract to joint motion.

    Attributes:
        reach: float64 [n], largest change in one frame period: the velocity limit's for channels
            that move a joint, four times the typical action for Cartesian ones.

    Args:
        contract: channels, joints, axes of Cartesian channels.
        tree: over the contract's joints, in its order.

    Raises:
        CalibrationError: a Cartesian channel without axis or tool, a gripper without joint.
    """

    def __init__(self, contract: Contract, tree: KinematicTree) -> None:
        self._tree = tree
        self._low, self._high = contract.position_limits
        count = len(contract.channels)
        self._fixed = np.zeros((len(contract.joints), count))
        self._axis = np.full(count, -1)
        self._joint = np.zeros(count, int)
        # A ratio channel is 0 at the low limit of its joint and 1 at the high one.
        self._zero, self._span = np.zeros(count), np.ones(count)
        self._target = np.array([c.kind in ('joint_target', 'gripper') for c in contract.channels])
        self.reach = np.zeros(count)
        kinematics = contract.kinematics
        self._tool = kinematics.tool if kinematics else None
        axes = kinematics.axes if kinematics else {}
        for i, channel in enumerate(contract.channels):
            if channel.kind == 'cartesian_delta':
                if channel.name not in axes or self._tool is None:
                    missing = 'kinematics.tool' if self._tool is None else 'kinematics.axes'
                    raise CalibrationError(
                        f'channel {channel.name!r} is Cartesian and {missing} does not say what '
                        'it moves; add it to the contract'
                    )
                self._axis[i] = _AXES.index(axes[channel.name])
                self.reach[i] = 4 * channel.scale
                continue
            if channel.joint is None:
                raise CalibrationError(
                    f'channel {channel.name!r} names no joint; say which joint of the URDF it moves'
                )
            j = contract.joint_index(channel.joint)
            self._joint[i] = j
            if channel.unit == 'ratio':
                self._zero[i], self._span[i] = self._low[j], self._high[j] - self._low[j]
            self._fixed[j, i] = self._span[i]
            speed = contract.joints[j].velocity / self._span[i]
            self.reach[i] = speed * contract.video.frame_period
        if self._tool is not None:
            tree.link_index(self._tool)

    def columns(self, posture: Posture) -> Float:
        """D q / d channel at a posture, float64 [j, n]."""
        cartesian = self._axis >= 0
        if not cartesian.any():
            return self._fixed
        assert self._tool is not None
        J = self._tree.frame_jacobian(posture, self._tool)
        rows = np.arange(6)
        if len(self._tree.moves(self._tool)) < 6:
            rows = np.unique(self._axis[cartesian])
        J = J[rows]
        # Damped least squares: near a singularity joints stay slow and the motion falls short.
        U, s, Vt = np.linalg.svd(J, full_matrices=False)
        inverse = (Vt.T * (s / (s**2 + (DAMPING * max(s[0], 1e-9)) ** 2))) @ U.T
        out = self._fixed.copy()
        for i in np.flatnonzero(cartesian):
            out[:, i] = inverse[:, np.flatnonzero(rows == self._axis[i])[0]]
        return out

    def values(self, q: Float, change: Float) -> Float:
        """Actions of the contract's kinds for a solved change of each channel.

        Args:
            q: float64 [j], before.
            change: float64 [n], in the channels' units.

        Returns:
            float64 [n]; deltas as they are, targets added to where the joint is.
        """
        at = (q[self._joint] - self._zero) / self._span
        return np.asarray(np.where(self._target, at + change, change))

    def move(self, q: Float, columns: Float, change: Float) -> Float:
        """Joint positions after a change of the channels, inside the contract's limits."""
        return np.asarray(np.clip(q + columns @ change, self._low, self._high))


class AnalyticJacobian:
    """A JacobianModel that needs the joint positions and nothing else.

    Args:
        tree: over the contract's joints, in its order.
        views: of the canvas.
        channels: how the contract's channels move the joints.
        height: of the canvas [px].
        width: of the canvas [px].
        model_hash: of what it was made from.

    Raises:
        UrdfError: a mesh is missing or damaged; or nothing of the robot can be seen.
    """

    def __init__(
        self,
        tree: KinematicTree,
        views: Sequence[View],
        channels: ChannelMap,
        height: int,
        width: int,
        model_hash: str = '',
    ) -> None:
        self.tree = tree
        self.views = tuple(views)
        self.channels = channels
        self.height, self.width = height, width
        self.model_hash = model_hash
        self._painter = Painter(tree)
        if not self._painter.visible_links:
            raise UrdfError('no link of the URDF has a shape; there is nothing to see of the robot')

    @classmethod
    def from_contract(
        cls, contract: Contract, *, view_weights: Mapping[str, float] | None = None
    ) -> AnalyticJacobian:
        """From the sections `kinematics` and `calibration` of a contract.

        Raises:
            CalibrationError: one of the sections, or a camera in it, is missing.
            UrdfError: the URDF cannot be used, or lacks a joint of the contract.
        """
        if contract.kinematics is None:
            raise CalibrationError(
                f'the contract of {contract.embodiment!r} has no `kinematics`; the analytic '
                'Jacobian needs the URDF: kinematics: {urdf: robot.urdf}'
            )
        urdf = read_urdf(find_urdf(contract))
        try:
            tree = KinematicTree(urdf, contract.joint_names)
        except UrdfError as error:
            raise UrdfError(
                f'the joints of {contract.embodiment!r} and of its URDF do not fit: {error}'
            ) from error
        given = {c.name: c for c in contract.calibration}
        views = []
        for box in view_boxes(contract, view_weights):
            if box.name not in given:
                raise CalibrationError(
                    f'camera {box.name!r} has no calibration; add focal, centre, position and '
                    'orientation to `calibration` of the contract'
                )
            c, spec = given[box.name], contract.camera(box.name)
            link = c.link or urdf.root
            tree.link_index(link)
            whole = Camera(
                c.model, c.focal, c.centre, spec.width, spec.height,
                transform(rotation_from_quaternion(c.orientation), c.position), link,
            )
            used = spec.used
            views.append(
                View(
                    box,
                    whole.cropped(
                        used.x, used.y, used.width, used.height, box.width, box.height
                    ),
                )
            )
        plain = contract.to_dict()
        # The text of the URDF, and not the path where it lies.
        plain['kinematics']['urdf'] = _text(find_urdf(contract))
        digest = hash_fields(
            {key: plain[key] for key in ('kinematics', 'calibration', 'channels', 'cameras')}
        )
        return cls(
            tree, views, ChannelMap(contract, tree), contract.canvas.height,
            contract.canvas.width, digest[:12],
        )

    def posture(self, q: Float) -> Posture:
        """Of joint positions float64 [j] in the contract's order; raises UrdfError."""
        return self.tree.posture(q)

    def rows(self, posture: Posture, depth: Mapping[str, Float] | None = None) -> Rows:
        """The pixels that show the robot, and their Jacobian.

        Args:
            posture: of one configuration.
            depth: camera name -> measured depth float [h, w] m, at the size of the view on the
                canvas; drawn from the URDF's shapes for cameras that are not in it.
        """
        parts = [self._view_rows(view, posture, depth or {}) for view in self.views]
        v, u, link, J, weight = (np.concatenate(x) for x in zip(*parts, strict=True))
        return Rows(v, u, link, J @ self.channels.columns(posture), weight)

    def _view_rows(
        self, view: View, posture: Posture, depth: Mapping[str, Float]
    ) -> tuple[NDArray, ...]:
        camera, tree = view.camera, self.tree
        surface = self.surface(view, posture, depth)
        v, u = np.nonzero(surface.link >= 0)
        link = surface.link[v, u]
        seen = surface.points(camera)
        frame = optical_frame(tree, posture, camera)
        points = apply(frame, seen)
        motion = tree.point_jacobian(posture, link, points)
        if tree.moves(camera.link):
            # A camera on the robot sees the difference between the point's motion and its own.
            mine = np.full(len(link), tree.link_index(camera.link))
            motion = motion - tree.point_jacobian(posture, mine, points)
        J = camera.project_jacobian(seen) @ (frame[:3, :3].T @ motion)
        weight = np.full(len(link), view.box.weight)
        return v + view.box.y0, u + view.box.x0, link, J, weight

    def surface(
        self, view: View, posture: Posture, depth: Mapping[str, Float] | None = None
    ) -> Surface:
        """Which link each pixel of a view shows, and its depth; `depth` as for `rows`."""
        if depth is None or view.box.name not in depth:
            return self._painter.paint(posture, view.camera)
        measured = np.asarray(depth[view.box.name], np.float64)
        if measured.shape != (view.camera.height, view.camera.width):
            raise CalibrationError(
                f'the depth of camera {view.box.name!r} is {list(measured.shape)}; its view on '
                f'the canvas is {[view.camera.height, view.camera.width]}'
            )
        return self._painter.assign(posture, view.camera, measured)

    def links(self, q: Float) -> NDArray[np.int64]:
        """Which link each pixel of the canvas shows, int64 [H, W]; -1 where there is none."""
        rows = self.rows(self.posture(q))
        out = np.full((self.height, self.width), NOTHING)
        out[rows.v, rows.u] = rows.link
        return out

    def jacobian(self, states: Float) -> Array:
        """J float32 [N, H, W, 2, n], pixels per unit of each channel, at states float64 [N, j]."""
        states = np.atleast_2d(np.asarray(states, np.float64))
        n = len(self.channels.reach)
        out = np.zeros((len(states), self.height, self.width, 2, n), np.float32)
        for i, q in enumerate(states):
            rows = self.rows(self.posture(q))
            out[i, rows.v, rows.u] = rows.J
        return out

    def __call__(self, images: Image, states: Float | None = None) -> Array:
        """The JacobianModel seam: images say how many, states float64 [N, j] where the joints are.

        Raises:
            CalibrationError: no states, or another number of them.
        """
        if states is None or len(states) != len(images):
            have = 'none' if states is None else str(len(states))
            raise CalibrationError(
                f'{len(images)} images need the joint positions of each; there are {have}'
            )
        return self.jacobian(states)

    def labels(
        self, images: Image, states: Float, batch: int = 32
    ) -> Iterator[tuple[Image, Array]]:
        """A teacher for training: images uint8 [B, H, W, 3] with J float32 [B, H, W, 2, n].

        Raises:
            CalibrationError: another number of states than of images.
        """
        for i in range(0, len(images), batch):
            part = images[i : i + batch]
            yield part, self(part, states[i : i + batch])


def on_grid(jacobian: Array, grid: int) -> Array:
    """J [N, H, W, 2, n] averaged over cells and laid out as networks have it.

    Returns:
        float32 [N, n, 2, H / grid, W / grid], pixels per unit of each channel.
    """
    n, h, w = jacobian.shape[:3]
    if h % grid or w % grid:
        raise ValueError(f'{w} x {h} px is no multiple of cells of {grid} px')
    cells = jacobian.reshape(n, h // grid, grid, w // grid, grid, *jacobian.shape[3:])
    return np.ascontiguousarray(cells.mean((2, 4)).transpose(0, 4, 3, 1, 2))


def _text(source: str | Path) -> str:
    return source.read_text(encoding='utf-8') if isinstance(source, Path) else source


__all__ = [
    'AnalyticJacobian',
    'CalibrationError',
    'ChannelMap',
    'Rows',
    'View',
    'on_grid',
]
