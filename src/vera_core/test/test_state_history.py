import numpy as np
import pytest

from vera_core.state_history import HistoryError, StateHistory

MS = 1_000_000
# Stamps of our time need more digits than a double has.
NOW = 1_795_000_000_000_000_000


def filled(n=10, step=10 * MS, **kw):
    history = StateHistory(**kw)
    for i in range(n):
        history.add(NOW + i * step, np.array([float(i), -2.0 * i]))
    return history


def test_a_stamp_between_two_states_is_interpolated():
    history = filled()
    np.testing.assert_allclose(history.at(NOW + 12_500_000), [1.25, -2.5], rtol=0, atol=1e-12)


def test_a_known_stamp_gives_the_very_numbers():
    history = StateHistory()
    value = np.array([0.1 + 0.2, 1 / 3])
    history.add(NOW, value)
    history.add(NOW + 7, value + 1)
    assert np.array_equal(history.at(NOW), value)
    history.at(NOW)[:] = 9
    assert np.array_equal(history.at(NOW), value), 'the answer belongs to the caller'


def test_one_nanosecond_matters_even_at_stamps_of_our_time():
    history = StateHistory()
    history.add(NOW, np.zeros(1))
    history.add(NOW + 10, np.ones(1))
    assert [float(history.at(NOW + i)[0]) for i in (0, 1, 9, 10)] == [0.0, 0.1, 0.9, 1.0]


@pytest.mark.parametrize(
    ('offset', 'words'),
    [(-250 * MS, '0.250 s older than the oldest'), (90 * MS + 1, 'newer than the newest')],
)
def test_outside_of_what_is_known_is_refused(offset, words):
    with pytest.raises(HistoryError, match=words):
        filled().at(NOW + offset)


def test_nothing_known_is_said():
    with pytest.raises(HistoryError, match='no joint state is known yet'):
        StateHistory().at(NOW)


def test_a_gap_is_not_bridged():
    history = filled(max_gap=0.2)
    history.add(NOW + 590 * MS, np.zeros(2))
    with pytest.raises(HistoryError, match=r'gap of 0\.50 s'):
        history.at(NOW + 300 * MS)
    history.at(NOW + 590 * MS)
    history.at(NOW + 90 * MS)


def test_it_forgets_the_oldest_only():
    history = filled(n=100, maxlen=10)
    assert history.newest == NOW + 990 * MS
    assert 10 <= len(history) < 20
    np.testing.assert_allclose(history.at(NOW + 905 * MS), [90.5, -181])
    with pytest.raises(HistoryError):
        history.at(NOW + 500 * MS)


@pytest.mark.parametrize('late', [0, -1, -(10**12)])
def test_time_only_goes_on(late):
    history = filled()
    with pytest.raises(ValueError, match='not newer'):
        history.add(history.newest + late, np.zeros(2))
