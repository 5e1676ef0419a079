"""The planner node: goals as services and an action, plans from its worker, and its failures."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from action_msgs.msg import GoalStatus as ActionStatus
from rclpy.action import ActionClient
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image as ImageMsg
from std_srvs.srv import Trigger

from vera_core.nodes.convert import (
    canvas_to_image_msg,
    frames_from_msgs,
    image_from_msg,
    image_to_msg,
    stamp_from_msg,
)
from vera_core.nodes.qos import CHUNK, IMAGE, IMAGE_RELIABLE, LATCHED, PLAN
from vera_core.seams import Plan
from vera_core.seeds import plan_seed
from vera_msgs.action import ExecuteGoal
from vera_msgs.msg import ActionChunk, ControllerStatus, GoalStatus, VisualPlan
from vera_msgs.srv import ExpertFuture, SetGoal
from vera_planner.goal import PlanRefusedError
from vera_planner.nodes.planner_node import PlannerNode

CAMERA = '/vera/top/color/image_raw'
MS = 1_000_000
Result = ExecuteGoal.Result


class Planner:
    """A planner behind the seam: moves for `moves` plans of a goal, then stands still."""

    planner_id, checkpoint_hash = 'small', '0123456789abcdef'

    def __init__(self, moves=10**9):
        self.moves = moves
        self.made: dict[str, int] = {}
        self.calls: list = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.threads: set[str] = set()

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        self.threads.add(threading.current_thread().name)
        self.calls.append((context.copy(), prompt, seed, warm_start))
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        done = self.made[prompt] = self.made.get(prompt, 0) + 1
        frames = np.repeat(context[-1][None], 4, axis=0).copy()
        if done <= self.moves:
            frames[:, :8, :8] ^= 255
        return Plan(frames, 0.2, warm_start=f'{prompt} {done}')

    def of(self, prompt):
        return [call for call in self.calls if call[1] == prompt]


class World:
    """What surrounds the planner node: a camera, a controller, and someone who wants things."""

    def __init__(self, graph, wait_for, node, lockstep=False):
        self.graph, self.wait_for, self.node = graph, wait_for, node
        helper = self.helper = graph.helper()
        qos = IMAGE_RELIABLE if lockstep else IMAGE
        self.plans: list = []
        self.statuses: list = []
        self.strips: list = []
        self.listen = lambda: graph.helper('translator').create_subscription(
            VisualPlan, 'visual_plan', self.plans.append, PLAN
        )
        helper.create_subscription(GoalStatus, 'goal_status', self.statuses.append, LATCHED)
        helper.create_subscription(ImageMsg, 'plan/image', self.strips.append, IMAGE)
        self.camera = helper.create_publisher(ImageMsg, CAMERA, qos)
        self.controller = helper.create_publisher(ControllerStatus, 'controller_status', LATCHED)
        self.chunks = helper.create_publisher(ActionChunk, 'action_chunk', CHUNK)
        if not lockstep:
            self.listen()
        self.action = ActionClient(helper, ExecuteGoal, 'execute_goal')
        self.count = 0
        self.timer = None
        wait_for(lambda: self.camera.get_subscription_count() == 1)
        wait_for(lambda: self.statuses)

    def frame(self, stamp=None, level=None):
        self.count += 1
        image = np.full((128, 128, 3), self.count % 250 if level is None else level, np.uint8)
        self.camera.publish(image_to_msg(image, time.time_ns() if stamp is None else stamp))

    def roll(self):
        """Frames at 20 Hz from now on."""
        self.timer = self.helper.create_timer(0.05, self.frame)

    def cover(self):
        self.helper.destroy_timer(self.timer)

    def set_goal(self, prompt):
        return self.graph.call(self.helper, SetGoal, 'set_goal', SetGoal.Request(prompt=prompt))

    def cancel_goal(self):
        return self.graph.call(self.helper, Trigger, 'cancel_goal', Trigger.Request())

    def until(self, status):
        self.wait_for(lambda: self.statuses[-1].status == status)
        return self.statuses[-1]

    def execute(self, prompt, timeout=0.0, feedback=None):
        """Returns the accepted goal handle and the future of its result."""
        assert self.action.wait_for_server(10)
        goal = ExecuteGoal.Goal(prompt=prompt, timeout=timeout)
        sent = self.spun(self.action.send_goal_async, goal, feedback_callback=feedback)
        self.wait_for(sent.done)
        handle = sent.result()
        assert handle.accepted
        return handle, self.spun(handle.get_result_async)

    def spun(self, call, *args, **kwargs):
        """Call it in the thread that spins: an ActionClient loses answers that come too soon."""
        task = self.helper.executor.create_task(call, *args, **kwargs)
        self.wait_for(task.done)
        return task.result()

    def result(self, future):
        self.wait_for(future.done)
        return future.result()


@pytest.fixture
def planner():
    return Planner()


@pytest.fixture
def world(graph, wait_for, planner):
    planner.calls.clear()
    node = graph.start(
        lambda **kwargs: PlannerNode(lambda contract: planner, **kwargs),
        replan_period=0.1, seed=5,
    )
    planner.calls.clear()  # the warm-up
    return World(graph, wait_for, node)


def test_a_goal_becomes_plans_and_succeeds_when_they_rest(world, planner, wait_for):
    planner.moves = 3
    world.roll()
    response = world.set_goal('touch the red disc')
    assert response.accepted
    assert response.goal_id == 1
    done = world.until(GoalStatus.SUCCEEDED)
    assert done.message == 'the plan came to rest after 6 plans'
    assert done.prompt == 'touch the red disc'
    assert done.plans == 6
    # The plan that ended the goal has nothing to execute; viewers see it all the same.
    wait_for(lambda: len(world.plans) == 5)
    assert [p.plan_seq for p in world.plans] == [1, 2, 3, 4, 5]
    plan = world.plans[0]
    assert (plan.planner_id, plan.planner_hash) == ('small', '0123456789abcdef')
    assert (plan.goal_id, plan.prompt, list(plan.views)) == (1, 'touch the red disc', ['top'])
    assert (plan.committed, plan.frame_period) == (4, 0.2)
    assert plan.motion > 100
    assert plan.latency > 0
    context = planner.calls[0][0]
    assert (image_from_msg(plan.anchor) == context[-1]).all()
    frames = frames_from_msgs(plan.frames)
    assert frames.shape == (4, 64, 64, 3)
    assert stamp_from_msg(plan.frames[1]) == stamp_from_msg(plan) + 400 * MS
    anchors = np.array([stamp_from_msg(p) for p in world.plans])
    assert (np.diff(anchors) >= 100 * MS).all()
    # Where each random number came from, and that a goal's plans know their predecessor.
    assert [c[2] for c in planner.calls] == [plan_seed(5, 1, k) for k in range(6)]
    assert planner.calls[0][3] is None
    assert planner.calls[2][3] == 'touch the red disc 2'
    strip = image_from_msg(world.strips[-1])
    assert strip.shape == (64, 5 * 64, 3)
    assert planner.threads == {'planner', threading.current_thread().name}  # and the warm-up


def test_frames_come_in_while_the_planner_thinks(world, planner, wait_for):
    world.roll()
    planner.gate.clear()
    world.set_goal('red')
    wait_for(lambda: planner.calls)
    before = world.node._observer.newest
    wait_for(lambda: world.node._observer.newest > before + 300 * MS)
    assert len(planner.calls) == 1
    planner.gate.set()
    wait_for(lambda: len(planner.calls) > 1)
    assert len(planner.calls[1][0]) > 1  # by now the context has a past


@pytest.mark.parametrize(
    ('prompt', 'message'),
    [
        ('', 'is empty'), ('   ', 'only white space'), ('x' * 1001, 'at most 1000'),
        ('a\x07b', 'control character U+0007'), ('...', 'has no letters'),
    ],
)
def test_prompts_are_refused_with_the_reason(world, prompt, message):
    response = world.set_goal(prompt)
    assert not response.accepted
    assert response.goal_id == 0
    assert message in response.message
    assert world.statuses[-1].status == GoalStatus.NONE


def test_a_new_goal_replaces_the_old_one(world, planner, wait_for):
    world.roll()
    planner.gate.clear()
    world.set_goal('red')
    wait_for(lambda: planner.calls)
    response = world.set_goal('blue')
    assert response.accepted
    assert response.goal_id == 2
    assert 'replaces goal 1: red' in response.message
    wait_for(lambda: world.statuses[-1].goal_id == 2)  # the topic keeps only what is current
    planner.gate.set()
    wait_for(lambda: world.plans)
    assert {p.goal_id for p in world.plans} == {2}  # the plan for red came too late
    assert planner.of('blue')[0][3] is None  # nor does its warm start serve blue


def test_cancel_goal(world, planner, wait_for):
    assert not world.cancel_goal().success
    world.roll()
    world.set_goal('red')
    wait_for(lambda: world.plans)
    response = world.cancel_goal()
    assert response.success
    assert response.message == 'goal 1 cancelled'
    assert world.until(GoalStatus.CANCELLED).message == 'cancelled by cancel_goal'
    time.sleep(0.2)
    count = len(world.plans)
    time.sleep(0.4)
    assert len(world.plans) == count


def test_without_frames_a_goal_waits_and_then_gives_up_naming_the_topic(world, wait_for):
    began = time.monotonic()
    response = world.set_goal('red')
    assert response.accepted
    assert response.message == f'waits for camera frames on {CAMERA}'
    wait_for(lambda: world.statuses[-1].goal_id == 1)
    assert 'waits for camera frames' in world.statuses[-1].message
    done = world.until(GoalStatus.ABORTED)
    assert done.message == f'no camera frames on {CAMERA} for 3 s'
    assert 2.9 < time.monotonic() - began < 9


def test_frames_that_stop_end_the_goal(world, wait_for):
    world.roll()
    _, future = world.execute('red')
    wait_for(lambda: world.plans)
    world.cover()
    result = world.result(future)
    assert result.result.error_code == Result.NO_OBSERVATION
    assert CAMERA in result.result.message
    # And the next goal has its whole time to wait for them.
    world.set_goal('blue')
    time.sleep(0.5)
    world.roll()
    wait_for(lambda: world.plans[-1].goal_id == 2)


def test_live_a_goal_is_not_planned_from_what_was_seen_before_it(world, planner, wait_for):
    world.frame(level=100)
    wait_for(lambda: world.node._observer.newest)
    world.set_goal('red')
    time.sleep(0.3)
    assert not planner.calls
    world.frame(level=200)
    wait_for(lambda: planner.calls)
    assert (planner.calls[0][0][-1] == 200).all()


@pytest.mark.parametrize(
    ('error', 'code', 'message'),
    [
        (PlanRefusedError('nothing red here'), Result.NOTHING_TO_DO, 'small: nothing red here'),
        (RuntimeError('out of memory'), Result.INTERNAL, 'small: RuntimeError: out of memory'),
    ],
)
def test_a_planner_that_fails_ends_the_goal_not_the_node(
    world, planner, wait_for, error, code, message
):
    world.roll()
    planner.error = error
    _, future = world.execute('red')
    result = world.result(future)
    assert result.status == ActionStatus.STATUS_ABORTED
    assert result.result.error_code == code
    assert message in result.result.message
    planner.error = None
    assert world.set_goal('blue').accepted
    wait_for(lambda: world.plans and world.plans[-1].goal_id == 2)


def test_a_plan_that_fails_for_the_clock_was_set_back_is_made_again(world, planner, wait_for):
    plan, planner.plan = planner.plan, lambda *a, **k: 1 / 0
    assert world.set_goal('red').accepted
    world.frame(stamp=time.time_ns() + 20_000 * MS)
    wait_for(lambda: world.node._forgiven == 1)
    planner.plan = plan
    world.roll()
    wait_for(lambda: world.plans)
    assert world.statuses[-1].status == GoalStatus.ACTIVE


def test_a_camera_whose_clock_is_ahead_hides_no_failure(world, planner):
    planner.error = RuntimeError('out of memory')
    assert world.set_goal('red').accepted
    world.timer = world.helper.create_timer(
        0.05, lambda: world.frame(stamp=time.time_ns() + 20_000 * MS)
    )
    assert 'out of memory' in world.until(GoalStatus.ABORTED).message


def test_a_planner_that_hangs_ends_the_goal(world, planner, wait_for):
    world.roll()
    world.node.set_parameters([Parameter('plan_timeout', value=0.5)])
    planner.gate.clear()
    _, future = world.execute('red')
    result = world.result(future).result
    assert result.error_code == Result.INTERNAL
    assert result.message == 'no plan within 0.5 s; the planner hangs'
    planner.gate.set()
    world.node.set_parameters([Parameter('plan_timeout', value=15.0)])
    world.set_goal('blue')
    wait_for(lambda: world.plans)
    assert {p.goal_id for p in world.plans} == {2}


def test_frames_of_another_size_are_internal(world, planner, wait_for):
    world.roll()
    planner.plan = lambda *a, **k: Plan(np.zeros((4, 32, 32, 3), np.uint8), 0.2)
    _, future = world.execute('red')
    result = world.result(future).result
    assert result.error_code == Result.INTERNAL
    assert 'gave frames [32, 32, 3]' in result.message
    assert not world.plans


def test_still_plans_from_the_start_are_nothing_to_do(world, planner):
    planner.moves = 0
    world.roll()
    _, future = world.execute('the moon')
    result = world.result(future)
    assert result.status == ActionStatus.STATUS_ABORTED
    assert result.result.error_code == Result.NOTHING_TO_DO
    assert result.result.plans == 5


def test_execute_goal_succeeds_with_feedback(world, planner):
    planner.moves = 4
    world.controller.publish(ControllerStatus(state=ControllerStatus.RUNNING))
    world.roll()
    heard: list = []
    world.chunks.publish(ActionChunk(residual=[0.25, 0.75]))
    _, future = world.execute('red', feedback=lambda m: heard.append(m.feedback))
    world.wait_for(lambda: any(f.plans >= 2 for f in heard))
    world.chunks.publish(ActionChunk(residual=[0.1, 0.3]))
    result = world.result(future)
    assert result.status == ActionStatus.STATUS_SUCCEEDED
    assert result.result.error_code == Result.NONE
    assert (result.result.goal_id, result.result.plans) == (1, 7)
    assert heard[-1].state == 'RUNNING'
    assert math.isnan(heard[0].residual)  # a chunk of before says nothing about this goal
    assert any(f.residual == pytest.approx(0.2) for f in heard)


def test_execute_goal_is_cancelled_while_the_planner_thinks(world, planner, wait_for):
    world.roll()
    planner.gate.clear()
    handle, future = world.execute('red')
    wait_for(lambda: planner.calls)
    began = time.monotonic()
    cancelled = world.spun(handle.cancel_goal_async)
    result = world.result(future)
    assert time.monotonic() - began < 2  # the plan in progress is not waited for
    assert result.status == ActionStatus.STATUS_CANCELED
    assert result.result.error_code == Result.CANCELLED
    assert result.result.message == 'cancelled by the client of execute_goal'
    assert world.result(cancelled).goals_canceling
    planner.gate.set()
    assert world.statuses[-1].status == GoalStatus.CANCELLED


def test_execute_goal_times_out(world):
    world.roll()
    _, future = world.execute('red', timeout=0.5)
    result = world.result(future)
    assert result.status == ActionStatus.STATUS_ABORTED
    assert result.result.error_code == Result.TIMEOUT
    assert result.result.message == 'not reached within 0.5 s'


@pytest.mark.parametrize(
    ('prompt', 'timeout', 'message'),
    [
        ('', 0.0, 'is empty'), ('red', -1.0, 'timeout is -1.0 s'), ('red', math.nan, 'is nan s'),
        ('red', math.inf, 'is inf s'),
    ],
)
def test_execute_goal_refuses_with_a_reason(world, prompt, timeout, message):
    _, future = world.execute(prompt, timeout)
    result = world.result(future)
    assert result.status == ActionStatus.STATUS_ABORTED
    assert result.result.error_code == Result.REFUSED
    assert message in result.result.message
    assert world.node._goals.goal.goal_id == 0


def test_a_goal_by_service_replaces_one_by_action(world, wait_for):
    world.roll()
    _, future = world.execute('red')
    wait_for(lambda: world.plans)
    world.set_goal('blue')
    result = world.result(future)
    assert result.status == ActionStatus.STATUS_ABORTED
    assert result.result.error_code == Result.CANCELLED
    assert result.result.message == 'replaced by goal 2: blue'
    assert world.node._goals.goal.active


@pytest.mark.parametrize('state', ['STOPPED', 'ESTOP'])
def test_a_controller_that_stops_ends_the_goal_with_its_reason(world, wait_for, state):
    world.roll()
    _, future = world.execute('red')
    wait_for(lambda: world.plans)
    value = getattr(ControllerStatus, state)
    world.controller.publish(ControllerStatus(state=value, reason='stop was pressed'))
    result = world.result(future).result
    assert result.error_code == Result.STOPPED
    assert result.message == f'the controller is {state}: stop was pressed'
    assert world.until(GoalStatus.CANCELLED).message == result.message
    response = world.set_goal('blue')
    assert f'the controller is {state}: it needs reset' in response.message


def test_a_hold_of_the_controller_ends_nothing(world, wait_for):
    world.roll()
    world.set_goal('red')
    wait_for(lambda: world.plans)
    world.controller.publish(ControllerStatus(state=ControllerStatus.HOLD, reason='underrun'))
    count = len(world.plans)
    wait_for(lambda: len(world.plans) > count + 2)
    assert world.node._goals.goal.active


def test_images_of_another_size_are_refused_not_planned_from(world, planner, wait_for):
    world.set_goal('red')
    world.camera.publish(canvas_to_image_msg(np.zeros((64, 64, 3), np.uint8), 5))
    time.sleep(0.3)
    assert not planner.calls
    _, message, _ = world.node._reports['camera top']
    assert "camera 'top' is uint8 [64, 64, 3]; the contract says" in message


def test_deactivation_cancels_the_goal_and_refuses_others(world, wait_for):
    world.roll()
    world.set_goal('red')
    wait_for(lambda: world.plans)
    assert world.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert world.until(GoalStatus.CANCELLED).message == 'the planner was deactivated'
    assert world.set_goal('blue').message == 'the planner is not active'
    assert world.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    response = world.set_goal('blue')
    assert response.goal_id == 2
    wait_for(lambda: world.plans[-1].goal_id == 2)


def test_lockstep_plans_only_when_the_chunk_was_executed(graph, wait_for, planner):
    node = graph.start(
        lambda **kwargs: PlannerNode(lambda contract: planner, **kwargs), lockstep=True
    )
    planner.calls.clear()
    world = World(graph, wait_for, node, lockstep=True)
    start = 10_000 * MS
    world.frame(stamp=start, level=1)
    wait_for(lambda: node._observer.newest == start)
    world.set_goal('red')
    wait_for(lambda: planner.calls)
    time.sleep(0.3)
    assert not world.plans  # nobody would execute it: it waits for its reader
    world.listen()
    wait_for(lambda: len(world.plans) == 1)
    assert stamp_from_msg(world.plans[0]) == start
    for k in range(1, 16):
        world.frame(stamp=start + k * 50 * MS, level=k + 1)
    wait_for(lambda: node._observer.newest == start + 750 * MS)
    time.sleep(0.3)
    assert len(planner.calls) == 1
    world.frame(stamp=start + 800 * MS, level=17)
    wait_for(lambda: len(world.plans) == 2)
    assert stamp_from_msg(world.plans[1]) == start + 800 * MS
    assert planner.calls[1][0][:, 0, 0, 0].tolist() == [5, 9, 13, 17]
    # Nothing is judged by clocks: without frames the goal simply waits.
    time.sleep(1.3)
    assert node._goals.goal.active
    # A goal that comes while it thinks is planned for without another frame.
    planner.gate.clear()
    world.frame(stamp=start + 1600 * MS)
    wait_for(lambda: len(planner.calls) == 3)
    world.set_goal('blue')
    planner.gate.set()
    wait_for(lambda: world.plans[-1].goal_id == 2)
    assert stamp_from_msg(world.plans[-1]) == start + 1600 * MS


class Future:
    """Serves expert_future as the sim node does."""

    def __init__(self, node):
        self.requests: list = []
        node.create_service(ExpertFuture, 'expert_future', self.answer)

    def answer(self, request, response):
        self.requests.append(request)
        if 'red' not in request.prompt:
            response.message = f'the expert knows no goal {request.prompt!r}'
            return response
        frames = np.zeros((request.frames, 64, 64, 3), np.uint8)
        frames[:, :8] = 200
        response.frames = [canvas_to_image_msg(f, 0) for f in frames]
        response.success = True
        return response


def test_the_oracle_asks_the_simulation(graph, wait_for):
    node = graph.start(PlannerNode, planner='oracle', replan_period=0.1)
    world = World(graph, wait_for, node)
    future = Future(world.helper)
    world.roll()
    world.set_goal('red')
    wait_for(lambda: len(world.plans) > 1)
    plan = world.plans[0]
    assert plan.planner_id == 'oracle'
    assert len(plan.frames) == 4
    assert (frames_from_msgs(plan.frames)[:, :8] == 200).all()
    assert stamp_from_msg(future.requests[0].anchor) == stamp_from_msg(plan)
    _, result = world.execute('make tea')
    answer = world.result(result).result
    assert answer.error_code == Result.NOTHING_TO_DO
    assert "knows no goal 'make tea'" in answer.message


def test_the_oracle_without_a_simulation_says_so(graph, wait_for):
    node = graph.start(PlannerNode, planner='oracle')
    node._planner._provider._timeout = 0.5
    world = World(graph, wait_for, node)
    world.roll()
    _, future = world.execute('red')
    result = world.result(future).result
    assert result.error_code == Result.INTERNAL
    assert 'nobody serves /vera/expert_future: the oracle exists only in simulation' in (
        result.message
    )


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({'planner': 'nobody'}, 'it is one of , compact, oracle'),
        ({'checkpoint': 'nowhere_to_be_found'}, "checkpoint 'nowhere_to_be_found' not found"),
        ({'contract': 'finger9'}, 'finger9'),
        ({'replan_period': 0.0}, 'parameter replan_period'),
    ],
)
def test_what_cannot_be_set_up_is_refused_by_name(graph, parameters, message, capfd):
    given = {'autostart': False, **parameters}
    overrides = [Parameter(k, value=v) for k, v in given.items()]
    node = PlannerNode(context=graph.context, parameter_overrides=overrides)
    graph.add(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    logged = ''.join(capfd.readouterr())
    assert message in logged
    assert 'Traceback' not in logged
