"""`vera bench flow`: flow estimators against the simulator's analytic flow."""

from __future__ import annotations

import json
from pathlib import Path

from vera_bringup.exits import CommandError


def run(
    flows: list[str],
    joints: list[int],
    pairs: int,
    max_delta: float,
    seed: int,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Run `vera bench flow`."""
    from vera_bringup.flow_bench import measure
    from vera_jidm.flow import estimators, ready_estimators

    names = flows or ready_estimators()
    for name, package in estimators().items():
        if not flows and name not in names:
            missing = f'{package} and weights' if package else 'weights'
            print(f'without {name}: it needs {missing}')
    print(
        f'{pairs} transitions, every joint moves by up to {max_delta:g} rad; 95% intervals; '
        'action MSE: with the perfect Jacobian, 1 = predicting zero'
    )
    try:
        rows = measure(
            names, joints, pairs=pairs, max_delta=max_delta, seed=seed, picture=picture,
            say=lambda line: print(line, flush=True),
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    if picture:
        print(f'picture: {picture}')
    if as_json:
        print(json.dumps({'rows': rows}))
