"""Judging a demonstration: pure. What was asked, what really happened, and a picture of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup.lockstep import episode_seed, instruction
from vera_core.contract import Contract
from vera_drivers.sim_world import make_world

WIDE = 5  # frames shown of a canvas of several cameras
MUST = 0.8  # share of the goals that must really be reached: four of five

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Task:
    """One goal of the demonstration: the scene's seed, the words, and the object they mean."""

    number: int
    seed: int
    prompt: str
    target: str


@dataclass(frozen=True)
class Outcome:
    """What became of a task, by the simulator's ground truth.

    Attributes:
        reached: the tip stayed in the instructed object, and in no other before; of PushT, the
            block stayed on its goal.
        dwelled: the first object in which that was so; '' if none.
        seconds: from the goal to the dwell, or to giving up.
        status: what the planner said about it; message: in its words.
        plans: made for it.
    """

    task: Task
    reached: bool
    dwelled: str
    seconds: float
    status: str
    message: str
    plans: int


@dataclass(frozen=True)
class Comparison:
    """One plan and what the camera saw at the times it imagined; None where nothing was seen."""

    title: str
    real: list[Image | None]
    imagined: list[Image]


def make_tasks(contract: Contract, goals: int, seed: int) -> list[Task]:
    """Tasks with scenes of their own; no sentence, and of two objects none, twice in a row."""
    world = make_world(contract)
    tasks: list[Task] = []
    for number in range(1, goals + 1):
        scene = episode_seed(seed, number - 1)
        world.reset(scene, 0)
        for attempt in range(100):
            prompt, target = instruction(world, episode_seed(scene, attempt), False)
            last = tasks[-1] if tasks else None
            other = last is None or last.target != target or len(world.env.objects) == 1
            if last is None or (other and last.prompt != prompt):
                break
        tasks.append(Task(number, scene, prompt, target))
    return tasks


def enough(outcomes: Sequence[Outcome], goals: int) -> bool:
    """Whether so many of the goals were really reached that the demonstration passes."""
    return sum(o.reached for o in outcomes) >= math.ceil(MUST * goals)


def metrics(
    outcomes: Sequence[Outcome],
    plan_latencies: Sequence[float],
    chunk_latencies: Sequence[float],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Plain data for metrics.json and --json."""
    return {
        'reached': sum(o.reached for o in outcomes),
        'goals': len(outcomes),
        'replan_ms_p50': _percentile(plan_latencies, 50),
        'replan_ms_p95': _percentile(plan_latencies, 95),
        'translate_ms_p50': _percentile(chunk_latencies, 50),
        'translate_ms_p95': _percentile(chunk_latencies, 95),
        **extra,
        'outcomes': [asdict(o) for o in outcomes],
    }


def _percentile(seconds: Sequence[float], share: float) -> float | None:
    return round(float(np.percentile(seconds, share)) * 1e3, 2) if len(seconds) else None


def save_picture(comparisons: Sequence[Comparison], path: Path) -> None:
    """Two rows for each comparison: what the cameras saw, and what had been imagined before.

    Of a canvas of several cameras there are fewer frames, evenly chosen, and larger ones.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    height, width = comparisons[0].imagined[0].shape[:2]
    most = max(len(c.imagined) for c in comparisons)
    columns = most if width < 2 * height else min(most, WIDE)
    shown = np.linspace(0, most - 1, columns).round().astype(int)
    rows = 2 * len(comparisons)
    size = (1.5 * min(width / height, 2) * columns, rows * (1.62 if width < 2 * height else 1.1))
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout='constrained'
    )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    for index, comparison in enumerate(comparisons):
        halves: tuple[Sequence[Image | None], ...] = (comparison.real, comparison.imagined)
        for half, frames in enumerate(halves):
            row = axes[2 * index + half]
            row[0].set_ylabel(('real', 'imagined')[half], fontsize=9)
            for axis, k in zip(row, shown, strict=True):
                if k < len(frames) and (frame := frames[k]) is not None:
                    axis.imshow(frame, interpolation='nearest')
        axes[2 * index][0].set_title(comparison.title, fontsize=9, loc='left')
    figure.savefig(path, dpi=100)
    plt.close(figure)
