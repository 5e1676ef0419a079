"""One choice at a time: what each default of the J-IDM's recipe is worth on the toy finger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vera_bringup.finger_study import ANALYTIC, Cell, spread

# What differs from the default recipe, by group. The flow is analytic where it is not named.
ABLATIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ('default', 'default', {}),
    ('head', 'pixel: every cell names its own J', {'head': 'pixel'}),
    ('optimiser', 'AdamW', {'optimizer': 'adamw', 'rate': 2e-3}),
    ('rows', 'no gradient rows', {'gradient_rows': False}),
    ('ridge', '5e-6', {'ridge': 5e-6}),
    ('ridge', '5e-4', {'ridge': 5e-4}),
    ('ridge', '5e-3', {'ridge': 5e-3}),
    ('w_a', '0 (flow term alone)', {'action_weight': 0.0}),
    ('w_a', '0.1', {'action_weight': 0.1}),
    ('w_a', '1', {'action_weight': 1.0}),
    ('weighting', 'moving cells weigh 8', {'moving_weight': 8.0}),
    ('weighting', 'flow gradient 0.25', {'flow_gradient': 0.25}),
    ('weighting', 'edge-aware variation 0.05', {'smoothness': 0.05}),
    ('confidence', 'confidence 1', {'confidence': 1.0}),
    ('augmentation', 'none', {'photometric': 0.0}),
    ('resolution', 'cells of 4 px, not 2', {'network': {'grid': 4}}),
    ('resolution', 'cells of 8 px', {'network': {'grid': 8}}),
    ('size', 'half the features', {'stem': 8, 'widths': (16, 32, 64)}),
)
FLOWS = ('farneback', 'dis', 'dis_lk')


def cells(joints: int, n: int, seeds: Sequence[int], flows: Sequence[str] = FLOWS) -> list[Cell]:
    """Every training of the study: each choice, and each estimator with the default recipe."""
    out = []
    for seed in seeds:
        for _, _, recipe in ABLATIONS:
            out.append(Cell('jacobian', joints, n, ANALYTIC, seed, tuple(recipe.items())))
        out += [Cell('jacobian', joints, n, flow, seed) for flow in flows]
    return out


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, list[float], list[float]]]:
    """Group, choice, MSE over both frames and with o_t alone, one number a seed each."""
    out = []
    for group, name, recipe in ABLATIONS:
        plain = _plain(recipe)
        found = [r for r in rows if r['recipe'] == plain and r['flow'] == ANALYTIC]
        out.append((group, name, found))
    for flow in dict.fromkeys(r['flow'] for r in rows if r['flow'] != ANALYTIC):
        out.append(('flow', flow, [r for r in rows if r['flow'] == flow and not r['recipe']]))
    return [
        (group, name, [r['mse'] for r in found], [r['mse_one_direction'] for r in found])
        for group, name, found in out
        if found
    ]


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in recipe.items()}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, with the ratio to the default recipe on the same flow."""
    entries = table(rows)
    base = next((both for group, _, both, _ in entries if group == 'default'), None)
    lines = [
        '| choice | | both frames | o_t alone | over the default |',
        '|---|---|---|---|---|',
    ]
    for group, name, both, one in entries:
        middle, low, high = spread(both)
        interval = '' if math.isnan(low) else f' ({low:.4f}-{high:.4f})'
        ratio = f'{middle / spread(base)[0]:.2f}' if base else '-'
        lines.append(
            f'| {group} | {name} | {middle:.4f}{interval} | {spread(one)[0]:.4f} | {ratio} |'
        )
    return '\n'.join(lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A bar for each choice, the seeds as dots, the default as a line."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    entries = table(rows)
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(entries) + 1.2), layout='constrained')
    for y, (group, name, both, _) in enumerate(entries):
        label = group if name == group else f'{group}: {name}'
        colour = '#0b6e4f' if group == 'default' else '#9aa5b1'
        axis.barh(y, spread(both)[0], color=colour)
        axis.plot(both, [y] * len(both), 'k.', ms=4)
        axis.text(0.0, y, f' {label}', va='center', ha='left', fontsize=8, transform=(
            axis.get_yaxis_transform()))
    base = next((both for group, _, both, _ in entries if group == 'default'), None)
    if base:
        axis.axvline(spread(base)[0], color='#0b6e4f', lw=1)
    axis.set_xscale('log')
    axis.set_yticks([])
    axis.invert_yaxis()
    axis.set_xlabel('held-out action MSE')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
