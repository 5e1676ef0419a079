"""The planner node with faults to order, by a word in the file VERA_TEST_PLANNER.

`out of memory`: what torch raises on a full GPU. `blocks`: a call that never returns and holds the
interpreter as long as Python lets it. `silent`: no plan comes, and nothing is held.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from vera_planner.nodes import planner_node

ORDER = Path(os.environ['VERA_TEST_PLANNER'])


class Faulty:
    """A planner that works until something else is ordered."""

    def __init__(self, planner: Any) -> None:
        self._planner = planner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planner, name)

    def plan(self, context: Any, prompt: str, *, seed: int = 0, warm_start: Any = None) -> Any:
        """As the planner's, unless there is an order."""
        if ORDER.read_text() == 'out of memory':
            import torch

            raise torch.OutOfMemoryError(
                'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of '
                '23.64 GiB of which 1.31 GiB is free.'
            )
        while (order := ORDER.read_text()) in ('blocks', 'silent'):
            if order == 'silent':
                time.sleep(0.05)
            else:
                sum(range(10**7))  # one call of the interpreter's own: no other thread runs
        return self._planner.plan(context, prompt, seed=seed, warm_start=warm_start)


if __name__ == '__main__':
    make = planner_node.make_planner
    planner_node.make_planner = lambda *a, **k: Faulty(make(*a, **k))  # type: ignore[assignment]
    sys.exit(planner_node.main())
