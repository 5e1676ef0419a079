"""Every state with every event, against a table written by hand from design.md."""

import pytest

from vera_controller.state_machine import Cause, Event, State, StateMachine

# Rows: states. Columns: events. '.': nothing happens.
TABLE = """
            ENABLE  RUN      FINISH  HOLD  RESUME  STOP     ESTOP  RESET
    IDLE    READY   .        .       .     .       .        ESTOP  .
    READY   .       RUNNING  .       HOLD  .       STOPPED  ESTOP  .
    RUNNING .       .        READY   HOLD  .       STOPPED  ESTOP  .
    HOLD    .       RUNNING  .       .     READY   STOPPED  ESTOP  .
    STOPPED .       .        .       .     .       .        ESTOP  READY
    ESTOP   .       .        .       .     .       .        .      IDLE
"""


def cells():
    header, *rows = [line.split() for line in TABLE.strip().splitlines()]
    assert set(header) == {e.name for e in Event}
    assert {row[0] for row in rows} == {s.name for s in State}
    for name, *targets in rows:
        for event, target in zip(header, targets, strict=True):
            yield State[name], Event[event], None if target == '.' else State[target]


def machine_in(state):
    machine = StateMachine()
    machine.state, machine.reason = state, 'the first cause'
    machine.cause = Cause.PLAN if state is State.HOLD else None
    return machine


@pytest.mark.parametrize(('state', 'event', 'expected'), list(cells()))
def test_transition(state, event, expected):
    machine = machine_in(state)
    changed = machine.handle(event, 'a later cause', Cause.STATE)
    assert changed == (expected is not None)
    assert machine.state is (state if expected is None else expected)
    assert machine.reason == ('a later cause' if changed else 'the first cause')
    if not changed:
        assert machine.cause is (Cause.PLAN if state is State.HOLD else None)
    else:
        assert machine.cause is (Cause.STATE if machine.state is State.HOLD else None)


@pytest.mark.parametrize('state', State)
def test_only_three_states_may_move(state):
    moving = (State.READY, State.RUNNING, State.HOLD)
    assert machine_in(state).may_move == (state in moving)


def test_it_begins_where_nothing_moves():
    machine = StateMachine()
    assert machine.state is State.IDLE
    assert machine.reason == 'not enabled'


def test_estop_needs_reset_and_enable():
    machine = machine_in(State.RUNNING)
    machine.handle(Event.ESTOP, 'pressed')
    for event in (Event.ENABLE, Event.RUN, Event.RESUME, Event.STOP, Event.FINISH):
        assert not machine.handle(event, 'try')
    machine.handle(Event.RESET)
    assert machine.state is State.IDLE
    assert not machine.handle(Event.RUN)
    machine.handle(Event.ENABLE)
    assert machine.state is State.READY


def test_the_numbers_are_those_of_the_message():
    messages = pytest.importorskip('vera_msgs.msg')
    assert {s.name: int(s) for s in State} == {
        s.name: getattr(messages.ControllerStatus, s.name) for s in State
    }
