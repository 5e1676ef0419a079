"""The ROS 2 messages of an episode file, to bytes and back, without ROS.

Little-endian CDR, as rmw_fastrtps and `rosbags` write it: a header of four bytes, then every value
aligned to its own size, counted from the end of that header. Only the types of an episode file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_core.clocks import NS_PER_S, from_ns

HEADER = b'\x00\x01\x00\x00'  # CDR, little-endian
IMAGE = 'sensor_msgs/msg/Image'
JOINT_STATE = 'sensor_msgs/msg/JointState'
ACTION_CHUNK = 'vera_msgs/msg/ActionChunk'

_RULE = '=' * 80
_STAMPED = (
    f'{_RULE}\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n'
    f'{_RULE}\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n'
)
# The fields of each type, in their order, with those of the types it uses: what MCAP embeds.
DEFINITIONS = {
    IMAGE: (
        'std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n'
        f'uint8 is_bigendian\nuint32 step\nuint8[] data\n{_STAMPED}'
    ),
    JOINT_STATE: (
        'std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\n'
        f'float64[] effort\n{_STAMPED}'
    ),
    ACTION_CHUNK: (
        'std_msgs/Header header\nuint32 goal_id\nuint32 plan_seq\nstring[] channels\n'
        'float64 period\nuint32 steps\nfloat64[] values\nfloat32[] residual\n'
        'float32[] observability\nstring translator_id\nstring model_hash\nfloat64 latency\n'
        f'uint32 part\nbuiltin_interfaces/Time observed\n{_STAMPED}'
    ),
}
# Encodings of sensor_msgs/Image that episode files use: (type, channels).
ENCODINGS: dict[str, tuple[Any, int]] = {'rgb8': (np.uint8, 3), '32FC2': (np.float32, 2)}


class CdrError(ValueError):
    """Bytes that are not the message they should be."""


class _Out:
    def __init__(self) -> None:
        self._parts: list[Any] = [HEADER]
        self._size = 0

    def value(self, code: str, value: float) -> None:
        """One number, aligned to its size."""
        self.raw(struct.pack('<' + code, value), struct.calcsize(code))

    def raw(self, data: Any, align: int = 1) -> None:
        pad = -self._size % align
        if pad:
            self._parts.append(b'\0' * pad)
        self._parts.append(data)
        self._size += pad + memoryview(data).nbytes

    def text(self, text: str) -> None:
        data = text.encode() + b'\0'
        self.value('I', len(data))
        self.raw(data)

    def texts(self, texts: Sequence[str]) -> None:
        self.value('I', len(texts))
        for text in texts:
            self.text(text)

    def array(self, values: NDArray[Any], kind: str) -> None:
        array = np.ascontiguousarray(values, np.dtype(kind).newbyteorder('<'))
        self.value('I', array.size)
        if array.size:
            self.raw(array.reshape(-1).view(np.uint8).data, array.itemsize)

    def header(self, stamp: int, frame_id: str = '') -> None:
        sec, nanosec = from_ns(stamp)
        self.value('i', sec)
        self.value('I', nanosec)
        self.text(frame_id)

    def bytes(self) -> bytes:
        return b''.join(self._parts)


class _In:
    def __init__(self, data: bytes) -> None:
        if data[:2] != HEADER[:2]:
            raise CdrError(f'begins with {data[:2].hex()}; little-endian CDR begins with 0001')
        self._data = memoryview(data)[4:]
        self._at = 0

    def value(self, code: str) -> Any:
        size = struct.calcsize(code)
        return struct.unpack('<' + code, self.raw(size, size))[0]

    def raw(self, size: int, align: int = 1) -> memoryview:
        begin = self._at + -self._at % align
        if begin + size > len(self._data):
            raise CdrError(f'ends after {len(self._data)} bytes; {begin + size} were announced')
        self._at = begin + size
        return self._data[begin : self._at]

    def text(self) -> str:
        return str(self.raw(self.value('I')), 'utf-8').rstrip('\0')

    def texts(self) -> tuple[str, ...]:
        return tuple(self.text() for _ in range(self.value('I')))

    def array(self, kind: str) -> NDArray[Any]:
        dtype = np.dtype(kind).newbyteorder('<')
        count = self.value('I')
        size = count * dtype.itemsize
        return np.frombuffer(self.raw(size, dtype.itemsize if count else 1), dtype)

    def header(self) -> int:
        sec, nanosec = self.value('i'), self.value('I')
        self.text()
        return int(sec) * NS_PER_S + int(nanosec)


@dataclass(frozen=True)
class Joints:
    """Of a JointState: stamp [ns], names, positions float64 [j] rad or m."""

    stamp: int
    names: tuple[str, ...]
    positions: NDArray[np.float64]


@dataclass(frozen=True)
class Action:
    """Of an ActionChunk: stamp [ns], channels, period [ns], values float64 [steps, n]."""

    stamp: int
    channels: tuple[str, ...]
    period: int
    values: NDArray[np.float64]


def encode_image(pixels: NDArray[Any], encoding: str, stamp: int, frame_id: str = '') -> bytes:
    """sensor_msgs/Image of pixels [H, W, channels], in one of ENCODINGS, stamped [ns]."""
    kind, channels = ENCODINGS[encoding]
    array = np.ascontiguousarray(pixels, kind)
    height, width = array.shape[:2]
    out = _Out()
    out.header(stamp, frame_id)
    out.value('I', height)
    out.value('I', width)
    out.text(encoding)
    out.value('B', 0)
    out.value('I', width * channels * array.itemsize)
    out.array(array.view(np.uint8), 'u1')
    return out.bytes()


@dataclass(frozen=True)
class ImageFields:
    """Of any sensor_msgs/Image, as `vera_core.image_codec.decode` wants it; stamp in ns."""

    stamp: int
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: NDArray[np.uint8]


def read_image(data: bytes) -> ImageFields:
    """The fields of a sensor_msgs/Image of any encoding; raises CdrError."""
    into = _In(data)
    stamp = into.header()
    height, width, encoding = into.value('I'), into.value('I'), into.text()
    big, step = into.value('B'), into.value('I')
    return ImageFields(stamp, height, width, encoding, big, step, into.array('u1'))


def read_stamp(data: bytes) -> int:
    """Stamp [ns] of any message that begins with a header; raises CdrError."""
    return _In(data).header()


def decode_image(data: bytes) -> tuple[int, NDArray[Any]]:
    """Stamp [ns] and pixels [H, W, channels] of an Image in one of ENCODINGS; shares memory.

    Raises:
        CdrError: no such message, another encoding, padded rows, or a size that does not fit.
    """
    image = read_image(data)
    if image.encoding not in ENCODINGS or image.is_bigendian:
        raise CdrError(f'an image is {image.encoding!r}; episodes hold {", ".join(ENCODINGS)}')
    kind, channels = ENCODINGS[image.encoding]
    row = image.width * channels * np.dtype(kind).itemsize
    if image.step != row or image.data.size != row * image.height:
        raise CdrError(
            f'{image.data.size} bytes, step {image.step}, do not make '
            f'{image.width}x{image.height} {image.encoding}'
        )
    return image.stamp, image.data.view(kind).reshape(image.height, image.width, channels)


def encode_joints(names: Sequence[str], positions: NDArray[np.float64], stamp: int) -> bytes:
    """sensor_msgs/JointState of positions [rad or m] in the order of `names`, stamped [ns]."""
    out = _Out()
    out.header(stamp)
    out.texts(names)
    out.array(positions, 'f8')
    out.array(np.zeros(0), 'f8')
    out.array(np.zeros(0), 'f8')
    return out.bytes()


def decode_joints(data: bytes) -> Joints:
    """Names and positions of a JointState; raises CdrError."""
    into = _In(data)
    joints = Joints(into.header(), into.texts(), np.array(into.array('f8'), np.float64))
    if len(joints.names) != joints.positions.size:
        raise CdrError(f'{joints.positions.size} positions of {len(joints.names)} joints')
    return joints


def encode_action(
    channels: Sequence[str], values: NDArray[np.float64], stamp: int, period: int, source: str
) -> bytes:
    """vera_msgs/ActionChunk of one action.

    Args:
        channels: n names.
        values: [n], in the channels' units.
        stamp: of the frame before [ns].
        period: until the frame after [ns].
        source: written as `translator_id`.
    """
    out = _Out()
    out.header(stamp)
    out.value('I', 0)
    out.value('I', 0)
    out.texts(channels)
    out.value('d', period / NS_PER_S)
    out.value('I', 1)
    out.array(values, 'f8')
    # Nothing was solved: no residual, no observability.
    out.array(np.zeros(0), 'f4')
    out.array(np.zeros(0), 'f4')
    out.text(source)
    out.text('')
    out.value('d', 0.0)
    # Whole, and made from the frame of its stamp.
    out.value('I', 0)
    out.value('i', 0)
    out.value('I', 0)
    return out.bytes()


def decode_action(data: bytes) -> Action:
    """Channels, period and values of an ActionChunk; raises CdrError."""
    into = _In(data)
    stamp = into.header()
    into.value('I'), into.value('I')
    channels = into.texts()
    period, steps = into.value('d'), into.value('I')
    values = np.array(into.array('f8'), np.float64)
    if values.size != steps * len(channels):
        raise CdrError(f'{values.size} values of {steps} actions of {len(channels)} channels')
    return Action(
        stamp, channels, round(period * NS_PER_S), values.reshape(steps, len(channels))
    )
