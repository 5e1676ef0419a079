"""Windows drawn from several sources by weight, all on one canvas.

Sample number i of a mixture is the same in every process, run and order of asking: its random
numbers come from (seed, i). So a counter is all that an exact resume needs, and any number of
processes may share the samples among them.

Views are scaled to the height of the canvas and stand side by side, left to right; what is left
on the right is black. So one planner serves embodiments with other cameras, and other numbers of
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.contract_reader import Checked, ContractError
from vera_core.seams import Image
from vera_planner.video_data.episodes import McapSource
from vera_planner.video_data.lerobot import LeRobotSource
from vera_planner.video_data.sources import ClipSource, VideoDataError, VideoFolder, VideoSource

KINDS = ('clips', 'episodes', 'videos', 'lerobot')


@dataclass(frozen=True)
class SourceSpec(Checked):
    """A source as a recipe names it.

    Attributes:
        kind: clips (of `vera train planner`), episodes (MCAP), videos (files with captions) or
            lerobot (version 3).
        path: folder.
        weight: share of the windows, relative to those of the other sources.
        caption: for episodes that have none of their own.
        views: of lerobot: its video features; of episodes: its image topics; left to right.
        slot_width: pixels of the canvas for each view; its own aspect unless given.
        speed: how much faster than in reality it is shown.
    """

    kind: str
    path: str
    weight: float = field(default=1.0, metadata={'above': 0})
    caption: str | None = None
    views: tuple[str, ...] | None = None
    slot_width: int | None = field(default=None, metadata={'min': 1, 'unit': 'px'})
    speed: float = field(default=1.0, metadata={'above': 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise ContractError(f'is {self.kind!r}; known: {", ".join(KINDS)}', 'kind')
        if self.views is not None and self.kind not in ('episodes', 'lerobot'):
            raise ContractError(f'a source of kind {self.kind} has no choice of views', 'views')
        if self.caption is not None and self.kind == 'clips':
            raise ContractError('clips have captions of their own', 'caption')


def open_source(spec: SourceSpec) -> VideoSource:
    """The source of a spec; raises VideoDataError where it cannot be used."""
    folder = Path(spec.path).expanduser()
    if not folder.exists():
        raise VideoDataError(f'{folder}: no such folder; set the `path` of this source')
    if spec.kind == 'clips':
        return ClipSource(folder)
    if spec.kind == 'episodes':
        return McapSource(folder, spec.views, spec.caption)
    if spec.kind == 'lerobot':
        return LeRobotSource(folder, spec.views, spec.caption)
    return VideoFolder(folder, spec.caption)


@dataclass(frozen=True)
class Grid:
    """What the windows of a planner look like.

    Attributes:
        height, width: canvas [px].
        multiple: rows and columns [px] of one token; each view's width is a multiple of it.
        frame_period: seconds between frames.
        context: N, latents; look_ahead: M, latents.
        time_stride: frames of each latent but a window's first, which has one.
    """

    height: int
    width: int
    multiple: int
    frame_period: float
    context: int
    look_ahead: int
    time_stride: int

    def frames(self, context: int) -> int:
        """Frames of a window with `context` context latents."""
        return 1 + self.time_stride * (context - 1 + self.look_ahead)


@dataclass(frozen=True)
class Window:
    """A training window.

    Attributes:
        frames: uint8 [1 + s (K + M - 1), H, W, 3], on the canvas.
        caption: what happens.
        widths: of the views on the canvas [px], left to right.
        source: number of its source.
    """

    frames: Image
    caption: str
    widths: tuple[int, ...]
    source: int


@dataclass(frozen=True)
class _Entry:
    source: VideoSource
    stride: float  # of its frames per frame of the planner
    widths: tuple[int, ...]


class Mixture:
    """Random access to an endless row of windows.

    Args:
        specs: the sources.
        grid: what the windows look like.
        seed: of all draws.

    Raises:
        VideoDataError: a source that cannot be used, shows fewer frames per second than the
            planner, is wider than the canvas, or has no episode as long as the shortest window.
    """

    def __init__(self, specs: Sequence[SourceSpec], grid: Grid, seed: int) -> None:
        if not specs:
            raise VideoDataError('no source of videos; name one under `data`')
        self.grid, self.seed = grid, seed
        self._entries = [_entry(open_source(spec), spec, grid) for spec in specs]
        weights = np.array([spec.weight for spec in specs])
        self._shares = np.cumsum(weights / weights.sum())
        self._episodes: dict[int, list[NDArray[np.int64]]] = {}
        # The longest context that every source can fill.
        self.context = max(
            (k for k in range(1, grid.context + 1) if all(map(len, self._usable(k)))), default=0
        )
        if self.context == 0:
            short = [e.source.name for e, u in zip(self._entries, self._usable(1), strict=True)
                     if not len(u)]
            raise VideoDataError(
                f'{short[0]}: no episode is as long as one window, {grid.frames(1)} frames '
                f'{grid.frame_period:g} s apart'
            )

    def __len__(self) -> int:
        """Episodes of all sources."""
        return sum(len(entry.source.lengths) for entry in self._entries)

    @property
    def views(self) -> tuple[tuple[int, ...], ...]:
        """Widths of each source's views [px]."""
        return tuple(entry.widths for entry in self._entries)

    def contract(self) -> dict[str, Any] | None:
        """Visual fields that all sources were recorded under; None where they differ."""
        first = self._entries[0].source.contract
        size = {'height': self.grid.height, 'width': self.grid.width}
        if first is None or first['canvas'] != size:
            return None
        fields = {**first, 'frame_period': self.grid.frame_period}
        for entry in self._entries:
            theirs = entry.source.contract
            if theirs is None or {**theirs, 'frame_period': self.grid.frame_period} != fields:
                return None
        return fields

    def window(self, index: int, context: int, *, first_anchor: bool = False) -> Window:
        """Sample number `index` with `context` (at most `self.context`) context latents.

        With `first_anchor` the newest context frame is the earliest that the captions allow.
        """
        rng = np.random.default_rng([self.seed, index])
        number = int(np.searchsorted(self._shares, rng.random(), side='right'))
        number = min(number, len(self._entries) - 1)
        entry = self._entries[number]
        usable = self._usable(context)[number]
        episode = int(usable[rng.integers(len(usable))])
        low, high = (int(ends[episode]) for ends in self._anchors(entry, context))
        anchor = int(rng.integers(low, high + 1))
        if first_anchor:
            anchor = low
        captions = entry.source.captions(episode)
        caption = captions[int(rng.integers(len(captions)))]
        back = self.grid.time_stride * (context - 1)
        steps = np.arange(self.grid.frames(context)) - back
        frames = np.floor(anchor + steps * entry.stride + 0.5).astype(np.int64)
        views = entry.source.frames(episode, frames)
        return Window(compose(views, entry.widths, self.grid), caption, entry.widths, number)

    def _usable(self, context: int) -> list[NDArray[np.int64]]:
        """Per source, the episodes that a window with so much context fits into."""
        if context not in self._episodes:
            self._episodes[context] = [
                np.nonzero(np.less_equal(*self._anchors(entry, context)))[0]
                for entry in self._entries
            ]
        return self._episodes[context]

    def _anchors(
        self, entry: _Entry, context: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last frame that may be the newest of the context, int64 [E] each."""
        s, stride = self.grid.time_stride, entry.stride
        low = np.maximum(entry.source.first, math.ceil(stride * s * (context - 1)))
        high = entry.source.lengths - 1 - math.ceil(stride * s * self.grid.look_ahead)
        return low, high


def compose(views: Sequence[Image], widths: Sequence[int], grid: Grid) -> Image:
    """Canvases uint8 [F, H, W, 3] of views uint8 [F, h, w, 3], scaled by area averaging."""
    canvas = np.zeros((len(views[0]), grid.height, grid.width, 3), np.uint8)
    left = 0
    for view, width in zip(views, widths, strict=True):
        slot = canvas[:, :, left : left + width]
        if view.shape[1:3] == (grid.height, width):
            slot[:] = view
        else:
            for frame, image in zip(slot, view, strict=True):
                frame[:] = cv2.resize(
                    np.ascontiguousarray(image), (width, grid.height), interpolation=cv2.INTER_AREA
                )
        left += width
    return canvas


def _entry(source: VideoSource, spec: SourceSpec, grid: Grid) -> _Entry:
    stride = grid.frame_period / source.frame_period * spec.speed
    if abs(stride - round(stride)) < 0.02 * stride:
        stride = round(stride)  # 29.97 frames/s are 30
    if stride < 1:
        raise VideoDataError(
            f'{source.name}: a frame every {source.frame_period / spec.speed:g} s; a planner with '
            f'one every {grid.frame_period:g} s would see copies. Raise the frame_period'
        )
    if not len(source.lengths):
        raise VideoDataError(f'{source.name}: no episodes')
    probe = source.frames(0, np.zeros(1, np.int64))
    widths = []
    for name, view in zip(source.views, probe, strict=True):
        h, w = view.shape[1:3]
        width = spec.slot_width or round(w * grid.height / h)
        if width % grid.multiple:
            near = max(1, round(width / grid.multiple)) * grid.multiple
            raise VideoDataError(
                f'{source.name}: view {name} of {w} x {h} px is {width} px wide on the canvas; '
                f'tokens need a multiple of {grid.multiple}: set `slot_width: {near}`'
            )
        widths.append(width)
    if sum(widths) > grid.width:
        raise VideoDataError(
            f'{source.name}: its {len(widths)} views are {sum(widths)} px wide side by side; the '
            f'canvas has {grid.width}'
        )
    return _Entry(source, stride, tuple(widths))


__all__ = ['Grid', 'Mixture', 'SourceSpec', 'Window', 'compose', 'open_source']
