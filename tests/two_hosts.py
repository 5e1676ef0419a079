"""Two hosts on one machine: network namespaces, joined by a link that delays and loses packets.

Each host has an address, a name, a /dev/shm and a /tmp/vera folder of its own, so that nothing but
the link joins them. The link is a process of this module that copies IP packets between two tun
devices: what `tc netem` does, on kernels without it, too. Needs root (CAP_SYS_ADMIN,
CAP_NET_ADMIN) and /dev/net/tun; `missing()` says what lacks.

    python tests/two_hosts.py --delay 20 --loss 1 -- HOST_A_COMMAND ... -- HOST_B_COMMAND ...

runs both commands and ends with the first.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

ADDRESSES = {'robot': '10.78.0.1', 'gpu': '10.78.0.2'}
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
# What a host has of its own; the mount namespace holds its /dev/shm.
NAMESPACES = ('--mount', '--net', '--ipc', '--uts')
START = 'hostname "$0" && mount -t tmpfs -o size=1g shm /dev/shm && ip link set lo up && echo ready'


def missing() -> str:
    """Why there can be no two hosts here; '' if there can."""
    for program in ('ip', 'unshare', 'nsenter'):
        if shutil.which(program) is None:
            return f'there is no {program} (Debian: apt install iproute2 util-linux)'
    if not os.access('/dev/net/tun', os.R_OK | os.W_OK):
        return '/dev/net/tun cannot be opened: it takes root'
    tried = subprocess.run(
        ['unshare', *NAMESPACES, 'sh', '-c', START, 'probe'], capture_output=True, text=True
    )
    return f'no namespaces: {tried.stderr.strip()}' if tried.returncode else ''


def open_tun(name: str) -> int:
    """A tun device in the network namespace of this process; IP packets as they are."""
    descriptor = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack('16sH', name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def carry(ends: tuple[int, int], delay: float, loss: float, seed: int) -> None:
    """Copy packets both ways until killed; SIGUSR1 cuts the link, SIGUSR2 joins it again.

    Args:
        ends: two tun devices.
        delay: [s] each way; what is under way when the link is cut is lost.
        loss: share of the packets that is lost, each way.
        seed: of the losses.
    """
    chance = random.Random(seed)
    cut = False

    def turn(number: int, _: object) -> None:
        nonlocal cut
        cut = number == signal.SIGUSR1

    signal.signal(signal.SIGUSR1, turn)
    signal.signal(signal.SIGUSR2, turn)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    queue: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, _, end, packet = heapq.heappop(queue)
            if not cut:
                with contextlib.suppress(OSError):  # a full device drops packets, as a switch does
                    os.write(end, packet)
        patience = max(0.0, queue[0][0] - now) if queue else 1.0
        for end in select.select(ends, (), (), patience)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet = os.read(end, 65536)
                    count += 1
                    if not cut and chance.random() >= loss:
                        heapq.heappush(queue, (time.monotonic() + delay, count, other[end], packet))


@dataclass
class TwoHosts:
    """`robot` and `gpu`, joined by a link. A context manager; leaves nothing.

    Args:
        delay: [s] each way.
        loss: share of the packets lost, each way.
        seed: of the losses.
    """

    delay: float = 0.02
    loss: float = 0.01
    seed: int = 0
    _holders: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _link: int = 0

    def __enter__(self) -> TwoHosts:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        names = {host: f'v{host[0]}{os.getpid()}' for host in ADDRESSES}
        tuns = {host: open_tun(name) for host, name in names.items()}
        for host, address in ADDRESSES.items():
            holder = subprocess.Popen(
                ['unshare', *NAMESPACES, 'sh', '-c', f'{START} && exec sleep infinity', host],
                stdout=subprocess.PIPE,
                text=True,
            )
            self._holders[host] = holder
            assert holder.stdout is not None
            if holder.stdout.readline() != 'ready\n':
                raise RuntimeError(f'host {host} does not start')
            subprocess.run(
                ['ip', 'link', 'set', names[host], 'netns', str(holder.pid)], check=True
            )
            other = next(a for a in ADDRESSES.values() if a != address)
            for command in (
                ['ip', 'address', 'add', address, 'peer', other, 'dev', names[host]],
                ['ip', 'link', 'set', names[host], 'up', 'mtu', '1500', 'txqueuelen', '5000'],
                ['ip', 'route', 'add', '224.0.0.0/4', 'dev', names[host]],
            ):
                subprocess.run(self.command(host, *command), check=True)
        self._link = os.fork()
        if self._link == 0:
            try:
                carry((tuns['robot'], tuns['gpu']), self.delay, self.loss, self.seed)
            finally:
                os._exit(1)
        for descriptor in tuns.values():
            os.close(descriptor)

    def __exit__(self, *_: object) -> None:
        if self._link:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._link, signal.SIGKILL)
            os.waitpid(self._link, 0)
        for holder in self._holders.values():
            holder.kill()
            holder.communicate()

    def command(self, host: str, *words: str) -> list[str]:
        """The command line that runs `words` on a host."""
        pid = str(self._holders[host].pid)
        return ['nsenter', '--target', pid, '--mount', '--net', '--ipc', '--uts', '--wd=.', *words]

    def cut(self) -> None:
        """Nothing passes any more."""
        os.kill(self._link, signal.SIGUSR1)

    def join(self) -> None:
        """Packets pass again."""
        os.kill(self._link, signal.SIGUSR2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command on each host; the exit code is the first one's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--delay', type=float, default=20.0, help='ms, each way')
    parser.add_argument('--loss', type=float, default=1.0, help='percent, each way')
    parser.add_argument('--seed', type=int, default=0, help='of the losses')
    words = list(sys.argv[1:] if arguments is None else arguments)
    parts: list[list[str]] = [[]]
    for word in words:
        if word == '--':
            parts.append([])
        else:
            parts[-1].append(word)
    options = parser.parse_args(parts[0])
    if len(parts) != 3:
        parser.error('two commands are needed, each after --')
    if why := missing():
        parser.error(why)
    with TwoHosts(options.delay / 1e3, options.loss / 1e2, options.seed) as hosts:
        gpu = subprocess.Popen(hosts.command('gpu', *parts[2]))
        try:
            return subprocess.run(hosts.command('robot', *parts[1])).returncode
        finally:
            gpu.send_signal(signal.SIGINT)
            gpu.wait()


if __name__ == '__main__':
    sys.exit(main())
