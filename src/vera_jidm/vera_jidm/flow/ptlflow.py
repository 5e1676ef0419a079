"""The models of ptlflow (github.com/hmorimitsu/ptlflow) as estimators; the package is optional."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vera_jidm.flow.base import FlowError
from vera_jidm.flow.learned import NetworkFlow, weights_hash

if TYPE_CHECKING:
    from torch import Tensor


class PtlFlow(NetworkFlow):
    """A model of ptlflow by its name there, e.g. 'sea_raft_s', 'neuflow2' or 'rapidflow'.

    Many of its models' weights are licensed for research only: ptlflow's documentation says which.

    Args:
        model: its name in ptlflow.
        weights: a checkpoint file, or the name of one that ptlflow downloads ('things').
        side: the shorter side of what the network sees, px.
        device: of torch; a CUDA device if there is one unless named.

    Raises:
        FlowError: ptlflow is missing, has no such model, or the weights do not fit it.
    """

    def __init__(
        self, model: str, weights: str | Path, *, side: int = 256, device: str | None = None
    ) -> None:
        ptlflow = _ptlflow()
        names = list(ptlflow.get_model_names())
        if model not in names:
            raise FlowError(f'ptlflow has no model {model!r}; it has {", ".join(names)}')
        path = Path(weights).expanduser()
        mark = weights_hash(path) if path.is_file() else str(weights)
        if len(path.parts) > 1 and not path.is_file():
            raise FlowError(f'no weights {path} for ptlflow:{model}')
        try:
            net = ptlflow.get_model(model, str(path) if path.is_file() else str(weights))
        except Exception as error:
            # ptlflow lets through what urllib, torch and its argument parser raise.
            raise FlowError(
                f'ptlflow:{model} cannot be had with weights {str(weights)!r}: {error}'
            ) from error
        super().__init__(f'ptlflow-{model}-{side}-{mark}', side=side, device=device)
        self._net = net.eval().to(self._device)

    def _forward(self, a: Tensor, b: Tensor) -> Tensor:
        import torch

        # ptlflow takes BGR, [B, 2 images, 3, H, W], and pads to the model's stride itself.
        images = torch.stack([a.flip(1), b.flip(1)], dim=1)
        flows: Tensor = self._net({'images': images})['flows'][:, 0]
        return flows


def _ptlflow() -> Any:
    try:
        return import_module('ptlflow')
    except ModuleNotFoundError as error:
        raise FlowError(
            f'this estimator needs {error.name}, which is not installed; `pip install ptlflow`'
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise FlowError(
            f'ptlflow does not work here ({error}); install torch, torchvision and ptlflow of '
            'releases that belong together'
        ) from error
