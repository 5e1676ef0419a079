"""A trained J-IDM: network, scales and flow estimator, and its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)

from vera_core.checkpoint import CheckpointError, CheckpointInfo
from vera_core.seams import Array, Image
from vera_jidm.models import BackboneError, JacobianNetwork, build

# Actions beyond this many times the largest training action are scaled down to it.
LIMIT_FACTOR = 2.0


@dataclass(frozen=True)
class Scales:
    """What the network's units mean.

    Attributes:
        action: float64 [n], root mean square of the training actions, contract units.
        action_max: float64 [n], largest training action of each channel.
        flow: root mean square of the training flow over all cells, px.
    """

    action: NDArray[np.float64]
    action_max: NDArray[np.float64]
    flow: float

    @property
    def limit(self) -> float:
        """Largest action that a solve may return, in multiples of `action`."""
        return LIMIT_FACTOR * float((self.action_max / self.action).max())

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint's JSON."""
        return {
            'action': [float(x) for x in self.action],
            'action_max': [float(x) for x in self.action_max],
            'flow': float(self.flow),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scales:
        """From a checkpoint's JSON; raises ValueError when a number makes no sense."""
        try:
            scales = cls(
                np.array(values['action'], np.float64),
                np.array(values['action_max'], np.float64),
                float(values['flow']),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f'scales: {error} is missing or wrong') from error
        numbers = np.concatenate([scales.action, scales.action_max, [scales.flow]])
        if not (np.isfinite(numbers).all() and (numbers > 0).all()):
            raise ValueError('scales: every one must be a positive number')
        return scales


class TrainedJacobian:
    """The JacobianModel seam over a trained network.

    Attributes:
        flow_id: estimator whose flow it was trained on.
        ridge: relative ridge of its solves.
    """

    def __init__(self, net: JacobianNetwork, scales: Scales, flow_id: str, ridge: float) -> None:
        self.net = net.eval()
        self.scales = scales
        self.flow_id = flow_id
        self.ridge = ridge

    def __call__(self, images: Image) -> Array:
        """uint8 [N, H, W, 3] -> J float32 [N, H, W, 2, n], pixels per unit of each channel."""
        J, _ = self.grid(images)
        unit = torch.from_numpy(self.scales.flow / self.scales.action).float()
        J = J * unit[:, None, None, None]
        n, grid = J.shape[1], self.net.config.grid
        h, w = J.shape[3] * grid, J.shape[4] * grid
        full = F.interpolate(J.flatten(1, 2), size=(h, w), mode='nearest')
        return full.unflatten(1, (n, 2)).permute(0, 3, 4, 2, 1).contiguous().numpy()

    @torch.inference_mode()
    def grid(self, images: Image) -> tuple[Tensor, Tensor]:
        """J [N, n, 2, h, w] and row weights [N, 3, h, w] on the grid, normalised units."""
        return self.net(to_tensor(images))


def to_tensor(images: Image) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], 0..1."""
    planar = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch.from_numpy(planar).float().div_(255)


def config_of(net: JacobianNetwork, scales: Scales, flow_id: str, ridge: float) -> dict[str, Any]:
    """The `config` of a checkpoint."""
    return {
        'network': net.config.to_dict(),
        'scales': scales.to_dict(),
        'flow_id': flow_id,
        'ridge': ridge,
    }


def load_model(info: CheckpointInfo) -> TrainedJacobian:
    """Build what a checkpoint describes.

    Raises:
        CheckpointError: its config or its weights do not make a Jacobian network.
    """
    try:
        net = build(info.config['network'])
        scales = Scales.from_dict(info.config['scales'])
        flow_id, ridge = str(info.config['flow_id']), float(info.config['ridge'])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'{info.path.name}: its config is wrong: {error}') from error
    except BackboneError as error:
        raise CheckpointError(f'{info.path.name}: {error}') from error
    weights = {k: torch.from_numpy(np.array(v)) for k, v in info.tensors().items()}
    if not all(bool(torch.isfinite(v).all()) for v in weights.values()):
        raise CheckpointError(f'{info.path.name}: a weight is not a finite number; train it again')
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f'{info.path.name}: weights do not fit: {error}') from error
    return TrainedJacobian(net, scales, flow_id, ridge)
