"""scripts/setup.py: what it says when something is missing, and its repair of the wheels."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from source_tree import ROOT

SCRIPT = ROOT / 'scripts' / 'setup.py'


@pytest.fixture
def setup(tmp_path: Path) -> ModuleType:
    """The script as a module whose root is an empty folder."""
    return load(copy_script(tmp_path))


def copy_script(folder: Path) -> Path:
    """The script in a tree of its own, so that no test can touch this one."""
    target = folder / 'scripts' / 'setup.py'
    target.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, target)
    return target


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location('vera_setup_script', path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def machine_with(folder: Path, *programs: str) -> str:
    """A PATH on which only these programs exist."""
    folder.mkdir(parents=True)
    for name in programs:
        target = shutil.which(name) or shutil.which('true')
        assert target
        (folder / name).symlink_to(target)
    return str(folder)


def run(script: Path, path: str, prelude: str = '') -> subprocess.CompletedProcess[str]:
    """Run the script on a machine with another PATH, and after changes to the interpreter."""
    code = (
        f'import sys, runpy\n{prelude}\nsys.argv = [{str(script)!r}]\n'
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    env = {'PATH': path, 'HOME': os.environ.get('HOME', '/')}
    return subprocess.run(
        [sys.executable, '-S', '-c', code], env=env, capture_output=True, text=True, timeout=60
    )


def test_old_pythons_can_read_it() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize('version', [(3, 8, 10), (3, 9, 2), (3, 14, 0)])
def test_wrong_python(version: tuple[int, ...], tmp_path: Path) -> None:
    path = machine_with(tmp_path / 'bin', 'gcc', 'g++', 'make')
    fake = f'sys.version_info = {(*version, "final", 0)}'
    result = run(copy_script(tmp_path), path, fake)
    assert result.returncode == 1
    assert f'this is Python {version[0]}.{version[1]}' in result.stderr
    assert 'Python 3.10 to 3.13' in result.stderr
    assert 'Traceback' not in result.stderr
    assert not (tmp_path / '.venv').exists()


def test_another_python_on_the_path_is_taken(tmp_path: Path) -> None:
    path = machine_with(tmp_path / 'bin')
    other = tmp_path / 'bin' / 'python3.12'
    other.write_text(
        '#!/bin/sh\n'
        'if [ "$1" = -c ]; then echo \'{"version": [3, 12, 1], "include": "/"}\'; exit; fi\n'
        'echo "python3.12 was given $1"\n'
    )
    other.chmod(other.stat().st_mode | stat.S_IXUSR)
    result = run(copy_script(tmp_path), path, "sys.version_info = (3, 9, 2, 'final', 0)")
    assert result.returncode == 0, result.stderr
    assert 'python3.12 was given' in result.stdout


def test_a_shim_that_does_not_run_is_not_taken(tmp_path: Path) -> None:
    path = machine_with(tmp_path / 'bin')
    shim = tmp_path / 'bin' / 'python3.12'
    shim.write_text('#!/bin/sh\necho "3.12: not installed" >&2\nexit 127\n')
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    result = run(copy_script(tmp_path), path, "sys.version_info = (3, 9, 2, 'final', 0)")
    assert result.returncode == 1
    assert 'this is Python 3.9' in result.stderr


@pytest.mark.parametrize(
    ('there', 'missing'),
    [
        (['g++', 'make'], ['a C compiler', 'apt install gcc']),
        (['gcc', 'make'], ['a C++ compiler', 'apt install g++']),
        (['gcc', 'g++'], ['make', 'apt install make']),
        ([], ['a C compiler', 'a C++ compiler', 'make']),
    ],
)
def test_no_compiler(there: list[str], missing: list[str], tmp_path: Path) -> None:
    result = run(copy_script(tmp_path), machine_with(tmp_path / 'bin', *there))
    assert result.returncode == 1
    assert 'this machine lacks' in result.stderr
    for text in missing:
        assert text in result.stderr
    assert result.stderr.count('\n  - ') == (len(missing) if not there else 1)
    assert 'Traceback' not in result.stderr
    assert not (tmp_path / '.venv').exists()


def test_no_venv_module(tmp_path: Path) -> None:
    path = machine_with(tmp_path / 'bin', 'gcc', 'g++', 'make')
    result = run(copy_script(tmp_path), path, "sys.modules['ensurepip'] = None")
    assert result.returncode == 1
    assert 'the venv module' in result.stderr
    assert f'python3.{sys.version_info[1]}-venv' in result.stderr


def test_no_headers(setup: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(setup.SetupError, match=r'headers of Python 3\.12 .*python3\.12-dev'):
        setup.check_headers({'include': str(tmp_path), 'version': [3, 12, 1]})
    (tmp_path / 'Python.h').touch()
    setup.check_headers({'include': str(tmp_path), 'version': [3, 12, 1]})


def test_no_network(tmp_path: Path) -> None:
    """An environment whose pip finds no network: one sentence, and the next run can go on."""
    script = copy_script(tmp_path)
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    include = tmp_path / 'include'
    include.mkdir()
    (include / 'Python.h').touch()
    python = tmp_path / '.venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\n'
        f'if [ "$1" = -c ]; then echo \'{{"version": [3, 12, 1], "include": "{include}"}}\'\n'
        'else echo "WARNING: Retrying: NewConnectionError(Failed to establish)"; exit 1; fi\n'
    )
    python.chmod(0o755)
    result = run(script, machine_with(tmp_path / 'bin', 'gcc', 'g++', 'make', 'sh'))
    assert result.returncode == 1
    assert 'PyPI cannot be reached' in result.stderr
    assert 'NewConnectionError' in (tmp_path / 'build' / 'setup.log').read_text()
    assert 'NewConnectionError' not in result.stderr


@pytest.mark.parametrize(
    ('version', 'root', 'kept'),
    [
        ('3, 12, 1', None, True),
        ('3, 10, 0', None, True),  # another one than the running Python, and good enough
        ('3, 9, 2', None, False),
        ('3, 12, 1', '/elsewhere', False),
        ('does not run', None, False),
    ],
)
def test_an_environment_that_works_is_kept(
    setup: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    root: str | None,
    kept: bool,
) -> None:
    (tmp_path / 'Python.h').touch()
    python = tmp_path / '.venv' / 'bin' / 'python'

    def make(text: str) -> None:
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\necho \'{{"version": [{text}], "include": "{tmp_path}"}}\'\n')
        python.chmod(0o755)

    def fake_run(command: list[str]) -> tuple[int, str]:
        assert '-m venv' in ' '.join(str(part) for part in command)
        make('3, 11, 0')
        return 0, ''

    monkeypatch.setattr(setup, 'run', fake_run)
    monkeypatch.setattr(setup, 'check_headers', lambda facts: None)
    make(version)
    mark = tmp_path / '.venv' / 'mark'
    mark.touch()
    stamp, facts = setup.make_venv({'root': root} if root else {})
    assert mark.exists() == kept
    assert stamp == {'root': str(tmp_path)}
    assert facts['version'] == ([int(x) for x in version.split(',')] if kept else [3, 11, 0])
    assert (tmp_path / '.venv' / 'COLCON_IGNORE').exists()


def test_cmake_paths_are_repaired(setup: ModuleType, tmp_path: Path) -> None:
    prefix = tmp_path / 'prefix'
    include, site = Path('/usr/include/python3.12'), prefix / 'lib/python3.12/site-packages'
    broken = prefix / 'share' / 'std_msgs' / 'cmake' / 'export.cmake'
    broken.parent.mkdir(parents=True)
    broken.write_text(
        'INCLUDES "${_PREFIX}/include;/opt/python/cp311-cp311/include/python3.11;'
        '/opt/python/cp313-cp313t/lib/python3.13t/site-packages/numpy/_core/include"\n'
    )
    sound = prefix / 'share' / 'sound.cmake'
    sound.write_text('set(x /opt/python/readme)\n')
    assert setup.repair_cmake(prefix, include, site) == 1
    assert broken.read_text() == (
        f'INCLUDES "${{_PREFIX}}/include;{include};{site}/numpy/_core/include"\n'
    )
    assert sound.read_text() == 'set(x /opt/python/readme)\n'
    assert setup.repair_cmake(prefix, include, site) == 0


def test_only_what_a_build_needs_causes_one(setup: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / 'src' / 'vera_x'
    for name in ('vera_x/a.py', 'test/test_a.py', 'package.xml', 'msg/A.msg'):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text('1')
    before = setup.package_digest(package)
    for name in ('vera_x/a.py', 'vera_x/new.py', 'test/test_a.py'):
        (package / name).write_text('2')
    assert setup.package_digest(package) == before
    for name in ('package.xml', 'msg/A.msg', 'msg/New.msg', 'setup.cfg'):
        (package / name).write_text('2')
        assert setup.package_digest(package) != before, name
        before = setup.package_digest(package)


def test_sources_take_the_place_of_copies(setup: ModuleType, tmp_path: Path) -> None:
    """After a build: no stale copy, the .pth in place, config/ and every launch file are links."""
    package = tmp_path / 'src' / 'vera_bringup'
    (package / 'vera_bringup').mkdir(parents=True)
    (package / 'vera_bringup' / '__init__.py').touch()
    (package / 'package.xml').touch()
    site = tmp_path / '.venv' / 'lib' / 'python3.12' / 'site-packages'
    (site / 'vera_bringup').mkdir(parents=True)
    (site / 'other').mkdir()
    for name in ('config', 'launch'):
        (tmp_path / name).mkdir()
        (tmp_path / '.venv' / 'share' / 'vera_bringup' / name).mkdir(parents=True)
    (tmp_path / 'launch' / 'arm.launch.py').touch()
    launch = tmp_path / '.venv' / 'share' / 'vera_bringup' / 'launch'
    (launch / 'arm.launch.py').write_text('what colcon copied')
    (launch / 'gone.launch.py').touch()
    for _ in range(2):
        setup.link_sources()
        # A folder that is a link would not be looked into by `ros2 launch`.
        assert not launch.is_symlink()
        assert [path.name for path in launch.iterdir()] == ['arm.launch.py']
        assert (launch / 'arm.launch.py').resolve() == tmp_path / 'launch' / 'arm.launch.py'
        assert not (site / 'vera_bringup').exists()
        assert (site / 'other').exists()
        assert str(package) in (site / 'vera_ros.pth').read_text().splitlines()
        link = tmp_path / '.venv' / 'share' / 'vera_bringup' / 'config'
        assert link.resolve() == tmp_path / 'config'
    setup.unlink_sources()
    assert not link.exists()
    assert not (launch / 'arm.launch.py').is_symlink()
    assert (tmp_path / 'config').is_dir()
    assert (tmp_path / 'launch' / 'arm.launch.py').is_file()


def test_the_installed_environment_needs_nothing_sourced(tmp_path: Path) -> None:
    """ROS, the messages and share/vera_bringup are found from an empty environment."""
    code = (
        'import rclpy, tf2_msgs.msg, vera_core, vera_msgs.msg\n'
        'from ament_index_python.packages import get_package_share_directory as share\n'
        "print(share('vera_bringup'))"
    )
    env = {'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path)}
    result = subprocess.run(
        [sys.executable, '-c', code], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert (Path(result.stdout.strip()) / 'package.xml').exists()
