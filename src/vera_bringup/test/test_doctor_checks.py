"""The doctor's checks of a machine: each one with something really broken, and whole again."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from vera_bringup.doctor import cameras, gpu, host, middleware, realtime, software
from vera_bringup.environment import PROFILE_VARIABLES
from vera_core.contract import load_contract

DOMAIN = 96


def cured(finding, level):
    """It has this level and says what it matters and, if anything is to do, what to do."""
    assert finding.level == level, finding
    assert finding.why
    assert bool(finding.cure) == (level != 'ok'), finding
    return finding.found


# Software --------------------------------------------------------------------------------------


def without(*names: str):
    def version(name: str) -> str:
        if name in names:
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    return version


def test_a_python_without_wheels():
    assert '3.9.2' in cured(software.python((3, 9, 2)), 'error')
    cured(software.python(), 'ok')


def test_two_ros_in_one_shell_and_none():
    cured(software.ros({}), 'ok')
    assert 'sourced as well' in cured(software.ros({'ROS_DISTRO': 'jazzy'}), 'warning')
    no_wheels = without('ros-rclpy')
    cured(software.ros({'ROS_DISTRO': 'jazzy'}, no_wheels), 'ok')
    cured(software.ros({'ROS_DISTRO': 'humble'}, no_wheels), 'warning')
    cured(software.ros({}, no_wheels), 'error')


def test_a_library_that_is_missing():
    assert 'torch missing' in cured(software.packages(without('torch')), 'error')
    assert f'numpy {metadata.version("numpy")}' in cured(software.packages(), 'ok')


# Middleware ------------------------------------------------------------------------------------


def test_a_shell_without_the_profile(monkeypatch, tmp_path):
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    finding = middleware.profile()
    cured(finding, 'warning')
    # The command that it gives is one.
    command = finding.cure.replace('$PWD', str(Path(__file__).resolve().parents[3]))
    shell = ['bash', '-c', f'{command}; echo ${PROFILE_VARIABLES[0]}']
    told = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv(PROFILE_VARIABLES[0], told)
    assert 'fastdds_shm.xml' in cured(middleware.profile(), 'ok')
    monkeypatch.setenv(PROFILE_VARIABLES[0], str(tmp_path / 'gone.xml'))
    assert 'does not exist' in cured(middleware.profile(), 'error')


def test_a_node_that_runs_without_the_profile():
    program = 'print("up", flush=True); input()'
    words = [sys.executable, '-c', program, '--ros-args', '-r', '__node:=bare_of_profile']
    env = {k: v for k, v in os.environ.items() if k not in PROFILE_VARIABLES}
    node = subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert node.stdout.readline() == b'up\n'
        finding = middleware.running()
        assert f'bare_of_profile (process {node.pid})' in cured(finding, 'warning')
    finally:
        node.communicate(b'\n')
    assert 'bare_of_profile' not in middleware.running().found


def test_another_middleware():
    assert cured(middleware.implementation({}), 'ok') == 'rmw_fastrtps_cpp'
    cured(middleware.implementation({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}), 'warning')


def test_ports_that_somebody_holds():
    held = []
    try:
        for i in range(25):
            held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            held[-1].bind(('127.0.0.1', 7410 + 250 * DOMAIN + 2 * i))
        finding = middleware.ports(DOMAIN)
        cured(finding, 'error')
        assert finding.cure.endswith('--domain N')
    finally:
        for each in held:
            each.close()
    cured(middleware.ports(DOMAIN), 'ok')


def test_a_graph_that_everybody_can_command():
    open_to = {'ROS_STATIC_PEERS': '10.0.0.2'}
    secure = {'ROS_SECURITY_ENABLE': 'true', 'ROS_SECURITY_STRATEGY': 'Enforce'}
    assert cured(middleware.reach({}), 'ok') == 'this machine only'
    assert 'ROS_STATIC_PEERS=10.0.0.2' in cured(middleware.reach(open_to), 'warning')
    assert 'with ROS security' in cured(middleware.reach(open_to | secure), 'ok')


# Host ------------------------------------------------------------------------------------------

IN_A_SMALL_MACHINE = """
import json
from pathlib import Path
from vera_bringup.doctor import host
from vera_bringup.doctor.finding import OK
found = [host.shared_memory(), host.disk(Path('/mnt'))]
print(json.dumps([[f.level, f.found, f.cure] for f in found]))
"""


def test_shared_memory_and_disk_that_are_really_too_small():
    """A mount namespace whose /dev/shm has 8 MiB, as in a container, and a disk with 20 MiB."""
    mounts = 'mount -t tmpfs -o size=8m a /dev/shm && mount -t tmpfs -o size=20m b /mnt'
    shell = ['sh', '-c', f'{mounts} && exec "$@"', 'sh']
    words = ['unshare', '--mount', *shell, sys.executable, '-c']
    ran = subprocess.run([*words, IN_A_SMALL_MACHINE], capture_output=True, text=True)
    if 'ermitted' in ran.stderr or 'denied' in ran.stderr:
        pytest.skip(f'no mount namespace here: {ran.stderr.strip()}')
    assert ran.returncode == 0, ran.stderr
    memory, disk = json.loads(ran.stdout)
    assert memory[:2] == ['error', '8 of 8 MiB free in /dev/shm']
    assert '--ipc=host' in memory[2]
    assert disk[0] == 'error'
    assert '--runs' in disk[2]


def test_shared_memory_that_others_have_filled(monkeypatch):
    state = os.statvfs('/dev/shm')
    values = list(state)
    values[:5] = [4096, 4096, 300_000, 20_000, 20_000]  # 1172 MiB, of which 78 are free
    monkeypatch.setattr(os, 'statvfs', lambda _: os.statvfs_result(values))
    finding = host.shared_memory()
    cured(finding, 'error')
    assert 'fastdds shm clean' in finding.cure


def test_shared_memory_that_is_not_there_or_not_ours(tmp_path):
    cured(host.shared_memory(tmp_path / 'none'), 'error')


def test_small_socket_buffers(tmp_path):
    """The kernel has one setting for all namespaces, so here it is read from files."""
    for name, size in (('rmem_max', 212992), ('wmem_max', 4194304)):
        (tmp_path / name).write_text(f'{size}\n')
    finding = host.socket_buffers(tmp_path)
    assert 'rmem_max 208 KiB' in cured(finding, 'warning')
    assert 'sysctl -w net.core.rmem_max=4194304 (' in finding.cure
    (tmp_path / 'rmem_max').write_text('8388608\n')
    cured(host.socket_buffers(tmp_path), 'ok')


def test_little_memory(tmp_path):
    file = tmp_path / 'meminfo'
    for size, level in ((900_000, 'error'), (2_000_000, 'warning'), (9_000_000, 'ok')):
        file.write_text(f'MemTotal: 9999 kB\nMemAvailable: {size} kB\n')
        cured(host.memory(file), level)


def test_a_clock_that_nobody_keeps():
    synchronised, error = host.kernel_clock()  # whatever it is here, it can be asked
    assert isinstance(synchronised, bool)
    assert error >= 0
    assert 'at most 3 ms' in cured(host.clock(lambda: (True, 0.003)), 'ok')
    assert 'chrony' in host.clock(lambda: (False, 16.0)).cure


# Real time -------------------------------------------------------------------------------------


def test_an_arm_wants_real_time_and_a_simulation_does_not(tmp_path):
    cured(realtime.kernel(lambda: False, arm=True), 'warning')
    cured(realtime.kernel(lambda: False), 'ok')
    cured(realtime.kernel(lambda: True, arm=True), 'ok')
    cured(realtime.priority(0, root=False), 'warning')
    cured(realtime.priority(99, root=False), 'ok')
    file = tmp_path / 'cpu0' / 'cpufreq' / 'scaling_governor'
    file.parent.mkdir(parents=True)
    file.write_text('powersave\n')
    assert cured(realtime.governor(tmp_path), 'warning') == 'powersave'
    file.write_text('performance\n')
    cured(realtime.governor(tmp_path), 'ok')


# GPU -------------------------------------------------------------------------------------------


def nvidia_smi(folder: Path, monkeypatch, script: str) -> None:
    """Put a program of that name first on the PATH."""
    program = folder / 'nvidia-smi'
    program.write_text(f'#!/bin/sh\n{script}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')


def test_no_gpu_matters_to_planners_that_need_one(monkeypatch):
    monkeypatch.setenv('PATH', '/nowhere')
    (none,) = gpu.checks('compact')
    assert cured(none, 'ok') == 'none'
    (none,) = gpu.checks('wan')
    assert 'planner wan needs one' in cured(none, 'error')


def test_a_gpu_that_torch_does_not_use(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, 'echo "RTX 9, 580.1, 20000, 24000"')
    cpu = lambda: gpu.TorchGpu('2.13.0+cpu', '', False)  # noqa: E731
    card, torch = gpu.checks('', torch=cpu)
    assert cured(card, 'ok') == 'RTX 9, driver 580.1, 20000 of 24000 MiB free'
    cured(torch, 'warning')
    assert torch.cure == 'make setup GPU=1'
    old = lambda: gpu.TorchGpu('2.13.0', '13.0', False)  # noqa: E731
    assert 'driver' in list(gpu.checks('wan', torch=old))[1].cure
    good = lambda: gpu.TorchGpu('2.13.0', '13.0', True)  # noqa: E731
    assert len(list(gpu.checks('wan', torch=good))) == 1


def test_a_driver_that_fails(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, 'echo "Driver/library version mismatch"; exit 18')
    (broken,) = gpu.checks('')
    cured(broken, 'warning')


# Cameras ---------------------------------------------------------------------------------------


def test_a_camera_of_the_contract_that_is_not_there(tmp_path):
    simulated = load_contract('finger')
    real = load_contract('finger', {'sim': None, 'cameras.top.source': str(tmp_path / 'video9')})
    cured(cameras.of_contract(simulated), 'ok')
    cured(cameras.of_contract(simulated, real=True), 'error')
    assert 'top (opencv' in cured(cameras.of_contract(real), 'error')
    (tmp_path / 'video9').touch()
    cured(cameras.of_contract(real), 'ok')


def test_a_device_that_may_not_be_opened(tmp_path, monkeypatch):
    device = tmp_path / 'video0'
    device.touch()
    monkeypatch.setattr(cameras.os, 'access', lambda path, mode: False)
    finding = cameras.devices(lambda: [str(device)])
    cured(finding, 'warning')
    assert 'usermod -aG video' in finding.cure


def test_a_camera_on_usb_2_and_a_small_buffer(tmp_path):
    interface = tmp_path / 'bus/usb/devices/1-2:1.0'
    device = tmp_path / 'bus/usb/devices/1-2'
    for folder in (interface, device, tmp_path / 'module/usbcore/parameters'):
        folder.mkdir(parents=True)
    (interface / 'bInterfaceClass').write_text('0e\n')
    (device / 'speed').write_text('480\n')
    (device / 'product').write_text('Webcam\n')
    (tmp_path / 'module/usbcore/parameters/usbfs_memory_mb').write_text('16\n')
    slow, small = cameras.usb(tmp_path)
    assert cured(slow, 'warning') == 'Webcam at 480 Mbit/s'
    assert cured(small, 'warning') == '16 MiB'
    (device / 'speed').write_text('5000\n')
    (tmp_path / 'module/usbcore/parameters/usbfs_memory_mb').write_text('256\n')
    (fine,) = cameras.usb(tmp_path)
    cured(fine, 'ok')


def test_a_realsense_on_a_slow_port():
    from vera_drivers.cameras.realsense import DeviceInfo

    info = DeviceInfo(serial='123', model='D435', firmware='5.16', port='2-1', usb='2.1')
    (slow,) = cameras.realsense(lambda: [info])
    assert 'USB 2.1' in cured(slow, 'warning')
    (none,) = cameras.realsense(list)
    cured(none, 'ok')
