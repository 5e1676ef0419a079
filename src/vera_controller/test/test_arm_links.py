"""What the libraries of the arms say, and what we make of it: fakes of their own interfaces.

The simulator of franky raises no errors, and there is none for panda-python.
"""

from __future__ import annotations

import types

import numpy as np
import pytest

from vera_controller.registry import RobotError
from vera_controller.robots import franky as franky_module
from vera_controller.robots import panda_fer as fer_module
from vera_controller.robots.arm import ArmRobot, LinkError
from vera_controller.robots.franky import FrankyLink, names, plain
from vera_controller.robots.panda_fer import REST_READS, PandaLink
from vera_core.clocks import ManualClock
from vera_core.contract import RobotSpec, load_contract

SPEC = RobotSpec(realtime='ignore', torque_threshold=15.0, force_threshold=25.0)
Q = np.array([0.0, -0.78, 0.0, -2.35, 0.0, 1.57, 0.78])


class Errors:
    """Fake of the error flags, which are attributes, all the time true as a whole."""

    def __init__(self, *raised):
        self.cartesian_reflex = 'cartesian_reflex' in raised
        self.joint_reflex = 'joint_reflex' in raised
        self.communication_constraints_violation = False


def state(mode='Idle', errors=(), q=Q, time_ms=0):
    return types.SimpleNamespace(
        q=list(q), dq=[0.0] * 7, q_d=list(q + 0.001), robot_mode=types.SimpleNamespace(name=mode),
        current_errors=Errors(*errors), time=types.SimpleNamespace(to_msec=lambda: time_ms),
    )  # fmt: skip


def test_errors_are_named_in_words():
    assert names(Errors()) == []
    assert names(Errors('joint_reflex', 'cartesian_reflex')) == ['cartesian reflex', 'joint reflex']
    assert plain(RuntimeError('libfranka: Move aborted!\n  ["x"]\n')) == 'Move aborted!; ["x"]'


# franky ---------------------------------------------------------------------------------------


class FakeFranky:
    """A fake of the module franky."""

    class NetworkException(Exception):
        pass

    class ControlException(Exception):
        pass

    class RealtimeConfig:
        Enforce, Ignore = 'enforce', 'ignore'

    def __init__(self):
        self.made = []
        self.Robot = self._robot
        self.Duration = int
        self.JointVelocityStopMotion = lambda: 'stop'
        self.JointVelocityWaypoint = lambda v, hold_target_duration: (v, hold_target_duration)
        self.JointVelocityWaypointMotion = list

    def _robot(self, address, **options):
        robot = types.SimpleNamespace(
            address=address, options=options, moves=[], state=state(), is_in_control=False,
            poll_motion=lambda: True, recovers=True, behaviour=None, recovered=0,
        )  # fmt: skip

        def recover():
            robot.recovered += 1
            return robot.recovers

        robot.recover_from_errors = recover
        robot.move = lambda motion, asynchronous: robot.moves.append((motion, asynchronous))
        robot.set_collision_behavior = lambda *values: setattr(robot, 'behaviour', values)
        robot.join_motion = lambda timeout: True
        self.made.append(robot)
        return robot


@pytest.fixture
def franky(monkeypatch):
    library = FakeFranky()
    monkeypatch.setattr(franky_module, 'load', lambda name: library)
    return library


@pytest.fixture
def link(franky):
    made = FrankyLink('172.16.0.2', SPEC, 0.01, hand=False)
    assert made.open() is None
    return made


def raising(error):
    def call(*args, **kwargs):
        raise error

    return call


def test_franky_gets_thresholds_and_real_time_from_the_contract(link, franky):
    [robot] = franky.made
    assert robot.address == '172.16.0.2'
    assert robot.options['default_torque_threshold'] == 15.0
    assert robot.options['default_force_threshold'] == 25.0
    assert robot.behaviour == (15.0, 25.0)
    assert robot.options['realtime_config'] == 'ignore'


