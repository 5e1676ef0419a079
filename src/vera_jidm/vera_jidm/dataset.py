"""Batches of self-play transitions, from a folder of episode files.

The files are read one at a time and as often as the memory asks for; see vera_jidm.episodes for
what is in them. Beside them lie

    statistics.json   scales of actions and flow, see vera_jidm.episodes_statistics
    flow/             flow of an estimator, averaged over the network's cells: <file>.<source>.npz,
                      keyed by the frames and actions it is of

Neither is needed: what is missing is computed again.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vera_core.contract import hash_fields
from vera_core.seams import Array, Image
from vera_jidm.episodes import (
    DatasetError,
    EpisodeInfo,
    Transitions,
    read_info,
    read_shard,
    write_shard,
)
from vera_jidm.episodes_statistics import (
    FlowCounter,
    FlowStatistics,
    Statistics,
    action_statistics,
    read_statistics,
    write_statistics,
)
from vera_jidm.flow import ANALYTIC, PairFlow
from vera_jidm.views import ViewBox

PAIRS = 16
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class GridFlow:
    """Flow in both directions averaged over cells: [N, 2, h, w] px, weights [N, h, w] 0..1."""

    forward: NDArray[np.float16]
    backward: NDArray[np.float16]
    weight_forward: NDArray[np.float16]
    weight_backward: NDArray[np.float16]


@dataclass(frozen=True)
class Batch:
    """Training samples: uint8 images, float32 actions, flow and weights on the grid.

    `positions` float64 [B, 2, j] are the joints at both frames, in the order of the data's
    'joints'; None where the data hold none.
    """

    before: Image
    after: Image
    actions: Array
    flow: GridFlow
    positions: NDArray[np.float64] | None = None

    def rows(self, which: NDArray[np.int64]) -> Batch:
        """Some of its samples."""
        return Batch(
            self.before[which], self.after[which], self.actions[which],
            GridFlow(*(getattr(self.flow, k)[which] for k in _GRID_FLOW)),
            None if self.positions is None else self.positions[which],
        )


class ShardFolder:
    """The episode files of one folder; opening it reads no frames.

    Attributes:
        paths: files in the order of their names.
        lengths: transitions in each.
        contract: action fields they were collected under; meta: of the first file.
        canvas: height, width; channels: n.
        analytic: whether every file holds analytic flow.
        joints: names of the joints whose positions every file holds, or none.
        digest: identifies the transitions (not the files' bytes).
        statistics: of the actions, and of the flow of each source as far as it is known.

    Raises:
        DatasetError: no files, damaged ones, ones that differ in contract, or statistics of others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.files = [read_info(path) for path in sorted(self.folder.glob('*.mcap'))]
        if not self.files:
            old = ' (its .npz files are of an older format)' * bool([*self.folder.glob('*.npz')])
            raise DatasetError(
                f'no episode files *.mcap in {self.folder}{old}; make some with `vera collect`'
            )
        first = self.files[0]
        self.meta, self.contract, self.canvas = first.meta, first.contract, first.canvas
        self.channels = first.channels
        self.joints: list[str] = first.meta.get('joints', [])
        for file in self.files:
            if file.contract != self.contract or file.meta.get('joints', []) != self.joints:
                raise DatasetError(
                    f'{file.path} was collected under another contract than {first.path}'
                )
        self.analytic = all(file.analytic for file in self.files)
        self.paths = [file.path for file in self.files]
        self.lengths = [file.count for file in self.files]
        self.contract_hash = hash_fields(self.contract)
        self.digest = digest_of_files(self.files)
        kept = read_statistics(self.folder, self.contract_hash, self.digest)
        self.statistics = kept or self._count()

    def __len__(self) -> int:
        return sum(self.lengths)

    @property
    def views(self) -> tuple[ViewBox, ...]:
        """Where each camera's view lies on the canvas."""
        left, boxes = 0, []
        for camera in self.contract['cameras']:
            right = left + int(camera['canvas_width'])
            boxes.append(ViewBox(camera['name'], left, 0, right, self.canvas[0]))
            left = right
        return tuple(boxes)

    @property
    def licence(self) -> str:
        """Of the data, as its files state it: weights learned from them can promise no more."""
        stated = (file.meta.get('licence') or 'not stated' for file in self.files)
        return ' and '.join(dict.fromkeys(text.removesuffix(', generated') for text in stated))

    @property
    def action_scale(self) -> NDArray[np.float64]:
        """float64 [n], root mean square of the actions."""
        return self.statistics.action_scale('rms')

    @property
    def action_max(self) -> NDArray[np.float64]:
        """float64 [n], largest size of the actions."""
        return np.array(self.statistics.actions.max, np.float64)

    def actions(self) -> Array:
        """All actions, float32 [N, n]; reads every file."""
        return np.concatenate([read_shard(path)[0].actions for path in self.paths])

    def keep_flow_statistics(self, source: str, found: FlowStatistics) -> None:
        """Remember the flow of a source, in statistics.json where that can be written."""
        self.statistics.flow[source] = found
        self._keep()

    def _count(self) -> Statistics:
        """One pass over all files."""
        _LOG.info('statistics of %s: reading %d transitions once', self.folder, len(self))
        self.statistics = statistics_of(self.files, self.actions())
        self._keep()
        return self.statistics

    def _keep(self) -> None:
        try:
            write_statistics(self.folder, self.statistics)
        except OSError as error:
            _LOG.warning('statistics of %s are not kept: %s', self.folder, error)


def digest_of_files(files: Iterable[EpisodeInfo]) -> str:
    """Identifies the transitions of files, in their order: 16 hex digits."""
    text = ' '.join(f'{file.count} {file.digest}' for file in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def statistics_of(files: list[EpisodeInfo], actions: NDArray[Any]) -> Statistics:
    """Statistics of all actions [N, n] of these files; flow is not known yet."""
    fields = files[0].contract
    return Statistics(
        contract_hash=hash_fields(fields),
        digest=digest_of_files(files),
        transitions=len(actions),
        channels=[channel['name'] for channel in fields['channels']],
        actions=action_statistics(actions),
    )


class FlowSource(Protocol):
    """Where the flow of a file comes from.

    Attributes:
        flow_id: of the estimator. key: what else the flow depends on, too.
    """

    flow_id: str
    key: str

    def __call__(self, path: Path, data: Transitions) -> GridFlow:
        """Flow of the transitions of a file."""

    def ready(self, path: Path) -> bool:
        """Whether nothing need be computed for this file."""


class AnalyticSource:
    """The simulator's own flow, from the file."""

    flow_id = ANALYTIC

    def __init__(self, grid: int) -> None:
        self._grid = grid
        self.key = f'{ANALYTIC}.x{grid}'

    def ready(self, path: Path) -> bool:
        """It is in the file."""
        return True

    def __call__(self, path: Path, data: Transitions) -> GridFlow:
        """Flow of a file; raises DatasetError when it holds none."""
        if data.flow is None or data.flow_back is None:
            raise DatasetError(f'{path} holds no analytic flow; collect it from a simulator')
        forward, backward = _pool(data.flow, self._grid), _pool(data.flow_back, self._grid)
        ones = np.ones((len(forward), *forward.shape[2:]), np.float16)
        return GridFlow(forward, backward, ones, ones)


class EstimatedSource:
    """An estimator's flow, computed once for each file and kept beside it.

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
        self.key = f'{self.flow_id}.x{grid}.d{degrade:g}.s{seed}'

    def _cache(self, path: Path) -> Path:
        return path.parent / 'flow' / f'{path.stem}.{self.key}.npz'

    def ready(self, path: Path) -> bool:
        """Whether flow of that name is kept; what it is of is seen when it is read."""
        return self._cache(path).is_file()

    def __call__(self, path: Path, data: Transitions) -> GridFlow:
        """Flow of a file, from the file beside it when that belongs to these transitions."""
        of = zlib.crc32(data.before.tobytes(), zlib.crc32(data.actions.tobytes()))
        cache = self._cache(path)
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
        from vera_jidm.augment import degrade  # and torch with it

        rng = np.random.default_rng([self._seed, of])
        n, h, w = data.before.shape[:3]
        shape = (n, h // self._grid, w // self._grid)
        out = GridFlow(
            np.empty((n, 2, *shape[1:]), np.float16), np.empty((n, 2, *shape[1:]), np.float16),
            np.empty(shape, np.float16), np.empty(shape, np.float16),
        )
        # Some pairs at once: a learned estimator is faster so, and 16 fit any memory.
        for start in range(0, n, PAIRS):
            a, b = data.before[start : start + PAIRS], data.after[start : start + PAIRS]
            spoiled = [i for i in range(len(a)) if rng.random() < self._degrade]
            if spoiled:
                a, b = a.copy(), b.copy()
            for i in spoiled:
                a[i], b[i] = degrade(a[i], rng), degrade(b[i], rng)
            pair = self._estimator.both(a, b)
            for k in _GRID_FLOW:
                getattr(out, k)[start : start + PAIRS] = _pool(getattr(pair, k), self._grid)
        return out


_GRID_FLOW = ('forward', 'backward', 'weight_forward', 'weight_backward')


class TransitionStore:
    """Shuffled batches; holds at most about `memory` bytes of files.

    The batch of a step is a function of (seed, step) alone, so a resumed training sees what an
    uninterrupted one sees. Files are shuffled, grouped into windows that fit the memory, and
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
        self.flow_id = source.flow_id
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
            np.stack([d.positions[i] for (d, _), i in parts if d.positions is not None])
            if self._folder.joints
            else None,
        )

    def prepare(self, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> float:
        """Compute what is not on disk yet; the root mean square of the flow [px], all cells."""
        key, paths = self._source.key, self._folder.paths
        known = self._folder.statistics.flow
        if key not in known or not all(self._source.ready(path) for path in paths):
            counter = FlowCounter()
            for s in progress(range(len(paths))):
                flow = self._shard(s)[1]
                counter.add(flow.forward)
                counter.add(flow.backward)
            self._folder.keep_flow_statistics(key, counter.result())
        return known[key].rms

    @property
    def flow_statistics(self) -> FlowStatistics:
        """Of the flow of this source, both directions; computed when it is not known."""
        self.prepare()
        return self._folder.statistics.flow[self._source.key]

    def _shard(self, index: int) -> tuple[Transitions, GridFlow]:
        if index in self._held:
            self._held.move_to_end(index)
            return self._held[index]
        path = self._folder.paths[index]
        data, _ = read_shard(path)
        flow = self._source(path, data)
        slim = Transitions(data.before, data.after, data.actions, positions=data.positions)
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


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    with part.open('wb') as file:
        np.savez_compressed(file, **arrays)
    part.replace(path)


__all__ = [
    'AnalyticSource',
    'Batch',
    'DatasetError',
    'EstimatedSource',
    'FlowSource',
    'GridFlow',
    'ShardFolder',
    'TransitionStore',
    'Transitions',
    'read_shard',
    'write_shard',
]
