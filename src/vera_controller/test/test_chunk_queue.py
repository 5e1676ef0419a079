import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vera_controller.chunk_queue import ChunkQueue, ChunkRefusedError, UnsupportedChannelError
from vera_core.contract import Channel, load_contract
from vera_core.state_history import StateHistory

MS = 1_000_000
T0 = 1_795_000_000_000_000_000
HOLD = np.array([9.0, 9.0, 9.0])


def history_at(*positions, n=400, step=10 * MS):
    """The robot standing still at `positions` for `n` states from T0 on."""
    history = StateHistory()
    for i in range(n):
        history.add(T0 + i * step, np.array(positions or (0.1, 0.2, 0.3)))
    return history


STILL = history_at()
CONTRACT = load_contract('finger')


@pytest.fixture
def queue(contract):
    queue = ChunkQueue(contract, STILL)
    queue.expect(1)
    return queue


def at(queue, ms):
    return queue.sample(T0 + round(ms * MS), HOLD)


def test_deltas_add_up_from_the_measured_position_at_the_anchor(queue, make_chunk):
    rows = [[0.1, 0.0, -0.1], [0.2, 0.0, -0.1], [0.0, 0.1, 0.0], [-0.1, 0.1, 0.0]]
    queue.offer(make_chunk(T0, rows), T0)
    base = np.array([0.1, 0.2, 0.3])

    def moved(*way):
        return base + np.array(way)

    np.testing.assert_allclose(at(queue, 0), base)
    np.testing.assert_allclose(at(queue, 100), moved(0.05, 0, -0.05))
    np.testing.assert_allclose(at(queue, 200), moved(0.1, 0, -0.1))
    np.testing.assert_allclose(at(queue, 300), moved(0.2, 0, -0.15))
    np.testing.assert_allclose(at(queue, 800), moved(0.2, 0.2, -0.2))


def test_the_base_is_where_the_robot_was_then_and_not_where_it_is_now(contract, make_chunk):
    history = StateHistory()
    for i in range(100):
        history.add(T0 + i * 10 * MS, np.full(3, 0.001 * i))
    queue = ChunkQueue(contract, history, fade=0)
    queue.expect(1)
    queue.offer(make_chunk(T0 + 305 * MS, 0.0), T0 + 700 * MS)
    np.testing.assert_allclose(at(queue, 800), np.full(3, 0.0305))


def test_it_covers_the_time_after_the_anchor_up_to_and_including_the_end(queue, make_chunk):
    queue.offer(make_chunk(T0), T0)
    assert at(queue, 800) is not None
    assert queue.sample(T0 + 800 * MS + 1, HOLD) is None
    assert queue.remaining(T0 + 300 * MS) == pytest.approx(0.5)
    assert queue.remaining(T0 + 900 * MS) == 0


def test_lock_step_ticks_per_chunk_are_exact(queue, make_chunk, contract):
    queue.offer(make_chunk(T0), T0)
    dt = contract.control.period_ns
    ticks = [i for i in range(200) if queue.sample(T0 + i * dt + dt, HOLD) is not None]
    assert ticks == list(range(80))


@settings(max_examples=50)
@given(late=st.integers(0, 799_999_999))
def test_whole_actions_that_have_passed_are_discarded(late):
    contract = CONTRACT
    queue = ChunkQueue(contract, STILL)
    queue.expect(1)
    values = np.arange(12).reshape(4, 3) * 0.01
    splice = queue.offer(chunk_of(contract, values), T0 + late)
    assert splice.discarded == late // (200 * MS)
    # What comes after is as if it had come in time.
    step, rest = divmod(late, 200 * MS)
    done = values[:step].sum(0) + values[step] * rest / (200 * MS)
    np.testing.assert_allclose(
        queue.sample(T0 + late, HOLD), np.array([0.1, 0.2, 0.3]) + done, atol=1e-12
    )


