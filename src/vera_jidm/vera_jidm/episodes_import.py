"""From a recording of the live graph to episodes: frames and joint states, matched by stamp.

A transition is two canvases one frame period apart; its action is what the joints really did in
between, measured at the two stamps. Who moved the robot, and by what commands, does not matter.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader
from numpy.typing import NDArray

from vera_core import canvas
from vera_core.clocks import seconds_to_ns
from vera_core.contract import CameraSpec, Contract
from vera_core.image_codec import decode
from vera_core.kinematics.motion import MeasuredMotion
from vera_core.seams import Image
from vera_jidm import episodes_cdr as cdr
from vera_jidm.episodes import (
    DAMAGE,
    DatasetError,
    EpisodeInfo,
    Transitions,
    read_info,
    write_bag,
    write_shard,
)

PER_FILE = 500
# Joint states further apart than this [s] do not say where the robot was in between.
GAP = 0.1
# Faster than this many times the velocity limit it did not move: it was put there.
TELEPORT = 1.5
# Below this share of every channel's scale nothing moved.
STILL = 0.01
_LOG = logging.getLogger(__name__)


class NoTransitionsError(DatasetError):
    """A recording out of which no transition can be had; the message says what is missing."""


@dataclass
class ImportReport:
    """What became of a recording: counts, and the files written.

    Attributes:
        frames: images of the first camera. transitions: written.
        unmatched: frames that lack another camera's image, or a frame one period later.
        unmeasured: pairs without joint states all the way, or with a jump between them.
        still: pairs in which nothing moved.
        files: written.
    """

    frames: int = 0
    transitions: int = 0
    unmatched: int = 0
    unmeasured: int = 0
    still: int = 0
    files: list[EpisodeInfo] = field(default_factory=list)

    def text(self) -> str:
        """One sentence for people."""
        return (
            f'{self.transitions} transitions of {self.frames} frames; left out: {self.unmatched} '
            f'without a partner, {self.unmeasured} without joint states all the way, '
            f'{self.still} in which nothing moved'
        )


def import_recording(
    bag: Path,
    contract: Contract,
    folder: Path,
    *,
    namespace: str = 'vera',
    every: float | None = None,
    most: int | None = None,
    meta: dict[str, Any] | None = None,
) -> ImportReport:
    """Add the transitions of a recording to a folder of episode files.

    Args:
        bag: MCAP file, or folder of them, with the topics of the graph: each camera's images, and
            joint_states.
        contract: of the robot that was recorded; says cameras, canvas, joints and channels.
        folder: of the episode files; made. Others of the same contract may be there.
        namespace: of the graph that was recorded.
        every: seconds between the beginnings of transitions; one frame period, so that they do
            not overlap, unless given.
        most: stop after so many transitions.
        meta: kept in the files: licence, seed, recipe ...

    Returns:
        What was written and what was left out.

    Raises:
        NoTransitionsError: not one.
        DatasetError: a topic is missing, channels whose action joint states do not tell, episodes
            of another contract or of the same time in the folder.
    """
    folder = Path(folder)
    recording = _Recording(Path(bag), contract, namespace)
    before = [read_info(path) for path in sorted(folder.glob('*.mcap'))]
    whole = {
        'contract': contract.action_fields(),
        'joints': list(contract.joint_names),
        'source': f'recording of the live graph of {contract.embodiment}',
        'actions': 'measured',
        **(meta or {}),
    }
    report = ImportReport()
    pairs = recording.pairs(report, every or contract.video.frame_period)[:most]
    if not pairs:
        raise NoTransitionsError(f'{bag} holds no transition: {report.text()}')
    first, last = pairs[0].begin, pairs[-1].end
    for file in before:
        if file.contract != json.loads(json.dumps(whole['contract'])):
            raise DatasetError(f'{file.path} was collected under another contract')
        if file.begin <= last and first <= file.end:
            raise DatasetError(f'{file.path} already holds transitions of that time')
    try:
        for data in recording.transitions(pairs):
            path = folder / f'shard_{len(before) + len(report.files):05d}.mcap'
            report.files.append(write_shard(path, data, whole))
            report.transitions += len(data.actions)
    except DAMAGE as error:
        raise _unreadable(recording.path, error) from error
    write_bag(folder, sorted([*before, *report.files], key=lambda file: file.begin))
    _LOG.info('%s: %s', folder, report.text())
    return report


@dataclass(frozen=True)
class _Pair:
    """Stamps of two frames [ns], joints at both float64 [2, j], the action float32 [n]."""

    begin: int
    end: int
    positions: NDArray[np.float64]
    action: NDArray[np.float32]


class _Recording:
    """A recording whose joint states and stamps are known; its images are read when needed."""

    def __init__(self, path: Path, contract: Contract, namespace: str) -> None:
        self.path = path
        self._contract = contract
        self._files = [path] if path.is_file() else sorted(path.glob('*.mcap'))
        if not self._files:
            raise DatasetError(f'{path} is no recording: no *.mcap is there')
        prefix = f'/{namespace.strip("/")}/' if namespace.strip('/') else '/'
        self._joints = f'{prefix}joint_states'
        self._cameras = {f'{prefix}{camera.topic}': camera for camera in contract.cameras}
        try:
            self._motion = MeasuredMotion(contract)
        except ValueError as error:
            raise DatasetError(str(error)) from error
        states: list[tuple[int, NDArray[np.float64]]] = []
        stamps: dict[str, list[int]] = {topic: [] for topic in self._cameras}
        # Recorded later than stamped, by transport and clocks: [ns] at least and at most.
        self._late = [0, 0]
        try:
            for topic, logged, data in self._messages([self._joints, *self._cameras]):
                if topic == self._joints:
                    states.append(self._state(data))
                else:
                    stamps[topic].append(cdr.read_stamp(data))
                    late = logged - stamps[topic][-1]
                    self._late = [min(self._late[0], late), max(self._late[1], late)]
        except DAMAGE as error:
            raise _unreadable(path, error) from error
        for topic, found in ((self._joints, states), *stamps.items()):
            if not found:
                raise DatasetError(
                    f'{path} has no messages on {topic}; record it, or name another --namespace'
                )
        self._stamps = {topic: np.unique(np.array(s, np.int64)) for topic, s in stamps.items()}
        self._times, self._positions = self._ordered(states)
        self._breaks = self._broken()

    def _messages(
        self, topics: list[str], begin: int | None = None, end: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Topic, time of recording [ns] and bytes of what was recorded from begin to end [ns]."""
        for file in self._files:
            with file.open('rb') as stream:
                reader = make_reader(stream, validate_crcs=True)
                found = reader.iter_messages(topics, starting_at=begin, ending_at=end)
                for _, channel, message in found:
                    yield channel.topic, message.log_time, message.data

    def _state(self, data: bytes) -> tuple[int, NDArray[np.float64]]:
        state = cdr.decode_joints(data)
        missing = [n for n in self._contract.joint_names if n not in state.names]
        if missing:
            raise DatasetError(f'{self.path}: joint_states lack {", ".join(missing)}')
        order = [state.names.index(n) for n in self._contract.joint_names]
        return state.stamp, state.positions[order]

    @staticmethod
    def _ordered(
        states: list[tuple[int, NDArray[np.float64]]],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """By stamp, each once."""
        times = np.array([stamp for stamp, _ in states], np.int64)
        unique, first = np.unique(times, return_index=True)
        return unique, np.stack([states[i][1] for i in first])

    def _broken(self) -> NDArray[np.int64]:
        """How many intervals between states, up to each state, say nothing of a motion: [S]."""
        dt = np.diff(self._times) / 1e9
        moved = np.abs(np.diff(self._positions, axis=0))
        # A little on top: encoders are noisy, and stamps not exact.
        most = self._contract.velocity_limits * TELEPORT * dt[:, None] + 0.01
        bad = (dt > GAP) | ~(moved <= most).all(1)
        return np.concatenate([[0], np.cumsum(bad)])

    def _at(self, stamp: int) -> tuple[NDArray[np.float64], int, int] | None:
        """Positions at a stamp, and the states around it; None outside of what was recorded."""
        right = int(np.searchsorted(self._times, stamp))
        if right == len(self._times) or (right == 0 and self._times[0] != stamp):
            return None
        if self._times[right] == stamp:
            return self._positions[right], right, right
        left = right - 1
        share = (stamp - self._times[left]) / (self._times[right] - self._times[left])
        q0, q1 = self._positions[left], self._positions[right]
        return q0 + share * (q1 - q0), left, right

    def pairs(self, report: ImportReport, every: float) -> list[_Pair]:
        """All transitions, by time; those left out are counted in `report`."""
        if not every > 0:
            raise DatasetError(f'a transition every {every} s; the time must be positive')
        lead, *others = self._cameras.items()
        period = self._contract.video.frame_period_ns
        near = lead[1].period_ns // 2
        frames = self._stamps[lead[0]]
        seen = np.ones(len(frames), bool)
        for topic, camera in others:
            seen &= _distance(frames, self._stamps[topic]) <= camera.period_ns // 2
        report.frames = len(frames)
        partners = _nearest(frames + period, frames)
        due, found = 0, []
        scales = self._contract.channel_scales
        for i, begin in enumerate(frames.tolist()):
            if begin < due:
                continue
            partner = int(partners[i])
            end = int(frames[partner])
            if abs(end - begin - period) > near or not (seen[i] and seen[partner]):
                report.unmatched += 1
                continue
            here, there = self._at(begin), self._at(end)
            if here is None or there is None or self._breaks[here[1]] != self._breaks[there[2]]:
                report.unmeasured += 1
                continue
            moved = self._motion.between(here[0], there[0])
            if (np.abs(moved) < STILL * scales).all():
                report.still += 1
                continue
            positions = np.stack([here[0], there[0]])
            found.append(_Pair(begin, end, positions, moved.astype(np.float32)))
            # Half a camera period less: a frame that is due may come a little early.
            due = begin + seconds_to_ns(every) - near
        return found

    def transitions(self, pairs: list[_Pair]) -> Iterator[Transitions]:
        """The frames of these pairs, by files of some hundred; holds no more than one of them."""
        for start in range(0, len(pairs), PER_FILE):
            group = pairs[start : start + PER_FILE]
            frames = self._canvases(sorted({s for p in group for s in (p.begin, p.end)}))
            yield Transitions(
                np.stack([frames[p.begin] for p in group]),
                np.stack([frames[p.end] for p in group]),
                np.stack([p.action for p in group]),
                positions=np.stack([p.positions for p in group]),
                stamps=np.array([(p.begin, p.end) for p in group], np.int64),
            )

    def _canvases(self, wanted: list[int]) -> dict[int, Image]:
        """Canvases of these stamps of the first camera."""
        views: dict[int, dict[str, Image]] = {stamp: {} for stamp in wanted}
        marks = np.array(wanted, np.int64)
        uses: dict[str, tuple[CameraSpec, dict[int, list[int]]]] = {}
        for topic, camera in self._cameras.items():
            stamps = self._stamps[topic]
            needed: dict[int, list[int]] = {}
            for mark, stamp in zip(wanted, stamps[_nearest(marks, stamps)].tolist(), strict=True):
                needed.setdefault(stamp, []).append(mark)
            uses[topic] = camera, needed
        margin = max(camera.period_ns for camera in self._cameras.values())
        begin = max(0, wanted[0] + self._late[0] - margin)
        end = wanted[-1] + self._late[1] + margin
        for topic, _, data in self._messages([*uses], begin, end):
            camera, needed = uses[topic]
            for mark in needed.get(cdr.read_stamp(data), ()):
                views[mark][camera.name] = decode(cdr.read_image(data))
        return {stamp: canvas.tile(images, self._contract) for stamp, images in views.items()}


def _nearest(marks: NDArray[np.int64], stamps: NDArray[np.int64]) -> NDArray[np.intp]:
    """For each mark, the place of the nearest of the sorted stamps."""
    right = np.minimum(np.searchsorted(stamps, marks), len(stamps) - 1)
    left = np.maximum(right - 1, 0)
    closer = np.abs(stamps[left] - marks) <= np.abs(stamps[right] - marks)
    return np.where(closer, left, right)


def _distance(marks: NDArray[np.int64], stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.abs(stamps[_nearest(marks, stamps)] - marks)


def _unreadable(path: Path, error: Exception) -> DatasetError:
    if isinstance(error, DatasetError):
        return error
    return DatasetError(f'{path} cannot be read ({error})')


__all__ = ['ImportReport', 'NoTransitionsError', 'import_recording']
