"""Things of several sources matched by stamp: skew, drops, and who is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vera_core.matching import Matcher

MS = 1_000_000
PERIOD = 66 * MS


def three(max_skew=PERIOD):
    return Matcher({'front': PERIOD, 'side': PERIOD, 'wrist': PERIOD}, max_skew)


def arrivals(offsets, n=300, delay=5.0, jitter=0.0, seed=0, lost=()):
    """(source, stamp) in the order of arrival [ns], of free-running sources."""
    rng = np.random.default_rng(seed)
    events = []
    for name, offset in offsets.items():
        for k in range(n):
            if (name, k) in lost:
                continue
            stamp = k * PERIOD + round((offset + rng.uniform(-jitter, jitter)) * MS)
            late = round((delay + rng.uniform(0, 10)) * MS)
            events.append((stamp + late, name, stamp))
    return [(name, stamp) for _, name, stamp in sorted(events)]


def feed(matcher, events):
    sets = []
    for name, stamp in events:
        match = matcher.add(name, stamp, (name, stamp))
        if match is not None:
            sets.append(match)
    return sets


@pytest.mark.parametrize('offsets', [(0, 0, 0), (0, 22, 44), (0, -30, 30), (5, 40, 61)])
def test_free_running_sources_meet_at_the_leaders_rate(offsets):
    matcher = three()
    sets = feed(matcher, arrivals(dict(zip(matcher.sources, offsets, strict=True)), jitter=2.0))
    assert len(sets) >= 298
    stamps = [match.stamp for match in sets]
    assert stamps == sorted(set(stamps))
    for match in sets[1:]:  # at the first one some have not begun
        own = [match.items[name] for name in matcher.sources]
        assert [name for name, _ in own] == list(matcher.sources)
        times = [stamp for _, stamp in own]
        assert match.stamp == times[0]
        assert match.skew == max(times) - min(times) <= PERIOD
        # Each is the nearest that its source has.
        assert all(abs(t - match.stamp) <= PERIOD / 2 + 4 * MS for t in times)


def test_skew_is_measured_as_it_is():
    matcher = three()
    feed(matcher, arrivals({'front': 0, 'side': 4, 'wrist': -7}))
    stats = matcher.stats()
    assert stats.skew_p50 == pytest.approx(0.011)
    assert stats.skew_p99 == pytest.approx(0.011)
    assert stats.sets >= 298
    assert stats.dropped == {'side': 0, 'wrist': 0}
    assert stats.problem == ''


def test_a_set_wider_than_asked_is_not_made_and_the_culprit_is_counted():
    matcher = three(max_skew=10 * MS)
    assert feed(matcher, arrivals({'front': 0, 'side': 4, 'wrist': 25})) == []
    stats = matcher.stats()
    assert stats.dropped['wrist'] >= 298
    assert stats.dropped['side'] == 0
    assert math.isnan(stats.skew_p50)
    # Both near enough to the leader, but not to each other.
    matcher = three(max_skew=10 * MS)
    assert feed(matcher, arrivals({'front': 0, 'side': -6, 'wrist': 7})) == []
    assert matcher.stats().dropped['wrist'] >= 298


def test_lost_images_cost_only_their_own_sets():
    lost = {('side', k) for k in range(0, 300, 10)}
    matcher = three(max_skew=20 * MS)
    sets = feed(matcher, arrivals({'front': 0, 'side': 3, 'wrist': 6}, lost=lost))
    assert len(sets) == pytest.approx(270, abs=2)
    assert matcher.stats().dropped['side'] == pytest.approx(30, abs=1)
    assert all(match.skew <= 20 * MS for match in sets)


def test_a_missing_source_is_named():
    matcher = three()
    feed(matcher, arrivals({'front': 0, 'side': 3}, n=20))
    assert "nothing from 'wrist' yet" in matcher.problem()
    assert matcher.stats().dropped['wrist'] == 12  # all but the 8 that still wait
    feed(matcher, [('wrist', 19 * PERIOD)])
    assert matcher.problem() == ''
    # One that stops is told by how far it is behind; its clock may be to blame too.
    later = [(name, stamp + 20 * PERIOD) for name, stamp in arrivals({'front': 0, 'wrist': 0}, 20)]
    feed(matcher, later)
    assert "'side' is 1.3" in matcher.problem()
    assert 'stopped, or its clock is off' in matcher.problem()


def test_a_source_with_another_clock_never_matches_and_is_named():
    matcher = three()
    assert feed(matcher, arrivals({'front': 0, 'side': 0, 'wrist': -5000}, n=50)) == []
    assert "'wrist' is 5.0" in matcher.problem()


def test_a_clock_set_back_forgets_everything_kept():
    matcher = three()
    feed(matcher, [('side', 100 * PERIOD), ('wrist', 100 * PERIOD), ('front', 100 * PERIOD)])
    # All three begin anew: not one set is lost, whichever comes first.
    sets = feed(matcher, arrivals({'front': 0, 'side': 1, 'wrist': 2}, n=5))
    assert [match.stamp for match in sets] == [k * PERIOD for k in range(5)]


def test_a_slow_source_serves_several_sets_and_a_burst_gives_the_newest():
    matcher = Matcher({'front': 50 * MS, 'side': 100 * MS}, 50 * MS)
    events = [('side', 0), ('front', 0), ('front', 50), ('side', 100), ('front', 100)]
    sets = feed(matcher, [(name, ms * MS) for name, ms in events])
    assert [match.stamp for match in sets] == [0, 50 * MS, 100 * MS]
    matcher = Matcher({'front': 50 * MS, 'side': 100 * MS}, 50 * MS)
    for k in range(4):
        assert matcher.add('front', 200 * MS + k * 10 * MS, k) is None
    match = matcher.add('side', 215 * MS, 's')
    assert match is not None
    assert match.items == {'front': 3, 'side': 's'}


def test_one_source_needs_nobody():
    matcher = Matcher({'top': PERIOD}, PERIOD)
    match = matcher.add('top', 7, 'x')
    assert match is not None
    assert (match.items, match.stamp, match.skew) == ({'top': 'x'}, 7, 0)
    assert matcher.problem() == ''
    for k in range(30):
        assert matcher.add('top', 8 + k, 'y') is not None


@pytest.mark.parametrize(
    ('periods', 'skew'), [({}, 1), ({'a': 0}, 1), ({'a': 5}, 0)]
)
def test_numbers_that_make_no_sense_are_refused(periods, skew):
    with pytest.raises(ValueError, match='positive'):
        Matcher(periods, skew)
