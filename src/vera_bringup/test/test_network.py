"""Which machines a graph reaches, and that it leaves this one only when somebody says so."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import pytest

from vera_bringup.environment import PROFILE_VARIABLES, graph_environment
from vera_bringup.exits import CommandError
from vera_bringup.graph import graph_lock
from vera_bringup.network import (
    NetworkError,
    leaves_machine,
    parse_peers,
    parse_servers,
    reach,
    secured,
)
from vera_bringup.node_table import GraphOptions, clock_name, elsewhere, node_table
from vera_core.contract import load_contract

SECURE = {'ROS_SECURITY_ENABLE': 'true', 'ROS_SECURITY_STRATEGY': 'Enforce'}


def test_peers_are_addresses_each_once():
    assert parse_peers('10.0.0.2, localhost;10.0.0.2') == ('10.0.0.2', '127.0.0.1')
    assert parse_peers('') == ()


def test_servers_have_a_port():
    assert parse_servers('10.0.0.2;localhost:9999') == (('10.0.0.2', 11811), ('127.0.0.1', 9999))


@pytest.mark.parametrize('text', ['no-such-machine.invalid', '300.1.1.1', 'a..b'])
def test_a_machine_that_nobody_knows_is_named(text):
    with pytest.raises(NetworkError, match=re.escape(repr(text)) + r'.*/etc/hosts'):
        parse_peers(text)


@pytest.mark.parametrize('text', ['10.0.0.2:0', '10.0.0.2:x', '10.0.0.2:70000'])
def test_a_port_that_is_none(text):
    with pytest.raises(NetworkError, match='HOST:PORT'):
        parse_servers(text)


def test_other_machines_take_security_or_a_word():
    environment: dict[str, str] = {}
    with pytest.raises(NetworkError, match=r'10\.0\.0\.2: .*command the robot.*--insecure'):
        reach('10.0.0.2', '', insecure=False, environment=environment)
    reach('10.0.0.2', '', insecure=True, environment=environment)
    assert environment == {'ROS_STATIC_PEERS': '10.0.0.2'}
    environment = dict(SECURE)
    reach('', '10.0.0.2', insecure=False, environment=environment)
    assert environment['ROS_DISCOVERY_SERVER'] == '10.0.0.2:11811'
    assert environment['ROS_SUPER_CLIENT'] == 'TRUE'


def test_this_machine_needs_neither():
    environment: dict[str, str] = {}
    reach('localhost', '127.0.0.1:11811', insecure=False, environment=environment)
    assert not leaves_machine(environment)


@pytest.mark.parametrize(
    ('environment', 'leaves'),
    [
        ({}, False),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}, False),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}, True),
        ({'ROS_STATIC_PEERS': '127.0.0.1'}, False),
        ({'ROS_STATIC_PEERS': '127.0.0.1;10.0.0.2'}, True),
        ({'ROS_STATIC_PEERS': 'no-such-machine.invalid'}, True),
        ({'ROS_DISCOVERY_SERVER': '127.0.0.1:11811'}, False),
        ({'ROS_DISCOVERY_SERVER': '10.0.0.2:11811'}, True),
    ],
)
def test_the_profile_follows_the_reach(environment, leaves):
    assert leaves_machine(environment) == leaves
    name = 'fastdds_network.xml' if leaves else 'fastdds_shm.xml'
    assert graph_environment(5, environment)[PROFILE_VARIABLES[0]].endswith(name)


def test_security_that_is_not_enforced_is_none():
    assert secured(SECURE)
    assert not secured(SECURE | {'ROS_SECURITY_STRATEGY': 'Permissive'})
    assert not secured({})


def discovery(*arguments: str) -> subprocess.Popen[str]:
    """`vera serve discovery`, running."""
    return subprocess.Popen(
        [sys.executable, '-m', 'vera_bringup.cli', 'serve', 'discovery', *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.timeout(90)
def test_a_discovery_server_is_served_and_ended():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    server = discovery('--port', str(port))
    try:
        assert any(f'UDPv4:[127.0.0.1]:{port}' in line for line in server.stdout)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.communicate()


def test_a_discovery_server_is_for_this_machine_unless_said_otherwise():
    from vera_bringup.commands.serve import discovery as serve

    with pytest.raises(CommandError, match='--insecure'):
        serve('10.0.0.5', 11811, insecure=False)


# Parts of a graph ------------------------------------------------------------------------------

FINGER = load_contract('finger')


def names(**options: object) -> list[str]:
    return [spec.name for spec in node_table(FINGER, GraphOptions(**options))]


def test_parts_are_the_whole_and_each_has_a_clock():
    planner, rest = names(only='planner'), names(without='planner')
    assert planner == ['planner', clock_name()]
    assert rest == ['sim', 'controller', 'translator', 'scene', clock_name()]
    assert names() == ['sim', 'controller', 'translator', 'planner', 'scene']
    assert elsewhere(FINGER, GraphOptions(only='planner')) == ('sim', 'controller', 'translator')
    assert elsewhere(FINGER, GraphOptions(without='planner')) == ('planner',)
    assert elsewhere(FINGER, GraphOptions()) == ()


def test_the_clock_that_counts_is_the_controllers():
    def reference(**options: object) -> object:
        return node_table(FINGER, GraphOptions(**options))[-1].parameters['reference']

    assert reference(without='planner') is True
    assert reference(only='planner,translator') is False


def test_a_recording_is_where_it_was_asked_for():
    assert 'recorder' in names(only='planner', record='some/bag')


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        ({'only': 'planer'}, 'no node planer; the nodes are sim, controller'),
        ({'only': 'planner', 'without': 'planner'}, 'leave no node'),
    ],
)
def test_parts_that_are_none(options, says):
    with pytest.raises(ValueError, match=says):
        names(**options)


def test_a_part_is_patient_with_cameras_of_another_machine():
    def overrides(**options: object) -> str:
        table = node_table(FINGER, GraphOptions(**options))
        return str(table[0].parameters.get('contract_overrides', ''))

    assert overrides() == ''
    assert overrides(only='planner') == '{video.frame_timeout: 10.0}'
    assert overrides(only='planner', frame_timeout=5.0) == '{video.frame_timeout: 5.0}'


def test_parts_share_a_domain_and_a_whole_graph_does_not(monkeypatch, tmp_path):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    def refused(part: bool) -> None:
        with pytest.raises(CommandError, match='another graph'), graph_lock(7, 'vera', part):
            pass

    with graph_lock(7, 'vera', part=True), graph_lock(7, 'vera', part=True):
        refused(part=False)
    with graph_lock(7, 'vera'):
        refused(part=True)
