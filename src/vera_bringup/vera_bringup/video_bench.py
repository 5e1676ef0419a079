"""`vera bench video`: dreams against held-out videos, and against what their actions lead to.

At the start of scenes that no training saw, in phrasings that none saw, the planner imagines a
long future. It is compared, frame by frame, with the scripted expert's video (is it what was asked
for?) and with the video of the robot that executes the translated dream open loop (can it be
done?). The last frame seen, repeated, says what a still picture would score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup.lockstep import instruction, one_thread
from vera_bringup.video_metrics import VideoMetrics
from vera_controller.controller import Controller
from vera_core.chunk import ActionChunk
from vera_core.clocks import ManualClock
from vera_core.gates import PlanRejectedError
from vera_core.seeds import mix
from vera_drivers.sim_world import SimWorld, make_world
from vera_planner.goal import PlanRefusedError
from vera_planner.plan_checks import unrealised
from vera_planner.planning import PlanRequest, imagine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vera_core.contract import Contract
    from vera_core.seams import Image, Translator, VideoPlanner

PAIRS = {
    'dream': ('dreamt', 'expert'),
    'still': ('still', 'expert'),
    'following': ('done', 'dreamt'),
    'done': ('done', 'expert'),
}
WORDS = {
    'dream': 'the dream against the held-out video',
    'still': 'a still picture against the held-out video',
    'following': 'the robot that executes the dream, against the dream',
    'done': 'the same against the held-out video',
}


@dataclass(frozen=True)
class Clip:
    """One scene; all uint8 [F, H, W, 3].

    Attributes:
        start: the frame that the planner saw, repeated. dreamt: the planner's.
        expert: the scripted expert's. done: of the robot that executed the dream.
        lost: float64 [F], `unrealised` of each dreamt frame.
    """

    still: Image
    dreamt: Image
    expert: Image
    done: Image
    lost: NDArray[np.float64]


def execute(world: SimWorld, values: NDArray[np.float64]) -> Image:
    """Execute actions open loop, through queue and safety filter as always.

    Args:
        world: at rest, just reset.
        values: float64 [F, n], one action each frame period, in the units of the channels.

    Returns:
        uint8 [F, H, W, 3], the canvas after each.

    Raises:
        RuntimeError: the controller takes no such actions, or stops; the message says why.
    """
    contract = world.contract
    controller = Controller(contract, clock=ManualClock(), lockstep=True)
    controller.on_state(world.robot_state())
    controller.enable()
    controller.on_goal(1, True)
    chunk = ActionChunk(
        stamp=world.stamp, goal_id=1, plan_seq=1, channels=contract.channel_names,
        period=contract.video.frame_period, values=values,
        residual=np.zeros(len(values), np.float32),
        observability=np.ones(len(contract.channels), np.float32),
    )
    why = controller.on_chunk(chunk, world.stamp)
    if why:
        raise RuntimeError(f'the actions of a dream are refused: {why}')
    frames = []
    begin, period = world.stamp, contract.video.frame_period_ns
    for k in range(1, len(values) + 1):
        while world.stamp < begin + k * period:
            set_point = controller.tick(world.stamp)
            if set_point is None:
                why = controller.status(world.stamp).reason
                raise RuntimeError(f'the controller stopped: {why}')
            world.step(set_point.positions)
            controller.on_state(world.robot_state())
        frames.append(world.canvas())
    return np.stack(frames)


def clips(
    contract: Contract, make_planner: Callable[[Any], VideoPlanner], translator: Translator,
    count: int, frames: int, seed: int,
) -> Iterator[Clip | None]:
    """Scenes one after the other; None where the planner makes no plan.

    Args:
        contract: of a simulated embodiment.
        make_planner: makes the planner, given what tells an oracle the future.
        translator: of the dreams.
        count: of scenes.
        frames: that are dreamt; a planner that imagines fewer goes on from its own.
        seed: of scenes, words and noise.
    """
    world = make_world(contract)
    planner = make_planner(world.expert_future)
    for index in range(count):
        # Other scenes than those of `vera eval` with the same seed.
        scene = mix(seed, index, 77)
        world.reset(scene, world.next_episode())
        prompt, _ = instruction(world, scene, held_out=True)
        start = world.canvas()
        request = PlanRequest(
            context=start[None], anchor=world.stamp, prompt=prompt, seed=mix(seed, index),
            horizon=frames,
        )
        try:
            dreamt = imagine(planner, request, contract).frames[:frames]
        except (PlanRejectedError, PlanRefusedError):
            yield None
            continue
        if len(dreamt) < frames:  # the planner rejected what was to follow
            yield None
            continue
        expert = world.expert_future(prompt, world.stamp, frames)
        state = world.positions_at(world.stamp) if translator.needs_state else None
        with one_thread():
            values = translator.translate(start, dreamt, state).values
        done = execute(world, values)
        lost = [unrealised(start, a, b) for a, b in zip(dreamt, done, strict=True)]
        still = np.repeat(start[None], frames, axis=0)
        yield Clip(still, dreamt, expert, done, np.array(lost))


def measure(found: Sequence[Clip], metrics: VideoMetrics) -> dict[str, Any]:
    """Means over the clips with 95% bootstrap intervals, frame by frame; plain data.

    Raises:
        ValueError: no clips.
    """
    if not found:
        raise ValueError('the planner made no plan in any scene')
    out: dict[str, Any] = {'n': len(found), 'frames': len(found[0].dreamt), 'missing': dict(
        metrics.missing
    )}
    for name, (one, other) in PAIRS.items():
        out[name] = {
            key: _by_frame(np.array([
                metric(getattr(clip, one), getattr(clip, other)) for clip in found
            ]))
            for key, metric in metrics.frames.items()
        }
    out['following']['unrealised'] = _by_frame(np.array([clip.lost for clip in found]))
    for key, metric in metrics.sets.items():
        for name, (one, other) in PAIRS.items():
            a, b = (np.stack([getattr(clip, k) for clip in found]) for k in (other, one))
            out[name][key] = metric(a, b)
    return out


def _by_frame(values: NDArray[np.float64], samples: int = 1000) -> dict[str, list[float]]:
    """float64 [clips, F] -> mean, low and high of each frame."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(samples, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return {
        key: [round(float(v), 4) for v in row]
        for key, row in (('mean', values.mean(axis=0)), ('low', low), ('high', high))
    }


