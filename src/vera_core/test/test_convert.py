"""Messages and pure types say the same, and what does not add up is refused."""

import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip('vera_msgs')

from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from vera_core.chunk import ActionChunk, ChunkError
from vera_core.image_codec import ImageError
from vera_core.nodes import qos
from vera_core.nodes.convert import (
    StateError,
    canvas_to_image_msg,
    chunk_from_msg,
    chunk_to_msg,
    frames_from_msgs,
    frames_to_msgs,
    image_from_msg,
    image_to_msg,
    joints_from_msg,
    joints_to_msg,
    stamp_from_msg,
    stamp_to_msg,
)
from vera_msgs.msg import ActionChunk as ActionChunkMsg

finite = st.floats(-1e6, 1e6)


def over_the_wire(msg):
    return deserialize_message(serialize_message(msg), type(msg))


@st.composite
def chunks(draw):
    n, k = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    return ActionChunk(
        stamp=draw(st.integers(0, 2**31 * 10**9 - 1)),
        goal_id=draw(st.integers(0, 2**32 - 1)),
        plan_seq=draw(st.integers(0, 2**32 - 1)),
        channels=tuple(f'joint_{i}' for i in range(n)),
        period=draw(st.floats(1e-3, 10)),
        values=draw(arrays(np.float64, (k, n), elements=finite)),
        residual=draw(arrays(np.float32, k, elements=st.floats(0, 1, width=32))),
        observability=draw(arrays(np.float32, n, elements=st.floats(0, 1, width=32))),
        translator_id='jacobian',
        model_hash='0123456789abcdef',
        latency=draw(st.floats(0, 10)),
    )


@given(chunks())
def test_a_chunk_survives_the_wire_bit_for_bit(chunk):
    again = chunk_from_msg(over_the_wire(chunk_to_msg(chunk)))
    for name in ActionChunk.__dataclass_fields__:
        ours, theirs = getattr(chunk, name), getattr(again, name)
        if isinstance(ours, np.ndarray):
            assert theirs.dtype == ours.dtype
            np.testing.assert_array_equal(theirs, ours)
        else:
            assert theirs == ours


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'steps': 3}, '4 values for 3 steps of 2 channels'),
        ({'steps': 0, 'values': []}, 'expected'),
        ({'channels': ['a']}, '4 values for 2 steps of 1 channels'),
        ({'channels': []}, '4 values for 2 steps of 0 channels'),
        ({'residual': [0.0]}, 'residual has shape'),
        ({'observability': [1.0]}, 'observability has shape'),
        ({'values': [0.0, 1.0, float('nan'), 0.0]}, "action 1 of channel 'a' is not a finite"),
        ({'period': 0.0}, 'period'),
    ],
)
def test_a_chunk_that_does_not_add_up_is_refused(change, words):
    msg = ActionChunkMsg(
        channels=['a', 'b'], period=0.2, steps=2, values=[0.0] * 4, residual=[0.0] * 2,
        observability=[1.0] * 2,
    )  # fmt: skip
    chunk_from_msg(msg)
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(ChunkError, match=words):
        chunk_from_msg(msg)


def test_stamps_come_from_times_headers_and_messages():
    stamp = stamp_to_msg(5_000_000_007)
    assert (stamp.sec, stamp.nanosec) == (5, 7)
    header = Header(stamp=stamp)
    for msg in (stamp, header, Image(header=header)):
        assert stamp_from_msg(msg) == 5_000_000_007


def test_a_canvas_survives_the_wire():
    canvas = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    msg = over_the_wire(canvas_to_image_msg(canvas, 5))
    assert msg.header.frame_id == 'canvas' and stamp_from_msg(msg) == 5
    np.testing.assert_array_equal(image_from_msg(msg), canvas)
    assert image_to_msg(canvas, 5, 'cam', 'bgr8').encoding == 'bgr8'


def test_the_frames_of_a_plan_carry_the_times_they_imagine():
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    msgs = frames_to_msgs(frames, 1_000_000_000, 0.2)
    assert [stamp_from_msg(msg) for msg in msgs] == [1_200_000_000, 1_400_000_000, 1_600_000_000]
    np.testing.assert_array_equal(frames_from_msgs(msgs), frames)
    with pytest.raises(ImageError):
        frames_from_msgs([Image()])


def test_joints_are_matched_by_name_whatever_their_order():
    msg = joints_to_msg(('a', 'b'), np.array([1.0, 2.0]), 7, np.array([3.0, 4.0]))
    assert isinstance(msg.position, array.array)
    state = joints_from_msg(over_the_wire(msg), ('b', 'a'))
    assert state.stamp == 7
    np.testing.assert_array_equal(state.positions, [2, 1])
    np.testing.assert_array_equal(state.velocities, [4, 3])
    np.testing.assert_array_equal(joints_from_msg(msg, ('a',)).positions, [1])


def test_velocities_that_are_left_out_are_zero():
    state = joints_from_msg(joints_to_msg(('a', 'b'), np.array([1.0, 2.0]), 0), ('a', 'b'))
    np.testing.assert_array_equal(state.velocities, [0, 0])


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'name': ['a'], 'position': [1.0]}, 'lacks joint b; it has a'),
        ({}, 'lacks joint a, b; it has none'),
        ({'name': ['a', 'b', 'a'], 'position': [1.0] * 3}, 'named twice'),
        ({'name': ['a', 'b'], 'position': [1.0]}, '1 values of position for 2 joints'),
        ({'name': ['a', 'b']}, '0 values of position for 2 joints'),
        (
            {'name': ['a', 'b'], 'position': [1.0, 2.0], 'velocity': [1.0]},
            '1 values of velocity for 2 joints',
        ),
        ({'name': ['a', 'b'], 'position': [1.0, float('nan')]}, 'position of b is not a finite'),
        (
            {'name': ['a', 'b'], 'position': [1.0, 2.0], 'velocity': [float('inf'), 0.0]},
            'velocity of a is not a finite',
        ),
    ],
)
def test_joint_states_that_do_not_add_up_are_refused(fields, words):
    with pytest.raises(StateError, match=words):
        joints_from_msg(JointState(**fields), ('a', 'b'))


def test_each_profile_is_what_its_purpose_needs():
    reliable = ('IMAGE_RELIABLE', 'STATE_RELIABLE', 'PLAN', 'CHUNK', 'COMMAND', 'LATCHED')
    for name in ('IMAGE', 'STATE', *reliable):
        policy = ReliabilityPolicy.RELIABLE if name in reliable else ReliabilityPolicy.BEST_EFFORT
        assert getattr(qos, name).reliability == policy, name
    assert qos.LATCHED.durability == DurabilityPolicy.TRANSIENT_LOCAL
    # A late joiner must never be handed an old plan, chunk or set-point.
    for profile in (qos.IMAGE, qos.STATE, qos.PLAN, qos.CHUNK, qos.COMMAND):
        assert profile.durability == DurabilityPolicy.VOLATILE
    assert qos.CHUNK.lifespan.nanoseconds == 2 * 10**9
    assert qos.COMMAND.depth == qos.CHUNK.depth == qos.LATCHED.depth == 1
