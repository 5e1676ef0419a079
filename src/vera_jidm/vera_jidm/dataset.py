"""Self-play transitions on disk, and batches of them.

A data set is a folder of shards. Each shard is an .npz file (no pickle) with
    format   int, 1
    meta     JSON text: {"contract": <Contract.action_fields()>, "source": ..., "seed": ...}
    before   uint8 [N, H, W, 3], canvases o_t
    after    uint8 [N, H, W, 3], canvases o_t+1
    actions  float32 [N, n], in the units of the contract's channels
    flow, flow_back   float16 [N, H, W, 2] px, optional: analytic flow o_t -> o_t+1 and back
Estimated flow is computed once and kept beside each shard, averaged over the network's cells.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Array, Image
from vera_jidm.augment import degrade
from vera_jidm.flow import ANALYTIC, PairFlow

FORMAT = 1
_LOG = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file and the cure."""


@dataclass(frozen=True)
class Transitions:
    """N transitions; `flow` and `flow_back` are float16 [N, H, W, 2] px or None."""

    before: Image
    after: Image
    actions: Array
    flow: NDArray[np.float16] | None = None
    flow_back: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class GridFlow:
    """Flow in both directions averaged over cells: [N, 2, h, w] px, weights [N, h, w] 0..1."""

    forward: NDArray[np.float16]
    backward: NDArray[np.float16]
    weight_forward: NDArray[np.float16]
    weight_backward: NDArray[np.float16]


@dataclass(frozen=True)
class Batch:
    """Training samples: uint8 images, float32 actions, flow and weights on the grid."""

    before: Image
    after: Image
    actions: Array
    flow: GridFlow


def write_shard(path: Path, data: Transitions, meta: Mapping[str, Any]) -> None:
    """Write one shard, whole or not at all.

    Args:
        path: of the .npz file; its folder is made.
        data: N >= 1 transitions.
        meta: must hold 'contract', the contract's action fields.

    Raises:
        DatasetError: shapes, types or numbers that do not fit.
    """
    _check(data, path)
    if 'contract' not in meta:
        raise DatasetError(f'{path.name}: meta must hold the contract (Contract.action_fields())')
    arrays: dict[str, Any] = {
        'format': np.int64(FORMAT),
        'meta': np.array(json.dumps(meta, sort_keys=True)),
        'before': data.before,
        'after': data.after,
        'actions': data.actions.astype(np.float32),
    }
    if data.flow is not None and data.flow_back is not None:
        arrays['flow'] = data.flow.astype(np.float16)
        arrays['flow_back'] = data.flow_back.astype(np.float16)
    _write(path, arrays)


