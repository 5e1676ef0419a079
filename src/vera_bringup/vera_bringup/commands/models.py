"""`vera models`: which checkpoints are there, where they come from, under which licence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def run(as_json: bool, details: bool) -> None:
    """Print the list."""
    found = [describe(path) for path in sorted(set(checkpoint_files()))]
    if as_json:
        print(json.dumps(found))
        return
    if not found:
        print('no checkpoints found; `vera train idm` and `vera train planner` make them')
        return
    table = Table()
    for name in ('kind', 'name', 'sha256', 'MB', 'embodies', 'licence'):
        table.add_column(name, overflow='fold')
    for model in found:
        table.add_row(
            model['kind'],
            model['name'],
            model['sha256'][:16] if model['intact'] else '[red]damaged[/red]',
            f'{model["bytes"] / 1e6:.1f}',
            model['embodies'],
            model['licence'],
        )
    console = Console()
    console.print(table)
    if details:
        for model in found:
            console.print_json(data={'name': model['name'], **model['details']})


def checkpoint_files() -> Iterator[Path]:
    """Checkpoints that are shipped with the packages, and those in the user's folders."""
    import vera_jidm
    import vera_planner
    from vera_core.contract_files import checkpoint_folders

    folders = [*checkpoint_folders()]
    for package in (vera_planner, vera_jidm):
        folders += [Path(p) / 'checkpoints' for p in package.__path__]
    for folder in folders:
        yield from (p.resolve() for p in folder.glob('*.safetensors'))


def describe(path: Path) -> dict[str, Any]:
    """What is known of one checkpoint: its JSON, and whether its weights are those it names."""
    from vera_core.checkpoint import sha256_of

    sidecar = path.with_suffix('.json')
    try:
        info = json.loads(sidecar.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        info = {'kind': f'unreadable: {error}'}
    training = info.get('training', {})
    actual = sha256_of(path)
    channels = info.get('contract', {}).get('channels', [])
    canvas = info.get('contract', {}).get('canvas', {})
    embodies = f'canvas {canvas.get("width", "?")}x{canvas.get("height", "?")}'
    embodies += f', {len(channels)} channels' if channels else ''
    return {
        'kind': info.get('kind', '?'),
        'name': path.stem,
        'path': str(path),
        'sha256': actual,
        'intact': actual == info.get('sha256'),
        'bytes': path.stat().st_size,
        'embodies': embodies,
        'licence': training.get('licence', 'unknown'),
        'command': training.get('command', 'unknown'),
        'details': {
            'config': info.get('config', {}),
            'contract': info.get('contract', {}),
            'training': training,
        },
    }
