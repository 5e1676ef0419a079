"""The planner node with two cameras, one of which stops, freezes or has another clock."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image as ImageMsg

from vera_core.nodes.convert import image_to_msg
from vera_core.nodes.qos import IMAGE, LATCHED
from vera_core.seams import Plan
from vera_msgs.msg import GoalStatus
from vera_msgs.srv import SetGoal
from vera_planner.nodes.planner_node import PlannerNode

MS = 1_000_000
TWO = (
    '{canvas: {width: 128}, video: {frame_timeout: 1.0}, cameras: ['
    '{name: top, width: 64, height: 64, rate: 20, topic: top/color/image_raw}, '
    '{name: side, width: 64, height: 64, rate: 20, topic: side/color/image_raw}]}'
)


class Planner:
    """A planner behind the seam whose plans always move."""

    planner_id, checkpoint_hash = 'small', '0123456789abcdef'

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        frames = np.repeat(context[-1][None], 4, axis=0).copy()
        frames[:, :8, :8] ^= 255
        return Plan(frames, 0.2)


class TwoCameras:
    """Two cameras at 20 Hz; `side` may be silent, frozen or off in time."""

    def __init__(self, graph, wait_for):
        self.node = graph.start(
            partial(PlannerNode, lambda contract: Planner()), contract_overrides=TWO
        )
        self.graph, self.helper = graph, graph.helper()
        self.statuses: list = []
        self.views: list = []
        self.count = 0
        self.side, self.frozen, self.offset = True, False, 15 * MS
        self.publishers = [
            self.helper.create_publisher(ImageMsg, f'/vera/{name}/color/image_raw', IMAGE)
            for name in ('top', 'side')
        ]
        self.helper.create_subscription(GoalStatus, 'goal_status', self.statuses.append, LATCHED)
        self.helper.create_subscription(DiagnosticArray, '/diagnostics', self._told, 10)
        wait_for(lambda: all(p.get_subscription_count() == 1 for p in self.publishers))
        self.helper.create_timer(0.05, self._roll)

    def _roll(self):
        self.count += 1
        now = time.time_ns()
        for publisher, frozen, offset in zip(
            self.publishers, (False, self.frozen), (0, self.offset), strict=True
        ):
            if publisher is self.publishers[1] and not self.side:
                continue
            level = 7 if frozen else self.count % 250
            image = np.full((64, 64, 3), level, np.uint8)
            publisher.publish(image_to_msg(image, now + offset))

    def _told(self, msg):
        self.views += [s for s in msg.status if s.name.endswith('planner: views')]

    def goal(self):
        request = SetGoal.Request(prompt='red')
        assert self.graph.call(self.helper, SetGoal, 'set_goal', request).accepted


@pytest.fixture
def two(graph, wait_for):
    return TwoCameras(graph, wait_for)


def test_the_skew_of_two_cameras_is_told(two, wait_for):
    def told():
        return {pair.key: pair.value for pair in two.views[-1].values}

    wait_for(lambda: two.views and int(told()['sets']) > 10)
    values = told()
    assert float(values['skew_p50_ms']) == pytest.approx(15.0, abs=0.2)
    assert float(values['skew_p99_ms']) <= 50
    # Best effort: a machine that hardly runs loses an image now and then.
    assert int(values['dropped_for_side']) < int(values['sets'])
    assert two.views[-1].message == 'matched in time'


@pytest.mark.parametrize(
    ('fault', 'message'),
    [
        ({'frozen': True}, "camera 'side' shows the same picture while those of others"),
        ({'offset': -10_000 * MS}, "'side' is 10.0"),
        ({'side': False}, 'no camera frames on /vera/side/color/image_raw for 1 s'),
    ],
    ids=['frozen', 'another clock', 'silent'],
)
def test_a_camera_that_fails_beside_a_good_one_ends_the_goal_by_name(
    two, wait_for, fault, message
):
    two.goal()
    wait_for(lambda: two.statuses and two.statuses[-1].plans > 1)
    for name, value in fault.items():
        setattr(two, name, value)
    wait_for(lambda: two.statuses[-1].status == GoalStatus.ABORTED)
    assert message in two.statuses[-1].message
