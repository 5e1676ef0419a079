"""From finger set-points to commands of a hand, and the threads that wait for it."""

from __future__ import annotations

import threading
import time

import pytest

from vera_controller.robots.arm import LinkError
from vera_controller.robots.fake_robot import FakeGripper
from vera_controller.robots.gripper import RETRY_S, Command, GripperThread, Intent

WIDEST = 0.04
TICK = 0.01


def commands(path, measured=None, intent=None):
    """(time, command) for set-points [m], one a tick; the hand follows at once unless told."""
    intent = intent or Intent(WIDEST)
    where = path[0] if measured is None else measured
    found = []
    for k, opening in enumerate(path):
        command = intent.update(opening, where, k * TICK)
        if command is not None:
            found.append((k * TICK, command))
            where = measured if measured is not None else command.opening
    return found


def ramp(begin, end, speed=0.1):
    n = max(int(abs(end - begin) / (speed * TICK)), 1)
    return [begin + (end - begin) * k / n for k in range(n + 1)]


def test_standing_still_is_no_command():
    assert commands([0.02] * 100) == []


def test_closing_is_one_grip_that_begins_before_the_ramp_has_ended():
    path = [WIDEST] * 10 + ramp(WIDEST, 0.0) + [0.0] * 50
    [(when, command)] = commands(path)
    assert command == Command(0.0, grasp=True)
    assert when < 0.1 + 0.4, 'the ramp takes 0.4 s from 0.1 s on'


def test_opening_is_one_motion_that_begins_before_the_ramp_has_ended():
    path = [0.0] * 10 + ramp(0.0, WIDEST) + [WIDEST] * 50
    [(when, command)] = commands(path)
    assert command == Command(WIDEST)
    assert when < 0.1 + 0.4


def test_an_opening_in_between_waits_until_it_is_meant():
    path = [WIDEST] * 10 + ramp(WIDEST, 0.02) + [0.02] * 50
    [(when, command)] = commands(path)
    assert command == Command(0.02)
    assert 0.1 + 0.2 + 0.05 <= when <= 0.1 + 0.2 + 0.09


def test_a_set_point_where_the_fingers_hold_something_does_not_let_go():
    """After a hold the filter begins where the fingers are, not where they were to be."""
    intent = Intent(WIDEST)
    path = ramp(WIDEST, 0.0) + [0.0] * 20
    assert [c for _, c in commands(path, 0.024, intent)] == [Command(0.0, grasp=True)]
    late = [(k * TICK + 10, 0.0239) for k in range(50)]
    assert [intent.update(opening, 0.024, t) for t, opening in late] == [None] * 50
    again = [intent.update(opening, 0.024, 20 + k * TICK) for k, opening in
             enumerate(ramp(0.0239, 0.0) + [0.0] * 20)]  # fmt: skip
    assert not any(again), 'it grips already'
    opened = [intent.update(opening, 0.024, 30 + k * TICK) for k, opening in
              enumerate(ramp(0.0, WIDEST))]  # fmt: skip
    assert [c for c in opened if c] == [Command(WIDEST)]


def test_trembling_is_no_command():
    path = [0.02 + 0.001 * (-1) ** k for k in range(100)]
    assert commands(path) == []


def test_changing_ones_mind_on_the_way():
    path = [WIDEST] * 5 + ramp(WIDEST, 0.005) + ramp(0.005, WIDEST) + [WIDEST] * 20
    assert [c for _, c in commands(path)] == [Command(0.0, grasp=True), Command(WIDEST)]


# The threads ----------------------------------------------------------------------------------


def wait_for(condition, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def thread():
    made = []

    def make(link):
        faults = []
        made.append(
            GripperThread(link, widest=WIDEST, speed=1.0, force=30.0, on_fault=faults.append)
        )
        made[-1].start()
        return made[-1], faults

    yield make
    for gripper in made:
        gripper.close()
        assert not any(t.is_alive() for t in gripper._threads)


def send(gripper, path):
    slowest = 0.0
    for opening in path:
        began = time.perf_counter()
        gripper.target(opening)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.002)
    return slowest


