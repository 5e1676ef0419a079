"""The Panda's table behind the Environment seam: MuJoCo, three cameras, six tasks in words."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vera_core.kinematics.arm import Arm
from vera_core.kinematics.camera import Camera
from vera_core.kinematics.transforms import Float, rotation_about, transform
from vera_sim import panda_scene
from vera_sim.language import Instruction
from vera_sim.panda_expert import Move, decide, tool_rotation
from vera_sim.panda_model import (
    ARM_JOINTS,
    CUBE_HALF,
    CUBES,
    FINGER_SPEED,
    JOINTS,
    TABLE,
    TIMESTEP,
    TIP,
    TOOL,
    cube_name,
    load_model,
    mujoco,
)
from vera_sim.panda_scene import SETS, Scene, feasible
from vera_sim.panda_tasks import (
    BASIC,
    HELD_OUT,
    TASKS,
    TRAINING,
    Goal,
    Situation,
    done,
    goals,
    remaining,
    vocabulary,
)
from vera_sim.ray_painter import RayPainter, Solid

if TYPE_CHECKING:
    from vera_sim.panda_gl import GlPainter

Image = NDArray[np.uint8]

# Of which tasks an episode may be, by name.
SOME = {'any': TASKS, 'basic': BASIC, **{task: (task,) for task in TASKS}}
ANY = 'any'
FRAME = 0.2  # s, period of the contract's video: of one step of the expert
TICK = 0.01  # s, period of set-points within it
# Arm posture from which inverse kinematics starts, and to which the spare joint is drawn [rad].
REST = np.array([0.0, -0.35, 0.0, -2.35, 0.0, 2.0, 0.785])
_PARKED = np.array([0.0, 0.0, -3.0])
_SETTLE = 0.25  # s of physics before an episode begins


@dataclass(frozen=True, eq=False)
class PandaState:
    """All that moves: MuJoCo's physics, set-points and mocap bodies, one vector float64."""

    vector: Float


