"""Episode files: self-play transitions as MCAP, written and read without ROS.

A data set is a folder of files `*.mcap`, which together with `metadata.yaml` are one rosbag2 bag.
A file holds some hundred transitions (see docs/reference/episode-format.md):

    /vera/canvas         sensor_msgs/Image rgb8    o_t, all views of the contract on its canvas
    /vera/action         vera_msgs/ActionChunk     one action from the frame of its stamp to the
                                                   frame one `period` later: a transition
    /vera/joint_states   sensor_msgs/JointState    measured at each frame; optional
    /vera/flow/forward   sensor_msgs/Image 32FC2   analytic flow o_t -> o_t+1, px; optional
    /vera/flow/backward  sensor_msgs/Image 32FC2   analytic flow o_t+1 -> o_t, px; optional
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray

from vera_core.bags import BagFile, BagTopic, write_bag_metadata
from vera_core.clocks import NS_PER_S
from vera_core.contract import hash_fields
from vera_core.seams import Array, Image
from vera_jidm import episodes_cdr as cdr

FORMAT = 2
STATISTICS = 'statistics.json'  # beside the files, see vera_jidm.episodes_statistics
RECORD = 'vera_episodes'  # name of the file's metadata record
CANVAS, JOINTS, ACTION = '/vera/canvas', '/vera/joint_states', '/vera/action'
FORWARD, BACKWARD = '/vera/flow/forward', '/vera/flow/backward'
TYPES = {
    CANVAS: cdr.IMAGE,
    JOINTS: cdr.JOINT_STATE,
    ACTION: cdr.ACTION_CHUNK,
    FORWARD: cdr.IMAGE,
    BACKWARD: cdr.IMAGE,
}
CHUNK_SIZE = 2**20
# What reading a damaged file may raise: decoder, decompressor and disk have errors of their own.
DAMAGE = Exception


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file and the cure."""


@dataclass(frozen=True)
class Transitions:
    """N transitions (o_t, a_t, o_t+1).

    Attributes:
        before: uint8 [N, H, W, 3], canvases o_t.
        after: uint8 [N, H, W, 3], canvases o_t+1.
        actions: float32 [N, n], in the units of the contract's channels.
        flow: float16 [N, H, W, 2] px, analytic flow o_t -> o_t+1, or None.
        flow_back: float16 [N, H, W, 2] px, o_t+1 -> o_t, or None.
        positions: float64 [N, 2, j], joints measured at o_t and at o_t+1 [rad or m], or None.
        stamps: int64 [N, 2], of o_t and o_t+1 [ns]; None: every transition a scene of its own. A
            frame of the same stamp in two transitions is the same frame, and stored once.
    """

    before: Image
    after: Image
    actions: Array
    flow: NDArray[np.float16] | None = None
    flow_back: NDArray[np.float16] | None = None
    positions: NDArray[np.float64] | None = None
    stamps: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class EpisodeInfo:
    """What a file says of itself, known without reading its frames.

    Attributes:
        path: of the file.
        count: transitions.
        digest: of frames and actions, 16 hex digits.
        meta: contract (Contract.action_fields()), source, recipe, seed, licence.
        canvas: height, width.
        channels: n.
        analytic: whether it holds the simulator's flow.
        messages: topic -> count.
        begin: first stamp [ns]; end: last.
    """

    path: Path
    count: int
    digest: str
    meta: dict[str, Any] = field(repr=False)
    canvas: tuple[int, int]
    channels: int
    analytic: bool
    messages: dict[str, int]
    begin: int
    end: int

    @property
    def contract(self) -> dict[str, Any]:
        """Action fields of the contract it was collected under."""
        fields: dict[str, Any] = self.meta['contract']
        return fields


