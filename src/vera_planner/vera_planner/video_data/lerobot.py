"""LeRobot data sets, version 3, as a source of videos; actions are not looked at.

Read from a local folder: meta/info.json, meta/episodes/*/*.parquet (where each episode's frames
are, and its tasks in words) and the videos, of which one file holds many episodes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Image
from vera_planner.video_data.sources import VideoDataError, read_video

VERSION = 'v3.'


class LeRobotSource:
    """Episodes of a LeRobot v3 data set.

    Args:
        folder: that holds meta/, data/ and videos/.
        views: features of type video, left to right on the canvas; all of them, by name, if None.
        caption: of episodes whose task has no words.

    Raises:
        VideoDataError: no such data set or version, no such view, or no caption.
    """

    contract: dict[str, Any] | None = None

    def __init__(
        self, folder: Path, views: Sequence[str] | None = None, caption: str | None = None
    ) -> None:
        self.name, self._folder = str(folder), Path(folder)
        info_file = self._folder / 'meta' / 'info.json'
        try:
            info = json.loads(info_file.read_text(encoding='utf-8'))
            version = str(info['codebase_version'])
            features, rate = info['features'], float(info['fps'])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VideoDataError(f'{info_file}: is no LeRobot data set: {error!r}') from error
        if not version.startswith(VERSION):
            raise VideoDataError(
                f'{info_file}: version {version}; version 3 is read. Convert it with '
                '`python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`'
            )
        videos = sorted(key for key, value in features.items() if value.get('dtype') == 'video')
        self.views = tuple(videos if views is None else views)
        unknown = [view for view in self.views if view not in videos]
        if unknown or not self.views:
            raise VideoDataError(
                f'{info_file}: no video {unknown[0] if unknown else ""!r}; it has '
                f'{", ".join(videos) or "none: its images are not stored as videos"}'
            )
        self.frame_period, self._rate = 1 / rate, rate
        self._path = str(info['video_path'])
        self._rows = _episodes(self._folder, self.views)
        self.lengths = np.array([row['length'] for row in self._rows], np.int64)
        self.first = np.zeros_like(self.lengths)
        self._captions = [_captions(row, caption, self.name) for row in self._rows]

    def frames(self, episode: int, numbers: NDArray[np.int64]) -> list[Image]:
        """See VideoSource."""
        row, found = self._rows[episode], []
        for view in self.views:
            file = self._folder / self._path.format(
                video_key=view,
                chunk_index=row[f'videos/{view}/chunk_index'],
                file_index=row[f'videos/{view}/file_index'],
            )
            begin = round(float(row[f'videos/{view}/from_timestamp']) * self._rate)
            found.append(read_video(file, numbers + begin))
        return found

    def captions(self, episode: int) -> Sequence[str]:
        """See VideoSource."""
        return self._captions[episode]


def _episodes(folder: Path, views: Sequence[str]) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise VideoDataError(
            f'{folder}: LeRobot data sets need pyarrow: `pip install pyarrow`'
        ) from error
    files = sorted((folder / 'meta' / 'episodes').rglob('*.parquet'))
    if not files:
        raise VideoDataError(f'{folder}: no meta/episodes/*/*.parquet; download it completely')
    wanted = ['episode_index', 'tasks', 'length'] + [
        f'videos/{view}/{field}'
        for view in views
        for field in ('chunk_index', 'file_index', 'from_timestamp')
    ]
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            rows += parquet.read_table(file, columns=wanted).to_pylist()
        except (OSError, ValueError, KeyError) as error:  # pyarrow's own are of these kinds
            raise VideoDataError(f'{file} cannot be read: {error}') from error
    if rows and any(key not in rows[0] for key in wanted):
        missing = next(key for key in wanted if key not in rows[0])
        raise VideoDataError(f'{files[0]}: has no column {missing!r}')
    return sorted(rows, key=lambda row: int(row['episode_index']))


def _captions(row: dict[str, Any], default: str | None, name: str) -> tuple[str, ...]:
    words = tuple(str(task).strip() for task in row['tasks'] or () if str(task).strip())
    if not words and default:
        words = (default,)
    if not words:
        raise VideoDataError(
            f'{name}: episode {row["episode_index"]} has no task in words; give the source a '
            '`caption`'
        )
    return words


__all__ = ['LeRobotSource']
