"""Cameras and the USB that they hang on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vera_bringup.doctor.finding import ERROR, OK, WARN, Finding

if TYPE_CHECKING:
    from vera_core.contract import CameraSpec, Contract

USBFS_MIB = 128  # several cameras at once; the kernel's default of 16 MiB holds one or two
USB3 = 5000  # Mbit/s


def devices(find: Callable[[], list[str]] | None = None) -> Finding:
    """The video devices of this machine, and whether they may be opened."""
    from vera_drivers.cameras.opencv import known_devices

    found = (find or known_devices)()
    closed = [path for path in found if not os.access(path, os.R_OK | os.W_OK)]
    return Finding(
        'video devices',
        WARN if closed else OK,
        ', '.join(found) or 'none',
        'cameras of driver opencv are read from them',
        f'sudo usermod -aG video $USER, then log in again ({", ".join(closed)})' if closed else '',
    )


def realsense(connected: Callable[[], list[Any]] | None = None) -> Iterator[Finding]:
    """RealSense cameras that are connected, with what their driver warns of."""
    from vera_drivers.cameras.base import CameraError
    from vera_drivers.cameras.realsense import connected_devices

    try:
        found = (connected or connected_devices)()
    except CameraError as error:
        yield Finding('realsense', OK, str(error), 'only for RealSense cameras')
        return
    if not found:
        yield Finding('realsense', OK, 'none connected', 'only for RealSense cameras')
    for info in found:
        yield Finding(
            f'realsense {info.serial}', WARN if info.warning else OK,
            f'{info.model}, firmware {info.firmware}, USB {info.usb}' + (
                f'; {info.warning}' if info.warning else ''),
            'USB 2 carries fewer and smaller images',
            'a USB 3 port and cable, and not through a hub' if info.warning else '',
        )  # fmt: skip


def usb(sysfs: Path = Path('/sys')) -> Iterator[Finding]:
    """USB cameras on slow ports, and the kernel's buffer for them."""
    cameras, slow = 0, []
    for interface in sysfs.glob('bus/usb/devices/*/bInterfaceClass'):
        # 0e: video. The device is the interface's name up to the colon.
        if interface.read_text().strip() != '0e':
            continue
        device = interface.parent.parent / interface.parent.name.partition(':')[0]
        cameras += 1
        try:
            speed = float((device / 'speed').read_text())
            name = (device / 'product').read_text().strip()
        except (OSError, ValueError):
            continue
        if speed < USB3 and f'{name} at {speed:g} Mbit/s' not in slow:
            slow.append(f'{name} at {speed:g} Mbit/s')
    if slow:
        yield Finding(
            'usb', WARN, ', '.join(slow),
            '640x480 at 30 Hz, not compressed, needs 150 to 220 Mbit/s; two share one USB 2 badly',
            'a USB 3 port of a controller of its own; lsusb -t shows who shares one',
        )  # fmt: skip
    try:
        size = int((sysfs / 'module/usbcore/parameters/usbfs_memory_mb').read_text())
    except (OSError, ValueError):
        yield Finding('usb buffer', OK, 'this kernel has no USB', 'only for USB cameras')
        return
    level = WARN if 0 < size < USBFS_MIB and cameras else OK
    yield Finding(
        'usb buffer', level, f'{size} MiB', 'several USB cameras at once do not fit into 16 MiB',
        f'echo {USBFS_MIB} | sudo tee /sys/module/usbcore/parameters/usbfs_memory_mb'
        if level == WARN
        else '',
    )  # fmt: skip


def of_contract(contract: Contract, real: bool = False) -> Finding:
    """Whether each camera of the contract is there; `real`: the simulation is no excuse."""
    missing = [c for c in contract.cameras if not _is_there(c)]
    simulated = contract.sim is not None and not real
    names = ', '.join(f'{c.name} ({c.driver} {c.source or "without a source"})' for c in missing)
    level = OK if not missing or simulated else ERROR
    text = f'not there: {names}' if missing else 'all there'
    return Finding(
        'cameras of the contract', level,
        f'{text}{"; the simulation needs none" * bool(missing and simulated)}',
        f'{contract.embodiment} plans from {", ".join(c.name for c in contract.cameras)}',
        'vera cameras lists what is connected; write it as `source` into the contract'
        if level != OK
        else '',
    )  # fmt: skip


def _is_there(camera: CameraSpec) -> bool:
    if camera.driver == 'realsense':
        from vera_drivers.cameras.base import CameraError
        from vera_drivers.cameras.realsense import connected_devices

        try:
            found = connected_devices()
        except CameraError:
            return False
        return any(not camera.source or info.serial == camera.source for info in found)
    if not camera.source:
        return False
    source = camera.source
    return Path(f'/dev/video{source}' if source.isdecimal() else source).exists()


def checks(contract: Contract | None, real: bool = False) -> Iterator[Finding]:
    """All of this module; `real`: as of_contract has it."""
    if contract is not None:
        yield of_contract(contract, real)
    yield devices()
    yield from realsense()
    yield from usb()
