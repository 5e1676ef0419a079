"""`vera bench words`: does the plan obey the words?"""

from __future__ import annotations

import json

from vera_bringup.exits import CommandError


def run(
    embodiment: str,
    scenes: int,
    planner: str,
    planner_checkpoint: str,
    seed: int,
    as_json: bool,
) -> None:
    """Run `vera bench words`."""
    from vera_bringup.words import measure
    from vera_core.contract import load_contract
    from vera_planner.goal import SettleRule
    from vera_planner.registry import make_planner

    try:
        contract = load_contract(embodiment)
        made = make_planner(
            planner or contract.defaults.planner, contract, checkpoint=planner_checkpoint or None
        )
        found = measure(made, contract, scenes, seed, progress=True)
    except ValueError as error:
        raise CommandError(str(error)) from error
    gap, low, high = found.gap()
    still = SettleRule().still_motion
    moves = float((found.moving >= still).mean())
    stays = float((found.absent < still).mean())
    row = {
        'n': scenes,
        'seed': seed,
        'gap_db': round(gap, 3),
        'ci_low': round(low, 3),
        'ci_high': round(high, 3),
        'psnr_right': [round(float(v), 2) for v in found.right.mean(0)],
        'psnr_wrong': [round(float(v), 2) for v in found.wrong.mean(0)],
        'present_moves': round(moves, 4),
        'absent_still': round(stays, 4),
    }
    print(
        f'frame {found.right.shape[1]}: {gap:.2f} dB better when asked rightly '
        f'(95% interval {low:.2f} to {high:.2f}, n = {scenes})\n'
        f'asked for what is there, {100 * moves:.0f}% of the plans move; '
        f'asked for what is not, {100 * stays:.0f}% stay still'
    )
    if as_json:
        print(json.dumps(row))
