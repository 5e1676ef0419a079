"""`vera study finger`: the toy finger, joints and data swept, three translators."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from vera_bringup.exits import CommandError


def run(
    out: Path,
    joints: str,
    sizes: str,
    flows: str,
    models: str,
    seeds: int,
    steps: int,
    jobs: int,
    quick: bool,
    as_json: bool,
) -> None:
    """Run `vera study finger`."""
    from vera_bringup import finger_study as study

    logging.basicConfig(level=logging.WARNING, format='%(message)s')
    try:
        options = study.QUICK if quick else study.FingerStudy()
        changes: dict[str, Any] = {}
        if joints:
            changes['joints'] = _numbers(joints)
        if sizes:
            changes['sizes'] = _numbers(sizes)
        if flows:
            changes |= {'flows': tuple(flows.split(',')), 'spot_flows': ()}
        if models:
            changes['models'] = tuple(models.split(','))
        if seeds:
            changes['seeds'] = tuple(range(seeds))
        if steps:
            changes['steps'] = steps
        options = replace(options, **changes)
        runner = study.Runner(
            out, options.steps, options.held_out, jobs, 'vera ' + shlex.join(sys.argv[1:])
        )
        rows = runner.run(options.cells())
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    picture = out / 'finger.png'
    study.plot(rows, options, picture)
    text = []
    for flow in (*options.flows, *options.spot_flows):
        text.append(f'### {flow} flow, {options.steps} steps\n\n{study.markdown(rows, flow)}\n')
        if options.long_steps and flow in options.flows:
            table = study.markdown(rows, flow, {'steps': options.long_steps})
            text.append(f'### {flow} flow, {options.long_steps} steps\n\n{table}\n')
        for need in study.data_needed(rows, 'direct_flow', flow, options.joint):
            if need['times'] is None and need['more_than'] is None:
                continue  # D-IDM + Flow is below the J-IDM with its least data
            times = f'{need["times"]:.1f}' if need['times'] else f'> {need["more_than"]:.1f}'
            text.append(
                f"D-IDM + Flow needs {times} times the data for the J-IDM's MSE of "
                f'{need["mse"]:.4f} at {need["n"]} transitions, {options.joint} joints'
            )
    table = '\n'.join(text) + '\n'
    (out / 'finger.md').write_text(table, encoding='utf-8')
    (out / 'finger.json').write_text(
        json.dumps({'study': study.as_plain(options), 'rows': rows}, indent=1) + '\n',
        encoding='utf-8',
    )
    print(table)
    print(f'curves: {picture}')
    if as_json:
        print(json.dumps({'rows': rows}))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(','))
    except ValueError:
        raise ValueError(f'{text!r} is no list of numbers; write for example 2,5,10') from None
