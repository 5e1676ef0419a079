"""`vera models import`: the authors' published J-IDM checkpoints as checkpoints of ours.

Parameters are taken over one for one and unchanged, so the Jacobian is theirs to the last bit
(huggingface.co/sizhe-lester-li/VERA: pusht-idm, idm-mimicgen; idm-droid and idm-mimicgen-285ouq1q
where the user has VGGT). Units, input size and action layout come from the run configuration beside
the weights, see `vera_jidm.authors_config`. Nothing of a checkpoint is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vera_core.checkpoint import CheckpointInfo, write_checkpoint
from vera_core.contract import Contract
from vera_jidm.authors_config import AuthorsError, Published, read_config, read_run
from vera_jidm.authors_names import ours, unread
from vera_jidm.model import Scales, config_of
from vera_jidm.models import BackboneError, JacobianNetwork, build
from vera_jidm.models.vggt import check_licence
from vera_jidm.views import view_boxes

LICENCES = {'dinov2': 'Apache-2.0', 'vggt': 'CC-BY-NC-4.0'}
# The configuration has the 90th percentile of the actions, not the largest: taken as this many
# times as large.
LARGEST = 3.0
# Names of parameters shown in a message.
SHOWN = 4


def import_checkpoint(
    source: Path,
    contract: Contract,
    target: Path,
    *,
    flow_id: str,
    gains: Mapping[str, float] | None = None,
    accept_licence: str = '',
    command: str = 'vera models import',
) -> CheckpointInfo:
    """Convert a published checkpoint for an embodiment.

    Args:
        source: the weights (.ckpt or .safetensors), or the folder with model.ckpt; the run
            configuration lies beside them.
        contract: of the embodiment: its channels must be the checkpoint's actions, in their order,
            its cameras the checkpoint's views.
        target: `<name>.safetensors` to write.
        flow_id: estimator to solve with; the authors trained on MegaFlow.
        gains: channel -> how much of the published motion one unit of the channel is, where the
            units differ (0.04 m of finger travel for a gripper of 1) or the configuration does not
            know the motion's unit.
        accept_licence: of the weights, where it restricts their use.
        command: for the JSON.

    Raises:
        AuthorsError: it does not fit; names what differs.
    """
    path = _weights_file(source)
    published = read_config(read_run(path), path.parent.name)
    licence = LICENCES[published.network['family']]
    try:
        check_licence(licence, f'{path.parent.name}/{path.name}', accept_licence)
    except BackboneError as error:
        raise AuthorsError(str(error)) from error
    scales = _scales(published, contract, gains or {})
    config: dict[str, Any] = {
        **published.network,
        'height': contract.canvas.height,
        'width': contract.canvas.width,
        'views': _views(published, contract),
        **({'accepted': licence} if published.network['family'] == 'vggt' else {}),
    }
    try:
        net = build(config)
    except (ValueError, BackboneError) as error:
        raise AuthorsError(f'{path.parent.name}: {error}') from error
    weights = _renamed(read_weights(path), published, net, path)
    net.load_state_dict(weights)
    return write_checkpoint(
        target,
        {name: value.numpy() for name, value in net.state_dict().items()},
        kind='idm',
        config=config_of(net, scales, flow_id, published.ridge),
        contract=contract.action_fields(),
        training={
            'command': command,
            'source': f'{path.parent.name}/{path.name}',
            'licence': licence,
            'trained_on': 'MegaFlow, by the authors of arXiv 2605.27817',
            'published': published.about,
            'gains': dict(gains or {}),
        },
    )


def _weights_file(source: Path) -> Path:
    source = source.expanduser()
    path = source / 'model.ckpt' if source.is_dir() else source
    if not path.is_file():
        raise AuthorsError(
            f'{path}: no such file; fetch it with '
            '`hf download sizhe-lester-li/VERA --include "pusht-idm/*" --local-dir FOLDER`'
        )
    return path


class _Inert:
    """Stands for every class that a checkpoint names besides tensors; does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(path: Path) -> dict[str, Tensor]:
    """The parameters in a file, by the authors' names; no code of the file is run.

    A Lightning checkpoint also holds states of its callbacks and configuration objects; whatever
    is no plain data becomes an object that does nothing.

    Raises:
        AuthorsError: the file cannot be read in that way, or holds no parameters.
    """
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file

            found: Any = load_file(str(path))
        else:
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            with torch.serialization.safe_globals([(_Inert, name) for name in foreign]):
                found = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen kinds
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise AuthorsError(
            f'{path}: cannot be read without running code of it ({reason}); where you trust it, '
            'save its state_dict alone with safetensors.torch.save_file, and import that file'
        ) from error
    if isinstance(found, dict) and isinstance(found.get('state_dict'), dict):
        found = found['state_dict']
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(v, Tensor) for v in found.values())
    ):
        raise AuthorsError(f'{path}: holds no state_dict of tensors')
    return dict(found)