def read_shard(path: Path) -> tuple[Transitions, dict[str, Any]]:
    """Transitions and meta of one shard; raises DatasetError when it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if 'format' not in file or int(file['format']) != FORMAT:
                raise DatasetError(f'{path} is no shard of format {FORMAT}')
            meta = json.loads(str(file['meta']))
            data = Transitions(
                file['before'], file['after'], file['actions'],
                file.get('flow'),
                file.get('flow_back'),
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f'{path} cannot be read ({error}); collect it again') from error
    _check(data, path)
    return data, meta


class ShardFolder:
    """The shards of one folder, opened one at a time.

    Attributes:
        paths: shards in the order of their names.
        lengths: transitions in each.
        contract: action fields they were collected under; meta: of the first shard.
        action_scale, action_max: float64 [n], root mean square and largest size of the actions.
        digest: identifies the transitions (not the file's bytes).

    Raises:
        DatasetError: no shards, or shards that differ in contract or shape.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.paths = sorted(self.folder.glob('shard_*.npz'))
        if not self.paths:
            raise DatasetError(f'no shard_*.npz in {self.folder}; make some with `vera collect`')
        self.lengths: list[int] = []
        squares: NDArray[np.float64] | None = None
        self.action_max: NDArray[np.float64] = np.zeros(1)
        digest = hashlib.sha256()
        for i, path in enumerate(self.paths):
            data, meta = read_shard(path)
            if i == 0:
                self.meta = meta
                self.contract: dict[str, Any] = meta['contract']
                self.canvas = data.before.shape[1:3]
                self.channels = data.actions.shape[1]
                self.analytic = data.flow is not None
            elif meta['contract'] != self.contract or data.before.shape[1:3] != self.canvas:
                raise DatasetError(
                    f'{path} was collected under another contract than {self.paths[0]}'
                )
            self.analytic &= data.flow is not None
            self.lengths.append(len(data.actions))
            total = np.square(data.actions, dtype=np.float64).sum(0)
            squares = total if squares is None else squares + total
            self.action_max = np.maximum(self.action_max, np.abs(data.actions).max(0))
            digest.update(data.actions.tobytes())
            digest.update(zlib.crc32(data.before.tobytes()).to_bytes(4, 'little'))
        assert squares is not None
        self.action_scale = np.sqrt(squares / sum(self.lengths))
        self.digest = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return sum(self.lengths)


FlowSource = Callable[[Path, Transitions], GridFlow]


class AnalyticSource:
    """The simulator's own flow, from the shard."""

    flow_id = ANALYTIC

    def __init__(self, grid: int) -> None:
        self._grid = grid

    def __call__(self, path: Path, data: Transitions) -> GridFlow:
        """Flow of a shard; raises DatasetError when it holds none."""
        if data.flow is None or data.flow_back is None:
            raise DatasetError(f'{path} holds no analytic flow; collect it from a simulator')
        forward, backward = _pool(data.flow, self._grid), _pool(data.flow_back, self._grid)
        ones = np.ones((len(forward), *forward.shape[2:]), np.float16)
        return GridFlow(forward, backward, ones, ones)


class EstimatedSource:
    """An estimator's flow, computed once for each shard and kept beside it.

    Args:
        estimator: of both directions.
        grid: pixels of the canvas in a cell's side.
        degrade: share of the pairs whose flow is taken from blurred, noisy copies, as imagined
            frames are.
        seed: of those copies.
    """

    def __init__(
        self, estimator: PairFlow, grid: int, degrade: float = 0.0, seed: int = 0
    ) -> None:
        self.flow_id = estimator.flow_id
        self._estimator, self._grid = estimator, grid
        self._degrade, self._seed = degrade, seed

    def __call__(self, path: Path, data: Transitions) -> GridFlow:
        """Flow of a shard, from the file beside it when that belongs to these transitions."""
        of = zlib.crc32(data.before.tobytes(), zlib.crc32(data.actions.tobytes()))
        name = f'{path.stem}.{self.flow_id}.x{self._grid}.d{self._degrade:g}.s{self._seed}.npz'
        cache = path.parent / 'flow' / name
        if cache.is_file():
            try:
                with np.load(cache, allow_pickle=False) as file:
                    if int(file['of']) == of:
                        return GridFlow(*(file[k] for k in _GRID_FLOW))
            except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
                _LOG.warning('%s cannot be read (%s); computing it again', cache, error)
        flow = self._compute(data, of)
        _write(cache, {'of': np.int64(of), **{k: getattr(flow, k) for k in _GRID_FLOW}})
        return flow

    def _compute(self, data: Transitions, of: int) -> GridFlow:
        rng = np.random.default_rng([self._seed, of])
        n, h, w = data.before.shape[:3]
        shape = (n, h // self._grid, w // self._grid)
        out = GridFlow(
            np.empty((n, 2, *shape[1:]), np.float16), np.empty((n, 2, *shape[1:]), np.float16),
            np.empty(shape, np.float16), np.empty(shape, np.float16),
        )
        for i in range(n):
            a, b = data.before[i], data.after[i]
            if rng.random() < self._degrade:
                a, b = degrade(a, rng), degrade(b, rng)
            pair = self._estimator.both(a[None], b[None])
            for k in _GRID_FLOW:
                getattr(out, k)[i] = _pool(getattr(pair, k), self._grid)[0]
        return out


_GRID_FLOW = ('forward', 'backward', 'weight_forward', 'weight_backward')


class TransitionStore:
    """Shuffled batches; holds at most about `memory` bytes of shards.

    The batch of a step is a function of (seed, step) alone, so a resumed training sees what an
    uninterrupted one sees. Shards are shuffled, grouped into windows that fit the memory, and
    shuffled within each window.
    """

    def __init__(
        self, folder: ShardFolder, source: FlowSource, batch: int, seed: int,
        memory: int = 1 << 30,
    ) -> None:
        if not 1 <= batch <= len(folder):
            raise DatasetError(
                f'{folder.folder} holds {len(folder)} transitions, too few for batches of {batch}'
            )
        self._folder, self._source, self._batch, self._seed = folder, source, batch, seed
        h, w = folder.canvas
        each = h * w * 3 * 2 + (h * w // 4) * 12
        self._room = max(1, memory // (each * max(folder.lengths)))
        self._held: OrderedDict[int, tuple[Transitions, GridFlow]] = OrderedDict()
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self.steps_per_epoch = len(folder) // batch

    def batch(self, step: int) -> Batch:
        """The batch of training step `step`, from 0."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._shuffle(epoch))
        rows = self._order[1][at * self._batch : (at + 1) * self._batch]
        return self.gather(rows)

    def gather(self, rows: NDArray[np.int64]) -> Batch:
        """The transitions (shard, index) of `rows`, int64 [B, 2]."""
        parts = [(self._shard(int(s)), int(i)) for s, i in rows]
        return Batch(
            np.stack([d.before[i] for (d, _), i in parts]),
            np.stack([d.after[i] for (d, _), i in parts]),
            np.stack([d.actions[i] for (d, _), i in parts]),
            GridFlow(*(np.stack([getattr(f, k)[i] for (_, f), i in parts]) for k in _GRID_FLOW)),
        )

    def prepare(self, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> float:
        """Compute what is not on disk yet; the root mean square of the flow [px], all cells."""
        squares, count = 0.0, 0
        for s in progress(range(len(self._folder.paths))):
            flow = self._shard(s)[1]
            for values in (flow.forward, flow.backward):
                squares += float(np.square(values, dtype=np.float64).sum())
                count += values.size
        return float(np.sqrt(squares / count))

    def _shard(self, index: int) -> tuple[Transitions, GridFlow]:
        if index in self._held:
            self._held.move_to_end(index)
            return self._held[index]
        path = self._folder.paths[index]
        data, _ = read_shard(path)
        flow = self._source(path, data)
        slim = Transitions(data.before, data.after, data.actions)
        while len(self._held) >= self._room:
            self._held.popitem(last=False)
        self._held[index] = (slim, flow)
        return slim, flow

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, epoch])
        shards = rng.permutation(len(self._folder.paths))
        windows = []
        for start in range(0, len(shards), self._room):
            rows = np.concatenate(
                [
                    np.stack([np.full(self._folder.lengths[s], s),
                              np.arange(self._folder.lengths[s])], axis=1)
                    for s in shards[start : start + self._room]
                ]
            )
            windows.append(rng.permutation(rows))
        return np.concatenate(windows).astype(np.int64)


def _pool(field: NDArray[Any], grid: int) -> NDArray[np.float16]:
    """[N, H, W, 2] -> [N, 2, H/g, W/g] or [N, H, W] -> [N, H/g, W/g], cell averages."""
    n, h, w = field.shape[:3]
    cells = field.astype(np.float32).reshape(n, h // grid, grid, w // grid, grid, -1)
    mean = cells.mean((2, 4))
    out = mean[..., 0] if field.ndim == 3 else np.moveaxis(mean, -1, 1)
    return np.asarray(out, np.float16)


def _check(data: Transitions, path: Path) -> None:
    n = len(data.actions)
    shape = data.before.shape
    if data.before.ndim != 4 or shape[-1] != 3 or shape != data.after.shape or shape[0] != n:
        raise DatasetError(
            f'{path.name}: before {shape}, after {data.after.shape} and actions '
            f'{data.actions.shape} do not belong together; expected [N, H, W, 3] twice and [N, n]'
        )
    if n == 0 or data.actions.ndim != 2:
        raise DatasetError(f'{path.name}: actions are {data.actions.shape}; expected [N >= 1, n]')
    if data.before.dtype != np.uint8 or data.after.dtype != np.uint8:
        raise DatasetError(f'{path.name}: images must be uint8')
    if not np.isfinite(data.actions).all():
        raise DatasetError(f'{path.name}: an action is not a finite number')
    for flow in (data.flow, data.flow_back):
        if flow is not None and flow.shape != (*shape[:3], 2):
            raise DatasetError(f'{path.name}: flow is {flow.shape}; expected {(*shape[:3], 2)}')


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    with part.open('wb') as file:
        np.savez_compressed(file, **arrays)
    part.replace(path)