class PandaEnv:
    """The arm, three cubes, and sometimes a bowl and a button, seen by three cameras.

    Joints are `panda_joint1` .. `panda_joint7` [rad] and `panda_finger_joint1` [m], the opening of
    one finger; the other mirrors it. The base is the world's origin, the table's top z = 0.

    Args:
        size: side of each picture, pixels.
        task: which task an episode is about, see panda_tasks.TASKS; 'any': one of them at random;
            'basic': one of panda_tasks.BASIC.
        colours: of the cubes: 'training', 'held_out' or 'all'.
        jitter: how much cameras, light and colours vary, 1 as in training; 0 is the calibration.
        renderer: 'painter', our own, needs nothing; 'gl' is MuJoCo's through EGL or OSMesa;
            'auto' takes gl where it opens. The weights that ship know the painter.
        samples: rays along each side of a pixel, of the painter.

    Raises:
        ValueError: an option out of its range; MuJoCo is missing; no GL opens for 'gl'.
    """

    joint_names = JOINTS
    camera_names = panda_scene.CAMERAS
    # Pictures and the expert's future may be made while it steps: each has data of its own.
    concurrent = True
    # Columns of `expert_actions`, by the contract's names.
    expert_channels = ('x', 'y', 'z', 'rx', 'ry', 'rz', 'gripper')
    # How far the tip may move in the dwell time and still rest [m].
    rest = 0.015

    def __init__(
        self,
        size: int = 96,
        task: str = ANY,
        colours: str = 'training',
        jitter: float = 1.0,
        renderer: str = 'painter',
        samples: int = 2,
    ) -> None:
        if task not in SOME:
            raise ValueError(f'no task {task!r}; there are {", ".join(SOME)}')
        if colours not in SETS:
            raise ValueError(f'no set of colours {colours!r}; there are {", ".join(SETS)}')
        if not 0 <= jitter <= 3:
            raise ValueError(f'jitter is {jitter:g}; it lies in 0..3')
        if renderer not in ('auto', 'painter', 'gl'):
            raise ValueError(f'no renderer {renderer!r}; there are auto, painter, gl')
        self.size = size
        self.tasks = SOME[task]
        self._colours, self._jitter = colours, jitter
        self._mj = mujoco()
        made = load_model()
        self._made, self._model = made, made.model
        self._signature = int(
            self._mj.mjtState.mjSTATE_FULLPHYSICS.value
            | self._mj.mjtState.mjSTATE_CTRL.value
            | self._mj.mjtState.mjSTATE_MOCAP_POS.value
            | self._mj.mjtState.mjSTATE_MOCAP_QUAT.value
            | self._mj.mjtState.mjSTATE_WARMSTART.value
        )
        self._state_size = self._mj.mj_stateSize(self._model, self._signature)
        # Stepped, pictured and foreseen apart: MuJoCo dies if one is read while it steps.
        self._data, self._shown, self._scratch = (
            self._mj.MjData(self._model) for _ in range(3)
        )
        self._lock = threading.RLock()
        self._seeing, self._foreseeing = threading.Lock(), threading.Lock()
        self.arm = Arm.from_urdf(made.urdf, ARM_JOINTS, TOOL)
        self._limits = self._model.actuator_ctrlrange[:8].T.copy()
        self._hand = made.bodies.index('panda_hand')
        self._base = made.bodies.index('panda_link0')
        self._tool_id = self._model.body(TOOL).id
        self._cube_ids = [self._model.body(cube_name(i)).id for i in range(CUBES)]
        self._cube_dofs = [int(self._model.joint(cube_name(i)).dofadr[0]) for i in range(CUBES)]
        self._button_joint = int(self._model.joint('button').qposadr[0])
        self._mocap = {
            name: int(self._model.body_mocapid[self._model.body(name).id])
            for name in ('bowl', 'button')
        }
        solids = [part.solid for part in made.parts]
        self._rays = RayPainter(solids, TABLE, samples)
        self.renderer, self._painter = self._choose(renderer, solids)
        self.reset(0)

    def _choose(self, renderer: str, solids: list[Solid]) -> tuple[str, RayPainter | GlPainter]:
        if renderer != 'painter':
            from vera_sim.panda_gl import GlPainter

            try:
                painter = GlPainter(solids, TABLE, len(self.camera_names), self.size)
                return painter.backend, painter
            except ValueError:
                if renderer == 'gl':
                    raise
        return 'painter', self._rays

    # Episodes -------------------------------------------------------------------------------

    def reset(self, seed: int) -> None:
        """Start the episode of this seed: task, scene, posture, cameras and light are drawn."""
        rng = np.random.default_rng(seed)
        while True:
            task = self.tasks[int(rng.integers(len(self.tasks)))]
            scene = panda_scene.draw(rng, task, self._colours, self.size, self._jitter)
            q = self._posture(scene.tool, scene.yaw)
            if q is not None:
                break
        self.begin(scene, np.array([*q, scene.opening]))

    def begin(self, scene: Scene, q: Float) -> None:
        """Start an episode in this scene, at rest at `q` [8]."""
        with self._seeing, self._foreseeing, self._lock:
            self.scene_info = scene
            data, mj = self._data, self._mj
            mj.mj_resetData(self._model, data)
            for i, (x, y, yaw) in enumerate(scene.cubes):
                at = int(self._model.joint(cube_name(i)).qposadr[0])
                data.qpos[at : at + 7] = (
                    x, y, CUBE_HALF, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2),
                )
            for name, foot in (('bowl', scene.bowl), ('button', scene.button)):
                place = _PARKED if foot is None else np.array([*foot, 0.0])
                data.mocap_pos[self._mocap[name]] = place
            self._put(q, np.zeros(8))
            mj.mj_step(self._model, data, round(_SETTLE / TIMESTEP))
            mj.mj_kinematics(self._model, data)
            self._starts = data.xpos[self._cube_ids].copy()
            known = [
                goal
                for task in TASKS
                for goal in goals(
                    task, scene.colours, scene.bowl is not None, scene.button is not None
                )
            ]
            self._goals = {goal.name: goal for goal in known}
            self._words = vocabulary(known)
            self._paints = np.array(
                [self._paint(p.item) if p.colour is None else p.colour for p in self._made.parts]
            )
            self._visible = np.array(
                [
                    not (part.item == 'bowl' and scene.bowl is None)
                    and not (part.item.startswith('button') and scene.button is None)
                    for part in self._made.parts
                ]
            )

    def _paint(self, item: str) -> Any:
        scene = self.scene_info
        if item.startswith('cube'):
            return tuple(scene.paints[int(item[4:])])
        return scene.bowl_paint if item == 'bowl' else scene.button_paint

    def _posture(self, place: Float, yaw: float) -> Float | None:
        found = self.arm.solve(tool_rotation(yaw), place, REST, rest=REST)
        return found.q if found.converged else None

    # The Environment seam -------------------------------------------------------------------

    def step(self, target: Float, dt: float) -> None:
        """Advance by `dt` seconds towards the set-point `target` [8], rad and m.

        Raises:
            ValueError: a set-point of another shape, or one that is not finite.
        """
        target = np.asarray(target, np.float64)
        if target.shape != (8,) or not np.isfinite(target).all():
            raise ValueError(
                f'set-point {target.tolist()}; 8 finite numbers are needed: {", ".join(JOINTS)}'
            )
        with self._lock:
            self._advance(self._data, target, dt)

    def _advance(self, data: Any, target: Float, dt: float) -> None:
        command = np.clip(target, *self._limits)
        # The hand closes at its own speed, whatever it is told.
        most = FINGER_SPEED * dt
        finger = float(np.clip(command[7], data.ctrl[7] - most, data.ctrl[7] + most))
        data.ctrl[:7] = command[:7]
        data.ctrl[7:] = finger
        self._mj.mj_step(self._model, data, max(1, round(dt / TIMESTEP)))

    def state(self) -> tuple[Float, Float]:
        """Joint positions [rad, m] and velocities, float64 [8] each."""
        with self._lock:
            return self._data.qpos[:8].copy(), self._data.qvel[:8].copy()

    def set_state(self, q: Float, dq: Float | None = None) -> None:
        """Put the joints at `q` [8] with velocity `dq`, zero unless given; all else stays."""
        with self._lock:
            self._put(np.asarray(q, np.float64), np.zeros(8) if dq is None else np.asarray(dq))

    def _put(self, q: Float, dq: Float) -> None:
        data = self._data
        data.qpos[:8], data.qvel[:8] = q, dq
        data.qpos[8], data.qvel[8] = q[7], dq[7]
        data.ctrl[:8], data.ctrl[8] = q, q[7]

    def scene(self) -> PandaState:
        """All that moves, as it is now."""
        vector = np.empty(self._state_size)
        with self._lock:
            self._mj.mj_getState(self._model, self._data, vector, self._signature)
        return PandaState(vector)

    def set_scene(self, state: PandaState) -> None:
        """Put everything back to where it was, in the same episode."""
        with self._lock:
            self._mj.mj_setState(self._model, self._data, state.vector, self._signature)

    # Pictures -------------------------------------------------------------------------------

    def render(self) -> Image:
        """All views side by side, RGB uint8 [size, 3 size, 3]."""
        views = self.render_views()
        return np.concatenate([views[name] for name in self.camera_names], axis=1)

    def render_views(self) -> dict[str, Image]:
        """What each camera sees now, RGB uint8 [size, size, 3]."""
        return self.render_scene(self.scene())

    def render_scene(self, state: PandaState) -> dict[str, Image]:
        """What each camera would see in another state of this episode."""
        with self._seeing:
            self._mj.mj_setState(self._model, self._shown, state.vector, self._signature)
            return self._picture(self._shown)

    def _picture(self, data: Any) -> dict[str, Image]:
        frames = self._frames(data)
        images = self._painter.paint(
            frames, self._cameras(frames), self._paints, self.scene_info.look, self._visible
        )
        return dict(zip(self.camera_names, images, strict=True))

    def measure(self, state: PandaState | None = None) -> dict[str, tuple[NDArray, NDArray]]:
        """What each pixel shows (place in the model's parts) and its depth [m]; see RayPainter."""
        vector = (state or self.scene()).vector
        with self._seeing:
            self._mj.mj_setState(self._model, self._shown, vector, self._signature)
            frames = self._frames(self._shown)
            found = self._rays.measure(frames, self._cameras(frames), self._visible)
        return dict(zip(self.camera_names, found, strict=True))

    def _frames(self, data: Any) -> Float:
        """T [B, 4, 4] of the bodies that are seen; positions are those of `data.qpos`."""
        self._mj.mj_kinematics(self._model, data)
        ids = list(self._made.ids)
        return transform(data.xmat[ids].reshape(-1, 3, 3), data.xpos[ids])

    def _cameras(self, frames: Float) -> list[tuple[Camera, Float]]:
        return self.cameras_of(frames, self.scene_info)

    def cameras_of(self, frames: Float, scene: Scene) -> list[tuple[Camera, Float]]:
        """A scene's cameras, each with T [4, 4] in the world, by the frames of the bodies."""
        return [
            (
                view.camera,
                frames[self._hand if view.camera.link == 'panda_hand' else self._base]
                @ view.camera.mount,
            )
            for view in scene.views
        ]

    def paint_with_owners(
        self, frames: Float, scene: Scene
    ) -> tuple[Image, NDArray[np.int64]]:
        """Pictures uint8 [V, H, W, 3], and the solid that each ray meets [V, s H, s W]."""
        return self._rays.paint_with_owners(
            frames, self.cameras_of(frames, scene), self._paints, scene.look, self._visible
        )

    # Tasks ----------------------------------------------------------------------------------

    @property
    def task(self) -> str:
        """What this episode is about."""
        return self.scene_info.task

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of all goals of this episode's task: what it can be judged by."""
        task = self.scene_info.task
        return tuple(name for name, goal in self._goals.items() if goal.task == task)

    @property
    def askable(self) -> list[str]:
        """Those of `objects` that can be reached in this scene."""
        return [name for name in self.objects if feasible(self._goals[name], self.scene_info)]

    def situation(self) -> Situation:
        """Where everything is now."""
        with self._lock:
            return self._situation(self._data)

    def _situation(self, data: Any) -> Situation:
        self._mj.mj_kinematics(self._model, data)
        R = data.xmat[self._tool_id].reshape(3, 3).copy()
        p = data.xpos[self._tool_id].copy()
        scene = self.scene_info
        return Situation(
            tool=(R, p),
            tip=p + TIP * R[:, 2],
            opening=float(data.qpos[7]),
            colours=scene.colours,
            cubes=transform(
                data.xmat[self._cube_ids].reshape(-1, 3, 3), data.xpos[self._cube_ids]
            ),
            speeds=np.array([np.linalg.norm(data.qvel[i : i + 3]) for i in self._cube_dofs]),
            starts=self._starts,
            bowl=None if scene.bowl is None else np.array([*scene.bowl, 0.0]),
            button=None if scene.button is None else np.array([*scene.button, 0.0]),
            depth=float(data.qpos[self._button_joint]),
        )

    def tip(self) -> Float:
        """Place between the ends of the fingers, float64 [3] m."""
        return self.situation().tip

    def distances(self) -> Float:
        """How far each goal of `objects` is from being reached, float64 [m]."""
        now = self.situation()
        return np.array([remaining(self._goals[name], now) for name in self.objects])

    def inside(self) -> NDArray[np.bool_]:
        """Whether each goal of `objects` is reached, at this moment."""
        now = self.situation()
        return np.array([done(self._goals[name], now) for name in self.objects])

    def success(self, target: str) -> bool:
        """Whether the goal of this name is reached, at this moment."""
        return done(self.goal_of(target), self.situation())

    def progress(self, target: str, start: float) -> float:
        """Share of the way from the start distance [m] that is done, 0..1."""
        goal, now = self.goal_of(target), self.situation()
        if done(goal, now):
            return 1.0
        return float(np.clip(1 - remaining(goal, now) / max(start, 1e-6), 0, 0.99))

    def instruction(self, rng: np.random.Generator, *, held_out: bool = False) -> Instruction:
        """A goal of this episode's task that can be reached, in one of its phrasings."""
        goal = self._goals[str(rng.choice(self.askable))]
        words = (HELD_OUT if held_out else TRAINING)[goal.task]
        return Instruction(goal.phrase(str(rng.choice(words))), goal.name)

    def parse(self, text: str) -> str | None:
        """The goal that one of our own phrasings, or its name, means in this scene, or None."""
        plain = text.strip().lower()
        if plain in self._goals:
            return plain
        goal = self._words.get(plain)
        return goal.name if goal is not None else None

    def goal_of(self, target: str) -> Goal:
        """The goal of that name; ValueError if this scene has no such."""
        if target not in self._goals:
            raise ValueError(f'no goal {target!r} in this scene; {", ".join(self._goals)}')
        return self._goals[target]

    # The expert -----------------------------------------------------------------------------

    def expert_rollout(
        self,
        target: str,
        frames: int,
        q: Float | None = None,
        scene: PandaState | None = None,
    ) -> list[dict[str, Image]]:
        """The expert's next `frames` pictures of all cameras, one every 0.2 s.

        Args:
            target: name of the goal.
            frames: how many.
            q: joints to start from [8]; where `scene` has them unless given.
            scene: where everything starts; as it is now unless given.
        """
        return [views for _, _, views in self._foresee(target, frames, q, scene, pictures=True)]

    def expert_view(self, target: str, frames: int, scene: PandaState) -> dict[str, Image]:
        """The last pictures of `expert_rollout` alone."""
        return self.render_scene(self.expert_states(target, frames, scene)[-1])

    def expert_actions(
        self, target: str, frames: int, scene: PandaState | None = None
    ) -> Float:
        """What the expert does in the next frame periods, float64 [frames, 7].

        Columns: shift of the tool x, y, z [m] and its turn rx, ry, rz [rad] in axes of the base,
        then where the gripper goes, 0 shut .. 1 open.
        """
        moves = [move for move, _, _ in self._foresee(target, frames, None, scene)]
        return np.array([[*move.shift, *move.turn, move.gripper] for move in moves])

    def expert_states(
        self, target: str, frames: int, scene: PandaState | None = None
    ) -> list[PandaState]:
        """The states that the expert would lead to, one every 0.2 s."""
        return [state for _, state, _ in self._foresee(target, frames, None, scene)]

    def _foresee(
        self,
        target: str,
        frames: int,
        q: Float | None,
        scene: PandaState | None,
        pictures: bool = False,
    ) -> list[tuple[Move, PandaState, dict[str, Image]]]:
        goal = self.goal_of(target)
        found = []
        start = self.scene() if scene is None else scene
        with self._foreseeing:
            data = self._scratch
            self._mj.mj_setState(self._model, data, start.vector, self._signature)
            if q is not None:
                data.qpos[:8], data.qpos[8] = q, q[7]
                data.ctrl[:8], data.ctrl[8] = q, q[7]
                data.qvel[:9] = 0
            for _ in range(frames):
                move = decide(goal, self._situation(data))
                for command in self.setpoints(move, data.qpos[:8].copy(), data.ctrl[:8].copy()):
                    self._advance(data, command, TICK)
                vector = np.empty(self._state_size)
                self._mj.mj_getState(self._model, data, vector, self._signature)
                views = self._picture(data) if pictures else {}
                found.append((move, PandaState(vector), views))
        return found

    def setpoints(self, move: Move, q: Float, command: Float) -> Float:
        """Set-points of one frame period, every 0.01 s: plain inverse kinematics of a move.

        Args:
            move: of the tool from where `q` has it.
            q: float64 [8], joints now.
            command: float64 [8], the last set-point: where the new ones begin.

        Returns:
            float64 [20, 8] rad and m.
        """
        R, p = self.arm.pose(q[:7])
        angle = float(np.linalg.norm(move.turn))
        if angle > 1e-9:
            R = rotation_about(move.turn / angle, angle) @ R
        goal = self.arm.solve(R, p + move.shift, q[:7], rest=REST).q
        count = round(FRAME / TICK)
        share = np.arange(1, count + 1)[:, None] / count
        out = np.empty((count, 8))
        out[:, :7] = command[:7] + share * (goal - command[:7])
        out[:, 7] = move.gripper * self._limits[1, 7]
        return out

    def act(self, target: str) -> Move:
        """Let the expert act for one frame period, really."""
        with self._lock:
            data = self._data
            move = decide(self.goal_of(target), self._situation(data))
            for command in self.setpoints(move, data.qpos[:8].copy(), data.ctrl[:8].copy()):
                self._advance(data, command, TICK)
        return move


__all__ = ['FRAME', 'REST', 'PandaEnv', 'PandaState']
