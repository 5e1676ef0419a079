"""A LeRobot data set, version 3, as episode files that the translator's training reads. Pure.

`observation.state` says what the joints did between two frames, as joint states do of recordings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_bringup import lerobot_layout as layout
from vera_bringup.lerobot_layout import LeRobotError
from vera_core import canvas
from vera_core.contract import Contract
from vera_core.kinematics.motion import MeasuredMotion
from vera_core.seams import Image
from vera_jidm.dataset import ShardFolder
from vera_jidm.episodes import EpisodeInfo, Transitions, write_bag, write_shard
from vera_jidm.episodes_import import PER_FILE, STILL

SECOND = 1_000_000_000


@dataclass
class ImportReport:
    """Counts: episodes read, transitions written, pairs in which nothing moved."""

    episodes: int = 0
    transitions: int = 0
    still: int = 0
    resized: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        said = (
            f'{self.transitions} transitions of {self.episodes} episodes; left out: {self.still} '
            'in which nothing moved'
        )
        return said + (f'; resized: {", ".join(self.resized)}' if self.resized else '')


def import_dataset(
    source: Path,
    contract: Contract,
    out: Path,
    *,
    cameras: Mapping[str, str] | None = None,
    joints: Mapping[str, str] | None = None,
    licence: str = '',
) -> ImportReport:
    """Write the transitions of a data set.

    Args:
        source: the data set's folder.
        contract: cameras, canvas, joints, channels.
        out: folder of episode files; must hold none.
        cameras: camera of the contract -> feature; 'observation.images.<camera>' unless given.
        joints: joint of the contract -> name in observation.state; the same, or with '.pos',
            unless given.
        licence: kept in the files.

    Raises:
        LeRobotError: another version, a feature or joint that is missing, rates that do not fit.
    """
    data = _DataSet(source)
    if list(out.glob('*.mcap')):
        raise LeRobotError(f'{out} already holds episodes; choose another folder')
    features = {
        camera: (cameras or {}).get(camera, layout.IMAGES + camera)
        for camera in contract.camera_names
    }
    unknown = sorted({*(cameras or {})} - {*contract.camera_names})
    if unknown:
        raise LeRobotError(
            f'no camera {unknown[0]!r} in the contract; it has {", ".join(contract.camera_names)}'
        )
    data.require_videos(features)
    order = data.joint_order(contract, joints or {})
    steps = contract.video.frame_period * data.fps
    stride = round(steps)
    if stride < 1 or abs(steps - stride) > 0.02 * steps:
        raise LeRobotError(
            f'{source} has {data.fps:g} frames/s, and a frame period of '
            f'{contract.video.frame_period} s is {steps:.2f} of them; a whole number is needed'
        )
    meta = {
        'contract': contract.action_fields(),
        'joints': list(contract.joint_names),
        'source': f'LeRobot data set {source.resolve().name}',
        'actions': 'measured',
        'licence': licence or 'not stated',
    }
    report = ImportReport()
    files: list[EpisodeInfo] = []
    waiting = _Batch()
    motion = MeasuredMotion(contract)
    for episode in data.episodes():
        report.episodes += 1
        _take(data, episode, contract, features, order, stride, motion, waiting, report)
        while len(waiting.actions) >= PER_FILE:
            files.append(write_shard(_shard(out, len(files)), waiting.cut(PER_FILE), meta))
    if waiting.actions:
        last = waiting.cut(len(waiting.actions))
        files.append(write_shard(_shard(out, len(files)), last, meta))
    if not files:
        raise LeRobotError(f'{source} holds no transition: {report.text()}')
    write_bag(out, files)
    ShardFolder(out)  # counts once what every training asks for
    report.transitions = sum(file.count for file in files)
    return report


def _shard(out: Path, number: int) -> Path:
    return out / f'shard_{number:05d}.mcap'


@dataclass
class _Batch:
    """Transitions that are not in a file yet."""

    before: list[Image] = field(default_factory=list)
    after: list[Image] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    positions: list[NDArray[np.float64]] = field(default_factory=list)
    stamps: list[tuple[int, int]] = field(default_factory=list)
    clock: int = SECOND

    def cut(self, count: int) -> Transitions:
        """The first `count` of them, taken out."""
        made = Transitions(
            np.stack(self.before[:count]), np.stack(self.after[:count]),
            np.stack(self.actions[:count]), positions=np.stack(self.positions[:count]),
            stamps=np.array(self.stamps[:count], np.int64),
        )  # fmt: skip
        for values in (self.before, self.after, self.actions, self.positions, self.stamps):
            del values[:count]
        return made


def _take(
    data: _DataSet,
    episode: dict[str, Any],
    contract: Contract,
    features: Mapping[str, str],
    order: list[int],
    stride: int,
    motion: MeasuredMotion,
    into: _Batch,
    report: ImportReport,
) -> None:
    """The transitions of one episode, each from the frame where the last one ended."""
    count = int(episode['length'])
    q = data.states(episode)[:, order]
    period = contract.video.frame_period_ns
    views = {camera: data.frames(episode, name) for camera, name in features.items()}
    last: Image | None = None
    for k in range(count):
        images = {camera: next(frames) for camera, frames in views.items()}
        if k % stride:
            continue
        for camera, image in images.items():
            spec = contract.camera(camera)
            if image.shape[:2] != (spec.height, spec.width):
                images[camera] = cv2.resize(
                    image, (spec.width, spec.height), interpolation=cv2.INTER_AREA
                )
                if camera not in report.resized:
                    report.resized.append(camera)
        now = canvas.tile(images, contract)
        if last is not None:
            moved = motion.between(q[k - stride], q[k])
            if (np.abs(moved) < STILL * contract.channel_scales).all():
                report.still += 1
            else:
                begin = into.clock + (k // stride - 1) * period
                into.before.append(last)
                into.after.append(now)
                into.actions.append(moved.astype(np.float32))
                into.positions.append(np.stack([q[k - stride], q[k]]))
                into.stamps.append((begin, begin + period))
        last = now
    # Whole seconds for every episode, and one of nothing between two.
    into.clock += (-(-(count // stride) * period // SECOND) + 1) * SECOND


class _DataSet:
    """Tables and videos of a data set."""

    def __init__(self, folder: Path) -> None:
        _, _, self._parquet = layout.libraries()
        self._folder = folder
        file = folder / layout.INFO
        try:
            info = json.loads(file.read_text(encoding='utf-8'))
            version = str(info['codebase_version'])
            self.fps, self._features = float(info['fps']), info['features']
            self._video, self._data = str(info['video_path']), str(info['data_path'])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LeRobotError(f'{file}: is no LeRobot data set: {error!r}') from error
        if not version.startswith('v3.'):
            raise LeRobotError(
                f'{file}: version {version}; version 3 is read. Convert it with '
                '`python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`'
            )
        self._tables: dict[Path, Any] = {}

    def require_videos(self, features: Mapping[str, str]) -> None:
        """LeRobotError unless these features are videos."""
        videos = sorted(k for k, v in self._features.items() if v.get('dtype') == 'video')
        for camera, name in features.items():
            if name not in videos:
                raise LeRobotError(
                    f'{self._folder}: no video {name!r} for camera {camera!r}; it has '
                    f'{", ".join(videos) or "none"}; say --camera {camera}=FEATURE'
                )

    def joint_order(self, contract: Contract, given: Mapping[str, str]) -> list[int]:
        """Columns of observation.state in the order of the contract's joints."""
        feature = self._features.get(layout.STATE)
        if feature is None:
            raise LeRobotError(f'{self._folder}: has no {layout.STATE}')
        names = feature.get('names') or []
        if isinstance(names, dict):  # older ones group them: {'motors': [...]}
            names = [name for group in names.values() for name in group]
        order = []
        for joint in contract.joint_names:
            wanted = [given[joint]] if joint in given else [joint, f'{joint}.pos']
            found = [name for name in wanted if name in names]
            if not found:
                raise LeRobotError(
                    f'{self._folder}: {layout.STATE} has no {joint!r}; it has '
                    f'{", ".join(map(str, names)) or "no names"}; say --joint {joint}=NAME'
                )
            order.append(list(names).index(found[0]))
        return order

    def episodes(self) -> Iterator[dict[str, Any]]:
        """Rows of the episodes' tables, in order."""
        files = sorted((self._folder / 'meta' / 'episodes').rglob('*.parquet'))
        if not files:
            raise LeRobotError(f'{self._folder}: no meta/episodes/*/*.parquet')
        rows: list[dict[str, Any]] = []
        for file in files:
            names = [n for n in self._parquet.read_schema(file).names if not n.startswith('stats/')]
            rows += self._parquet.read_table(file, columns=names).to_pylist()
        yield from sorted(rows, key=lambda row: int(row['episode_index']))

    def states(self, episode: dict[str, Any]) -> NDArray[np.float64]:
        """observation.state of an episode, float64 [length, d]."""
        file = self._folder / self._data.format(
            chunk_index=episode['data/chunk_index'], file_index=episode['data/file_index']
        )
        if file not in self._tables:
            try:
                columns = ['episode_index', 'frame_index', layout.STATE]
                self._tables = {file: self._parquet.read_table(file, columns=columns)}
            except (OSError, ValueError, KeyError) as error:
                raise LeRobotError(f'{file} cannot be read: {error}') from error
        table = self._tables[file]
        mine = np.asarray(table['episode_index']) == int(episode['episode_index'])
        frames = np.asarray(table['frame_index'])[mine]
        values = np.array(table[layout.STATE].to_pylist(), np.float64)[mine]
        if len(frames) != int(episode['length']):
            raise LeRobotError(
                f'{file}: episode {episode["episode_index"]} has {len(frames)} rows and not '
                f'{episode["length"]}'
            )
        return values.reshape(len(frames), -1)[np.argsort(frames)]

    def frames(self, episode: dict[str, Any], key: str) -> Iterator[Image]:
        """Frames of an episode, RGB uint8 [h, w, 3]."""
        file = self._folder / self._video.format(
            video_key=key,
            chunk_index=episode[f'videos/{key}/chunk_index'],
            file_index=episode[f'videos/{key}/file_index'],
        )
        begin = float(episode[f'videos/{key}/from_timestamp'])
        return layout.read_frames(file, begin, int(episode['length']), self.fps)


__all__ = ['ImportReport', 'import_dataset']
