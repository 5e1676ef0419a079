"""`vera study ablate`: what each default of the J-IDM's recipe is worth."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path

from vera_bringup.exits import CommandError


def run(
    out: Path, joints: int, transitions: int, seeds: int, steps: int, jobs: int, as_json: bool
) -> None:
    """Run `vera study ablate`."""
    from vera_bringup import ablation_study as study
    from vera_bringup.finger_study import Runner

    logging.basicConfig(level=logging.WARNING, format='%(message)s')
    try:
        runner = Runner(out, steps, 500, jobs, 'vera ' + shlex.join(sys.argv[1:]))
        rows = runner.run(study.cells(joints, transitions, range(seeds)))
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    picture = out / 'ablations.png'
    study.plot(rows, picture)
    table = study.markdown(rows) + '\n'
    (out / 'ablations.md').write_text(table, encoding='utf-8')
    (out / 'ablations.json').write_text(
        json.dumps({'rows': rows}, indent=1) + '\n', encoding='utf-8'
    )
    print(table)
    print(f'picture: {picture}')
    if as_json:
        print(json.dumps({'rows': rows}))
