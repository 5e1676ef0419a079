"""`vera bench video`: dreams against held-out videos and against reality."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vera_bringup.exits import CommandError


def run(
    embodiment: str, planner: str, planner_checkpoint: str, translator: str,
    translator_checkpoint: str, count: int, frames: int, seed: int, picture: Path | None,
    as_json: bool,
) -> None:
    """Measure and print; CommandError if something does not fit."""
    from vera_bringup import video_bench as work
    from vera_bringup.video_metrics import find_metrics
    from vera_core.contract import load_contract
    from vera_jidm.registry import make_translator
    from vera_planner.registry import make_planner

    try:
        contract = load_contract(embodiment)
        if contract.sim is None:
            raise ValueError(f'embodiment {embodiment!r} has no simulated environment')

        def made(provider: Any) -> Any:
            return make_planner(
                planner or contract.defaults.planner, contract,
                checkpoint=planner_checkpoint or None, provider=provider,
            )

        translates = make_translator(
            translator or contract.defaults.translator, contract, translator_checkpoint or None
        )
        scenes = work.clips(contract, made, translates, count, frames, seed)
        bar = tqdm(scenes, total=count, unit='clip', disable=None, file=sys.stderr)
        every = list(bar)
        clips = [clip for clip in every if clip is not None]
        found = work.measure(clips, find_metrics())
    except ValueError as error:
        raise CommandError(str(error)) from error
    found |= {
        'embodiment': contract.embodiment, 'seed': seed, 'no_plan': len(every) - len(clips),
    }
    print(f'{found["n"]} scenes, {found["no_plan"]} more without a plan of {frames} frames')
    print(work.table(found))
    if picture is not None:
        work.draw(found, contract.video.frame_period, picture)
        print(f'drawn to {picture}')
    if as_json:
        print(json.dumps(found))
