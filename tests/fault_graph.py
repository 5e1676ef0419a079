"""Running processes of the Panda in which things go wrong on request.

`FaultGraph` is the graph of `vera up panda`; its wrist camera is one more process, so that it can
be unplugged, and its planner obeys an order file. `FaultArm` is the controller's process alone,
with the fake arm. Both read a clock that can be set.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState

from graph_tools import Vera, processes_of, unique_domain
from vera_bringup.environment import graph_environment
from vera_bringup.nodes.client import VeraClient
from vera_bringup.resources import resource
from vera_controller.limits import Limits
from vera_core.chunk import ActionChunk
from vera_core.contract import Contract, load_contract
from vera_core.nodes.convert import chunk_to_msg, joints_from_msg
from vera_core.nodes.qos import CHUNK, IMAGE, LATCHED, STATE
from vera_msgs.msg import ActionChunk as ActionChunkMsg
from vera_msgs.msg import ControllerStatus, GoalStatus

FAULTS = Path(__file__).parent / 'faults'
PATIENCE = 60.0  # s: two cores, and others at work on them
NS = 1_000_000_000
SEED, PROMPT = 1, 'stack red on green'  # eight seconds of motion
STOPPED, READY = ControllerStatus.STOPPED, ControllerStatus.READY
RUNNING, HOLD = ControllerStatus.RUNNING, ControllerStatus.HOLD


def clock_library(folder: Path) -> Path:
    """The preloaded library by which the time of day can be set, built into `folder`."""
    compiler = shutil.which('gcc')
    if compiler is None:
        pytest.skip('no gcc: the clock of the processes cannot be set')
    path = folder / 'clock_shift.so'
    subprocess.run(
        [compiler, '-O2', '-shared', '-fPIC', '-o', str(path), str(FAULTS / 'clock_shift.c'),
         '-ldl'],
        check=True,
    )  # fmt: skip
    return path


def contract_file(folder: Path) -> Path:
    """The Panda's contract with one task, in `folder`."""
    original = resource('config', 'embodiments', 'panda.yaml')
    text = original.read_text()
    text = text.replace('../urdf/', f'{original.parents[1] / "urdf"}/')
    assert 'task: basic' in text
    path = folder / 'panda.yaml'
    path.write_text(text.replace('task: basic', 'task: stack'))
    return path


def chunk_of(
    contract: Contract, stamp: int, goal_id: int, plan_seq: int, rows: list[list[float]]
) -> ActionChunkMsg:
    """An action chunk that begins at `stamp` [ns], of whatever numbers."""
    values, names = np.array(rows, np.float64), contract.channel_names
    chunk = ActionChunk(
        stamp=stamp, goal_id=goal_id, plan_seq=plan_seq, channels=names, period=0.2,
        values=np.nan_to_num(values), residual=np.zeros(len(values), np.float32),
        observability=np.ones(len(names), np.float32),
    )  # fmt: skip
    msg = chunk_to_msg(chunk)
    msg.values = values.ravel().tolist()  # a chunk of ours would not take what is no number
    return msg