def chunk_of(contract, values, stamp=T0, seq=1):
    from vera_core.chunk import ActionChunk

    k, n = values.shape
    return ActionChunk(
        stamp, 1, seq, contract.channel_names, 0.2, values, np.zeros(k, np.float32),
        np.ones(n, np.float32),
    )  # fmt: skip


def test_a_splice_fades_from_the_old_chunk_to_the_new(queue, make_chunk):
    queue.offer(make_chunk(T0, [0.03, 0, 0]), T0)
    before = at(queue, 400)
    queue.offer(make_chunk(T0 + 300 * MS, [-0.03, 0, 0], seq=2), T0 + 400 * MS)
    np.testing.assert_allclose(at(queue, 400), before, atol=1e-12)
    old, new = 0.1 + 0.0675, 0.1 - 0.0225
    np.testing.assert_allclose(at(queue, 450)[0], (old + new) / 2, atol=1e-12)
    np.testing.assert_allclose(at(queue, 500)[0], 0.1 - 0.03, atol=1e-12)
    np.testing.assert_allclose(at(queue, 600)[0], 0.1 - 0.045, atol=1e-12)


def test_chunks_far_apart_fade_for_longer(queue, make_chunk):
    queue.offer(make_chunk(T0, [0.2, 0, 0]), T0)
    queue.offer(make_chunk(T0 + 300 * MS, [-0.2, 0, 0], seq=2), T0 + 400 * MS)
    # 0.5 rad apart: half a second at half of 2 rad/s.
    path = [at(queue, 400 + 10 * i)[0] for i in range(50)]
    old, new = 0.1 + 0.65, 0.1 - 0.35
    np.testing.assert_allclose(path[25], (old + new) / 2, atol=1e-9)


@given(
    waits=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=50)
def test_no_splice_makes_the_target_jump(waits, seed):
    """However chunks come, also in the middle of a fade, the target goes on from where it is."""
    rng = np.random.default_rng(seed)
    queue = ChunkQueue(CONTRACT, STILL)
    queue.expect(1)
    now = 0
    for seq, wait in enumerate([0, *waits], 1):
        now += wait
        before, anchor = at(queue, now), T0 + max(0, now - 50) * MS
        queue.offer(chunk_of(CONTRACT, rng.uniform(-0.4, 0.4, (4, 3)), anchor, seq), T0 + now * MS)
        if before is not None:
            np.testing.assert_allclose(at(queue, now), before, atol=1e-9)
            # 2 rad/s of each chunk, and two paths at most 3.2 rad apart, faded over 0.1 s.
            assert np.abs(at(queue, now + 1) - before).max() <= 2e-3 + 3.2 / 100


def test_after_an_underrun_there_is_nothing_to_fade_from(queue, make_chunk):
    queue.offer(make_chunk(T0, [0.2, 0, 0]), T0)
    queue.offer(make_chunk(T0 + 1000 * MS, [0.1, 0, 0], seq=2), T0 + 1100 * MS)
    np.testing.assert_allclose(at(queue, 1110)[0], 0.1 + 0.055)


def test_back_to_back_chunks_join_in_lock_step(queue, make_chunk):
    """The next chunk is anchored where the last one ends: its end fades out, nothing jumps."""
    queue.offer(make_chunk(T0, [0.02, 0, 0]), T0)
    end = at(queue, 800)
    queue.offer(make_chunk(T0 + 800 * MS, [0.0, 0, 0], seq=2), T0 + 800 * MS)
    np.testing.assert_allclose(at(queue, 800), end)
    np.testing.assert_allclose(at(queue, 850)[0], (end[0] + 0.1) / 2)


def test_a_late_first_chunk_is_caught_up_with_gently(queue, make_chunk):
    hold = np.array([0.1, 0.2, 0.3])
    queue.offer(make_chunk(T0, [0.25, 0, 0]), T0 + 500 * MS, hold)
    np.testing.assert_allclose(at(queue, 500), hold)
    # 0.625 rad behind, at 1 rad/s (half of the limit) on top of what the chunk moves.
    np.testing.assert_allclose(at(queue, 700)[0], 0.1 + 0.875 * 0.2 / 0.625, atol=1e-9)
    np.testing.assert_allclose(at(queue, 800)[0], 0.1 + 1.0 * 0.3 / 0.625, atol=1e-9)


