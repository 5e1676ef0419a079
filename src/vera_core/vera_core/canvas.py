"""The canvas: all views side by side in one image, as planner and translator see them.

Views go left to right in the order of the contract, each scaled by area averaging to the height of
the canvas with its aspect kept; what is left on the right is black.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from vera_core.contract import CameraSpec, Contract
from vera_core.seams import Image


class CanvasError(ValueError):
    """Images that do not fit the contract; the message names the camera."""


def slots(contract: Contract) -> dict[str, slice]:
    """Columns of the canvas that each camera's view takes."""
    found: dict[str, slice] = {}
    left = 0
    for camera in contract.cameras:
        width = contract.slot_width(camera)
        found[camera.name] = slice(left, left + width)
        left += width
    return found


def tile(images: Mapping[str, Image], contract: Contract) -> Image:
    """One canvas from one image of every camera.

    Args:
        images: camera name -> uint8 [height, width, 3] as the contract says, RGB.
        contract: says order, crops and sizes.

    Returns:
        uint8 [H, W, 3], a new array.

    Raises:
        CanvasError: a camera is missing or unknown, or an image has another size or type.
    """
    unknown = [name for name in images if name not in contract.camera_names]
    if unknown:
        raise CanvasError(
            f'no camera {unknown[0]!r} in the contract; it has {", ".join(contract.camera_names)}'
        )
    canvas = np.zeros((contract.canvas.height, contract.canvas.width, 3), np.uint8)
    columns = slots(contract)
    for camera in contract.cameras:
        if camera.name not in images:
            raise CanvasError(f'no image of camera {camera.name!r}')
        view = canvas[:, columns[camera.name]]
        view[:] = fit(images[camera.name], camera, view.shape[0], view.shape[1])
    return canvas


def fit(image: Image, camera: CameraSpec, height: int, width: int) -> Image:
    """The used part of a camera image, scaled by area averaging to `height` x `width`."""
    if image.dtype != np.uint8 or image.shape != (camera.height, camera.width, 3):
        raise CanvasError(
            f'image of camera {camera.name!r} is {image.dtype} {list(image.shape)}; the contract '
            f'says uint8 [{camera.height}, {camera.width}, 3]'
        )
    used = camera.used
    part = image[used.y : used.y + used.height, used.x : used.x + used.width]
    if part.shape[:2] == (height, width):
        return part
    scaled: Image = cv2.resize(
        np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_AREA
    )
    return scaled


def untile(canvas: Image, contract: Contract) -> dict[str, Image]:
    """The views of a canvas, at the scale of the canvas; the padding is dropped.

    Args:
        canvas: uint8 [H, W, 3], or [..., H, W, 3] for a stack of them.
        contract: says order and sizes.

    Returns:
        Camera name -> view on `canvas` (no copy), uint8 [..., H, slot width, 3].

    Raises:
        CanvasError: another size than the contract's canvas.
    """
    expected = (contract.canvas.height, contract.canvas.width, 3)
    if canvas.shape[-3:] != expected:
        raise CanvasError(f'canvas is {list(canvas.shape)}; the contract says {list(expected)}')
    return {name: canvas[..., columns, :] for name, columns in slots(contract).items()}
