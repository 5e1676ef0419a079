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
from vera_core.checkpoint import CheckpointInfo

HELD_OUT_CLIPS = 250
CLIPS, PICTURES = 12000, 6000
PANDA_CLIPS, PANDA_PICTURES = 3500, 8000
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
    embodiments: list[str],
    as_json: bool,
    *,
    out: Path,
    data: Path,
    clips: int,
    pictures: int,
    kind: str,
    width: int,
    depth: int,
    layers: int,
    steps: int | None,
    codec_steps: int | None,
    rate: float,
    drop_history: float,
    shares: str,
    init: str,
    name: str,
    seed: int,
    threads: int,
    resume: bool,
) -> None:
    """Train one compact planner for all `embodiments`."""
    from vera_bringup.expert_videos import write_expert_videos
    from vera_core.contract import load_contract

    _show_progress()
    if kind == 'pieces':
        options: dict[str, Any] = {
            key: value
            for key, value in (('steps', steps), ('codec_steps', codec_steps))
            if value is not None
        }
        options |= {'out': out, 'seed': seed, 'threads': threads}
        try:
            info = _pieces(embodiments, data, clips, pictures, shares, name, options, resume)
        except (ValueError, OSError) as error:
            raise CommandError(str(error)) from error
        _tell(info, as_json)
        return
    clips = clips or CLIPS
    try:
        contracts = [load_contract(embodiment) for embodiment in embodiments]
        parts = [float(part) for part in shares.split(',') if part]
        folders = [data / f'{c.embodiment}_videos_s{seed}' for c in contracts]
        for contract, folder in zip(contracts, folders, strict=True):
            write_expert_videos(contract, folder / 'train', clips, seed)
            write_expert_videos(contract, folder / 'held_out', HELD_OUT_CLIPS, seed + HELD_OUT_SEED)
        from vera_planner.diffusion import NoiseConfig
        from vera_planner.network import NetworkConfig
        from vera_planner.registry import planner_checkpoint
        from vera_planner.training import TrainConfig, main_train

        first = contracts[0]
        network = NetworkConfig(
            kind=kind,
            width=width,
            depth=depth,
            layers=layers,
            context=first.video.context,
            look_ahead=first.video.look_ahead,
            height=first.canvas.height,
            canvas_width=first.canvas.width,
        )
        config = TrainConfig(
            data=tuple(folder / 'train' for folder in folders),
            held_out=tuple(folder / 'held_out' for folder in folders),
            out=out,
            shares=tuple(parts),
            name=name or '_'.join(['compact', *(c.embodiment for c in contracts)]),
            steps=steps or 11500,
            lr=rate,
            seed=seed,
            threads=threads,
            init=planner_checkpoint(init).path if init else None,
            network=network,
            noise=NoiseConfig(drop_history=drop_history),
        )
        info = main_train(config, _command(), resume=resume)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    _tell(info, as_json)


def _tell(info: CheckpointInfo, as_json: bool) -> None:
    print(f'{info.path}: {info.short_hash}')
    if as_json:
        print(json.dumps({'checkpoint': str(info.path), **info.training['metrics']}))


def _pieces(
    embodiments: list[str],
    data: Path,
    clips: int,
    pictures: int,
    shares: str,
    name: str,
    options: dict[str, Any],
    resume: bool,
) -> CheckpointInfo:
    """Train one pieces planner for all `embodiments`."""
    from vera_bringup.panda_videos import write_scenes
    from vera_bringup.piece_videos import write_piece_videos
    from vera_core.contract import load_contract

    seed = options['seed']
    contracts = {c.embodiment: c for c in map(load_contract, embodiments)}
    folders: dict[str, Path] = {}
    for embodiment, contract in contracts.items():
        several = len(contract.cameras) > 1
        kind = 'scenes' if several else 'pieces'
        folder = folders[embodiment] = data / f'{embodiment}_{kind}_s{seed}'
        if several:
            held_out, made = (150, 200), (clips or PANDA_CLIPS, pictures or PANDA_PICTURES)
        else:
            held_out, made = (500, 500), (clips or CLIPS, pictures or PICTURES)
        write = write_scenes if several else write_piece_videos
        write(contract, folder / 'held_out', *held_out, seed + HELD_OUT_SEED)
        write(contract, folder / 'train', *made, seed)
    from vera_planner.pieces_training import PiecesTraining, main_train

    config = PiecesTraining(
        data={name: folder / 'train' for name, folder in folders.items()},
        held_out={name: folder / 'held_out' for name, folder in folders.items()},
        shares=tuple(float(part) for part in shares.split(',') if part),
        name=name or '_'.join(['pieces', *contracts]),
        **options,
    )
    return main_train(config, _command(), resume=resume)


def _command() -> str:
    return 'vera ' + shlex.join(sys.argv[1:])


def _show_progress() -> None:
    logging.basicConfig(level=logging.INFO, format='%(message)s')