def test_franky_moves_with_a_brake_behind_every_velocity(link, franky):
    velocity = np.linspace(-0.3, 0.3, 7)
    link.begin()
    link.move(Q, velocity, velocity)
    [(motion, asynchronous)] = franky.made[0].moves
    assert asynchronous
    (first, held), (rest, _) = motion
    np.testing.assert_array_equal(first, velocity)
    np.testing.assert_array_equal(rest, np.zeros(7))
    assert held == 50


@pytest.mark.parametrize(
    ('mode', 'errors', 'words', 'recoverable'),
    [
        ('Reflex', ('cartesian_reflex',), 'reflex of the arm: cartesian reflex', True),
        ('Idle', ('joint_reflex',), 'reflex of the arm: joint reflex', True),
        ('Reflex', (), 'no error is named', True),
        ('UserStopped', (), 'the user stop is pressed', False),
        ('Guiding', (), 'guided by hand', False),
        ('Other', (), 'unlock its joints and activate FCI', False),
    ],
)
def test_franky_modes_and_errors_become_reasons(link, franky, mode, errors, words, recoverable):
    franky.made[0].state = state(mode, errors)
    with pytest.raises(LinkError, match=words) as raised:
        link.read()
    assert raised.value.recoverable == recoverable


def test_franky_what_failed_in_a_motion_is_raised_by_the_next_read(link, franky):
    robot = franky.made[0]
    robot.poll_motion = raising(
        franky.ControlException('libfranka: Move command aborted: motion aborted by reflex! ["j"]')
    )
    with pytest.raises(LinkError, match=r'^Move command aborted: motion aborted by reflex'):
        link.read()
    robot.poll_motion = lambda: True
    np.testing.assert_allclose(link.read().q_d, Q + 0.001)


def test_franky_a_lost_connection_is_made_anew_by_recovering(link, franky):
    franky.made[0].poll_motion = raising(franky.NetworkException('libfranka: UDP receive: Timeout'))
    with pytest.raises(LinkError, match='connection to the arm is lost: UDP receive: Timeout'):
        link.read()
    with pytest.raises(LinkError, match='is lost'):
        link.read()
    link.halt()
    assert not franky.made[0].moves, 'nothing goes to an arm that is lost'
    link.recover()
    assert len(franky.made) == 2
    assert franky.made[1].recovered == 1
    link.read()


def test_franky_an_arm_whose_time_stands_still_is_lost(link, franky):
    link.silence = 0.0
    link.read()
    franky.made[0].state = state(time_ms=5)
    link.read()
    with pytest.raises(LinkError, match='no state for 0 s'):
        link.read()


def test_franky_recovery_may_be_refused(link, franky):
    franky.made[0].recovers = False
    with pytest.raises(LinkError, match='the arm refused'):
        link.recover()


def test_franky_stop_and_close_halt_what_moves(link, franky):
    robot = franky.made[0]
    link.halt()
    assert not robot.moves
    robot.is_in_control = True
    link.halt()
    link.close()
    link.close()
    assert [motion for motion, _ in robot.moves] == ['stop', 'stop']
    with pytest.raises(LinkError, match='is lost'):
        link.read()


def test_franky_without_a_hand_the_error_says_what_to_write(franky):
    franky.Gripper = raising(franky.NetworkException('libfranka: Connection refused'))
    with pytest.raises(RobotError, match=r'no gripper that answers .*robot\.gripper: false'):
        FrankyLink('172.16.0.2', SPEC, 0.01).open()


# panda-python ---------------------------------------------------------------------------------


