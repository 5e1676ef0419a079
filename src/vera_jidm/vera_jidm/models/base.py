"""What every Jacobian network is: one class, one config, one output."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

Config = TypeVar('Config', bound='JacobianConfig')


class BackboneError(RuntimeError):
    """A backbone cannot be had or may not be used; the message says what to do about it."""


@dataclass(frozen=True)
class JacobianConfig:
    """What a checkpoint must know to build a network; each family adds its own fields.

    Attributes:
        channels: n, action channels.
        height, width: canvas in pixels.
        gradient_rows: whether weights for the gradient rows are predicted and used.
        grid: pixels per cell of the output, in x and in y.
        confidence: whether the weight of the value rows is the confidence that training fits to
            the error of the predicted flow (aleatoric), rather than free.
        confidence_range: smallest and largest confidence; without the upper bound its training
            diverges where the error does not fall (their image_jacobian.py, pmap_confidence_clamp).
    """

    family: ClassVar[str] = ''

    channels: int
    height: int
    width: int
    gradient_rows: bool = True
    grid: int = 2
    confidence: bool = False
    confidence_range: tuple[float, float] = (1e-3, 20.0)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f'channels is {self.channels}; a Jacobian needs at least one')
        if self.grid < 1:
            raise ValueError(f'grid is {self.grid}; a cell has at least one pixel')
        for name in ('height', 'width'):
            value = getattr(self, name)
            if value < self.grid or value % self.grid:
                raise ValueError(
                    f'canvas {name} is {value} px; it must be a multiple of the cells, '
                    f'{self.grid} px'
                )
        low, high = self.confidence_range
        if not 0 < low < high:
            raise ValueError(f'confidence_range is {low}..{high}; it must be 0 < low < high')

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint's JSON; `from_dict` is its inverse."""
        return {'family': self.family, **_lists(asdict(self))}

    @classmethod
    def from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
        """From a checkpoint's JSON; raises ValueError naming what is missing or unknown."""
        values = {k: _tuples(v) for k, v in values.items()}
        family = values.pop('family', cls.family)
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        missing = sorted({'channels', 'height', 'width'} - set(values))
        if unknown or missing:
            raise ValueError(f'network config: unknown {unknown}, missing {missing}')
        if family != cls.family:
            raise ValueError(f'network config: is of family {family!r}, not {cls.family!r}')
        return cls(**values)


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, (tuple, list)) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (tuple, list)) else value


class JacobianNetwork(nn.Module):
    """RGB -> per-cell Jacobian and row weights.

    `forward(images [B, 3, H, W] in 0..1)` gives J [B, n, 2, h, w] in normalised units (flow and
    actions over their scales) and weights [B, 3, h, w] > 0 of the value rows and of the differences
    in x and in y; h = H / grid, w = W / grid. With `config.confidence`, weights[:, 0] is the
    confidence, within `config.confidence_range`.
    """

    family: ClassVar[str]
    config: JacobianConfig

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        raise NotImplementedError

    def load_backbone(self) -> None:
        """Load what a training starts from; a family without pretrained parts has nothing to load.

        Raises:
            BackboneError: it cannot be had here.
        """

    def row_weights(self, raw: Tensor) -> Tensor:
        """Free numbers [B, 3, h, w] -> weights > 0, the confidence clamped if there is one."""
        weights = F.softplus(raw) + 1e-3
        if not self.config.confidence:
            return weights
        low, high = self.config.confidence_range
        return torch.cat([weights[:, :1].clamp(low, high), weights[:, 1:]], dim=1)

    @property
    def parameters_count(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
