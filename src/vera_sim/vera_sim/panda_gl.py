"""The same pictures as RayPainter's, drawn by MuJoCo through EGL or OSMesa."""

from __future__ import annotations

import importlib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vera_core.kinematics.camera import Camera
from vera_core.kinematics.shapes import Box, Cylinder
from vera_core.kinematics.transforms import Float
from vera_sim.panda_model import mujoco
from vera_sim.ray_painter import FLOOR_HEIGHT, NEAR, Image, Look, Solid

BACKENDS = ('egl', 'osmesa')
# From x right, y down, z forward to x right, y up, z backward.
_OPTICAL_TO_GL = np.diag([1.0, -1.0, -1.0])


class GlPainter:
    """Draws solids over a table; see RayPainter, whose `paint` this one's is.

    Args:
        solids: what there is.
        table: x0, x1, y0, y1 [m].
        cameras: how many views a picture has.
        size: of each, pixels.

    Raises:
        ValueError: no GL opens; the message says what was tried.
    """

    def __init__(
        self,
        solids: Sequence[Solid],
        table: tuple[float, float, float, float],
        cameras: int,
        size: int,
    ) -> None:
        self._mj = mujoco()
        self._solids = tuple(solids)
        self._size = size
        self._model = self._mj.MjModel.from_xml_string(_picture_xml(solids, table, cameras, size))
        self._data = self._mj.MjData(self._model)
        # A GL context belongs to one thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='gl')
        self.backend = self._thread.submit(self._open).result()

    def paint(
        self,
        bodies: Float,
        cameras: Sequence[tuple[Camera, Float]],
        colours: NDArray,
        look: Look,
        shown: NDArray[np.bool_] | None = None,
    ) -> list[Image]:
        """All views, uint8 [size, size, 3] RGB; arguments as of RayPainter.paint."""
        found: list[Image] = self._thread.submit(
            self._paint, bodies, cameras, colours, look, shown
        ).result()
        return found

    def _open(self) -> str:
        tried = []
        for name in BACKENDS:
            try:
                context = importlib.import_module(f'mujoco.{name}').GLContext(
                    self._size, self._size
                )
                context.make_current()
                self._context = context
                self._scene = self._mj.MjvScene(self._model, 2 * self._model.ngeom + 20)
                self._render = self._mj.MjrContext(
                    self._model, self._mj.mjtFontScale.mjFONTSCALE_100.value
                )
                self._mj.mjr_setBuffer(
                    self._mj.mjtFramebuffer.mjFB_OFFSCREEN.value, self._render
                )
                return name
            except Exception as error:  # whatever a missing GL library raises
                tried.append(f'{name}: {type(error).__name__}: {error}')
        raise ValueError(
            f'no GL opens for renderer gl ({"; ".join(tried)}); run: pip install mujoco, and '
            'apt install libosmesa6, or leave renderer at painter'
        )

    def _paint(
        self,
        bodies: Float,
        cameras: Sequence[tuple[Camera, Float]],
        colours: NDArray,
        look: Look,
        shown: NDArray[np.bool_] | None,
    ) -> list[Image]:
        mj, model, data = self._mj, self._model, self._data
        rgb = np.asarray(colours) / 255 * np.asarray(look.tint) * look.brightness
        model.geom_rgba[: len(rgb), :3] = np.clip(rgb, 0, 1)
        model.geom_rgba[: len(rgb), 3] = 1.0 if shown is None else shown
        for k, colour in ((0, look.wood), (1, look.floor)):
            # Two more geoms follow the solids: table and floor.
            model.geom_rgba[len(rgb) + k, :3] = np.clip(
                np.asarray(colour) / 255 * look.brightness, 0, 1
            )
        model.light_dir[0] = -np.asarray(look.light)
        for k, T in enumerate(bodies):
            self._put(k, T[:3, :3], T[:3, 3])
        for k, (camera, T) in enumerate(cameras):
            self._put(len(bodies) + k, T[:3, :3] @ _OPTICAL_TO_GL, T[:3, 3])
            half = camera.height / 2 / camera.focal[1]
            model.cam_fovy[k] = np.degrees(2 * np.arctan(half))
        mj.mj_kinematics(model, data)
        mj.mj_camlight(model, data)
        box = mj.MjrRect(0, 0, self._size, self._size)
        out = []
        for k in range(len(cameras)):
            view = mj.MjvCamera()
            view.type, view.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED.value, k
            mj.mjv_updateScene(
                model, data, mj.MjvOption(), None, view, mj.mjtCatBit.mjCAT_ALL.value, self._scene
            )
            self._scene.flags[mj.mjtRndFlag.mjRND_SHADOW.value] = 0
            mj.mjr_render(box, self._scene, self._render)
            image = np.empty((self._size, self._size, 3), np.uint8)
            mj.mjr_readPixels(image, None, box, self._render)
            out.append(np.ascontiguousarray(image[::-1]))
        return out

    def _put(self, mocap: int, R: Float, p: Float) -> None:
        self._data.mocap_pos[mocap] = p
        self._mj.mju_mat2Quat(self._data.mocap_quat[mocap], np.ascontiguousarray(R).ravel())