class FakePandaPy:
    """A fake of the module panda_py."""

    def __init__(self):
        self.arms, self.log = [], []
        self.lost = False
        kinds = types.SimpleNamespace(kEnforce='enforce', kIgnore='ignore')
        self.libfranka = types.SimpleNamespace(RealtimeConfig=kinds, Gripper=self._gripper)
        self.controllers = types.SimpleNamespace(JointPosition=self._controller)
        self.Panda = self._panda

    def _controller(self):
        return types.SimpleNamespace(
            set_control=lambda q, dq: self.log.append(('control', np.array(q), np.array(dq)))
        )

    def _gripper(self, address):
        return types.SimpleNamespace(
            read_once=lambda: types.SimpleNamespace(width=0.06, max_width=0.08, is_grasped=False),
            move=lambda width, speed: self.log.append(('move', width, speed)) or True,
            grasp=lambda *values: self.log.append(('grasp', *values)) or True,
        )

    def _panda(self, address, realtime_config):
        if self.lost:
            raise RuntimeError('libfranka: Connection to FCI refused.')
        note = self.log.append
        behaviour = types.SimpleNamespace(set_collision_behavior=lambda *v: note(('behaviour', *v)))
        arm = types.SimpleNamespace(
            state=state('kIdle'), realtime=realtime_config, refresh_state=lambda: None,
            raise_error=lambda: None, recover=lambda: note(('recover',)),
            start_controller=lambda c: note(('start',)), get_robot=lambda: behaviour,
            stop_controller=lambda: note(('end',)),
        )  # fmt: skip
        arm.get_state = lambda: arm.state
        self.arms.append(arm)
        return arm


@pytest.fixture
def panda_py(monkeypatch):
    library = FakePandaPy()
    monkeypatch.setattr(fer_module, 'load', lambda name: library)
    return library


@pytest.fixture
def fer(panda_py):
    made = PandaLink('172.16.0.3', SPEC)
    made.hand = made.open()
    return made


def kinds(panda_py):
    return [entry[0] for entry in panda_py.log]


def test_fer_gets_thresholds_and_real_time_from_the_contract(fer, panda_py):
    assert panda_py.arms[0].realtime == 'ignore'
    assert panda_py.log[0] == ('behaviour', [15.0] * 7, [15.0] * 7, [25.0] * 6, [25.0] * 6)


def test_fer_a_motion_starts_the_controller_and_its_end_ends_it(fer, panda_py):
    forward = np.full(7, 0.1)
    fer.begin()
    fer.begin()
    fer.move(Q + 0.001, forward + 0.05, forward)
    _, q, dq = panda_py.log[-1]
    assert kinds(panda_py) == ['behaviour', 'start', 'control']
    np.testing.assert_array_equal(q, Q + 0.001)
    np.testing.assert_array_equal(dq, forward), 'its own controller has the feedback'
    for _ in range(REST_READS):
        fer.read()
    assert 'end' not in kinds(panda_py)
    fer.read()
    fer.read()
    assert kinds(panda_py)[3:] == ['end']
    fer.begin()
    assert kinds(panda_py)[4:] == ['start']


def test_fer_halt_holds_where_the_arm_is(fer, panda_py):
    fer.halt()
    assert kinds(panda_py) == ['behaviour']
    fer.begin()
    fer.move(Q + 0.02, np.ones(7), np.ones(7))
    fer.halt()
    _, q, dq = panda_py.log[-1]
    np.testing.assert_array_equal(q, Q)
    np.testing.assert_array_equal(dq, np.zeros(7))


@pytest.mark.parametrize(
    ('mode', 'errors', 'words', 'recoverable'),
    [
        ('kReflex', ('cartesian_reflex',), 'reflex of the arm: cartesian reflex', True),
        ('kUserStopped', (), 'the user stop is pressed', False),
        ('kOther', (), 'unlock its joints', False),
    ],
)
def test_fer_modes_and_errors_become_reasons(fer, panda_py, mode, errors, words, recoverable):
    fer.begin()
    panda_py.arms[0].state = state(mode, errors)
    with pytest.raises(LinkError, match=words) as raised:
        fer.read()
    assert raised.value.recoverable == recoverable
    panda_py.arms[0].state = state('kIdle')
    fer.read()
    fer.begin()
    assert kinds(panda_py).count('start') == 2, 'the controller ended with the fault'


def test_fer_what_failed_in_a_motion_is_raised_by_the_next_read(fer, panda_py):
    panda_py.arms[0].raise_error = raising(RuntimeError('libfranka: Move command aborted!'))
    with pytest.raises(LinkError, match=r'^Move command aborted!$'):
        fer.read()
    fer.recover()
    assert len(panda_py.arms) == 1
    assert kinds(panda_py)[-1] == 'recover'


