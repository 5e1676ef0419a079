"""Several processes that share every batch, through accelerate; or just this one.

Start them with `torchrun --nproc_per_node 2 .venv/bin/vera train idm ...` (or `accelerate launch`
on GPUs), once the self-play is there (`vera collect`). Each takes its part of each batch and
gradients are averaged, so the result is that of one process with the whole batch, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vera_jidm.recipe import TrainingError


class Processes:
    """This process among `count`; `main` writes files and measures.

    Args:
        device: 'cpu' or 'cuda'.

    Raises:
        TrainingError: several processes without accelerate, or no such device.
    """

    def __init__(self, device: str = 'cpu') -> None:
        self.index, self.count = 0, 1
        self.device = torch.device(device)
        self._accelerator: Any = None
        if device == 'cuda' and not torch.cuda.is_available():
            raise TrainingError(
                'device cuda is not there: no NVIDIA GPU, or a PyTorch without CUDA '
                '(`make setup GPU=1`); or train with --device cpu'
            )
        if int(os.environ.get('WORLD_SIZE', '1')) > 1:
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise TrainingError(
                    'training in several processes needs accelerate: `pip install accelerate`'
                ) from error
            self._accelerator = Accelerator(cpu=device == 'cpu')
            self.index = int(self._accelerator.process_index)
            self.count = int(self._accelerator.num_processes)
            self.device = self._accelerator.device

    @property
    def main(self) -> bool:
        """Whether this is the first one."""
        return self.index == 0

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes, without gradient."""
        if self._accelerator is None:
            return value
        found: Tensor = self._accelerator.reduce(value.detach().clone(), 'mean')
        return found

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self._accelerator is None:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([g.flatten() for g in grads]))
        at = 0
        for g in grads:
            g.copy_(flat[at : at + g.numel()].view_as(g))
            at += g.numel()

    def share(self, value: float) -> float:
        """The first process' number, for all."""
        if self._accelerator is None:
            return value
        mine = torch.tensor(value if self.main else 0.0, dtype=torch.float64, device=self.device)
        return float(self.mean(mine)) * self.count

    def wait(self) -> None:
        """Until all are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
