"""A pieces planner from its checkpoint, for one of the embodiments that it knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from vera_core.checkpoint import CheckpointError, CheckpointInfo
from vera_planner.compact import default_threads
from vera_planner.pieces import STEPS, PiecesPlanner
from vera_planner.pieces_network import PiecesConfig, PiecesNetwork, PoseShape
from vera_planner.view_pieces import ViewPiecesPlanner


def load_pieces(
    info: CheckpointInfo,
    fields: Mapping[str, Any],
    frame_period: float,
    canvas: tuple[int, int],
    threads: int | None = None,
    steps: int | None = None,
) -> PiecesPlanner | ViewPiecesPlanner:
    """Build the network that the checkpoint describes and load its weights.

    Args:
        info: a planner's checkpoint that fits the contract.
        fields: `contract.visual_fields()`: which of the checkpoint's embodiments this is.
        frame_period: the contract's, s.
        canvas: the contract's height and width.
        threads: CPU threads of this process's torch; `default_threads` if None.
        steps: sampling steps; the planner's default if None.

    Raises:
        CheckpointError: it was made before all embodiments shared one network.
    """
    if 'shapes' not in info.config:
        raise CheckpointError(
            f'{info.path} is of an older kind of pieces planner; train it again: vera train planner'
        )
    torch.set_num_threads(threads or default_threads())
    config = PiecesConfig.from_dict(info.config)
    network = PiecesNetwork(config)
    network.load_state_dict(
        {name: torch.from_numpy(array).float() for name, array in info.tensors().items()}
    )
    network.codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours = info.contract['any_of'].index(json.loads(json.dumps(fields)))
    embodiment = list(config.shapes)[ours]
    poses = isinstance(config.shapes[embodiment], PoseShape)
    planner = PiecesPlanner if poses else ViewPiecesPlanner
    return planner(
        network, embodiment, frame_period, canvas, info.short_hash,
        STEPS if steps is None else steps,
    )  # fmt: skip
