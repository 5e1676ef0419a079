"""Where training videos come from: one small seam, and the two simplest sources behind it.

A source is a list of episodes of frames at a steady rate, seen by one or several views, with
captions. It reads frames by number; which windows are drawn is the mixture's business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Image
from vera_planner.clips import ClipDataset, ClipsError

VIDEO_ENDINGS = ('.mp4', '.mkv', '.avi', '.mov', '.webm')
CAPTIONS = 'captions.json'  # of a whole folder of videos


class VideoDataError(ValueError):
    """Videos that cannot be trained on; the message names the file and the cure."""


class VideoSource(Protocol):
    """Episodes of video.

    Attributes:
        name: how messages call it.
        views: names, left to right on the canvas.
        frame_period: seconds between its frames.
        lengths: int64 [E], frames of each episode.
        first: int64 [E], first frame that may be the newest of a context: the captions hold from
            there on.
        contract: visual fields of the contract it was recorded under, or None.
    """

    name: str
    views: tuple[str, ...]
    frame_period: float
    lengths: NDArray[np.int64]
    first: NDArray[np.int64]
    contract: dict[str, Any] | None

    def frames(self, episode: int, numbers: NDArray[np.int64]) -> list[Image]:
        """Per view the frames of these rising numbers, uint8 [len(numbers), h, w, 3]."""

    def captions(self, episode: int) -> Sequence[str]:
        """Sentences that all say what happens; one is drawn each time."""


class ClipSource:
    """Clips of an expert as `vera train planner` writes them (see vera_planner.clips).

    Raises:
        VideoDataError: no clips there.
    """

    def __init__(self, folder: Path) -> None:
        try:
            # One frame each: the mixture checks the windows.
            self._clips = ClipDataset(folder, context=1, look_ahead=0)
        except ClipsError as error:
            raise VideoDataError(str(error)) from error
        meta = self._clips.meta
        self.name = str(folder)
        self.contract = meta['contract']
        self.frame_period = float(meta['contract']['frame_period'])
        cameras = meta['contract']['cameras']
        self.views = tuple(camera['name'] for camera in cameras)
        self._widths = [int(camera['canvas_width']) for camera in cameras]
        self.lengths, self.first, self._group = self._clips.table()

    def frames(self, episode: int, numbers: NDArray[np.int64]) -> list[Image]:
        """See VideoSource."""
        return split_views(self._clips.frames(episode)[numbers], self._widths)

    def captions(self, episode: int) -> Sequence[str]:
        """See VideoSource."""
        return list(self._clips.meta['groups'][self._group[episode]])


class VideoFolder:
    """A folder of video files, each an episode of one view, with captions beside them.

    The captions of `a/b.mp4` are the lines of `a/b.txt`; or `a/b.json`, a text, a list of texts or
    a mapping with `caption` or `captions`; or those under 'a/b.mp4' in the folder's
    `captions.json`; or `caption`.

    Args:
        folder: searched with its subfolders.
        caption: of every video that has none beside it.

    Raises:
        VideoDataError: no videos, unequal frame rates, or a video without a caption.
    """

    contract: dict[str, Any] | None = None
    views: tuple[str, ...] = ('video',)

    def __init__(self, folder: Path, caption: str | None = None) -> None:
        self.name = str(folder)
        self._files = sorted(
            f for f in Path(folder).rglob('*') if f.suffix.lower() in VIDEO_ENDINGS
        )
        if not self._files:
            raise VideoDataError(
                f'no videos in {folder}; it looks for {", ".join(VIDEO_ENDINGS)} there'
            )
        self._captions = _captions_of(Path(folder), self._files, caption)
        rates, lengths = zip(*(video_size(file) for file in self._files), strict=True)
        slowest, fastest = np.argmin(rates), np.argmax(rates)
        if rates[fastest] > 1.02 * rates[slowest]:
            raise VideoDataError(
                f'{self._files[slowest]} has {rates[slowest]:g} frames/s and '
                f'{self._files[fastest]} {rates[fastest]:g}; put videos of different rates into '
                'folders of their own, each a source'
            )
        self.frame_period = 1 / rates[0]
        self.lengths = np.array(lengths, np.int64)
        self.first = np.zeros_like(self.lengths)

    def frames(self, episode: int, numbers: NDArray[np.int64]) -> list[Image]:
        """See VideoSource."""
        return [read_video(self._files[episode], numbers)]

    def captions(self, episode: int) -> Sequence[str]:
        """See VideoSource."""
        return self._captions[episode]


def split_views(frames: Image, widths: Sequence[int]) -> list[Image]:
    """The views of canvases uint8 [F, H, W, 3], left to right; the padding is dropped."""
    ends = np.cumsum(widths)
    return [
        frames[:, :, end - width : end] for end, width in zip(ends, widths, strict=True)
    ]


def video_size(file: Path) -> tuple[float, int]:
    """Frames per second, and how many frames; raises VideoDataError for what is no video."""
    video = cv2.VideoCapture(str(file))
    try:
        rate, count = video.get(cv2.CAP_PROP_FPS), int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if not video.isOpened() or rate <= 0 or count <= 0:
            raise VideoDataError(f'{file}: OpenCV cannot read it as a video')
        return rate, count
    finally:
        video.release()


def read_video(file: Path, numbers: NDArray[np.int64]) -> Image:
    """Frames of a video file, RGB uint8 [len(numbers), h, w, 3]; each number above the last one.

    Raises:
        VideoDataError: a frame cannot be decoded; the file and the codec are named.
    """
    video = cv2.VideoCapture(str(file))
    found: list[Image] = []
    try:
        video.set(cv2.CAP_PROP_POS_FRAMES, int(numbers[0]))
        at = int(numbers[0])
        for number in numbers.tolist():
            while at <= number:  # grabbing is cheaper than jumping: windows are dense
                if not video.grab():
                    raise VideoDataError(_undecodable(file, video, at))
                at += 1
            good, picture = video.retrieve()
            if not good:
                raise VideoDataError(_undecodable(file, video, number))
            found.append(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8))
    finally:
        video.release()
    return np.stack(found)


def _undecodable(file: Path, video: Any, number: int) -> str:
    code = int(video.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    codec = ''.join(chr(code >> 8 * i & 0xFF) for i in range(4)).strip('\0 ') or 'unknown'
    return (
        f'{file}: frame {number} cannot be decoded (codec {codec}); is the file whole? OpenCV '
        'reads H.264 everywhere: ffmpeg -i IN -c:v libx264 OUT.mp4'
    )


def _captions_of(
    folder: Path, files: Sequence[Path], default: str | None
) -> list[tuple[str, ...]]:
    table: dict[str, Any] = {}
    if (folder / CAPTIONS).is_file():
        table = _read_json(folder / CAPTIONS)
        if not isinstance(table, dict):
            raise VideoDataError(f'{folder / CAPTIONS} must map file names to captions')
    found = []
    for file in files:
        key = file.relative_to(folder).as_posix()
        if (text := file.with_suffix('.txt')).is_file():
            value: Any = text.read_text(encoding='utf-8').splitlines()
        elif (beside := file.with_suffix('.json')).is_file():
            value = _read_json(beside)
        else:
            value = table.get(key, default)
        if isinstance(value, dict):
            value = value.get('captions', value.get('caption'))
        lines = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        captions = tuple(s.strip() for s in lines if isinstance(s, str) and s.strip())
        if not captions:
            raise VideoDataError(
                f'{file} has no caption; write one into {file.with_suffix(".txt").name} beside it '
                f'or into {CAPTIONS}, or give the source a `caption`'
            )
        found.append(captions)
    return found


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise VideoDataError(f'{file} cannot be read: {error}') from error


__all__ = [
    'ClipSource', 'VideoDataError', 'VideoFolder', 'VideoSource', 'read_video', 'split_views',
    'video_size',
]  # fmt: skip
