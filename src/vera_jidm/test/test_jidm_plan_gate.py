"""The translator's side of the gate: the choice among candidates, and the node that stops plans."""

import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter

from vera_core.contract import load_contract
from vera_core.gates import GateEntry, GateError, save_gate
from vera_core.nodes.convert import canvas_to_image_msg, frames_to_msgs, stamp_to_msg
from vera_core.nodes.qos import CHUNK, PLAN
from vera_core.normal import Normal, Tail
from vera_core.seams import Translation
from vera_jidm.honesty import PlanHonesty
from vera_jidm.nodes.translator_node import TranslatorNode
from vera_jidm.plan_gate import PlanGate, action_signals
from vera_jidm.registry import find_translator_checkpoint
from vera_jidm.translator import Explanation
from vera_msgs.msg import ActionChunk, PlanVerdict, VisualPlan

PLANNER = ('small', '0123456789abcdef')


def normal(largest):
    """Residuals up to `largest` are normal."""
    return Normal({'residual': Tail(np.linspace(0, largest, 20), largest / 100)}, 2.0, 100)


class Reader:
    """A translator to which a frame's level is its residual, in per cent."""

    def explain(self, anchor, frames, state=None):
        K = len(frames)
        residual = frames[:, 0, 0, 0] / 100.0
        honesty = PlanHonesty(
            {'residual': residual, 'stillness': np.full(K, 1e9)}, np.zeros((K, 1, 1), np.float32),
            np.ones((K, 2)), np.ones(K), np.zeros((K, 0)), np.zeros(K), ('',) * K,
            np.zeros(K, bool), float('inf'),
        )
        empty = np.zeros((K, 1, 1, 2), np.float32)
        explanation = Explanation(
            empty, empty[..., 0], empty, np.ones(K), np.zeros(K, bool), ('',) * K, honesty
        )
        values = np.repeat(residual[:, None], 2, axis=1)
        ones = np.ones(2, np.float32)
        return Translation(values, residual.astype(np.float32), ones), explanation


class Blind(Reader):
    """One that cannot tell."""

    def explain(self, anchor, frames, state=None):
        translation, explanation = super().explain(anchor, frames, state)
        return translation, replace(explanation, honesty=None)


ANCHOR = np.zeros((8, 8, 3), np.uint8)


def levels(*values):
    return np.stack([np.full((8, 8, 3), v, np.uint8) for v in values])


def test_the_worst_step_counts_and_rest_does_not():
    _, explanation = Reader().explain(ANCHOR, levels(10, 70, 20))
    assert action_signals(explanation) == {'residual': 0.7}
    assert action_signals(Blind().explain(ANCHOR, levels(1))[1]) == {}


def test_the_most_executable_candidate_is_chosen():
    candidates = [levels(10, 95), levels(20, 30), levels(50, 50)]
    translation, _, verdict = PlanGate(normal(0.6)).translate(Reader(), ANCHOR, candidates)
    assert verdict.accepted and verdict.chosen == 1 and len(verdict.scores) == 3
    assert translation.residual == pytest.approx([0.2, 0.3])


def test_a_plan_that_no_action_explains_is_stopped_with_the_reason():
    _, _, verdict = PlanGate(normal(0.6)).translate(Reader(), ANCHOR, [levels(10, 95)])
    assert not verdict.accepted
    assert verdict.reason.startswith('no action of this robot explains its motion (residual 0.95')
    _, _, told = PlanGate(normal(0.6), 'report').translate(Reader(), ANCHOR, [levels(10, 95)])
    assert told.accepted and told.reason == verdict.reason


@pytest.mark.parametrize(
    ('gate', 'translator'),
    [(PlanGate(), Reader()), (PlanGate(normal(0.6), 'off'), Reader()),
     (PlanGate(normal(0.6)), Blind())],
    ids=['unmeasured', 'off', 'blind'],
)
def test_without_knowledge_nothing_is_stopped(gate, translator):
    _, _, verdict = gate.translate(translator, ANCHOR, [levels(95), levels(10)])
    assert verdict.accepted and verdict.chosen == 0 and verdict.scores == ()


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match='without candidates'):
        PlanGate().translate(Reader(), ANCHOR, [])
    with pytest.raises(GateError, match="no gate 'maybe'"):
        PlanGate(mode='maybe')