def shown_frames(frames: int) -> list[int]:
    """Which frames a table shows: 1, 2, 4, 8 ... and the last."""
    return sorted({*(2**k for k in range(frames.bit_length()) if 2**k <= frames), frames})


def table(found: dict[str, Any]) -> str:
    """The numbers for people."""
    columns = shown_frames(found['frames'])
    lines = []
    for name in PAIRS:
        lines.append(f'{WORDS[name]}:')
        for key, rows in found[name].items():
            if not isinstance(rows, dict):
                lines.append(f'  {key:<11}{rows:9.1f}   (of {found["n"]} videos)')
                continue
            cells = ''.join(f'{rows["mean"][k - 1]:9.3g}' for k in columns)
            low, high = rows['low'][-1], rows['high'][-1]
            lines.append(f'  {key:<11}{cells}   (last: 95% {low:.3g} to {high:.3g})')
    head = ''.join(f'{f"frame {k}":>9}' for k in columns)
    lines.insert(0, f'{"":<13}{head}')
    lines += [f'{name} is left out: {why}' for name, why in found['missing'].items()]
    return '\n'.join(lines)


def draw(found: dict[str, Any], period: float, path: Path) -> None:
    """PSNR over the horizon, and how much of the dream did not come true."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.0))
    seconds = period * np.arange(1, found['frames'] + 1)
    colours = {'dream': '#2a6fdb', 'still': '0.6', 'following': '#2b7a78', 'done': '#d98324'}
    curves = [(axes[0], name, found[name]['psnr'], WORDS[name]) for name in PAIRS]
    curves.append((axes[1], 'following', found['following']['unrealised'], '_'))
    for axis, name, rows, label in curves:
        axis.plot(seconds, rows['mean'], color=colours[name], label=label)
        axis.fill_between(seconds, rows['low'], rows['high'], color=colours[name], alpha=0.15)
    axes[0].set_ylabel('PSNR [dB]')
    axes[1].set_ylabel('unrealised share of the dream')
    axes[1].set_ylim(0, None)
    for axis in axes:
        axis.set_xlabel('horizon [s]')
        for side in ('top', 'right'):
            axis.spines[side].set_visible(False)
    figure.legend(loc='lower center', ncols=2, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
