"""A planner server in a process of its own, for tests that kill it: PORT SECONDS_PER_PLAN."""

from __future__ import annotations

import asyncio
import sys
import time

import numpy as np

from vera_core.contract import load_contract
from vera_core.seams import Plan
from vera_planner.remote.server import PlannerServer


class Slow:
    planner_id, checkpoint_hash = 'slow', 'fedcba9876543210'

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        print('planning', flush=True)
        time.sleep(float(sys.argv[2]))
        frames = np.repeat(context[-1:], 4, axis=0)
        frames[:, :8, :8] ^= 255
        return Plan(frames, 0.2)


def main() -> None:
    server = PlannerServer(Slow(), load_contract('finger'), port=int(sys.argv[1]))
    asyncio.run(server.serve(lambda: print(server.port, flush=True)))


if __name__ == '__main__':
    main()