def test_channels_are_matched_by_name(contract, make_chunk):
    first, second = (ChunkQueue(contract, STILL) for _ in range(2))
    names = contract.channel_names
    row = np.array([0.1, 0.2, 0.3])
    for queue, order in ((first, [0, 1, 2]), (second, [2, 0, 1])):
        queue.expect(1)
        queue.offer(make_chunk(T0, row[order], channels=[names[i] for i in order]), T0)
    assert np.array_equal(at(first, 300), at(second, 300))


def test_the_contract_may_order_channels_and_joints_differently(contract, make_chunk):
    shuffled = dataclasses.replace(contract, channels=contract.channels[::-1])
    queue = ChunkQueue(shuffled, history_at())
    queue.expect(1)
    queue.offer(make_chunk(T0, [0.1, 0.2, 0.3]), T0)
    np.testing.assert_allclose(at(queue, 200), [0.2, 0.4, 0.6])


def test_targets_are_taken_as_they_are_and_other_joints_hold(contract, make_chunk):
    target = Channel(name='turn', joint='joint_2', kind='joint_target', unit='rad')
    delta = contract.channels[0]
    mixed = dataclasses.replace(contract, channels=(target, delta))
    queue = ChunkQueue(mixed, history_at())
    queue.expect(1)
    rows = [[0.3, 0.1], [0.5, 0.1]]
    queue.offer(make_chunk(T0, rows, steps=2, channels=['turn', 'joint_1']), T0)
    np.testing.assert_allclose(at(queue, 100), [0.15, 0.25, 9.0])
    np.testing.assert_allclose(at(queue, 200), [0.2, 0.3, 9.0])
    np.testing.assert_allclose(at(queue, 300), [0.25, 0.4, 9.0])


REFUSED = {
    'other goal': ({'goal': 2}, 'plan 5 serves goal 2, but goal 1 is active'),
    'same plan': ({'seq': 4}, 'plan 4 is not newer than plan 4'),
    'older plan': ({'seq': 3}, 'plan 3 is not newer than plan 4'),
    'stale': ({'stamp': T0 + 100 * MS}, r'plan 5 is stale: its anchor frame is 0\.100 s older'),
    'unknown': ({'channels': ('joint_1', 'joint_2', 'elbow')}, 'unknown channel elbow; finger has'),
    'missing': ({'channels': ('joint_1', 'joint_3')}, 'channel joint_2 is missing'),
    'twice': ({'channels': ('joint_1', 'joint_1', 'joint_2')}, 'named twice'),
    'too fast': (
        {'values': [0, 0.6, 0]},
        r'action 0 of plan 5 moves joint_2 by 0\.6 rad in 0\.2 s; at most 0\.5 is plausible',
    ),
    'no period': ({'period': 1e-12}, 'less than one set-point'),
    'before all states': ({'stamp': T0 - 30 * MS, 'steps': 9, 'fresh': True}, 'older than the old'),
    'ahead of states': ({'stamp': T0 + 6000 * MS}, 'newer than the newest joint state'),
}


