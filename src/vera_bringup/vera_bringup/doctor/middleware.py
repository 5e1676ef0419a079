"""What the processes of a graph get from the middleware: profile, ports, reach, security."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vera_bringup.doctor.finding import ERROR, OK, WARN, Finding
from vera_bringup.environment import PARTICIPANTS, PROFILE_VARIABLES, free_participants
from vera_bringup.network import PEERS, RANGE, SERVERS, leaves_machine, secured

NODES = 12  # processes of the largest graph that we ship, and two commands
IMAGES = (
    "with Fast DDS's own settings four of five camera images are lost between two processes, "
    'without a word'
)
PROFILE_FILE = 'config/dds/fastdds_shm.xml'


def implementation(environment: Mapping[str, str] | None = None) -> Finding:
    """Which middleware the environment chooses."""
    env = os.environ if environment is None else environment
    chosen = env.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
    good = chosen.startswith('rmw_fastrtps')
    return Finding(
        'middleware', OK if good else WARN, chosen,
        'our profile, and all that is measured here, are for Fast DDS',
        '' if good else 'unset RMW_IMPLEMENTATION',
    )  # fmt: skip


def profile(environment: Mapping[str, str] | None = None) -> Finding:
    """Whether programs that are started from this shell get a Fast DDS profile.

    `vera` sets it for what it starts; `ros2 topic echo` in the same shell does not get it so.
    """
    env = os.environ if environment is None else environment
    path = next((env[name] for name in PROFILE_VARIABLES if env.get(name)), '')
    export = f'export {PROFILE_VARIABLES[0]}=$PWD/{PROFILE_FILE}'
    if not path:
        return Finding('profile', WARN, 'this shell has none (what `vera` starts gets ours)',
                       IMAGES, export)  # fmt: skip
    if not Path(path).is_file():
        return Finding('profile', ERROR, f'{path} does not exist', IMAGES, export)
    return Finding('profile', OK, f'{path} (what `vera` starts gets ours)', IMAGES)


def running(proc: Path = Path('/proc')) -> Finding:
    """Whether every ROS node that runs on this machine has a Fast DDS profile."""
    found, bare = 0, []
    for entry in proc.glob('[0-9]*'):
        try:
            words = (entry / 'cmdline').read_bytes().decode(errors='replace').split('\0')
            if '--ros-args' not in words:
                continue
            variables = (entry / 'environ').read_bytes().decode(errors='replace').split('\0')
        except OSError:
            continue
        found += 1
        if not any(v.startswith(f'{name}=') for v in variables for name in PROFILE_VARIABLES):
            node = next((w.split(':=')[1] for w in words if w.startswith('__node:=')), words[0])
            bare.append(f'{node} (process {entry.name})')
    if not bare:
        text = f'all {found} have one' if found else 'no ROS node runs on this machine'
        return Finding('profile of nodes', OK, text, IMAGES)
    return Finding(
        'profile of nodes', WARN, f'none in {", ".join(sorted(bare))}', IMAGES,
        f'export {PROFILE_VARIABLES[0]}=$PWD/{PROFILE_FILE}, then start them again',
    )  # fmt: skip


def ports(
    domain: int, need: int = NODES, free: Callable[[int], int] = free_participants
) -> Finding:
    """Whether the domain has free UDP ports on this machine."""
    number = free(domain)
    return Finding(
        'ports',
        ERROR if number < need else OK,
        f'ROS domain {domain}: {number} of {PARTICIPANTS} port pairs from UDP '
        f'{7410 + 250 * domain} on are free',
        f'each process takes one; a graph has up to {need}',
        'end the programs that hold them, or: --domain N' if number < need else '',
    )


def reach(environment: Mapping[str, str] | None = None) -> Finding:
    """Who can find the graph, and whether that is secured."""
    env = os.environ if environment is None else environment
    why = 'whoever reaches a graph can command the robot'
    if not leaves_machine(env):
        return Finding('reach', OK, 'this machine only', why)
    said = [f'{name}={env[name]}' for name in (RANGE, PEERS, SERVERS) if env.get(name)]
    if secured(env):
        return Finding('reach', OK, f'other machines ({", ".join(said)}), with ROS security', why)
    return Finding(
        'reach', WARN, f'other machines ({", ".join(said)}), without ROS security', why,
        'a network of its own or a VPN, or SROS2: docs/how-to/several-machines.md',
    )  # fmt: skip


def checks(domain: int) -> Iterator[Finding]:
    """All of this module."""
    yield implementation()
    yield profile()
    yield running()
    yield ports(domain)
    yield reach()
