"""Checkpoints: weights in <name>.safetensors, and what they are in <name>.json beside it.

The JSON holds {"kind", "sha256", "config", "contract", "training"}. No pickle, no torch: tensors
are numpy arrays here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import CheckpointRef
from vera_core.contract_files import checkpoint_folders

MADE_BY = {'planner': 'vera train planner', 'idm': 'vera train idm'}
REQUIRED = ('kind', 'sha256', 'config', 'contract', 'training')
HASH_SHOWN = 16


class CheckpointError(ValueError):
    """A checkpoint that may not be used; the message names the file, what differs and the cure."""


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint whose weights match their hash.

    Attributes:
        path: the .safetensors file.
        kind: 'planner' or 'idm'.
        sha256: of that file, 64 hex digits.
        config: what builds the model.
        contract: the contract's fields it was trained for, or {'any_of': [fields, ...]} where it
            serves several embodiments.
        training: command, seed, steps, data, licence, metrics.
    """

    path: Path
    kind: str
    sha256: str
    config: dict[str, Any] = field(repr=False)
    contract: dict[str, Any] = field(repr=False)
    training: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Name by which contracts refer to it."""
        return self.path.stem

    @property
    def short_hash(self) -> str:
        """First 16 hex digits of the hash, as messages carry it."""
        return self.sha256[:HASH_SHOWN]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The weights, name -> array."""
        from safetensors.numpy import load_file

        loaded: dict[str, NDArray[Any]] = load_file(str(self.path))
        return loaded


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_checkpoint(
    ref: CheckpointRef | str, search: Sequence[Path] | None = None, kind: str | None = None
) -> CheckpointInfo:
    """Find a checkpoint by name and prove its weights.

    Args:
        ref: name and maybe digest; or a name; or the path of a .safetensors file.
        search: folders, first match wins; `checkpoint_folders()` unless told.
        kind: 'planner' or 'idm'; None takes either.

    Raises:
        CheckpointError: not found (where it looked, the command that makes it), a broken or missing
            JSON, another kind, or weights that do not match their hash.
    """
    if isinstance(ref, str):
        as_path = Path(ref).expanduser()
        if ref.endswith('.safetensors') or len(as_path.parts) > 1:
            search, ref = [as_path.parent], as_path.name.removesuffix('.safetensors')
        ref = CheckpointRef(ref)
    folders = list(checkpoint_folders() if search is None else search)
    for folder in folders:
        path = folder / f'{ref.name}.safetensors'
        if path.is_file():
            return _read(path, ref, kind)
    command = MADE_BY[kind] if kind in MADE_BY else ' or '.join(MADE_BY.values())
    looked = ', '.join(str(folder) for folder in folders) or 'nowhere: no folder was given'
    raise CheckpointError(
        f'checkpoint {ref.name!r} not found; looked in {looked}. Make it with `{command}`, or add '
        'its folder to VERA_CHECKPOINT_PATH'
    )


def _read(path: Path, ref: CheckpointRef, kind: str | None) -> CheckpointInfo:
    described = path.with_suffix('.json')
    try:
        data = json.loads(described.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CheckpointError(
            f'{path}: {described.name} is missing beside it; a checkpoint is both files'
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{described}: cannot be read: {error}') from error
    missing = [key for key in REQUIRED if not isinstance(data, dict) or key not in data]
    if missing:
        raise CheckpointError(f'{described}: lacks {", ".join(missing)}')
    if kind is not None and data['kind'] != kind:
        raise CheckpointError(f'{path}: is a checkpoint of a {data["kind"]}, not of a {kind}')
    found = sha256_of(path)
    if found != data['sha256']:
        raise CheckpointError(
            f'{path}: its SHA-256 is {found[:HASH_SHOWN]}, {described.name} says '
            f'{str(data["sha256"])[:HASH_SHOWN]}; the file is damaged or of another training'
        )
    if ref.sha256 is not None and not found.startswith(ref.sha256):
        raise CheckpointError(
            f'{path}: its SHA-256 is {found[:HASH_SHOWN]}, the contract wants '
            f'{ref.sha256[:HASH_SHOWN]}; name the right checkpoint or change the contract'
        )
    return CheckpointInfo(
        path=path,
        kind=data['kind'],
        sha256=found,
        config=data['config'],
        contract=data['contract'],
        training=data['training'],
    )


def check_contract(info: CheckpointInfo, fields: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that was trained for other fields than the contract's.

    Args:
        info: the checkpoint.
        fields: `contract.visual_fields()` for a planner, `action_fields()` for a translator.

    Raises:
        CheckpointError: names every field that differs, e.g. 'canvas.width: checkpoint 64,
            contract 128'.
    """
    trained_for = info.contract.get('any_of', [info.contract])
    differences = min((_differences(each, fields) for each in trained_for), key=len)
    if differences:
        raise CheckpointError(
            f'{info.path.name} was trained for another contract: {"; ".join(differences)}'
        )


def _differences(theirs: Mapping[str, Any], fields: Mapping[str, Any]) -> list[str]:
    a, b = _flatten(theirs), _flatten(json.loads(json.dumps(fields)))
    return [
        f'{key}: checkpoint {_show(a, key)}, contract {_show(b, key)}'
        for key in sorted({*a, *b})
        if key not in a or key not in b or a[key] != b[key]
    ]


def _flatten(value: Any, key: str = '') -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            k: v
            for name, inner in value.items()
            for k, v in _flatten(inner, f'{key}.{name}' if key else str(name)).items()
        }
    if isinstance(value, list) and value:
        return {
            k: v for i, inner in enumerate(value) for k, v in _flatten(inner, f'{key}[{i}]').items()
        }
    return {key: value}


def _show(flat: Mapping[str, Any], key: str) -> str:
    return str(flat[key]) if key in flat else 'has none'


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    *,
    kind: str,
    config: Mapping[str, Any],
    contract: Mapping[str, Any],
    training: Mapping[str, Any],
) -> CheckpointInfo:
    """Write both files of a checkpoint; each appears whole or not at all.

    Args:
        path: `<name>.safetensors`; folders are made.
        tensors: the weights, name -> array.
        kind: 'planner' or 'idm'.
        config: what builds the model, plain data.
        contract: `contract.visual_fields()` or `action_fields()`.
        training: command, seed, steps, data, licence, metrics; plain data.

    Raises:
        CheckpointError: an unknown kind, no tensors, or data that is not plain.
        OSError: the disk is full, or the folder cannot be written.
    """
    from safetensors.numpy import save

    if kind not in MADE_BY:
        raise CheckpointError(f'unknown kind {kind!r}; known: {", ".join(MADE_BY)}')
    if not tensors:
        raise CheckpointError(f'{path}: a checkpoint without tensors')
    path = path if path.suffix == '.safetensors' else path.with_name(path.name + '.safetensors')
    weights = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    data = {
        'kind': kind,
        'sha256': hashlib.sha256(weights).hexdigest(),
        'config': dict(config),
        'contract': dict(contract),
        'training': dict(training),
    }
    try:
        text = json.dumps(data, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f'{path}: config, contract and training hold plain data only: {error}'
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, weights)
    write_atomic(path.with_suffix('.json'), (text + '\n').encode())
    return _read(path, CheckpointRef(path.stem), kind)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old one or the whole new one, whatever happens."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    temporary = Path(name)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
