"""`vera serve planner` as a process without ROS, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from vera_bringup.commands.bench_remote import run as bench
from vera_bringup.commands.serve import planner as serve
from vera_bringup.exits import CommandError
from vera_core.contract import load_contract
from vera_planner.registry import make_planner

# `vera` where nothing of ROS can be imported.
WITHOUT_ROS = """
import sys
class NoRos:
    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        if top in ('rclpy', 'rpyutils', 'ament_index_python', 'launch') or top.endswith('_msgs'):
            raise ImportError(f'{name}: there is no ROS here')
sys.meta_path.insert(0, NoRos())
from vera_bringup.cli import main
main()
"""


def test_served_without_ros_a_plan_is_the_same(tmp_path):
    token = tmp_path / 'token'
    token.write_text('secret\n')
    command = [
        sys.executable, '-c', WITHOUT_ROS, 'serve', 'planner', '--planner', 'compact', '--port',
        '0', '--token-file', str(token), '--threads', '1', '--steps', '1',
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said = ''
        while 'Ctrl-C ends it' not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        port = re.search(r'ws://127\.0\.0\.1:(\d+) \(with a token\)', said).group(1)
        file = tmp_path / 'server.yaml'
        file.write_text(f'url: ws://127.0.0.1:{port}\ntoken_file: token\ntimeout: 60\n')
        contract = load_contract('finger')
        remote = make_planner('remote', contract, checkpoint=str(file))
        local = make_planner('compact', contract, steps=1, threads=1)
        assert remote.checkpoint_hash == local.checkpoint_hash
        context = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8)
        arguments = (context, 'touch the red disc')
        theirs, ours = (p.plan(*arguments, seed=5) for p in (remote, local))
        assert (theirs.frames == ours.frames).all()
        assert (remote.plan(*arguments, seed=6).frames != ours.frames).any()
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, rest
        assert rest.endswith('stopped\n')
        assert 'Traceback' not in rest
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'host': '0.0.0.0'}, "host '0.0.0.0' is open to other machines and there is no token"),
        ({'name': 'oracle'}, "planner 'oracle' cannot be served; known: compact"),
        ({'name': 'remote'}, "planner 'remote' cannot be served"),
        ({'embodiment': 'fingre'}, 'fingre'),
        ({'checkpoint': 'no_such_planner'}, "'no_such_planner' not found"),
        ({'token_file': 'no/such/token'}, 'token file no/such/token: cannot be read'),
    ],
)
def test_what_cannot_be_served_is_refused(changes, message):
    options = {
        'embodiment': 'finger', 'name': 'compact', 'checkpoint': '', 'host': '127.0.0.1',
        'port': 0, 'token_file': None, 'insecure': False,
    }  # fmt: skip
    with pytest.raises(CommandError) as caught:
        serve(**options | changes)
    assert message in str(caught.value)
    assert caught.value.code == 2


@pytest.mark.slow
def test_what_a_server_costs_is_measured(capsys):
    bench('finger', '', repeats=5, threads=1, as_json=True)
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])['rows']
    here, server, _, small, large = (row['p50_ms'] for row in rows)
    # A plan takes long, the wire little; a large canvas more.
    assert 0 < small < here
    assert small < server
    assert small < large
