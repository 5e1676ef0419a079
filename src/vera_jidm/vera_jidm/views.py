"""The views of a canvas: where each camera's picture lies, and which rows of the solve may use it.

Views are separate rows of one solve. Flow never crosses from one view into its neighbour, neither
do the finite differences of the gradient rows, and the black padding says nothing at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vera_core import canvas
from vera_core.contract import Contract
from vera_core.seams import Array


class ViewError(ValueError):
    """Views that do not fit the canvas, or weights that make no sense; names the view."""


@dataclass(frozen=True)
class ViewBox:
    """The rectangle of one view on the canvas.

    Attributes:
        name: of the camera.
        x0, y0, x1, y1: pixels of the canvas; x1 and y1 are just outside.
        weight: of the view's rows in the solve; 0 leaves the view out.
    """

    name: str
    x0: int
    y0: int
    x1: int
    y1: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if min(self.x0, self.y0) < 0 or self.x1 <= self.x0 or self.y1 <= self.y0:
            raise ViewError(
                f'view {self.name!r} covers no pixel: x {self.x0}..{self.x1}, '
                f'y {self.y0}..{self.y1}'
            )
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ViewError(
                f'the weight of view {self.name!r} is {self.weight}; it must be a number >= 0'
            )

    @property
    def width(self) -> int:
        """Pixels of the canvas."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Pixels of the canvas."""
        return self.y1 - self.y0

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas, to index [H, W] with."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def view_boxes(
    contract: Contract, weights: Mapping[str, float] | None = None
) -> tuple[ViewBox, ...]:
    """The views of a contract's canvas, left to right.

    Args:
        contract: says cameras and canvas.
        weights: camera name -> weight of its rows; 1 where a camera is not named.

    Raises:
        ViewError: a weight for a camera that there is not, a negative weight, or none above 0.
    """
    weights = weights or {}
    unknown = [name for name in weights if name not in contract.camera_names]
    if unknown:
        raise ViewError(
            f'a weight for view {unknown[0]!r}; the contract has {", ".join(contract.camera_names)}'
        )
    height = contract.canvas.height
    boxes = tuple(
        ViewBox(name, columns.start, 0, columns.stop, height, float(weights.get(name, 1.0)))
        for name, columns in canvas.slots(contract).items()
    )
    if not any(box.weight > 0 for box in boxes):
        raise ViewError('every view has weight 0; nothing would be left to solve with')
    return boxes


def check_boxes(boxes: Sequence[ViewBox], height: int, width: int) -> None:
    """Raise ViewError unless the boxes lie on a canvas of that size, apart from each other."""
    taken: list[ViewBox] = []
    for box in boxes:
        if box.x1 > width or box.y1 > height:
            raise ViewError(
                f'view {box.name!r} reaches x {box.x1}, y {box.y1}; the canvas is '
                f'{width} x {height} px'
            )
        for other in taken:
            if box.x0 < other.x1 and other.x0 < box.x1 and box.y0 < other.y1 and other.y0 < box.y1:
                raise ViewError(f'views {other.name!r} and {box.name!r} overlap')
        taken.append(box)


def row_weights(boxes: Sequence[ViewBox], height: int, width: int, grid: int) -> Array:
    """What each row of the solve may count because of the views alone.

    Multiply the row weights of a network, [N, 3, h, w], by it: a view's rows count with the view's
    weight; padding, cells cut by a border, and differences over a border count nothing.

    Args:
        boxes: of the views.
        height: of the canvas, px; a multiple of `grid`.
        width: likewise.
        grid: pixels of the canvas in a cell's side.

    Returns:
        float32 [3, height / grid, width / grid], for the values and for the differences in x and
        in y (between the two neighbours of a cell, see vera_jidm.ridge).

    Raises:
        ViewError: boxes outside of the canvas or overlapping; a canvas that is no multiple.
    """
    check_boxes(boxes, height, width)
    if height % grid or width % grid:
        raise ViewError(f'a canvas of {width} x {height} px is no multiple of cells of {grid} px')
    owner = np.full((height // grid, width // grid), -1)
    weight = np.zeros(owner.shape, np.float32)
    for i, box in enumerate(boxes):
        rows = slice(-(-box.y0 // grid), box.y1 // grid)
        columns = slice(-(-box.x0 // grid), box.x1 // grid)
        owner[rows, columns] = i
        weight[rows, columns] = box.weight
    out = np.zeros((3, *owner.shape), np.float32)
    out[0] = weight
    same = (owner[:, 2:] == owner[:, 1:-1]) & (owner[:, :-2] == owner[:, 1:-1])
    out[1, :, 1:-1] = weight[:, 1:-1] * same
    same = (owner[2:] == owner[1:-1]) & (owner[:-2] == owner[1:-1])
    out[2, 1:-1] = weight[1:-1] * same
    return out


__all__ = ['ViewBox', 'ViewError', 'check_boxes', 'row_weights', 'view_boxes']
