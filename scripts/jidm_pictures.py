"""Pictures for docs/results/jidm.md: a predicted image Jacobian beside the simulator's own.

.venv/bin/python scripts/jidm_pictures.py docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from vera_bringup.selfplay import contract_with_joints
from vera_core import canvas
from vera_core.checkpoint import find_checkpoint
from vera_core.contract import load_contract
from vera_jidm.flow import make_flow
from vera_jidm.model import load_model
from vera_jidm.models.convolutional import GRID
from vera_jidm.pictures import flow_colours
from vera_jidm.registry import SHIPPED
from vera_sim import make_environment

SEED = 78
SCENES = 200


def relative_errors(name: str, joints: int) -> tuple[float, float]:
    """Relative squared error of J against the analytic one: all cells, and those on the arm."""
    contract = contract_with_joints(load_contract('finger'), joints)
    model = load_model(find_checkpoint(name, [SHIPPED], kind='idm'))
    env = make_environment('finger', contract.sim.options, 128)
    rng = np.random.default_rng(SEED)
    wrong, power = np.zeros(2), np.zeros(2)
    size = contract.canvas.height
    for seed in range(SCENES):
        env.reset(SEED * 1000 + seed)
        q, _ = env.self_play(rng)
        cells = env.analytic_jacobian(q, size).reshape(
            size // GRID, GRID, size // GRID, GRID, 2, joints
        )
        true = cells.mean((1, 3))
        found = model(canvas.tile({'top': env.render_at(q)}, contract)[None])[0, ::GRID, ::GRID]
        # The first joint moves every pixel of the arm and nothing else.
        arm = (np.abs(cells[..., 0]).sum(-1) > 0).all((1, 3))
        for k, mask in enumerate((np.ones_like(arm), arm)):
            wrong[k] += np.square(found - true)[mask].sum()
            power[k] += np.square(true)[mask].sum()
    everywhere, on_arm = wrong / power
    return float(everywhere), float(on_arm)


def draw(name: str, joints: int, flow: str, path: Path) -> None:
    """Canvas, flow, and each joint's column: analytic above, predicted below."""
    contract = contract_with_joints(load_contract('finger'), joints)
    model = load_model(find_checkpoint(name, [SHIPPED], kind='idm'))
    env = make_environment('finger', contract.sim.options, 128)
    env.reset(SEED)
    q0, q1 = env.self_play(np.random.default_rng(SEED))
    size = contract.canvas.height
    images = [canvas.tile({'top': env.render_at(q)}, contract) for q in (q0, q1)]
    true, found = env.analytic_jacobian(q0, size), model(images[0][None])[0]
    exact = env.analytic_flow(q0, q1, size)[0]
    used = exact if flow == 'analytic' else make_flow(flow)(*(i[None] for i in images))[0][0]
    reach = float(np.percentile(np.linalg.norm(true, axis=2), 99))
    speed = float(np.percentile(np.linalg.norm(exact, axis=2), 99))
    figure, axes = plt.subplots(2, joints + 2, figsize=(1.7 * (joints + 2), 3.8), dpi=110)
    top = [images[0], flow_colours(exact, speed)]
    bottom = [images[1], flow_colours(used, speed)]
    titles = ['frame t (above), t+1', f'flow: exact, {flow}']
    for k in range(joints):
        top.append(flow_colours(true[..., k], reach))
        bottom.append(flow_colours(found[..., k], reach))
        titles.append(f'J, joint {k + 1}')
    for column, (above, below) in enumerate(zip(top, bottom, strict=True)):
        for row, picture in enumerate((above, below)):
            axes[row, column].imshow(picture, interpolation='nearest')
            axes[row, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(titles[column], fontsize=8)
    axes[0, 2].set_ylabel('analytic', fontsize=8)
    axes[1, 2].set_ylabel('predicted', fontsize=8)
    figure.tight_layout(pad=0.5)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else 'docs/images')
    folder.mkdir(parents=True, exist_ok=True)
    for name, joints, flow in (
        ('jidm_finger3', 3, 'dis_lk'),
        ('jidm_finger5_analytic', 5, 'analytic'),
    ):
        draw(name, joints, flow, folder / f'{name}_jacobian.png')
        everywhere, on_arm = relative_errors(name, joints)
        print(f'{name}: |J - J*|^2 / |J*|^2 = {everywhere:.4f}, on the arm {on_arm:.4f}')


if __name__ == '__main__':
    main()
