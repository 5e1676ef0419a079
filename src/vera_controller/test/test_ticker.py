"""The thread of the set-points."""

import threading
import time

import pytest

from vera_controller.ticker import Ticker


def run(tick, period=0.01, seconds=0.4):
    failures = []
    ticker = Ticker(tick, period, failures.append)
    ticker.start()
    time.sleep(seconds)
    ticker.stop()
    return ticker, failures


def test_it_ticks_at_its_period_and_stops_for_good():
    times = []
    ticker, failures = run(lambda: times.append(time.monotonic()))
    assert not failures
    # No more than the period allows; fewer where the machine was busy.
    assert 3 <= len(times) <= 42
    jitter = ticker.jitter()
    assert jitter.ticks == len(times) - 1
    assert jitter.p50 <= jitter.p99 <= jitter.worst
    count = len(times)
    time.sleep(0.05)
    assert len(times) == count
    ticker.stop()


def test_a_tick_that_lasts_too_long_is_not_made_up_for():
    starts = []

    def tick():
        starts.append(time.monotonic())
        if len(starts) == 3:
            time.sleep(0.12)

    run(tick, period=0.02, seconds=0.6)
    after = starts[3] - starts[2]
    assert after >= 0.12
    # A burst would follow within no time at all.
    assert starts[4] - starts[3] > 0.005
    grid = (starts[3] - starts[0]) / 0.02
    assert grid - round(grid) == pytest.approx(0, abs=0.9)


def test_what_a_tick_raises_is_handed_on_and_ends_it():
    count = []

    def tick():
        count.append(1)
        raise ValueError('no')

    ticker, failures = run(tick, seconds=0.1)
    assert len(count) == 1 and isinstance(failures[0], ValueError)
    ticker.stop()


def test_it_may_be_stopped_from_its_own_thread_and_before_it_starts():
    ticker = Ticker(lambda: ticker.stop(), 0.01, lambda error: None)
    assert ticker.jitter() is None
    ticker.start()
    deadline = time.monotonic() + 10
    while any(t.name == 'ticks' for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    Ticker(lambda: None, 0.01, lambda error: None).stop()
