"""The recorder and the replay as nodes: what is published comes back byte for byte, with its notes.

One process and one ROS context for all of it; the graph is a stand-in of two small nodes.
"""

from __future__ import annotations

import time

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from graph_tools import unique_domain
from vera_bringup.bag_reading import Bag
from vera_bringup.environment import enter
from vera_bringup.nodes.recorder_node import RecorderError, RecorderNode
from vera_bringup.nodes.replayer import ReplayNode
from vera_bringup.replaying import ReplayOptions, timed
from vera_core.contract import load_contract
from vera_core.nodes.qos import LATCHED, STATE_RELIABLE
from vera_msgs.msg import GoalStatus

NUMBER = 50


@pytest.fixture(scope='module')
def ros():
    domain = unique_domain()
    enter(domain)
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    executor = SingleThreadedExecutor(context=context)
    yield context, executor
    executor.shutdown()
    rclpy.try_shutdown(context=context)


def until(executor, condition, timeout=60.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        executor.spin_once(timeout_sec=0.05)


def state(number: int) -> JointState:
    message = JointState(name=['joint_1'], position=[float(number)])
    message.header.stamp.sec = 100 + number
    return message


@pytest.fixture(scope='module')
def recorded(ros, tmp_path_factory):
    """(folder of the bag, the recorder's counts, its diagnostics)."""
    context, executor = ros
    folder = tmp_path_factory.mktemp('recording') / 'bag'
    robot = Node(
        'translator', namespace='vera', context=context, allow_undeclared_parameters=True,
        automatically_declare_parameters_from_overrides=True,
        parameter_overrides=[
            Parameter('contract', value='finger'), Parameter('threads', value=1),
            Parameter('contract_overrides', value='{video.committed: 2}'),
        ],
    )  # fmt: skip
    states = robot.create_publisher(JointState, 'joint_states', STATE_RELIABLE)
    goals = robot.create_publisher(GoalStatus, 'goal_status', LATCHED)
    goals.publish(GoalStatus(goal_id=1, prompt='touch the red disc', status=GoalStatus.ACTIVE))
    recorder = RecorderNode(
        begin=False, namespace='vera', context=context,
        parameter_overrides=[Parameter('exclude', value='rosout')],
    )  # fmt: skip
    heard: list[DiagnosticArray] = []
    recorder.create_subscription(DiagnosticArray, '/diagnostics', heard.append, 10)
    for node in (robot, recorder):
        executor.add_node(node)
    until(executor, lambda: recorder.graph.contract is not None)
    recorder.begin(folder)
    until(executor, lambda: states.get_subscription_count() > 0)
    for number in range(NUMBER):
        states.publish(state(number))
        executor.spin_once(timeout_sec=0.05)
    until(executor, lambda: recorder.counts()['messages'] > NUMBER)
    until(executor, lambda: any('vera/recorder: recording' in s.name for h in heard
                                for s in h.status))  # fmt: skip
    assert (folder / 'bag_0.unfinished.mcap').exists() and not (folder / 'bag_0.mcap').exists()
    until(executor, lambda: recorder._watches['/vera/joint_states']._last == [NUMBER])
    counts = recorder.close()
    for node in (robot, recorder):
        executor.remove_node(node)
        node.destroy_node()
    return folder, counts, heard


def test_a_bag_tells_contract_parameters_and_goals(recorded):
    folder, counts, heard = recorded
    assert not counts['lost'] and not counts['dropped']
    assert sorted(p.name for p in folder.iterdir()) == ['bag_0.mcap', 'metadata.yaml']
    with Bag(folder) as bag:
        notes = bag.notes
        assert notes.namespace == 'vera'
        assert notes.contract.video.committed == 2
        assert notes.contract.channels == load_contract('finger').channels
        assert notes.of_node('translator')['threads'] == 1
        assert [goal['prompt'] for goal in notes.goals] == ['touch the red disc']
        assert notes.records['vera_recording_end']['lost'] == '{}'
        found = [bag.decode(raw) for raw in bag.messages(['/vera/joint_states'])]
        assert [(m.header.stamp.sec, *m.position) for m in found] == [
            (100 + number, float(number)) for number in range(NUMBER)
        ]
        assert '/rosout' not in bag.topics
    values = {v.key: v.value for h in heard for s in h.status for v in s.values}
    assert values['lost'] == values['dropped'] == '0'


def test_replay_sends_the_same_bytes_with_their_stamps(ros, recorded):
    context, executor = ros
    folder, *_ = recorded
    node = ReplayNode(context=context, namespace='vera')
    got: list[bytes] = []
    executor.add_node(node)
    options = ReplayOptions(rate=1000.0, topics='joint_states')
    with Bag(folder) as bag:
        kept = [raw.data for raw in bag.messages(['/vera/joint_states'])]
        node.offer([bag.topics[name] for name in options.chosen(bag)])
        node.create_subscription(JointState, 'joint_states', got.append, STATE_RELIABLE, raw=True)
        until(executor, lambda: node.listeners('/vera/joint_states') > 0)
        for raw in timed(bag, options, time.monotonic, lambda s: not time.sleep(s)):
            node.send(raw)
            executor.spin_once(timeout_sec=0.05)
        until(executor, lambda: len(got) == NUMBER)
    assert got == kept
    executor.remove_node(node)
    node.destroy_node()


def test_wrong_parameters_are_named(ros):
    context, _ = ros
    for name, value, why in (
        ('topics', '(', 'topics: .* is no regular expression'),
        ('jpeg', 101, 'jpeg a quality of 0 to 100'),
        ('compression', 'zip', 'compression is one of none, lz4, zstd'),
    ):
        with pytest.raises(RecorderError, match=why):
            RecorderNode(
                begin=False, context=context, parameter_overrides=[Parameter(name, value=value)]
            )
