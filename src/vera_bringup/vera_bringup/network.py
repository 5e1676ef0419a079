"""Which machines a graph may reach: this one, named ones, or those of a discovery server.

The middleware takes that from the environment (ROS_STATIC_PEERS, ROS_DISCOVERY_SERVER and
ROS_AUTOMATIC_DISCOVERY_RANGE), so what is chosen here holds for this process and what it starts.
Whoever reaches a graph can command the robot; a graph that leaves this machine therefore takes
ROS's own security (SROS2), or the user's word that the network is trusted.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping, MutableMapping

DISCOVERY_PORT = 11811  # of `fastdds discovery`
PEERS, SERVERS, RANGE = (
    'ROS_STATIC_PEERS', 'ROS_DISCOVERY_SERVER', 'ROS_AUTOMATIC_DISCOVERY_RANGE',
)  # fmt: skip
SECURITY, STRATEGY = 'ROS_SECURITY_ENABLE', 'ROS_SECURITY_STRATEGY'


class NetworkError(ValueError):
    """Machines that cannot be used; the message says which, why and what to do."""


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r'[,;\s]+', text) if part]


def address_of(host: str) -> str:
    """IPv4 address of a name or an address.

    Raises:
        NetworkError: nobody knows the name, or it has an IPv6 address only.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise NetworkError(
            f'{host!r} is no machine that this one knows (IPv4): {error}; '
            'give its address, or add it to /etc/hosts'
        ) from error
    return str(found[0][4][0])


def parse_peers(text: str) -> tuple[str, ...]:
    """IPv4 addresses of 'gpu-box,10.0.0.3'; raises NetworkError."""
    return tuple(dict.fromkeys(address_of(host) for host in _parts(text)))


def parse_servers(text: str) -> tuple[tuple[str, int], ...]:
    """(address, port) of 'gpu-box:11811;10.0.0.3'; raises NetworkError."""
    servers = []
    for part in _parts(text):
        host, _, port = part.partition(':')
        number = int(port) if port.isdecimal() else DISCOVERY_PORT if not port else 0
        if not 0 < number < 65536:
            raise NetworkError(f'discovery server {part!r}: {port!r} is no port; write HOST:PORT')
        servers.append((address_of(host), number))
    return tuple(servers)


def reach(
    peers: str,
    servers: str,
    insecure: bool = True,
    environment: MutableMapping[str, str] | None = None,
) -> None:
    """Let this process and what it starts reach other machines; '' and '' change nothing.

    Args:
        peers: machines that are asked, names or addresses; the others need not name this one.
        servers: discovery servers, HOST or HOST:PORT.
        insecure: the network is trusted; only starting a graph asks for it.
        environment: what to change; this process's own by default.

    Raises:
        NetworkError: an unknown machine, or no security and no word that none is needed.
    """
    env = os.environ if environment is None else environment
    addresses, found = parse_peers(peers), parse_servers(servers)
    if addresses:
        env[PEERS] = ';'.join(addresses)
    if found:
        env[SERVERS] = ';'.join(f'{address}:{port}' for address, port in found)
        # Else a process learns only of what it talks to, and nobody could say what is missing.
        env['ROS_SUPER_CLIENT'] = 'TRUE'
    outside = [a for a in (*addresses, *(a for a, _ in found)) if not is_local(a)]
    if outside and not (insecure or secured(env)):
        raise NetworkError(
            f'{", ".join(outside)}: whoever reaches a graph can command the robot, and ROS '
            'security is off. Set up SROS2 (docs/how-to/several-machines.md; needs a ROS '
            'installation), or say that everybody on that network may: --insecure'
        )


def is_local(address: str) -> bool:
    """Whether an IPv4 address is of the loopback interface."""
    return ipaddress.ip_address(address).is_loopback


def secured(environment: Mapping[str, str]) -> bool:
    """Whether ROS security is on and enforced."""
    return (
        environment.get(SECURITY, '').lower() == 'true'
        and environment.get(STRATEGY, '').lower() == 'enforce'
    )


def leaves_machine(environment: Mapping[str, str]) -> bool:
    """Whether processes with this environment can be found from other machines."""
    if environment.get(RANGE, 'LOCALHOST').upper() not in ('LOCALHOST', 'OFF'):
        return True
    hosts = [part.rpartition(':')[0] or part for part in _parts(environment.get(SERVERS, ''))]
    hosts += _parts(environment.get(PEERS, ''))
    try:
        return any(not is_local(address_of(host)) for host in hosts)
    except NetworkError:
        return True
