"""A worker thread that always works on the newest job: what came meanwhile is superseded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar('Job')


class NewestWorker(Generic[Job]):
    """Runs `work(job)` on one thread; a job that has not begun gives way to a newer one.

    Args:
        work: called with each job; what it raises goes to `on_error` and ends nothing.
        on_error: called with the job and the exception, on the worker's thread.
        name: of the thread.
    """

    def __init__(
        self,
        work: Callable[[Job], None],
        on_error: Callable[[Job, Exception], None],
        name: str = 'worker',
    ) -> None:
        self._work, self._on_error, self._name = work, on_error, name
        self._changed = threading.Condition()
        self._job: Job | None = None
        self._running = False
        self._thread: threading.Thread | None = None
        self.superseded = 0

    def start(self) -> None:
        """Begin to take jobs; safe to call twice."""
        if self._thread is not None:
            return
        self._running = True
        self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job in line, in place of one that waits."""
        with self._changed:
            if self._job is not None:
                self.superseded += 1
            self._job = job
            self._changed.notify()

    def stop(self, timeout: float = 5.0) -> bool:
        """Drop the waiting job, let the running one end; whether it ended in time."""
        thread, self._thread = self._thread, None
        with self._changed:
            self._running = False
            self._job = None
            self._changed.notify()
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._job is not None or not self._running)
                if not self._running:
                    return
                job, self._job = self._job, None
            assert job is not None
            try:
                self._work(job)
            except Exception as error:
                # One bad job must not end the thread; the owner reports it.
                self._on_error(job, error)
