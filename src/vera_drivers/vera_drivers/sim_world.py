"""The simulated world on its own time line: state, camera grid, ground truth, the expert's future.

No clock, no ROS. The sim node and the pure lock-step evaluation drive the same class, so both get
the same numbers bit for bit: a tick is `step(command)`, then the images of `cameras_due()`, then
`robot_state()`, always in this order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vera_core import canvas
from vera_core.clocks import NS_PER_S, ns_to_seconds
from vera_core.contract import CameraSpec, Contract
from vera_core.seams import Environment, Image, RobotState
from vera_sim import DwellJudge, make_environment

Float = NDArray[np.float64]

EPISODE_GRID_NS = 10 * NS_PER_S  # lock-step episodes begin on whole multiples of this
HISTORY_S = 20.0  # how long simulated states are kept for `expert_future`
# Of a goal that is to be covered: where an evaluated episode ends (gym-pusht), and where its
# progress counts as 1 (VERA's reward).
FULL_COVERAGE, REWARD_COVERAGE = 0.95, 0.82


class WorldError(ValueError):
    """The simulated world cannot do what was asked; the message says why."""


class SimEnvironment(Environment, Protocol):
    """What the world asks of an environment beyond the seam: ground truth and an expert.

    One in which more than the joints moves also has `scene()`, all that moves, which its
    `expert_rollout` takes as `scene`. One whose goal is to be covered has `coverage()`, the share
    that is covered, and `success_coverage`, the share that is asked for. One with several cameras
    has `camera_names` and `render_views()`, an image of each, and its `expert_rollout` gives such
    dictionaries. One that is `concurrent` also has `render_scene(scene)`; that and
    `expert_rollout` may run in threads of their own while it steps. One whose `tip` and
    `distances` are not in pixels has `rest`, how far the tip may move in the dwell time and still
    rest. One some of whose objects cannot be reached in every scene has `askable`, those that can.
    """

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects in the scene."""

    def set_state(self, q: Float, dq: Float | None = None) -> None:
        """Put the joints at `q` [rad] with velocity `dq` [rad/s]."""

    def distances(self) -> Float:
        """From the tip to each object, pixels of the canvas."""

    def inside(self) -> NDArray[np.bool_]:
        """Whether the tip is inside each object."""

    def tip(self) -> Float:
        """Where the tip is, pixels of the canvas."""

    def parse(self, text: str) -> str | None:
        """The object that a goal in words names, or None."""

    def expert_rollout(self, target: str, frames: int, q: Float | None = None) -> list[Image]:
        """The expert's next `frames` camera images, starting from `q`."""

    def expert_view(self, target: str, frames: int, q: Float | None = None) -> Any:
        """The last of `expert_rollout` alone."""

    def progress(self, target: str, start: float) -> float:
        """Share of the way from a start distance [px of the canvas] to the object, 0..1."""


@dataclass(frozen=True)
class GroundTruth:
    """What evaluation and viewers may know, and nothing in the control path may.

    Attributes:
        stamp: simulated time, ns. seed: of the episode.
        objects: names; distances: float64 [px of the canvas]; inside: bool, one for each object.
        dwelled: the first object in which the tip stayed for the dwell time; '' if none.
        coverage: share of the goal that is covered, 0..1; NaN where no goal is to be covered.
        best_coverage: the largest of the episode, sampled each `video.frame_period`.
    """

    stamp: int
    seed: int
    objects: tuple[str, ...]
    distances: Float
    inside: NDArray[np.bool_]
    dwelled: str
    coverage: float = float('nan')
    best_coverage: float = float('nan')


