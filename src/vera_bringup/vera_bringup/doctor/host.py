"""This machine: shared memory, socket buffers, disk, memory, clock."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vera_bringup.doctor.finding import ERROR, OK, WARN, Finding

MIB = 2**20
SEGMENT = 64  # MiB, of each process (config/dds/fastdds_shm.xml)
PROCESSES = 9  # of the simulated finger and two commands
SOCKET_BUFFER = 4 * MIB  # what our profile for several machines asks for
DISK = 2048  # MiB; ten minutes of three cameras are more
TIME_ERROR, STA_UNSYNC = 5, 0x0040  # linux/timex.h


def shared_memory(folder: Path = Path('/dev/shm')) -> Finding:
    """Whether images fit into shared memory."""
    why = f'images pass between processes here, in up to {SEGMENT} MiB a process'
    cure = f'sudo mount -o remount,size=2G {folder} (a container: --ipc=host or --shm-size=2g)'
    try:
        state = os.statvfs(folder)
    except OSError as error:
        return Finding('shared memory', ERROR, f'{folder}: {error.strerror}', why, cure)
    if not os.access(folder, os.W_OK):
        return Finding('shared memory', ERROR, f'{folder} cannot be written', why,
                       f'sudo chmod 1777 {folder}')  # fmt: skip
    free, size = (n * state.f_frsize // MIB for n in (state.f_bavail, state.f_blocks))
    need = SEGMENT * PROCESSES
    level = OK if free >= need else WARN if free >= 2 * SEGMENT else ERROR
    if free < need <= size:
        cure = f'ls -lS {folder}; what no running program owns may go: fastdds shm clean'
    return Finding(
        'shared memory', level, f'{free} of {size} MiB free in {folder}', why,
        '' if level == OK else cure,
    )  # fmt: skip


def socket_buffers(folder: Path = Path('/proc/sys/net/core')) -> Finding:
    """Whether the kernel grants the socket buffers that images over a network need."""
    why = 'an image from another machine comes in hundreds of packets at once'
    try:
        sizes = {name: int((folder / name).read_text()) for name in ('rmem_max', 'wmem_max')}
    except (OSError, ValueError) as error:
        return Finding('socket buffers', WARN, f'unknown: {error}', why)
    small = [name for name, size in sizes.items() if size < SOCKET_BUFFER]
    settings = ' '.join(f'net.core.{name}={SOCKET_BUFFER}' for name in small)
    return Finding(
        'socket buffers',
        WARN if small else OK,
        ', '.join(f'{name} {size // 1024} KiB' for name, size in sizes.items()),
        why,
        f'sudo sysctl -w {settings} (for ever: in /etc/sysctl.d/60-vera.conf)' if small else '',
    )


def disk(folder: Path = Path()) -> Finding:
    """Whether recordings have room where commands are started."""
    free = shutil.disk_usage(folder).free // MIB
    level = OK if free >= DISK else WARN if free >= 512 else ERROR
    return Finding(
        'disk', level, f'{free / 1024:.1f} GiB free in {folder.resolve()}',
        'recordings and logs go into runs/ here; three cameras fill about 80 MiB a second',
        '' if level == OK else 'free some space, or choose another folder with --runs',
    )  # fmt: skip


def memory(meminfo: Path = Path('/proc/meminfo'), cores: int | None = None) -> Finding:
    """Memory and cores."""
    lines = dict(line.split(':') for line in meminfo.read_text().splitlines() if ':' in line)
    free = int(lines['MemAvailable'].split()[0]) // 1024
    number = cores or len(os.sched_getaffinity(0))
    level = OK if free >= 3000 else WARN if free >= 1500 else ERROR
    return Finding(
        'memory', level, f'{free / 1024:.1f} GiB available, {number} cores',
        'a graph with its planner takes about 2.5 GiB',
        '' if level == OK else 'end other programs; free -h shows what is used',
    )  # fmt: skip


def kernel_clock() -> tuple[bool, float]:
    """Whether the kernel's clock is disciplined, and its greatest error [s] as it knows it."""
    # struct timex: modes, offset, freq, maxerror, esterror, status, and more that is not read.
    fields = (ctypes.c_long * 64)()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(fields))
    status = fields[5] & 0xFFFFFFFF
    return state not in (TIME_ERROR, -1) and not status & STA_UNSYNC, fields[3] / 1e6


def clock(read: Callable[[], tuple[bool, float]] = kernel_clock) -> Finding:
    """Whether something keeps this machine's clock right."""
    synchronised, error = read()
    return Finding(
        'clock',
        OK if synchronised else WARN,
        f'kept by NTP, off by at most {1e3 * error:.0f} ms' if synchronised else 'kept by nobody',
        'stamps of cameras and plans from different machines are compared; on one machine it is '
        'of no matter',
        '' if synchronised else 'sudo apt install chrony; chronyc tracking',
    )


def checks(folder: Path = Path()) -> Iterator[Finding]:
    """All of this module."""
    yield memory()
    yield shared_memory()
    yield socket_buffers()
    yield disk(folder)
    yield clock()
