"""`vera doctor`: what this machine and the robot are, why it matters, and what to do about it.

A section is a function that takes a contract and the options and gives findings; SECTIONS lists
them. A check that cannot be made is a finding, never an exception.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path

from rich.console import Console

from vera_bringup.exits import CommandError, Exit
from vera_core.contract import Contract, ContractError, load_contract

OK, WARN, ERROR = 'ok', 'warning', 'error'
COLOURS = {OK: 'green', WARN: 'yellow', ERROR: 'red'}
# Of a thread that has to answer the arm 1000 times a second.
PRIORITY = 80
# ms, the slowest of some round trips to the arm; all of a cycle is 1 ms.
SLOW_MS = 0.5
PINGS = 10


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: what was looked at.
        level: ok, warning or error.
        found: what there is.
        why: why it matters.
        cure: what to do; empty where nothing is to be done.
    """

    check: str
    level: str
    found: str
    why: str = ''
    cure: str = ''


@dataclass(frozen=True)
class DoctorOptions:
    """What the user said: the address of an arm; the contract's if empty."""

    robot_ip: str = ''


def run(embodiment: str, options: DoctorOptions, as_json: bool) -> None:
    """Print all findings.

    Raises:
        CommandError: no such contract; or, after the report, something is in the way.
    """
    try:
        contract = load_contract(embodiment)
    except ContractError as error:
        raise CommandError(str(error)) from error
    findings = [found for section in SECTIONS for found in section(contract, options)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        _show(findings)
    bad = [finding.check for finding in findings if finding.level == ERROR]
    if bad:
        raise CommandError(f'in the way: {", ".join(bad)}', Exit.FAILED)


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        colour = COLOURS[finding.level]
        console.print(f'[{colour}]{finding.level:8}[/] [bold]{finding.check}[/]', end=': ')
        console.print(finding.found, markup=False)
        if finding.level != OK:
            for text in (finding.why, finding.cure and f'-> {finding.cure}'):
                if text:
                    console.print(f'         {text}', markup=False)


# The arm --------------------------------------------------------------------------------------


def arm(contract: Contract, options: DoctorOptions) -> Iterator[Finding]:
    """A Franka arm at an address: which one, what speaks with it, and this machine's real time."""
    from vera_controller.registry import RobotError
    from vera_controller.robots import fci

    address = options.robot_ip or contract.robot.address
    if not address:
        return
    try:
        version = fci.ask(address).version
    except RobotError as error:
        yield Finding('arm', ERROR, str(error))
        yield from real_time()
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
    yield from real_time()


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


def real_time() -> Iterator[Finding]:
    """What a loop of 1 kHz needs of this machine."""
    from vera_controller.robots.franky import has_realtime_kernel

    why = 'the library answers the arm 1000 times a second'
    there = has_realtime_kernel()
    yield Finding(
        'kernel',
        OK if there else WARN,
        f'{os.uname().release}, ' + ('PREEMPT_RT' if there else 'not PREEMPT_RT'),
        f'{why}; without it motions are aborted now and then',
        'install a PREEMPT_RT kernel (Ubuntu: pro attach, then pro enable realtime-kernel), or '
        'write robot.realtime: ignore in the contract',
    )
    most = resource.getrlimit(resource.RLIMIT_RTPRIO)[1]
    enough = most == resource.RLIM_INFINITY or most >= PRIORITY or os.geteuid() == 0
    yield Finding(
        'rtprio',
        OK if enough else WARN,
        'unlimited' if enough else f'at most {most}',
        f'{why}, in a thread with real-time priority',
        "add '@realtime - rtprio 99' and '@realtime - memlock unlimited' to "
        '/etc/security/limits.d/realtime.conf, add yourself to the group realtime, log in again',
    )
    governors = sorted(
        {
            path.read_text().strip()
            for path in Path('/sys/devices/system/cpu').glob('cpu*/cpufreq/scaling_governor')
        }
    )
    slow = [name for name in governors if name != 'performance']
    yield Finding(
        'CPU clock',
        WARN if slow else OK,
        ', '.join(governors) or 'not governed by this system',
        'a sleeping clock answers late',
        'sudo cpupower frequency-set -g performance',
    )


Section = Callable[[Contract, DoctorOptions], Iterator[Finding]]
SECTIONS: tuple[Section, ...] = (arm,)
