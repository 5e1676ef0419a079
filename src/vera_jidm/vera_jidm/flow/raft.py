"""RAFT (Teed and Deng 2020) as torchvision has it; torchvision and the weights are optional."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vera_jidm.flow.base import FlowError
from vera_jidm.flow.learned import NetworkFlow, read_weights, weights_hash

if TYPE_CHECKING:
    from torch import Tensor

# Where weights are looked for: a file, or a folder with raft_small.pth and raft_large.pth.
WEIGHTS_VARIABLE = 'VERA_RAFT_WEIGHTS'
SIZES = ('small', 'large')
# RAFT's correlation pyramid takes no less [px].
_LEAST = 128


class RaftFlow(NetworkFlow):
    """RAFT; both directions of all pairs in one forward.

    Args:
        size: 'small' (1.0 M weights) or 'large' (5.3 M).
        weights: a state dict in torchvision's layout; else what VERA_RAFT_WEIGHTS names, else
            torchvision's own from torch hub (a download, kept in its cache).
        updates: recurrent updates of the flow.
        side: the shorter side of what the network sees, px, at least 128.
        device: of torch; a CUDA device if there is one unless named.

    Raises:
        FlowError: torchvision is missing or broken; weights missing, damaged, or of another layout.
    """

    def __init__(
        self,
        size: str = 'small',
        weights: Path | None = None,
        *,
        updates: int = 12,
        side: int = 256,
        device: str | None = None,
    ) -> None:
        if size not in SIZES:
            raise FlowError(f'no RAFT {size!r}; there are {", ".join(SIZES)}')
        if side < _LEAST:
            raise FlowError(f'RAFT takes images of at least {_LEAST} px, not {side}')
        models = _torchvision()
        path = weights or _configured(size) or _from_hub(models, size)
        super().__init__(
            f'raft_{size}-{side}-u{updates}-{weights_hash(path)}', side=side, device=device
        )
        net = getattr(models, f'raft_{size}')(weights=None, progress=False)
        try:
            net.load_state_dict(read_weights(path))
        except RuntimeError as error:
            raise FlowError(
                f"{path} does not fit torchvision's raft_{size} (weights of other projects name "
                f'their tensors differently): {str(error).splitlines()[-1].strip()[:200]}'
            ) from error
        self._net = net.eval().to(self._device)
        self._updates = updates

    def _forward(self, a: Tensor, b: Tensor) -> Tensor:
        flows = self._net(a * 2 - 1, b * 2 - 1, num_flow_updates=self._updates)
        last: Tensor = flows[-1]
        return last


def _torchvision() -> Any:
    try:
        return import_module('torchvision.models.optical_flow')
    except ModuleNotFoundError as error:
        raise FlowError(
            f'RAFT needs {error.name}, which is not installed; `pip install torchvision` of the '
            'release that belongs to your torch (with the CPU build of torch add '
            '--index-url https://download.pytorch.org/whl/cpu)'
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        # The CUDA build of torchvision beside the CPU build of torch says "operator
        # torchvision::nms does not exist".
        raise FlowError(
            f'torchvision does not work with this torch ({error}); install the release and build '
            'that belong to it (with the CPU build of torch: pip install --force-reinstall '
            '--no-deps torchvision --index-url https://download.pytorch.org/whl/cpu)'
        ) from error


def _configured(size: str) -> Path | None:
    value = os.environ.get(WEIGHTS_VARIABLE)
    if not value:
        return None
    path = Path(value).expanduser()
    if path.is_dir():
        path = path / f'raft_{size}.pth'
    if not path.is_file():
        raise FlowError(f'{WEIGHTS_VARIABLE} says {value}, but there is no {path}')
    return path


def _from_hub(models: Any, size: str) -> Path:
    import torch

    url = getattr(models, f'Raft_{size.capitalize()}_Weights').DEFAULT.url
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(url).name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # torchvision's names end with the first digits of the file's SHA-256.
        digits = path.stem.split('-')[-1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
    except Exception as error:
        # Any of urllib's errors, or the file system's.
        raise FlowError(
            f'the weights of raft_{size} cannot be had from {url} ({error}); download them '
            f'elsewhere and name the file: raft_{size}:PATH or {WEIGHTS_VARIABLE}=PATH'
        ) from error
    return path
