"""Planners by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vera_core.checkpoint import CheckpointInfo, check_contract, find_checkpoint
from vera_core.contract import CheckpointRef, Contract
from vera_core.contract_files import checkpoint_folders
from vera_core.seams import VideoPlanner

PLANNERS = ('compact', 'oracle', 'remote', 'wan')
SHIPPED = Path(__file__).parent / 'checkpoints'


def make_planner(
    name: str,
    contract: Contract,
    *,
    checkpoint: str | None = None,
    provider: Any = None,
    steps: int | None = None,
    threads: int | None = None,
) -> VideoPlanner:
    """The planner called `name` for this contract.

    Args:
        name: one of PLANNERS.
        contract: what the embodiment sees.
        checkpoint: name or path; the contract's default if None. For `remote` the server's URL,
            or a YAML file with vera_planner.remote.client.RemoteOptions. For `wan` a folder, a name
            or a hub id, or a YAML file with vera_planner.wan.planner.WanOptions.
        provider: where the oracle gets the expert's future from; the others need none.
        steps: sampling steps; the planner's default if None.
        threads: CPU threads; all but one core, at most 4, if None.

    Raises:
        ValueError: an unknown planner, an oracle without a provider, a remote one without a URL.
        RemoteError: the server cannot be reached or has another contract.
        CheckpointError: the checkpoint is missing, damaged or of another contract.
        MemoryNeedError, SpeedError: `wan` does not fit this machine, or an option cannot be had.
    """
    if name == 'oracle':
        from vera_planner.oracle import OraclePlanner

        if provider is None:
            raise ValueError('the oracle planner needs a simulation that tells it the future')
        return OraclePlanner(provider, contract)
    if name == 'remote':
        from vera_planner.remote.client import RemotePlanner, read_options

        return RemotePlanner(read_options(checkpoint or ''), contract)
    if name == 'wan':
        from vera_planner.wan.planner import WanPlanner
        from vera_planner.wan.planner import read_options as read_wan_options

        ours = contract.defaults.planner == 'wan'
        default = contract.defaults.planner_checkpoint if ours else None
        chosen = checkpoint or (default.name if default else '')
        if not chosen:
            raise ValueError(
                'the wan planner needs a checkpoint: a folder, a name, a hub id or a YAML file '
                'with options (config/planners/wan.yaml)'
            )
        return WanPlanner.load(read_wan_options(chosen), contract, steps=steps, threads=threads)
    if name != 'compact':
        raise ValueError(f'unknown planner {name!r}; known: {", ".join(PLANNERS)}')
    ref: CheckpointRef | str | None = checkpoint or contract.defaults.planner_checkpoint
    if ref is None:
        raise ValueError(
            f'embodiment {contract.embodiment!r} names no planner checkpoint; '
            'set defaults.planner_checkpoint in its contract'
        )
    info = planner_checkpoint(ref)
    check_contract(info, contract.visual_fields())
    canvas = (contract.canvas.height, contract.canvas.width)
    period = contract.video.frame_period
    if info.config.get('kind') in ('pieces', 'view_pieces'):
        from vera_planner.pieces_checkpoint import load_pieces

        return load_pieces(info, contract.visual_fields(), period, canvas, threads, steps)
    from vera_planner import compact

    return compact.CompactPlanner.load(
        info, period, canvas, threads=threads, steps=compact.STEPS if steps is None else steps
    )


def planner_checkpoint(ref: CheckpointRef | str) -> CheckpointInfo:
    """The planner's checkpoint `ref`, a name or a path.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    # A path says where it is; a name is looked for in the user's folders, then with those shipped.
    is_path = isinstance(ref, str) and (ref.endswith('.safetensors') or Path(ref).name != ref)
    folders = None if is_path else [*checkpoint_folders(), SHIPPED]
    return find_checkpoint(ref, folders, kind='planner')