def _renamed(
    found: Mapping[str, Tensor], published: Published, net: JacobianNetwork, path: Path
) -> dict[str, Tensor]:
    """Parameters by our names, all of them and of the right shapes."""
    blocks = max(published.network.get('stages', (0,)))
    wanted = net.state_dict()
    weights, unexpected = {}, []
    for name, value in found.items():
        mine = ours(name, published.model)
        if mine in wanted:
            weights[mine] = value
        elif not unread(mine, published.model, blocks):
            unexpected.append(name)
    missing = sorted(set(wanted) - set(weights))
    wrong = [
        f'{name} {list(weights[name].shape)} instead of {list(wanted[name].shape)}'
        for name in weights
        if weights[name].shape != wanted[name].shape
    ]
    problems = [
        f'{word} {_some(names)}'
        for word, names in (('has besides', unexpected), ('lacks', missing), ('has', wrong))
        if names
    ]
    if problems:
        raise AuthorsError(
            f'{path}: does not fit the {published.model} of its configuration: it '
            + '; it '.join(problems)
        )
    if not all(bool(torch.isfinite(v).all()) for v in weights.values()):
        raise AuthorsError(f'{path}: a weight is not a finite number')
    return {name: value.to(wanted[name].dtype) for name, value in weights.items()}


def _some(names: list[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more


def _views(published: Published, contract: Contract) -> list[tuple[int, int, int, int]]:
    boxes = view_boxes(contract)
    if published.views and len(boxes) != len(published.views):
        raise AuthorsError(
            f'the checkpoint has {len(published.views)} views ({", ".join(published.views)}), the '
            f'contract {len(boxes)} ({", ".join(box.name for box in boxes)})'
        )
    return [(box.x0, box.y0, box.x1, box.y1) for box in boxes]


def _scales(published: Published, contract: Contract, gains: Mapping[str, float]) -> Scales:
    """Scales in the contract's units: J_phys = J flow_scale / action_scale."""
    channels = contract.channels
    if len(channels) != len(published.actions):
        raise AuthorsError(
            f'the checkpoint has {len(published.actions)} actions, the contract '
            f'{len(channels)} channels'
        )
    for name in gains:
        if name not in contract.channel_names:
            raise AuthorsError(
                f'a gain for channel {name!r}; the contract has {", ".join(contract.channel_names)}'
            )
    action = []
    for i, (channel, wanted) in enumerate(zip(channels, published.actions, strict=True)):
        if channel.kind not in wanted.kinds:
            raise AuthorsError(
                f'channel {channel.name!r} is a {channel.kind}; number {i + 1} of the published '
                f'action is a {" or ".join(wanted.kinds)}'
            )
        gain = gains.get(channel.name)
        if gain is None and channel.unit != wanted.unit:
            raise AuthorsError(
                f'channel {channel.name!r} is in {channel.unit}; number {i + 1} of the published '
                + (f'action is in {wanted.unit}; ' if wanted.unit else 'action has no known unit; ')
                + f'say how much of it one {channel.unit} is: `--gain {channel.name}=NUMBER`'
            )
        if gain is not None and not 0 < gain < float('inf'):
            raise AuthorsError(f'the gain of {channel.name!r} is {gain}; it must be positive')
        per_unit = wanted.scale * (1.0 if gain is None else gain)
        action.append(published.action_scale[i] / per_unit)
    scale = np.array(action)
    return Scales(scale, LARGEST * scale, 1.0)
