"""The node base, run as a process as it is on a robot, and inside this one."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vera_core.nodes.base import VeraNode
from vera_core.nodes.parameters import ParameterError
from vera_core.nodes.qos import LATCHED

PROBE = Path(__file__).with_name('probe_node.py')
DOMAIN = 40 + os.getpid() % 60
THREADS = pytest.mark.parametrize('threads', [1, 2])


class Process:
    def __init__(self, *parameters, threads=1, **environment):
        arguments = [part for parameter in parameters for part in ('-p', parameter)]
        self.process = subprocess.Popen(
            [sys.executable, str(PROBE), str(threads), '--ros-args', *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                'ROS_DOMAIN_ID': str(DOMAIN),
                'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
                **environment,
            },
        )
        self.said = []

    def wait_for(self, word):
        for line in self.process.stdout:
            self.said.append(line.strip())
            if line.strip() == word:
                return
        raise AssertionError(f'it never said {word!r}: {self.said}, {self.process.stderr.read()}')

    def finish(self, timeout=20):
        out, self.errors = self.process.communicate(timeout=timeout)
        self.said += out.split()
        return self.process.returncode

    @property
    def error_lines(self):
        return [line for line in self.errors.splitlines() if '[ERROR]' in line]


@pytest.fixture
def probe():
    started = []

    def start(*parameters, **options):
        started.append(Process(*parameters, **options))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.communicate()


@THREADS
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_exit_code_0_and_not_a_word(probe, number, threads):
    process = probe(threads=threads)
    process.wait_for('start')
    time.sleep(0.5)
    process.process.send_signal(number)
    assert process.finish() == 0, 'it is 1 when the teardown had to be ended by force'
    assert process.said == ['setup', 'start', 'halt', 'teardown']
    assert process.errors == ''


def test_two_signals_at_once_are_one(probe):
    process = probe()
    process.wait_for('start')
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        process.process.send_signal(number)
    assert process.finish() == 0
    assert process.said == ['setup', 'start', 'halt', 'teardown']
    assert process.errors == ''


@THREADS
def test_a_signal_interrupts_a_long_setup(probe, threads):
    process = probe('mode:=slow-setup', threads=threads)
    process.wait_for('setup')
    process.process.send_signal(signal.SIGINT)
    assert process.finish() == 0
    assert process.said == ['setup', 'teardown']
    assert process.errors == ''


@pytest.mark.parametrize(
    ('parameter', 'words', 'said'),
    [
        ('mode:=no-setup', 'setup failed: the arm is not there; plug it in', ['setup', 'teardown']),
        (
            'mode:=no-start',
            'start failed: RuntimeError: the arm does not answer',
            ['setup', 'start', 'halt', 'teardown'],
        ),
        (
            'rate:=500',
            'setup failed: parameter rate is 500.0; it must be a number >= 1 and <= 100',
            ['setup', 'teardown'],
        ),
        ('rate:=fast', "parameter rate is 'fast'; it must be a number", ['setup', 'teardown']),
        ('mode:=odd', "parameter mode is 'odd'; it is one of ok, no-setup", ['setup', 'teardown']),
        ('contract:=fingr', "unknown embodiment 'fingr'; did you mean 'finger'?", []),
        ('contract_overrides:="{video.committed: 9}"', 'video.committed: is 9, more than', []),
    ],
)
def test_a_setup_that_fails_gives_one_error_line_and_exit_code_2(probe, parameter, words, said):
    # The setup runs in one thread, however many the node has afterwards.
    process = probe(parameter, threads=1 + (parameter == 'mode:=no-setup'))
    assert process.finish() == 2
    assert words in process.errors
    assert len(process.errors.splitlines()) == 1, process.errors
    assert process.said == said


@pytest.mark.parametrize('domain', ['300', '-1', 'abc'])
def test_a_bad_domain_gives_one_error_line_and_exit_code_2(probe, domain):
    process = probe(ROS_DOMAIN_ID=domain)
    assert process.finish() == 2
    assert f"ROS_DOMAIN_ID is '{domain}'; it must be a number from 0 to 232" in process.errors
    assert len(process.errors.splitlines()) == 1


def test_bad_ros_arguments_give_exit_code_2(probe):
    process = probe('rate')
    assert process.finish() == 2
    assert 'cannot start' in process.errors
    assert 'Traceback' not in process.errors


@THREADS
def test_an_error_in_a_callback_is_shown_and_the_way_down_is_gone(probe, threads):
    process = probe('mode:=crash', threads=threads)
    assert process.finish() == 1
    assert process.said == ['setup', 'start', 'halt', 'teardown']
    assert 'failed: ZeroDivisionError: in a callback' in process.errors
    assert 'on_timer' in process.errors, 'a bug needs its traceback'


@THREADS
def test_a_node_can_end_itself_with_one_error(probe, threads):
    process = probe('mode:=fail', threads=threads)
    assert process.finish() == 1
    assert process.said == ['setup', 'start', 'halt', 'teardown']
    assert 'the arm is gone' in process.errors and 'Traceback' not in process.errors


def test_a_halt_that_fails_does_not_stop_the_teardown(probe):
    process = probe('mode:=no-halt')
    process.wait_for('start')
    process.process.send_signal(signal.SIGINT)
    assert process.finish() == 0
    assert process.said == ['setup', 'start', 'halt', 'teardown']
    assert 'halt failed: the arm does not listen' in process.errors


@pytest.mark.parametrize(('mode', 'threads'), [('stuck', 1), ('stuck-callback', 2)])
def test_what_hangs_is_ended_by_force(probe, mode, threads):
    process = probe(f'mode:={mode}', threads=threads)
    process.wait_for('start')
    time.sleep(0.5)
    process.process.send_signal(signal.SIGINT)
    assert process.finish(timeout=12) == 1
    assert 'teardown took more than 5 s; ended by force' in process.errors


def test_what_hangs_in_a_library_is_ended_too(probe):
    process = probe('mode:=stuck-library')
    process.wait_for('start')
    process.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.process.send_signal(signal.SIGTERM)  # nobody can handle it
    assert process.finish(timeout=12) == 1
    assert 'Timeout' in process.errors and 'in halt' in process.errors


# In this process ------------------------------------------------------------------------------


@pytest.fixture
def ros():
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    executor = SingleThreadedExecutor(context=context)
    yield context, executor
    executor.shutdown()
    rclpy.shutdown(context=context)


def spin_until(executor, condition, timeout=10.0):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return
        executor.spin_once(timeout_sec=0.02)
    raise AssertionError('it never came true')


@contextmanager
def running(ros, kind, listener=True, **parameters):
    context, executor = ros
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    node = kind(context=context, parameter_overrides=overrides)
    other = rclpy.create_node('listener', context=context, namespace='vera')
    executor.add_node(other)
    executor.add_node(node)
    try:
        yield node, other
    finally:
        node.close()
        other.destroy_node()


class Hooks(VeraNode):
    """Makes one of everything in `setup` and in `start`."""

    def __init__(self, **kwargs):
        super().__init__('hooks', **kwargs)
        self.calls = []
        self.stopped = None

    def setup(self):
        self.calls.append('setup')
        self.words = self.create_publisher(String, 'words', LATCHED)
        self.managed = self.create_lifecycle_publisher(String, 'managed', 10)
        self.create_service(Trigger, 'stop', lambda request, response: response)
        self.gain = self.param('gain', 1.0, 'of nothing', low=0.0, high=2.0, read_only=False)

    def start(self):
        self.calls.append('start')
        self.stopped = self.stopping.is_set()
        self.create_subscription(String, 'words', self.on_words, LATCHED)
        self.create_timer(10.0, lambda: None)
        self.create_client(Trigger, 'stop')

    def on_words(self, msg):
        with self.monitor('on_words'):
            self.calls.append(msg.data)

    def halt(self):
        self.calls.append('halt')
        self.stopped = self.stopping.is_set()

    def teardown(self):
        self.calls.append('teardown')


def count(node):
    kinds = (node.timers, node.subscriptions, node.services, node.clients, node.publishers)
    return [len(list(kind)) for kind in kinds]


def test_it_starts_itself(ros):
    with running(ros, Hooks) as (node, _):
        assert node.starting and not node.active
        spin_until(ros[1], lambda: node.active)
        assert not node.starting
        assert node.calls[:2] == ['setup', 'start']
        assert node.contract.embodiment == 'finger'
        assert node.get_namespace() == '/vera'
        assert node.stopped is False
    assert node.calls == ['setup', 'start', 'halt', 'teardown'] and node.stopped is True
    node.close()
    assert node.calls.count('teardown') == 1


def test_a_lifecycle_manager_can_drive_it_and_nothing_is_left_behind(ros):
    _, executor = ros
    with running(ros, Hooks, autostart=False) as (node, other):
        change = other.create_client(ChangeState, 'hooks/change_state')
        state = other.create_client(GetState, 'hooks/get_state')
        assert change.wait_for_service(5) and state.wait_for_service(5)

        def go(transition, expected):
            future = change.call_async(ChangeState.Request(transition=Transition(id=transition)))
            spin_until(executor, future.done)
            answer = state.call_async(GetState.Request())
            spin_until(executor, answer.done)
            assert answer.result().current_state.label == expected
            return future.result().success

        empty = count(node)
        for _ in range(2):
            assert go(Transition.TRANSITION_CONFIGURE, 'inactive')
            configured = count(node)
            assert configured != empty
            for _ in range(2):
                assert go(Transition.TRANSITION_ACTIVATE, 'active')
                assert all(a >= b for a, b in zip(count(node), configured, strict=True))
                assert count(node) != configured
                assert go(Transition.TRANSITION_DEACTIVATE, 'inactive')
                assert count(node) == configured
            assert go(Transition.TRANSITION_CLEANUP, 'unconfigured')
            assert count(node) == empty
        once = ['setup', 'start', 'halt', 'start', 'halt', 'teardown']
        assert node.calls == once * 2


def test_a_refused_setup_leaves_it_unconfigured_and_ready_for_another_try(ros):
    class Shy(Hooks):
        def setup(self):
            super().setup()
            if len(self.calls) == 1:
                raise ValueError('not yet')

    with running(ros, Shy, autostart=False) as (node, _):
        empty = count(node)
        node.trigger_configure()
        assert node.calls == ['setup', 'teardown']
        assert count(node) == empty
        node.trigger_configure()
        node.trigger_activate()
        assert node.active


def test_it_is_torn_down_after_somebody_shut_the_context_down():
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    node = Hooks(context=context, parameter_overrides=[Parameter('autostart', value=False)])
    node.trigger_configure()
    node.trigger_activate()
    rclpy.shutdown(context=context)
    node.close()
    assert node.calls == ['setup', 'start', 'halt', 'teardown']


def test_the_last_word_of_halt_is_heard_after_a_signal(ros, probe):
    context, executor = ros
    other = rclpy.create_node('listener', context=context, namespace='vera')
    executor.add_node(other)
    heard = []
    other.create_subscription(String, 'words', lambda msg: heard.append(msg.data), LATCHED)
    process = probe()
    process.wait_for('start')
    # Seeing a publisher is not yet being seen by it: only what was heard proves that.
    spin_until(executor, lambda: heard == ['begun'])
    process.process.send_signal(signal.SIGINT)
    spin_until(executor, lambda: heard == ['begun', 'safe'])
    assert process.finish() == 0
    other.destroy_node()


def test_diagnostics_come_once_a_second_with_rate_and_latency(ros, probe):
    context, executor = ros
    other = rclpy.create_node('listener', context=context)
    executor.add_node(other)
    heard = []
    other.create_subscription(
        DiagnosticArray, '/diagnostics', lambda msg: heard.append((time.monotonic(), msg)), 10
    )
    process = probe('rate:=50')
    process.wait_for('start')
    spin_until(executor, lambda: len(heard) >= 4, 15)
    gaps = [b[0] - a[0] for a, b in pairwise(heard)]
    assert 0.7 < sum(gaps) / len(gaps) < 1.3
    by_name = {status.name: status for status in heard[-1][1].status}
    assert set(by_name) == {'/vera/probe: callbacks', '/vera/probe: arm'}
    callbacks = by_name['/vera/probe: callbacks']
    values = {pair.key: pair.value for pair in callbacks.values}
    assert callbacks.message == 'active' and callbacks.hardware_id == 'finger'
    assert 30 < float(values['timer rate [Hz]']) < 70
    assert 0 <= float(values['timer mean [ms]']) <= float(values['timer max [ms]']) < 100
    assert int(values['timer total']) > 50 and values['timer errors'] == '0'
    arm = by_name['/vera/probe: arm']
    assert (arm.level, arm.message) == (b'\x02', 'is cold')
    assert [(pair.key, pair.value) for pair in arm.values] == [('temperature', '4')]
    assert heard[-1][1].header.stamp != Time()
    other.destroy_node()


# Parameters -----------------------------------------------------------------------------------


@pytest.fixture
def plain(ros):
    made = []

    def make(**parameters):
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        made.append(
            VeraNode(
                'plain',
                context=ros[0],
                parameter_overrides=[*overrides, Parameter('autostart', value=False)],
            )
        )
        return made[-1]

    yield make
    for node in made:
        node.close()


def test_a_parameter_has_a_description_and_bounds(plain):
    node = plain()
    assert node.param('rate', 5.0, 'of it [Hz]', low=1, high=9) == 5.0
    assert node.param('rate', 5.0, 'of it [Hz]', low=1, high=9) == 5.0, 'twice is once'
    descriptor = node.describe_parameter('rate')
    assert descriptor.description == 'of it [Hz]' and descriptor.read_only
    assert descriptor.floating_point_range[0].from_value == 1
    assert descriptor.floating_point_range[0].to_value == 9
    assert node.param('count', 3, 'of them', low=0) == 3
    assert node.describe_parameter('count').integer_range[0].from_value == 0
    assert node.param('kind', 'a', 'of it', choices=('a', 'b')) == 'a'
    assert node.describe_parameter('kind').additional_constraints == 'one of a, b'
    assert node.param('names', ['x'], 'of them') == ['x']


def test_whole_numbers_are_taken_where_fractions_or_texts_are_wanted(plain):
    node = plain(rate=7, source=0)
    assert node.param('rate', 5.0, '[Hz]') == 7.0
    assert isinstance(node.get_parameter('rate').value, float)
    assert node.param('source', '', 'device') == '0'


@pytest.mark.parametrize(
    ('given', 'default', 'bounds', 'words'),
    [
        (
            10.0,
            5.0,
            {'low': 1, 'high': 9},
            'parameter p is 10.0; it must be a number >= 1 and <= 9',
        ),
        (-1, 3, {'low': 0}, 'parameter p is -1; it must be a whole number >= 0'),
        (2.5, 3, {}, 'parameter p is 2.5; it must be a whole number'),
        (True, 3, {}, 'parameter p is True; it must be a whole number'),
        ('yes', True, {}, "parameter p is 'yes'; it must be true or false"),
        (float('nan'), 5.0, {}, 'parameter p is nan; a finite number is needed'),
        ('c', 'a', {'choices': ('a', 'b')}, "parameter p is 'c'; it is one of a, b"),
        (1.5, 'a', {}, 'parameter p is 1.5; it must be text'),
        ('x', [1.0], {}, "parameter p is 'x'; it must be a list"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(plain, given, default, bounds, words):
    with pytest.raises(ParameterError, match=f'^{re.escape(words)}$'):
        plain(p=given).param('p', default, 'a parameter', **bounds)


def test_what_sizes_things_cannot_change_and_the_rest_only_within_bounds(plain):
    node = plain()
    node.param('fixed', 1.0, 'read only')
    node.param('gain', 1.0, 'live', low=0, high=2, read_only=False)
    node.param('kind', 'a', 'live', choices=('a', 'b'), read_only=False)

    def accepted(name, value):
        return node.set_parameters([Parameter(name, value=value)])[0].successful

    assert not accepted('fixed', 2.0)
    assert accepted('gain', 2.0) and not accepted('gain', 3.0)
    assert not accepted('gain', float('nan'))
    assert accepted('kind', 'b') and not accepted('kind', 'c')
    assert node.get_parameter('gain').value == 2.0 and node.get_parameter('kind').value == 'b'


def test_bounds_on_a_text_are_a_mistake_of_the_programmer(plain):
    with pytest.raises(TypeError, match='bounds are for numbers'):
        plain().param('p', 'text', 'a parameter', low=1)
