"""`vera train`: make the data where it is missing, then train."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from vera_bringup.exits import CommandError

HELD_OUT_CLIPS = 500
# Held-out scenes come from seeds of their own, whatever the training's seed is.
HELD_OUT_SEED = 1_000_003


def idm(embodiment: str, as_json: bool, settings: list[str], **options: Any) -> None:
    """Train the translator of `embodiment`; see vera_bringup.selfplay.train_idm."""
    from vera_bringup import selfplay
    from vera_jidm.recipe import parse_settings

    _show_progress()
    try:
        options |= parse_settings(settings)
        metrics = selfplay.train_idm(embodiment, command=_command(), **options)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    # Of several processes (vera_jidm.processes) the first one speaks.
    if as_json and os.environ.get('RANK', '0') == '0':
        print(json.dumps(metrics))


def planner(
    embodiment: str,
    as_json: bool,
    *,
    out: Path,
    data: Path | None,
    clips: int,
    kind: str,
    width: int,
    depth: int,
    steps: int,
    name: str,
    seed: int,
    threads: int,
    resume: bool,
) -> None:
    """Train the compact planner of `embodiment`."""
    from vera_bringup.expert_videos import write_expert_videos
    from vera_core.contract import load_contract

    _show_progress()
    try:
        contract = load_contract(embodiment)
        folder = data or Path('data') / f'{contract.embodiment}_videos_s{seed}'
        write_expert_videos(contract, folder / 'train', clips, seed)
        write_expert_videos(contract, folder / 'held_out', HELD_OUT_CLIPS, seed + HELD_OUT_SEED)
        from vera_planner.network import NetworkConfig
        from vera_planner.training import TrainConfig, main_train

        network = NetworkConfig(
            kind=kind,
            width=width,
            depth=depth,
            context=contract.video.context,
            look_ahead=contract.video.look_ahead,
            height=contract.canvas.height,
            canvas_width=contract.canvas.width,
        )
        config = TrainConfig(
            data=folder / 'train',
            held_out=folder / 'held_out',
            out=out,
            name=name or f'compact_{contract.embodiment}',
            steps=steps,
            seed=seed,
            threads=threads,
            network=network,
        )
        info = main_train(config, _command(), resume=resume)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(f'{info.path}: {info.short_hash}')
    if as_json:
        print(json.dumps({'checkpoint': str(info.path), **info.training['metrics']}))


def _command() -> str:
    return 'vera ' + shlex.join(sys.argv[1:])


def _show_progress() -> None:
    logging.basicConfig(level=logging.INFO, format='%(message)s')
