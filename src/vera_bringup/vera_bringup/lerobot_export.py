"""Recordings as a LeRobot data set, version 3: an episode for each goal. Pure.

Frames are on a grid of 1/fps: of each camera the image nearest in time, joint positions
interpolated at the same moment. `action` is the joint set-point that the controller had commanded
one frame later: where the robot was to be then. Without recorded commands, where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup import lerobot_layout as layout
from vera_bringup.bag_reading import Bag, BagError
from vera_bringup.lerobot_layout import LeRobotError
from vera_bringup.replay_check import contract_of
from vera_bringup.replaying import plain
from vera_core.clocks import to_ns
from vera_core.contract import Contract
from vera_core.image_codec import decode
from vera_core.seams import Image
from vera_jidm import episodes_cdr as cdr

ACTIVE, SUCCEEDED = 1, 2  # vera_msgs/GoalStatus
SHORTEST = 2  # frames of an episode


@dataclass(frozen=True)
class Span:
    """A stretch of a recording: words, stamps [ns], whether the planner said it succeeded."""

    task: str
    begin: int
    end: int
    succeeded: bool


@dataclass
class ExportReport:
    """What was written: episodes, frames, tasks; spans too short; frames without own images."""

    episodes: int = 0
    frames: int = 0
    left_out: int = 0
    repeated: int = 0
    tasks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        return (
            f'{self.episodes} episodes, {self.frames} frames, {len(self.tasks)} tasks; left out: '
            f'{self.left_out} too short or without images; {self.repeated} frames had no image of '
            'their own and repeat the one before'
        )


@dataclass
class ExportOptions:
    """Choices of an export.

    Attributes:
        fps: None: the rate of the first camera.
        task: of recordings without goals, and in place of their words.
        codec: h264 or av1.
        only_succeeded: goals that the planner did not reach are left out.
        embodiment: contract; '': the recording's.
        namespace: '': the recording's.
    """

    fps: int | None = None
    task: str = ''
    codec: str = 'h264'
    only_succeeded: bool = False
    embodiment: str = ''
    namespace: str = ''


def export(bags: Sequence[Path], out: Path, options: ExportOptions) -> ExportReport:
    """Write the recordings as one data set, whole or not at all.

    Raises:
        LeRobotError: `out` exists, nothing to write, contracts that differ, libraries missing.
        BagError: a recording that cannot be read or lacks a topic.
    """
    layout.libraries()
    if out.exists():
        raise LeRobotError(f'{out} exists; choose another folder or delete it')
    part = out.with_name(f'.{out.name}.part')
    shutil.rmtree(part, ignore_errors=True)
    try:
        writer: _Writer | None = None
        for path in bags:
            with Bag(path) as bag:
                recording = _Recorded(bag, options)
                if writer is None:
                    writer = _Writer(part, recording.contract, options)
                writer.take(recording)
        if writer is None or not writer.report.episodes:
            raise LeRobotError(
                'no episode in it: a goal with images of all cameras and joint states is needed; '
                'of a recording without goals say --task'
            )
        writer.finish()
        out.parent.mkdir(parents=True, exist_ok=True)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return writer.report


class _Recorded:
    """Stamps, joints and goals of a bag; its images are read when needed."""

    def __init__(self, bag: Bag, options: ExportOptions) -> None:
        self.bag, self.contract = bag, contract_of(bag, options.embodiment)
        space = f'/{(options.namespace or bag.notes.namespace).strip("/")}'
        self.cameras: dict[str, str] = {}
        for camera in self.contract.cameras:
            source = bag.image_source(f'{space}/{camera.topic}')
            if source is None:
                raise BagError(f'{bag.path} has no {space}/{camera.topic}; see --namespace')
            self.cameras[source] = camera.name
        self.times, self.positions = self._joints(f'{space}/joint_states', needed=True)
        self.set_times, self.set_points = self._joints(f'{space}/joint_commands', needed=False)
        found: dict[str, list[int]] = {name: [] for name in self.cameras.values()}
        # Recorded later than stamped, at least and at most [ns]: clocks may differ.
        self._late = [2**62, -(2**62)]
        for raw in bag.messages(list(self.cameras)):
            stamp = cdr.read_stamp(raw.data)
            found[self.cameras[raw.topic]].append(stamp)
            late = raw.logged - stamp
            self._late = [min(self._late[0], late), max(self._late[1], late)]
        self.stamps = {name: np.unique(np.array(s, np.int64)) for name, s in found.items()}
        self.spans = self._spans(f'{space}/goal_status', options)

    def _joints(self, topic: str, needed: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """By stamp, each once, in the contract's order."""
        names, times, rows = self.contract.joint_names, [], []
        if topic in self.bag.topics:
            for raw in self.bag.messages([topic]):
                state = cdr.decode_joints(raw.data)
                if all(name in state.names for name in names):
                    times.append(state.stamp)
                    rows.append(state.positions[[state.names.index(n) for n in names]])
        if not times:
            if needed:
                raise BagError(f'{self.bag.path} has no {topic} with {", ".join(names)}')
            return np.zeros(0, np.int64), np.zeros((0, len(names)))
        unique, first = np.unique(np.array(times, np.int64), return_index=True)
        return unique, np.stack([rows[i] for i in first])

    def _spans(self, topic: str, options: ExportOptions) -> list[Span]:
        first = int(min(s[0] for s in self.stamps.values()))
        last = int(max(s[-1] for s in self.stamps.values()))
        statuses: list[tuple[int, int, int, str]] = []
        if topic in self.bag.topics:
            for raw in self.bag.messages([topic]):
                status = self.bag.decode(raw)
                statuses.append(
                    (to_ns(status.header.stamp), int(status.goal_id), int(status.status),
                     str(status.prompt))
                )  # fmt: skip
        spans = []
        for i, (begin, goal, state, prompt) in enumerate(statuses):
            already = i > 0 and statuses[i - 1][1] == goal and statuses[i - 1][2] == ACTIVE
            if state != ACTIVE or not goal or already:
                continue
            after = next(((s, k) for s, g, k, _ in statuses[i + 1 :]
                          if g != goal or k != ACTIVE), (last + 1, 0))  # fmt: skip
            succeeded = after[1] == SUCCEEDED
            if succeeded or not options.only_succeeded:
                spans.append(Span(options.task or prompt, begin, after[0], succeeded))
        if not spans and options.task and not options.only_succeeded:
            spans = [Span(options.task, first, last + 1, False)]
        return spans

    def at(self, stamps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Joint positions at stamps, float64 [n, j], interpolated."""
        return _interpolated(self.times, self.positions, stamps)

    def commanded(self, stamps: NDArray[np.int64]) -> NDArray[np.float64]:
        """The set-points in force at stamps, or where no command was recorded, the positions."""
        if not len(self.set_times):
            return self.at(np.minimum(stamps, self.times[-1]))
        place = np.searchsorted(self.set_times, stamps, side='right') - 1
        found = self.set_points[np.maximum(place, 0)]
        before = place < 0
        found[before] = self.at(stamps[before])
        return found

    def images(self, camera: str, grid: NDArray[np.int64]) -> Iterator[tuple[Image, bool]]:
        """For each stamp of the grid the camera's nearest image, and whether it is its own."""
        stamps = self.stamps[camera]
        wanted = stamps[_nearest(grid, stamps)].tolist()
        needed, waiting, k = set(wanted), {}, 0
        near = 2 * self.contract.camera(camera).period_ns
        (topic,) = (t for t, name in self.cameras.items() if name == camera)
        begin, end = wanted[0] + self._late[0], wanted[-1] + self._late[1] + 1
        for raw in self.bag.messages([topic], max(0, begin), end):
            stamp = cdr.read_stamp(raw.data)
            if stamp in needed:
                waiting[stamp] = raw
            while k < len(wanted) and wanted[k] in waiting:
                image = decode(cdr.read_image(plain(waiting[wanted[k]]).data))
                first, due = k, wanted[k]
                while k < len(wanted) and wanted[k] == due:
                    yield image, k == first and abs(due - int(grid[k])) <= near
                    k += 1
                del waiting[due]
        if k < len(wanted):
            raise BagError(f'{self.bag.path}: changed while it was read')


def _interpolated(
    times: NDArray[np.int64], rows: NDArray[np.float64], stamps: NDArray[np.int64]
) -> NDArray[np.float64]:
    origin = times[0]
    x, at = (times - origin).astype(np.float64), (stamps - origin).astype(np.float64)
    return np.stack([np.interp(at, x, column) for column in rows.T], axis=1)


def _nearest(marks: NDArray[np.int64], stamps: NDArray[np.int64]) -> NDArray[np.intp]:
    right = np.minimum(np.searchsorted(stamps, marks), len(stamps) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(np.abs(stamps[left] - marks) <= np.abs(stamps[right] - marks), left, right)


class _Writer:
    """Writes one data set, episode by episode."""

    def __init__(self, root: Path, contract: Contract, options: ExportOptions) -> None:
        self._root, self._contract, self._options = root, contract, options
        self._fps = options.fps or round(contract.cameras[0].rate)
        if options.codec not in layout.CODECS:
            raise LeRobotError(f'codec {options.codec!r}; one of {", ".join(layout.CODECS)}')
        if self._fps < 1:
            raise LeRobotError(f'{self._fps} frames/s; LeRobot counts whole frames per second')
        root.mkdir(parents=True)
        self._videos = {
            name: layout.VideoWriter(root, layout.IMAGES + name, self._fps, options.codec)
            for name in contract.camera_names
        }
        self.report = ExportReport()
        self._rows: dict[str, list[Any]] = {}
        self._episodes: list[dict[str, Any]] = []
        self._stats: dict[str, layout.Statistics] = {}

    def take(self, recorded: _Recorded) -> None:
        """All goals of a recording."""
        if recorded.contract.action_fields() != self._contract.action_fields():
            raise LeRobotError(
                f'{recorded.bag.path} was recorded under another contract than the first; export '
                'it into a data set of its own'
            )
        for span in recorded.spans:
            self._episode(recorded, span)

    def _episode(self, recorded: _Recorded, span: Span) -> None:
        step = 1_000_000_000 / self._fps
        low = max(span.begin, int(recorded.times[0]),
                  *(int(s[0]) for s in recorded.stamps.values()))  # fmt: skip
        high = min(span.end, int(recorded.times[-1]),
                   *(int(s[-1]) + 1 for s in recorded.stamps.values()))  # fmt: skip
        count = int((high - low) / step) + 1 if high > low else 0
        if count < SHORTEST:
            self.report.left_out += 1
            return
        grid = low + np.round(np.arange(count) * step).astype(np.int64)
        state = recorded.at(grid).astype(np.float32)
        action = recorded.commanded(grid + round(step)).astype(np.float32)
        index, first = self.report.episodes, self.report.frames
        if span.task not in self.report.tasks:
            self.report.tasks.append(span.task)
        task = self.report.tasks.index(span.task)
        begins = {name: video.begin_episode() for name, video in self._videos.items()}
        samples: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self._videos}
        for name, video in self._videos.items():
            for k, (image, own) in enumerate(recorded.images(name, grid)):
                video.add(image)
                self.report.repeated += not own
                if k % max(1, count // 20) == 0:  # some say enough for statistics of pixels
                    samples[name].append(image[::4, ::4].reshape(-1, 3) / 255.0)
        rows: dict[str, Any] = {
            layout.STATE: list(state), layout.ACTION: list(action),
            'timestamp': (np.arange(count) / self._fps).astype(np.float32),
            'frame_index': np.arange(count), 'episode_index': np.full(count, index),
            'index': first + np.arange(count), 'task_index': np.full(count, task),
        }  # fmt: skip
        for name, values in rows.items():
            self._rows.setdefault(name, []).extend(values)
        row: dict[str, Any] = {
            'episode_index': index, 'tasks': [span.task], 'length': count,
            'data/chunk_index': 0, 'data/file_index': 0,
            'dataset_from_index': first, 'dataset_to_index': first + count,
            'meta/episodes/chunk_index': 0, 'meta/episodes/file_index': 0,
        }  # fmt: skip
        for name, video in self._videos.items():
            key = f'videos/{layout.IMAGES}{name}'
            where = layout.place(video.number)
            row |= {f'{key}/{part}': value for part, value in where.items()}
            row[f'{key}/from_timestamp'] = begins[name]
            row[f'{key}/to_timestamp'] = begins[name] + count / self._fps
        self._count(row, rows, samples, count)
        self._episodes.append(row)
        self.report.episodes += 1
        self.report.frames += count

    def _count(
        self,
        row: dict[str, Any],
        rows: dict[str, Any],
        samples: dict[str, list[NDArray[np.float64]]],
        count: int,
    ) -> None:
        """Statistics of the episode into its row, and into those of all."""
        parts: dict[str, tuple[NDArray[Any], tuple[int, ...] | None, int]] = {
            name: (np.stack(values) if name in (layout.STATE, layout.ACTION)
                   else np.asarray(values)[:, None], None, count)
            for name, values in rows.items()
        }  # fmt: skip
        for name, seen in samples.items():
            parts[layout.IMAGES + name] = np.concatenate(seen), (3, 1, 1), len(seen)
        for name, (values, shape, number) in parts.items():
            own = layout.Statistics()
            own.add(values)
            row |= {f'stats/{name}/{k}': v for k, v in own.values(number, shape).items()}
            self._stats.setdefault(name, layout.Statistics()).add(values)

    def finish(self) -> None:
        """Videos, tables and JSON files."""
        _, pa, parquet = layout.libraries()
        for video in self._videos.values():
            video.close()
        features = self._features()
        columns = {name: _column(pa, features[name], values) for name, values in self._rows.items()}
        self._table(pa.table(columns), parquet, layout.DATA)
        self._table(pa.Table.from_pylist(self._episodes), parquet, layout.EPISODES)
        tasks = pa.table({
            'task_index': pa.array(range(len(self.report.tasks)), pa.int64()),
            'task': pa.array(self.report.tasks, pa.string()),
        }).replace_schema_metadata({'pandas': json.dumps(_PANDAS)})  # fmt: skip
        parquet.write_table(tasks, self._root / layout.TASKS)
        info = {
            'codebase_version': layout.VERSION,
            'robot_type': self._contract.embodiment,
            'total_episodes': self.report.episodes,
            'total_frames': self.report.frames,
            'total_tasks': len(self.report.tasks),
            'chunks_size': layout.CHUNK_FILES,
            'data_files_size_in_mb': layout.DATA_MB,
            'video_files_size_in_mb': layout.VIDEO_MB,
            'fps': self._fps,
            'splits': {'train': f'0:{self.report.episodes}'},
            'data_path': layout.DATA,
            'video_path': layout.VIDEO,
            'features': features,
        }
        self._json(layout.INFO, info)
        frames, shapes = self.report.frames, {layout.IMAGES + n: (3, 1, 1) for n in self._videos}
        self._json(
            layout.STATS, {n: s.values(frames, shapes.get(n)) for n, s in self._stats.items()}
        )

    def _features(self) -> dict[str, Any]:
        joints = self._contract.joint_names
        found: dict[str, Any] = {
            layout.STATE: layout.vector_feature(joints),
            layout.ACTION: layout.vector_feature(joints),
        }
        for camera in self._contract.cameras:
            found[layout.IMAGES + camera.name] = layout.video_feature(
                camera.height, camera.width, self._fps, self._options.codec
            )
        return {**found, **layout.default_features()}

    def _table(self, table: Any, parquet: Any, name: str) -> None:
        path = self._root / name.format(**layout.place(0))
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, path, compression='snappy')

    def _json(self, name: str, values: dict[str, Any]) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=4) + '\n', encoding='utf-8')


