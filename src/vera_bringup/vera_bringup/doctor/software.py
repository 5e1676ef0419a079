"""Versions: Python, the stack, ROS from wheels or from an installation, what computes."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from vera_bringup.doctor.finding import ERROR, OK, WARN, Finding

Version = Callable[[str], str]
DISTRIBUTION = 'jazzy'
OLDEST, NEWEST = (3, 10), (3, 13)
COMPUTING = ('numpy', 'torch', 'opencv-python-headless', 'transformers', 'diffusers')


def _version(name: str, version: Version) -> str:
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        return ''


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Whether this Python is one that the ROS 2 wheels exist for."""
    good = OLDEST <= version[:2] <= NEWEST
    return Finding(
        'python',
        OK if good else ERROR,
        f'{".".join(map(str, version))} ({sys.executable}), {platform.platform(terse=True)}',
        'the ROS 2 wheels exist for Python 3.10 to 3.13',
        '' if good else 'make setup PYTHON=/path/to/python3.12',
    )


def ros(
    environment: Mapping[str, str] | None = None,
    version: Version = metadata.version,
    prefix: Path = Path(sys.prefix),
) -> Finding:
    """Where ROS comes from: wheels in this environment, or a sourced installation."""
    env = os.environ if environment is None else environment
    why = 'the stack is made for ROS 2 Jazzy; two installations in one process do not mix'
    distribution = env.get('ROS_DISTRO', '')
    wheels = _version('ros-rclpy', version)
    if wheels and distribution:
        return Finding(
            'ros', WARN,
            f'wheels (rclpy {wheels}) in {prefix}, and ROS 2 {distribution} is sourced as well',
            why, 'start `vera` from a shell in which no ROS is sourced',
        )  # fmt: skip
    if wheels:
        middleware = _version('ros-rmw-fastrtps-cpp', version) or 'missing'
        return Finding('ros', OK, f'wheels: rclpy {wheels}, rmw_fastrtps {middleware}', why)
    if distribution:
        level = OK if distribution == DISTRIBUTION else WARN
        return Finding('ros', level, f'installation: ROS 2 {distribution}', why,
                       '' if level == OK else 'source /opt/ros/jazzy/setup.bash')  # fmt: skip
    return Finding('ros', ERROR, 'neither wheels nor a sourced installation', why,
                   'make setup, or: source /opt/ros/jazzy/setup.bash')  # fmt: skip


def packages(version: Version = metadata.version) -> Finding:
    """The libraries that compute."""
    found = {name: _version(name, version) for name in COMPUTING}
    missing = [name for name, text in found.items() if not text]
    return Finding(
        'libraries',
        ERROR if {'numpy', 'torch', 'opencv-python-headless'} & set(missing) else OK,
        ', '.join(f'{name} {text or "missing"}' for name, text in found.items()),
        'a bug report is worth little without them',
        'make setup' if missing else '',
    )


def checks() -> Iterator[Finding]:
    """All of this module."""
    yield python()
    yield ros()
    yield packages()
