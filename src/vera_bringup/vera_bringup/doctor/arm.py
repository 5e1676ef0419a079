"""A real arm: which one it is, what speaks with it, and the way to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata, util
from typing import TYPE_CHECKING

from vera_bringup.doctor.finding import ERROR, OK, WARN, Finding

if TYPE_CHECKING:
    from vera_core.contract import Contract

# ms, the slowest of some round trips to the arm; all of a cycle is 1 ms.
SLOW_MS = 0.5
PINGS = 10


def checks(contract: Contract, robot_ip: str = '') -> Iterator[Finding]:
    """A Franka arm at an address: which one, what speaks with it, what is in its way."""
    from vera_controller.registry import RobotError
    from vera_controller.robots import fci

    address = robot_ip or contract.robot.address
    if not address:
        return
    try:
        version = fci.ask(address).version
    except RobotError as error:
        yield Finding('arm', ERROR, str(error))
        return
    adapter = fci.ADAPTERS.get(version, '')
    yield Finding(
        'arm',
        OK if adapter else ERROR,
        f'{address}: {fci.advice(version)}',
        'each generation of arms speaks with one library only',
        '' if adapter else 'install that wheel, or update the arm',
    )
    if adapter:
        yield library(adapter)
    generation = fci.GENERATIONS.get(version)
    if generation is not None:
        within = limits(contract, generation.arm)
        yield within
        if adapter and within.level == OK:
            command = f'vera up {contract.embodiment} --no-use-fake-hardware'
            yield Finding('start', OK, f'{command} --robot {adapter} --robot-ip {address}')
    yield network(address)


def library(adapter: str) -> Finding:
    """Whether the library of an arm is installed."""
    from vera_controller.robots.fci import WHEELS
    from vera_controller.robots.franky import MODULES

    wheel = WHEELS[adapter]
    name, _, wanted = wheel.partition('==')
    why = f'robot {adapter} speaks with the arm through it'
    if util.find_spec(MODULES[adapter][0]) is None:
        return Finding('library', ERROR, f'{name} is not installed', why, f'pip install {wheel}')
    found = metadata.version(name)
    return Finding(
        'library',
        OK if found == wanted else WARN,
        f'{name} {found}',
        f'{why}; VERA-ROS is tested with {wanted}',
        f'pip install {wheel}',
    )


def limits(contract: Contract, generation: str) -> Finding:
    """Whether the contract keeps within the joint limits of the arm."""
    from vera_controller.robots.arm import FER_LIMITS, FR3_LIMITS

    low, high = FER_LIMITS if generation == 'FER' else FR3_LIMITS
    beyond = []
    for joint in contract.joints:
        if place := re.fullmatch(r'.*joint([1-7])', joint.name):
            i = int(place[1]) - 1
            # A finger's joint1 is no joint of the arm.
            if 'finger' in joint.name or low[i] <= joint.position[0] < joint.position[1] <= high[i]:
                continue
            beyond.append(f'{joint.name} [{joint.position[0]:g}, {joint.position[1]:g}]')
    other = 'panda' if generation == 'FER' else 'panda_fr3'
    return Finding(
        'joint limits',
        ERROR if beyond else OK,
        f'of {contract.embodiment}: ' + (', '.join(beyond) or f'within those of an {generation}'),
        f'an {generation} stops with an error at its own limits',
        f'use the contract {other}',
    )


def network(address: str) -> Finding:
    """Round trips to the arm."""
    why = 'the arm aborts a motion when answers come late 20 times in a row, of 1000 a second'
    cure = 'a cable straight to the control box, no switch, no Wi-Fi, no USB adapter'
    ping = shutil.which('ping')
    if ping is None:
        return Finding('network', WARN, 'there is no ping to measure with', why, 'install ping')
    try:
        ran = subprocess.run(
            [ping, '-n', '-q', '-c', str(PINGS), '-i', '0.2', '-W', '1', address],
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, 'LC_ALL': 'C'},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding('network', WARN, f'ping failed: {error}', why, cure)
    times = re.search(r'= ([\d.]+)/([\d.]+)/([\d.]+)', ran.stdout)
    if ran.returncode or times is None:
        return Finding('network', WARN, f'{address} does not answer to ping', why, cure)
    mean, slowest = float(times[2]), float(times[3])
    return Finding(
        'network',
        WARN if slowest > SLOW_MS else OK,
        f'{PINGS} round trips: mean {mean:.2f} ms, slowest {slowest:.2f} ms',
        why,
        cure,
    )
