import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.frames import FrameBuffer

PERIOD = 200
TOLERANCE = 50


def grey(value, size=4):
    return np.full((size, size, 3), value, np.uint8)


def filled(stamps, **options):
    buffer = FrameBuffer(PERIOD, **options)
    for stamp in stamps:
        buffer.push(stamp, grey(stamp % 251))
    return buffer


def test_the_context_is_one_period_apart_oldest_first():
    stamps, images = filled(range(0, 1001, 50)).context(4)
    assert stamps == (400, 600, 800, 1000)
    assert images.shape == (4, 4, 4, 3) and images.dtype == np.uint8
    assert [int(image[0, 0, 0]) for image in images] == [s % 251 for s in stamps]


def test_the_nearest_frame_within_a_quarter_of_the_period_counts():
    assert filled([549, 551, 800, 1000]).context(3)[0] == (551, 800, 1000)
    assert filled([550, 800, 1000]).context(3)[0] == (550, 800, 1000)
    assert filled([549, 800, 1000]).context(3)[0] == (800, 1000)
    assert filled([650, 800, 1000]).context(3)[0] == (650, 800, 1000)
    assert filled([651, 800, 1000]).context(3)[0] == (800, 1000)


def test_it_stops_at_the_first_gap_and_never_pads():
    stamps, images = filled([0, 200, 400, 1000, 1200]).context(4)
    assert stamps == (1000, 1200)
    assert len(images) == 2


def test_a_single_frame_is_a_context():
    assert filled([7]).context(4)[0] == (7,)


def test_no_frame_is_none():
    with pytest.raises(LookupError, match='no frame has arrived yet'):
        FrameBuffer(PERIOD).context(1)
    assert FrameBuffer(PERIOD).newest is None
    assert FrameBuffer(PERIOD).nearest(0) is None


def test_it_forgets_what_it_saw_when_time_goes_back():
    buffer = filled([0, 200, 400])
    assert buffer.push(100, grey(9))
    assert len(buffer) == 1
    assert buffer.context(4)[0] == (100,)


def test_a_new_episode_may_bring_another_size():
    buffer = filled([0, 200, 400])
    buffer.push(100, grey(1, size=6))
    assert buffer.newest is not None and buffer.newest.image.shape == (6, 6, 3)


def test_the_same_stamp_twice_is_left_out():
    buffer = filled([100])
    assert not buffer.push(100, grey(9))
    assert len(buffer) == 1 and buffer.newest is not None
    assert buffer.newest.image[0, 0, 0] == 100


def test_it_keeps_no_more_than_it_was_told():
    buffer = filled(range(0, 2000, 50), maxlen=10)
    assert len(buffer) == 10
    assert buffer.context(4)[0] == (1550, 1750, 1950)


def test_nearest():
    buffer = filled([0, 100, 200])
    for asked, found in ((0, 0), (-50, 0), (49, 0), (51, 100), (249, 200)):
        frame = buffer.nearest(asked)
        assert frame is not None and frame.stamp == found
    assert buffer.nearest(251) is None and buffer.nearest(-51) is None


@pytest.mark.parametrize(
    'image', [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
)
def test_frames_of_another_kind_are_refused(image):
    with pytest.raises(ValueError, match='a frame is uint8'):
        FrameBuffer(PERIOD).push(0, image)


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match='frame is 5x5, the ones before it 4x4'):
        filled([0]).push(1, grey(0, size=5))


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ((0,), 'period'),
        ((-1,), 'period'),
        ((100, 51), 'tolerance'),
        ((100, -1), 'tolerance'),
        ((100, 10, 0), 'maxlen'),
    ],
)
def test_bad_settings_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        FrameBuffer(*arguments)


def test_a_context_of_nothing_is_refused():
    with pytest.raises(ValueError, match='at least 1 frame, not 0'):
        filled([0]).context(0)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60), st.integers(1, 6))
def test_whatever_arrives_the_context_is_what_a_slow_search_finds(stamps, n):
    buffer = FrameBuffer(PERIOD, maxlen=30)
    kept = []
    for stamp in stamps:
        buffer.push(stamp, grey(0))
        if kept and stamp < kept[-1]:
            kept = []
        if not kept or stamp > kept[-1]:
            kept = [*kept, stamp][-30:]
    expected = []
    for k in range(n):
        place = kept[-1] - k * PERIOD
        best = min(abs(stamp - place) for stamp in kept)
        if best > TOLERANCE:
            break
        # of two equally near ones the newer
        expected.insert(0, max(s for s in kept if abs(s - place) == best))
    assert list(buffer.context(n)[0]) == expected
