"""`vera models`: which checkpoints are there, where they come from, under which licence.

And `vera models import`, which makes one of the authors' published J-IDM checkpoints ours; what
concerns planners of the Wan family is in models_planner.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def run(as_json: bool, details: bool) -> None:
    """Print the checkpoints, the families of Jacobian networks, and the sizes of Wan planners."""
    from vera_bringup.commands.models_planner import planners

    found = [*(describe(path) for path in sorted(set(checkpoint_files()))), *planners()]
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
    from vera_jidm.model_families import FAMILIES

    console.print('Jacobian networks: ' + '; '.join(f'{k}: {v}' for k, v in FAMILIES.items()))
    from vera_planner.wan.layouts import LAYOUTS

    sizes = [f'{k}: {v.hub_id}' if v.hub_id else k for k, v in LAYOUTS.items()]
    console.print('Wan planners, by size and published weights: ' + '; '.join(sizes))
    if details:
        for model in found:
            console.print_json(data={'name': model['name'], **model['details']})


def import_published(
    source: Path,
    name: str,
    embodiment: str,
    out: Path | None,
    gains: list[str],
    flow: str,
    accept_licence: str,
) -> None:
    """Convert a published checkpoint and say what it has become.

    Raises:
        CommandError: it cannot be used here; the message says why and what to do.
    """
    from vera_bringup.exits import CommandError
    from vera_core.checkpoint import CheckpointError
    from vera_core.contract import load_contract
    from vera_core.contract_files import checkpoint_folders
    from vera_core.contract_reader import ContractError

    folders = [out] if out is not None else checkpoint_folders()
    if not folders:
        raise CommandError('there is no folder for checkpoints; name one with --out')
    if not name or Path(name).name != name:
        raise CommandError(f'--as {name!r}: a checkpoint has a plain name, without folders')
    given = {}
    for text in gains:
        channel, _, number = text.partition('=')
        try:
            given[channel] = float(number)
        except ValueError:
            raise CommandError(f'--gain {text!r}: write it as CHANNEL=NUMBER') from None
    try:
        contract = load_contract(embodiment)
        from vera_jidm.authors import import_checkpoint
        from vera_jidm.flow import FlowError, make_flow

        try:
            flow_id = make_flow(flow).flow_id
        except FlowError as error:
            raise CommandError(f'--flow {flow}: {error}') from error
        info = import_checkpoint(
            source,
            contract,
            folders[0] / f'{name}.safetensors',
            flow_id=flow_id,
            gains=given,
            accept_licence=accept_licence,
            command=f'vera models import {source.name} --as {name} --embodiment '
            f'{contract.embodiment}',
        )
    except (CheckpointError, ContractError) as error:
        raise CommandError(str(error)) from error
    about = info.training['published']
    print(
        f'{info.path}: {about["model"]}, {len(contract.channels)} channels, actions '
        f'{about["action_mode"]}, solved with flow {flow_id}, licence {info.training["licence"]}'
    )
    print(f'try it: vera up {contract.embodiment} --translator-checkpoint {info.path}')


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
    contract = info.get('contract', {})
    channels = contract.get('channels', [])
    canvases = [each.get('canvas', {}) for each in contract.get('any_of', [contract])]
    sizes = [f'{c.get("width", "?")}x{c.get("height", "?")}' for c in canvases]
    embodies = f'canvas {" or ".join(sizes)}'
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
