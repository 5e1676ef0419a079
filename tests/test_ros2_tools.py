"""The real `ros2 launch` starts the graph, and the real `ros2` command works on it.

launch, launch_ros and ros2cli come with a ROS installation only: where they are missing, the tests
of this file are skipped. What needs no `ros2` is tested elsewhere in any case.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from graph_tools import unique_domain
from vera_bringup.environment import graph_environment
from vera_bringup.nodes.client import VeraClient

for needed in ('launch_ros', 'ros2launch', 'ros2node', 'ros2topic', 'ros2service', 'ros2action',
               'ros2param', 'ros2lifecycle'):  # fmt: skip
    pytest.importorskip(needed, reason=f'{needed} comes with a ROS installation only')

pytestmark = pytest.mark.slow
ROS2 = [sys.executable, '-c', 'import sys; from ros2cli.cli import main; sys.exit(main())']
NODES = ['sim', 'controller', 'translator', 'planner', 'scene']
PATIENCE = 90.0  # s: two cores, and other tests beside this one
DIRECT = ('--no-daemon', '--spin-time', '5')  # a daemon would outlive the test


class Launched:
    """`ros2 launch vera_bringup finger.launch.py`, and the `ros2` command beside it."""

    def __init__(self, folder) -> None:
        self.domain = unique_domain()
        self.environment = graph_environment(self.domain) | {'ROS_LOG_DIR': str(folder)}
        self.log = folder / 'launch.log'
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                [*ROS2, 'launch', 'vera_bringup', 'finger.launch.py', 'planner:=oracle'],
                env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip

    def ros2(self, *words: str, timeout: float = PATIENCE) -> str:
        """What a `ros2` command says; the assertion fails if it fails."""
        done = subprocess.run(
            [*ROS2, *words], env=self.environment, timeout=timeout, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def until(self, pattern: str, *words: str, timeout: float = 40.0) -> re.Match[str]:
        """Let a command that goes on for ever run until a line matches."""
        process = subprocess.Popen(
            [*ROS2, *words], env=self.environment | {'PYTHONUNBUFFERED': '1'}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        killer = subprocess.Popen(['sh', '-c', f'sleep {timeout}; kill {process.pid}'])
        said = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                found = re.search(pattern, line)
                if found:
                    return found
            raise AssertionError(f'{pattern!r} was not said within {timeout} s: {"".join(said)}')
        finally:
            for one in (killer, process):
                one.kill()
                one.wait()

    def end(self) -> int:
        """Ctrl-C, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            # launch starts its processes in its own group.
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


@pytest.fixture(scope='module')
def launched(tmp_path_factory):
    graph = Launched(tmp_path_factory.mktemp('ros2'))
    try:
        with VeraClient(graph.domain, patience=PATIENCE) as client:
            ready = client.until(lambda: client.ready(NODES) and client.complete(), 120)
            assert ready, graph.log.read_text()
        yield graph
    finally:
        graph.end()


@pytest.mark.timeout(200)
def test_every_node_is_listed_as_a_node_with_a_lifecycle(launched):
    wanted = {f'/vera/{name}' for name in NODES}
    assert wanted <= set(launched.ros2('node', 'list', *DIRECT).split())
    assert wanted <= set(launched.ros2('lifecycle', 'nodes', *DIRECT).split())


@pytest.mark.timeout(120)
def test_topic_hz_measures_the_camera_and_the_frames(launched):
    for topic, most in (('/vera/top/color/image_raw', 25.0), ('/tf', 35.0)):
        rate = float(launched.until(r'average rate: ([\d.]+)', 'topic', 'hz', topic)[1])
        assert 1.0 < rate < most


@pytest.mark.timeout(120)
def test_topic_echo_reads_the_description(launched):
    said = launched.ros2(
        'topic', 'echo', '--once', '--qos-durability', 'transient_local',
        '--qos-reliability', 'reliable', '--full-length',
        '/vera/robot_description', 'std_msgs/msg/String',
    )  # fmt: skip
    assert re.search(r'<robot name=\\?"finger_3\\?">', said), said


@pytest.mark.timeout(200)
def test_a_goal_is_given_by_service_call_and_by_action(launched):
    said = launched.ros2(
        'service', 'call', '/vera/set_goal', 'vera_msgs/srv/SetGoal',
        "{prompt: 'touch the purple elephant'}",
    )  # fmt: skip
    assert 'accepted=True' in said, said
    for name in ('stop', 'reset'):
        said = launched.ros2('service', 'call', f'/vera/{name}', 'std_srvs/srv/Trigger')
        assert 'success=True' in said, said
    with VeraClient(launched.domain, patience=PATIENCE) as client:
        assert client.until(lambda: client.sim is not None, PATIENCE)
        near = min(zip(client.sim.distances, client.sim.objects, strict=True))[1]
    said = launched.ros2(
        'action', 'send_goal', '/vera/execute_goal', 'vera_msgs/action/ExecuteGoal',
        f"{{prompt: 'touch the {near} disc'}}", '--feedback', timeout=150,
    )  # fmt: skip
    assert 'Goal accepted' in said
    assert 'Feedback:' in said
    assert 'Goal finished with status' in said


@pytest.mark.timeout(120)
def test_a_live_parameter_can_be_set_and_a_fixed_one_says_so(launched):
    said = launched.ros2('param', 'set', '/vera/planner', 'plan_timeout', '20.0', *DIRECT)
    assert 'Set parameter successful' in said
    assert '20.0' in launched.ros2('param', 'get', '/vera/planner', 'plan_timeout', *DIRECT)
    assert 'read-only' in launched.ros2('param', 'set', '/vera/planner', 'seed', '1', *DIRECT)


@pytest.mark.timeout(200)
def test_lifecycle_set_stops_a_node_and_starts_it_again(launched):
    for transition, state in (('deactivate', 'inactive'), ('activate', 'active')):
        said = launched.ros2('lifecycle', 'set', '/vera/translator', transition, *DIRECT)
        assert 'Transitioning successful' in said
        said = launched.ros2('lifecycle', 'get', '/vera/translator', *DIRECT)
        assert said.startswith(state), said


@pytest.mark.timeout(90)
def test_the_arguments_are_those_of_franka_ros2(launched):
    said = launched.ros2('launch', 'vera_bringup', 'panda.launch.py', '--show-args')
    for name in ('arm_id', 'robot_ip', 'use_fake_hardware', 'load_gripper', 'namespace',
                 'use_rviz'):  # fmt: skip
        assert f"'{name}':" in said
    assert re.search(r"'use_fake_hardware':.*?default: 'true'", said, re.DOTALL)


@pytest.mark.timeout(90)
def test_it_ends_with_ctrl_c_and_leaves_no_node(launched):
    began = time.monotonic()
    assert launched.end() == 0, launched.log.read_text()[-2000:]
    assert time.monotonic() - began < 60
    with VeraClient(launched.domain, patience=5) as client:
        client.spin(2.0)
        assert client.nodes() == []
