"""Flow from a network: sizes, batches and weights files; which network is for the subclasses."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_core.seams import Array, Image
from vera_jidm.flow.base import FlowError, PairFlow
from vera_jidm.flow.sizes import resize_flow

if TYPE_CHECKING:
    from torch import Tensor

# Pairs and directions in one forward: a chunk of plan and its reverse are one, data sets are cut.
_MOST = 32


class NetworkFlow(PairFlow):
    """A network that maps image pairs to flow.

    Both directions of all pairs are one batch. Images are upscaled (bilinear) until their shorter
    side has `side` pixels, and padded by their edge to the network's multiple; the flow is cropped
    and averaged back, in pixels of the images that came in.

    Args:
        flow_id: names network, settings and weights.
        side: of the images that the network sees, px.
        multiple: what their height and width must be divisible by.
        device: of torch; a CUDA device if there is one unless named.
    """

    def __init__(
        self, flow_id: str, *, side: int = 256, multiple: int = 8, device: str | None = None
    ) -> None:
        import torch

        self.flow_id = flow_id
        self._side, self._multiple = side, multiple
        self._device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))

    @abstractmethod
    def _forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Flow a -> b [B, 2, H, W] px of RGB images float32 [B, 3, H, W], 0..1."""

    def directions(self, a: Image, b: Image) -> tuple[Array, Array]:
        """Flow a -> b and b -> a, float32 [N, H, W, 2] px each."""
        n = len(a)
        first, second = np.concatenate([a, b]), np.concatenate([b, a])
        flow = np.concatenate(
            [
                self._run(first[i : i + _MOST], second[i : i + _MOST])
                for i in range(0, 2 * n, _MOST)
            ]
        )
        return flow[:n], flow[n:]

    def _run(self, a: Image, b: Image) -> Array:
        import torch
        from torch.nn import functional

        h, w = a.shape[1:3]
        up = max(1.0, self._side / min(h, w))
        height, width = round(h * up), round(w * up)
        pad = (0, -width % self._multiple, 0, -height % self._multiple)

        def prepare(images: Image) -> Tensor:
            planar = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            x = planar.to(self._device, torch.float32).div_(255)
            if (height, width) != (h, w):
                x = functional.interpolate(x, size=(height, width), mode='bilinear')
            return functional.pad(x, pad, mode='replicate')

        with torch.inference_mode():
            out = self._forward(prepare(a), prepare(b))
        expected = (len(a), 2, height + pad[3], width + pad[1])
        if tuple(out.shape) != expected:
            raise FlowError(f'{self.flow_id} gave flow {list(out.shape)}, not {list(expected)}')
        flow = out[..., :height, :width].permute(0, 2, 3, 1).float().cpu().numpy()
        return resize_flow(flow, h, w)


def weights_hash(path: Path) -> str:
    """First 8 hex digits of the SHA-256 of a file; FlowError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open('rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise FlowError(f'the weights {path} cannot be read: {error.strerror or error}') from error
    return digest.hexdigest()[:8]


def read_weights(path: Path) -> dict[str, Any]:
    """The state dict in a .safetensors file, or in one that torch saved (weights only)."""
    import torch

    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file

            return dict(load_file(path))
        found = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        # torch, zip and pickle each have errors of their own for a damaged file.
        raise FlowError(f'{path} holds no weights that can be read: {error}') from error
    for key in ('state_dict', 'model'):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        raise FlowError(f'{path} holds no state dict (names and tensors)')
    return {key.removeprefix('module.'): value for key, value in found.items()}