# What pandas writes of a table whose index is its column `task`.
_PANDAS = {
    'index_columns': ['task'],
    'column_indexes': [{'name': None, 'field_name': None, 'pandas_type': 'unicode',
                        'numpy_type': 'object', 'metadata': {'encoding': 'UTF-8'}}],
    'columns': [
        {'name': 'task_index', 'field_name': 'task_index', 'pandas_type': 'int64',
         'numpy_type': 'int64', 'metadata': None},
        {'name': 'task', 'field_name': 'task', 'pandas_type': 'unicode',
         'numpy_type': 'object', 'metadata': None},
    ],
    'creator': {'library': 'pyarrow', 'version': '26'},
    'pandas_version': '2.0.0',
}  # fmt: skip


def _column(pa: Any, feature: dict[str, Any], values: list[Any]) -> Any:
    kind = pa.type_for_alias(feature['dtype'].replace('32', '') if feature['dtype'] == 'float32'
                             else feature['dtype'])  # fmt: skip
    (size,) = feature['shape']
    if not isinstance(values[0], np.ndarray):
        return pa.array(values, kind)
    if size == 1:  # LeRobot keeps vectors of one number as numbers
        return pa.array([float(v[0]) for v in values], kind)
    flat = pa.array(np.concatenate(values), kind)
    return pa.FixedSizeListArray.from_arrays(flat, size)


__all__ = ['ExportOptions', 'ExportReport', 'Span', 'export']