def test_a_part_of_a_frame_before_the_chunk_that_waited_is_taken(contract, make_chunk):
    """Servo: part 1 waited for the robot and began 100 ms after its frame; part 2 is 50 ms on."""
    queue = ChunkQueue(contract, STILL)
    queue.expect(1)
    first = dataclasses.replace(make_chunk(T0 + 300 * MS, 0.01, seq=4), part=1)
    queue.offer(first, T0 + 300 * MS)
    second = dataclasses.replace(make_chunk(T0 + 250 * MS, 0.02, seq=4), part=2)
    queue.offer(second, T0 + 350 * MS)
    assert queue.stamp == T0 + 250 * MS
    with pytest.raises(ChunkRefusedError, match='part 1 of plan 4 is not newer than part 2'):
        queue.offer(first, T0 + 360 * MS)


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_refused_is_said_in_words_and_the_old_chunk_goes_on(contract, make_chunk, case):
    change, words = REFUSED[case]
    change = dict(change)
    queue = ChunkQueue(contract, STILL)
    queue.expect(1)
    fresh = change.pop('fresh', False)
    if not fresh:
        queue.offer(make_chunk(T0 + 200 * MS, 0.01, seq=4), T0 + 400 * MS)
    before = at(queue, 500)
    with pytest.raises(ChunkRefusedError, match=words):
        queue.offer(make_chunk(**{'stamp': T0 + 300 * MS, 'seq': 5, **change}), T0 + 450 * MS)
    if not fresh:
        assert np.array_equal(at(queue, 500), before)
        assert queue.plan_seq == 4


def test_an_expired_chunk_is_refused(queue, make_chunk):
    with pytest.raises(ChunkRefusedError, match=r'expired: its last action ended 0\.200 s ago'):
        queue.offer(make_chunk(T0), T0 + 1000 * MS)
    with pytest.raises(ChunkRefusedError, match='expired'):
        queue.offer(make_chunk(T0), T0 + 800 * MS)
    queue.offer(make_chunk(T0), T0 + 799 * MS)


def test_without_a_goal_nothing_is_taken(contract, make_chunk):
    queue = ChunkQueue(contract, STILL)
    with pytest.raises(ChunkRefusedError, match='no goal is active'):
        queue.offer(make_chunk(T0), T0)


def test_a_new_goal_drops_the_old_chunk_and_may_count_its_plans_anew(queue, make_chunk):
    queue.offer(make_chunk(T0, seq=70), T0)
    queue.expect(2)
    assert at(queue, 100) is None
    assert queue.plan_seq == 0 and queue.stamp is None
    queue.offer(make_chunk(T0, seq=1, goal=2), T0)
    with pytest.raises(ChunkRefusedError, match='goal 2 is active'):
        queue.offer(make_chunk(T0, seq=71, goal=1), T0)


def test_a_cleared_chunk_is_not_replayed(queue, make_chunk):
    chunk = make_chunk(T0)
    queue.offer(chunk, T0)
    queue.clear()
    with pytest.raises(ChunkRefusedError, match='not newer'):
        queue.offer(chunk, T0)


@pytest.mark.parametrize(
    ('channel', 'words'),
    [
        (Channel(name='grip', kind='gripper', unit='ratio'), "channel 'grip' names no joint"),
        (
            Channel(name='x', kind='cartesian_delta', unit='m'),
            "channel 'x' has no axis; add it to kinematics.axes",
        ),
    ],
)
def test_a_contract_it_cannot_execute_is_refused_by_channel(contract, channel, words):
    with pytest.raises(UnsupportedChannelError, match=words):
        ChunkQueue(
            dataclasses.replace(contract, channels=(*contract.channels, channel)), StateHistory()
        )


def test_parts_of_one_plan_follow_each_other_and_none_comes_twice(queue, make_chunk):
    first = dataclasses.replace(make_chunk(T0, seq=2), part=1, observed=T0 - 700 * MS)
    second = dataclasses.replace(make_chunk(T0 + 100 * MS, -0.05, seq=2), part=2)
    queue.offer(first, T0)
    assert queue.seen == T0 - 700 * MS
    queue.offer(second, T0 + 100 * MS)
    assert queue.stamp == queue.seen == T0 + 100 * MS
    with pytest.raises(ChunkRefusedError, match='part 1 of plan 2 is not newer than part 2 of'):
        queue.offer(first, T0 + 150 * MS)
    queue.offer(make_chunk(T0 + 200 * MS, seq=3), T0 + 200 * MS)
    assert queue.plan_seq == 3