def test_fer_a_lost_connection_is_made_anew_by_recovering(fer, panda_py):
    panda_py.arms[0].refresh_state = raising(RuntimeError('libfranka: UDP receive: Timeout'))
    with pytest.raises(LinkError, match='connection to the arm is lost: UDP receive'):
        fer.read()
    panda_py.lost = True
    with pytest.raises(LinkError):
        fer.recover()
    panda_py.lost = False
    fer.recover()
    assert len(panda_py.arms) == 2
    fer.read()


def test_fer_the_hand_takes_openings_of_one_finger(fer, panda_py):
    assert fer.hand.measure() == (0.03, False)
    assert fer.hand.move(0.02, 0.05)
    assert panda_py.log[-1] == ('move', 0.04, 0.1)
    assert fer.hand.grasp(0.05, 30.0)
    assert panda_py.log[-1] == ('grasp', 0.0, 0.1, 30.0, 0.08, 0.08)


def test_fer_behind_the_seam_follows_set_points(panda_py):
    contract = load_contract('panda_joints', {'safety': None})
    clock = ManualClock(10**12)
    states, faults = [], []
    robot = ArmRobot(
        contract, PandaLink('172.16.0.3', SPEC), on_state=states.append,
        on_bad_state=faults.append, on_fault=faults.append, clock=clock, threaded=False,
    )  # fmt: skip
    robot.connect()
    robot.cycle()
    for k in range(30):
        target = np.concatenate([Q, [0.03]])
        target[0] += 0.002 * k
        robot.command(target, clock.now())
        robot.cycle()
        clock.advance(10_000_000)
    robot.close()
    control = [entry for entry in panda_py.log if entry[0] == 'control']
    assert len(control) == 31, 'one for each set-point, and one to hold at the end'
    np.testing.assert_allclose(control[29][1][0], 0.058)
    np.testing.assert_allclose(control[29][2], [0.2, 0, 0, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(states[-1].positions, [*Q, 0.03])
    assert not faults


FRANKY = """Robot.move Robot.poll_motion Robot.join_motion Robot.state Robot.recover_from_errors
Robot.set_collision_behavior Robot.is_in_control NetworkException RealtimeConfig.Enforce
RealtimeConfig.Ignore Duration Duration.to_msec JointVelocityStopMotion JointVelocityWaypoint
JointVelocityWaypointMotion Gripper.move Gripper.grasp Gripper.state GripperState.width
GripperState.max_width GripperState.is_grasped RobotMode.UserStopped RobotMode.Guiding
RobotMode.Reflex RobotMode.AutomaticErrorRecovery RobotMode.Other RobotState.robot_mode
RobotState.current_errors RobotState.q_d RobotState.time Errors.cartesian_reflex"""
PANDA_PY = """Panda.refresh_state Panda.get_state Panda.raise_error Panda.recover Panda.get_robot
Panda.start_controller Panda.stop_controller controllers.JointPosition.set_control
libfranka.RealtimeConfig.kEnforce libfranka.RealtimeConfig.kIgnore libfranka.Gripper.read_once
libfranka.Gripper.move libfranka.Gripper.grasp libfranka.Robot.set_collision_behavior
libfranka.GripperState.max_width libfranka.RobotMode.kUserStopped libfranka.RobotMode.kGuiding
libfranka.RobotMode.kReflex libfranka.RobotMode.kAutomaticErrorRecovery libfranka.RobotMode.kOther
libfranka.RobotState.q_d libfranka.Errors.cartesian_reflex"""


@pytest.mark.parametrize(
    ('name', 'module', 'paths'),
    [('panda_franky', 'franky', FRANKY), ('panda_fer', 'panda_py', PANDA_PY)],
)
def test_the_fakes_have_the_names_of_the_real_libraries(name, module, paths):
    pytest.importorskip(module, reason='not installed: requirements/robots.txt')
    library = franky_module.load(name)
    for path in paths.split():
        found = library
        for part in path.split('.'):
            found = getattr(found, part)
