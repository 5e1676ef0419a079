"""Domains, ports and the Fast DDS profile."""

from __future__ import annotations

import socket

import pytest

from vera_bringup.environment import (
    DomainError,
    free_participants,
    graph_environment,
    parse_domain,
    require_ports,
)

DOMAIN = 97


@pytest.mark.parametrize(
    ('value', 'base', 'expected'),
    [(None, {}, 0), (None, {'ROS_DOMAIN_ID': '7'}, 7), ('12', {'ROS_DOMAIN_ID': '7'}, 12)],
)
def test_domain(value, base, expected):
    assert parse_domain(value, base) == expected


@pytest.mark.parametrize('value', ['-1', '233', 'seven', '1.5'])
def test_domains_that_do_not_exist(value):
    with pytest.raises(DomainError, match=r'0\.\.232'):
        parse_domain(value, {})
    with pytest.raises(DomainError, match='ROS_DOMAIN_ID'):
        parse_domain(None, {'ROS_DOMAIN_ID': value})


def test_no_free_port_names_the_cure():
    held = []
    try:
        before = free_participants(DOMAIN)
        for i in range(30):
            held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            held[-1].bind(('127.0.0.1', 7410 + 250 * DOMAIN + 2 * i))
        assert before - free_participants(DOMAIN) == 30
        with pytest.raises(DomainError, match=r'no free port.*--domain N'):
            require_ports(DOMAIN, 5)
    finally:
        for s in held:
            s.close()
    require_ports(DOMAIN, 5)


def test_every_process_gets_profile_domain_and_localhost():
    env = graph_environment(5, {'PATH': '/bin'})
    assert env['ROS_DOMAIN_ID'] == '5'
    assert env['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    # The first is what Jazzy's Fast DDS reads, the second what later ones read.
    for name in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
        assert env[name].endswith('fastdds_shm.xml')


def test_a_choice_of_the_user_stays():
    env = graph_environment(5, {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'})
    assert env['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'SUBNET'
