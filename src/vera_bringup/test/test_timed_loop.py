"""The loop in simulated time with a slow planner, and what `vera bench loop` says about it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from vera_bringup.cli import app
from vera_bringup.commands.bench_loop import numbers
from vera_bringup.exits import CommandError
from vera_bringup.lockstep import episode_seed
from vera_bringup.loop_bench import LoopBenchOptions, draw, make_timed_loop, row
from vera_bringup.timed_loop import Timing
from vera_core.contract import load_contract
from vera_core.gates import PlanRejectedError, Verdict
from vera_core.seams import Plan

CONTRACT = load_contract('finger')
KEYS = {
    'embodiment', 'mode', 'latency', 'success_rate', 'ci_low', 'ci_high', 'n', 'moving_fraction',
    'jerk', 'plan_age_p50', 'plan_age_p95', 'underruns_per_minute', 'idle_fraction',
}  # fmt: skip


@pytest.fixture(scope='module')
def loop():
    import torch

    torch.set_num_threads(1)
    return make_timed_loop(CONTRACT, LoopBenchOptions(planner='oracle'))


@pytest.fixture(scope='module')
def episodes(loop):
    seed = episode_seed(2026, 1)
    timings = {
        'sync': Timing('sync', 1.0),
        'async': Timing('async', 0.5, pending=True),
        'servo': Timing('servo', 1.0),
    }
    return {name: (timing, loop.run(seed, timing)) for name, timing in timings.items()}


def test_stop_and_go_stands_still_while_the_planner_thinks_and_the_others_do_not(episodes):
    moving = {name: e.moving / e.way for name, (_, e) in episodes.items()}
    assert all(e.success for _, e in episodes.values())
    assert moving['sync'] < 0.6
    assert moving['async'] > 0.9 and moving['servo'] > 0.9
    sync, follows = episodes['sync'][1], episodes['servo'][1]
    assert sync.underruns >= 1 and sync.idle > 0.3 * sync.goal_time
    assert follows.underruns == 0 and follows.idle == 0
    assert follows.fallbacks < 0.2


def test_the_age_of_a_plan_counts_from_what_was_seen(episodes):
    # The first plan was made from a frame that was as old as its latency when it came.
    for name, latency in (('sync', 1.0), ('async', 0.5), ('servo', 1.0)):
        ages = episodes[name][1].ages
        assert latency <= ages.min() <= ages.max() < 2 * latency + 1.5


def test_the_same_episode_gives_the_same_numbers(loop, episodes):
    timing, before = episodes['async']
    after = loop.run(episode_seed(2026, 1), timing)
    assert before.plans >= 3
    assert (after.duration, after.way, after.plans) == (before.duration, before.way, before.plans)
    assert np.array_equal(after.jerks, before.jerks) and np.array_equal(after.ages, before.ages)


def test_a_continued_plan_begins_where_the_robot_is_and_the_next_at_what_is_seen(monkeypatch):
    """A planner that goes right by one joint, on from whatever frame it is told is the last."""
    from vera_bringup import timed_loop as work

    loop = make_timed_loop(CONTRACT, LoopBenchOptions(planner='oracle'))
    leads, anchors = [], []

    class Going:
        planner_id, checkpoint_hash = 'going', ''

        def plan(self, context, prompt, *, seed=0, warm_start=None, pending=None):
            known = context if pending is None else np.concatenate([context, pending])
            frames = np.stack([np.roll(known[-1], k, axis=1) for k in range(1, 5)])
            return Plan(frames, CONTRACT.video.frame_period)

    loop.planner = Going()
    execute = work._Run._translate

    def translate(run, request, frames, seq):
        leads.append(request.lead)
        anchors.append((request.anchor, run.observer.newest, len(frames)))
        execute(run, request, frames, seq)

    monkeypatch.setattr(work._Run, '_translate', translate)
    loop.contract = replace(CONTRACT, goal=replace(CONTRACT.goal, timeout=3.0))
    loop.run(episode_seed(2026, 1), Timing('async', 0.3, pending=True))
    assert len(leads) >= 5 and leads[0] == 0 and max(leads) >= 1
    assert all(not (a and b) for a, b in itertools.pairwise(leads))
    assert all(anchor <= newest for anchor, newest, _ in anchors)
    horizon = Timing('async', 0.3).frames(CONTRACT)
    assert [n for *_, n in anchors] == [lead + horizon for lead in leads]


def test_a_plan_that_its_planner_rejects_is_made_again(loop, monkeypatch):
    plan, asked = loop.planner.plan, []

    def picky(context, prompt, **more):
        asked.append(prompt)
        if len(asked) % 2:
            raise PlanRejectedError(Verdict(accepted=False, reason='a piece is missing'))
        return plan(context, prompt, **more)

    monkeypatch.setattr(loop.planner, 'plan', picky)
    assert loop.run(episode_seed(2026, 1), Timing('async', 0.2)).success
    assert len(asked) >= 4


def test_a_row_has_what_is_promised_and_can_be_drawn(episodes, tmp_path):
    rows = [row('finger', timing, [episode]) for timing, episode in episodes.values()]
    assert all(set(r) >= KEYS for r in rows)
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0]['success_rate'] == 1 and rows[0]['ci_low'] == pytest.approx(0.2065)
    draw(rows, tmp_path / 'rows.png')
    assert (tmp_path / 'rows.png').stat().st_size > 5000


def test_an_episode_that_never_moved_has_no_smoothness(episodes):
    timing, episode = episodes['sync']
    nothing = replace(
        episode, outcome='time', way=0.0, moving=0.0, jerks=np.zeros(0), ages=np.zeros(0),
        goal_time=0.0, idle=0.0,
    )
    found = row('finger', timing, [nothing])
    assert found['success_rate'] == 0
    for key in ('moving_fraction', 'jerk', 'plan_age_p50', 'idle_fraction'):
        assert found[key] is None


def test_a_plan_reaches_until_the_actions_of_the_next_are_there():
    frames = {s: Timing('async', s).frames(CONTRACT) for s in (0.0, 0.5, 2.0)}
    assert frames == {0.0: 4, 0.5: 7, 2.0: 22}
    assert Timing('sync', 2.0).frames(CONTRACT) == CONTRACT.video.committed
    assert Timing('servo', 2.0, horizon=1.9).frames(CONTRACT) == 10


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        (('fast', 0.0), "no mode 'fast'"),
        (('sync', -1.0), 'latency of -1.0 s'),
        (('sync', float('nan')), 'latency of nan s'),
        (('servo', 0.0, False, None, 50.0), 'servo rate of 50.0 Hz'),
    ],
)
def test_what_cannot_be_measured_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Timing(*values)


def test_the_command_refuses_in_one_line():
    with pytest.raises(CommandError, match='--planner-latency is'):
        numbers('0|2', '--planner-latency')
    result = CliRunner().invoke(
        app, ['bench', 'loop', '--embodiment', 'finger', '--modes', 'fast', '--episodes', '1']
    )
    assert isinstance(result.exception, CommandError)
    assert "no mode 'fast'; there are sync, async, servo" in str(result.exception)
