"""The whole graph as real processes: a goal is reached, and everything ends when told to."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from graph_tools import Vera, processes_of, unique_domain, vera

NODES = {'sim', 'controller', 'translator', 'planner'}
READY = 'all nodes are ready'


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    """One running graph with the oracle planner for all tests of this file that do not harm it."""
    folder = tmp_path_factory.mktemp('graph')
    domain = str(unique_domain())
    up = Vera('up', 'finger', '--planner', 'oracle', '--domain', domain, '--record', cwd=folder)
    try:
        up.wait_for(READY, 90)
        yield up, domain, folder
    finally:
        up.kill()


def run_dir(folder):
    (found,) = (folder / 'runs').iterdir()
    return found


def status_of(domain, folder, condition=lambda status: True) -> dict:
    """What `vera status` says, asked again on a busy machine until all have been heard."""
    deadline = time.monotonic() + 40
    while True:
        code, text = vera('status', '--json', '--domain', domain, cwd=folder)
        status = json.loads(text.splitlines()[-1]) if code == 0 else {}
        complete = code == 0 and set(status['nodes']) >= NODES
        complete = complete and None not in (status['controller'], status['goal'], status['sim'])
        if complete and condition(status):
            return status
        assert time.monotonic() < deadline, text


@pytest.mark.timeout(150)
def test_a_goal_in_words_is_reached(graph):
    _, domain, folder = graph
    status = status_of(domain, folder)
    assert status['controller']['state'] == 'READY'
    disc = min(status['sim']['distances'], key=status['sim']['distances'].get)
    code, text = vera('goal', f'touch the {disc} disc', '--json', '--domain', domain, cwd=folder)
    answer = json.loads(text.splitlines()[-1])
    assert (code, answer['status']) == (0, 'SUCCEEDED'), text
    assert status_of(domain, folder)['sim']['dwelled'] == disc


@pytest.mark.timeout(60)
@pytest.mark.parametrize('prompt', ['', '   '])
def test_an_empty_prompt_is_refused(graph, prompt):
    _, domain, folder = graph
    code, text = vera('goal', prompt, '--domain', domain, cwd=folder)
    assert code == 2
    assert 'empty' in text


@pytest.mark.timeout(60)
def test_a_prompt_that_names_nothing_visible_ends_the_goal(graph):
    _, domain, folder = graph
    code, text = vera('goal', 'make me a sandwich', '--json', '--domain', domain, cwd=folder)
    answer = json.loads(text.splitlines()[-1])
    assert (code, answer['status']) == (1, 'ABORTED')
    assert 'objects of the scene' in answer['message']


@pytest.mark.timeout(60)
def test_a_new_goal_replaces_the_one_in_progress(graph):
    _, domain, folder = graph
    far = status_of(domain, folder)['sim']['distances']
    first, second = sorted(far, key=far.get, reverse=True)[:2]
    code, text = vera(
        'goal', f'touch the {first} disc', '--no-wait', '--domain', domain, cwd=folder
    )
    assert code == 0
    words = f'touch the {second} disc'
    code, text = vera('goal', words, '--no-wait', '--domain', domain, cwd=folder)
    assert code == 0
    assert 'replaces goal' in text
    assert status_of(domain, folder)['goal']['prompt'] == words


@pytest.mark.timeout(90)
def test_stop_holds_until_reset(graph):
    _, domain, folder = graph
    code, _ = vera('stop', '--domain', domain, cwd=folder)
    assert code == 0
    status = status_of(domain, folder)
    assert status['controller']['state'] == 'STOPPED'
    assert status['goal']['status'] in ('CANCELLED', 'SUCCEEDED', 'ABORTED')
    assert vera('reset', '--domain', domain, cwd=folder)[0] == 0
    assert status_of(domain, folder)['controller']['state'] == 'READY'
    code, text = vera('reset', '--domain', domain, cwd=folder)
    assert code == 1
    assert 'nothing to reset' in text


@pytest.mark.timeout(60)
def test_a_second_graph_on_the_same_domain_is_refused(graph):
    _, domain, folder = graph
    code, text = vera('up', 'finger', '--domain', domain, cwd=folder)
    assert code == 4
    assert 'another graph already runs' in text
    assert '--domain N' in text
    # Even if it was not started by `vera` here: the lock is one witness, the network the other.
    code, text = vera('up', 'finger', '--domain', domain, cwd=folder, TMPDIR=str(folder))
    assert code == 4
    assert 'another graph already runs' in text


@pytest.mark.timeout(120)
@pytest.mark.parametrize('name', ['translator', 'planner', 'controller'])
def test_a_killed_node_is_reported_within_a_second_and_restarted(graph, name):
    up, domain, folder = graph
    pid = processes_of(run_dir(folder))[name]
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    reported = up.wait_for(rf'{name} died \(killed by SIGKILL\); restarting', 5, since=killed)
    assert reported - killed < 1.0
    deadline = time.monotonic() + 60
    while processes_of(run_dir(folder)).get(name, pid) == pid:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # The robot holds, and the restarted node takes part again.
    status_of(domain, folder, lambda s: s['controller']['state'] in ('READY', 'HOLD'))


@pytest.mark.timeout(120)
def test_goals_are_reached_after_every_node_was_restarted(graph):
    _, domain, folder = graph
    distances = status_of(domain, folder)['sim']['distances']
    disc = max(distances, key=distances.get)
    code, text = vera('goal', f'touch the {disc} disc', '--json', '--domain', domain, cwd=folder)
    assert code == 0, text


@pytest.mark.timeout(60)
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
