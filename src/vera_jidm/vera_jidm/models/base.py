"""What every Jacobian network is: one class, one config, one output."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

Config = TypeVar('Config', bound='JacobianConfig')


@dataclass(frozen=True)
class JacobianConfig:
    """What a checkpoint must know to build a network; each family adds its own fields.

    Attributes:
        channels: n, action channels.
        height, width: canvas in pixels.
        gradient_rows: whether weights for the gradient rows are predicted and used.
        grid: pixels per cell of the output, in x and in y.
    """

    family: ClassVar[str] = ''

    channels: int
    height: int
    width: int
    gradient_rows: bool = True
    grid: int = 2

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f'channels is {self.channels}; a Jacobian needs at least one')
        if self.grid < 1:
            raise ValueError(f'grid is {self.grid}; a cell has at least one pixel')
        for name in ('height', 'width'):
            value = getattr(self, name)
            if value < self.grid or value % self.grid:
                raise ValueError(f'canvas {name} is {value} px; it must be a multiple of the grid, '
                                 f'{self.grid} px')

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint's JSON; `from_dict` is its inverse."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {'family': self.family, **values}

    @classmethod
    def from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
        """From a checkpoint's JSON; raises ValueError naming what is missing or unknown."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        family = values.pop('family', cls.family)
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        missing = sorted({'channels', 'height', 'width'} - set(values))
        if unknown or missing:
            raise ValueError(f'network config: unknown {unknown}, missing {missing}')
        if family != cls.family:
            raise ValueError(f'network config: is of family {family!r}, not {cls.family!r}')
        return cls(**values)


class JacobianNetwork(nn.Module):
    """RGB -> per-cell Jacobian and row weights.

    `forward(images [B, 3, H, W] in 0..1)` gives J [B, n, 2, h, w] in normalised units (flow and
    actions over their scales) and weights [B, 3, h, w] > 0 of the value rows and of the differences
    in x and in y; h = H / grid, w = W / grid.
    """

    family: ClassVar[str]
    config: JacobianConfig

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        raise NotImplementedError

    @property
    def parameters_count(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
