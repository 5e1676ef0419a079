"""Asking an arm which one it is: fake arms over real sockets, and the real libraries."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time

import pytest

from vera_controller.registry import RobotError, make_robot
from vera_controller.robots import fci, franky
from vera_core.contract import load_contract


class FakeArm:
    """A fake FCI server: takes one connection after the other and answers with its version."""

    def __init__(self, version=5, answer=None, address='127.0.0.1', port=0):
        self.version, self.answer = version, answer
        self.requests = []
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((address, port))
        self.socket.listen(4)
        self.address, self.port = self.socket.getsockname()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                data = connection.recv(64)
                self.requests.append(data)
                if self.answer is not None:
                    connection.sendall(self.answer)
                elif len(data) >= 16:
                    # Sent away, unless the versions are the same; in two parts, as networks do.
                    number, told = struct.unpack_from('<I', data, 4)[0], data[12:14]
                    status = 0 if told == struct.pack('<H', self.version) else 1
                    connection.sendall(struct.pack('<III', 0, number, 20))
                    time.sleep(0.02)
                    connection.sendall(struct.pack('<HH4x', status, self.version))
                connection.settimeout(0.2)
                try:
                    connection.recv(64)
                except OSError:
                    pass

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(timeout=5)


@pytest.fixture
def arm():
    arms = []

    def make(*args, **kwargs):
        arms.append(FakeArm(*args, **kwargs))
        return arms[-1]

    yield make
    for made in arms:
        made.close()


@pytest.mark.parametrize('version', [3, 5, 7, 10, 42])
def test_the_arm_tells_its_version(arm, version):
    server = arm(version)
    assert fci.ask(server.address, server.port) == fci.Answer(version, False)
    command, _, size = struct.unpack_from('<III', server.requests[0])
    assert (command, size, len(server.requests[0])) == (0, 16, 16)


def test_an_arm_that_takes_the_connection_is_asked_as_well(arm):
    server = arm(fci.ASKING_VERSION)
    assert fci.ask(server.address, server.port).welcome


@pytest.mark.parametrize(
    ('version', 'words'),
    [
        (5, 'FER with server version 5 .*: use robot panda_fer .pip install panda-python==1.1.1'),
        (10, 'FR3 with server version 10 .*: use robot panda_franky .pip install franky-control'),
        (4, 'FER .* use robot panda_fer with a wheel of panda-python built for libfranka 0.8.0'),
        (7, 'FR3 .* use robot panda_franky with a wheel of franky-control .* libfranka 0.13.6'),
        (11, 'server version 11 is unknown here .known: 3 to 10.'),
    ],
)
def test_the_advice_names_robot_and_wheel(version, words):
    import re

    assert re.search(words, fci.advice(version))


@pytest.mark.parametrize(
    ('answer', 'words'),
    [
        (b'HTTP/1.1 400 Bad Request\r\n\r\n', r'is no Franka arm: it answered 48545450'),
        (b'', 'it answered nothing'),
        (struct.pack('<III', 0, 1, 16), 'is no Franka arm'),
        (struct.pack('<IIIHH', 0, 1, 4, 1, 5), 'is no Franka arm'),
        (struct.pack('<IIIHH', 7, 1, 16, 1, 5), 'is no Franka arm'),
    ],
)
def test_whatever_else_answers_is_told_apart(arm, answer, words):
    server = arm(answer=answer)
    with pytest.raises(RobotError, match=words):
        fci.ask(server.address, server.port)


def test_nobody_there_nobody_named_and_nobody_who_answers(arm):
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        port = silent.getsockname()[1]
        with pytest.raises(RobotError, match='activate FCI in Desk'):
            fci.ask('127.0.0.1', port)
        silent.listen(1)
        with pytest.raises(RobotError, match=r'does not answer on port .* within 0\.2 s'):
            fci.ask('127.0.0.1', port, timeout=0.2)
    with pytest.raises(RobotError, match='no address of the arm'):
        fci.ask('')
    with pytest.raises(RobotError, match=r'no\.such\.arm\.invalid cannot be reached'):
        fci.ask('no.such.arm.invalid')
    with pytest.raises(RobotError, match='cannot be reached'):
        fci.ask('x' * 300)


# The libraries themselves ---------------------------------------------------------------------

CONTRACT = {'safety': None, 'robot': {'realtime': 'ignore'}}
FR3 = {**CONTRACT, 'joints': load_contract('panda_fr3').to_dict()['joints']}


def robot(name, address, overrides):
    contract = load_contract('panda_joints', overrides)
    return make_robot(name, contract, on_state=print, on_bad_state=print, address=address)


@pytest.mark.parametrize(
    ('name', 'module', 'overrides', 'version', 'words'),
    [
        ('panda_franky', 'franky', FR3, 5, 'is another arm: FER .* use robot panda_fer'),
        ('panda_fer', 'panda_py', CONTRACT, 10, 'is another arm: FR3 .* use robot panda_franky'),
    ],
)
def test_the_wrong_library_for_an_arm_names_the_right_robot(
    arm, name, module, overrides, version, words
):
    pytest.importorskip(module, reason=f'{module} is not installed: requirements/robots.txt')
    server = arm(version, address='127.64.251.3', port=fci.PORT)
    made = robot(name, server.address, overrides)
    with pytest.raises(RobotError, match=words):
        made.connect()
    made.close()


@pytest.mark.parametrize(
    ('name', 'module', 'overrides'),
    [('panda_franky', 'franky', FR3), ('panda_fer', 'panda_py', CONTRACT)],
)
def test_without_its_library_a_robot_says_what_to_install(monkeypatch, name, module, overrides):
    monkeypatch.setitem(sys.modules, module, None)
    made = robot(name, '127.64.251.4', overrides)
    with pytest.raises(RobotError, match=f'pip install {fci.WHEELS[name]}'):
        made.connect()


@pytest.mark.parametrize(('name', 'overrides'), [('panda_franky', FR3), ('panda_fer', CONTRACT)])
def test_without_an_address_a_robot_says_where_to_write_it(name, overrides):
    with pytest.raises(RobotError, match=r'robot\.address in the contract'):
        robot(name, '', overrides)


@pytest.mark.parametrize('name', ['panda_franky', 'panda_fer'])
def test_without_a_real_time_kernel_a_robot_says_so(monkeypatch, name):
    limits = FR3 if name == 'panda_franky' else CONTRACT
    overrides = {**limits, 'robot': {'realtime': 'enforce', 'gripper': True}}
    made = robot(name, '127.64.251.4', overrides)
    monkeypatch.setattr('vera_controller.robots.franky.load', lambda name: FakeLibrary())
    monkeypatch.setattr('vera_controller.robots.panda_fer.load', lambda name: FakeLibrary())
    monkeypatch.setattr(franky, 'has_realtime_kernel', lambda: False)
    with pytest.raises(RobotError, match=r'PREEMPT_RT.*robot\.realtime: ignore'):
        made.connect()


class FakeLibrary:
    """A fake of either library, as far as its kinds of real time."""

    class RealtimeConfig:
        Enforce = kEnforce = 1
        Ignore = kIgnore = 0

    @property
    def libfranka(self):
        return self
