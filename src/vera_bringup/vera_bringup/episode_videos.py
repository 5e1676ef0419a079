"""Videos of the worst episodes of an evaluation: what was seen beside what had been dreamt."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vera_bringup.statistics import EpisodeResult

if TYPE_CHECKING:
    from vera_core.seams import Image

HEIGHT = 192  # of a picture in the video, at least [px]
GAP = 8  # between seen and dreamt [px]
HOLD = 5  # frames for which the last one stays


def worst_first(result: EpisodeResult) -> tuple[bool, float, float, int]:
    """Order of episodes: failures by their progress, then successes, the slowest first."""
    return (
        result.success, 0.0 if result.success else result.progress, -result.duration, result.index
    )


class WorstVideos:
    """Keeps the videos of the worst episodes so far, whatever order they come in.

    Args:
        folder: created when there is a video.
        count: how many are kept.
        period: between two frames [s].
        known: episodes that were run before; their videos are there if they belong to the worst.
    """

    def __init__(
        self, folder: Path, count: int, period: float, known: Iterable[EpisodeResult] = ()
    ) -> None:
        self._folder, self._count, self._period = folder, count, period
        self._worst = sorted(known, key=worst_first)[:count]

    def path(self, result: EpisodeResult) -> Path:
        """Where the video of an episode is, if it has one."""
        return self._folder / f'episode_{result.index:04d}.webm'

    def take(self, result: EpisodeResult) -> None:
        """One more episode; its film is written if it is among the worst so far."""
        ranked = sorted([*self._worst, result], key=worst_first)
        self._worst, dropped = ranked[: self._count], ranked[self._count :]
        if result in self._worst and result.film is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_video(result.film, self.path(result), self._period)
        for one in dropped:
            self.path(one).unlink(missing_ok=True)

    def videos(self) -> list[tuple[EpisodeResult, Path]]:
        """The worst first, those that have a video."""
        return [(one, self.path(one)) for one in self._worst if self.path(one).exists()]


def write_video(film: Image, path: Path, period: float) -> None:
    """Write a film uint8 [F, 2, H, W, 3] as WebM (VP8), which every browser plays.

    Wide canvases are stacked, others lie side by side; small ones are enlarged, pixel by pixel.

    Raises:
        OSError: this OpenCV cannot write such files.
    """
    _, _, height, width, _ = film.shape
    scale = max(1, -(-HEIGHT // height)) if width < 2 * height else max(1, 480 // width)
    frames = []
    for seen, dreamt in film:
        a, b = (np.repeat(np.repeat(x, scale, 0), scale, 1) for x in (seen, dreamt))
        axis = 1 if width < 2 * height else 0
        shape = list(a.shape)
        shape[axis] = GAP
        frames.append(np.concatenate([a, np.full(shape, 255, np.uint8), b], axis))
    frames += [frames[-1]] * HOLD
    size = (frames[0].shape[1] // 2 * 2, frames[0].shape[0] // 2 * 2)
    with _silent():
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'VP80'), 1 / period, size)
    if not writer.isOpened():
        raise OSError(f'this OpenCV cannot write {path.name} (WebM, VP8)')
    for frame in frames:
        writer.write(cv2.cvtColor(frame[: size[1], : size[0]], cv2.COLOR_RGB2BGR))
    writer.release()


@contextmanager
def _silent() -> Iterator[None]:
    """OpenCV prints that WebM has no such tag, from C, and writes the file all the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
