"""The GPU, as its driver and as torch see it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vera_bringup.doctor.finding import ERROR, OK, WARN, Finding

QUERY = ['nvidia-smi', '--query-gpu=name,driver_version,memory.free,memory.total',
         '--format=csv,noheader,nounits']  # fmt: skip
NEEDS_GPU = ('wan',)
WHY = 'planners of the Wan family need one; compact planners and translators run on the CPU'


@dataclass(frozen=True)
class TorchGpu:
    """What torch says: its version, the CUDA that it was built for ('' for none), use."""

    version: str
    cuda: str
    usable: bool


def ask_driver() -> str | None:
    """Lines of nvidia-smi; None without it, '' when it fails."""
    if shutil.which('nvidia-smi') is None:
        return None
    try:
        ran = subprocess.run(QUERY, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return ran.stdout if ran.returncode == 0 else ''


def ask_torch() -> TorchGpu | None:
    """What torch says; None without it."""
    try:
        import torch
    except ImportError:
        return None
    return TorchGpu(torch.__version__, torch.version.cuda or '', torch.cuda.is_available())


def checks(
    planner: str = '',
    driver: Callable[[], str | None] = ask_driver,
    torch: Callable[[], TorchGpu | None] = ask_torch,
) -> Iterator[Finding]:
    """One line for each GPU, and one for torch where they do not fit.

    Args:
        planner: that is to run here; '' if unknown.
        driver: nvidia-smi's answer.
        torch: torch's.
    """
    said = driver()
    need = planner in NEEDS_GPU
    if said is None:
        yield Finding(
            'gpu', ERROR if need else OK, f'none{f", but planner {planner} needs one" * need}', WHY,
            'let another machine plan: docs/how-to/several-machines.md' if need else '',
        )  # fmt: skip
        return
    if not said.strip():
        yield Finding(
            'gpu', ERROR if need else WARN, 'nvidia-smi is there but fails', WHY,
            'run nvidia-smi; after an update of the driver the machine has to be started again',
        )  # fmt: skip
        return
    for line in said.strip().splitlines():
        name, version, free, total = (part.strip() for part in line.split(','))
        yield Finding('gpu', OK, f'{name}, driver {version}, {free} of {total} MiB free', WHY)
    found = torch()
    if found is not None and not found.usable:
        built = f'CUDA {found.cuda}' if found.cuda else 'the CPU only'
        text = f'torch {found.version}, built for {built}, does not use it'
        cure = 'update the driver: nvidia-smi' if found.cuda else 'make setup GPU=1'
        yield Finding('torch', ERROR if need else WARN, text, WHY, cure)
