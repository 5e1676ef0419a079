"""`vera doctor`: fake arms that answer over real sockets, and a running graph that is broken."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from typer.testing import CliRunner

from graph_tools import unique_domain
from vera_bringup.cli import app
from vera_bringup.doctor import arm as arm_checks
from vera_bringup.doctor import graph
from vera_bringup.environment import enter, graph_environment
from vera_bringup.nodes.clock_exchange import ClockAnswerer
from vera_controller.robots import fci
from vera_core.nodes.qos import IMAGE, STATE

# An address of this process's own: the port is that of the arms.
ADDRESS = f'127.65.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}'


NO_GRAPH = {'nodes': [], 'topics': 0, 'mismatches': [], 'types': {}, 'clock': None}


@pytest.fixture
def no_graph(monkeypatch):
    """Nothing is asked of the network."""
    monkeypatch.setattr(graph, 'listen', lambda *_: NO_GRAPH)


@pytest.fixture
def arm(no_graph):
    """Start a fake arm with a server version."""
    sockets = []

    def start(version):
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((ADDRESS, fci.PORT))
        server.listen(4)
        sockets.append(server)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(64)
                    connection.sendall(struct.pack('<IIIHH4x', 0, 1, 20, 1, version))

        threading.Thread(target=serve, daemon=True).start()

    yield start
    for server in sockets:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def call(*arguments):
    """Exit code (of `vera` as main() gives it) and output."""
    result = CliRunner().invoke(app, ['doctor', *arguments])
    code = getattr(result.exception, 'code', result.exit_code)
    return int(code if code is not None else 0), result.output


def findings(*arguments):
    code, output = call(*arguments, '--json')
    return code, {f['check']: f for f in json.loads(output.strip().splitlines()[-1])}


@pytest.mark.parametrize(
    ('embodiment', 'version', 'robot'),
    [('panda', 5, 'panda_fer'), ('panda_fr3', 10, 'panda_franky')],
)
def test_it_names_the_robot_for_the_arm_that_answers(arm, monkeypatch, embodiment, version, robot):
    arm(version)
    installed = fci.WHEELS[robot].partition('==')[2]
    monkeypatch.setattr(arm_checks.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(arm_checks.metadata, 'version', lambda name: installed)
    _, found = findings(embodiment, '--robot-ip', ADDRESS)
    # Its cameras are not there, which is in the way of a real robot; the arm's part is fine.
    bad = {check for check, finding in found.items() if finding['level'] == 'error'}
    assert bad == {'cameras of the contract'}
    assert f'use robot {robot}' in found['arm']['found']
    assert found['library']['level'] == found['joint limits']['level'] == 'ok'
    assert f'--robot {robot} --robot-ip {ADDRESS}' in found['start']['found']
    assert {'kernel', 'rtprio', 'CPU clock', 'network'} <= set(found)


def test_the_contract_of_the_other_arm_is_in_the_way(arm):
    arm(10)
    code, output = call('panda', '--robot-ip', ADDRESS)
    assert code == 1
    assert 'panda_joint6 [0.02, 3.71]' in output
    assert '-> use the contract panda_fr3' in output


def test_an_arm_without_a_wheel_on_pypi_is_told_which_one_it_needs(arm):
    arm(7)
    code, found = findings('panda_fr3', '--robot-ip', ADDRESS)
    assert code == 1
    assert 'wheel of franky-control built for libfranka 0.13.6' in found['arm']['found']
    assert 'start' not in found


def test_a_library_that_is_missing_or_old_has_its_command(arm, monkeypatch):
    arm(5)
    monkeypatch.setattr(arm_checks.util, 'find_spec', lambda name: None)
    code, found = findings('panda', '--robot-ip', ADDRESS)
    assert code == 1
    assert found['library']['cure'] == 'pip install panda-python==1.1.1'
    monkeypatch.setattr(arm_checks.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(arm_checks.metadata, 'version', lambda name: '1.0.0')
    _, found = findings('panda', '--robot-ip', ADDRESS)
    assert found['library']['level'] == 'warning'


def test_nobody_at_the_address_is_in_the_way_and_the_rest_is_still_said(no_graph):
    code, found = findings('panda', '--robot-ip', ADDRESS)
    assert code == 1
    assert 'activate FCI in Desk' in found['arm']['found']
    assert 'kernel' in found


def test_an_unknown_embodiment_is_bad_input():
    code, _ = call('pandaa')
    assert code == 2


def test_an_arm_needs_its_embodiment():
    code, _ = call('--robot-ip', ADDRESS)
    assert code == 2


def test_every_line_says_why_and_each_warning_has_a_cure(no_graph):
    code, found = findings()
    assert code in (0, 1)  # whatever this machine is like
    assert {
        'python', 'ros', 'libraries', 'memory', 'shared memory', 'socket buffers', 'disk', 'clock',
        'kernel', 'rtprio', 'CPU clock', 'gpu', 'video devices', 'realsense', 'middleware',
        'profile', 'profile of nodes', 'ports', 'reach', 'graph',
    } <= set(found)  # fmt: skip
    assert 'arm' not in found
    for finding in found.values():
        assert finding['why']
        assert finding['cure'] or finding['level'] == 'ok'
    code, text = call('finger')
    assert 'cameras of the contract' in text
    assert 'the simulation needs none' in text


# A graph ---------------------------------------------------------------------------------------


class Broken:
    """A graph in which things are wrong, and a machine whose clock can be set."""

    def __init__(self, domain: int) -> None:
        self.ahead = 0  # ns, of the controller's machine
        enter(domain)
        # Two participants, as two processes have them: one has one type for a topic.
        self.contexts = Context(), Context()
        for context in self.contexts:
            rclpy.init(context=context, domain_id=domain)
        self.executors = [SingleThreadedExecutor(context=context) for context in self.contexts]
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )  # fmt: skip
        camera, viewer = self.node('camera', 0), self.node('viewer', 1)
        twin = self.node('viewer', 1)
        # A reader that asks for more than a camera offers.
        camera.create_publisher(Image, 'top/color/image_raw', IMAGE)
        viewer.create_subscription(Image, 'top/color/image_raw', print, latched)
        # One topic, two types.
        camera.create_publisher(JointState, 'states', STATE)
        viewer.create_subscription(Image, 'states', print, STATE)
        # All is well between these.
        camera.create_publisher(JointState, 'joint_states', STATE)
        twin.create_subscription(JointState, 'joint_states', print, STATE)
        ClockAnswerer(camera, lambda: time.time_ns() + self.ahead)
        self.threads = [threading.Thread(target=executor.spin) for executor in self.executors]
        for thread in self.threads:
            thread.start()

    def node(self, name: str, side: int) -> Node:
        node = Node(name, namespace='vera', context=self.contexts[side])
        self.executors[side].add_node(node)
        return node

    def close(self) -> None:
        for executor in self.executors:
            executor.shutdown()
        for thread in self.threads:
            thread.join()
        for context in self.contexts:
            rclpy.try_shutdown(context=context)


@pytest.fixture(scope='module')
def broken():
    domain = unique_domain()
    graph = Broken(domain)
    try:
        yield graph, domain
    finally:
        graph.close()


@pytest.mark.timeout(120)
def test_a_broken_graph_is_told_line_by_line(broken):
    peers, domain = broken
    peers.ahead = 700_000_000
    ran = subprocess.run(
        [sys.executable, '-m', 'vera_bringup.cli', 'doctor', '--json', '--domain', str(domain)],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    found = {f['check']: f for f in json.loads(ran.stdout.strip().splitlines()[-1])}
    assert ran.returncode == 1, ran.stdout
    qos = found['qos']
    assert qos['level'] == 'error'
    assert '/vera/top/color/image_raw: viewer does not hear camera' in qos['found']
    assert 'Best effort publisher and reliable subscription; Volatile' in qos['found']
    assert 'ros2 topic info -v /vera/top/color/image_raw' in qos['cure']
    assert '/vera/states has sensor_msgs/msg/Image and sensor' in found['types']['found']
    assert found['nodes']['found'].endswith('viewer')
    assert 'missing: controller, planner, translator' in found['graph']['found']
    clock = found['clock offset']
    assert clock['level'] == 'error'
    assert 'behind it' in clock['found']
    assert 'chrony' in clock['cure']
    assert 'in the way: ' in ran.stderr


@pytest.mark.timeout(120)
def test_a_part_of_a_graph_goes_down_when_its_clock_is_off(broken):
    """The node of that part: right at first; then the other machine's clock is set."""
    peers, domain = broken
    peers.ahead = 0
    process = subprocess.Popen(
        [sys.executable, '-m', 'vera_bringup.nodes.clock_node'],
        env=graph_environment(domain), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        said = next(line for line in process.stdout if "this machine's clock is" in line)
        assert process.poll() is None, said
        peers.ahead = -300_000_000
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 2, rest
        assert 'ahead of it' in rest
        assert 'at most 20 ms will do: run an NTP client on both machines' in rest
    finally:
        process.kill()
        process.communicate()


def test_ros_that_does_not_start_is_a_finding(monkeypatch):
    monkeypatch.setattr(graph, 'PROBE', [sys.executable, '-c', 'raise SystemExit("no transport")'])
    (finding,) = graph.checks(graph.listen(3, 'vera', dict(os.environ)))
    assert finding.level == 'error'
    assert 'ROS does not start on domain 3: no transport' in finding.found
