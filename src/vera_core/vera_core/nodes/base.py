"""The node base: lifecycle, parameters, diagnostics, and one teardown path.

A node is a thin shell: it says what it is made of in four hooks and leaves the rest to this class.

    class TranslatorNode(VeraNode):
        def __init__(self) -> None:
            super().__init__('translator')

        def setup(self) -> None:      # configure: parameters, publishers; raise to refuse
        def start(self) -> None:      # activate: subscriptions, timers, threads
        def halt(self) -> None:       # deactivate: stop moving, say the last word
        def teardown(self) -> None:   # cleanup: release devices and files

    def main() -> int:
        return run_node(TranslatorNode)
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vera_core.contract import Contract, load_contract, parse_overrides
from vera_core.monitor import CallbackMonitor
from vera_core.nodes.entities import Entities
from vera_core.nodes.parameters import Value, declare
from vera_core.nodes.run import EXIT_FAILED, EXIT_SETUP, describe, run_node, wake

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
DIAGNOSTICS_PERIOD_S = 1.0
#: Seconds that the messages of `halt` get to reach reliable subscribers.
LAST_WORD_S = 0.2
DEFAULT_NAMESPACE = 'vera'
DEFAULT_CONTRACT = 'finger'


class VeraNode(LifecycleNode):
    """A lifecycle node that starts itself, reports on itself and always cleans up.

    What is created in `setup` lives until `teardown`, what is created in `start` until `halt`:
    publishers, subscriptions, timers, services, clients and actions are destroyed by themselves.

    Parameters: `contract` (name or path), `contract_overrides` (YAML mapping), `autostart`.

    Attributes:
        contract: loaded before `setup`, unless the class says `uses_contract = False`.
        monitor: `with self.monitor('on_image'): ...` counts and times a callback.
        stopping: set from just before `halt` until the next `start`; the node's threads look at it.
        exit_code: set to make the process end with it; see `fail`.
        starting: whether it is still about to configure and activate itself.
    """

    uses_contract = True
    threads = 1  # for callbacks, see run_node
    contract: Contract

    def __init__(self, node_name: str, **kwargs: Any) -> None:
        """Make the node; `kwargs` go to rclpy's Node. A __ns remapping beats the namespace here."""
        kwargs.setdefault('namespace', DEFAULT_NAMESPACE)
        super().__init__(node_name, **kwargs)
        self.monitor = CallbackMonitor()
        self.stopping = threading.Event()
        self.exit_code: int | None = None
        self.starting = False
        self._active = self._closed = False
        self._setup_entities: Entities | None = None
        self._start_entities: Entities | None = None
        self._reports: dict[str, tuple[bytes, str, dict[str, Any]]] = {}
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self.publish_diagnostics, clock=self._steady)
        autostart = self.param(
            'autostart', True, 'configure and activate without a lifecycle manager'
        )
        if autostart:
            self.starting = True
            self._autostart = self.create_timer(0.0, self._start_self, clock=self._steady)

    # Hooks -----------------------------------------------------------------------------------

    def setup(self) -> None:
        """Configure: declare parameters, load models, open devices. Raise to refuse."""

    def start(self) -> None:
        """Activate: begin to work. Raise to refuse."""

    def halt(self) -> None:
        """Deactivate: stop working, say the last word. Also called when `start` failed half-way."""

    def teardown(self) -> None:
        """Cleanup: release what `setup` took, also when `setup` failed half-way."""

    # For subclasses --------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether `start` has succeeded and `halt` has not yet been called."""
        return self._active

    def param(
        self,
        name: str,
        default: Value,
        description: str,
        *,
        low: float | None = None,
        high: float | None = None,
        choices: tuple[str, ...] | None = None,
        read_only: bool = True,
    ) -> Value:
        """Declare a parameter once and return its value; see `parameters.declare`."""
        return declare(
            self,
            name,
            default,
            description,
            low=low,
            high=high,
            choices=choices,
            read_only=read_only,
        )

    def report(self, what: str, level: bytes = OK, message: str = '', **values: Any) -> None:
        """Say how something is doing; repeated on /diagnostics until said anew.

        Args:
            what: e.g. 'camera top'; a second report of the same replaces the first.
            level: OK, WARN, ERROR or STALE of this module.
            message: in words.
            values: shown beside it.
        """
        self._reports[what] = (level, message, values)

    def now_ns(self) -> int:
        """The node's time, integer nanoseconds."""
        return int(self.get_clock().now().nanoseconds)

    def fail(self, message: str, code: int = EXIT_FAILED) -> None:
        """Log one error and end the process with `code`, through the usual teardown."""
        self.get_logger().error(message)
        self.exit_code = code
        if self.executor is not None:
            wake(self.executor)

    def close(self) -> None:
        """Tear down and destroy the node, whatever state it is in. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._release()
        state = self._state_machine.current_state[1]
        if self.context.ok() and state in ('unconfigured', 'inactive', 'active'):
            self.trigger_shutdown()
        self.destroy_node()

    # Lifecycle -------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the contract and call `setup`."""
        try:
            self._configure()
        except Exception as error:
            return self._refuse('setup', error)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable lifecycle publishers and call `start`."""
        result = super().on_activate(state)
        self.stopping.clear()
        self._start_entities = Entities(self)
        try:
            self.start()
        except Exception as error:
            return self._refuse('start', error)
        self._active = True
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call `halt`."""
        self._release(keep_setup=True)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call `teardown`."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call what is left of `halt` and `teardown`."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Call what is left of `halt` and `teardown`; the node can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _start_self(self) -> None:
        self.destroy_timer(self._autostart)
        steps = (self.trigger_configure, self.trigger_activate)
        if any(step() != TransitionCallbackReturn.SUCCESS for step in steps):
            self.exit_code = EXIT_SETUP
        self.starting = False

    def _configure(self) -> None:
        if self.uses_contract:
            name = self.param('contract', DEFAULT_CONTRACT, 'embodiment: a name, or a YAML file')
            overrides = self.param(
                'contract_overrides', '', "YAML mapping, e.g. '{video.committed: 2}'"
            )
            self.contract = load_contract(name, parse_overrides(overrides))
        self._setup_entities = Entities(self)
        self.setup()

    def _refuse(self, what: str, error: Exception) -> TransitionCallbackReturn:
        self.get_logger().error(f'{what} failed: {describe(error)}')
        self.get_logger().debug(traceback.format_exc())
        self._release(keep_setup=what == 'start')
        return TransitionCallbackReturn.FAILURE

    def _release(self, keep_setup: bool = False) -> None:
        """The one way down: `halt`, then `teardown`, each once and only if its twin was called."""
        self._active = False
        self.stopping.set()
        if self._start_entities is not None:
            entities, self._start_entities = self._start_entities, None
            self._run_hook('halt', self.halt)
            if self.context.ok():
                entities.flush(LAST_WORD_S)
            entities.destroy_newer()
        if self._setup_entities is not None and not keep_setup:
            entities, self._setup_entities = self._setup_entities, None
            self._run_hook('teardown', self.teardown)
            entities.destroy_newer()

    def _run_hook(self, name: str, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception as error:
            # Whatever fails here, the rest of the way down must still be gone.
            self.get_logger().error(f'{name} failed: {describe(error)}\n{traceback.format_exc()}')

    # Diagnostics -----------------------------------------------------------------------------

    def publish_diagnostics(self) -> None:
        """Publish what was reported, and rate and latency of every monitored callback."""
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        callbacks: dict[str, Any] = {}
        for stats in self.monitor.read():
            callbacks[f'{stats.name} rate [Hz]'] = f'{stats.rate:.1f}'
            callbacks[f'{stats.name} mean [ms]'] = f'{stats.mean_ms:.2f}'
            callbacks[f'{stats.name} max [ms]'] = f'{stats.max_ms:.2f}'
            callbacks[f'{stats.name} longest gap [ms]'] = f'{stats.max_gap_ms:.1f}'
            callbacks[f'{stats.name} total'] = stats.total
            callbacks[f'{stats.name} errors'] = stats.errors
        state = self._state_machine.current_state[1]
        array.status.append(self._status('callbacks', OK, state, callbacks))
        for what, (level, message, values) in list(self._reports.items()):
            array.status.append(self._status(what, level, message, values))
        self._diagnostics.publish(array)

    def _status(
        self, what: str, level: bytes, message: str, values: Mapping[str, Any]
    ) -> DiagnosticStatus:
        pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return DiagnosticStatus(
            level=level,
            name=f'{self.get_fully_qualified_name()}: {what}',
            message=message,
            hardware_id=self.contract.embodiment if hasattr(self, 'contract') else '',
            values=pairs,
        )


__all__ = ['ERROR', 'OK', 'STALE', 'WARN', 'VeraNode', 'run_node']
