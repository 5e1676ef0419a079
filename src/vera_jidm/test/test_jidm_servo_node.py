"""The translator node in servo mode: chunks from camera frames, as long as there is a plan."""

from __future__ import annotations

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
    image_to_msg,
    stamp_to_msg,
)
from vera_core.nodes.qos import CHUNK, IMAGE, LATCHED, PLAN
from vera_jidm.nodes.translator_node import TranslatorNode
from vera_jidm.registry import make_translator
from vera_jidm.servo import Dream, VisualServo
from vera_msgs.msg import ActionChunk, GoalStatus, VisualPlan

MS = 1_000_000
T0 = 7_000_000 * MS


def wait_for(condition, timeout=30.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, 'it did not happen in time'
        time.sleep(0.01)


def picture(shift, size=64):
    """A block on a table, moved by `shift` px of a 64 px canvas."""
    block = np.random.default_rng(3).integers(0, 255, (20, 20, 3), np.uint8).repeat(2, 0)
    image = np.full((64, 64, 3), 210, np.uint8)
    image[12:52, 8 + shift : 48 + shift] = block.repeat(2, 1)
    return image.repeat(size // 64, 0).repeat(size // 64, 1)


class World:
    """The node under test, a camera, a planner and someone who listens."""

    def __init__(self, **parameters):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=1 + os.getpid() % 100)
        values = {'autostart': False, 'follow': 'servo', 'gate': 'off', **parameters}
        self.node = TranslatorNode(
            context=self.context,
            parameter_overrides=[Parameter(k, value=v) for k, v in values.items()],
        )
        self.helper = Node('helper', namespace='vera', context=self.context)
        self.chunks = []
        self.helper.create_subscription(
            ActionChunk, 'action_chunk', lambda m: self.chunks.append(chunk_from_msg(m)), CHUNK
        )
        publisher = self.helper.create_publisher
        self.plans = publisher(VisualPlan, 'visual_plan', PLAN)
        self.goals = publisher(GoalStatus, 'goal_status', LATCHED)
        self.camera = publisher(ImageMsg, 'top/color/image_raw', IMAGE)
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
        for publisher in (self.plans, self.goals, self.camera, self.node._chunks):
            wait_for(lambda p=publisher: p.get_subscription_count() == 1)

    def plan(self, seq=1, **changes):
        frames = np.stack([picture(k) for k in range(1, 7)])
        msg = VisualPlan(
            goal_id=4, plan_seq=seq, prompt='red', views=['top'], frame_period=0.2, committed=6
        )
        msg.header.stamp = stamp_to_msg(T0)
        msg.observed = stamp_to_msg(T0 - 500 * MS)
        msg.anchor = canvas_to_image_msg(picture(0), T0)
        msg.frames = frames_to_msgs(frames, T0, 0.2)
        for name, value in changes.items():
            setattr(msg, name, value)
        self.plans.publish(msg)
        wait_for(lambda: self.node._new_plan is not None)

    def frame(self, ms, shift, size=128):
        self.camera.publish(image_to_msg(picture(shift, size), T0 + ms * MS))

    def close(self):
        self.ending = True
        for thread in self.threads:
            thread.join(5)
        self.node.close()
        self.helper.destroy_node()
        for executor in self.executors:
            executor.shutdown()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def test_each_camera_frame_that_is_due_becomes_a_chunk_as_the_library_makes_it(world):
    world.begin()
    world.plan()
    for ms in (0, 50, 100, 150, 200):
        world.frame(ms, 0)
        wait_for(lambda ms=ms: world.node._views.newest == T0 + ms * MS)
        wait_for(lambda ms=ms: len(world.chunks) == 1 + ms // 100)
    assert [(c.stamp - T0) // MS for c in world.chunks] == [0, 100, 200]
    assert [c.part for c in world.chunks] == [1, 2, 3]
    assert {(c.goal_id, c.plan_seq, c.observed) for c in world.chunks} == {(4, 1, T0 - 500 * MS)}
    translator = make_translator('jacobian', world.node.contract)
    servo = VisualServo(translator, world.node.contract)
    frames = np.stack([picture(k) for k in range(1, 7)])
    servo.take(Dream(4, 1, picture(0), frames, T0, 200 * MS, T0 - 500 * MS))
    for chunk in world.chunks:
        expected = servo.step(picture(0), chunk.stamp).chunk
        assert chunk.period == pytest.approx(expected.period)
        np.testing.assert_allclose(chunk.values, expected.values, atol=1e-6)


def test_without_a_plan_or_after_the_goal_there_is_no_chunk(world):
    world.begin()
    world.plan()
    world.frame(50, 0)
    wait_for(lambda: len(world.chunks) == 1)
    world.goals.publish(GoalStatus(goal_id=4, status=GoalStatus.SUCCEEDED))
    wait_for(lambda: world.node._ended_goal == 4)
    world.frame(200, 0)
    wait_for(lambda: world.node._servo.goal_id == 0)
    world.frame(350, 0)
    wait_for(lambda: world.node._views.newest == T0 + 350 * MS)
    assert len(world.chunks) == 1


def test_a_bad_plan_and_a_camera_of_another_size_change_nothing(world):
    world.begin()
    world.plan(frame_period=0.3)
    world.frame(0, 0)
    wait_for(lambda: world.node._refused == 1)
    world.plan(seq=2)
    world.frame(50, 0, size=64)
    world.frame(100, 0)
    wait_for(lambda: len(world.chunks) == 1)
    assert world.chunks[0].plan_seq == 2


def test_servo_mode_refuses_lock_step():
    world = World(lockstep=True)
    try:
        assert world.node.trigger_configure() != TransitionCallbackReturn.SUCCESS
    finally:
        world.close()
