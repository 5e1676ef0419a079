"""IDLE -> READY -> RUNNING -> HOLD -> STOPPED -> ESTOP: the first cause wins and is reported."""

from __future__ import annotations

from enum import Enum, IntEnum


class State(IntEnum):
    """Of the controller; the numbers are those of vera_msgs/ControllerStatus."""

    IDLE = 0
    READY = 1
    RUNNING = 2
    HOLD = 3
    STOPPED = 4
    ESTOP = 5


class Event(Enum):
    """What moves the controller from state to state."""

    ENABLE = 'enable'
    RUN = 'run'
    FINISH = 'finish'
    HOLD = 'hold'
    RESUME = 'resume'
    STOP = 'stop'
    ESTOP = 'estop'
    RESET = 'reset'


class Cause(Enum):
    """Why the controller holds, that is: what must happen for it to go on."""

    STATE = 'state'  # joint states stale or unusable; ends with a good one
    PLAN = 'plan'  # ran out of actions; ends with the next chunk, or with the goal


# Every pair that is not here leaves the state, and its first cause, as they are.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.ENABLE): State.READY,
    (State.IDLE, Event.ESTOP): State.ESTOP,
    (State.READY, Event.RUN): State.RUNNING,
    (State.READY, Event.HOLD): State.HOLD,
    (State.READY, Event.STOP): State.STOPPED,
    (State.READY, Event.ESTOP): State.ESTOP,
    (State.RUNNING, Event.FINISH): State.READY,
    (State.RUNNING, Event.HOLD): State.HOLD,
    (State.RUNNING, Event.STOP): State.STOPPED,
    (State.RUNNING, Event.ESTOP): State.ESTOP,
    (State.HOLD, Event.RUN): State.RUNNING,
    (State.HOLD, Event.RESUME): State.READY,
    (State.HOLD, Event.STOP): State.STOPPED,
    (State.HOLD, Event.ESTOP): State.ESTOP,
    (State.STOPPED, Event.RESET): State.READY,
    (State.STOPPED, Event.ESTOP): State.ESTOP,
    (State.ESTOP, Event.RESET): State.IDLE,
}


class StateMachine:
    """The state, and the reason for it in words.

    Attributes:
        state: now.
        reason: what led to it.
        cause: why it holds; None in other states.
    """

    def __init__(self) -> None:
        self.state = State.IDLE
        self.reason = 'not enabled'
        self.cause: Cause | None = None

    def handle(self, event: Event, reason: str = '', cause: Cause | None = None) -> bool:
        """Move on.

        Args:
            event: what happened.
            reason: why, in words.
            cause: for HOLD, what must happen for it to end.

        Returns:
            Whether the state changed. If not, the reason stays what it was.
        """
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            return False
        self.state = following
        self.reason = reason or event.value
        self.cause = cause if following is State.HOLD else None
        return True

    def holds_for(self, cause: Cause) -> bool:
        """Whether it holds, and for this cause."""
        return self.state is State.HOLD and self.cause is cause

    @property
    def may_move(self) -> bool:
        """Whether a chunk or a motion to home may be taken over in this state."""
        return self.state in (State.READY, State.RUNNING, State.HOLD)


__all__ = ['TRANSITIONS', 'Cause', 'Event', 'State', 'StateMachine']
