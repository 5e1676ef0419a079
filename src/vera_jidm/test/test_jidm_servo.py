"""Planned frames as moving goals: pure core, on a robot that shifts a patch on a table."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from jidm_toys import patch

from vera_core.contract import load_contract
from vera_core.seams import Translation
from vera_jidm.servo import Dream, ServoError, Trust, VisualServo
from vera_jidm.translator import Explanation, TranslationError

MS = 1_000_000
T0 = 1_795_000_000_000_000_000
PERIOD = 100 * MS
# Two prismatic axes; one pixel of the picture is a millimetre here.
CONTRACT = load_contract('pusht')
PX = 1e-3


def seen(x, y=8.0):
    return patch(x, y)[0]


class CentroidTranslator:
    """Finds the patch in both pictures by its dark pixels; exact, whatever the distance."""

    translator_id, checkpoint_hash = 'centroid', 'c0ffee'
    channels = CONTRACT.channel_names
    needs_state = False

    def __init__(self):
        self.residual, self.weight = 0.0, 1.0
        self.calls = []

    def where(self, image):
        if image.shape != (32, 32, 3):
            raise TranslationError('another size')
        mass = 255.0 - image.mean(axis=-1)
        y, x = np.mgrid[:32, :32]
        return np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum()

    def explain(self, anchor, frames, state=None):
        places = np.array([self.where(image) for image in (anchor, *frames)])
        values = np.diff(places, axis=0) * PX
        self.calls.append(values)
        k = len(values)
        flow = np.repeat(values[:, None, None] / PX, 32, 1).repeat(32, 2).astype(np.float32)
        translation = Translation(
            values, np.full(k, self.residual, np.float32), np.ones(2, np.float32)
        )
        explanation = Explanation(
            flow, np.full((k, 32, 32), self.weight, np.float32), np.zeros((4, 4, 2, 2), np.float32),
            np.ones(k), np.abs(values).max(axis=1) < 1e-5, ('',) * k,
        )
        return translation, explanation


def dream(first=8.0, step=1.0, count=6, stamp=T0, seq=1, goal=1):
    """The patch moves `step` px a frame from `first` on."""
    frames = np.stack([seen(first + step * (k + 1)) for k in range(count)])
    return Dream(goal, seq, seen(first), frames, stamp, PERIOD, stamp)


@pytest.fixture
def servo():
    return VisualServo(CentroidTranslator(), CONTRACT)


def path(chunk):
    """Where the chunk leads [px] after each of its steps, and when [s after its anchor]."""
    return np.cumsum(chunk.values[:, 0]) / PX, chunk.period * np.arange(1, chunk.steps + 1)


def test_the_action_leads_from_where_the_robot_is_to_the_frame_due_next(servo):
    servo.take(dream())
    # At 0.1 s the plan is at 9 px. The robot is late: it sees 8.4. Due next, at 0.2 s: 10 px.
    found = servo.step(seen(8.4), T0 + 100 * MS)
    assert found.doubt == '' and found.chunk.stamp == T0 + 100 * MS
    where, when = path(found.chunk)
    assert where[np.searchsorted(when, 0.1 - 1e-9)] == pytest.approx(1.6, abs=0.05)
    # And on to the frame after.
    assert when[-1] == pytest.approx(0.2) and where[-1] == pytest.approx(2.6, abs=0.05)
    assert found.chunk.channels == CONTRACT.channel_names


def test_a_frame_that_is_due_too_soon_is_passed_over(servo):
    servo.take(dream())
    found = servo.step(seen(9.0), T0 + 170 * MS)
    where, when = path(found.chunk)
    # 30 ms to 10 px would be all noise; 11 px are due in 130 ms.
    assert where[np.searchsorted(when, 0.13 - 1e-9)] == pytest.approx(2.0, abs=0.05)


def test_the_robot_gets_to_the_goal_although_each_of_its_motions_falls_short(servo):
    """Only 70% of each action happens: a chunk ends 30% short, the servo loop does not."""
    servo.take(dream(step=1.0, count=8))
    x, now = 8.0, T0
    while (found := servo.step(seen(x), now)) is not None:
        where, when = path(found.chunk)
        done = np.interp(0.05, np.append(0, when), np.append(0, where))
        x += 0.7 * done
        now += 50 * MS
    assert x == pytest.approx(16.0, abs=0.7)


def test_without_trust_in_the_flow_the_plans_own_motion_is_followed(servo):
    translator = servo._translator
    servo.take(dream())
    for residual, weight, words in ((0.99, 1.0, 'no motion of the robot'), (0.0, 0.5, 'uncertain')):
        translator.residual, translator.weight = residual, weight
        found = servo.step(seen(12.0), T0 + 100 * MS)
        assert words in found.doubt
        where, when = path(found.chunk)
        assert where[np.searchsorted(when, 0.1 - 1e-9)] == pytest.approx(1.0, abs=0.05)
    assert servo.fallbacks == servo.steps == 2


def test_a_plan_for_later_leaves_the_goals_before_it(servo):
    servo.take(dream())
    servo.take(dream(first=11.0, step=-1.0, stamp=T0 + 300 * MS, seq=2))
    before = servo.step(seen(9.0), T0 + 100 * MS)
    assert path(before.chunk)[0][-1] == pytest.approx(2.0, abs=0.05)
    after = servo.step(seen(11.0), T0 + 300 * MS)
    assert path(after.chunk)[0][-1] == pytest.approx(-2.0, abs=0.05)
    assert (before.chunk.plan_seq, before.chunk.part) == (2, 1)
    assert after.chunk.part == 2


def test_nothing_is_followed_before_a_plan_after_it_and_after_another_goals(servo):
    assert servo.step(seen(8.0), T0) is None and servo.goal_id == 0
    servo.take(dream(count=2))
    assert servo.step(seen(8.0), T0 + 150 * MS) is not None
    assert not servo.wants(T0 + 190 * MS)
    assert servo.step(seen(10.0), T0 + 200 * MS) is None
    servo.take(dream(stamp=T0 + 200 * MS, goal=2, seq=2))
    assert servo.goal_id == 2
    assert servo.step(seen(8.0), T0 + 150 * MS) is not None
    assert len([due for due, _ in servo._goals if due < T0 + 200 * MS]) == 0
    servo.clear()
    assert not servo.wants(T0 + 250 * MS)


def test_a_robot_that_fell_far_behind_does_not_ask_for_more_than_it_can(servo):
    servo.take(dream(first=8.0, step=1.0))
    servo._velocity = np.array([5.0, 5.0]) * PX / 0.1  # 5 px a frame
    found = servo.step(seen(1.0), T0 + 100 * MS)
    where, when = path(found.chunk)
    assert where[np.searchsorted(when, 0.1 - 1e-9)] == pytest.approx(5.0)
    assert np.abs(np.diff(where)).max() / np.diff(when)[0] <= 50 * 1.001


def test_it_moves_only_what_can_be_divided():
    targets = tuple(
        dataclasses.replace(c, kind='joint_target', name=c.joint) for c in CONTRACT.channels
    )
    with pytest.raises(ServoError, match=r'pusher_x.*joint_target.*follow: chunk'):
        VisualServo(CentroidTranslator(), dataclasses.replace(CONTRACT, channels=targets))


def test_frames_of_another_size_are_refused(servo):
    servo.take(dream())
    with pytest.raises(TranslationError, match='size'):
        servo.step(np.zeros((8, 8, 3), np.uint8), T0 + 100 * MS)


def test_trust_can_be_set():
    servo = VisualServo(CentroidTranslator(), CONTRACT, Trust(residual=0.5))
    servo._translator.residual = 0.6
    servo.take(dream())
    assert '60% of the flow' in servo.step(seen(8.0), T0).doubt