# The node ------------------------------------------------------------------------------------


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
        values = {'autostart': False, 'debug': False, **parameters}
        self.node = TranslatorNode(
            context=self.context,
            parameter_overrides=[Parameter(k, value=v) for k, v in values.items()],
        )
        self.helper = Node('helper', namespace='vera', context=self.context)
        self.chunks, self.verdicts = [], []
        self.helper.create_subscription(ActionChunk, 'action_chunk', self.chunks.append, CHUNK)
        self.helper.create_subscription(PlanVerdict, 'plan_verdict', self.verdicts.append, PLAN)
        self.plans = self.helper.create_publisher(VisualPlan, 'visual_plan', PLAN)
        self.executors = [SingleThreadedExecutor(context=self.context) for _ in range(2)]
        self.ending, self.threads = False, []
        for executor, node in zip(self.executors, (self.node, self.helper), strict=True):
            executor.add_node(node)
            self.threads.append(threading.Thread(target=self.spin, args=(executor,), daemon=True))
            self.threads[-1].start()

    def spin(self, executor):
        while not self.ending:
            executor.spin_once(timeout_sec=0.05)

    def begin(self):
        for step in (self.node.trigger_configure, self.node.trigger_activate):
            assert step() == TransitionCallbackReturn.SUCCESS
        wait_for(lambda: self.plans.get_subscription_count() == 1)
        wait_for(lambda: self.node._chunks.get_subscription_count() == 1)
        wait_for(lambda: self.node._verdicts.get_subscription_count() == 1)

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
def gated(tmp_path, monkeypatch):
    """A node whose thresholds let plans pass up to some residual."""
    monkeypatch.setenv('VERA_CONFIG_PATH', str(tmp_path))
    made = []

    def begin(largest, **parameters):
        world = World(**parameters)
        made.append(world)
        weights = find_translator_checkpoint(load_contract('finger')).short_hash
        passes = normal(largest)
        save_gate(
            GateEntry(*PLANNER, 'jacobian', weights, passes, passes, passes),
            tmp_path / 'finger.gate.json',
        )
        world.begin()
        return world

    yield begin
    for world in made:
        world.close()


def plan(seq, alternatives=(), **changes):
    rng = np.random.default_rng(3)
    block = rng.integers(0, 255, (20, 20, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    images = np.full((4, 64, 64, 3), 210, np.uint8)
    for k in range(4):
        images[k, 12:52, 8 + 2 * k : 48 + 2 * k] = block
    stamp = 7_000_000_000
    msg = VisualPlan(
        goal_id=4, plan_seq=seq, prompt='touch the red disc', views=['top'], frame_period=0.2,
        committed=3, planner_id=PLANNER[0], planner_hash=PLANNER[1],
    )
    msg.header.stamp = stamp_to_msg(stamp)
    msg.anchor = canvas_to_image_msg(images[0], stamp)
    msg.frames = frames_to_msgs(images[1:], stamp, 0.2)
    for other in alternatives:
        msg.alternatives = [*msg.alternatives, *frames_to_msgs(other(images[1:]), stamp, 0.2)]
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def test_a_stopped_plan_gets_no_chunk_and_the_node_lives_on(gated):
    world = gated(1e-6, gate='on')
    world.plans.publish(plan(1))
    wait_for(lambda: world.verdicts)
    verdict = world.verdicts[0]
    assert (verdict.judge, verdict.accepted) == ('translator', False)
    assert (verdict.goal_id, verdict.plan_seq) == (4, 1)
    assert 'no action of this robot explains its motion' in verdict.reason
    # Plans of a planner that nobody measured pass.
    world.plans.publish(plan(2, planner_hash='another'))
    wait_for(lambda: world.chunks)
    assert [chunk.plan_seq for chunk in world.chunks] == [2]


def test_a_reported_plan_is_executed_and_the_reason_told(gated):
    world = gated(1e-6)
    world.plans.publish(plan(1))
    wait_for(lambda: world.chunks and world.verdicts)
    assert world.verdicts[0].accepted and 'explains' in world.verdicts[0].reason


def test_the_better_alternative_is_executed(gated):
    world = gated(1.0, gate='on')
    flicker = np.random.default_rng(0)
    noisy = [flicker.integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)]
    message = plan(1, alternatives=[lambda frames: frames])
    message.frames = frames_to_msgs(noisy[0], 7_000_000_000, 0.2)
    world.plans.publish(message)
    wait_for(lambda: world.chunks and world.verdicts)
    assert world.verdicts[0].chosen == 1 and len(world.verdicts[0].scores) == 2
    better = list(world.chunks[0].values)
    world.plans.publish(plan(2))
    wait_for(lambda: len(world.chunks) == 2)
    assert list(world.chunks[1].values) == pytest.approx(better, abs=1e-9)


def test_half_an_alternative_is_refused(gated):
    world = gated(1.0, gate='on')
    message = plan(1)
    message.alternatives = message.frames[:2]
    world.plans.publish(message)
    world.plans.publish(plan(2))
    wait_for(lambda: world.chunks)
    assert [chunk.plan_seq for chunk in world.chunks] == [2]


def test_a_damaged_file_of_thresholds_is_said_at_the_start(gated, tmp_path):
    made = World(gate='on')
    (tmp_path / 'finger.gate.json').write_text('{}')
    try:
        assert made.node.trigger_configure() != TransitionCallbackReturn.SUCCESS
    finally:
        made.close()
