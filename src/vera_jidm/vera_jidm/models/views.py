"""Networks that look at each view of the canvas on its own, at an input size of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_jidm.models.base import JacobianConfig, JacobianNetwork

# Weight of the cells that no view covers; J is zero there.
NOWHERE = 1e-6


@dataclass(frozen=True)
class ViewsConfig(JacobianConfig):
    """A network over views.

    Attributes:
        views: rectangles (x0, y0, x1, y1) of the canvas [px], on borders of cells; the whole canvas
            if empty. What lies outside gets J = 0.
        input: height and width that each view is resized to [px].
        pixels: None: the outputs are in the scales of the checkpoint. (px, py): one unit of the
            outputs is so many pixels of the input in x and in y; they are carried over to pixels of
            the canvas, so the checkpoint's flow scale must be 1 px.
        full: whether the head works at the input's resolution (as the authors' do), rather than at
            that of the cells, which is much cheaper. Views of different sizes need the former and
            get it.
        learned_weights: whether the head predicts row weights.
    """

    views: tuple[tuple[int, int, int, int], ...] = ()
    input: tuple[int, int] = (252, 252)
    pixels: tuple[float, float] | None = None
    full: bool = False
    learned_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for box in self.boxes:
            x0, y0, x1, y1 = box
            if not (0 <= x0 < x1 <= self.width and 0 <= y0 < y1 <= self.height):
                raise ValueError(
                    f'view {list(box)} does not lie on the canvas of {self.width} x '
                    f'{self.height} px'
                )
            if any(edge % self.grid for edge in box):
                raise ValueError(f'view {list(box)} cuts through cells of {self.grid} px')

    @property
    def boxes(self) -> tuple[tuple[int, int, int, int], ...]:
        """The views, at least one."""
        return self.views or ((0, 0, self.width, self.height),)


class ViewsNetwork(JacobianNetwork):
    """Resizes views, lets `field` look at them, puts the answers back on the canvas."""

    config: ViewsConfig

    @property
    def outputs(self) -> int:
        """Channels that `field` gives.

        2 n of the Jacobian (dx, dy of the first action, then of the second ...), and three of row
        weights if they are learned.
        """
        return 2 * self.config.channels + 3 * self.config.learned_weights

    def field(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, V, 3, *input] in 0..1 -> [B, V, outputs, *size]."""
        raise NotImplementedError

    def jacobian(self, images: Tensor) -> Tensor:
        """Views [B, V, 3, *input] in 0..1 -> J [B, V, n, 2, *input], units of the outputs."""
        out = self.field(images, self.config.input)
        return out[:, :, : 2 * self.config.channels].unflatten(2, (-1, 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `JacobianNetwork`."""
        c = self.config
        views = torch.stack(
            [_resized(images[..., y0:y1, x0:x1], c.input) for x0, y0, x1, y1 in c.boxes], dim=1
        )
        sizes = [((y1 - y0) // c.grid, (x1 - x0) // c.grid) for x0, y0, x1, y1 in c.boxes]
        shared = c.input if c.full or len(set(sizes)) > 1 else sizes[0]
        out = self.field(views, shared)
        with torch.autocast(images.device.type, enabled=False):
            out = out.float()
            b, n, h, w = len(images), c.channels, c.height // c.grid, c.width // c.grid
            J = images.new_zeros((b, 2 * n, h, w))
            weights = images.new_full((b, 3, h, w), NOWHERE)
            for i, (x0, y0, x1, y1) in enumerate(c.boxes):
                cells = F.interpolate(out[:, i], size=sizes[i], mode='area')
                rows = slice(y0 // c.grid, y1 // c.grid)
                columns = slice(x0 // c.grid, x1 // c.grid)
                J[..., rows, columns] = cells[:, : 2 * n] * self._units(x1 - x0, y1 - y0, cells)
                weights[..., rows, columns] = self._weights(cells)
        return J.unflatten(1, (n, 2)), weights

    def _units(self, width: int, height: int, like: Tensor) -> Tensor:
        """Per output: pixels of the canvas per unit, or 1 if they are in the right units."""
        if self.config.pixels is None:
            return like.new_ones((2 * self.config.channels, 1, 1))
        px, py = self.config.pixels
        x = px * width / self.config.input[1]
        y = py * height / self.config.input[0]
        return like.new_tensor([x, y] * self.config.channels)[:, None, None]

    def _weights(self, cells: Tensor) -> Tensor:
        if self.config.learned_weights:
            return self.row_weights(cells[:, 2 * self.config.channels :])
        return torch.ones_like(cells[:, :1]).expand(-1, 3, -1, -1)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode='bilinear', align_corners=False)
