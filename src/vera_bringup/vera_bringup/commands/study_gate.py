"""`vera study gate`: whether bad plans are stopped and good ones are not."""

from __future__ import annotations

import json
from pathlib import Path

from vera_bringup.exits import CommandError, Exit


def run(
    embodiment: str,
    out: Path,
    planner: str,
    planner_checkpoint: str,
    checkpoint: str,
    episodes: int,
    seed: int,
    save: bool,
    as_json: bool,
) -> None:
    """Calibrate, test, write table and picture; CommandError(FAILED) below what must be reached."""
    from vera_bringup import gate_study as work
    from vera_core.contract import load_contract
    from vera_core.gates import gate_path, save_gate

    try:
        contract = load_contract(embodiment)
        found = work.study(
            contract,
            planner=planner,
            planner_checkpoint=planner_checkpoint or None,
            checkpoint=checkpoint or None,
            episodes=episodes,
            seed=seed,
        )
        table = work.rows(found)
        text = work.markdown(table)
        if save:
            path = gate_path(contract.embodiment)
            save_gate(found.entry, path)
            print(f'thresholds: {path}')
    except ValueError as error:
        raise CommandError(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    work.draw(found, out / 'plan_gate.png')
    (out / 'plan_gate.md').write_text(text, encoding='utf-8')
    (out / 'plan_gate.json').write_text(json.dumps({'rows': table}, indent=1), encoding='utf-8')
    print(text)
    entry = found.entry
    print(
        f'{entry.planner} {entry.planner_hash} with {entry.translator} {entry.translator_hash}; '
        f'table and picture are in {out}'
    )
    if as_json:
        print(json.dumps({'rows': table}))
    below = work.failures(table)
    if below:
        raise CommandError('; '.join(below), Exit.FAILED)
