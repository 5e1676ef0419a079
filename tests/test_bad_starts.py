"""What cannot work is said in one clear message, with an exit code, and nothing is left running."""

from __future__ import annotations

import shutil
import socket
import time

import pytest

from graph_tools import Vera, processes_of, unique_domain, vera
from vera_bringup.resources import resource


def only_line(text: str) -> str:
    """The one message of `vera` itself."""
    (line,) = [line for line in text.splitlines() if line.startswith('vera: ')]
    return line


@pytest.mark.timeout(30)
def test_an_unknown_embodiment(tmp_path):
    code, text = vera('up', 'fingr', cwd=tmp_path)
    assert code == 2
    assert "unknown embodiment 'fingr'" in only_line(text)
    assert 'finger' in text


@pytest.mark.timeout(30)
def test_a_broken_contract(tmp_path):
    (tmp_path / 'mine.yaml').write_text('embodiment: finger\njoints: [unclosed\n')
    code, text = vera('up', 'mine.yaml', cwd=tmp_path)
    assert code == 2
    assert 'mine.yaml' in only_line(text)
    assert 'Traceback' not in text
    original = resource('config', 'embodiments', 'finger.yaml').read_text()
    assert 'velocity: 2.0' in original
    (tmp_path / 'mine.yaml').write_text(original.replace('velocity: 2.0', 'velocity: -2.0', 1))
    code, text = vera('up', 'mine.yaml', cwd=tmp_path)
    assert code == 2
    assert 'velocity' in only_line(text)


@pytest.mark.timeout(30)
@pytest.mark.parametrize('domain', ['233', '-1', 'x'])
def test_a_domain_that_does_not_exist(tmp_path, domain):
    code, text = vera('status', f'--domain={domain}', cwd=tmp_path)
    assert code == 2
    assert '0..232' in only_line(text)


@pytest.mark.timeout(30)
def test_a_namespace_that_ros_would_refuse(tmp_path):
    code, text = vera('up', 'finger', '--namespace', '9 lives', cwd=tmp_path)
    assert code == 2
    assert '--namespace' in only_line(text)


@pytest.mark.timeout(30)
def test_no_free_port(tmp_path):
    domain = unique_domain()
    held = []
    try:
        for i in range(32):
            held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            held[-1].bind(('127.0.0.1', 7410 + 250 * domain + 2 * i))
        code, text = vera('up', 'finger', f'--domain={domain}', cwd=tmp_path)
    finally:
        for s in held:
            s.close()
    assert code == 2
    assert 'no free port' in only_line(text)
    assert '--domain N' in text


@pytest.mark.timeout(30)
def test_nobody_there(tmp_path):
    code, text = vera('status', '--domain', str(unique_domain()), cwd=tmp_path)
    assert code == 3
    assert 'vera up' in only_line(text)


@pytest.mark.timeout(30)
def test_a_runs_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    code, text = vera('up', 'finger', '--runs', 'file/runs', cwd=tmp_path)
    assert code == 2
    assert '--runs' in only_line(text)


@pytest.mark.timeout(120)
def test_a_missing_checkpoint_takes_the_graph_down_with_its_message(tmp_path):
    domain = str(unique_domain())
    code, text = vera(
        'up', 'finger', '--planner', 'oracle', '--translator-checkpoint', 'nowhere',
        '--domain', domain, cwd=tmp_path, timeout=100,
    )  # fmt: skip
    assert code == 5
    assert 'nowhere' in text
    assert 'translator cannot run as configured (exit code 2)' in only_line(text)
    assert 'restarting' not in text
    assert processes_of(tmp_path) == {}


@pytest.mark.timeout(60)
def test_a_missing_checkpoint_without_ros(tmp_path):
    code, text = vera(
        'eval', 'finger', '--planner', 'oracle', '--translator-checkpoint', 'nowhere', cwd=tmp_path
    )
    assert code == 2
    assert 'nowhere' in only_line(text)


@pytest.mark.timeout(60)
def test_a_checkpoint_of_another_embodiment_names_what_differs(tmp_path):
    code, text = vera(
        'eval', 'finger', '--planner', 'oracle', '--joints', '5',
        '--translator-checkpoint', 'jidm_finger3', cwd=tmp_path,
    )  # fmt: skip
    assert code == 2
    assert 'channels' in only_line(text)


@pytest.mark.timeout(120)
def test_a_full_disk_stops_the_recording_and_not_the_robot(tmp_path):
    """/dev/full fails as a full disk does."""
    domain = str(unique_domain())
    runs = tmp_path / 'runs'
    up = Vera('up', 'finger', '--planner', 'oracle', '--record', '--domain', domain, cwd=tmp_path)
    try:
        # Between the making of the folder and the start of the recorder.
        deadline = time.monotonic() + 60
        while not list(runs.glob('*')):
            assert time.monotonic() < deadline, up.text
            time.sleep(0.001)
        (folder,) = runs.iterdir()
        (folder / 'bag').mkdir(exist_ok=True)
        (folder / 'bag' / 'bag_0.unfinished.mcap').symlink_to('/dev/full')
        up.wait_for('all nodes are ready', 90)
        up.wait_for(r'recording stopped: cannot write .*No space left on device; the robot', 60)
        code, text = vera('status', '--domain', domain, cwd=tmp_path)
        assert code == 0
        assert 'READY' in text
        assert up.end() == 0
        assert up.text.count('recording stopped') == 1
        assert 'recorder died' not in up.text
    finally:
        up.kill()


@pytest.mark.timeout(30)
def test_too_little_disk_is_said_before_anything_starts(tmp_path, monkeypatch):
    from vera_bringup import graph
    from vera_bringup.exits import CommandError

    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(CommandError, match='MiB free'):
        graph.check_disk(tmp_path, free * 2)
