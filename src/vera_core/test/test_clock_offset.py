"""Two clocks, from questions and answers: the truth always lies within what is claimed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.clock_offset import WINDOW, Offset, OffsetFilter

MS = 1_000_000
WAYS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=40)


def ask(trips: OffsetFilter, ahead: int, there: int, back: int, at: int = 0) -> None:
    """One question at `at`, all in ms: the other clock is `ahead`, the ways take so long."""
    trips.add(at * MS, (at + there + ahead) * MS, (at + there + back) * MS)


@given(st.integers(-5000, 5000), WAYS)
def test_the_truth_is_within_the_uncertainty_however_uneven_the_ways(ahead, ways):
    trips = OffsetFilter()
    for number, (there, back) in enumerate(ways):
        ask(trips, ahead, there, back, 1000 * number)
        best = trips.best
        assert abs(best.seconds - ahead / 1e3) <= best.uncertainty + 1e-9
    assert len(trips) == min(len(ways), WINDOW)
    assert best.uncertainty == pytest.approx(min(sum(w) for w in ways[-WINDOW:]) / 2e3)


def test_a_clock_that_was_set_makes_older_answers_forgotten():
    trips = OffsetFilter()
    for number in range(10):
        ask(trips, 0, 1, 1, number)
    ask(trips, 500, 20, 20, 11)
    assert len(trips) == 1
    assert trips.best.seconds == pytest.approx(0.5)
    trips.add(5 * MS, 0, 4 * MS)  # ours went backwards during the question
    assert trips.best is None


@pytest.mark.parametrize(
    ('offset', 'within', 'beyond'),
    [
        (Offset(0.001, 0.002), True, False),
        (Offset(-0.015, 0.02), False, False),  # nobody can tell
        (Offset(-0.05, 0.02), False, True),
        (Offset(0.05, 0.02), False, True),
    ],
)
def test_only_what_is_certain_is_said(offset, within, beyond):
    assert (offset.within(0.02), offset.beyond(0.02)) == (within, beyond)
    assert ('ahead of' in str(offset)) == (offset.seconds < 0)
