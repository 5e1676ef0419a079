"""`vera study pusht`: three translators on PushT, held-out error and the loop closed."""

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
    models: str,
    seeds: int,
    transitions: int,
    steps: int,
    episodes: int,
    seed: int,
    loop: str,
    checkpoint: str,
    execute: int,
    quick: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Run `vera study pusht`."""
    from vera_bringup import pusht_study as study
    from vera_core.contract import load_contract

    logging.basicConfig(level=logging.INFO, format='%(message)s')
    _use_threads(threads)
    try:
        options = study.StudyOptions(
            transitions=transitions,
            steps=steps,
            seeds=tuple(range(seeds)),
            models=_names(models),
            episodes=episodes,
            seed=seed,
            execute=execute,
        )
        if quick:
            options = replace(
                options, transitions=500, held_out=200, steps=150, seeds=(0,), episodes=5
            )
        contract = load_contract('pusht')
        command = 'vera ' + shlex.join(sys.argv[1:])
        rows = study.train_models(contract, options, out, threads=threads, command=command)
        results = _close_loops(contract, options, out, _names(loop), checkpoint)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    for label, episodes_of in results.items():
        rows += study.loop_rows(episodes_of, label, options)
    _report(rows)
    if results:
        study.plot_loop(results, out / 'pusht_loop.png')
        print(f'curves: {out / "pusht_loop.png"}')
    (out / 'tables.md').write_text(study.tables(rows))
    (out / 'rows.json').write_text(json.dumps({'rows': rows}, indent=1) + '\n')
    if as_json:
        print(json.dumps({'rows': rows}))


def _use_threads(threads: int) -> None:
    import cv2
    import torch

    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.replace(',', ' ').split() if part != 'none')


def _close_loops(
    contract: Any, options: Any, out: Path, loops: tuple[str, ...], checkpoint: str
) -> dict[str, Any]:
    from vera_bringup import pusht_study as study
    from vera_jidm.registry import make_translator

    results: dict[str, Any] = {}
    for label in loops:
        if label == study.EXPERT:
            translator: Any = None
        elif label in study.MODELS:
            mine = out / f'{study.checkpoint_name(label, options.seeds[0])}.safetensors'
            named = checkpoint if label == 'jacobian' and checkpoint else str(mine)
            translator = make_translator(label, contract, named)
        else:
            known = ', '.join((study.EXPERT, *study.MODELS))
            raise ValueError(f'no loop {label!r}; there are {known}')
        path = out / f'loop_{label}.jsonl'
        results[label] = study.run_loop(contract, translator, options, path, label)
    first = next((label for label in results if label != study.EXPERT), None)
    if first is not None:
        named = checkpoint if first == 'jacobian' and checkpoint else ''
        mine = out / f'{study.checkpoint_name(first, options.seeds[0])}.safetensors'
        translator = make_translator(first, contract, named or str(mine))
        study.picture_of_episode(
            contract, translator, options.seed, options, out / 'pusht_episode.png'
        )
    return results


def _report(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    trained = [row for row in rows if row['study'] == 'pusht']
    if trained:
        table = Table('model', 'seed', 'action MSE', '95%', 'Eq. 6 alone', 'weights')
        for row in trained:
            low, high = row['mse_ci']
            table.add_row(
                row['model'], str(row['seed']), f'{row["mse"]:.4f}', f'{low:.4f}-{high:.4f}',
                f'{row["mse_paper"]:.4f}', f'{row["params"] / 1e6:.2f} M',
            )
        console.print(table)
    loops = [row for row in rows if row['study'] == 'pusht-loop']
    if loops:
        table = Table('loop', 'steps', 'coverage', 'success', 'Wilson 95%', 'n')
        for row in loops:
            table.add_row(
                row['model'], str(row['horizon']), f'{row["coverage"]:g}',
                f'{100 * row["success_rate"]:.1f}%',
                f'{100 * row["ci_low"]:.1f}-{100 * row["ci_high"]:.1f}%', str(row['n']),
            )
        console.print(table)
