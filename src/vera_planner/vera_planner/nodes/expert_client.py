"""Where the oracle planner gets the future from in the node graph. Privileged: simulation only."""

from __future__ import annotations

import threading

from rclpy.node import Node

from vera_core.nodes.convert import frames_from_msgs, stamp_to_msg
from vera_core.seams import Image
from vera_msgs.srv import ExpertFuture
from vera_planner.goal import PlanRefusedError
from vera_planner.planning import PlanError


class ExpertClient:
    """Asks the sim node's `expert_future`. Call it from a thread that does not spin the node."""

    def __init__(self, node: Node, stopping: threading.Event, timeout: float = 5.0) -> None:
        self._client = node.create_client(ExpertFuture, 'expert_future')
        self._name = node.resolve_service_name('expert_future')
        self._stopping = stopping
        self._timeout = timeout

    def __call__(self, prompt: str, anchor: int, frames: int, /) -> Image:
        """The expert's next `frames` canvases, uint8 [frames, H, W, 3].

        Raises:
            PlanRefusedError: the simulation refuses, e.g. the prompt names nothing in the scene.
            PlanError: no simulation answers.
        """
        name = self._name
        waited = 0.0
        while not self._client.wait_for_service(0.1):
            waited += 0.1
            if waited >= self._timeout or self._stopping.is_set():
                raise PlanError(
                    f'nobody serves {name}: the oracle exists only in simulation; start the sim '
                    'node, or choose another planner'
                )
        request = ExpertFuture.Request(prompt=prompt, anchor=stamp_to_msg(anchor), frames=frames)
        answered = threading.Event()
        future = self._client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(self._timeout):
            self._client.remove_pending_request(future)
            raise PlanError(f'{name} did not answer within {self._timeout:g} s')
        response = future.result()
        if not response.success:
            raise PlanRefusedError(response.message)
        return frames_from_msgs(response.frames)