def write_shard(path: Path, data: Transitions, meta: Mapping[str, Any]) -> EpisodeInfo:
    """Write one episode file, whole or not at all.

    Args:
        path: ends in .mcap; its folder is made.
        data: N >= 1 transitions; some hundred: a file is what a reader loads at once.
        meta: plain data; must hold 'contract', the contract's action fields, and 'joints', the
            names of the joints, where `data` has positions.

    Raises:
        DatasetError: shapes, types or numbers that do not fit.
        OSError: the disk is full, or the folder cannot be written.
    """
    check(data, path)
    if path.suffix != '.mcap':
        raise DatasetError(f'{path.name}: an episode file is called <name>.mcap')
    meta = _checked_meta(meta, data, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    try:
        with part.open('wb') as stream:
            _write(stream, data, meta)
        # They are of what was there before.
        (path.parent / STATISTICS).unlink(missing_ok=True)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return read_info(path)


def read_shard(path: Path) -> tuple[Transitions, dict[str, Any]]:
    """Transitions and meta of one file; raises DatasetError when it is damaged."""
    info = read_info(path)
    try:
        with path.open('rb') as stream:
            data = _read(stream, info)
        check(data, path)
        if digest_of(data) != info.digest:
            raise DatasetError(f'{path}: frames or actions were changed; collect it again')
    except DAMAGE as error:
        raise _damaged(path, error) from error
    return data, info.meta


def read_info(path: Path) -> EpisodeInfo:
    """What a file says of itself; raises DatasetError for any other or a damaged file."""
    try:
        with path.open('rb') as stream:
            reader = make_reader(stream)
            summary = reader.get_summary()
            records = {m.name: m.metadata for m in reader.iter_metadata()}
        if RECORD not in records or summary is None or summary.statistics is None:
            raise DatasetError(
                f'{path} is no episode file: it lacks the record {RECORD!r}; make one from a '
                'recording with `vera collect --from`'
            )
        record = records[RECORD]
        if record['format'] != str(FORMAT):
            raise DatasetError(f'{path} is of format {record["format"]}; this reads {FORMAT}')
        meta = json.loads(record['meta'])
        counts = summary.statistics.channel_message_counts
        messages = {c.topic: counts.get(i, 0) for i, c in summary.channels.items()}
        size = meta['contract']['canvas']
        return EpisodeInfo(
            path=path,
            count=int(record['transitions']),
            digest=record['digest'],
            meta=meta,
            canvas=(int(size['height']), int(size['width'])),
            channels=len(meta['contract']['channels']),
            analytic=messages.get(FORWARD, 0) > 0 and messages.get(BACKWARD, 0) > 0,
            messages=messages,
            begin=summary.statistics.message_start_time,
            end=summary.statistics.message_end_time,
        )
    except DAMAGE as error:
        raise _damaged(path, error) from error


def write_bag(folder: Path, files: Sequence[EpisodeInfo]) -> None:
    """Make the folder of these files one rosbag2 bag, for `ros2 bag` and `rosbags`."""
    bag_files = [BagFile(f.path.name, f.begin, f.end, sum(f.messages.values())) for f in files]
    topics = [
        BagTopic(name, TYPES[name], '', sum(f.messages.get(name, 0) for f in files))
        for name in sorted({name for f in files for name in f.messages})
    ]
    write_bag_metadata(folder, bag_files, topics)


def digest_of(data: Transitions) -> str:
    """Identifies frames and actions: the first 16 hex digits of their SHA-256."""
    found = hashlib.sha256()
    for array in (data.actions.astype('<f4'), data.before, data.after):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


def check(data: Transitions, path: Path) -> None:
    """Raise DatasetError, naming `path`, unless the arrays belong together."""
    n = len(data.actions)
    shape = data.before.shape
    if data.before.ndim != 4 or shape[-1] != 3 or shape != data.after.shape or shape[0] != n:
        raise DatasetError(
            f'{path.name}: before {shape}, after {data.after.shape} and actions '
            f'{data.actions.shape} do not belong together; expected [N, H, W, 3] twice and [N, n]'
        )
    if n == 0 or data.actions.ndim != 2:
        raise DatasetError(f'{path.name}: actions are {data.actions.shape}; expected [N >= 1, n]')
    if data.before.dtype != np.uint8 or data.after.dtype != np.uint8:
        raise DatasetError(f'{path.name}: images must be uint8')
    if not np.isfinite(data.actions).all():
        raise DatasetError(f'{path.name}: an action is not a finite number')
    for flow in (data.flow, data.flow_back):
        if flow is None:
            continue
        if flow.shape != (*shape[:3], 2):
            raise DatasetError(f'{path.name}: flow is {flow.shape}; expected {(*shape[:3], 2)}')
        if not np.isfinite(flow).all():
            raise DatasetError(f'{path.name}: analytic flow is not a finite number somewhere')
    at = data.positions
    if at is not None and (at.ndim != 3 or at.shape[:2] != (n, 2) or not np.isfinite(at).all()):
        raise DatasetError(
            f'{path.name}: positions are {at.shape}; expected finite numbers [{n}, 2, joints]'
        )
    stamps = data.stamps
    if stamps is not None and (stamps.shape != (n, 2) or (stamps[:, 0] >= stamps[:, 1]).any()):
        raise DatasetError(
            f'{path.name}: stamps are {stamps.shape}; expected [{n}, 2], each second one later'
        )


def _checked_meta(meta: Mapping[str, Any], data: Transitions, path: Path) -> dict[str, Any]:
    if 'contract' not in meta:
        raise DatasetError(f'{path.name}: meta must hold the contract (Contract.action_fields())')
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DatasetError(f'{path.name}: meta holds plain data only: {error}') from error
    canvas, channels = plain['contract']['canvas'], plain['contract']['channels']
    if data.before.shape[1:3] != (canvas['height'], canvas['width']):
        raise DatasetError(
            f'{path.name}: frames are {data.before.shape[1:3]}; the contract says '
            f'{(canvas["height"], canvas["width"])}'
        )
    if data.actions.shape[1] != len(channels):
        raise DatasetError(
            f'{path.name}: actions are {data.actions.shape}; the contract has {len(channels)} '
            'channels'
        )
    joints = plain.get('joints', [])
    if data.positions is not None and len(joints) != data.positions.shape[2]:
        raise DatasetError(
            f'{path.name}: positions are {data.positions.shape}, but meta names '
            f'{len(joints)} joints; put their names under "joints"'
        )
    return plain


def _write(stream: IO[bytes], data: Transitions, meta: dict[str, Any]) -> None:
    writer = Writer(stream, chunk_size=CHUNK_SIZE, compression=CompressionType.ZSTD)
    writer.start(profile='ros2', library='vera')
    schemas: dict[str, int] = {}
    channels: dict[str, int] = {}

    def put(topic: str, message: bytes, stamp: int) -> None:
        kind = TYPES[topic]
        if kind not in schemas:
            text = cdr.DEFINITIONS[kind].encode()
            schemas[kind] = writer.register_schema(name=kind, encoding='ros2msg', data=text)
        if topic not in channels:
            channels[topic] = writer.register_channel(
                topic, 'cdr', schemas[kind], {'offered_qos_profiles': ''}
            )
        writer.add_message(channels[topic], stamp, message, stamp)

    names = [channel['name'] for channel in meta['contract']['channels']]
    stamps = default_stamps(len(data.actions)) if data.stamps is None else data.stamps
    last: tuple[int, Image] | None = None
    for i, (begin, end) in enumerate(stamps.tolist()):
        for side, (stamp, frames) in enumerate(((begin, data.before), (end, data.after))):
            if last is not None and last[0] == stamp:
                if not np.array_equal(last[1], frames[i]):
                    raise DatasetError(f'transition {i}: two frames of one stamp differ')
                continue
            put(CANVAS, cdr.encode_image(frames[i], 'rgb8', stamp, 'canvas'), stamp)
            if data.positions is not None:
                here = data.positions[i, side]
                put(JOINTS, cdr.encode_joints(meta['joints'], here, stamp), stamp)
            last = stamp, frames[i]
        action = cdr.encode_action(
            names, data.actions[i], begin, end - begin, meta.get('actions', 'measured')
        )
        put(ACTION, action, begin)
        for topic, flow in ((FORWARD, data.flow), (BACKWARD, data.flow_back)):
            if flow is not None:
                put(topic, cdr.encode_image(flow[i], '32FC2', begin, 'canvas'), begin)
    record = {
        'format': str(FORMAT),
        'transitions': str(len(data.actions)),
        'digest': digest_of(data),
        'contract_hash': hash_fields(meta['contract']),
        'meta': json.dumps(meta, sort_keys=True),
    }
    writer.add_metadata(RECORD, record)
    writer.finish()


def default_stamps(count: int, first: int = 0, period: int = NS_PER_S // 2) -> NDArray[np.int64]:
    """Stamps of `count` transitions with a scene each, 1 s apart from (first + 1) s on.

    Returns:
        int64 [count, 2], ns.
    """
    begin = (np.arange(count, dtype=np.int64) + first + 1) * NS_PER_S
    return np.stack([begin, begin + period], axis=1)


def _read(stream: IO[bytes], info: EpisodeInfo) -> Transitions:
    frames: dict[int, Image] = {}
    joints: dict[int, NDArray[np.float64]] = {}
    actions: list[cdr.Action] = []
    flows: dict[str, dict[int, Array]] = {FORWARD: {}, BACKWARD: {}}
    names = tuple(channel['name'] for channel in info.contract['channels'])
    order = info.meta.get('joints', [])
    reader = make_reader(stream, validate_crcs=True)
    for _, channel, message in reader.iter_messages(log_time_order=False):
        if channel.topic == CANVAS:
            stamp, frames_ = cdr.decode_image(message.data)
            frames[stamp] = frames_
        elif channel.topic in flows:
            stamp, flow = cdr.decode_image(message.data)
            flows[channel.topic][stamp] = flow.astype(np.float16)
        elif channel.topic == JOINTS:
            state = cdr.decode_joints(message.data)
            joints[state.stamp] = state.positions[[state.names.index(n) for n in order]]
        elif channel.topic == ACTION:
            actions.append(cdr.decode_action(message.data))
    if len(actions) != info.count:
        raise DatasetError(f'{info.path} says {info.count} transitions and holds {len(actions)}')
    for action in actions:
        missing = [s for s in (action.stamp, action.stamp + action.period) if s not in frames]
        if missing:
            raise DatasetError(
                f'{info.path}: the action of {action.stamp} ns lacks its frame of {missing[0]} ns'
            )
        if action.values.shape[0] != 1 or set(action.channels) != set(names):
            raise DatasetError(
                f'{info.path}: an action of {", ".join(action.channels)}; one of '
                f'{", ".join(names)} is needed'
            )
    stamps = np.array([(a.stamp, a.stamp + a.period) for a in actions], np.int64)

    def of(kept: Mapping[int, Any], side: int) -> NDArray[Any]:
        return np.stack([kept[s] for s in stamps[:, side].tolist()])

    values = [a.values[0, [a.channels.index(n) for n in names]] for a in actions]
    return Transitions(
        of(frames, 0),
        of(frames, 1),
        np.array(values, np.float32),
        of(flows[FORWARD], 0) if info.analytic else None,
        of(flows[BACKWARD], 0) if info.analytic else None,
        np.stack([of(joints, 0), of(joints, 1)], axis=1) if joints else None,
        stamps,
    )


def _damaged(path: Path, error: Exception) -> DatasetError:
    if isinstance(error, DatasetError):
        return error
    return DatasetError(f'{path} cannot be read ({error}); collect it again')
