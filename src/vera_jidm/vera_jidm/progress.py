"""What a training leaves behind while it runs: its exact state, and the learning curve."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vera_core.checkpoint import write_atomic

Point = dict[str, float]


class StateError(ValueError):
    """A training state that cannot be resumed; the message says why."""


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        step: optimiser steps done.
        average: averaged weights.
        points: of the learning curve.
        seconds: spent so far.
        best: averaged weights of the lowest held-out error; None without early stop.
        lowest: that error.
        waited: evaluations since.
        scaler: of the losses, in half precision.
    """

    step: int
    average: dict[str, Tensor]
    points: list[Point]
    seconds: float = 0.0
    best: dict[str, Tensor] | None = None
    lowest: float = math.inf
    waited: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)


def save_state(
    path: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: dict[str, Any],
) -> None:
    """Write `<path>.safetensors` and `.json`: weights, averages, moments, step, curve."""
    step = progress.step
    tensors = {f'net.{k}': v.contiguous() for k, v in net.state_dict().items()}
    tensors |= {f'average.{k}': v.contiguous() for k, v in progress.average.items()}
    tensors |= {f'best.{k}': v.contiguous() for k, v in (progress.best or {}).items()}
    for i, moments in optimizer.state_dict()['state'].items():
        for key, value in moments.items():
            tensors[f'optimizer.{i}.{key}'] = torch.as_tensor(value).contiguous()
    # The step is inside both files: a crash between the two writes is found out.
    tensors['step'] = torch.tensor(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path.with_name(path.name + '.safetensors'), save(tensors))
    values = {
        'step': step, 'seconds': progress.seconds, 'points': progress.points,
        'lowest': progress.lowest if math.isfinite(progress.lowest) else None,
        'waited': progress.waited, 'scaler': progress.scaler, **identity,
    }
    text = json.dumps(values, indent=1)
    write_atomic(path.with_name(path.name + '.json'), text.encode())


def load_state(
    path: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
) -> Progress:
    """Restore net and optimiser in place; the rest is returned.

    Raises:
        StateError: missing or damaged, or of another recipe or data set (the field is named).
    """
    weights, described = (path.with_name(path.name + end) for end in ('.safetensors', '.json'))
    if not weights.is_file() or not described.is_file():
        raise StateError(f'nothing to resume: no {weights}; start without --resume')
    try:
        data = json.loads(described.read_text(encoding='utf-8'))
        tensors = load_file(str(weights))
        step = int(tensors.pop('step'))
    except Exception as error:  # safetensors raises types of its own
        raise StateError(f'{weights} cannot be read ({error}); start without --resume') from error
    if step != data['step']:
        raise StateError(f'{weights} and {described.name} are of different steps; start anew')
    expected = json.loads(json.dumps(identity))
    for key, value in expected.items():
        found = data.get(key)
        if found == value:
            continue
        if isinstance(value, dict) and isinstance(found, dict):
            key, value, found = next(
                (f'{key}.{k}', value.get(k), found.get(k))
                for k in sorted({*value, *found})
                if value.get(k) != found.get(k)
            )
        raise StateError(f'the state was trained with {key} = {found}, not {value}; start anew')
    groups: dict[str, dict[str, Tensor]] = {'net': {}, 'average': {}, 'best': {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split('.', 1)
        if kind == 'optimizer':
            index, key = rest.split('.', 1)
            moments.setdefault(int(index), {})[key] = tensor
        else:
            groups[kind][rest] = tensor
    net.load_state_dict(groups['net'])
    state = optimizer.state_dict()
    state['state'] = moments
    optimizer.load_state_dict(state)
    lowest = data.get('lowest')
    return Progress(
        step, groups['average'], list(data['points']), float(data['seconds']),
        groups['best'] or None, math.inf if lowest is None else float(lowest),
        int(data.get('waited', 0)), dict(data.get('scaler', {})),
    )


class LearningCurve:
    """Losses and held-out error over the steps, as JSON and as a picture."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.points: list[Point] = []

    def add(self, step: int, values: Point) -> None:
        """A point of the curve."""
        self.points.append({'step': step, **values})

    def write(self, path: Path) -> None:
        """Write `<path>.json` and `<path>.png`."""
        import matplotlib

        matplotlib.use('Agg')
        from matplotlib import pyplot as plt

        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({'title': self.title, 'points': self.points}, indent=1)
        write_atomic(path.with_name(path.name + '.json'), text.encode())
        if not self.points:
            return
        names = {
            'held_out': 'held-out action MSE (unit variance), both directions',
            'action': 'training action MSE',
            'relative_flow': 'training flow error / flow power',
        }
        figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=110)
        for key, label in names.items():
            xy = [(p['step'], p[key]) for p in self.points if key in p]
            if xy:
                axes.plot(*zip(*xy, strict=True), marker='.', label=label)
        axes.set(xlabel='step', yscale='log', title=self.title)
        axes.grid(True, which='both', alpha=0.3)
        axes.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(path.with_name(path.name + '.png'))
        plt.close(figure)
