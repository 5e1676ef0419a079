"""`vera demo` and `vera bench transport` as a newcomer runs them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from graph_tools import Vera, processes_of, unique_domain, vera
from vera_bringup.demo import Outcome, Task, enough, make_tasks, metrics
from vera_core.contract import load_contract


def outcomes(*reached: bool) -> list[Outcome]:
    task = Task(1, 1, 'touch the red disc', 'red')
    return [Outcome(task, r, 'red' if r else '', 3.0, 'SUCCEEDED', '', 5) for r in reached]


def test_four_of_five_are_enough_and_three_are_not():
    assert enough(outcomes(True, True, True, True, False), 5)
    assert not enough(outcomes(True, True, True, False, False), 5)
    # Goals that were never sent count as not reached.
    assert not enough(outcomes(True, True), 5)


def test_tasks_are_repeatable_and_differ():
    contract = load_contract('finger')
    tasks = make_tasks(contract, 5, 0)
    assert tasks == make_tasks(contract, 5, 0)
    assert tasks != make_tasks(contract, 5, 1)
    assert len({task.seed for task in tasks}) == 5
    assert all(a.target != b.target for a, b in pairwise(tasks))
    assert all(task.target in task.prompt for task in tasks)


def test_metrics_are_plain_data():
    report = metrics(outcomes(True, False), [0.1, 0.2], [], {'planner': 'oracle'})
    assert json.loads(json.dumps(report))['reached'] == 1
    assert report['replan_ms_p50'] == 150.0
    assert report['translate_ms_p50'] is None


def play(tmp_path, planner: str, goals: int, *embodiment: str) -> None:
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    code, text = vera(
        'demo', *embodiment, '--planner', planner, '--goals', str(goals), '--json',
        '--domain', str(unique_domain()), cwd=tmp_path, timeout=280,
    )  # fmt: skip
    assert code == 0, text
    report = json.loads(text.splitlines()[-1])
    assert report['reached'] >= 0.8 * goals
    assert report['embodiment'] == (embodiment or ('panda',))[0]
    (run,) = (tmp_path / 'runs').iterdir()
    assert json.loads((run / 'metrics.json').read_text()) == report
    assert (run / 'real_beside_imagined.png').read_bytes().startswith(b'\x89PNG')
    with (run / 'bag' / 'bag_0.mcap').open('rb') as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        topics = {channel.topic for _, channel, _, _ in reader.iter_decoded_messages()}
    cameras = {f'/vera/{camera.topic}' for camera in load_contract(report['embodiment']).cameras}
    assert {'/vera/visual_plan', '/vera/action_chunk', *cameras} <= topics
    assert processes_of(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_demo_with_the_oracle(tmp_path):
    play(tmp_path, 'oracle', 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_demo_with_the_compact_planner(tmp_path):
    play(tmp_path, 'compact', 5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_demo_of_the_finger_with_the_same_weights(tmp_path):
    play(tmp_path, 'compact', 5, 'finger')


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_interrupting_the_demo_leaves_nothing(tmp_path):
    demo = Vera('demo', '--planner', 'oracle', '--domain', str(unique_domain()), cwd=tmp_path)
    try:
        demo.wait_for('all nodes are ready', 90)
        assert demo.end() == 130
        assert 'Traceback' not in demo.text
        assert processes_of(tmp_path) == {}
    finally:
        demo.kill()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_frame_is_lost_with_our_profile(tmp_path):
    code, text = vera(
        'bench', 'transport', '--seconds', '5', '--json', '--domain', str(unique_domain()),
        cwd=tmp_path, timeout=100,
    )  # fmt: skip
    report = json.loads(text.splitlines()[-1]) if code == 0 else text
    assert code == 0, report
    assert (report['lost'], report['sent']) == (0, 450)
