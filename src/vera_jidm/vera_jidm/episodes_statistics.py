"""Statistics of a data set: computed once, kept in statistics.json beside the episode files.

The file names what it was computed from: the hash of the contract's action fields, and the digest
of frames and actions. Statistics of anything else are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_core.checkpoint import write_atomic
from vera_jidm.episodes import STATISTICS, DatasetError

FORMAT = 1
# A cell that moves by more than this [px] is active; else the still table dominates everything.
ACTIVE = 0.1
PERCENTILE = 90.0
QUANTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
# Flow is counted in bins this wide [px] up to this much: percentiles without keeping every pixel.
_BIN, _MOST = 1 / 256, 256.0


@dataclass(frozen=True)
class ActionStatistics:
    """Of N actions, lists of n numbers, in the units of the channels.

    Attributes:
        rms: root mean square. p90: 90th percentile of the size. max: largest size.
        mean: with its sign.
        quantiles: percentile (as text, '50' ... '99.9') -> that of the size.
    """

    rms: list[float]
    p90: list[float]
    max: list[float]
    mean: list[float]
    quantiles: dict[str, list[float]]


@dataclass(frozen=True)
class FlowStatistics:
    """Of the flow of both directions, averaged over the cells of a grid.

    Attributes:
        rms: root mean square of both components over all cells, px.
        rms_active: over active cells only, px.
        p90: 90th percentile of |v_x| and of |v_y| over active cells, px.
        active: share of the cells that move by more than ACTIVE px.
        cells: how many were counted.
    """

    rms: float
    rms_active: float
    p90: list[float]
    active: float
    cells: int


@dataclass
class Statistics:
    """What statistics.json holds.

    Attributes:
        contract_hash: of the action fields; digest: of frames and actions.
        transitions: N; channels: their n names.
        actions: of these transitions.
        flow: by source, e.g. 'analytic.x2' or '<flow_id>.x2.d0.5.s0': flow differs by estimator.
    """

    contract_hash: str
    digest: str
    transitions: int
    channels: list[str]
    actions: ActionStatistics
    flow: dict[str, FlowStatistics] = field(default_factory=dict)

    def action_scale(self, kind: str = 'rms') -> NDArray[np.float64]:
        """float64 [n], typical size of an action: 'rms', or 'p90' as in the authors' code.

        A channel that never moves has scale 0.

        Raises:
            ValueError: another kind.
        """
        return np.array(getattr(self.actions, _scale_kind(kind)), np.float64)

    def flow_scale(self, source: str, kind: str = 'rms') -> float:
        """Typical flow [px]: root mean square over all cells, or the larger p90 of active ones.

        Raises:
            KeyError: flow of another source. ValueError: another kind.
        """
        found = self.flow[source]
        return found.rms if _scale_kind(kind) == 'rms' else max(found.p90)


def _scale_kind(kind: str) -> str:
    if kind not in ('rms', 'p90'):
        raise ValueError(f'no scales {kind!r}; there are rms and p90')
    return kind


def action_statistics(actions: NDArray[Any]) -> ActionStatistics:
    """Of actions [N, n]."""
    values = np.asarray(actions, np.float64)
    size = np.abs(values)
    found = np.percentile(size, QUANTILES, axis=0)
    return ActionStatistics(
        rms=np.sqrt(np.square(values).mean(0)).tolist(),
        p90=np.percentile(size, PERCENTILE, axis=0).tolist(),
        max=size.max(0).tolist(),
        mean=values.mean(0).tolist(),
        quantiles={f'{q:g}': v.tolist() for q, v in zip(QUANTILES, found, strict=True)},
    )


class FlowCounter:
    """Adds up flow fields of any number, in constant memory."""

    def __init__(self) -> None:
        bins = int(_MOST / _BIN)
        self._counts = np.zeros((2, bins), np.int64)
        self._squares = self._squares_active = 0.0
        self._cells = self._active = 0

    def add(self, flow: NDArray[Any]) -> None:
        """Flow [N, 2, h, w], px."""
        v = np.asarray(flow, np.float32)
        squares = np.square(v, dtype=np.float64).sum(1)
        active = squares > ACTIVE**2
        self._squares += float(squares.sum())
        self._squares_active += float(squares[active].sum())
        self._cells += squares.size
        self._active += int(active.sum())
        for axis in range(2):
            bins = np.minimum(np.abs(v[:, axis][active]) / _BIN, self._counts.shape[1] - 1)
            self._counts[axis] += np.bincount(
                bins.astype(np.int64), minlength=self._counts.shape[1]
            )

    def result(self) -> FlowStatistics:
        """Of everything added; percentiles are exact to 1/256 px, and 256 px at most."""
        p90 = [0.0, 0.0]
        if self._active:
            for axis in range(2):
                reached = np.cumsum(self._counts[axis]) >= PERCENTILE / 100 * self._active
                p90[axis] = (int(np.argmax(reached)) + 0.5) * _BIN
        return FlowStatistics(
            rms=float(np.sqrt(self._squares / max(2 * self._cells, 1))),
            rms_active=float(np.sqrt(self._squares_active / max(2 * self._active, 1))),
            p90=p90,
            active=self._active / max(self._cells, 1),
            cells=self._cells,
        )


def flow_statistics(fields: Iterable[NDArray[Any]]) -> FlowStatistics:
    """Of flow fields [N, 2, h, w], px."""
    counter = FlowCounter()
    for flow in fields:
        counter.add(flow)
    return counter.result()


def read_statistics(folder: Path, contract_hash: str, digest: str) -> Statistics | None:
    """What is kept beside these episode files; None if nothing is.

    Raises:
        DatasetError: it is damaged, or of another contract or of other files.
    """
    path = folder / STATISTICS
    try:
        plain = json.loads(path.read_text(encoding='utf-8'))
        if plain.pop('format') != FORMAT:
            raise DatasetError(f'{path} is of another format than {FORMAT}')
        plain['actions'] = ActionStatistics(**plain['actions'])
        plain['flow'] = {k: FlowStatistics(**v) for k, v in plain['flow'].items()}
        found = Statistics(**plain)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error if isinstance(error, DatasetError) else f'{path} cannot be read ({error})'
        raise DatasetError(f'{why}; delete it, and it is computed again') from error
    for what, theirs, ours in (
        ('contract_hash', found.contract_hash, contract_hash),
        ('digest', found.digest, digest),
    ):
        if theirs != ours:
            raise DatasetError(
                f'{path} belongs to other episodes: its {what} is {theirs[:16]}, that of the '
                f'files is {ours[:16]}; delete it, and it is computed again'
            )
    return found


def write_statistics(folder: Path, statistics: Statistics) -> None:
    """Put them beside the episode files, whole or not at all.

    Flow of sources that another process has added meanwhile is kept.

    Raises:
        OSError: the folder cannot be written.
    """
    flow: Mapping[str, FlowStatistics] = statistics.flow
    try:
        kept = read_statistics(folder, statistics.contract_hash, statistics.digest)
        flow = {**(kept.flow if kept else {}), **flow}
    except DatasetError:
        pass  # of other episodes: replaced
    statistics.flow = dict(flow)
    text = json.dumps({'format': FORMAT, **asdict(statistics)}, indent=1, allow_nan=False)
    write_atomic(folder / STATISTICS, (text + '\n').encode())