class Witness(VeraClient):
    """One who talks to a controller and remembers all that he hears. A context manager.

    Attributes:
        states: the newest joint states, (when it came [s, monotonic], stamp [ns], positions,
            velocities).
        statuses: what the controllers said, (when it came, status).
        chunks: the newest action chunks.
    """

    def __init__(self, folder: Path, domain: int, namespace: str) -> None:
        super().__init__(domain, namespace, PATIENCE)
        self.folder, self.domain, self.space = folder, domain, namespace
        self.contract = load_contract('panda')
        self._clock = folder / 'clock_offset'
        self._clock.write_bytes(struct.pack('q', 0))
        self.preload = {
            'LD_PRELOAD': str(clock_library(folder)), 'VERA_TEST_CLOCK': str(self._clock),
        }  # fmt: skip
        self.states: deque[tuple[float, int, np.ndarray, np.ndarray]] = deque(maxlen=3000)
        self.statuses: deque[tuple[float, ControllerStatus]] = deque(maxlen=3000)
        self.chunks: deque[ActionChunkMsg] = deque(maxlen=20)

    def __enter__(self) -> Witness:
        super().__enter__()
        self.node.create_subscription(JointState, 'joint_states', self._on_state, STATE)
        self.node.create_subscription(
            ActionChunkMsg, 'action_chunk', lambda msg: self.chunks.append(msg), CHUNK
        )
        # Deep: no word may be lost on the way, however short it was true.
        every = QoSProfile(
            depth=200, reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )  # fmt: skip
        self.node.create_subscription(
            ControllerStatus, 'controller_status',
            lambda msg: self.statuses.append((time.monotonic(), msg)), every,
        )  # fmt: skip
        self._sender = self.node.create_publisher(ActionChunkMsg, 'action_chunk', CHUNK)
        return self

    def _on_state(self, msg: JointState) -> None:
        state = joints_from_msg(msg, self.contract.joint_names)
        self.states.append((time.monotonic(), state.stamp, state.positions, state.velocities))

    def environment(self) -> dict[str, str]:
        """Of one more process."""
        return graph_environment(self.domain, {**os.environ, 'OMP_NUM_THREADS': '1'})

    def set_clock(self, seconds: float) -> None:
        """How far the time of day of all processes is off."""
        with self._clock.open('r+b') as file:
            file.write(struct.pack('q', round(seconds * NS)))

    def send(self, rows: list[list[float]], goal_id: int, plan_seq: int) -> float:
        """An action chunk that begins where the robot is now; when it was sent [s, monotonic]."""
        sent = time.monotonic()
        msg = chunk_of(self.contract, self.states[-1][1], goal_id, plan_seq, rows)
        self._sender.publish(msg)
        return sent

    def send_again(self, msg: ActionChunkMsg) -> None:
        """A chunk as it is."""
        self._sender.publish(msg)

    # What is seen -----------------------------------------------------------------------------

    def wait(self, condition, what: str, timeout: float = PATIENCE) -> float:
        """Until it holds; seconds that took."""
        began = time.monotonic()
        assert self.until(condition, timeout), f'{what}: {self.controller} {self.goal}'
        return time.monotonic() - began

    def reach(self, *states: int, words: str = '') -> float:
        """Until the controller is in one of these states, with these words in its reason."""

        def there() -> bool:
            status = self.controller
            return status is not None and status.state in states and words in status.reason

        return self.wait(there, f'{states} {words!r}')

    def said(self, since: float, *states: int, words: str = '') -> float:
        """Until some controller has said so after `since` [s, monotonic]; how long after."""

        def found() -> list[float]:
            return [
                t for t, m in self.statuses
                if t > since and m.state in states and words in m.reason
            ]  # fmt: skip

        self.wait(found, f'{states} {words!r}')
        return found()[0] - since

    def refused(self, words: str, before: int) -> None:
        """Until a chunk was refused with these words, after so many others."""

        def there() -> bool:
            status = self.controller
            return status.rejected > before and words in status.last_rejection

        self.wait(there, f'refused: {words}')

    @property
    def at(self) -> np.ndarray:
        """Where the joints are."""
        return self.states[-1][2]

    @property
    def speed(self) -> float:
        """Of the fastest joint [rad/s], at the newest joint state; 0 if that is old."""
        if not self.states or time.monotonic() - self.states[-1][0] > 0.5:
            return 0.0
        return float(np.abs(self.states[-1][3][:7]).max())

    def moving(self, since: float = 0.0) -> None:
        """Until the arm moves for a plan, or has done so since then [s, monotonic]."""
        since = since or time.monotonic()

        def moved() -> bool:
            return any(t > since and np.abs(dq[:7]).max() > 0.05 for t, _, _, dq in self.states)

        self.said(since, RUNNING)
        self.wait(moved, 'motion')

    def holds(self) -> None:
        """The arm comes to rest, and stays there for half a second."""
        since = time.monotonic()

        def rests() -> bool:
            now = time.monotonic()
            recent = [q for t, _, q, _ in self.states if t > max(since, now - 0.5)]
            return now > since + 0.5 and len(recent) > 3 and np.ptp(recent, axis=0).max() < 5e-3

        self.wait(rests, 'rest')

    def within_limits(self, since: float) -> None:
        """Where the joints were since then [s, monotonic]: within positions, nowhere a lunge."""
        limits = Limits.from_contract(self.contract)
        found = [(stamp, q) for t, stamp, q, _ in self.states if t > since]
        assert len(found) > 2
        stamps, q = np.array([s for s, _ in found]), np.array([q for _, q in found])
        assert (q >= limits.low - 5e-3).all() and (q <= limits.high + 5e-3).all()
        # A stamp is that of the reading; on a laden machine it is some set-points off.
        dt = np.clip(np.diff(stamps) / 1e9, 0, 1)[:, None] + 0.05
        assert (np.abs(np.diff(q, axis=0)) <= limits.velocity * dt).all()