def test_a_slow_hand_holds_nobody_up_and_the_newest_command_counts(thread):
    hand = FakeGripper(WIDEST)
    gripper, faults = thread(hand)
    close, open_ = ramp(WIDEST, 0.0), ramp(0.0, WIDEST)
    slowest = send(gripper, close + open_ + close)
    assert slowest < 0.1
    wait_for(lambda: gripper.measured[0] < 0.001)
    names = [name for name, _ in hand.commands]
    assert names[0] == names[-1] == 'grasp'
    assert len(names) <= 3
    assert not faults


def test_the_opening_and_its_velocity_are_measured(thread):
    hand = FakeGripper(WIDEST)
    hand.move = lambda opening, speed: _slowly(hand, opening)
    gripper, _ = thread(hand)
    assert gripper.measured == (WIDEST, 0.0)
    send(gripper, ramp(WIDEST, 0.02) + [0.02] * 60)
    wait_for(lambda: gripper.measured[1] < -0.005)
    wait_for(lambda: abs(gripper.measured[0] - 0.02) < 1e-3)


def _slowly(hand, opening):
    for _ in range(40):
        hand.opening += (opening - hand.opening) / 10
        time.sleep(0.02)
    return True


def test_a_hand_that_did_not_move_is_asked_once_more(thread):
    hand = FakeGripper(WIDEST)
    hand.jams = True
    gripper, faults = thread(hand)
    send(gripper, ramp(WIDEST, 0.0))
    wait_for(lambda: len(hand.commands) == 2)
    time.sleep(0.1)
    assert hand.commands == [('grasp', 0.0)] * 2
    assert not faults


def test_holding_something_is_success(thread):
    hand = FakeGripper(WIDEST, thing=0.025)
    gripper, _ = thread(hand)
    send(gripper, ramp(WIDEST, 0.0))
    wait_for(lambda: abs(gripper.measured[0] - 0.025) < 1e-6)
    time.sleep(0.1)
    assert hand.commands == [('grasp', 0.0)]


def test_a_hand_that_is_lost_is_told_again_and_again_until_it_is_back(thread):
    class Lost(FakeGripper):
        lost = False

        def measure(self):
            if self.lost:
                raise LinkError('UDP receive: Timeout')
            return super().measure()

    hand = Lost(WIDEST)
    gripper, faults = thread(hand)
    hand.lost = True
    wait_for(lambda: len(faults) >= 2)
    assert faults[0] == 'gripper: UDP receive: Timeout'
    hand.lost = False
    hand.opening = 0.01
    wait_for(lambda: gripper.measured[0] == 0.01)
    count = len(faults)
    time.sleep(1.5 * RETRY_S)
    assert len(faults) == count


def test_a_command_that_fails_is_a_fault_and_the_thread_lives(thread):
    hand = FakeGripper(WIDEST)
    good = hand.grasp
    hand.grasp = lambda speed, force: (_ for _ in ()).throw(LinkError('command rejected'))
    gripper, faults = thread(hand)
    send(gripper, ramp(WIDEST, 0.0))
    wait_for(lambda: faults)
    assert faults[0] == 'gripper: command rejected'
    hand.grasp = good
    send(gripper, ramp(0.0, WIDEST) + ramp(WIDEST, 0.0))
    wait_for(lambda: gripper.measured[0] < 0.001)


def test_what_has_not_begun_can_be_forgotten(thread):
    hand, gate = FakeGripper(WIDEST), threading.Event()
    good = hand.grasp
    hand.grasp = lambda speed, force: gate.wait(5.0) and good(speed, force)
    gripper, _ = thread(hand)
    send(gripper, ramp(WIDEST, 0.0) + ramp(0.0, WIDEST))
    gripper.forget()
    gate.set()
    wait_for(lambda: hand.commands)
    time.sleep(0.1)
    assert hand.commands == [('grasp', 0.0)], 'what is held stays held'
