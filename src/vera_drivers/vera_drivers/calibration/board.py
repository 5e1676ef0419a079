"""A ChArUco board: printed, and found in pictures.

The board's frame is OpenCV's: origin in the corner of the first square, x along the first row, y
along the first column, z into the paper; metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Image

PAPERS = {'a4': (0.297, 0.210), 'letter': (0.2794, 0.2159), 'a3': (0.420, 0.297)}  # m, landscape
DPI = 300
RULER = 0.1  # m, printed below the board to check the printer's scale
INCH = 0.0254
MARKER_SHARE = 0.75  # of the side of a square


class BoardError(ValueError):
    """A board that cannot be; the message says why."""


@dataclass(frozen=True)
class Detection:
    """The inner corners of a board found in one picture.

    Attributes:
        pixels: float64 [N, 2], u and v; the centre of the first pixel is (0, 0).
        points: float64 [N, 3], the same corners on the board [m].
    """

    pixels: NDArray[np.float64]
    points: NDArray[np.float64]

    @property
    def count(self) -> int:
        """N."""
        return len(self.pixels)


@dataclass(frozen=True)
class Board:
    """A board of `columns` x `rows` squares.

    Attributes:
        columns, rows: squares, at least 3.
        square: side of a square [m].
        marker: side of a marker [m]; three quarters of the square's unless given.
        dictionary: of the markers, one of OpenCV's by name.
    """

    columns: int = 7
    rows: int = 5
    square: float = 0.035
    marker: float = 0.0
    dictionary: str = '4X4_50'

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 3:
            raise BoardError(f'{self.columns} x {self.rows} squares; 3 x 3 is the least')
        if not (math.isfinite(self.square) and self.square > 0):
            raise BoardError(f'squares of {self.square} m; their side must be positive')
        if not (math.isfinite(self.marker) and 0 <= self.marker < self.square):
            raise BoardError(
                f'markers of {self.marker} m do not fit into squares of {self.square} m'
            )
        number = getattr(cv2.aruco, f'DICT_{self.dictionary}', None)
        if number is None:
            known = sorted(n[5:] for n in dir(cv2.aruco) if n.startswith('DICT_'))
            raise BoardError(f'unknown dictionary {self.dictionary!r}; known: {", ".join(known)}')
        markers = cv2.aruco.getPredefinedDictionary(number)
        needed = self.columns * self.rows // 2
        if needed > len(markers.bytesList):
            raise BoardError(
                f'{self.columns} x {self.rows} squares need {needed} markers; {self.dictionary} '
                f'has {len(markers.bytesList)}'
            )
        side = self.marker or MARKER_SHARE * self.square
        made = cv2.aruco.CharucoBoard((self.columns, self.rows), self.square, side, markers)
        object.__setattr__(self, '_board', made)
        object.__setattr__(self, '_detector', cv2.aruco.CharucoDetector(made))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height [m]."""
        return self.columns * self.square, self.rows * self.square

    def detect(self, image: Image) -> Detection:
        """The corners seen in uint8 [H, W, 3] RGB or [H, W]; maybe none."""
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        detector: Any = self._detector  # type: ignore[attr-defined]
        corners, ids, *_ = detector.detectBoard(grey)
        if ids is None or not len(ids):
            return Detection(np.zeros((0, 2)), np.zeros((0, 3)))
        board: Any = self._board  # type: ignore[attr-defined]
        points = np.asarray(board.getChessboardCorners(), np.float64)
        return Detection(
            np.asarray(corners, np.float64).reshape(-1, 2), points[np.asarray(ids).ravel()]
        )

    def draw(self, pixels_per_metre: float) -> NDArray[np.uint8]:
        """The board without a margin, uint8 [H, W], black and white."""
        width, height = (max(1, round(side * pixels_per_metre)) for side in self.size)
        board: Any = self._board  # type: ignore[attr-defined]
        drawn: NDArray[np.uint8] = board.generateImage((width, height), marginSize=0, borderBits=1)
        return drawn

    def save(self, path: Path, paper: str = 'a4') -> None:
        """Write a page to print at full size, as .pdf or .png.

        The page tells the sizes, and has a ruler that must measure 100 mm on paper.

        Raises:
            BoardError: another suffix, an unknown paper, or a board larger than the page.
        """
        from PIL import Image as Picture  # matplotlib brings it

        if path.suffix.lower() not in ('.pdf', '.png'):
            raise BoardError(f'{path} is neither .pdf nor .png')
        if paper not in PAPERS:
            raise BoardError(f'unknown paper {paper!r}; known: {", ".join(PAPERS)}')
        dots = DPI / INCH
        width, height = (round(side * dots) for side in PAPERS[paper])
        drawn = self.draw(dots)
        below = round(0.022 * dots)  # for ruler and text
        if drawn.shape[1] > width - 2 * 0.005 * dots or drawn.shape[0] > height - below:
            w, h = (1e3 * side for side in self.size)
            raise BoardError(
                f'a board of {w:.0f} x {h:.0f} mm does not fit on {paper}; take smaller squares '
                'or larger paper'
            )
        page = np.full((height, width), 255, np.uint8)
        x, y = (width - drawn.shape[1]) // 2, (height - below - drawn.shape[0]) // 2
        page[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
        line, length = y + drawn.shape[0] + round(0.01 * dots), round(RULER * dots)
        thick = round(0.0003 * dots)
        page[line : line + thick, x : x + length] = 0
        for end in (x, x + length - thick):
            page[line - below // 8 : line + below // 8, end : end + thick] = 0
        marker = self.marker or MARKER_SHARE * self.square
        text = (
            f'{self.columns} x {self.rows}, squares {1e3 * self.square:g} mm, markers '
            f'{1e3 * marker:g} mm, {self.dictionary}. '
            'Print at 100 %: then the line above is 100 mm.'
        )
        cv2.putText(
            page, text, (x, line + round(0.008 * dots)), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (0,), 2,
            cv2.LINE_AA,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        # One bit a pixel: a PDF then keeps the edges sharp.
        picture = Picture.fromarray(page).convert('1', dither=Picture.Dither.NONE)
        if path.suffix.lower() == '.pdf':
            picture.save(path, resolution=DPI)
        else:
            picture.save(path, dpi=(DPI, DPI))


__all__ = ['MARKER_SHARE', 'PAPERS', 'Board', 'BoardError', 'Detection']
