"""What a loop of 1 kHz needs of this machine: kernel, priority, clock rate."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

from vera_bringup.doctor.finding import OK, WARN, Finding

# Of a thread that has to answer the arm 1000 times a second.
PRIORITY = 80
WHY = 'the library of a real arm answers it 1000 times a second'


def kernel(there: Callable[[], bool] | None = None, arm: bool = False) -> Finding:
    """Whether the kernel is a real-time one."""
    from vera_controller.robots.franky import has_realtime_kernel

    found = (there or has_realtime_kernel)()
    return Finding(
        'kernel',
        WARN if arm and not found else OK,
        f'{os.uname().release}, ' + ('PREEMPT_RT' if found else 'not PREEMPT_RT'),
        f'{WHY}; without it motions are aborted now and then',
        'install a PREEMPT_RT kernel (Ubuntu: pro attach, then pro enable realtime-kernel), or '
        'write robot.realtime: ignore in the contract'
        if arm and not found
        else '',
    )


def priority(limit: int | None = None, root: bool | None = None) -> Finding:
    """Whether this user may have real-time priority."""
    most = resource.getrlimit(resource.RLIMIT_RTPRIO)[1] if limit is None else limit
    root = os.geteuid() == 0 if root is None else root
    enough = most == resource.RLIM_INFINITY or most >= PRIORITY or root
    return Finding(
        'rtprio',
        OK if enough else WARN,
        'unlimited' if enough else f'at most {most}',
        f'{WHY}, in a thread with real-time priority; the controller asks for it, too',
        ''
        if enough
        else "add '@realtime - rtprio 99' and '@realtime - memlock unlimited' to "
        '/etc/security/limits.d/realtime.conf, add yourself to the group realtime, log in again',
    )


def governor(cpus: Path = Path('/sys/devices/system/cpu')) -> Finding:
    """Whether the CPU keeps its clock rate."""
    found = sorted(
        {path.read_text().strip() for path in cpus.glob('cpu*/cpufreq/scaling_governor')}
    )
    slow = [name for name in found if name != 'performance']
    return Finding(
        'CPU clock',
        WARN if slow else OK,
        ', '.join(found) or 'not governed by this system',
        'a sleeping clock answers late',
        'sudo cpupower frequency-set -g performance' if slow else '',
    )


def checks(arm: bool = False) -> Iterator[Finding]:
    """All of this module; `arm`: a real one is at stake."""
    yield kernel(arm=arm)
    yield priority()
    yield governor()
