"""Bag and live give the same chunks, bit for bit, whoever recorded the bag.

The translator's node and the recorder's node run here as they do live; what they left is made again
without ROS. Bags as `ros2 bag record` writes them, sqlite3 and MCAP, are made by `rosbags`, whose
writers make the same layout; the real recorder is not installed here.
"""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import JointState

from graph_tools import unique_domain
from vera_bringup.bag_reading import Bag, BagError
from vera_bringup.commands import replay as command
from vera_bringup.environment import enter
from vera_bringup.exits import CommandError
from vera_bringup.nodes.recorder_node import RecorderNode
from vera_bringup.replay_check import check, contract_of
from vera_bringup.replaying import ReplayOptions, timed
from vera_bringup.resources import message_definition
from vera_core.contract import load_contract
from vera_core.nodes.convert import canvas_to_image_msg, frames_to_msgs, joints_to_msg, stamp_to_msg
from vera_core.nodes.qos import PLAN, STATE
from vera_jidm.nodes.translator_node import TranslatorNode
from vera_msgs.msg import VisualPlan
from vera_sim.finger import FingerEnv

T0 = 7_000_000_000
PLANS = 5
CHUNK, VISUAL = '/vera/action_chunk', '/vera/visual_plan'


def plans() -> list[tuple[VisualPlan, np.ndarray]]:
    """Plans of a simulated finger on its way to a disc, with the joints at each frame [5, 3]."""
    contract = load_contract('finger')
    env = FingerEnv(joints=3, discs=3, size=64)
    made = []
    for number in range(PLANS):
        env.reset(number)
        path = env.expert_joint_path(env.discs[0][0], 4)
        path = np.vstack([env.state()[0], path])[:5]
        images = np.stack([env.render_at(q) for q in path])
        stamp = T0 + number * 1_000_000_000
        plan = VisualPlan(
            goal_id=1, plan_seq=number + 1, prompt='touch', planner_id='test',
            views=list(contract.camera_names), frame_period=contract.video.frame_period,
            committed=4, anchor=canvas_to_image_msg(images[0], stamp),
            frames=frames_to_msgs(images[1:], stamp, contract.video.frame_period),
        )  # fmt: skip
        plan.header.stamp = stamp_to_msg(stamp)
        made.append((plan, path))
    return made


def live(folder, translator: str) -> None:
    """Translator and recorder at work; returns when all chunks are recorded."""
    domain = unique_domain()
    enter(domain)
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    contract = load_contract('finger')
    node = TranslatorNode(
        context=context,
        parameter_overrides=[
            Parameter('autostart', value=False), Parameter('translator', value=translator),
        ],
    )  # fmt: skip
    helper = Node('helper', namespace='vera', context=context)
    planner = helper.create_publisher(VisualPlan, 'visual_plan', PLAN)
    robot = helper.create_publisher(JointState, 'joint_states', STATE)
    recorder = RecorderNode(begin=False, namespace='vera', context=context)
    executor = SingleThreadedExecutor(context=context)
    ending = threading.Event()

    def spin() -> None:
        while not ending.is_set():
            executor.spin_once(timeout_sec=0.05)

    def until(condition) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    for step in (node.trigger_configure, node.trigger_activate):
        assert step() == TransitionCallbackReturn.SUCCESS
    for each in (node, helper, recorder):
        executor.add_node(each)
    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        until(lambda: recorder.graph.contract is not None)
        recorder.begin(folder)
        # The translator and the recorder; a translator that asks for no joints does not listen.
        needs = translator == 'analytic'
        until(lambda: planner.get_subscription_count() == 2)
        until(lambda: robot.get_subscription_count() == 1 + needs)
        until(lambda: node._chunks.get_subscription_count() == 1)
        for number, (plan, path) in enumerate(plans()):
            stamp = T0 + number * 1_000_000_000
            for offset in (-30_000_000, 30_000_000):
                message = joints_to_msg(contract.joint_names, path[0] + offset * 1e-10,
                                        stamp + offset)  # fmt: skip
                robot.publish(message)
            if needs:
                until(lambda s=stamp: (node._history.newest or 0) > s)
            planner.publish(plan)
            until(lambda n=number: node._translated == n + 1)
        until(lambda: recorder._watches.get(CHUNK) and recorder._watches[CHUNK]._last == [PLANS])
        until(lambda: recorder._watches[VISUAL]._last == [PLANS])
    finally:
        ending.set()
        thread.join(5)
        recorder.close()
        node.close()
        for each in (helper, recorder):
            each.destroy_node()
        executor.shutdown()
        rclpy.shutdown(context=context)


