"""The whole graph as real processes: goals are reached, faults survived, and it ends cleanly."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from graph_tools import Vera, processes_of, unique_domain, vera
from vera_bringup.nodes.client import VeraClient
from vera_msgs.msg import ControllerStatus, GoalStatus
from viewer_tools import not_shown

NODES = {'sim', 'controller', 'translator', 'planner'}
PATIENCE = 40.0  # s: two cores, and other tests beside this one


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    """One running graph with the oracle planner, for all tests of this file in their order."""
    folder = tmp_path_factory.mktemp('graph')
    domain = unique_domain()
    up = Vera(
        'up', 'finger', '--planner', 'oracle', '--domain', str(domain), '--record', cwd=folder
    )
    try:
        up.wait_for('all nodes are ready', 120)
        yield up, domain, folder
    finally:
        up.kill()


@pytest.fixture(scope='module')
def client(graph):
    """Talks to that graph."""
    _, domain, _ = graph
    with VeraClient(domain, patience=PATIENCE) as client:
        everybody = lambda: set(client.nodes()) >= NODES and client.complete()  # noqa: E731
        assert client.until(everybody, PATIENCE)
        assert client.until(lambda: client.sim is not None, PATIENCE)
        yield client


def run_dir(folder):
    (found,) = (folder / 'runs').iterdir()
    return found


def state_is(client, *states) -> bool:
    return client.until(lambda: client.controller.state in states, PATIENCE)


def discs(client) -> list[str]:
    """By distance from the tip, nearest first."""
    return [name for _, name in sorted(zip(client.sim.distances, client.sim.objects, strict=True))]


def reach(client, disc: str) -> None:
    """Give a goal and see it really reached."""
    answer = client.set_goal(f'touch the {disc} disc')
    assert answer.accepted, answer.message
    assert client.until(lambda: client.goal_ended(answer.goal_id), 90), client.goal
    assert client.goal.status == GoalStatus.SUCCEEDED, client.goal
    inside = lambda: client.sim.inside[list(client.sim.objects).index(disc)]  # noqa: E731
    assert client.until(inside, PATIENCE)


@pytest.mark.timeout(180)
def test_a_goal_in_words_is_reached(graph, client):
    _, domain, folder = graph
    assert state_is(client, ControllerStatus.READY)
    disc = discs(client)[0]
    code, text = vera(
        'goal', f'touch the {disc} disc', '--json', '--timeout', '80', '--domain', str(domain),
        cwd=folder, timeout=100,
    )  # fmt: skip
    answer = json.loads(text.splitlines()[-1])
    assert (code, answer['status']) == (0, 'SUCCEEDED'), text
    assert client.until(lambda: client.sim.dwelled == disc, PATIENCE)


@pytest.mark.timeout(60)
def test_status_in_json(graph):
    _, domain, folder = graph
    code, text = vera('status', '--json', '--domain', str(domain), cwd=folder)
    assert code == 0
    status = json.loads(text.splitlines()[-1])
    assert status['domain'] == domain
    assert set(status['nodes']) & NODES


@pytest.mark.timeout(60)
@pytest.mark.parametrize('prompt', ['', '   '])
def test_an_empty_prompt_is_refused(graph, client, prompt):
    _, domain, folder = graph
    code, text = vera('goal', prompt, '--domain', str(domain), cwd=folder)
    assert code == 2
    assert 'empty' in text
    answer = client.set_goal(prompt)
    assert not answer.accepted
    assert 'say what to do' in answer.message


@pytest.mark.timeout(90)
def test_a_prompt_that_names_nothing_visible_ends_the_goal(graph):
    _, domain, folder = graph
    code, text = vera('goal', 'make me a sandwich', '--json', '--domain', str(domain), cwd=folder)
    answer = json.loads(text.splitlines()[-1])
    assert (code, answer['status']) == (1, 'ABORTED')
    assert 'objects of the scene' in answer['message']


@pytest.mark.timeout(120)
def test_a_new_goal_replaces_the_one_in_progress(client):
    first, second = discs(client)[-1:-3:-1]
    old = client.set_goal(f'touch the {first} disc')
    new = client.set_goal(f'touch the {second} disc')
    assert new.accepted
    assert f'replaces goal {old.goal_id}' in new.message
    assert client.until(lambda: client.goal.goal_id == new.goal_id, PATIENCE)
    assert client.goal.prompt == f'touch the {second} disc'


@pytest.mark.timeout(120)
def test_stop_ends_the_goal_and_holds_until_reset(client):
    client.set_goal(f'touch the {discs(client)[-1]} disc')
    assert client.trigger('stop')[0]
    assert state_is(client, ControllerStatus.STOPPED)
    assert client.until(lambda: client.goal.status == GoalStatus.CANCELLED, PATIENCE)
    assert 'STOPPED' in client.goal.message
    assert client.trigger('reset')[0]
    assert state_is(client, ControllerStatus.READY)
    success, message = client.trigger('reset')
    assert not success
    assert 'nothing to reset' in message


@pytest.mark.timeout(60)
def test_a_second_graph_on_the_same_domain_is_refused(graph):
    _, domain, folder = graph
    # The lock is one witness; with another folder for locks, only the network is left to tell.
    for environment in ({}, {'TMPDIR': str(folder)}):
        code, text = vera('up', 'finger', '--domain', str(domain), cwd=folder, **environment)
        assert code == 4
        assert 'another graph already runs' in text
        assert '--domain N' in text


def test_everything_that_rviz_shows_is_published(client):
    assert client.until(lambda: not not_shown(client, 'finger'), PATIENCE), not_shown(
        client, 'finger'
    )


@pytest.mark.timeout(150)
@pytest.mark.parametrize('name', ['translator', 'planner', 'controller'])
def test_a_killed_node_is_reported_within_a_second_and_restarted(graph, client, name):
    up, _, folder = graph
    pid = processes_of(run_dir(folder))[name]
    if name != 'planner':
        client.set_goal(f'touch the {discs(client)[-1]} disc')
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    reported = up.wait_for(rf'{name} died \(killed by SIGKILL\); restarting', 5, since=killed)
    assert reported - killed < 1.0
    if name != 'controller':
        # Without plans the robot holds; nothing in it moves on.
        assert state_is(client, ControllerStatus.HOLD, ControllerStatus.READY)
    deadline = time.monotonic() + PATIENCE
    while processes_of(run_dir(folder)).get(name, pid) == pid:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.until(lambda: client.ready([name]), PATIENCE)


@pytest.mark.timeout(180)
def test_goals_are_reached_after_every_node_was_restarted(client):
    assert state_is(client, ControllerStatus.READY, ControllerStatus.HOLD, ControllerStatus.RUNNING)
    reach(client, discs(client)[-1])


@pytest.mark.timeout(90)
def test_sigint_leaves_nothing_running_and_a_recording_that_opens(graph):
    from rosbags.highlevel import AnyReader

    up, _, folder = graph
    before = processes_of(run_dir(folder))
    assert set(before) >= NODES | {'recorder'}
    assert up.end() == 0, up.text
    assert processes_of(run_dir(folder)) == {}
    assert 'Traceback' not in up.text
    assert 'all nodes have ended' in up.text
    with AnyReader([run_dir(folder) / 'bag']) as bag:
        topics = {c.topic for c in bag.connections if c.msgcount}
        assert topics >= {
            f'/vera/{t}'
            for t in ('top/color/image_raw', 'joint_states', 'visual_plan', 'action_chunk',
                      'joint_commands', 'goal_status', 'controller_status', 'sim_status')
        }  # fmt: skip
        for connection, _, data in bag.messages():
            bag.deserialize(data, connection.msgtype)


@pytest.mark.timeout(120)
def test_a_camera_that_stops_ends_the_goal_and_the_robot_holds(tmp_path):
    """SIGSTOP freezes the simulator: camera and joint states fall silent, the process stays."""
    domain = unique_domain()
    up = Vera('up', 'finger', '--planner', 'oracle', '--domain', str(domain), cwd=tmp_path)
    try:
        up.wait_for('all nodes are ready', 90)
        with VeraClient(domain, patience=PATIENCE) as client:
            assert client.until(lambda: client.sim is not None and client.complete(), PATIENCE)
            sim = processes_of(run_dir(tmp_path))['sim']
            answer = client.set_goal(f'touch the {discs(client)[-1]} disc')
            os.kill(sim, signal.SIGSTOP)
            assert state_is(client, ControllerStatus.HOLD)
            assert client.until(lambda: client.goal_ended(answer.goal_id), PATIENCE)
            assert client.goal.status == GoalStatus.ABORTED
            assert 'no camera frames' in client.goal.message
            os.kill(sim, signal.SIGCONT)
            assert state_is(client, ControllerStatus.READY)
        assert up.end(signal.SIGTERM) == 0
        assert processes_of(run_dir(tmp_path)) == {}
    finally:
        up.kill()
