"""Cameras whose stamps go on while their picture does not."""

from __future__ import annotations

import numpy as np

from vera_core.stillness import FreezeWatch, StillWatch

MS = 1_000_000


def picture(level):
    return np.full((8, 8, 3), level, np.uint8)


def test_the_same_picture_is_timed_by_its_stamps():
    watch = StillWatch()
    assert not watch.seen
    assert [watch.add(picture(1), k * MS) for k in range(4)] == [0, MS, 2 * MS, 3 * MS]
    almost = picture(1)
    almost[7, 7, 2] = 2  # one grey level of one pixel: a sensor's noise
    assert watch.add(almost, 200 * MS) == 0
    assert watch.add(almost.copy(), 250 * MS) == 50 * MS
    assert watch.add(almost, 0) == 0  # the clock was set back


def test_only_a_camera_that_misses_changes_is_frozen():
    watch = FreezeWatch(('a', 'b', 'c'))
    for k in range(100):
        for name in 'abc':
            watch.add(name, picture(0), k * 50 * MS)
    assert watch.frozen(0) is None  # at rest
    for k in range(100, 141):
        watch.add('a', picture(k), k * 50 * MS)
        watch.add('b', picture(0), k * 50 * MS)
        watch.add('c', picture(k), k * 50 * MS)
    assert watch.frozen(1990 * MS) == 'b'
    assert watch.frozen(2000 * MS) is None  # it missed changes for 2 s, and not for more
    watch.add('b', picture(9), 141 * 50 * MS)
    assert watch.frozen(100 * MS) is None


def test_a_clock_set_back_begins_anew():
    watch = FreezeWatch(('a', 'b'))
    for start in (1000, 0):
        for k in range(start, start + 30):
            watch.add('a', picture(k % 200), k * 50 * MS)
            watch.add('b', picture(0), k * 50 * MS)
        assert watch.frozen(1500 * MS) is None
    assert watch.frozen(1300 * MS) == 'b'


def test_a_rest_between_two_motions_freezes_nobody():
    """The last change before a rest and the first after it come to one camera before another."""
    watch = FreezeWatch(('a', 'b'))
    for name in 'ba':
        watch.add(name, picture(0), 0)
    watch.add('b', picture(1), 50 * MS)
    watch.add('a', picture(1), 50 * MS)  # b has not shown this one yet, and never will
    for k in range(2, 200):
        for name in 'ab':
            watch.add(name, picture(1), k * 50 * MS)
    watch.add('a', picture(2), 200 * 50 * MS)
    assert watch.frozen(3000 * MS) is None
