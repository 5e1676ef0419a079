"""What the cockpit knows, and what its pages are told of it: model, dreams, stage and web together.

Heard of in the node's thread; a page that opens is welcomed in the web server's: one lock.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup.cockpit.actions import Action
from vera_bringup.cockpit.dreams import Dream, Dreams, parts, stacked
from vera_bringup.cockpit.model import Controller, Goal, Model
from vera_bringup.cockpit.pictures import picture, shrink
from vera_bringup.cockpit.stage import Stage
from vera_bringup.cockpit.web import Say, Web
from vera_core.chunk import ActionChunk
from vera_core.contract import Contract
from vera_core.kinematics.description import description_text
from vera_drivers.scene import Scene

SCREEN_EVERY = 3  # camera images for one on the stage: those cost the browser more

Image = NDArray[np.uint8]


class Session:
    """One cockpit.

    Args:
        contract: of the robot.
        namespace: of its graph.
        description: URDF or xacro instead of the contract's, as `description_text` has it.

    Raises:
        UrdfError: the description cannot be used.
    """

    def __init__(self, contract: Contract, namespace: str, description: str = '') -> None:
        self._contract = contract
        self._model = Model(contract, contract.sim is not None, namespace)
        self._dreams = Dreams(contract)
        known = bool(description) or contract.kinematics is not None
        self._description = description_text(contract, description) if known else None
        self._scene = Scene(contract, self._description)
        self._lock = threading.Lock()
        # What a page that opens is shown of each dream, by plan and key.
        self._pictures: dict[str, dict[str, bytes]] = {}
        self._verdicts: dict[str, dict[str, Any]] = {}
        self._complaints: dict[str, str] = {}
        self._images = 0
        self._told = -math.inf
        self._web: Web | None = None
        self._stage: Stage | None = None

    def open(self, host: str, port: int, token: str, act: Callable[[Action, Say], None]) -> None:
        """Serve; see `Web` for the arguments and for what is raised."""
        self._web = Web(host, port, token, self._welcome, act)
        self._stage = Stage(self._web.viser, self._contract, self._description)

    @property
    def port(self) -> int:
        """That is served on."""
        return self._web.port if self._web else 0

    @property
    def watched(self) -> bool:
        """Whether somebody looks."""
        return self._web is not None and self._web.watched

    def close(self) -> None:
        """End it."""
        if self._web is not None:
            self._web.close()

    # Hearing ---------------------------------------------------------------------------------

    def hear_goal(self, goal: Goal) -> None:
        """See Model.hear_goal."""
        with self._lock:
            changed = self._model.hear_goal(goal)
            goals = self._model.goals() if changed else None
        if goals:
            self._post('goals', goals)
            self._post('status', self._model.status())

    def hear_controller(self, status: Controller, executed: tuple[int, int, int, float]) -> None:
        """A status, and (goal, plan, now ns, s left) of what is executed."""
        with self._lock:
            before = self._model.status()['state']
            self._model.hear_controller(status)
            self._dreams.executing(*executed)
            now = self._model.status()
        if now['state'] != before:
            self._post('status', now)

    def hear_plan(self, dream: Dream, latency: float) -> None:
        """A plan and the s that it took."""
        with self._lock:
            self._dreams.add(dream)
            self._model.point('planning', latency)
            kept = {d.name for d in self._dreams.plans}
            for store in (self._pictures, self._verdicts):
                for name in [n for n in store if n not in kept and n != dream.name]:
                    del store[name]
            self._pictures[dream.name] = {}
        if self.watched:
            self._post_plan(dream)

    def hear_verdict(self, goal_id: int, plan_seq: int, accepted: bool, reason: str) -> None:
        """Whether a plan may be executed; it may come before the plan itself does."""
        plan = f'{goal_id}-{plan_seq}'
        verdict = {'type': 'verdict', 'plan': plan, 'accepted': accepted, 'reason': reason}
        with self._lock:
            self._verdicts[plan] = verdict
        self._post(f'verdict {plan}', verdict)

    def hear_chunk(self, chunk: ActionChunk, q: NDArray[np.float64] | None) -> None:
        """Actions, and the joint positions at their anchor where they are known.

        Raises:
            ContractError, UrdfError: channels that are not the contract's.
        """
        with self._lock:
            if len(chunk.residual):
                self._model.point('residual', float(np.mean(chunk.residual)))
            self._model.point('translating', chunk.latency)
        if q is not None and self._stage is not None and self.watched:
            self._stage.path(self._scene.tool_path(chunk, q))

    def hear_image(self, camera: str, image: Image, stamp: int) -> None:
        """Of a camera, uint8 [height, width, 3].

        Raises:
            CanvasError: another size than the contract says.
        """
        with self._lock:
            self._dreams.see(camera, image, stamp)
        small = shrink(image)
        if self._web is not None:
            self._web.post(f'camera {camera}', picture(small, kind='camera', name=camera))
        self._images += 1
        if self._stage is not None and self._images % SCREEN_EVERY == 0:
            self._stage.show(camera, small)

    def hear_debug(self, name: str, strip: Image, stamp: int) -> None:
        """Flow or Jacobian of the plan with this anchor: pictures side by side."""
        with self._lock:
            dream = self._dreams.of_anchor(stamp)
        frames = parts(strip, self._contract.canvas.width)
        if dream is not None and frames is not None:
            self._keep(dream, name, picture(
                stacked(frames), kind=name, plan=dream.name, frames=len(frames)
            ))  # fmt: skip

    def hear_joints(self, q: NDArray[np.float64]) -> None:
        """Positions, float64 [j]."""
        if self._stage is not None:
            self._stage.pose(q)

    def complain(self, what: str, why: str) -> None:
        """Something that cannot be shown; why."""
        with self._lock:
            self._complaints[what] = why

    # Telling ---------------------------------------------------------------------------------

    def tell(self) -> None:
        """What is new; to be called ten times a second."""
        if not self.watched:
            return
        with self._lock:
            status = {**self._model.status(), 'complaints': dict(self._complaints)}
            self._complaints.clear()
            curves = self._model.curves(self._told)
            if curves['points']:
                self._told = curves['points'][-1][1]
            seen = list(self._dreams.happenings())
        self._post('status', status)
        if curves['points']:
            self._post(f'curves {self._told}', curves)
        for one in seen:
            name = f'happened {one.frame}'
            self._keep(one.dream, name, picture(
                one.canvas, kind='happened', plan=one.dream.name, frame=one.frame
            ))  # fmt: skip

    def _keep(self, dream: Dream, name: str, message: bytes) -> None:
        with self._lock:
            self._pictures.setdefault(dream.name, {})[name] = message
        if self._web is not None:
            self._web.post(f'{name} {dream.name}', message)

    def _post(self, key: str, message: dict[str, Any]) -> None:
        if self._web is not None:
            self._web.post(key, json.dumps(message))

    def _post_plan(self, dream: Dream) -> None:
        if self._web is not None:
            for key, message in self._plan(dream):
                self._web.post(key, message)

    @staticmethod
    def _plan(dream: Dream) -> list[tuple[str, str | bytes]]:
        """What is told of a plan: its numbers, and its frames one above the other."""
        frames = picture(stacked(dream.frames), kind='dream', plan=dream.name)
        told = json.dumps({'type': 'plan', **dream.told()})
        return [(f'plan {dream.name}', told), (f'dream {dream.name}', frames)]

    def _welcome(self) -> list[tuple[str, str | bytes]]:
        """What a page that opens is told first."""
        with self._lock:
            known = (
                ('hello', self._model.hello()), ('status', self._model.status()),
                ('goals', self._model.goals()), ('all curves', self._model.curves()),
            )  # fmt: skip
            messages: list[tuple[str, str | bytes]] = [(k, json.dumps(m)) for k, m in known]
            for dream in self._dreams.plans:
                messages += self._plan(dream)
                found = self._pictures.get(dream.name, {})
                messages += [(f'{name} {dream.name}', data) for name, data in found.items()]
                if dream.name in self._verdicts:
                    verdict = json.dumps(self._verdicts[dream.name])
                    messages.append((f'verdict {dream.name}', verdict))
        return messages


__all__ = ['Session']
