"""Flow estimators against the simulated finger's analytic flow: accuracy, time, and what it costs.

End-point error says how far the flow is off; what matters is the action that comes out of it. So
each estimator's flow is also inverted with the perfect, analytic Jacobian: what is left is the
error of the flow alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vera_core.seams import Array, Image
from vera_jidm import ridge
from vera_jidm.flow import ANALYTIC, FlowPair, PairFlow, make_flow
from vera_jidm.pictures import flow_colours
from vera_sim import FingerEnv

Float = NDArray[np.float64]
# Pairs of one call, as in a chunk of plan.
CHUNK = 4
# Cells of the solve, px; relative ridge of the solve.
GRID = 2
RIDGE = 1e-5
_BOOTSTRAP = 2000


@dataclass(frozen=True)
class FlowScenes:
    """N transitions of the finger and everything that is known about them.

    Attributes:
        before, after: uint8 [N, S, S, 3].
        actions: float64 [N, n] rad.
        J_before, J_after: float32 [N, S, S, 2, n] px per rad, analytic.
        truth: analytic flow in both directions, weight 1.
        on: bool [N, S, S], on the arm and still visible in the second image.
        off: bool [N, S, S], not on the arm in the first image.
    """

    before: Image
    after: Image
    actions: Float
    J_before: Array
    J_after: Array
    truth: FlowPair
    on: NDArray[np.bool_]
    off: NDArray[np.bool_]


def make_scenes(joints: int, pairs: int, size: int, max_delta: float, seed: int) -> FlowScenes:
    """Random postures, each joint then moved by up to `max_delta` [rad], three discs in the scene.

    Args:
        joints: of the finger.
        pairs: N.
        size: side of the canvas [px], the area average of a picture of twice the size.
        max_delta: rad.
        seed: of everything random.
    """
    env = FingerEnv(joints=joints, discs=3, size=2 * size)
    rng = np.random.default_rng(seed)
    lists: list[list[Any]] = [[] for _ in range(9)]
    for _ in range(pairs):
        env.reset(int(rng.integers(1 << 62)))
        q0, q1 = env.self_play(rng, max_delta)
        a, b = (
            cv2.resize(env.render_at(q), (size, size), interpolation=cv2.INTER_AREA)
            for q in (q0, q1)
        )
        forward, visible = env.analytic_flow(q0, q1, size)
        J0 = env.analytic_jacobian(q0, size)
        arm = np.abs(J0).sum((-1, -2)) > 0
        row = (
            a, b, q1 - q0, J0, env.analytic_jacobian(q1, size), forward,
            env.analytic_flow(q1, q0, size)[0], arm & visible, ~arm,
        )
        for held, value in zip(lists, row, strict=True):
            held.append(value)
    a, b, actions, J0, J1, forward, backward, on, off = (np.stack(held) for held in lists)
    ones = np.ones(forward.shape[:3], np.float32)
    return FlowScenes(
        a, b, actions, J0, J1, FlowPair(forward, backward, ones, ones), on, off
    )


def action_errors(scenes: FlowScenes, pair: FlowPair, max_delta: float) -> Float:
    """Squared error of the actions solved with the analytic Jacobian, in variances, float64 [N].

    Both frames of each pair are rows (the stacked solve), no gradient rows: an analytic Jacobian
    jumps at the outline of the arm, where every estimator's flow is smooth.
    """
    scale = max_delta / np.sqrt(3)
    unit = float(np.sqrt(np.square(scenes.truth.forward).mean()))

    def system(J: Array, flow: Array, weight: Array) -> ridge.NormalEquations:
        n, joints = len(J), J.shape[-1]
        rows = _cells(J.reshape(*J.shape[:3], -1)).reshape(n, -1, joints) * (scale / unit)
        v = _cells(flow).reshape(n, -1) / unit
        w = np.repeat(_cells(weight[..., None])[..., 0].reshape(n, -1), 2, axis=1)
        return ridge.normal_equations(
            torch.from_numpy(rows).transpose(1, 2), torch.from_numpy(v), torch.from_numpy(w)
        )

    both = system(scenes.J_before, pair.forward, pair.weight_forward) + ridge.reverse(
        system(scenes.J_after, pair.backward, pair.weight_backward)
    )
    found = ridge.solve(both, ridge=RIDGE).action.numpy()
    return np.asarray(np.square(found - scenes.actions / scale).mean(1), np.float64)


def measure(
    names: Sequence[str],
    joints: Sequence[int],
    *,
    pairs: int = 200,
    size: int = 64,
    max_delta: float = 0.05,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    picture: Path | None = None,
) -> list[dict[str, Any]]:
    """Rows of the table: one for each number of joints and estimator, the analytic flow first.

    Args:
        names: of estimators, see vera_jidm.flow.make_flow.
        joints: numbers of joints.
        pairs: transitions for each number of joints.
        size: side of the canvas, px.
        max_delta: largest change of a joint in one transition, rad.
        seed: of the scenes.
        say: gets each row as text.
        picture: file to draw examples to.

    Returns:
        Rows of flow, flow_id, joints, n, seed, max_delta, epe_on, epe_off [px], mse (see
        action_errors), each with a 95% interval `_ci` (bootstrap over the pairs), mse_median,
        ms and cpu_ms a pair (both directions, pairs in chunks of four; median).

    Raises:
        FlowError: an estimator that cannot be had.
    """
    flows = {name: make_flow(name) for name in names}
    rows: list[dict[str, Any]] = []
    examples = []
    for count in joints:
        scenes = make_scenes(count, pairs, size, max_delta, seed)
        found = {ANALYTIC: (scenes.truth, 0.0, 0.0)}
        found |= {name: _timed(flow, scenes) for name, flow in flows.items()}
        for name, (pair, ms, cpu_ms) in found.items():
            of = flows[name].flow_id if name in flows else ANALYTIC
            row = {
                'flow': name, 'flow_id': of, 'joints': count, 'n': pairs, 'seed': seed,
                'max_delta': max_delta,
            }
            row |= _errors(scenes, pair, max_delta)
            row |= {'ms': round(ms, 2), 'cpu_ms': round(cpu_ms, 2)}
            rows.append(row)
            say(_line(row))
        examples.append((scenes, {name: pair for name, (pair, _, _) in found.items()}))
    if picture:
        draw(picture, examples)
    return rows


def draw(path: Path, examples: Sequence[tuple[FlowScenes, dict[str, FlowPair]]]) -> None:
    """Two transitions for each number of joints: the images, the analytic flow, the estimates."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    names = list(examples[0][1])
    each = min(2, len(examples[0][0].before))
    figure, axes = plt.subplots(
        each * len(examples), 2 + len(names), squeeze=False,
        figsize=(1.8 * (2 + len(names)), 1.95 * each * len(examples)), layout='constrained',
    )
    for at, line in enumerate(axes):
        scenes, pairs = examples[at // each]
        i = at % each
        reach = max(float(np.linalg.norm(scenes.truth.forward[i], axis=-1).max()), 0.25)
        pictures = {'o_t': scenes.before[i], 'o_t+1': scenes.after[i]}
        pictures |= {name: flow_colours(pairs[name].forward[i], reach) for name in names}
        for axis, (title, image) in zip(line, pictures.items(), strict=True):
            axis.imshow(image, interpolation='nearest')
            axis.set_xticks([])
            axis.set_yticks([])
            if at == 0:
                axis.set_title(title, fontsize=10)
            if title in pairs and title != ANALYTIC:
                error = np.linalg.norm(
                    pairs[title].forward[i] - scenes.truth.forward[i], axis=-1
                )
                axis.set_xlabel(f'{error[scenes.on[i]].mean():.3f} px', fontsize=8)
        line[0].set_ylabel(f'{scenes.actions.shape[1]} joints', fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _timed(flow: PairFlow, scenes: FlowScenes) -> tuple[FlowPair, float, float]:
    """Both directions of all pairs, and the median ms a pair: on the clock, and of the CPU."""
    flow.both(scenes.before[:1], scenes.after[:1])
    parts, wall, cpu = [], [], []
    for start in range(0, len(scenes.before), CHUNK):
        chunk = slice(start, start + CHUNK)
        began, began_cpu = time.perf_counter(), time.process_time()
        parts.append(flow.both(scenes.before[chunk], scenes.after[chunk]))
        size = len(parts[-1].forward)
        wall.append((time.perf_counter() - began) / size)
        cpu.append((time.process_time() - began_cpu) / size)
    fields = ('forward', 'backward', 'weight_forward', 'weight_backward')
    pair = FlowPair(*(np.concatenate([getattr(p, f) for p in parts]) for f in fields))
    return pair, float(np.median(wall)) * 1e3, float(np.median(cpu)) * 1e3


def _errors(scenes: FlowScenes, pair: FlowPair, max_delta: float) -> dict[str, Any]:
    error = np.linalg.norm(pair.forward - scenes.truth.forward, axis=-1)
    mse = action_errors(scenes, pair, max_delta)
    values = {
        'epe_on': _means(error, scenes.on), 'epe_off': _means(error, scenes.off), 'mse': mse,
    }
    out: dict[str, Any] = {'mse_median': round(float(np.median(mse)), 5)}
    rng = np.random.default_rng(0)
    for name, each in values.items():
        picks = rng.integers(0, len(each), (_BOOTSTRAP, len(each)))
        low, high = np.percentile(each[picks].mean(1), [2.5, 97.5])
        out[name] = round(float(each.mean()), 5)
        out[f'{name}_ci'] = [round(float(low), 5), round(float(high), 5)]
    return out


def _means(error: Array, where: NDArray[np.bool_]) -> Float:
    """Mean over the pixels that count, of each pair, float64 [N]."""
    return np.asarray((error * where).sum((1, 2)) / np.maximum(where.sum((1, 2)), 1), np.float64)


def _cells(field: Array) -> Float:
    """[N, H, W, C] -> float64 [N, H / GRID, W / GRID, C], cell averages."""
    n, h, w = field.shape[:3]
    cells = field.astype(np.float64).reshape(n, h // GRID, GRID, w // GRID, GRID, -1)
    return np.asarray(cells.mean((2, 4)), np.float64)


def _line(row: dict[str, Any]) -> str:
    def number(name: str, digits: int) -> str:
        low, high = row[f'{name}_ci']
        return f'{row[name]:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})'

    return (
        f'{row["joints"]:2d} joints, {row["flow"]:<12} EPE on the arm {number("epe_on", 3)} px, '
        f'off {number("epe_off", 3)} px, action MSE {number("mse", 4)}, '
        f'{row["ms"]:.1f} ms a pair ({row["cpu_ms"]:.1f} ms CPU)'
    )