@pytest.fixture(scope='module')
def bag_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('parity') / 'bag'
    live(folder, 'analytic')
    return folder


def foreign(source, folder, plugin: StoragePlugin):
    """The messages of a bag as another recorder writes them: no contract, no parameters."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for name in ('VisualPlan', 'ActionChunk'):
        full = f'vera_msgs/msg/{name}'
        types.update(get_types_from_msg(message_definition(full), full))
    store.register(types)
    with Bag(source) as bag, Writer(folder, version=9, storage_plugin=plugin) as writer:
        made = {}
        for raw in bag.messages([CHUNK, VISUAL, '/vera/joint_states']):
            if raw.topic not in made:
                made[raw.topic] = writer.add_connection(raw.topic, raw.type_name, typestore=store)
            writer.write(made[raw.topic], raw.logged, raw.data)
    return folder


def test_live_chunks_are_made_again_bit_for_bit(bag_folder):
    with Bag(bag_folder) as bag:
        report = check(bag, contract_of(bag))
        assert (report.identical, report.different) == (PLANS, [])
        assert not (report.lonely or report.silent or report.unknown)
        # With anything else about it the chunks differ, and that is seen.
        bag.notes.of_node('translator')['mode'] = 'paper'
        assert len(check(bag, contract_of(bag)).different) == PLANS


def test_the_networks_chunks_too(tmp_path):
    live(tmp_path / 'bag', 'jacobian')
    with Bag(tmp_path / 'bag') as bag:
        report = check(bag, contract_of(bag))
    assert (report.identical, report.different) == (PLANS, [])


@pytest.mark.parametrize('plugin', [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_bags_of_other_recorders_replay_as_well(bag_folder, tmp_path, plugin, capsys):
    folder = foreign(bag_folder, tmp_path / 'other', plugin)
    with Bag(folder) as bag:
        with pytest.raises(BagError, match='holds no contract; name one with --embodiment'):
            contract_of(bag)
        # What the bag does not tell is told here: the recorded translator was not the default.
        bag.notes.parameters['/vera/translator'] = {'translator': 'analytic'}
        assert check(bag, contract_of(bag, 'finger')).identical == PLANS
        waits: list[float] = []
        now = [0.0]

        def wait(seconds: float) -> bool:
            waits.append(seconds)
            now[0] += seconds
            return True

        sent = list(timed(bag, ReplayOptions(rate=2.0), lambda: now[0], wait))
        assert len(sent) == sum(topic.count for topic in bag.topics.values())
        assert sum(waits) == pytest.approx(bag.seconds / 2, abs=0.01)
    with pytest.raises(CommandError, match=r'holds no contract'):
        command.check(folder, command.Target(), False)


def test_the_command_says_how_many(bag_folder, capsys):
    command.check(bag_folder, command.Target(), True)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f'{PLANS} of {PLANS} chunks are identical, bit for bit'
    assert json.loads(said[-1])['compared'] == PLANS
    with pytest.raises(CommandError, match='--namespace'):
        command.check(bag_folder, command.Target(namespace='other'), False)
    with pytest.raises(CommandError, match='does not exist'):
        command.check(bag_folder / 'nowhere', command.Target(), False)
