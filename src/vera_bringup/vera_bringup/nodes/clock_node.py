"""Compares this machine's clock with the clock of the controller's machine.

Started by a part of a graph only. Camera stamps, plans and chunks are compared with the
controller's clock; a machine whose clock is off would make it start them early, late or never. The
part on such a machine goes down with the reason: NTP cures clocks, a robot should not guess.
"""

from __future__ import annotations

import socket
import sys

from rclpy.clock import Clock, ClockType

from vera_bringup.nodes.clock_exchange import ClockAnswerer, ClockAsker
from vera_core.nodes.base import OK, WARN, VeraNode, run_node
from vera_core.nodes.run import EXIT_SETUP

PERIOD_S = 0.5
ENOUGH = 8  # answers before it judges
CURE = 'run an NTP client on both machines (sudo apt install chrony; chronyc tracking)'


class ClockNode(VeraNode):
    """With `reference` it answers; without, it asks, and ends when the clocks are too far apart."""

    uses_contract = False

    def __init__(self) -> None:
        super().__init__('clock')

    def setup(self) -> None:
        self._reference = self.param(
            'reference', False, "this is the controller's machine, whose clock counts"
        )
        self._limit = self.param(
            'limit', 0.02, '[s] that clocks may be apart', low=0.001, high=1.0
        )

    def start(self) -> None:
        if self._reference:
            ClockAnswerer(self)
            return
        self._asker = ClockAsker(self, f'{socket.gethostname()}/{self.get_name()}')
        self._told = ''
        self.create_timer(PERIOD_S, self._compare, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _compare(self) -> None:
        offset = self._asker.filter.best
        if offset is None:
            self.report('clock', WARN, "the controller's machine has not answered yet")
        elif len(self._asker.filter) >= ENOUGH:
            text = f"this machine's clock is {offset}, the controller's machine"
            certain = offset.within(self._limit)
            self.report(
                'clock', OK if certain else WARN, text,
                offset_ms=f'{1e3 * offset.seconds:.2f}',
                uncertainty_ms=f'{1e3 * offset.uncertainty:.2f}',
            )  # fmt: skip
            if offset.beyond(self._limit):
                self.fail(f'{text}; at most {1e3 * self._limit:g} ms will do: {CURE}', EXIT_SETUP)
                return
            if not self._told:
                self._told = text
                self.get_logger().info(text)
        self._asker.ask()


def main() -> int:
    """Entry point of the executable."""
    return run_node(ClockNode)


if __name__ == '__main__':
    sys.exit(main())
