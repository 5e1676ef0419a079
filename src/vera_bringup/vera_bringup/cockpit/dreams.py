"""The dream beside what happened: the last plans, and what the cameras saw when they were due.

Times are nanoseconds of the graph's clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup.executions import Executions
from vera_core.canvas import fit, slots
from vera_core.contract import Contract

PLANS = 12  # kept
SECONDS = 12.0  # of camera views kept
# A moment after the time that a frame imagines its picture must be here, or never comes.
SETTLED = 300_000_000

Image = NDArray[np.uint8]


@dataclass(eq=False)
class Dream:
    """One plan.

    Attributes:
        goal_id, plan_seq: as in VisualPlan.
        anchor: when o_t was seen, ns.
        frames: uint8 [1 + M, H, W, 3], o_t and what is imagined to follow.
        stamps: [1 + M] ns, of the frames.
        committed: how many of the M are meant to be executed.
        pending: how many of them are still those of the plan before.
        prompt, planner, motion: as in VisualPlan.
        happened: frame -> whether the cameras were there to see it; missing: still to come.
    """

    goal_id: int
    plan_seq: int
    anchor: int
    frames: Image
    stamps: tuple[int, ...]
    committed: int
    pending: int = 0
    prompt: str = ''
    planner: str = ''
    motion: float = 0.0
    happened: dict[int, bool] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique among the plans of a planner's life."""
        return f'{self.goal_id}-{self.plan_seq}'

    def told(self) -> dict[str, Any]:
        """What the page is told of it, but for the pictures."""
        return {
            'plan': self.name,
            'goal_id': self.goal_id,
            'plan_seq': self.plan_seq,
            'prompt': self.prompt,
            'planner': self.planner,
            'frames': len(self.frames),
            'committed': self.committed,
            'pending': self.pending,
            'motion': round(float(self.motion), 2),
            'seconds': [round((stamp - self.anchor) / 1e9, 3) for stamp in self.stamps],
        }

    @property
    def duration(self) -> int:
        """Of the committed frames, ns."""
        return self.stamps[min(self.committed, len(self.stamps) - 1)] - self.anchor


@dataclass(frozen=True, eq=False)
class Happening:
    """What was seen when frame `frame` of a dream was due: canvas uint8 [H, W, 3]."""

    dream: Dream
    frame: int
    canvas: Image


class Dreams:
    """The last plans and the last seconds of the cameras.

    Args:
        contract: cameras and canvas.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._cameras = {camera.name: camera for camera in contract.cameras}
        self._slots = slots(contract)
        self._views: dict[str, deque[tuple[int, Image]]] = {
            name: deque(maxlen=int(SECONDS * 30)) for name in self._cameras
        }
        self._executions = Executions()
        self._plans: OrderedDict[str, Dream] = OrderedDict()

    @property
    def plans(self) -> list[Dream]:
        """Oldest first."""
        return list(self._plans.values())

    def add(self, dream: Dream) -> None:
        """Take a plan; the oldest is forgotten."""
        self._plans[dream.name] = dream
        while len(self._plans) > PLANS:
            self._plans.popitem(last=False)

    def of_anchor(self, stamp: int) -> Dream | None:
        """The newest plan with this anchor stamp."""
        return next((d for d in reversed(self._plans.values()) if d.anchor == stamp), None)

    def executing(self, goal_id: int, plan_seq: int, now: int, remaining: float) -> None:
        """The controller says which plan it executes and how many s of it are left."""
        if plan_seq:
            self._executions.note(goal_id, plan_seq, now, remaining)

    def see(self, camera: str, image: Image, stamp: int) -> None:
        """Take a camera image, uint8 [height, width, 3] as the contract says.

        Raises:
            CanvasError: an image of another size.
        """
        columns = self._slots[camera]
        height, width = self._contract.canvas.height, columns.stop - columns.start
        views = self._views[camera]
        if views and stamp <= views[-1][0]:
            views.clear()  # the clock of the simulation was set back
        views.append((stamp, np.array(fit(image, self._cameras[camera], height, width))))
        while views[0][0] < stamp - SECONDS * 1e9:
            views.popleft()

    def happenings(self) -> Iterator[Happening]:
        """What can be said now, each once: which frames have come, and what was seen then."""
        newest = min((v[-1][0] if v else 0 for v in self._views.values()), default=0)
        for dream in self.plans:
            late = (
                self._executions.of(dream.goal_id, dream.plan_seq, dream.anchor, dream.duration)[0]
                - dream.anchor
            )
            for k, stamp in enumerate(dream.stamps):
                due = stamp + (late if k else 0)
                if k in dream.happened or newest < due + (SETTLED if k else 0):
                    continue
                canvas = self._canvas(due)
                dream.happened[k] = canvas is not None
                if canvas is not None:
                    yield Happening(dream, k, canvas)

    def _canvas(self, stamp: int) -> Image | None:
        """All views nearest to `stamp`; None where one is further off than half a frame period."""
        size = self._contract.canvas
        canvas = np.zeros((size.height, size.width, 3), np.uint8)
        most = self._contract.video.frame_period * 1e9 / 2 + 5e7
        for name, views in self._views.items():
            nearest, view = min(views, key=lambda seen: abs(seen[0] - stamp))
            if abs(nearest - stamp) > most:
                return None
            canvas[:, self._slots[name]] = view
        return canvas


def stacked(frames: Image) -> Image:
    """Frames [n, H, W, 3] one above the other, [n * H, W, 3]."""
    return np.ascontiguousarray(frames.reshape(-1, *frames.shape[2:]))


def parts(strip: Image, width: int) -> Image | None:
    """The pictures side by side in a strip, [n, H, width, 3]; None if it holds no whole number."""
    height, total = strip.shape[:2]
    if not width or total % width:
        return None
    return np.ascontiguousarray(
        strip.reshape(height, total // width, width, 3).transpose(1, 0, 2, 3)
    )


__all__ = ['Dream', 'Dreams', 'Happening', 'parts', 'stacked']
