"""The remote planner's messages: openpi's encoding, no pickle, and limits before memory is used."""

from __future__ import annotations

import pickle

import msgpack
import numpy as np
import pytest
from openpi_client import msgpack_numpy

from vera_planner.remote.protocol import MAX_ITEMS, ProtocolError, pack, read_map, unpack

MESSAGE = {
    'frames': np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
    'empty': np.zeros((0, 3), np.float32),
    'zero_dim': np.array(7, np.int64),
    'texts': np.array(['a', 'bcd']),
    'big_endian': np.arange(3, dtype='>f4'),
    'half': np.float16(0.5),
    'flag': np.bool_(True),
    'prompt': 'berühre die rote Scheibe',
    'list': [1, 2.5, None, {'deep': b'bytes'}],
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return a == b


def test_there_and_back():
    assert same(unpack(pack(MESSAGE)), MESSAGE)
    unpack(pack(MESSAGE))['frames'][:] = 1  # an array of its own


def test_openpi_writes_and_reads_the_same():
    assert same(unpack(msgpack_numpy.packb(MESSAGE)), MESSAGE)
    assert same(msgpack_numpy.unpackb(pack(MESSAGE)), MESSAGE)


def test_scalars_of_the_authors_server_are_read():
    message = msgpack.packb({b'__npscalar__': True, b'data': 1.5, b'dtype': '<f4'})
    assert same(unpack(message), np.float32(1.5))


@pytest.mark.parametrize(
    'value',
    [
        np.array([object()]), np.zeros(2, complex), np.zeros(1, 'datetime64[s]'),
        np.zeros(1, [('a', 'u1')]), np.longdouble(1), object(), {1, 2}, 2**70,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_plain_data_is_not_sent(value):
    with pytest.raises(ProtocolError, match='cannot be sent'):
        pack({'x': value})


def array(data=b'abcd', dtype='|u1', shape=(4,)):
    return msgpack.packb({b'__ndarray__': True, b'data': data, b'dtype': dtype, b'shape': shape})


@pytest.mark.parametrize(
    ('message', 'reason'),
    [
        (b'', 'no msgpack'),
        (b'\xc1', 'no msgpack'),
        (b'GET / HTTP/1.1', 'no msgpack'),
        (b'\x93\x01', 'incomplete'),
        (b'\xdd\xff\xff\xff\xff', 'exceeds max_array_len'),
        (b'\x91' * 5000, 'StackError'),
        (msgpack.packb('\ud800', unicode_errors='surrogatepass'), 'no msgpack'),
        (msgpack.packb(msgpack.ExtType(5, b'x')), 'extension type 5'),
        (msgpack.packb([{}] * (MAX_ITEMS // 2 + 1)), 'more than 100000 items'),
        (array(dtype='|O'), "array of '|O'"),
        (array(dtype='O8'), 'only booleans'),
        (array(dtype='(9999999,9999999)u1'), 'only booleans'),
        (array(dtype='|V4'), 'only booleans'),
        (array(dtype=7), 'array of 7'),
        (array(shape=(5,)), r'4 bytes whose shape is \[5\]'),
        (array(shape=(-4,)), 'shape is'),
        (array(shape=(2**62, 2**62)), 'whose shape is'),
        (array(shape='4'), 'shape is'),
        (array(shape=[1] * 33 + [4]), 'shape is'),
        (array(data='abcd'), 'no bytes'),
        (msgpack.packb({b'__npgeneric__': True, b'data': 300, b'dtype': '|u1'}), 'scalar'),
        (msgpack.packb({b'__npgeneric__': True, b'data': [1], b'dtype': '|u1'}), 'scalar'),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(message, reason):
    with pytest.raises(ProtocolError, match=reason):
        unpack(message)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ('a pickle was loaded',))


def test_a_pickle_is_only_bytes():
    pickled = pickle.dumps(Bomb())
    with pytest.raises(ProtocolError):
        unpack(pickled)
    assert unpack(pack({'x': pickled}))['x'] == pickled
    with pytest.raises(ProtocolError):
        unpack(array(data=pickled, dtype='|O', shape=(1,)))


def test_limit_of_a_message():
    message = pack({'x': np.zeros(1000, np.uint8)})
    assert unpack(message, len(message))['x'].size == 1000
    with pytest.raises(ProtocolError, match=f'{len(message)} bytes; at most 1000'):
        unpack(message, 1000)


@pytest.mark.parametrize('message', ['text', msgpack.packb([1]), msgpack.packb({b'a': 1})])
def test_a_request_is_a_map_with_texts_as_keys(message):
    with pytest.raises(ProtocolError):
        read_map(message)
