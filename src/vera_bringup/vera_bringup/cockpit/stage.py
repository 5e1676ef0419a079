"""The robot, its cameras and the way of its tool in three dimensions, for viser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import Calibration, Contract
from vera_core.kinematics.camera import ORTHOGRAPHIC
from vera_core.kinematics.shapes import Box, Cylinder, Mesh, Shape, Sphere
from vera_core.kinematics.transforms import Float, rotation_from_quaternion, transform
from vera_core.kinematics.tree import KinematicTree
from vera_core.kinematics.urdf import read_urdf
from vera_core.rotations import quaternion_from_matrix
from vera_drivers.scene import box_edges

if TYPE_CHECKING:
    from viser import ViserServer

Colour = tuple[int, int, int]
# Of links whose URDF names no colour, from the base to the tip.
LINKS: tuple[Colour, ...] = ((84, 58, 138), (28, 108, 116), (158, 90, 46), (52, 84, 160))
PATH, BOUNDS, CAMERA = (80, 190, 255), (110, 125, 150), (255, 190, 90)
GRID, GRID_BOLD = (44, 52, 68), (62, 72, 92)
STILL = 1e-4  # m or of a rotation matrix: what moves less is not sent


class Stage:
    """The scene of one embodiment.

    Args:
        server: of viser; its scene is ours alone.
        contract: cameras, joints and workspace.
        description: URDF text; None for a robot without one: cameras only.

    Raises:
        UrdfError: the URDF cannot be used.
    """

    def __init__(self, server: ViserServer, contract: Contract, description: str | None) -> None:
        self._scene = server.scene
        self._contract = contract
        self._tree: KinematicTree | None = None
        self._links: dict[str, Any] = {}
        self._sent: dict[str, Float] = {}
        self._screens: dict[str, Any] = {}
        self._path: Any = None
        self._down = np.array([0.1, -1.0, 0.0])  # of a picture from above, as seen on the table
        # Link frames, frusta and lines lie below the root's frame, which is the world's.
        self._low, self._high = np.full(3, np.inf), np.full(3, -np.inf)
        self._scene.configure_default_lights(True, cast_shadow=False)
        if description is not None:
            self._tree = KinematicTree(read_urdf(description), contract.joint_names)
            self._build(description)
        if not np.isfinite(self._low).all():
            self._low, self._high = np.array([-0.5, -0.5, 0.0]), np.array([0.5, 0.5, 0.5])
        self.size = float(np.linalg.norm(self._high - self._low))
        for calibration in contract.calibration:
            self._mount(calibration)
        self._bound()
        self._look(server)

    # Building --------------------------------------------------------------------------------

    def _build(self, description: str) -> None:
        assert self._tree is not None
        urdf, colours = self._tree.urdf, _colours(description)
        posture = self._tree.posture(self._contract.home_positions)
        for i, link in enumerate(self._tree.link_names):
            parts = urdf.parts(link)
            if not parts:
                continue
            self._links[link] = self._scene.add_frame(f'/robot/{link}', show_axes=False)
            own = colours.get(link, [])
            place = posture.links[i]
            for k, (origin, shape) in enumerate(parts):
                colour = own[k] if k < len(own) and len(own) == len(parts) else None
                plain = LINKS[(len(self._links) - 1) % len(LINKS)]
                self._add(f'/robot/{link}/{k}', origin, shape, colour or plain)
                at = place @ origin
                self._include(at[:3, 3], np.abs(at[:3, :3]) @ _half(shape))
        self.pose(self._contract.home_positions)

    def _include(self, centre: Float, half: Float) -> None:
        """Widen what is looked at by a box."""
        self._low = np.minimum(self._low, centre - half)
        self._high = np.maximum(self._high, centre + half)

    def _add(self, name: str, origin: Float, shape: Shape, colour: Colour) -> None:
        place: dict[str, Any] = {'position': origin[:3, 3], 'wxyz': _wxyz(origin)}
        if isinstance(shape, Box):
            self._scene.add_box(name, color=colour, dimensions=shape.size, **place)
        elif isinstance(shape, Cylinder):
            self._scene.add_cylinder(name, shape.radius, shape.length, colour, **place)
        elif isinstance(shape, Sphere):
            self._scene.add_icosphere(name, shape.radius, colour, **place)
        elif isinstance(shape, Mesh):
            corners = shape.triangles.reshape(-1, 3)
            faces = np.arange(len(corners)).reshape(-1, 3)
            self._scene.add_mesh_simple(
                name, corners, faces, color=colour, flat_shading=True, side='double', **place
            )

    def _mount(self, calibration: Calibration) -> None:
        """A frustum with the camera's picture; of a view without perspective, the picture alone."""
        camera = next(c for c in self._contract.cameras if c.name == calibration.name)
        pose = transform(rotation_from_quaternion(calibration.orientation), calibration.position)
        base = f'/robot/{calibration.link}' if calibration.link in self._links else '/cameras'
        name = f'{base}/camera_{calibration.name}'
        black = np.zeros((camera.height, camera.width, 3), np.uint8)
        fx, fy = calibration.focal
        if calibration.model == ORTHOGRAPHIC:
            # Where the picture would lie if the table were the screen: just below the robot.
            sides = camera.width / fx, camera.height / fy
            centre = np.array(
                [
                    ((camera.width - 1) / 2 - calibration.centre[0]) / fx,
                    ((camera.height - 1) / 2 - calibration.centre[1]) / fy,
                    0.0,
                ]
            )
            at = pose[:3, :3] @ centre + pose[:3, 3]
            depth = (at[2] - self._low[2]) + 0.02 * self.size
            at = at + pose[:3, 2] * depth
            self._down = pose[:3, 1]
            self._include(at, np.abs(pose[:3, :3]) @ np.array([sides[0] / 2, sides[1] / 2, 0.0]))
            self._screens[calibration.name] = self._scene.add_image(
                name, black, *sides, wxyz=_wxyz(pose), position=at, cast_shadow=False,
                receive_shadow=False,
            )  # fmt: skip
            return
        self._screens[calibration.name] = self._scene.add_camera_frustum(
            name, 2 * float(np.arctan2(camera.height / 2, fy)), camera.width / camera.height,
            scale=0.07 * self.size, color=CAMERA, image=black, wxyz=_wxyz(pose),
            position=pose[:3, 3], thickness=0.0025 * self.size,
        )  # fmt: skip

    def _bound(self) -> None:
        """The ground, and where the tool may be."""
        cell = 0.1 if self.size > 0.6 else 0.05
        self._scene.add_grid(
            '/ground', 4 * self.size, 4 * self.size, cell_size=cell, section_size=5 * cell,
            cell_color=GRID, section_color=GRID_BOLD, infinite_grid=True,
            fade_distance=3 * self.size, shadow_opacity=0.0,
            position=(0.0, 0.0, float(self._low[2]) - 0.03 * self.size),
        )  # fmt: skip
        safety = self._contract.safety
        if safety is None or safety.workspace is None:
            return
        box = np.array([safety.workspace.x, safety.workspace.y, safety.workspace.z])
        edges = box_edges(box[:, 0], box[:, 1]).reshape(-1, 2, 3)
        self._scene.add_line_segments(
            '/workspace', edges, BOUNDS, thickness=1.0, thickness_units='screen'
        )
        self._include(box.mean(1), np.ptp(box, axis=1) / 2)

    def _look(self, server: ViserServer) -> None:
        """Where a browser looks from at first: so that the robot fills the picture."""
        centre = (self._low + self._high) / 2
        size = float(np.linalg.norm(self._high - self._low))
        flat = self._high[2] - self._low[2] < 0.3 * size
        above = 0.65 * self._down + np.array([0.0, 0.0, 1.3])
        direction = above if flat else np.array([1.0, -0.85, 0.7])
        distance = 1.05 * size
        server.initial_camera.look_at = centre
        server.initial_camera.position = centre + distance * direction / np.linalg.norm(direction)
        server.initial_camera.fov = float(np.radians(50))

    # Telling ---------------------------------------------------------------------------------

    def pose(self, q: NDArray[np.float64]) -> None:
        """Move the links to joint positions, float64 [j] rad or m."""
        if self._tree is None:
            return
        links = self._tree.posture(q).links
        for name, frame in self._links.items():
            T = links[self._tree.link_index(name)]
            if name in self._sent and np.abs(self._sent[name] - T).max() < STILL:
                continue
            self._sent[name] = T
            frame.position, frame.wxyz = T[:3, 3], _wxyz(T)

    def show(self, camera: str, image: NDArray[np.uint8]) -> None:
        """What a calibrated camera sees, uint8 [H, W, 3]; other cameras are not on the stage."""
        if camera in self._screens:
            self._screens[camera].image = image

    def path(self, points: Float | None) -> None:
        """Where the actions of a plan lead the tool, float64 [n, 3] m; None: nowhere."""
        if self._path is not None:
            self._path.remove()
            self._path = None
        if points is not None and len(points) > 1 and np.ptp(points, axis=0).max() > STILL:
            segments = np.stack([points[:-1], points[1:]], axis=1)
            self._path = self._scene.add_line_segments(
                '/path', segments, PATH, thickness=0.008 * self.size
            )


