"""A thread that makes one plan at a time, so that no callback ever waits for a planner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vera_core.seams import Plan
from vera_planner.planning import PlanRequest


@dataclass(frozen=True)
class PlanOutcome:
    """What became of a request: a plan, or the error that the planner raised."""

    request: PlanRequest
    plan: Plan | None
    error: Exception | None


class PlanWorker:
    """Runs `work` on requests, one at a time, in a thread of its own.

    Args:
        work: makes a plan; whatever it raises comes back in the outcome.
        on_done: called in the worker's thread when an outcome can be taken; must return at once.
    """

    def __init__(
        self, work: Callable[[PlanRequest], Plan], on_done: Callable[[], None]
    ) -> None:
        self._work = work
        self._on_done = on_done
        self._condition = threading.Condition()
        self._request: PlanRequest | None = None
        self._outcome: PlanOutcome | None = None
        self._busy, self._since = False, 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='planner', daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a request is in progress or its outcome has not been taken."""
        with self._condition:
            return self._busy

    @property
    def busy_seconds(self) -> float:
        """How long the request in progress has taken so far; 0 while there is none."""
        with self._condition:
            return time.monotonic() - self._since if self._busy else 0.0

    def submit(self, request: PlanRequest) -> None:
        """Begin a plan.

        Raises:
            RuntimeError: it is busy, or closed.
        """
        with self._condition:
            if self._busy or self._closing:
                raise RuntimeError('the planner is busy' if self._busy else 'the planner is closed')
            self._busy, self._since = True, time.monotonic()
            self._request = request
            self._condition.notify_all()

    def take(self) -> PlanOutcome | None:
        """The outcome, once; None while there is none."""
        with self._condition:
            outcome, self._outcome = self._outcome, None
            if outcome is not None:
                self._busy = False
            return outcome

    def close(self, timeout: float = 5.0) -> bool:
        """End the thread after the plan in progress; False if that took longer than `timeout` s."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._request is not None or self._closing)
                if self._closing:
                    return
                request, self._request = self._request, None
            assert request is not None
            plan, failure = None, None
            try:
                plan = self._work(request)
            except Exception as error:  # comes back in the outcome and ends the goal
                failure = error
            with self._condition:
                self._outcome = PlanOutcome(request, plan, failure)
            self._on_done()


__all__ = ['PlanOutcome', 'PlanWorker']
