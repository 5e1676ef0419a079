"""Episode files: what is written comes back, other people's readers read it, damage is named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jidm_toys import FIELDS, transitions
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vera_jidm import episodes_cdr as cdr
from vera_jidm.episodes import (
    DatasetError,
    Transitions,
    default_stamps,
    read_info,
    read_shard,
    write_bag,
    write_shard,
)

META = {'contract': FIELDS, 'joints': ['a', 'b', 'c'], 'seed': 3, 'licence': 'Apache-2.0'}
ARRAYS = ('before', 'after', 'actions', 'flow', 'flow_back', 'positions', 'stamps')


def full(count, seed=0):
    """Transitions with everything, half of them a walk of one episode."""
    data = transitions(count, seed)
    stamps = default_stamps(count)
    walk = count // 2
    data.before[1:walk] = data.after[: walk - 1]
    stamps[:walk] = 10**8 + np.arange(walk)[:, None] * 10**7 + [0, 10**7]
    positions = np.random.default_rng(seed).normal(size=(count, 2, 3))
    positions[1:walk, 0] = positions[: walk - 1, 1]
    return dataclasses.replace(data, positions=positions, stamps=stamps)


def test_a_file_comes_back_as_it_was(tmp_path):
    data = full(8)
    info = write_shard(tmp_path / 'a.mcap', data, META)
    found, meta = read_shard(tmp_path / 'a.mcap')
    assert meta == META
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(data, name))
    assert (info.count, info.canvas, info.channels, info.analytic) == (8, (32, 32), 2, True)
    # Frames that two transitions share are stored once: 4 of the walk's 8 are.
    assert info.messages['/vera/canvas'] == info.messages['/vera/joint_states'] == 16 - 3
    assert [p.name for p in tmp_path.iterdir()] == ['a.mcap']


def test_flow_positions_and_stamps_are_optional(tmp_path):
    data = transitions(5)
    plain = Transitions(data.before, data.after, data.actions)
    write_shard(tmp_path / 'a.mcap', plain, {'contract': FIELDS})
    found, _ = read_shard(tmp_path / 'a.mcap')
    assert found.flow is found.flow_back is found.positions is None
    np.testing.assert_array_equal(found.stamps, default_stamps(5))
    np.testing.assert_array_equal(found.actions, data.actions)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda d: {'actions': d.actions[:-1]}, 'do not belong together'),
        (lambda d: {'actions': d.actions * np.nan}, 'not a finite number'),
        (lambda d: {'actions': d.actions[:, :1]}, 'the contract has 2'),
        (lambda d: {'before': d.before.astype(np.float32)}, 'uint8'),
        (lambda d: {'after': d.after[:, :-1]}, 'do not belong together'),
        (lambda d: {'before': d.before[:, :8], 'after': d.after[:, :8], 'flow': None,
                    'flow_back': None}, 'the contract says'),
        (lambda d: {'flow': d.flow[:, :-1]}, 'flow is'),
        (lambda d: {'flow': d.flow * np.nan}, 'flow is not a finite'),
        (lambda d: {'positions': d.positions[:, :, :2]}, 'names 3 joints'),
        (lambda d: {'positions': d.positions[:, 0]}, 'positions are'),
        (lambda d: {'stamps': d.stamps[:, ::-1]}, 'stamps are'),
        (lambda d: {'before': d.before[::-1]}, 'two frames of one stamp differ'),
    ],
)  # fmt: skip
def test_refuses_to_write_nonsense(tmp_path, change, words):
    data = full(8)
    spoiled = dataclasses.replace(data, **change(data))
    with pytest.raises(DatasetError, match=words):
        write_shard(tmp_path / 'a.mcap', spoiled, META)
    assert not list(tmp_path.iterdir())


def test_meta_and_name_are_checked(tmp_path):
    with pytest.raises(DatasetError, match='must hold the contract'):
        write_shard(tmp_path / 'a.mcap', transitions(2), {})
    with pytest.raises(DatasetError, match='plain data only'):
        write_shard(tmp_path / 'a.mcap', transitions(2), {**META, 'x': Path()})
    with pytest.raises(DatasetError, match=r'<name>\.mcap'):
        write_shard(tmp_path / 'a.npz', transitions(2), META)


def test_every_kind_of_damage_names_the_file(tmp_path):
    path = tmp_path / 'a.mcap'
    write_shard(path, full(4), META)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    harmless = 0
    for at in rng.integers(0, len(whole), 40):
        spoiled = bytearray(whole)
        spoiled[at] ^= 0x55
        path.write_bytes(spoiled)
        try:
            found, _ = read_shard(path)
            np.testing.assert_array_equal(found.actions, full(4).actions)
            harmless += 1  # e.g. in an index that is not needed
        except DatasetError as error:
            assert 'a.mcap' in str(error)
    assert harmless < 20
    for size in (0, 7, 500, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        with pytest.raises(DatasetError, match=r'a\.mcap'):
            read_shard(path)
    with pytest.raises(DatasetError, match='cannot be read'):
        read_info(tmp_path / 'none.mcap')


def test_rosbags_reads_a_folder_of_files_as_one_bag(tmp_path):
    first, second = full(6), full(4, seed=1)
    stamps = second.stamps + 10**13
    infos = [
        write_shard(tmp_path / 'shard_00000.mcap', first, META),
        write_shard(
            tmp_path / 'shard_00001.mcap', dataclasses.replace(second, stamps=stamps), META
        ),
    ]
    write_bag(tmp_path, infos)
    with AnyReader([tmp_path]) as bag:
        counts = {c.topic: c.msgcount for c in bag.connections}
        assert counts['/vera/action'] == 10
        actions, frames, joints, flows = [], {}, {}, {}
        for connection, stamp, raw in bag.messages():
            message = bag.deserialize(raw, connection.msgtype)
            at = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert at == stamp
            if connection.topic == '/vera/canvas':
                assert message.encoding == 'rgb8' and message.header.frame_id == 'canvas'
                frames[at] = message.data.reshape(message.height, message.width, 3)
            elif connection.topic == '/vera/joint_states':
                assert message.name == ['a', 'b', 'c']
                joints[at] = message.position
            elif connection.topic == '/vera/flow/forward':
                flows[at] = message.data.view('<f4').reshape(message.height, message.width, 2)
            elif connection.topic == '/vera/action':
                assert message.channels == ['x', 'y'] and message.steps == 1
                actions.append((at, at + round(message.period * 1e9), message.values))
    data = Transitions(*(
        np.concatenate([getattr(first, n), getattr(second, n)]) for n in ARRAYS[:6]
    ))
    order = np.concatenate([first.stamps, stamps])
    place = {tuple(pair): i for i, pair in enumerate(order.tolist())}
    assert len(actions) == len(place)
    for begin, end, values in actions:
        i = place[begin, end]
        np.testing.assert_array_equal(values.astype(np.float32), data.actions[i])
        np.testing.assert_array_equal(frames[begin], data.before[i])
        np.testing.assert_array_equal(frames[end], data.after[i])
        np.testing.assert_array_equal(joints[end], data.positions[i, 1])
        np.testing.assert_array_equal(flows[begin], data.flow[i].astype(np.float32))


def test_mcap_ros2_decodes_it_from_the_embedded_definitions_alone(tmp_path):
    write_shard(tmp_path / 'a.mcap', full(4), META)
    with (tmp_path / 'a.mcap').open('rb') as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        actions = [m for _, c, _, m in reader.iter_decoded_messages('/vera/action')]
    np.testing.assert_array_equal([a.values for a in actions], full(4).actions)


def test_embedded_definitions_are_those_of_ros():
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in (cdr.IMAGE, cdr.JOINT_STATE):
        top, *_ = cdr.DEFINITIONS[name].split('=' * 80)
        assert get_types_from_msg(top, name)[name][1] == store.fielddefs[name][1]
    ours = Path(__file__).parents[2] / 'vera_msgs' / 'msg' / 'ActionChunk.msg'
    if not ours.is_file():
        pytest.skip('not in the source tree')
    top, *_ = cdr.DEFINITIONS[cdr.ACTION_CHUNK].split('=' * 80)
    found = get_types_from_msg(ours.read_text(), cdr.ACTION_CHUNK)[cdr.ACTION_CHUNK]
    assert get_types_from_msg(top, cdr.ACTION_CHUNK)[cdr.ACTION_CHUNK][1] == found[1]


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.text(min_size=0, max_size=9), max_size=5),
    stamp=st.integers(0, 2**31 * 10**9 - 1),
    frame=st.text(max_size=9),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_bytes_are_those_of_another_writer(names, stamp, frame, size):
    """Against rosbags' serialiser: alignment differs with every length of a string."""
    names = [n.replace('\0', '') for n in names]
    frame = frame.replace('\0', '')
    store = get_typestore(Stores.ROS2_JAZZY)
    kinds = store.types
    time = kinds['builtin_interfaces/msg/Time'](sec=stamp // 10**9, nanosec=stamp % 10**9)
    positions = np.arange(len(names), dtype=np.float64) + 0.5
    empty = np.zeros(0)
    state = kinds[cdr.JOINT_STATE](
        header=kinds['std_msgs/msg/Header'](stamp=time, frame_id=''), name=names,
        position=positions, velocity=empty, effort=empty,
    )
    ours = cdr.encode_joints(names, positions, stamp)
    assert ours.ljust(len(ours) + 3, b'\0')[:4] == b'\x00\x01\x00\x00'
    theirs = bytes(store.serialize_cdr(state, cdr.JOINT_STATE))
    assert ours == theirs
    found = cdr.decode_joints(theirs)
    assert (found.stamp, list(found.names)) == (stamp, names)
    np.testing.assert_array_equal(found.positions, positions)

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    image = kinds[cdr.IMAGE](
        header=kinds['std_msgs/msg/Header'](stamp=time, frame_id=frame), height=size[0],
        width=size[1], encoding='rgb8', is_bigendian=0, step=3 * size[1], data=pixels.ravel(),
    )
    theirs = bytes(store.serialize_cdr(image, cdr.IMAGE))
    assert cdr.encode_image(pixels, 'rgb8', stamp, frame) == theirs
    at, back = cdr.decode_image(theirs)
    assert at == stamp
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize('size', [0, 3, 4, 20, 60])
def test_messages_that_end_too_early_are_refused(size):
    message = cdr.encode_image(np.zeros((4, 4, 3), np.uint8), 'rgb8', 1)
    with pytest.raises(cdr.CdrError):
        cdr.decode_image(message[:size])
