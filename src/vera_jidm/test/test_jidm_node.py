"""The translator node: a chunk for a good plan, one clear error and no chunk for a bad one."""

import os
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
from sensor_msgs.msg import Image as ImageMsg

from vera_core.nodes.convert import (
    canvas_to_image_msg,
    chunk_from_msg,
    frames_to_msgs,
    stamp_to_msg,
)
from vera_core.nodes.qos import CHUNK, IMAGE, PLAN
from vera_jidm.nodes.translator_node import TranslatorNode
from vera_jidm.registry import make_translator
from vera_msgs.msg import ActionChunk, VisualPlan

T0 = 7_000_000_000


def wait_for(condition, timeout=30.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, 'it did not happen in time'
        time.sleep(0.01)


class World:
    """The node under test, and someone who sends plans and listens."""

    def __init__(self, **parameters):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=1 + os.getpid() % 100)
        values = {'autostart': False, **parameters}
        self.node = TranslatorNode(
            context=self.context,
            parameter_overrides=[Parameter(k, value=v) for k, v in values.items()],
        )
        self.errors = []
        self.helper = Node('helper', namespace='vera', context=self.context)
        self.chunks, self.flows, self.jacobians = [], [], []
        listen = self.helper.create_subscription
        listen(ActionChunk, 'action_chunk', self.chunks.append, CHUNK)
        listen(ImageMsg, 'debug/flow', self.flows.append, IMAGE)
        listen(ImageMsg, 'debug/jacobian', self.jacobians.append, IMAGE)
        self.plans = self.helper.create_publisher(VisualPlan, 'visual_plan', PLAN)
        self.executors = [SingleThreadedExecutor(context=self.context) for _ in range(2)]
        self.ending = False
        self.threads = []
        for executor, node in zip(self.executors, (self.node, self.helper), strict=True):
            executor.add_node(node)
            thread = threading.Thread(target=self.spin, args=(executor,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def spin(self, executor):
        while not self.ending:
            executor.spin_once(timeout_sec=0.05)

    def begin(self):
        for step in (self.node.trigger_configure, self.node.trigger_activate):
            assert step() == TransitionCallbackReturn.SUCCESS
        wait_for(lambda: self.plans.get_subscription_count() == 1)
        wait_for(lambda: self.node._chunks.get_subscription_count() == 1)
        wait_for(lambda: self.node._flow.get_subscription_count() == 1)
        wait_for(lambda: self.node._jacobian.get_subscription_count() == 1)
        logger = self.node.get_logger()
        self.node.get_logger = lambda: Recorder(logger, self.errors)

    def close(self):
        self.ending = True
        for thread in self.threads:
            thread.join(5)
        self.node.close()
        self.helper.destroy_node()
        for executor in self.executors:
            executor.shutdown()
        rclpy.shutdown(context=self.context)


class Recorder:
    def __init__(self, logger, errors):
        self.logger, self.errors = logger, errors

    def error(self, text):
        self.errors.append(text)

    def __getattr__(self, name):
        return getattr(self.logger, name)


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def pictures(count=5):
    rng = np.random.default_rng(3)
    block = rng.integers(0, 255, (20, 20, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    images = np.full((count, 64, 64, 3), 210, np.uint8)
    for k in range(count):
        images[k, 12 : 52, 8 + 2 * k : 48 + 2 * k] = block
    return images


def plan(seq=1, images=None, **changes):
    images = pictures() if images is None else images
    msg = VisualPlan(
        goal_id=4, plan_seq=seq, prompt='touch the red disc', views=['top'], frame_period=0.2,
        committed=3,
    )
    msg.header.stamp = stamp_to_msg(T0)
    msg.anchor = canvas_to_image_msg(images[0], T0)
    msg.frames = frames_to_msgs(images[1:], T0, 0.2)
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def test_a_plan_becomes_a_chunk_and_two_pictures(world):
    world.begin()
    world.plans.publish(plan())
    wait_for(lambda: world.chunks and world.flows and world.jacobians)
    chunk = chunk_from_msg(world.chunks[0])
    assert (chunk.stamp, chunk.goal_id, chunk.plan_seq) == (T0, 4, 1)
    assert chunk.channels == ('joint_1', 'joint_2', 'joint_3')
    assert chunk.steps == 3 and chunk.period == 0.2
    assert 0 < chunk.latency < 30
    # The same as the library says, so nothing is lost on the way.
    images = pictures()
    expected = make_translator('jacobian', world.node.contract).translate(images[0], images[1:4])
    np.testing.assert_allclose(chunk.values, expected.values, atol=1e-6)
    assert chunk.model_hash == world.node._translator.checkpoint_hash
    assert (world.flows[0].height, world.flows[0].width) == (64, 3 * 64)
    assert (world.jacobians[0].height, world.jacobians[0].width) == (64, 3 * 64)
    assert not world.errors


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'views': ['front']}, 'shows views front; the contract has top'),
        ({'frame_period': 0.1}, 'frame period is 0.1 s; the contract says 0.2'),
        ({'frame_period': float('nan')}, 'frame period is nan'),
        ({'committed': 0}, '0 frames are committed of 4'),
        ({'committed': 9}, '9 frames are committed of 4'),
        ({'frames': []}, 'of 0 imagined'),
        ({'anchor': ImageMsg()}, 'encoding'),
        ({'images': np.zeros((5, 32, 32, 3), np.uint8)}, '32, 32'),
    ],
    ids=lambda v: '-'.join(v) if isinstance(v, dict) else None,
)
def test_a_bad_plan_is_one_error_and_no_chunk(world, changes, words):
    world.begin()
    world.plans.publish(plan(2, **changes))
    wait_for(lambda: world.errors)
    assert len(world.errors) == 1
    assert 'plan 2 of goal 4 is not translated' in world.errors[0]
    assert words in world.errors[0]
    # The node lives on, and the bad plan leaves nothing behind.
    world.plans.publish(plan(3))
    wait_for(lambda: world.chunks)
    assert [c.plan_seq for c in world.chunks] == [3]


