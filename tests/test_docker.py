"""docker/: no image is built here (that takes a docker engine); all that can be held without is.

hadolint and docker compose's own reader of compose files check the files; what the images run is
what CI runs: `make setup` and `vera`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from source_tree import ROOT

DOCKER = ROOT / 'docker'
DOCKERFILES = sorted(DOCKER.glob('*.Dockerfile'))
TOOLS = Path(sys.executable).parent


def tool(name: str) -> str:
    """A program of requirements/test.txt."""
    found = shutil.which(name, path=f'{TOOLS}:{os.environ["PATH"]}')
    if found is None:
        pytest.skip(f'{name} has no wheel for this machine or Python')
    return found


def compose(*profiles: str, **env: str) -> dict:
    """The compose file as docker compose understands it."""
    words = [tool('docker-compose'), '--file', str(DOCKER / 'compose.yaml')]
    words += [word for profile in profiles for word in ('--profile', profile)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('VERA_', 'ROS_'))}
    ran = subprocess.run(
        [*words, 'config', '--format', 'json'], env=clean | env, capture_output=True, text=True
    )
    if ran.returncode:
        raise ValueError(ran.stderr)
    return json.loads(ran.stdout)['services']


def test_there_are_two_images():
    assert [file.stem for file in DOCKERFILES] == ['gpu', 'robot']


@pytest.mark.parametrize('file', DOCKERFILES, ids=lambda file: file.stem)
def test_hadolint_has_nothing_to_say(file):
    ran = subprocess.run([tool('hadolint'), str(file)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_hadolint_would_say_something(tmp_path):
    bad = tmp_path / 'Dockerfile'
    bad.write_text('FROM debian:latest\nRUN cd /tmp && sudo make\n')
    ran = subprocess.run([tool('hadolint'), str(bad)], capture_output=True, text=True)
    assert ran.returncode != 0
    assert 'DL3007' in ran.stdout


@pytest.mark.parametrize('file', DOCKERFILES, ids=lambda file: file.stem)
def test_images_are_made_by_the_step_that_ci_runs(file):
    text = file.read_text()
    commands = re.findall(r'^RUN (.*)', text, re.MULTILINE)
    ours = [c for c in commands if not c.startswith(('apt-get', 'mkdir'))]
    assert ours == [f'make setup{" GPU=1" * (file.stem == "gpu")}']
    assert 'make setup' in (ROOT / '.ci' / 'run').read_text()
    assert re.search(r'^USER 1000:1000$', text, re.MULTILINE)  # nothing runs as root


def test_nothing_of_this_machine_gets_into_an_image():
    ignored = (ROOT / '.dockerignore').read_text().split()
    assert {'.git', '.venv', 'build', 'runs'} <= set(ignored)


def test_containers_share_network_and_memory_of_their_machine():
    services = compose('robot', 'gpu', VERA_PEERS='other')
    assert set(services) == {'robot', 'gpu'}
    for service in services.values():
        assert service['network_mode'] == service['ipc'] == 'host'
        assert service['init'] is True
    robot, gpu = services['robot'], services['gpu']
    line = ' '.join(robot['command'])
    assert line == 'up finger --without planner --peers other --insecure'
    assert ' '.join(gpu['command']) == 'up finger --only planner --peers other --insecure'
    assert robot['ulimits'] == {'memlock': -1, 'rtprio': 99}
    assert robot['device_cgroup_rules'] == ['c 81:* rmw', 'c 189:* rmw']
    (device,) = gpu['deploy']['resources']['reservations']['devices']
    assert device == {'driver': 'nvidia', 'count': 1, 'capabilities': ['gpu']}
    for service in services.values():
        build = service['build']
        assert (Path(build['context']) / build['dockerfile']).is_file()


def test_the_entrypoint_is_vera_and_takes_their_commands():
    """Refused for its network, after its options were understood and nothing was started."""
    for service in compose('robot', 'gpu', VERA_PEERS='no-such-machine.invalid').values():
        ran = subprocess.run(
            [str(DOCKER / 'entrypoint.sh'), *service['command']], capture_output=True, text=True
        )
        assert ran.returncode == 2
        assert 'no machine that this one knows' in ran.stderr


def test_the_other_machine_has_to_be_named():
    with pytest.raises(ValueError, match='name the machine'):
        compose('robot')
