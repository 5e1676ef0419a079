"""The files of a LeRobot data set, version 3: names, features, videos. Pure.

Layout of LeRobotDataset v3 (huggingface/lerobot, Apache-2.0, `src/lerobot/datasets`):
`meta/info.json`, `meta/stats.json`, `meta/tasks.parquet`,
`meta/episodes/chunk-000/file-000.parquet`, `data/chunk-000/file-000.parquet`,
`videos/<feature>/chunk-000/file-000.mp4`. A file holds many episodes; the episodes' table says
from where to where.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Image

VERSION = 'v3.0'
CHUNK_FILES = 1000
DATA_MB, VIDEO_MB = 100, 200
DATA = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
VIDEO = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
EPISODES = 'meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
INFO, STATS, TASKS = 'meta/info.json', 'meta/stats.json', 'meta/tasks.parquet'
STATE, ACTION, IMAGES = 'observation.state', 'action', 'observation.images.'
# As the name of a codec in PyAV, and in info.json.
CODECS = {'h264': ('libx264', {'crf': '18', 'g': '2', 'bf': '0'}),
          'av1': ('libsvtav1', {'crf': '24', 'g': '2', 'preset': '8'})}  # fmt: skip
QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)


class LeRobotError(ValueError):
    """A data set that cannot be written or read; the message names the place and the cure."""


def libraries() -> tuple[Any, Any, Any]:
    """(av, pyarrow, pyarrow.parquet)."""
    try:
        import av
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise LeRobotError(
            f'LeRobot data sets need {error.name}; run `make setup`, or pip install av pyarrow'
        ) from error
    return av, pyarrow, parquet


def place(number: int) -> dict[str, int]:
    """chunk_index and file_index of the n-th file."""
    return {'chunk_index': number // CHUNK_FILES, 'file_index': number % CHUNK_FILES}


def default_features() -> dict[str, dict[str, Any]]:
    """Features that every data set has."""
    kinds = {
        'timestamp': 'float32', 'frame_index': 'int64', 'episode_index': 'int64',
        'index': 'int64', 'task_index': 'int64',
    }  # fmt: skip
    return {name: {'dtype': kind, 'shape': [1], 'names': None} for name, kind in kinds.items()}


def vector_feature(names: tuple[str, ...]) -> dict[str, Any]:
    """Of joint positions."""
    return {'dtype': 'float32', 'shape': [len(names)], 'names': list(names)}


def video_feature(height: int, width: int, fps: int, codec: str) -> dict[str, Any]:
    """Of a camera's video."""
    return {
        'dtype': 'video',
        'shape': [height, width, 3],
        'names': ['height', 'width', 'channels'],
        'info': {
            'video.height': height,
            'video.width': width,
            'video.codec': codec,
            'video.pix_fmt': pixel_format(height, width),
            'video.is_depth_map': False,
            'video.fps': fps,
            'video.channels': 3,
            'has_audio': False,
        },
    }


def pixel_format(height: int, width: int) -> str:
    """yuv420p halves both sides, so that it needs even ones."""
    return 'yuv420p' if height % 2 == 0 and width % 2 == 0 else 'yuv444p'


class VideoWriter:
    """Videos of one feature, one after the other in the same file until it is large enough.

    Args:
        root: of the data set. key: the feature. fps: frames/s. codec: one of CODECS.
    """

    def __init__(self, root: Path, key: str, fps: int, codec: str) -> None:
        self._av, _, _ = libraries()
        self._root, self._key, self._fps = root, key, fps
        self._encoder, self._options = CODECS[codec]
        self.number, self._frames = 0, 0
        self._container: Any = None
        self._path = root

    def begin_episode(self) -> float:
        """The time in the file [s] at which the next episode begins."""
        big = self._container is not None and self._path.stat().st_size > VIDEO_MB * 2**20
        if big:
            self.close()
            self.number, self._frames = self.number + 1, 0
        return self._frames / self._fps

    def add(self, image: Image) -> None:
        """Append one frame uint8 [h, w, 3] RGB."""
        if self._container is None:
            self._open(*image.shape[:2])
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
        frame.pts = self._frames
        frame.time_base = Fraction(1, self._fps)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self._frames += 1

    def _open(self, height: int, width: int) -> None:
        where = VIDEO.format(video_key=self._key, **place(self.number))
        self._path = self._root / where
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = self._av.open(str(self._path), 'w')
        self._stream = self._container.add_stream(self._encoder, rate=self._fps)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = pixel_format(height, width)
        self._stream.options = self._options
        self._stream.time_base = Fraction(1, self._fps)

    def close(self) -> None:
        """Finish the file."""
        if self._container is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            self._container = None


def read_frames(path: Path, begin: float, count: int, fps: float) -> Iterator[Image]:
    """`count` frames of a video from the time `begin` [s] on, RGB uint8 [h, w, 3], of any codec.

    Raises:
        LeRobotError: the file is missing, ends early, or cannot be decoded.
    """
    av, _, _ = libraries()
    found = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = 'AUTO'
            container.seek(int(max(0.0, begin) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is None or frame.time < begin - 0.5 / fps:
                    continue
                if found == count:
                    return
                found += 1
                yield frame.to_ndarray(format='rgb24')
    except (OSError, ValueError, IndexError) as error:  # PyAV's own are of these kinds
        raise LeRobotError(f'{path} cannot be decoded: {error}') from error
    if found < count:
        raise LeRobotError(f'{path} ends after {found} of {count} frames from {begin:.2f} s on')


class Statistics:
    """Minimum, maximum, mean, deviation and quantiles over rows [*, d]."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.float64]] = []

    def add(self, rows: NDArray[Any]) -> None:
        """Rows [n, d]."""
        self._rows.append(np.asarray(rows, np.float64).reshape(len(rows), -1))

    def values(self, count: int, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
        """As in stats.json; `count` frames; every value in `shape`."""
        rows = np.concatenate(self._rows)
        found = {
            'min': rows.min(0), 'max': rows.max(0), 'mean': rows.mean(0), 'std': rows.std(0),
            **{f'q{round(100 * q):02d}': np.quantile(rows, q, axis=0) for q in QUANTILES},
        }  # fmt: skip
        plain = {k: v.reshape(shape or v.shape).tolist() for k, v in found.items()}
        return {**plain, 'count': [count]}


__all__ = [
    'ACTION', 'CODECS', 'IMAGES', 'STATE', 'LeRobotError', 'Statistics', 'VideoWriter',
    'default_features', 'libraries', 'place', 'read_frames', 'vector_feature', 'video_feature',
]  # fmt: skip