class FaultArm(Witness):
    """The controller's process with the fake arm, and planner and translator by hand."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, unique_domain(), 'vera')
        self._obstacle = folder / 'obstacle'
        self._last = 0

    def __enter__(self) -> FaultArm:
        super().__enter__()
        self._goals = self.node.create_publisher(GoalStatus, 'goal_status', LATCHED)
        self.process = self.spawn()
        try:
            self.wait(lambda: self.states and self.controller is not None, 'the controller')
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=30)[0]
        assert self.process.returncode == 0 and 'Traceback' not in said, said

    def spawn(self) -> subprocess.Popen[str]:
        """Another controller with an arm of its own, in the same namespace."""
        return subprocess.Popen(
            [sys.executable, str(FAULTS / 'arm.py'), '--ros-args', '-r', f'__ns:=/{self.space}',
             '-p', 'contract:=panda', '-p', 'robot:=fake_arm'],
            env={**self.environment(), **self.preload, 'VERA_TEST_ARM': str(self._obstacle)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def collide(self) -> None:
        """The arm meets an obstacle now."""
        self._obstacle.touch()

    def begin(self) -> int:
        """A new goal; its number."""
        if self.controller.state == STOPPED:
            assert self.trigger('reset')[0]
        self._last += 1
        self._goals.publish(GoalStatus(goal_id=self._last, status=GoalStatus.ACTIVE))
        self.wait(lambda: self.goal is not None and self.goal.goal_id == self._last, 'the goal')
        self.reach(READY, HOLD)
        self.spin(0.2)  # it comes to the controller as it came here
        return self._last

    def home(self) -> None:
        """Back to where it began, at rest and without a goal."""
        self._goals.publish(GoalStatus(goal_id=self._last, status=GoalStatus.CANCELLED))
        if self.controller.state == STOPPED:
            assert self.trigger('reset')[0]
        home = self.contract.home_positions
        self.wait(lambda: self.trigger('home')[0], 'the way home')
        self.wait(lambda: np.abs(self.at - home).max() < 0.02 and self.speed < 0.01, 'home')

    def drive(self, row: list[float], plan_seq: int = 1, count: int = 14) -> tuple[int, int]:
        """A goal, and a chunk for it of equal actions; the goal, once the arm moves."""
        goal = self.begin()
        sent = time.monotonic()
        self.send([row] * count, goal, plan_seq)
        self.moving(sent)
        return goal, plan_seq


class FaultGraph(Witness):
    """The whole graph. `up` is its command."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, unique_domain(), 'vera')
        self.contract_path = contract_file(folder)
        self._order = folder / 'planner_order'
        self._order.write_text('')
        prefix = folder / 'prefix'
        self._wrap(prefix, 'vera_planner/planner_node', f'{FAULTS / "planner.py"} "$@"')
        self._wrap(
            prefix, 'vera_drivers/sim_node',
            '-m vera_drivers.nodes.sim_node "$@" -r wrist/color/image_raw:=wrist/raw',
        )
        self.preload |= {'AMENT_PREFIX_PATH': str(prefix), 'VERA_TEST_PLANNER': str(self._order)}
        self._camera: subprocess.Popen[bytes] | None = None
        self._pictures = 0

    @staticmethod
    def _wrap(prefix: Path, name: str, words: str) -> None:
        """An executable that is found before the installed one."""
        path = prefix / 'lib' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {words}\n')
        path.chmod(0o755)

    def __enter__(self) -> FaultGraph:
        super().__enter__()
        self.node.create_subscription(Image, 'wrist/color/image_raw', self._on_picture, IMAGE)
        self.up = Vera(
            'up', str(self.contract_path), '--planner', 'oracle', '--tf', 'off', '--no-cockpit',
            '--plan-timeout', '60', '--domain', str(self.domain), cwd=self.folder,
            env=self.preload,
        )  # fmt: skip
        try:
            self.up.wait_for(r'\[vera\] starting', 60)  # it would take the camera for another graph
            self.plug_in()
            self.up.wait_for('all nodes are ready', 150)
            self.wait(lambda: self.complete() and self._pictures, 'the first words')
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.unplug()
        try:
            self.up.end(signal.SIGTERM)
        finally:
            self.up.kill()

    def _on_picture(self, msg: Image) -> None:
        self._pictures += 1

    # What goes wrong --------------------------------------------------------------------------

    @property
    def run_dir(self) -> Path:
        """Where this run writes; its processes name it."""
        (found,) = (self.folder / 'runs').iterdir()
        return found

    def pid(self, name: str) -> int:
        """Of a node's process."""
        return processes_of(self.run_dir)[name]

    def kill(self, name: str, number: int = signal.SIGKILL) -> float:
        """Send a signal to a node; when [s, monotonic]."""
        os.kill(self.pid(name), number)
        return time.monotonic()

    def order(self, word: str) -> None:
        """What the planner does from its next plan on; '' for its work."""
        self._order.write_text(word)

    def unplug(self) -> None:
        """Pull the plug of the wrist camera."""
        if self._camera is not None:
            self._camera.kill()
            self._camera.wait()
            self._camera = None

    def plug_in(self) -> None:
        """And put it in again; once the simulation is there, until its pictures come."""
        self._camera = subprocess.Popen(
            [sys.executable, str(FAULTS / 'camera.py'), 'wrist'],
            env=self.environment(), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before = self._pictures
        if self.sim is not None:
            self.wait(lambda: self._pictures > before + 2, 'pictures')

    def freeze(self) -> None:
        """From now on the wrist camera shows one picture, with fresh stamps."""
        assert self._camera is not None
        self._camera.send_signal(signal.SIGUSR1)

    # What is seen -----------------------------------------------------------------------------

    def ended(self, goal_id: int, words: str) -> None:
        """Until this goal is aborted or cancelled with these words."""
        self.wait(lambda: self.goal_ended(goal_id), 'the end of the goal')
        assert self.goal is not None and self.goal.goal_id == goal_id
        assert self.goal.status in (GoalStatus.ABORTED, GoalStatus.CANCELLED), self.goal
        assert words in self.goal.message, self.goal

    def moves(self) -> int:
        """Begin the episode anew and give the goal; its number, once the arm moves for it."""
        if self.controller.state == STOPPED:
            assert self.trigger('reset')[0]
        assert self.reset_sim(SEED).success
        answer = self.set_goal(PROMPT)
        assert answer.accepted, answer.message
        self.wait(lambda: self.goal.goal_id == answer.goal_id, 'the goal')
        self.moving()
        return answer.goal_id


__all__ = ['FaultArm', 'FaultGraph']