def test_frames_of_two_sizes_are_refused(world):
    world.begin()
    msg = plan(2)
    msg.frames[1] = canvas_to_image_msg(np.zeros((32, 64, 3), np.uint8), T0)
    world.plans.publish(msg)
    wait_for(lambda: world.errors)
    assert 'differ in size' in world.errors[0]
    assert not world.chunks


def test_the_newest_plan_wins(world):
    world.begin()
    gate, begun = threading.Event(), threading.Event()
    explain = world.node._translator.explain

    def slow(anchor, frames, state):
        begun.set()
        assert gate.wait(20)
        return explain(anchor, frames, state)

    world.node._translator.explain = slow
    world.plans.publish(plan(1))
    assert begun.wait(20)
    for seq in (2, 3):
        world.plans.publish(plan(seq))
    wait_for(lambda: world.node._worker.superseded == 1)
    gate.set()
    wait_for(lambda: any(c.plan_seq == 3 for c in world.chunks))
    assert 2 not in [c.plan_seq for c in world.chunks]


@pytest.mark.parametrize(
    'parameters',
    [
        {'checkpoint': 'nowhere'},
        {'translator': 'vggt'},
        {'mode': 'servo'},
        {'checkpoint': 'jidm_finger5_analytic'},
    ],
    ids=lambda p: '-'.join(p.values()),
)
def test_refuses_to_start_with_what_cannot_work(parameters):
    made = World(**parameters)
    try:
        assert made.node.trigger_configure() != TransitionCallbackReturn.SUCCESS
    finally:
        made.close()


def test_can_be_stopped_and_started_again(world):
    world.begin()
    assert world.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert world.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    wait_for(lambda: world.plans.get_subscription_count() == 1)
    world.plans.publish(plan(8))
    wait_for(lambda: world.chunks)
    assert world.chunks[0].plan_seq == 8