def _half(shape: Shape) -> Float:
    """Half the sides of a box in the shape's own frame that holds it, float64 [3] m."""
    if isinstance(shape, Box):
        return np.asarray(shape.size) / 2
    if isinstance(shape, Cylinder):
        return np.array([shape.radius, shape.radius, shape.length / 2])
    return np.full(3, shape.radius_around)


def _wxyz(T: Float) -> Float:
    x, y, z, w = quaternion_from_matrix(T[:3, :3])
    return np.array([w, x, y, z])


def _colours(description: str) -> dict[str, list[Colour | None]]:
    """Link -> the colour of each of its visuals, as far as the URDF names one."""
    robot = ElementTree.fromstring(description)
    known = {m.get('name'): _rgb(m) for m in robot.findall('material')}

    def of(visual: ElementTree.Element) -> Colour | None:
        material = visual.find('material')
        if material is None:
            return None
        return _rgb(material) or known.get(material.get('name'))

    return {
        link.get('name', ''): [of(visual) for visual in link.findall('visual')]
        for link in robot.findall('link')
    }


def _rgb(material: ElementTree.Element) -> Colour | None:
    colour = material.find('color')
    try:
        values = [float(v) for v in (colour.get('rgba', '') if colour is not None else '').split()]
    except ValueError:
        return None
    if len(values) != 4:
        return None
    red, green, blue = (round(255 * min(max(v, 0.0), 1.0)) for v in values[:3])
    return red, green, blue


__all__ = ['Stage']
