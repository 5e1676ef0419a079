"""`vera study honesty`: how well the honesty signals tell real motion from what cannot happen."""

from __future__ import annotations

import json
from pathlib import Path

from vera_bringup.exits import CommandError, Exit


def run(
    embodiment: str,
    out: Path,
    checkpoint: str,
    planner: str,
    count: int,
    episodes: int,
    seed: int,
    save: bool,
    as_json: bool,
) -> None:
    """Calibrate, test, write table and curves; CommandError(FAILED) below what must be reached."""
    from vera_bringup import honesty_study as work
    from vera_core.contract import load_contract

    try:
        found, info = work.study(
            load_contract(embodiment),
            checkpoint=checkpoint or None,
            planner=planner,
            count=count,
            episodes=episodes,
            seed=seed,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    table = work.rows(found, seed)
    out.mkdir(parents=True, exist_ok=True)
    work.draw_curves(found, table, out / 'honesty_roc.png')
    text = work.markdown(table)
    (out / 'honesty.md').write_text(text, encoding='utf-8')
    (out / 'honesty.json').write_text(json.dumps({'rows': table}, indent=1), encoding='utf-8')
    print(text)
    print(f'{info.name} {info.short_hash}; table and curves are in {out}')
    if save:
        print(f'calibration: {work.save_calibration(found, info)}')
    if as_json:
        print(json.dumps({'rows': table}))
    below = work.failures(table)
    if below:
        raise CommandError('; '.join(below), Exit.FAILED)
