"""`vera models` for planners of the Wan family: import, show, and what the list says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vera_bringup.exits import CommandError

CANVAS = (128, 576)  # of the published planners; the estimate of memory is for this
DTYPES = ('bfloat16', 'float32', 'float16')


def planners() -> Iterator[dict[str, Any]]:
    """Planners in the folders of checkpoints, described as `vera models` describes checkpoints."""
    from vera_core.checkpoint import CheckpointError
    from vera_planner.wan.checkpoints import HASHED_AT_ONCE, planner_folders, read_planner, verify

    for folder in planner_folders():
        try:
            info = read_planner(folder)
            intact = bool(info.sha256) and (info.bytes > HASHED_AT_ONCE or not verify(info))
        except CheckpointError as error:
            yield {
                'kind': f'unreadable: {error}', 'name': folder.name, 'path': str(folder),
                'sha256': '', 'intact': False, 'bytes': 0, 'embodies': '?', 'licence': 'unknown',
                'command': 'unknown', 'details': {},
            }  # fmt: skip
            continue
        canvas = (info.contract or {}).get('canvas', {})
        size = f'canvas {canvas["width"]}x{canvas["height"]}' if canvas else 'any canvas'
        yield {
            'kind': 'planner',
            'name': folder.name,
            'path': str(folder),
            'sha256': info.short_hash,
            'intact': intact,
            'bytes': info.bytes,
            'embodies': f'{size}, wan {info.layout.name}',
            'licence': info.licence or 'unknown',
            'command': info.training.get('command', 'unknown'),
            'details': {
                'config': info.layout.as_dict(),
                'contract': info.contract or {},
                'training': info.training,
                'sampling': info.sampling,
                'source': info.source,
                'revision': info.revision,
                'parts': info.parts,
            },
        }


def import_wan(
    source: Path,
    name: str,
    out: Path | None,
    layout: str,
    heads: int | None,
    prefix: str | None,
    base: str,
    dtype: str,
    licence: str,
) -> None:
    """Convert a checkpoint of a Wan planner and say what it has become.

    Raises:
        CommandError: it cannot be used; the message says why and what to do.
    """
    import torch
    from tqdm import tqdm

    from vera_core.checkpoint import CheckpointError
    from vera_core.contract_files import checkpoint_folders
    from vera_planner.wan.hub import licence_line
    from vera_planner.wan.importer import import_planner

    folders = [out] if out is not None else checkpoint_folders()
    if not folders:
        raise CommandError('there is no folder for checkpoints; name one with --out')
    if not name or Path(name).name != name:
        raise CommandError(f'--as {name!r}: a planner has a plain name, without folders')
    if dtype and dtype not in DTYPES:
        raise CommandError(f'--dtype {dtype!r}; known: {", ".join(DTYPES)}')
    target = folders[0] / name
    if target.exists():
        raise CommandError(f'{target} is there already; take another name, or remove it')
    try:
        with tqdm(unit='B', unit_scale=True, desc=name) as bar:

            def progress(written: int, whole: int) -> None:
                bar.total = whole
                bar.update(written - bar.n)

            info = import_planner(
                source,
                target,
                layout=layout or None,
                heads=heads,
                prefix=prefix,
                base=base or None,
                dtype=getattr(torch, dtype) if dtype else None,
                licence=licence,
                command=f'vera models import {source.name} --as {name} --planner',
                progress=progress,
            )
    except (CheckpointError, OSError) as error:
        raise CommandError(str(error)) from error
    about = info.training['imported']
    print(
        f'{info.folder}: {info.layout.name}, {about["tensors"]} tensors, '
        f'{info.bytes / 1e9:.2f} GB, hash {info.short_hash}'
    )
    if about['left_out']:
        print(f'{about["left_out"]} tensors that are not the transformer were left out')
    print(licence_line(name, info.licence))
    for line in memory_lines(info.layout):
        print(line)


def show(ref: str, as_json: bool) -> None:
    """Print what is known of a checkpoint or a hub model, without loading it.

    Raises:
        CommandError: it is not found.
    """
    from vera_core.checkpoint import CheckpointError
    from vera_planner.wan.checkpoints import find_planner, locate
    from vera_planner.wan.hub import HubError, is_repository, licence_line

    repo = ref.partition('@')[0]
    try:
        if find_planner(ref) is not None:
            info = locate(ref)
            data: dict[str, Any] = {
                'name': info.name,
                'folder': str(info.folder),
                'hash': info.short_hash,
                'bytes': info.bytes,
                **info.as_dict(),
            }
            layout = info.layout
        elif is_repository(repo) and not Path(ref).exists():
            data, layout = _published(repo, ref.partition('@')[2])
        else:
            _show_checkpoint(ref, as_json)
            return
    except (CheckpointError, HubError) as error:
        raise CommandError(str(error)) from error
    lines = memory_lines(layout) if layout is not None else []
    if as_json:
        print(json.dumps({**data, 'memory': lines}))
        return
    from rich.console import Console

    Console().print_json(data=data)
    print(licence_line(data['name'], data['licence']))
    for line in lines:
        print(line)


def _published(repo: str, revision: str) -> tuple[dict[str, Any], Any]:
    """What the hub says of a model: only its page and one small file are fetched."""
    from vera_core.checkpoint import CheckpointError
    from vera_planner.wan.checkpoints import layout_of_config
    from vera_planner.wan.hub import HubError, fetch, page

    commit, licence, size = page(repo, revision or 'main')
    data = {
        'name': repo,
        'pinned': f'{repo}@{commit}',
        'licence': licence,
        'bytes': size,
        'layout': None,
    }
    try:
        found = fetch(repo, commit, ['transformer/config.json'])
        layout = layout_of_config(found.folder / 'transformer' / 'config.json')
    except (HubError, CheckpointError) as error:
        return {**data, 'note': f'not to be opened as a planner: {error}'}, None
    return {**data, 'layout': layout.as_dict()}, layout


def _show_checkpoint(ref: str, as_json: bool) -> None:
    from vera_bringup.commands.models import checkpoint_files, describe

    path = Path(ref).expanduser().resolve()
    for file in sorted(set(checkpoint_files())):
        if file.stem == ref or file == path:
            found = describe(file)
            if as_json:
                print(json.dumps(found))
                return
            from rich.console import Console

            Console().print_json(data=found)
            return
    raise CommandError(f'{ref!r}: no checkpoint or planner of that name; `vera models` lists them')


def memory_lines(layout: Any) -> list[str]:
    """What a layout needs at each level of offloading, in the types it may be loaded in."""
    import torch

    from vera_planner.wan.memory import GB, LEVELS, estimate

    height, width = CANVAS
    lines = []
    for dtype in (torch.bfloat16, torch.float32):
        need = estimate(layout, dtype, height=height, width=width)
        parts = ', '.join(
            f'{level} {need.on_device(level) / GB:.1f} (+{need.in_ram(level) / GB:.1f} main memory)'
            for level in LEVELS
        )
        name = str(dtype).removeprefix('torch.')
        lines.append(f'GB on the GPU in {name} at {width}x{height}, by offload: {parts}')
    return lines
