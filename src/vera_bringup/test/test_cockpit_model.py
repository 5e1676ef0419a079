"""What the cockpit shows: state in words, goals, curves, and dreams beside what happened."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vera_bringup.cockpit.dreams import PLANS, Dream, Dreams, parts, stacked
from vera_bringup.cockpit.model import SECONDS, Controller, Goal, Model
from vera_bringup.cockpit.pictures import picture, read_picture, shrink
from vera_core.contract import load_contract

MS = 1_000_000
FINGER, PANDA = load_contract('finger'), load_contract('panda')


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def model(clock):
    return Model(FINGER, True, clock=clock)


def test_state_and_reason_are_said_in_words_and_silence_is_said_too(model, clock):
    assert model.status()['state'] == 'SILENT'
    model.hear_controller(Controller(4, 'stop was pressed', plan_age=math.inf))
    status = model.status()
    assert (status['state'], status['reason']) == ('STOPPED', 'stop was pressed')
    assert 'Reset' in status['meaning']
    assert status['controller']['plan_age'] is None  # JSON knows no infinity
    clock.now += 2.0
    status = model.status()
    assert (status['state'], status['reason']) == ('SILENT', '')


def test_goals_have_a_history_with_their_ends(model, clock):
    assert not model.hear_goal(Goal(0, '', 0))
    assert model.hear_goal(Goal(1, 'touch the red disc', 1))
    assert not model.hear_goal(Goal(1, 'touch the red disc', 1, plans=3))
    clock.now += 4.0
    assert model.hear_goal(Goal(1, 'touch the red disc', 2, 'at rest', 5))
    assert model.hear_goal(Goal(2, 'touch the blue disc', 1))
    newest, first = model.goals()['goals']
    assert (newest['prompt'], newest['status'], newest['seconds']) == (
        'touch the blue disc', 'ACTIVE', None,
    )  # fmt: skip
    assert (first['status'], first['seconds'], first['plans']) == ('SUCCEEDED', 4.0, 5)
    assert model.status()['goal']['goal_id'] == 2
    # A planner that was started again counts from one.
    assert model.hear_goal(Goal(1, 'another', 1))
    assert [goal['prompt'] for goal in model.goals()['goals']] == ['another']


def test_a_goal_whose_end_was_not_heard_ends_with_the_next(model, clock):
    model.hear_goal(Goal(1, 'touch the red disc', 1))
    clock.now += 3.0
    assert model.hear_goal(Goal(2, 'touch the blue disc', 1))
    newest, first = model.goals()['goals']
    assert newest['status'] == 'ACTIVE'
    assert (first['status'], first['message'], first['seconds']) == (
        'CANCELLED', 'replaced by goal 2', 3.0,
    )  # fmt: skip


def test_curves_keep_two_minutes_and_are_told_once(model, clock):
    model.point('residual', 0.25)
    model.point('residual', math.nan)
    told = model.curves()['points']
    assert told == [['residual', 100.0, 0.25]]
    assert model.curves(since=told[-1][1])['points'] == []
    model.hear_controller(Controller(2, plan_age=0.4))
    clock.now += SECONDS + 1
    model.point('planning', 0.1)
    assert [point[0] for point in model.curves()['points']] == ['planning']


def dream(seq=1, anchor=0, contract=FINGER, committed=4, frames=4):
    size = contract.canvas
    period = round(contract.video.frame_period * 1e9)
    pictures = np.zeros((frames + 1, size.height, size.width, 3), np.uint8)
    return Dream(
        1, seq, anchor, pictures, tuple(anchor + k * period for k in range(frames + 1)), committed
    )


def camera_image(camera, grey):
    return np.full((camera.height, camera.width, 3), grey, np.uint8)


def film(dreams, contract, begin, end, step=100 * MS, bias=0):
    """Camera images whose grey value is their time in tenths of seconds."""
    for stamp in range(begin, end, step):
        for camera in contract.cameras:
            dreams.see(camera.name, camera_image(camera, stamp // (100 * MS) + bias), stamp)


@pytest.mark.parametrize('contract', [FINGER, PANDA], ids=['finger', 'panda'])
def test_what_happened_is_laid_beside_each_frame_once(contract):
    dreams = Dreams(contract)
    anchor = 1000 * MS
    dreams.add(dream(anchor=anchor, contract=contract))
    film(dreams, contract, 900 * MS, 1700 * MS)
    assert [one.frame for one in dreams.happenings()] == [0, 1]  # the others are still to come
    film(dreams, contract, 1700 * MS, 3000 * MS)
    seen = list(dreams.happenings())
    assert [one.frame for one in seen] == [2, 3, 4]
    assert [int(one.canvas[5, 5, 0]) for one in seen] == [14, 16, 18]
    assert seen[0].canvas.shape == (contract.canvas.height, contract.canvas.width, 3)
    assert list(dreams.happenings()) == []


def test_a_plan_that_is_executed_late_is_compared_with_what_came_late():
    dreams = Dreams(FINGER)
    anchor = 1000 * MS
    dreams.add(dream(anchor=anchor))
    # At 1.5 s the controller has 0.8 s of the plan before it: it began half a second late.
    dreams.executing(1, 1, 1500 * MS, 0.8)
    film(dreams, FINGER, 900 * MS, 4000 * MS)
    greys = [int(one.canvas[5, 5, 0]) for one in dreams.happenings()]
    assert greys == [10, 17, 19, 21, 23]


def test_what_no_camera_saw_is_not_made_up():
    dreams = Dreams(FINGER)
    dreams.add(plan := dream(anchor=1000 * MS))
    film(dreams, FINGER, 900 * MS, 1050 * MS)
    film(dreams, FINGER, 2500 * MS, 2600 * MS)
    assert [one.frame for one in dreams.happenings()] == [0]
    assert plan.happened == {0: True, 1: False, 2: False, 3: False, 4: False}


def test_only_the_last_plans_are_kept_and_a_clock_set_back_does_no_harm():
    dreams = Dreams(FINGER)
    for seq in range(1, PLANS + 4):
        dreams.add(dream(seq, anchor=seq * 1000 * MS))
    assert [d.plan_seq for d in dreams.plans] == list(range(4, PLANS + 4))
    assert dreams.of_anchor(5000 * MS).plan_seq == 5
    assert dreams.of_anchor(1) is None
    film(dreams, FINGER, 20000 * MS, 20300 * MS)
    film(dreams, FINGER, 100 * MS, 300 * MS)
    list(dreams.happenings())


def test_strips_are_cut_into_their_pictures():
    pictures = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    strip = np.concatenate(list(pictures), axis=1)
    np.testing.assert_array_equal(parts(strip, 5), pictures)
    np.testing.assert_array_equal(stacked(pictures)[4:8], pictures[1])
    assert parts(strip, 4) is None


def test_pictures_are_small_and_say_what_they_show():
    large = np.full((480, 1280, 3), 100, np.uint8)
    assert shrink(large).shape == (180, 480, 3)
    head, data = read_picture(picture(large, kind='camera', name='top'))
    assert head == {'kind': 'camera', 'name': 'top'}
    assert data[:2] == b'\xff\xd8'
