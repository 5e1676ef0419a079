"""How long a translation takes beside network and flow: `vera bench translate`.

The very JacobianTranslator, with a network and an estimator that already know their answers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vera_core.seams import Image
from vera_jidm import ridge
from vera_jidm.flow import FlowPair, PairFlow
from vera_jidm.model import Scales, TrainedJacobian
from vera_jidm.models.base import JacobianConfig, JacobianNetwork
from vera_jidm.translator import JacobianTranslator

MUST_MS = {'translate': 20.0, 'solve': 2.0}
_FLOW_ID = 'known'


class BenchError(RuntimeError):
    """A measurement that did not end well."""


class _KnownNetwork(JacobianNetwork):
    """Has seen every image before."""

    family = 'known'

    def __init__(self, config: JacobianConfig, steps: int) -> None:
        super().__init__()
        self.config = config
        g = torch.Generator().manual_seed(0)
        n, h, w = config.channels, config.height // config.grid, config.width // config.grid
        # Channels differ a hundredfold in what they move.
        size = torch.logspace(0, -2, n)[:, None, None, None]
        self.answer = (
            torch.randn(steps + 1, n, 2, h, w, generator=g) * size,
            torch.rand(steps + 1, 3, h, w, generator=g) + 0.01,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.answer


class _KnownFlow:
    """Has seen every pair before."""

    flow_id = _FLOW_ID

    def __init__(self, config: JacobianConfig, steps: int) -> None:
        rng = np.random.default_rng(0)
        shape = (steps, config.height, config.width)
        self._answer = FlowPair(
            rng.standard_normal((*shape, 2)).astype(np.float32),
            rng.standard_normal((*shape, 2)).astype(np.float32),
            rng.uniform(0.1, 1, shape).astype(np.float32),
            rng.uniform(0.1, 1, shape).astype(np.float32),
        )

    def both(self, a: Image, b: Image, **_: Any) -> FlowPair:
        return self._answer


def measure(
    size: int = 128, channels: int = 16, steps: int = 4, repeats: int = 300
) -> dict[str, Any]:
    """Wall and CPU milliseconds of one chunk, of its solve alone, and of its honesty signals.

    Args:
        size: side of the canvas, px.
        channels: n.
        steps: K frame pairs of the chunk.
        repeats: chunks that are timed, after three that are not.

    Returns:
        <part>_p50_ms and <part>_p99_ms of the wall clock, <part>_cpu_ms and <part>_cpu_p99_ms of
        the process's CPU time (the same on a machine that has nothing else to do) for translate and
        solve (ridge.solve of the K systems); honesty_p50_ms and honesty_cpu_ms, a step.
    """
    config = JacobianConfig(channels, size, size)
    scales = Scales(np.ones(channels), np.ones(channels), 1.0)
    model = TrainedJacobian(_KnownNetwork(config, steps), scales, _FLOW_ID, 5e-5)
    estimator = _KnownFlow(config, steps)
    names = tuple(f'c{i}' for i in range(channels))
    translator = JacobianTranslator(model, names, cast('PairFlow', estimator))
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (steps + 1, size, size, 3), np.uint8)
    rows = torch.randn(steps, channels, 500, generator=torch.Generator().manual_seed(1)).double()
    systems = ridge.NormalEquations(
        rows @ rows.transpose(1, 2), rows.sum(-1), torch.full((steps,), 500.0).double(),
        torch.full((steps,), 500.0).double(), torch.zeros(steps).double(),
    )
    out: dict[str, Any] = {
        'size': size, 'channels': channels, 'steps': steps, 'repeats': repeats,
        'threads': torch.get_num_threads(),
    }
    timed: dict[str, Callable[[], Any]] = {
        'translate': lambda: translator.translate(images[0], images[1:]),
        'explain': lambda: translator.explain(images[0], images[1:]),
        'solve': lambda: ridge.solve(systems, limit=2.0, noise=0.03),
    }
    times = {name: _time(work, repeats) for name, work in timed.items()}
    for name in ('translate', 'solve'):
        wall, cpu = times[name]
        out[f'{name}_p50_ms'], out[f'{name}_p99_ms'] = (
            round(float(np.percentile(wall, p)), 3) for p in (50, 99)
        )
        out[f'{name}_cpu_ms'], out[f'{name}_cpu_p99_ms'] = (
            round(float(np.percentile(cpu, p)), 3) for p in (50, 99)
        )
    extra = [
        float(np.median(times['explain'][i]) - np.median(times['translate'][i])) for i in (0, 1)
    ]
    out['honesty_p50_ms'], out['honesty_cpu_ms'] = (round(x / steps, 3) for x in extra)
    return out


def _time(work: Callable[[], Any], repeats: int) -> tuple[list[float], list[float]]:
    for _ in range(3):
        work()
    wall, cpu = [], []
    for _ in range(repeats):
        a, b = time.perf_counter(), time.process_time()
        work()
        wall.append((time.perf_counter() - a) * 1e3)
        cpu.append((time.process_time() - b) * 1e3)
    return wall, cpu


def measure_with(threads: int, **options: int) -> dict[str, Any]:
    """`measure` in a process of its own, whose BLAS was started with that many threads.

    Raises:
        BenchError: the process failed.
    """
    arguments = [f'--{name}={value}' for name, value in options.items()]
    environment = {
        **os.environ, 'OMP_NUM_THREADS': str(threads), 'OPENBLAS_NUM_THREADS': str(threads),
        'MKL_NUM_THREADS': str(threads),
    }
    done = subprocess.run(
        [sys.executable, '-m', 'vera_jidm.solve_bench', f'--threads={threads}', *arguments],
        env=environment, capture_output=True, text=True,
    )
    if done.returncode != 0:
        raise BenchError(f'the benchmark failed: {done.stderr.strip() or "no message"}')
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def main() -> None:
    """`python -m vera_jidm.solve_bench`: one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ('threads', 1), ('size', 128), ('channels', 16), ('steps', 4), ('repeats', 300)
    ):
        parser.add_argument(f'--{name}', type=int, default=default)
    options = vars(parser.parse_args())
    torch.set_num_threads(options.pop('threads'))
    sys.stdout.write(json.dumps(measure(**options)) + '\n')


if __name__ == '__main__':
    main()
