"""`vera train video`: a planner of the Wan family from a recipe."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from vera_bringup.exits import CommandError


def run(
    config: Path,
    layout: str,
    steps: int | None,
    out: Path | None,
    resume: bool,
    precompute: bool,
    device: str,
    threads: int,
    tensorboard: bool,
    as_json: bool,
    settings: list[str],
) -> None:
    """Train the recipe `config`, or precompute its latents; see vera_planner.wan.training."""
    import yaml

    logging.basicConfig(level=logging.INFO, format='%(message)s')
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, found, text = setting.partition('=')
        if not found:
            raise CommandError(f'--set {setting}: write KEY=VALUE, as optimiser.batch=2')
        try:
            overrides[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise CommandError(f'--set {setting}: {error}') from error
    if layout:
        overrides['layout'] = layout
    if steps is not None:
        overrides['steps'] = steps

    import torch

    from vera_planner.wan.recipe import load_recipe

    torch.set_num_threads(threads)
    command = 'vera ' + shlex.join(sys.argv[1:])
    main = os.environ.get('RANK', '0') == '0'  # of several processes the first one speaks
    try:
        recipe = load_recipe(config, overrides)
        folder = out or Path('runs') / f'train_{recipe.name}'
        from vera_planner.wan import training

        if precompute:
            result = training.precompute_latents(recipe, device)
        else:
            result = training.train(
                recipe, folder, resume=resume, device=device, command=command,
                tensorboard=tensorboard,
            )  # fmt: skip
    except (ValueError, OSError, RuntimeError) as error:
        raise CommandError(str(error)) from error
    if main:
        print(result.get('planner') or result.get('precomputed'))
        if as_json:
            print(json.dumps(result))
