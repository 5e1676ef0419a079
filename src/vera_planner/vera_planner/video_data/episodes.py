"""MCAP files as a source of videos: episode files of `vera collect`, and recordings of a graph.

What decodes the messages are the definitions that the files carry; no ROS is needed.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_core.seams import Image
from vera_planner.video_data.sources import VideoDataError, split_views

CANVAS = '/vera/canvas'  # of episode files, see docs/reference/episode-format.md
RECORD = 'vera_episodes'
STATUS = 'goal_status'  # of recordings: which goal was pursued when
ACTIVE = 1  # vera_msgs/GoalStatus
BREAK = 1.5  # in periods: a longer pause between two frames begins a new episode


@dataclass(frozen=True)
class _Run:
    """Frames without a pause: their file, stamps per topic int64 [frames] ns, captions."""

    file: Path
    stamps: tuple[NDArray[np.int64], ...]
    captions: tuple[str, ...]


class McapSource:
    """Episodes of MCAP files.

    Args:
        folder: of `*.mcap`, or one such file.
        topics: image topics (rgb8 or bgr8), left to right on the canvas. By default the canvas of
            an episode file, cut into the views of its contract.
        caption: of everything in it. Without one, a recording's goals are the captions: each
            stretch in which a goal was pursued is an episode.

    Raises:
        VideoDataError: no file or images, no caption, files of several rates or contracts, or a
            damaged file.
    """

    def __init__(
        self,
        folder: Path,
        topics: Sequence[str] | None = None,
        caption: str | None = None,
    ) -> None:
        self.name, self._topics = str(folder), tuple(topics or (CANVAS,))
        self.contract: dict[str, Any] | None = None
        self._widths: list[int] | None = None
        path = Path(folder)
        files = [path] if path.suffix == '.mcap' else sorted(path.rglob('[!.]*.mcap'))
        if not files:
            raise VideoDataError(f'no *.mcap in {folder}; `vera collect` makes them')
        runs, periods = [], []
        for file in files:
            for run, period in self._index(file, caption):
                runs.append(run)
                periods.append(period)
        if not runs:
            raise VideoDataError(
                f'{folder}: no two images in a row on {", ".join(self._topics)}'
                + ('' if caption else ' while a goal was pursued; or give the source a `caption`')
            )
        if max(periods) > 1.02 * min(periods):
            raise VideoDataError(
                f'{folder}: frames are {min(periods):g} s apart in one file and {max(periods):g} s '
                'in another; make each a source of its own'
            )
        self._runs = runs
        self.views = self._view_names()
        self.frame_period = float(np.median(periods))
        self.lengths = np.array([len(run.stamps[0]) for run in runs], np.int64)
        self.first = np.zeros_like(self.lengths)

    def frames(self, episode: int, numbers: NDArray[np.int64]) -> list[Image]:
        """See VideoSource."""
        run, found = self._runs[episode], []
        for topic, stamps in zip(self._topics, run.stamps, strict=True):
            wanted = stamps[numbers].tolist()
            images: dict[int, Image] = {}
            for _, stamp, message in _decoded(run.file, [topic], wanted[0], wanted[-1] + 1):
                if stamp in wanted:
                    images[stamp] = _pixels(message, run.file, topic)
            if any(stamp not in images for stamp in wanted):
                raise VideoDataError(f'{run.file}: changed while it was read')
            found.append(np.stack([images[stamp] for stamp in wanted]))
        if self._widths is not None:
            return split_views(found[0], self._widths)
        return found

    def captions(self, episode: int) -> Sequence[str]:
        """See VideoSource."""
        return self._runs[episode].captions

    def _view_names(self) -> tuple[str, ...]:
        if self.contract is None:
            return tuple(topic.strip('/') for topic in self._topics)
        return tuple(camera['name'] for camera in self.contract['cameras'])

    def _index(self, file: Path, caption: str | None) -> Iterator[tuple[_Run, float]]:
        """The runs of a file, and the seconds between their frames."""
        stamps: dict[str, list[int]] = {topic: [] for topic in self._topics}
        goals: list[tuple[int, str | None]] = []
        for topic, stamp, raw in _messages(file, self._topics):
            if topic in stamps:
                stamps[topic].append(stamp)
            else:
                goals.append((stamp, raw))
        meta = _meta(file)
        if meta is not None and self._topics == (CANVAS,):
            cameras = meta['contract']['cameras']
            widths = [int(camera['canvas_width']) for camera in cameras]
            if self._widths not in (None, widths):
                raise VideoDataError(f'{file}: its views are unlike those of the files before it')
            self._widths = widths
            self.contract = {key: meta['contract'][key] for key in ('canvas', 'cameras')}
        reference = np.unique(np.array(stamps[self._topics[0]], np.int64))
        if len(reference) < 2:
            return
        steps = np.diff(reference)
        period = float(np.median(steps[steps <= BREAK * steps.min()]))
        captions = (caption,) if caption else tuple((meta or {}).get('captions', ()))
        spans: list[tuple[int, int, tuple[str, ...]]] = []
        if captions:
            spans.append((int(reference[0]), int(reference[-1]) + 1, captions))
        else:
            ends = [stamp for stamp, _ in goals[1:]] + [int(reference[-1]) + 1]
            spans = [
                (begin, end, (words,))
                for (begin, words), end in zip(goals, ends[: len(goals)], strict=True)
                if words
            ]
        if not spans and not goals:
            raise VideoDataError(
                f'{file}: says nothing of what happens in it; give the source a `caption`'
            )
        others = [np.unique(np.array(stamps[t], np.int64)) for t in self._topics[1:]]
        if any(len(other) == 0 for other in others):
            return
        for begin, end, said in spans:
            inside = reference[(reference >= begin) & (reference < end)]
            for part in np.split(inside, np.nonzero(np.diff(inside) > BREAK * period)[0] + 1):
                if len(part) > 1:
                    nearest = [_nearest(other, part) for other in others]
                    yield _Run(file, (part, *nearest), said), period / 1e9


def _nearest(stamps: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    found = [
        min(
            stamps[max(0, (at := bisect.bisect_left(stamps, w)) - 1) : at + 1].tolist(),
            key=lambda s: abs(s - w),
        )
        for w in wanted.tolist()
    ]
    return np.array(found, np.int64)


def _meta(file: Path) -> dict[str, Any] | None:
    from mcap.reader import make_reader

    with file.open('rb') as stream:
        for record in make_reader(stream).iter_metadata():
            if record.name == RECORD:
                meta: dict[str, Any] = json.loads(record.metadata['meta'])
                return meta
    return None


def _messages(file: Path, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
    """Topic, log time and, for changes of the goal, its words while it is pursued."""
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    decoder = DecoderFactory()
    try:
        with file.open('rb') as stream:
            for schema, channel, message in make_reader(stream).iter_messages():
                if channel.topic in topics:
                    yield channel.topic, message.log_time, None
                elif channel.topic.rsplit('/', 1)[-1] == STATUS:
                    decode = decoder.decoder_for(channel.message_encoding, schema)
                    status = decode(message.data) if decode else None
                    if status is not None:
                        words = status.prompt if status.status == ACTIVE else None
                        yield STATUS, message.log_time, words
    except VideoDataError:
        raise
    except Exception as error:  # decoder, decompressor and disk have errors of their own
        raise VideoDataError(f'{file} cannot be read: {error}') from error


def _decoded(
    file: Path, topics: Sequence[str], begin: int, end: int
) -> Iterator[tuple[str, int, Any]]:
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    try:
        with file.open('rb') as stream:
            reader = make_reader(stream, decoder_factories=[DecoderFactory()])
            for _, channel, message, decoded in reader.iter_decoded_messages(
                topics, starting_at=begin, ending_before=end
            ):
                yield channel.topic, message.log_time, decoded
    except Exception as error:
        raise VideoDataError(f'{file} cannot be read: {error}') from error


def _pixels(message: Any, file: Path, topic: str) -> Image:
    if message.encoding not in ('rgb8', 'bgr8'):
        raise VideoDataError(f'{file}: {topic} is {message.encoding}; rgb8 or bgr8 is needed')
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    image = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    return image if message.encoding == 'rgb8' else image[..., ::-1]


__all__ = ['McapSource']
