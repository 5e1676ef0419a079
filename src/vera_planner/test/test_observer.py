"""Frames of several cameras, silence, and the worker that plans."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from vera_core.canvas import CanvasError
from vera_core.clocks import ManualClock
from vera_core.contract import CameraSpec, load_contract
from vera_core.seams import Plan
from vera_core.views import ViewAssembler
from vera_planner.observer import Observer
from vera_planner.planning import PlanRequest
from vera_planner.worker import PlanWorker

MS = 1_000_000


@pytest.fixture(scope='module')
def one():
    return load_contract('finger')


@pytest.fixture(scope='module')
def two(one):
    cameras = (*one.cameras, CameraSpec('side', 'side/color/image_raw', 64, 64, 30.0))
    return dataclasses.replace(
        one, cameras=cameras, canvas=dataclasses.replace(one.canvas, width=128)
    )


def picture(size, level):
    return np.full((size, size, 3), level, np.uint8)


def test_one_camera_is_a_canvas_at_once(one):
    frame = ViewAssembler(one).add('top', picture(128, 9), 77)
    assert frame is not None
    assert frame.stamp == 77
    assert frame.image.shape == (64, 64, 3)


def test_views_meet_by_stamp_not_by_arrival(two):
    views = ViewAssembler(two)
    assert views.add('top', picture(128, 10), 100 * MS) is None
    frame = views.add('side', picture(64, 20), 110 * MS)
    assert frame is not None
    assert frame.stamp == 100 * MS
    assert views.skew == 10 * MS
    assert (frame.image[:, :64] == 10).all()
    assert (frame.image[:, 64:] == 20).all()
    # The other order, and the nearest of several.
    assert views.add('side', picture(64, 30), 143 * MS) is None
    assert views.add('side', picture(64, 40), 176 * MS) is None
    frame = views.add('top', picture(128, 50), 150 * MS)
    assert frame is not None
    assert frame.image[0, 100, 0] == 30


def test_an_image_without_companion_is_left_out_and_counted(two):
    views = ViewAssembler(two)
    views.add('top', picture(128, 1), 0)
    views.add('top', picture(128, 2), 50 * MS)
    frame = views.add('side', picture(64, 3), 60 * MS)
    assert frame is not None
    assert frame.stamp == 50 * MS
    assert views.unmatched == 1


def test_a_clock_set_back_forgets_what_waited(two):
    views = ViewAssembler(two)
    views.add('side', picture(64, 3), 10_000 * MS)
    views.add('top', picture(128, 2), 20_000 * MS)
    assert views.add('top', picture(128, 2), 5 * MS) is None
    frame = views.add('side', picture(64, 4), 6 * MS)
    assert frame is not None
    assert frame.stamp == 5 * MS


def test_context_is_on_the_planners_grid(one):
    observer = Observer(one)
    with pytest.raises(LookupError):
        observer.context()
    for k in range(30):
        assert observer.add('top', picture(128, k), k * 50 * MS)
    assert observer.newest == 29 * 50 * MS
    assert observer.context()[:, 0, 0, 0].tolist() == [17, 21, 25, 29]
    assert not observer.add('top', picture(128, 99), 29 * 50 * MS)  # the same image again
    with pytest.raises(CanvasError, match="image of camera 'top'"):
        observer.add('top', picture(64, 1), 30 * 50 * MS)


def test_silence_is_told_by_camera_and_waiting_begins_afresh(two):
    clock = ManualClock()
    observer = Observer(two, clock)
    assert observer.silent == ()  # they have their time
    assert [c.name for c in observer.expect()] == ['top', 'side']
    clock.advance(600 * MS)
    observer.add('top', picture(128, 1), 0)
    assert [c.name for c in observer.expect()] == ['side']
    patience = round(two.video.frame_timeout * 1000)
    clock.advance((patience - 100) * MS)
    observer.add('top', picture(128, 1), 1)
    assert observer.silent == ()  # not yet that long since someone began to wait
    clock.advance(101 * MS)
    assert [c.name for c in observer.silent] == ['side']


def test_images_that_never_belong_together_are_told(two):
    clock = ManualClock()
    observer = Observer(two, clock)
    for k in range(100):
        clock.advance(50 * MS)
        observer.add('top', picture(128, k), k * 50 * MS)
        observer.add('side', picture(64, k), k * 50 * MS + 40 * MS)
    assert observer.trouble == ''  # 40 ms apart, or 10 from the one before
    assert observer.views.stats.skew_p50 == pytest.approx(0.010)
    observer = Observer(two, clock)
    for k in range(round(2 * two.video.frame_timeout * 20) + 2):
        clock.advance(50 * MS)
        observer.add('top', picture(128, k), k * 50 * MS)
        observer.add('side', picture(64, k), k * 50 * MS - 10_000 * MS)
    assert observer.silent == ()
    assert "do not belong together in time: 'side' is 10.00 s behind" in observer.trouble
    observer.expect()  # someone begins to wait: it gets its time
    assert observer.trouble == ''


def test_a_camera_that_stamps_one_picture_again_and_again_is_frozen(two):
    clock = ManualClock()
    observer = Observer(two, clock)
    timeout = round(two.video.frame_timeout * 1000)

    def seconds(n, top, side, start):
        for k in range(start, start + n * 20):
            clock.advance(50 * MS)
            observer.add('top', picture(128, top(k)), k * 50 * MS)
            observer.add('side', picture(64, side(k)), k * 50 * MS)
        return start + n * 20

    k = seconds(3 * timeout // 1000, lambda k: 5, lambda k: 7, 0)
    assert observer.trouble == ''  # everything stands still: nothing moves
    k = seconds(timeout // 1000 - 1, lambda k: k % 99, lambda k: 7, k)
    assert observer.trouble == ''  # not yet as long
    k = seconds(2, lambda k: k % 99, lambda k: 7, k)
    assert "camera 'side' shows the same picture while those of others" in observer.trouble
    assert 'it is frozen' in observer.trouble
    seconds(1, lambda k: k % 99, lambda k: k % 99, k)
    assert observer.trouble == ''


def test_worker_makes_one_plan_at_a_time():
    gate, done = threading.Event(), threading.Event()
    threads = []

    def work(request):
        threads.append(threading.current_thread())
        assert gate.wait(5)
        return Plan(np.zeros((1, 2, 2, 3), np.uint8), 0.2)

    worker = PlanWorker(work, done.set)
    request = PlanRequest(np.zeros((1, 2, 2, 3), np.uint8), 0, 'red')
    assert not worker.busy
    worker.submit(request)
    assert worker.busy
    assert worker.take() is None
    with pytest.raises(RuntimeError, match='busy'):
        worker.submit(request)
    gate.set()
    assert done.wait(5)
    assert worker.busy  # until somebody took it
    outcome = worker.take()
    assert outcome is not None
    assert outcome.request is request
    assert outcome.plan is not None
    assert worker.take() is None
    assert not worker.busy
    assert threads[0] is not threading.current_thread()
    assert worker.close()
    with pytest.raises(RuntimeError, match='closed'):
        worker.submit(request)


def test_worker_survives_a_planner_that_fails_and_one_that_hangs():
    done, gate = threading.Event(), threading.Event()
    failures = [ZeroDivisionError('oops')]

    def work(request):
        if failures:
            raise failures.pop()
        gate.wait(10)
        return Plan(np.zeros((1, 2, 2, 3), np.uint8), 0.2)

    worker = PlanWorker(work, done.set)
    request = PlanRequest(np.zeros((1, 2, 2, 3), np.uint8), 0, 'red')
    worker.submit(request)
    assert done.wait(5)
    outcome = worker.take()
    assert outcome is not None
    assert isinstance(outcome.error, ZeroDivisionError)
    worker.submit(request)
    time.sleep(0.05)
    began = time.monotonic()
    assert not worker.close(timeout=0.2)
    assert time.monotonic() - began < 2
    gate.set()
