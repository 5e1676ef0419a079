"""What a process needs in its environment to meet the others: domain, discovery, transport.

The wheels and a sourced ROS 2 installation both work; nothing here imports rclpy.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from vera_bringup.network import leaves_machine
from vera_bringup.resources import prefixes, resource

DEFAULT_DOMAIN = 0
HIGHEST_DOMAIN = 232  # 7400 + 250 * domain must stay below 65536
# Fast DDS looks for this many participants on localhost (rmw_fastrtps and our profile agree).
PARTICIPANTS = 32
# Jazzy's Fast DDS 2.14 reads the first name, Kilted's 3.x the second.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')


class DomainError(ValueError):
    """A ROS domain that cannot be used; the message says why and what to do."""


def parse_domain(value: str | int | None, base: Mapping[str, str] | None = None) -> int:
    """The ROS domain: `value`, else ROS_DOMAIN_ID, else 0.

    Raises:
        DomainError: not an integer of 0..232.
    """
    base = os.environ if base is None else base
    source = '--domain'
    if value is None:
        value, source = base.get('ROS_DOMAIN_ID') or DEFAULT_DOMAIN, 'ROS_DOMAIN_ID'
    try:
        domain = int(value)
    except ValueError:
        domain = -1
    if not 0 <= domain <= HIGHEST_DOMAIN:
        raise DomainError(
            f'{source} is {value!r}; a ROS domain is an integer of 0..{HIGHEST_DOMAIN} '
            '(0..101 are safe on every system)'
        )
    return domain


def free_participants(domain: int) -> int:
    """How many more DDS participants (processes) can be found on this domain's localhost ports.

    Each participant takes the UDP ports 7400 + 250 * domain + 10 + 2 * i and the next.
    """
    free = 0
    for i in range(PARTICIPANTS):
        port = 7400 + 250 * domain + 10 + 2 * i
        free += port + 1 < 65536 and _bindable(port) and _bindable(port + 1)
    return free


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('0.0.0.0', port))
        except OSError:
            return False
    return True


def require_ports(domain: int, processes: int) -> None:
    """Raise DomainError unless the domain has free ports for so many processes."""
    free = free_participants(domain)
    if free < processes:
        first = 7410 + 250 * domain
        raise DomainError(
            f'no free port: {processes} processes are to start on ROS domain {domain}, but only '
            f'{free} of its {PARTICIPANTS} port pairs from UDP {first} on are free; '
            'end the programs that hold them or choose another domain with --domain N'
        )


def graph_environment(
    domain: int, base: Mapping[str, str] | None = None, profile: Path | str | None = None
) -> dict[str, str]:
    """Environment of every process of a graph.

    Args:
        domain: ROS domain.
        base: environment to start from; ours by default.
        profile: Fast DDS profile; ours by default (another one where the graph leaves this
            machine), '' for the middleware's own defaults (only the transport benchmark wants
            that).
    """
    env = dict(os.environ if base is None else base)
    env['ROS_DOMAIN_ID'] = str(domain)
    env.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    env.setdefault('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
    # The environment of the wheels is the ROS prefix; a sourced installation names its own.
    env['AMENT_PREFIX_PATH'] = os.pathsep.join(str(p) for p in prefixes())
    env['PYTHONUNBUFFERED'] = '1'
    if profile == '':
        for name in PROFILE_VARIABLES:
            env.pop(name, None)
        return env
    ours = 'fastdds_network.xml' if leaves_machine(env) else 'fastdds_shm.xml'
    path = str(profile or resource('config', 'dds', ours))
    for name in PROFILE_VARIABLES:
        env[name] = path
    return env


def enter(domain: int) -> None:
    """Put this process itself into the graph's environment; call it before rclpy.init()."""
    os.environ.update(graph_environment(domain))
