"""Which prompts are taken, and what becomes of a goal."""

from __future__ import annotations

import numpy as np
import pytest

from vera_core.contract import load_contract
from vera_msgs.action import ExecuteGoal
from vera_msgs.msg import GoalStatus
from vera_planner.goal import (
    MAX_PROMPT,
    GoalCode,
    GoalKeeper,
    GoalState,
    PromptError,
    SettleRule,
    validate_prompt,
)

MOVING, STILL = 60.0, 1.0


@pytest.mark.parametrize(
    ('prompt', 'message'),
    [
        ('', 'the prompt is empty'),
        (' \u2003 ', 'only white space'),
        ('\t\n', 'only white space'),
        ('x' * (MAX_PROMPT + 1), 'has 1001 characters; at most 1000'),
        ('touch\nthe red disc', r'control character U\+000A at place 6'),
        ('touch\x00', r'U\+0000 at place 6'),
        ('red \x1b[31m', r'U\+001B'),
        ('half \ud83d', r'U\+D83D'),
        ('123 ?!', 'has no letters'),
        ('\u200b\u200b', 'has no letters'),
        (None, 'is NoneType, not text'),
        (b'touch the red disc', 'is bytes, not text'),
        (7, 'is int, not text'),
        (['touch'], 'is list, not text'),
    ],
)
def test_prompts_that_are_no_goal(prompt, message):
    with pytest.raises(PromptError, match=message):
        validate_prompt(prompt)


@pytest.mark.parametrize(
    'prompt',
    ['touch the red disc', ' red ', 'Berühre die rote Scheibe!', '赤い円に触れて', 'x' * 1000],
)
def test_prompts_stay_verbatim(prompt):
    assert validate_prompt(prompt) == prompt


def test_numbers_are_those_of_the_messages():
    for state in GoalState:
        assert getattr(GoalStatus, state.name) == state
    for code in GoalCode:
        assert getattr(ExecuteGoal.Result, code.name) == code


@pytest.fixture
def changes():
    return []


@pytest.fixture
def keeper(changes):
    return GoalKeeper(on_change=changes.append)


def test_a_goal_succeeds_when_its_plans_come_to_rest(keeper):
    keeper.begin('red')
    for motion in (STILL, MOVING, STILL, STILL):
        assert keeper.planned(motion).active
    goal = keeper.planned(STILL)
    assert (goal.state, goal.code, goal.plans) == (GoalState.SUCCEEDED, GoalCode.NONE, 5)
    assert goal.message == 'the plan came to rest after 5 plans'
    assert keeper.planned(MOVING) is goal  # nothing revives it


def test_motion_between_still_plans_begins_the_count_again(keeper):
    keeper.begin('red')
    for motion in (MOVING, STILL, STILL, MOVING, STILL, STILL):
        assert keeper.planned(motion).active
    assert not keeper.planned(STILL).active


def test_still_from_the_start_is_nothing_to_do(keeper):
    keeper.begin('the moon')
    for _ in range(4):
        assert keeper.planned(STILL).active
    goal = keeper.planned(STILL)
    assert (goal.state, goal.code) == (GoalState.ABORTED, GoalCode.NOTHING_TO_DO)
    assert 'nothing that the prompt names is visible' in goal.message


def test_a_robot_that_only_stirred_has_done_nothing():
    """Asked for a disc that is not there, the planner moved the tip by a few pixels and rested."""
    begin = np.full((8, 8, 3), 100, np.uint8)
    for levels, state in ((6, GoalState.ABORTED), (7, GoalState.SUCCEEDED)):
        keeper = GoalKeeper(SettleRule(least_change=7.0))
        keeper.begin('touch the green disc')
        keeper.planned(MOVING, begin)
        for _ in range(3):
            goal = keeper.planned(STILL, begin - np.uint8(levels))
        assert goal.state is state
    assert goal.message == 'the plan came to rest after 4 plans'
    assert SettleRule.of(load_contract('finger')).least_change == 7.0
    keeper = GoalKeeper(SettleRule(least_change=7.0))
    keeper.begin('touch the green disc')
    for motion in (MOVING, STILL, STILL, STILL):
        goal = keeper.planned(motion, begin)
    assert goal.code is GoalCode.NOTHING_TO_DO
    assert '0.0 of at least 7 grey levels' in goal.message
    # What the goal before began with does not count.
    keeper.begin('red')
    for motion in (MOVING, STILL, STILL, STILL):
        goal = keeper.planned(motion, begin if motion == STILL else begin + np.uint8(20))
    assert goal.state is GoalState.SUCCEEDED


def test_the_rule_is_the_contract_of_still(changes):
    keeper = GoalKeeper(SettleRule(still_motion=2.0, settled=1, hopeless=2))
    keeper.begin('red')
    assert keeper.planned(2.0).active  # at the threshold it moves
    assert not keeper.planned(1.99).active
    for wrong in ({'still_motion': 0.0}, {'still_motion': float('nan')}, {'settled': 0},
                  {'least_change': -1.0}):
        with pytest.raises(ValueError, match='must be'):
            SettleRule(**wrong)


def test_a_new_goal_replaces_the_one_in_progress(keeper, changes):
    first, none = keeper.begin('red')
    keeper.planned(MOVING)
    second, old = keeper.begin('blue')
    assert none is None
    assert (first.goal_id, second.goal_id) == (1, 2)
    assert old is not None
    assert (old.goal_id, old.state, old.code) == (1, GoalState.CANCELLED, GoalCode.CANCELLED)
    assert old.message == 'replaced by goal 2: blue'
    assert [(c.goal_id, c.state) for c in changes] == [
        (1, GoalState.ACTIVE), (1, GoalState.ACTIVE), (1, GoalState.CANCELLED),
        (2, GoalState.ACTIVE),
    ]
    # What the first goal's plans showed does not count for the second.
    for _ in range(3):
        assert keeper.planned(STILL).active
    assert keeper.goal.plans == 3


def test_a_refused_prompt_leaves_the_goal_as_it_is(keeper):
    keeper.begin('red')
    with pytest.raises(PromptError):
        keeper.begin('')
    assert keeper.goal.active
    assert keeper.goal.prompt == 'red'
    assert keeper.begin('blue')[0].goal_id == 2


def test_the_first_end_wins(keeper, changes):
    assert keeper.cancel('x') is None
    assert keeper.abort(GoalCode.TIMEOUT, 'x') is None
    keeper.begin('red')
    ended = keeper.abort(GoalCode.NO_OBSERVATION, 'no frames')
    assert ended is not None
    assert (ended.state, ended.code) == (GoalState.ABORTED, GoalCode.NO_OBSERVATION)
    assert keeper.cancel('too late') is None
    assert keeper.goal == ended
    assert len(changes) == 2
    # A goal that ended is not replaced but followed.
    assert keeper.begin('blue')[1] is None


def test_notes_are_for_goals_in_progress(keeper, changes):
    keeper.note('nobody is there')
    assert not changes
    keeper.begin('red')
    keeper.note('waits')
    keeper.note('waits')
    assert [c.message for c in changes] == ['', 'waits']
    assert keeper.planned(MOVING).message == ''
