"""`vera bench planner`: latency of a plan stage by stage, and what faster plans lose."""

from __future__ import annotations

import json

from vera_bringup.exits import CommandError, Exit


def run(
    size: str,
    random_weights: bool,
    checkpoint: str,
    options: list[str],
    repeats: int,
    scenes: int,
    steps: int,
    threads: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure and print; CommandError(FAILED) if the full plan cannot be made."""
    from vera_bringup.planner_bench import UNET, VARIANTS, measure, text_of
    from vera_planner.compact import default_threads

    if size != UNET and random_weights == bool(checkpoint):
        raise CommandError('say --random-weights, or name trained weights with --checkpoint')
    if size == UNET and (random_weights or checkpoint):
        raise CommandError(f'{UNET} is measured with the weights that are shipped')
    if 'all' in options:
        options = list(VARIANTS)
    try:
        report = measure(
            size,
            options,
            checkpoint=checkpoint,
            repeats=repeats,
            scene_count=scenes,
            steps=steps,
            threads=threads or default_threads(),
            seed=seed,
            progress=True,
            on_row=lambda row: print(text_of(row), flush=True),
        )
    except (ValueError, RuntimeError) as error:
        raise CommandError(str(error), Exit.FAILED) from error
    if report['size'] != report['asked']:
        print(f'no GPU here: measured {report["size"]} instead of {report["asked"]}')
    print(
        f'{report["size"]}, weights {report["weights"]}, on {report["device"]}'
        + (f' with {report["threads"]} thread(s)' if report['device'] == 'cpu' else '')
        + f'; canvas {report["canvas"][0]} x {report["canvas"][1]} px, '
        f'{report["context_frames"]} frames of context, {report["look_ahead_frames"]} imagined, '
        f'{report["committed_frames"]} of them compared. '
        'PSNR and action MSE: against the first line'
    )
    if report['weights'] == 'random':
        print('Random weights: the times are real, the fidelity says little about trained ones.')
    if as_json:
        print(json.dumps(report))
