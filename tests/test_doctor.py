"""`vera doctor`, with fake arms that answer over real sockets."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading

import pytest
from typer.testing import CliRunner

from vera_bringup.cli import app
from vera_bringup.commands import doctor
from vera_controller.robots import fci

# An address of this process's own: the port is that of the arms.
ADDRESS = f'127.65.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}'


@pytest.fixture
def arm():
    """Start a fake arm with a server version."""
    sockets = []

    def start(version):
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((ADDRESS, fci.PORT))
        server.listen(4)
        sockets.append(server)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(64)
                    connection.sendall(struct.pack('<IIIHH4x', 0, 1, 20, 1, version))

        threading.Thread(target=serve, daemon=True).start()

    yield start
    for server in sockets:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def call(*arguments):
    """Exit code (of `vera` as main() gives it) and output."""
    result = CliRunner().invoke(app, ['doctor', *arguments])
    code = getattr(result.exception, 'code', result.exit_code)
    return int(code if code is not None else 0), result.output


def findings(*arguments):
    code, output = call(*arguments, '--json')
    return code, {f['check']: f for f in json.loads(output.strip().splitlines()[-1])}


@pytest.mark.parametrize(
    ('embodiment', 'version', 'robot'),
    [('panda', 5, 'panda_fer'), ('panda_fr3', 10, 'panda_franky')],
)
def test_it_names_the_robot_for_the_arm_that_answers(arm, monkeypatch, embodiment, version, robot):
    arm(version)
    installed = fci.WHEELS[robot].partition('==')[2]
    monkeypatch.setattr(doctor.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(doctor.metadata, 'version', lambda name: installed)
    code, found = findings(embodiment, '--robot-ip', ADDRESS)
    assert code == 0
    assert f'use robot {robot}' in found['arm']['found']
    assert found['library']['level'] == found['joint limits']['level'] == 'ok'
    assert f'--robot {robot} --robot-ip {ADDRESS}' in found['start']['found']
    assert {'kernel', 'rtprio', 'CPU clock', 'network'} <= set(found)


def test_the_contract_of_the_other_arm_is_in_the_way(arm):
    arm(10)
    code, output = call('panda', '--robot-ip', ADDRESS)
    assert code == 1
    assert 'panda_joint6 [0.02, 3.71]' in output
    assert '-> use the contract panda_fr3' in output


def test_an_arm_without_a_wheel_on_pypi_is_told_which_one_it_needs(arm):
    arm(7)
    code, found = findings('panda_fr3', '--robot-ip', ADDRESS)
    assert code == 1
    assert 'wheel of franky-control built for libfranka 0.13.6' in found['arm']['found']
    assert 'start' not in found


def test_a_library_that_is_missing_or_old_has_its_command(arm, monkeypatch):
    arm(5)
    monkeypatch.setattr(doctor.util, 'find_spec', lambda name: None)
    code, found = findings('panda', '--robot-ip', ADDRESS)
    assert code == 1
    assert found['library']['cure'] == 'pip install panda-python==1.1.1'
    monkeypatch.setattr(doctor.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(doctor.metadata, 'version', lambda name: '1.0.0')
    code, found = findings('panda', '--robot-ip', ADDRESS)
    assert code == 0
    assert found['library']['level'] == 'warning'


def test_nobody_at_the_address_is_in_the_way_and_the_rest_is_still_said():
    code, found = findings('panda', '--robot-ip', ADDRESS)
    assert code == 1
    assert 'activate FCI in Desk' in found['arm']['found']
    assert 'kernel' in found


def test_an_unknown_embodiment_is_bad_input():
    code, _ = call('pandaa')
    assert code == 2


def test_without_an_address_there_is_nothing_to_ask():
    assert findings('finger') == (0, {})