class SimWorld:
    """An environment, its time line, its cameras and its judge.

    Args:
        contract: needs a `sim` part and cameras that the environment has.
        env: the environment; its joints are the contract's, in any order.
        dwell: frames of `video.frame_period` that the tip must stay in an object.

    Attributes:
        success_coverage: share of the goal that is asked for; None where none is to be covered.
        best_coverage: see GroundTruth.
        concurrent: whether `glimpse` and `expert_future` may be used while others step it.

    Raises:
        WorldError: joints or cameras that do not fit the contract.
    """

    def __init__(self, contract: Contract, env: SimEnvironment, dwell: int = 5) -> None:
        if sorted(env.joint_names) != sorted(contract.joint_names):
            raise WorldError(
                f'the environment has joints {", ".join(env.joint_names)}, the contract '
                f'{", ".join(contract.joint_names)}; make sim.options fit the joints'
            )
        has: tuple[str, ...] | None = getattr(env, 'camera_names', None)
        if has is None and len(contract.cameras) != 1:
            raise WorldError(
                f'the simulated world has one camera, the contract {len(contract.cameras)}: '
                f'{", ".join(contract.camera_names)}'
            )
        for camera in contract.cameras if has is not None else ():
            if camera.name not in (has or ()):
                raise WorldError(
                    f'the simulated world has no camera {camera.name!r}; it has '
                    f'{", ".join(has or ())}'
                )
        self.contract = contract
        self.env = env
        self._several = has is not None
        self.concurrent = bool(getattr(env, 'concurrent', False))
        self._dwell, self._rest = dwell, float(getattr(env, 'rest', 3.0))
        # Arrays here follow the contract; the environment may order its joints differently.
        self._to_env = [contract.joint_names.index(name) for name in env.joint_names]
        self._to_contract = [env.joint_names.index(name) for name in contract.joint_names]
        self._scene = getattr(env, 'scene', lambda: None)
        self._coverage = getattr(env, 'coverage', lambda: float('nan'))
        self.success_coverage: float | None = getattr(env, 'success_coverage', None)
        self._ring: deque[tuple[int, Float, Any]] = deque(
            maxlen=int(HISTORY_S * contract.control.rate)
        )
        self.reset(0, 0)

    def reset(self, seed: int, stamp: int) -> None:
        """Begin the episode of `seed` at `stamp` ns: at rest, images of all cameras due."""
        self.env.reset(seed)
        self.seed = seed
        self.stamp = stamp
        self._target = self.positions()
        self._views: dict[str, Image] | None = None
        self._judge = DwellJudge(self._dwell, self._rest)
        self._dwelled = ''
        self.best_coverage = float('nan')
        self._ring.clear()
        self._begin_grids()
        self._observe()

    def again(self) -> None:
        """Another episode in the scene as it stands: nothing counts as reached, images are due."""
        self._judge = DwellJudge(self._dwell)
        self._dwelled = ''
        self.best_coverage = float('nan')
        self._begin_grids()

    def next_episode(self) -> int:
        """Stamp [ns] at which a lock-step episode begins: simulated time never goes back."""
        return (self.stamp // EPISODE_GRID_NS + 1) * EPISODE_GRID_NS

    def step(
        self, target: Float | None = None, dt_ns: int | None = None, stamp: int | None = None
    ) -> None:
        """Advance towards a set-point and keep what came of it.

        Args:
            target: joint set-point by the contract's order [rad or m]; None holds the last one.
            dt_ns: one control period unless told.
            stamp: of the state after the step; the last one plus `dt_ns` unless told.
        """
        if target is not None:
            self._target = np.array(target, dtype=np.float64)
        # The very dt of the control loop: evaluation and graph must integrate the same float.
        dt = self.contract.control.period if dt_ns is None else ns_to_seconds(dt_ns)
        self.env.step(self._target[self._to_env], dt)
        self._views = None
        before = self.stamp
        after = before + (self.contract.control.period_ns if dt_ns is None else dt_ns)
        self.stamp = after if stamp is None else stamp
        if self.stamp <= before:
            # Only a live clock can be set back: what was kept belongs to another time.
            self._ring.clear()
            self._begin_grids()
        self._observe()

    def positions(self) -> Float:
        """Joint positions by the contract's order, float64 [j], rad or m."""
        return self.env.state()[0][self._to_contract]

    def robot_state(self) -> RobotState:
        """The state now, as an ideal encoder measures it."""
        q, dq = self.env.state()
        return RobotState(self.stamp, q[self._to_contract], dq[self._to_contract])

    def cameras_due(self) -> tuple[CameraSpec, ...]:
        """Cameras whose grid (every 1/rate s from the reset) was reached since the last call."""
        due = []
        for camera in self.contract.cameras:
            # By the rate, not by its rounded period: at 15 Hz a frame is due at 0.2 s sharp.
            count = int((self.stamp - self._origin) * camera.rate / NS_PER_S + 1e-6)
            if count > self._taken[camera.name]:
                self._taken[camera.name] = count
                due.append(camera)
        return tuple(due)

    def image(self, camera: CameraSpec) -> Image:
        """What a camera sees now, uint8 [height, width, 3].

        Raises:
            WorldError: the environment pictures another size than the contract says.
        """
        return self._sized(self._seen()[camera.name], camera)

    def _seen(self) -> dict[str, Image]:
        """All views of this moment, made once."""
        if self._views is None:
            self._views = (
                self.env.render_views()  # type: ignore[attr-defined]
                if self._several
                else {self.contract.cameras[0].name: self.env.render()}
            )
        return self._views

    @staticmethod
    def _sized(image: Image, camera: CameraSpec) -> Image:
        if image.shape != (camera.height, camera.width, 3):
            raise WorldError(
                f'the environment pictures {image.shape[1]}x{image.shape[0]}, camera '
                f'{camera.name!r} is {camera.width}x{camera.height} in the contract'
            )
        return image

    def glimpse(self) -> Callable[[], dict[str, Image]]:
        """What its cameras see at this moment, to be drawn later, by another thread.

        Only of a `concurrent` world. The images are by camera name, uint8 [height, width, 3].
        """
        scene, cameras = self._scene(), self.contract.cameras

        def draw() -> dict[str, Image]:
            views = self.env.render_scene(scene)  # type: ignore[attr-defined]
            return {c.name: self._sized(views[c.name], c) for c in cameras}

        return draw

    def canvas(self) -> Image:
        """All views now on the canvas, uint8 [H, W, 3]: the planner's frame."""
        return canvas.tile({c.name: self.image(c) for c in self.contract.cameras}, self.contract)

    def truth(self) -> GroundTruth:
        """Ground truth now."""
        return GroundTruth(
            stamp=self.stamp,
            seed=self.seed,
            objects=self.env.objects,
            distances=self.env.distances(),
            inside=self.env.inside(),
            dwelled=self._dwelled,
            coverage=self._coverage(),
            best_coverage=self.best_coverage,
        )

    @property
    def reached(self) -> str:
        """The object that this episode has reached, '' if none yet: see `reached_object`."""
        return reached_object(
            self.success_coverage, self.env.objects, self._dwelled, self.best_coverage
        )

    @property
    def over(self) -> bool:
        """Whether an evaluated episode has nothing more to show."""
        return is_over(self.success_coverage, self._dwelled, self.best_coverage)

    def progress(self, target: str, start: float) -> float:
        """How far the episode has come, 0..1.

        Where a goal is to be covered: VERA's largest reward, clip(coverage / 0.82, 0, 1). Else 1
        once the tip stayed in `target`, before that the share of the way there from the distance
        `start` [px of the canvas].
        """
        if self.success_coverage is not None:
            return covered_progress(self.best_coverage)
        return 1.0 if self._dwelled == target else self.env.progress(target, start)

    def positions_at(self, stamp: int) -> Float:
        """The kept joint positions nearest to `stamp` [ns], by the contract's order.

        Raises:
            WorldError: no state within two control periods of it is kept.
        """
        return self._kept(stamp)[1].copy()

    def _kept(self, stamp: int) -> tuple[int, Float, Any]:
        nearest = min(list(self._ring), key=lambda kept: abs(kept[0] - stamp))
        if abs(nearest[0] - stamp) > 2 * self.contract.control.period_ns:
            first, last = self._ring[0][0], self._ring[-1][0]
            raise WorldError(
                f'no simulated state at {ns_to_seconds(stamp):.3f} s is kept; this episode has '
                f'{ns_to_seconds(first):.3f} to {ns_to_seconds(last):.3f} s'
            )
        return nearest

    def expert_future(self, prompt: str, anchor: int, frames: int) -> Image:
        """Privileged: the canvases that the scripted expert would produce after `anchor`.

        Args:
            prompt: one of the environment's own phrasings.
            anchor: stamp [ns] of the simulated state to start from.
            frames: how many, one each `video.frame_period`.

        Returns:
            uint8 [frames, H, W, 3].

        Raises:
            WorldError: the prompt names no object of the scene, or the state is not kept.
        """
        if frames < 1:
            raise WorldError(f'{frames} frames of the expert were asked for; it takes at least 1')
        target = self._target_of(prompt)
        begin = self.kept_state(anchor)
        views: list[Any] = list(self.env.expert_rollout(target, frames, **begin))
        return np.stack([self._tiled(view) for view in views])

    def kept_state(self, stamp: int) -> dict[str, Any]:
        """What was where at `stamp` [ns], as the environment's `expert_rollout` takes it.

        Raises:
            WorldError: that state is not kept.
        """
        _, positions, scene = self._kept(stamp)
        return {'q': positions[self._to_env]} if scene is None else {'scene': scene}

    def expert_view(self, target: str, frames: int, state: dict[str, Any]) -> Image:
        """Privileged: the canvas `frames` frame periods after the expert began at a kept state.

        Args:
            target: an object of the scene.
            frames: at least 1.
            state: of `kept_state`, of this world or of another one with the same scene.
        """
        return self._tiled(self.env.expert_view(target, frames, **state))

    def _tiled(self, view: Any) -> Image:
        """The canvas of an environment's view: an image, or one for each camera."""
        names = self.contract.camera_names
        views = view if self._several else {names[0]: view}
        return canvas.tile({name: views[name] for name in names}, self.contract)

    def expert_actions(self, prompt: str, anchor: int, count: int) -> Float:
        """Privileged: what the scripted expert itself would do after `anchor`.

        Args:
            prompt: one of the environment's own phrasings.
            anchor: stamp [ns] of the simulated state to start from.
            count: of frame periods.

        Returns:
            float64 [count, n], actions in the units of the contract's channels.

        Raises:
            WorldError: the environment's expert has no actions for these channels, the prompt
                names no goal of the scene, or the state is not kept.
        """
        actions = getattr(self.env, 'expert_actions', None)
        names = getattr(self.env, 'expert_channels', ())
        if actions is None or sorted(names) != sorted(self.contract.channel_names):
            raise WorldError(
                f'the expert of {self.contract.embodiment!r} has no actions for the channels '
                f'{", ".join(self.contract.channel_names)}; use --planner oracle'
            )
        target = self._target_of(prompt)
        values: Float = actions(target, count, self._kept(anchor)[2])
        return values[:, [names.index(name) for name in self.contract.channel_names]]

    def _target_of(self, prompt: str) -> str:
        target = self.env.parse(prompt)
        if target is None:
            objects = ', '.join(self.env.objects) or 'none'
            raise WorldError(
                f'the expert knows no goal {prompt!r}; objects of the scene: {objects}'
            )
        return target

    def _begin_grids(self) -> None:
        self._origin = self.stamp
        self._taken = {camera.name: -1 for camera in self.contract.cameras}
        self._judged = -1

    def _observe(self) -> None:
        self._ring.append((self.stamp, self.positions(), self._scene()))
        frame = (self.stamp - self._origin) // self.contract.video.frame_period_ns
        if frame > self._judged:
            self._judged = frame
            # NaN stays NaN, and before the first one anything is larger.
            self.best_coverage = float(np.fmax(self.best_coverage, self._coverage()))
            found = self._judge.observe(
                self.env.objects, self.env.inside(), self.env.tip()
            )
            self._dwelled = self._dwelled or found or ''


def reached_object(
    success: float | None, objects: Sequence[str], dwelled: str, best_coverage: float
) -> str:
    """The object that an episode has reached, '' if none.

    Args:
        success: coverage that is asked for; None where no goal is to be covered.
        objects: names of what is in the scene.
        dwelled: the first of them in which the tip stayed; '' if none.
        best_coverage: the largest of the episode.

    Returns:
        `dwelled`; where a goal is to be covered, the goal if its largest coverage was enough, for
        however short, as gym-pusht and VERA count.
    """
    if success is None:
        return dwelled
    return objects[0] if best_coverage >= success else ''


def is_over(success: float | None, dwelled: str, best_coverage: float) -> bool:
    """Whether an evaluated episode has nothing more to show; arguments as of `reached_object`."""
    if success is None:
        return bool(dwelled)
    return best_coverage >= max(FULL_COVERAGE, success)


def covered_progress(best_coverage: float) -> float:
    """VERA's reward of the largest coverage of an episode, 0..1."""
    return float(np.clip(best_coverage / REWARD_COVERAGE, 0, 1))


def make_world(contract: Contract, dwell: int = 5) -> SimWorld:
    """The world that the contract's `sim` part describes.

    Raises:
        WorldError: the contract has no such part, or it does not fit.
    """
    if contract.sim is None:
        raise WorldError(
            f'embodiment {contract.embodiment!r} has no `sim` part; it cannot be simulated'
        )
    try:
        env = make_environment(
            contract.sim.environment, contract.sim.options, contract.cameras[0].width
        )
    except (TypeError, ValueError) as error:
        raise WorldError(f'sim.environment {contract.sim.environment!r}: {error}') from error
    return SimWorld(contract, env, dwell)


__all__ = [
    'FULL_COVERAGE',
    'GroundTruth',
    'SimEnvironment',
    'SimWorld',
    'WorldError',
    'covered_progress',
    'is_over',
    'make_world',
    'reached_object',
]
