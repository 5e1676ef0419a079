"""The sim node: a robot and a camera in real time, and in lock-step bit for bit."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, JointState
from sensor_msgs.msg import Image as ImageMsg

from vera_core.clocks import NS_PER_S
from vera_core.contract import load_contract
from vera_core.nodes.convert import (
    frames_from_msgs,
    image_from_msg,
    joints_from_msg,
    joints_to_msg,
    stamp_from_msg,
    stamp_to_msg,
)
from vera_core.nodes.qos import COMMAND, IMAGE, IMAGE_RELIABLE, STATE, STATE_RELIABLE
from vera_drivers.nodes.sim_node import LISTENERS, SimNode
from vera_drivers.sim_world import make_world
from vera_msgs.msg import ActionChunk, SimStatus, VisualPlan
from vera_msgs.srv import ExpertFuture, ResetSim

CAMERA = '/vera/top/color/image_raw'
INFO = '/vera/top/color/camera_info'
JOINTS = ('joint_1', 'joint_2', 'joint_3')


class Robot:
    """What a controller and a viewer hear, and what a controller says."""

    def __init__(self, node, lockstep=False):
        self.node = node
        self.states: list = []
        self.images: list = []
        self.infos: list = []
        self.truths: list = []
        state, image = (STATE_RELIABLE, IMAGE_RELIABLE) if lockstep else (STATE, IMAGE)
        node.create_subscription(JointState, 'joint_states', self.states.append, state)
        node.create_subscription(ImageMsg, CAMERA, self.images.append, image)
        node.create_subscription(CameraInfo, INFO, self.infos.append, image)
        node.create_subscription(SimStatus, 'sim_status', self.truths.append, STATE)
        self.publisher = node.create_publisher(JointState, 'joint_commands', COMMAND)

    def positions(self):
        return joints_from_msg(self.states[-1], JOINTS).positions

    def command(self, positions, stamp=0, names=JOINTS):
        self.publisher.publish(joints_to_msg(names, np.asarray(positions), stamp))


def follow(robot, wait_for, target, seconds=10.0):
    """Move there as a controller does: in small steps."""
    deadline = time.monotonic() + seconds
    while np.abs(robot.positions() - target).max() > 1e-3:
        assert time.monotonic() < deadline, 'the robot did not follow'
        q = robot.positions()
        robot.command(q + np.clip(target - q, -0.1, 0.1))
        time.sleep(0.01)


def test_live_topics_rates_and_stamps(graph, wait_for):
    robot = Robot(graph.helper())
    graph.start(SimNode, seed=3)
    wait_for(lambda: len(robot.images) > 20 and robot.infos and robot.truths)
    stamps = np.array([stamp_from_msg(m) for m in robot.states])
    assert (np.diff(stamps) > 0).all()
    assert abs(stamps[-1] - time.time_ns()) < NS_PER_S
    # The camera keeps its grid whatever the load of this machine does to single ticks.
    images = np.array([stamp_from_msg(m) for m in robot.images])
    assert np.median(np.diff(images)) == pytest.approx(50e6, abs=15e6)
    assert set(images) & {stamp_from_msg(m) for m in robot.infos}
    world = make_world(load_contract('finger'))
    world.reset(3, 0)
    assert np.allclose(robot.positions(), world.positions())
    assert (image_from_msg(robot.images[-1]) == world.env.render()).all()
    truth = robot.truths[-1]
    assert truth.seed == 3
    assert tuple(truth.objects) == world.env.objects
    assert np.allclose(truth.distances, world.env.distances())


def test_live_it_follows_commands_by_name_and_refuses_others(graph, wait_for):
    robot = Robot(graph.helper())
    node = graph.start(SimNode)
    wait_for(lambda: robot.states and robot.publisher.get_subscription_count())
    start = robot.positions()
    target = start + np.array([0.2, -0.1, 0.05])
    follow(robot, wait_for, target)
    order = [2, 0, 1]
    robot.command((target + 0.05)[order], names=[JOINTS[i] for i in order])
    wait_for(lambda: np.abs(robot.positions() - target - 0.05).max() < 1e-3)
    here = robot.positions()
    refused = node._refused
    for wrong, names in (
        ([np.nan, 0.0, 0.0], JOINTS),
        (here[:2], JOINTS[:2]),
        (here + 1.0, JOINTS),
        ([*here[:2], np.inf], JOINTS),
        (here + 0.1, ('joint_1', 'joint_1', 'joint_3')),
    ):
        robot.command(wrong, names=names)
        refused += 1
        wait_for(lambda: node._refused == refused)  # noqa: B023
    time.sleep(0.3)
    assert np.abs(robot.positions() - here).max() < 1e-3


def test_live_reset_begins_an_episode_and_pauses_the_camera(graph, wait_for):
    robot = Robot(graph.helper())
    graph.start(SimNode, seed=1)
    wait_for(lambda: len(robot.images) > 2)
    target = robot.positions() + 0.1
    follow(robot, wait_for, target)
    response = graph.call(robot.node, ResetSim, 'reset_sim', ResetSim.Request(seed=5))
    assert response.success
    world = make_world(load_contract('finger'))
    world.reset(5, 0)
    assert tuple(response.objects) == world.env.objects
    wait_for(lambda: np.allclose(robot.positions(), world.positions()))
    # A controller that has not noticed goes on sending its old set-point: the drive refuses it.
    for _ in range(20):
        robot.command(target)
        time.sleep(0.01)
    assert np.allclose(robot.positions(), world.positions())
    count = len(robot.images)
    wait_for(lambda: len(robot.images) > count + 3)
    stamps = [stamp_from_msg(m) for m in robot.images]
    assert max(np.diff(stamps)) >= 0.35 * NS_PER_S
    assert (image_from_msg(robot.images[-1]) == world.env.render()).all()


def test_expert_future_is_that_of_the_state_at_the_anchor(graph, wait_for):
    robot = Robot(graph.helper())
    graph.start(SimNode, seed=2)
    wait_for(lambda: len(robot.images) > 3)
    world = make_world(load_contract('finger'))
    world.reset(2, 0)
    anchor = stamp_from_msg(robot.images[-1])
    follow(robot, wait_for, robot.positions() + 0.15)
    prompt = f'touch the {world.env.objects[0]} disc'

    def ask(**fields):
        request = ExpertFuture.Request(
            **{'prompt': prompt, 'anchor': stamp_to_msg(anchor), 'frames': 4, **fields}
        )
        return graph.call(robot.node, ExpertFuture, 'expert_future', request)

    response = ask()
    assert response.success, response.message
    expected = world.expert_future(prompt, 0, 4)
    assert (frames_from_msgs(response.frames) == expected).all()
    assert stamp_from_msg(response.frames[0]) == anchor + 200_000_000
    refused = ask(prompt='make tea')
    assert not refused.success
    assert "knows no goal 'make tea'; objects of the scene" in refused.message
    assert 'at least 1' in ask(frames=0).message
    assert 'is kept' in ask(anchor=stamp_to_msg(5)).message


class LockStepController:
    """Answers each joint state with the next command, as the real one does."""

    def __init__(self, node, commands):
        self.commands = commands
        self.states: list = []
        node.create_subscription(JointState, 'joint_states', self.on_state, STATE_RELIABLE)
        self.publisher = node.create_publisher(JointState, 'joint_commands', COMMAND)

    def on_state(self, msg):
        self.states.append(msg)
        if self.commands:
            self.answer(stamp_from_msg(msg))

    def answer(self, stamp):
        self.publisher.publish(joints_to_msg(JOINTS, self.commands.pop(0), stamp))


def episode_commands(seed, steps=120):
    world = make_world(load_contract('finger'))
    world.reset(seed, 10 * NS_PER_S)
    rng = np.random.default_rng(seed)
    q = world.positions()
    commands, states, images = [], [(world.stamp, world.positions())], []
    images += [(world.stamp, world.image(c)) for c in world.cameras_due()]
    for _ in range(steps):
        q = q + rng.normal(0, 0.02, 3)
        commands.append(q.copy())
        world.step(q)
        images += [(world.stamp, world.image(c)) for c in world.cameras_due()]
        states.append((world.stamp, world.positions()))
    return commands, states, images


def loop_of(graph):
    """The other ends of the loop, so that an episode may begin."""
    kinds = {'visual_plan': VisualPlan, 'action_chunk': ActionChunk}
    for topic, name in LISTENERS:
        graph.helper(name).create_subscription(kinds[topic], topic, lambda m: None, 1)


def test_lockstep_is_the_pure_world_bit_for_bit(graph, wait_for):
    commands, states, images = episode_commands(seed=7)
    planner = graph.helper('planner')
    seen: list = []
    planner.create_subscription(ImageMsg, CAMERA, seen.append, IMAGE_RELIABLE)
    controller = LockStepController(graph.helper('controller'), [])
    loop_of(graph)
    node = graph.start(SimNode, lockstep=True)
    time.sleep(0.3)
    assert not controller.states  # time stands until an episode is asked for
    controller.commands = list(commands)
    assert graph.call(planner, ResetSim, 'reset_sim', ResetSim.Request(seed=7)).success
    wait_for(lambda: len(controller.states) == len(states))
    wait_for(lambda: len(seen) == len(images))
    for msg, (stamp, positions) in zip(controller.states, states, strict=True):
        assert stamp_from_msg(msg) == stamp
        assert (joints_from_msg(msg, JOINTS).positions == positions).all()
    for msg, (stamp, image) in zip(seen, images, strict=True):
        assert stamp_from_msg(msg) == stamp
        assert (image_from_msg(msg) == image).all()
    # A command for another time, a late one say, moves nothing.
    now = node.world.stamp
    controller.commands = [commands[0], commands[1]]
    controller.answer(now - 10_000_000)
    time.sleep(0.3)
    assert node.world.stamp == now
    controller.answer(now)
    wait_for(lambda: node.world.stamp == now + 10_000_000)
    # The next episode is later on the same time line.
    controller.commands = []
    assert graph.call(planner, ResetSim, 'reset_sim', ResetSim.Request(seed=8)).success
    wait_for(lambda: stamp_from_msg(controller.states[-1]) == 20 * NS_PER_S)
    assert stamp_from_msg(seen[-1]) == 20 * NS_PER_S


def test_lockstep_reset_names_who_is_missing(graph):
    helper = graph.helper('planner')
    graph.start(SimNode, lockstep=True, peer_timeout=0.3)
    request = ResetSim.Request(seed=1)
    response = graph.call(helper, ResetSim, 'reset_sim', request)
    assert not response.success
    assert f"no node 'planner' listens to {CAMERA}" in response.message
    helper.create_subscription(ImageMsg, CAMERA, lambda m: None, IMAGE)
    time.sleep(0.3)
    response = graph.call(helper, ResetSim, 'reset_sim', request)
    assert "node 'planner' may lose messages" in response.message


def test_lockstep_reset_waits_for_the_whole_loop(graph):
    planner = graph.helper('planner')
    planner.create_subscription(ImageMsg, CAMERA, lambda m: None, IMAGE_RELIABLE)
    LockStepController(graph.helper('controller'), [])
    graph.start(SimNode, lockstep=True, peer_timeout=1.0)
    request = ResetSim.Request(seed=1)
    response = graph.call(planner, ResetSim, 'reset_sim', request)
    assert response.message == "no node 'translator' listens to /vera/visual_plan; start it"
    loop_of(graph)
    assert graph.call(planner, ResetSim, 'reset_sim', request).success
    began = time.monotonic()
    assert graph.call(planner, ResetSim, 'reset_sim', request).success
    assert time.monotonic() - began < 0.4  # it waits for connections once


def test_an_embodiment_without_simulation_is_refused(graph, capfd):
    overrides = [
        Parameter('autostart', value=False), Parameter('contract_overrides', value='{sim: null}')
    ]
    node = SimNode(context=graph.context, parameter_overrides=overrides)
    graph.add(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "embodiment 'finger' has no `sim` part" in ''.join(capfd.readouterr())