def _picture_xml(
    solids: Sequence[Solid], table: tuple[float, float, float, float], cameras: int, size: int
) -> str:
    """A model of what is seen: a mocap body for each body and each camera, geoms in order."""
    root = ET.Element('mujoco', model='panda picture')
    visual = ET.SubElement(root, 'visual')
    ET.SubElement(visual, 'global', offwidth=str(size), offheight=str(size))
    ET.SubElement(visual, 'quality', offsamples='0', numslices='20', numstacks='10')
    ET.SubElement(visual, 'headlight', ambient='.45 .45 .45', diffuse='.15 .15 .15')
    ET.SubElement(visual, 'map', znear=str(NEAR), zfar='20')
    ET.SubElement(root, 'statistic', extent='1')  # the unit of both
    asset = ET.SubElement(root, 'asset')
    ET.SubElement(
        asset, 'texture', type='skybox', builtin='flat', rgb1='.69 .71 .74', width='8', height='8'
    )
    # Something to hold on to for optical flow; planks are the painter's.
    for name, repeat in (('table', '16 16'), ('floor', '10 10')):
        ET.SubElement(
            asset, 'texture', name=name, type='2d', builtin='checker', rgb1='1 1 1',
            rgb2='.84 .84 .84', width='64', height='64',
        )
        ET.SubElement(asset, 'material', name=name, texture=name, texrepeat=repeat)
    world = ET.SubElement(root, 'worldbody')
    ET.SubElement(
        world, 'light', directional='true', castshadow='false', pos='0 0 2', diffuse='.5 .5 .5'
    )
    # Solids come body after body, so geoms are numbered as they are.
    for body in range(max(s.body for s in solids) + 1):
        element = ET.SubElement(world, 'body', name=f'b{body}', mocap='true')
        for solid in solids:
            if solid.body == body:
                _geom(element, solid)
    for k in range(cameras):
        carrier = ET.SubElement(world, 'body', name=f'c{k}', mocap='true')
        ET.SubElement(carrier, 'camera', name=f'camera{k}')
    # In a body of its own, so that both come after the solids.
    around = ET.SubElement(world, 'body', name='around')
    x0, x1, y0, y1 = table
    ET.SubElement(
        around, 'geom', type='box', pos=f'{(x0 + x1) / 2} {(y0 + y1) / 2} -0.02',
        size=f'{(x1 - x0) / 2} {(y1 - y0) / 2} 0.02', material='table', rgba='.7 .55 .4 1',
    )
    ET.SubElement(
        around, 'geom', type='box', pos=f'0 0 {FLOOR_HEIGHT - 0.01}', size='4 4 0.01',
        material='floor', rgba='.4 .4 .4 1',
    )
    return ET.tostring(root, encoding='unicode')


def _geom(parent: ET.Element, solid: Solid) -> None:
    quat = np.empty(4)
    mujoco().mju_mat2Quat(quat, np.ascontiguousarray(solid.origin[:3, :3]).ravel())
    half = solid.half
    if isinstance(solid.shape, Box):
        kind, size = 'box', half
    elif isinstance(solid.shape, Cylinder):
        kind, size = 'cylinder', half[[0, 2]]
    else:
        kind, size = 'sphere', half[:1]
    ET.SubElement(
        parent, 'geom', type=kind, size=' '.join(map(str, size)), contype='0', conaffinity='0',
        pos=' '.join(map(str, solid.origin[:3, 3])), quat=' '.join(map(str, quat)),
    )


__all__ = ['BACKENDS', 'GlPainter']
