"""Run one node as a process: signals, executors, exit codes.

Exit codes: 0 after SIGINT or SIGTERM, 1 when the node failed while running, 2 when it could not be
set up.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.executors import (
    Executor,
    ExternalShutdownException,
    MultiThreadedExecutor,
    SingleThreadedExecutor,
)
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions

if TYPE_CHECKING:
    from vera_core.nodes.base import VeraNode

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_SETUP = 2
#: Seconds that the teardown may take after a signal before the process ends itself.
STOP_LIMIT_S = 5.0
#: UDP ports end at 65535, and each domain takes 250 of them.
MAX_DOMAIN = 232
#: Seconds that callbacks in other threads get to finish before the teardown begins.
JOIN_LIMIT_S = 1.0


class StopRequested(BaseException):
    """A signal arrived while the node was being set up. No Exception: nothing may swallow it."""


class StopSignals:
    """SIGINT and SIGTERM, handled here and not in rclpy.

    rclpy's own handlers shut the context down at once, after which a node can no longer publish its
    last, safe command. These only take a note and wake the executor, so that the node is torn down
    while it can still speak.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.interruptible = True
        self.stuck = False
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None
        self._previous: dict[int, Any] = {}
        self._reader, self._writer = socket.socketpair()

    def __enter__(self) -> StopSignals:
        self._writer.setblocking(False)
        # The interpreter writes a byte here as soon as a signal arrives, even while the main thread
        # sits in rcl's wait; Python's handlers run only once that returns.
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._listen, name='stop-signals', daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._writer.close()

    def wake_with(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` at every signal, from another thread; None stops that."""
        with self._lock:
            self._wake = wake

    def _listen(self) -> None:
        while self._reader.recv(64):
            self.requested.set()
            with self._lock:
                if self._wake is not None:
                    self._wake()
        self._reader.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested.set()
        if self.interruptible:
            self.interruptible = False
            raise StopRequested


def run_node(
    factory: Callable[[], VeraNode], args: Sequence[str] | None = None, threads: int = 1
) -> int:
    """Make a node, spin it until it is told to stop, tear it down.

    Args:
        factory: makes the node; usually its class.
        args: command line with ROS arguments; sys.argv unless told.
        threads: threads for callbacks; more than one only for nodes with an action server. A node
            may ask for more in its `setup`, by its attribute `threads`.

    Returns:
        The exit code of the process: `sys.exit(run_node(PlannerNode))`.
    """
    with StopSignals() as stop:
        node: VeraNode | None = None
        try:
            check_domain(os.environ.get('ROS_DOMAIN_ID', ''))
            rclpy.init(
                args=None if args is None else list(args),
                signal_handler_options=SignalHandlerOptions.NO,
            )
            node = factory()
            return _spin(node, stop, threads)
        except StopRequested:
            return EXIT_OK
        except Exception as error:
            log = node.get_logger() if node is not None else get_logger(_process_name())
            if node is None:
                log.error(f'cannot start: {describe(error)}')
                log.debug(traceback.format_exc())
                return EXIT_SETUP
            log.fatal(f'failed: {describe(error)}\n{traceback.format_exc()}')
            return EXIT_FAILED
        finally:
            stop.interruptible = False
            guard = _guard_teardown(node)
            if node is not None:
                node.close()
            rclpy.try_shutdown()
            if not stop.stuck:
                guard.cancel()
                faulthandler.cancel_dump_traceback_later()


def _spin(node: VeraNode, stop: StopSignals, threads: int) -> int:
    # The setup runs in this thread, where a signal can interrupt it.
    with SingleThreadedExecutor() as executor:
        _spin_while(lambda: node.starting, node, stop, executor)
        threads = max(threads, node.threads)
        if threads == 1:
            stop.interruptible = False
            _spin_while(lambda: True, node, stop, executor)
        executor.remove_node(node)
    stop.interruptible = False
    if threads > 1:
        pool = MultiThreadedExecutor(threads)
        try:
            _spin_while(lambda: True, node, stop, pool)
        finally:
            node.stopping.set()
            stop.stuck = not _join(pool)
            pool.shutdown()
    return EXIT_OK if node.exit_code is None else node.exit_code


def _spin_while(
    condition: Callable[[], bool], node: VeraNode, stop: StopSignals, executor: Executor
) -> None:
    executor.add_node(node)
    stop.wake_with(lambda: wake(executor))
    try:
        while (
            condition()
            and not stop.requested.is_set()
            and node.exit_code is None
            and executor.context.ok()
        ):
            executor.spin_once()
    except ExternalShutdownException:
        pass  # somebody else shut the context down: the same as a signal
    finally:
        stop.wake_with(None)


def wake(executor: Executor) -> None:
    """Make an executor return from spin_once; what rclpy calls wake does not, without work."""
    executor.create_task(lambda: None)


def _join(pool: MultiThreadedExecutor) -> bool:
    """Let running callbacks finish, so that none speaks after the last, safe command.

    Returns:
        False if one did not: the process would wait for it for ever.
    """
    waiter = threading.Thread(target=pool._executor.shutdown, daemon=True)
    waiter.start()
    waiter.join(JOIN_LIMIT_S)
    return not waiter.is_alive()


def _guard_teardown(node: VeraNode | None) -> threading.Timer:
    """End this process should its teardown hang; a signal could not, for nobody handles it."""
    name = node.get_name() if node is not None else _process_name()

    def give_up() -> None:
        sys.stderr.write(f'{name}: teardown took more than {STOP_LIMIT_S:g} s; ended by force\n')
        sys.stderr.flush()
        os._exit(EXIT_FAILED)

    guard = threading.Timer(STOP_LIMIT_S, give_up)
    guard.daemon = True
    guard.start()
    # Fast DDS may wait for itself for ever (its issue 6502) while rclpy, which called it, keeps all
    # other Python from running, that guard included. This one needs no interpreter.
    faulthandler.dump_traceback_later(STOP_LIMIT_S + 1, exit=True)
    return guard


def check_domain(text: str) -> None:
    """Raise ValueError for a ROS_DOMAIN_ID at which the middleware would end the process."""
    if text and not (text.isdecimal() and int(text) <= MAX_DOMAIN):
        raise ValueError(f'ROS_DOMAIN_ID is {text!r}; it must be a number from 0 to {MAX_DOMAIN}')


def _process_name() -> str:
    return os.path.basename(sys.argv[0]).replace('.', '_') or 'vera'  # noqa: PTH119


def describe(error: BaseException) -> str:
    """One line that says what went wrong; with the type where the text alone would not."""
    text = ' '.join(str(error).split())
    if text and isinstance(error, (ValueError, OSError, LookupError, ImportError)):
        return text.strip('"\'') if isinstance(error, KeyError) else text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
