import threading

import pytest

from vera_core.monitor import CallbackMonitor


class Time:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_rate_and_latency_of_a_window():
    time = Time()
    monitor = CallbackMonitor(time)
    for duration in (0.01, 0.03):
        with monitor('tick'):
            time.now += duration
        time.now += 0.5 - duration
    (stats,) = monitor.read()
    assert stats.name == 'tick' and stats.total == stats.calls == 2 and stats.errors == 0
    assert stats.rate == pytest.approx(2.0)
    assert stats.mean_ms == pytest.approx(20)
    assert stats.max_ms == pytest.approx(30)
    assert stats.max_gap_ms == pytest.approx(500)


def test_a_reading_begins_a_new_window_and_keeps_the_total():
    time = Time()
    monitor = CallbackMonitor(time)
    with monitor('tick'):
        time.now += 1
    monitor.read()
    time.now += 1
    (stats,) = monitor.read()
    assert (stats.total, stats.calls, stats.rate, stats.mean_ms, stats.max_ms) == (1, 0, 0, 0, 0)


def test_an_error_is_counted_and_goes_on():
    monitor = CallbackMonitor()
    with pytest.raises(KeyError), monitor('tick'):
        raise KeyError
    (stats,) = monitor.read()
    assert stats.errors == 1 and stats.total == 1


def test_threads_lose_no_call():
    monitor = CallbackMonitor()

    def work():
        for _ in range(500):
            with monitor('tick'):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.read()[0].total == 2000
