"""What goes over the wire: msgpack with numpy arrays, as openpi's `msgpack_numpy` writes it.

An array is the map {b'__ndarray__': True, b'data': bytes, b'dtype': str, b'shape': [...]}, a numpy
scalar {b'__npgeneric__': True, b'data': value, b'dtype': str} (VERA's authors write
b'__npscalar__', which is read, too). Nothing is ever pickled: types that would need it are refused
in both directions, and what a message may blow up to is limited before it is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

MAX_MESSAGE = 64 * 2**20  # bytes; 21 frames of 832 x 480 pixels are 25 MB
MAX_ITEMS = 100_000  # of all lists and maps of a message together; arrays count as one
PORT = 8000  # openpi's

PROTOCOL = 'vera-planner'
VERSION = 1
INFER, RESET = 'infer', 'reset'
RESET_DONE = 'reset successful'  # the text with which the authors' and DreamZero's servers answer
# An error is a text message; ours begin with one of these and a colon.
BAD_REQUEST, BUSY, REFUSED, FAILED = 'bad request', 'busy', 'refused', 'planner failed'

# Booleans, numbers and texts of a fixed size; so no objects, records, dates or complex numbers.
_DTYPE = re.compile(r'[<>|=]?(b1|[iu][1248]|f[248]|[SU][1-9]\d{0,3})')


class ProtocolError(ValueError):
    """A message that is not sent, or was received and is not understood; it says why."""


def pack(message: Any) -> bytes:
    """A message as bytes.

    Args:
        message: dicts, lists, texts, bytes, numbers, None, numpy arrays and scalars.

    Raises:
        ProtocolError: something else in it, such as an array of objects.
    """
    try:
        packed: bytes = msgpack.packb(message, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f'cannot be sent: {error}') from error
    return packed


def unpack(data: bytes, max_message: int = MAX_MESSAGE) -> Any:
    """The message of `pack`; arrays are new and may be written to.

    Args:
        data: what came.
        max_message: bytes allowed.

    Raises:
        ProtocolError: no msgpack, too large, too many items, or a type that is not allowed.
    """
    if len(data) > max_message:
        raise ProtocolError(f'{len(data)} bytes; at most {max_message} are allowed')
    counter = _Counter()
    try:
        return msgpack.unpackb(
            data,
            object_hook=counter.map,
            list_hook=counter.list,
            ext_hook=_refuse_extension,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
    except ProtocolError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        said = str(error) or type(error).__name__
        raise ProtocolError(f'no msgpack: {said}') from error


def read_map(data: bytes | str, max_message: int = MAX_MESSAGE) -> dict[str, Any]:
    """A message that must be a map with texts as keys.

    Raises:
        ProtocolError: it is something else.
    """
    if isinstance(data, str):
        raise ProtocolError('a text message; expected a binary one in msgpack')
    message = unpack(data, max_message)
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise ProtocolError('expected a map with texts as keys')
    return message


class _Counter:
    """Hooks of the unpacker: they count items, for an empty map takes 1 byte there and 64 here."""

    def __init__(self) -> None:
        self._items = 0

    def map(self, value: dict[Any, Any]) -> Any:
        self._count(len(value))
        if b'__ndarray__' in value:
            return _decode_array(value)
        if b'__npgeneric__' in value or b'__npscalar__' in value:
            return _decode_scalar(value)
        return value

    def list(self, value: list[Any]) -> Any:
        self._count(len(value))
        return value

    def _count(self, items: int) -> None:
        self._items += 1 + items
        if self._items > MAX_ITEMS:
            raise ProtocolError(f'more than {MAX_ITEMS} items; send numbers as numpy arrays')


def _encode(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        _check_dtype(value.dtype.str)
        if isinstance(value, np.generic):
            return {b'__npgeneric__': True, b'data': value.item(), b'dtype': value.dtype.str}
        return {
            b'__ndarray__': True,
            b'data': value.tobytes(),
            b'dtype': value.dtype.str,
            b'shape': list(value.shape),
        }
    raise ProtocolError(f'a {type(value).__name__}; only plain data and numpy arrays are sent')


def _decode_array(value: Mapping[Any, Any]) -> np.ndarray[Any, Any]:
    data, shape = value.get(b'data'), value.get(b'shape')
    dtype = _check_dtype(value.get(b'dtype'))
    if not isinstance(data, bytes):
        raise ProtocolError('an array whose data are no bytes')
    sizes = shape if isinstance(shape, (list, tuple)) else [None]
    if len(sizes) > 32 or not all(type(n) is int and n >= 0 for n in sizes):
        raise ProtocolError(f'an array whose shape is {shape!r:.100}')
    if math.prod(sizes) * dtype.itemsize != len(data):
        raise ProtocolError(
            f'an array of {len(data)} bytes whose shape is {list(sizes)} of {dtype.str}'
        )
    return np.frombuffer(data, dtype).reshape(sizes).copy()


def _decode_scalar(value: Mapping[Any, Any]) -> Any:
    dtype, data = _check_dtype(value.get(b'dtype')), value.get(b'data')
    if not isinstance(data, (bool, int, float, str, bytes)):
        raise ProtocolError(f'a scalar of {dtype.str} whose value is a {type(data).__name__}')
    try:
        return dtype.type(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f'a scalar of {dtype.str}: {error}') from error


def _check_dtype(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ProtocolError(
            f'an array of {name!r:.60}; only booleans, real numbers and texts are sent'
        )
    return np.dtype(name)


def _refuse_extension(code: int, _: bytes) -> Any:
    raise ProtocolError(f'extension type {code} of msgpack; only plain data are read')
