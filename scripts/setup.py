#!/usr/bin/env python3
"""Install VERA-ROS: a virtual environment whose prefix is also the ROS 2 prefix.

    python3 scripts/setup.py [--gpu]

Five steps, each skipped when nothing it depends on has changed: check the machine, make `.venv`,
install the pinned requirements, repair the wheels' CMake files, build the packages under `src/`.
The Python packages are then used in place, so that an edit needs no rebuild.

The syntax stays readable for older Pythons, which are told what is wanted instead of failing.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
STAMP = VENV / 'vera_setup.json'
LOG = ROOT / 'build' / 'setup.log'
OLDEST, NEWEST = (3, 10), (3, 13)
TORCH_CPU_INDEX = 'https://download.pytorch.org/whl/cpu'

# What the machines that built the wheels left in the exported CMake targets.
FOREIGN_PYTHON = re.compile(
    r'/opt/python/cp\d+-cp\d+t?/(?:(include/python3\.\d+t?)|(lib/python3\.\d+t?/site-packages))'
)


class SetupError(Exception):
    """Something is missing; the message says what, and what to do about it."""


# --- the machine -----------------------------------------------------------------------------


def supported(version):
    """Whether a Python (major, minor, ...) is one that the ROS 2 wheels exist for."""
    return OLDEST <= tuple(version[:2]) <= NEWEST


def other_python():
    """Path of a supported Python on PATH under its full name, or None."""
    for minor in (12, 11, 13, 10):
        path = shutil.which(f'python3.{minor}')
        # A version manager's shim may exist for a version that is not installed: ask it.
        if path and (facts_of(path) or {}).get('version', [0])[:2] == [3, minor]:
            return path
    return None


def check_python(version):
    """Refuse a Python that the ROS 2 wheels were not built for."""
    if not supported(version):
        raise SetupError(
            'this is Python {}.{}; the ROS 2 wheels exist for Python {}.{} to {}.{}.\n'
            'Install one of these, or name it: make setup PYTHON=/path/to/python3.12'.format(
                *(tuple(version[:2]) + OLDEST + NEWEST)
            )
        )


def check_machine():
    """Find everything that is missing at once, so that nobody has to come back twice."""
    missing = []
    if not sys.platform.startswith('linux'):
        missing.append('Linux: the ROS 2 wheels exist for Linux only')
    if not (shutil.which('gcc') or shutil.which('cc')):
        missing.append('a C compiler (Debian, Ubuntu: sudo apt install gcc)')
    if not (shutil.which('g++') or shutil.which('c++')):
        missing.append('a C++ compiler (Debian, Ubuntu: sudo apt install g++)')
    if not shutil.which('make'):
        missing.append('make (Debian, Ubuntu: sudo apt install make)')
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        missing.append(
            'the venv module (Debian, Ubuntu: sudo apt install python{}.{}-venv)'.format(
                *sys.version_info[:2]
            )
        )
    if missing:
        raise SetupError('this machine lacks\n  - ' + '\n  - '.join(missing))
    if os.environ.get('ROS_DISTRO'):
        say(
            'note: ROS 2 {} is sourced in this shell. You may build with `colcon build` instead; '
            'run what is installed here from a shell without it.'.format(os.environ['ROS_DISTRO'])
        )


def check_headers(facts):
    """Building messages compiles C against Python."""
    if not (Path(facts['include']) / 'Python.h').exists():
        raise SetupError(
            'this machine lacks the headers of Python {0}.{1} '
            '(Debian, Ubuntu: sudo apt install python{0}.{1}-dev)'.format(*facts['version'])
        )


# --- small tools -----------------------------------------------------------------------------


def say(text):
    print('setup: ' + text, flush=True)


def digest(paths, *extra):
    """One hash over names and contents of files, and over some strings."""
    total = hashlib.sha256()
    for item in extra:
        total.update(str(item).encode() + b'\0')
    for path in sorted(paths):
        total.update(str(path.relative_to(ROOT)).encode() + b'\0')
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def read_stamp():
    """What the last run installed: {} after a first or an interrupted one."""
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(stamp):
    partial = STAMP.with_suffix('.partial')
    partial.write_text(json.dumps(stamp, indent=2, sort_keys=True) + '\n')
    partial.replace(STAMP)


def clean_environment():
    """The caller's environment without any other ROS, Python environment or library path."""
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(('ROS_', 'COLCON_', 'AMENT_', 'CMAKE_', 'PYTHON', 'MAKE', 'MFLAGS'))
        and key not in ('LD_LIBRARY_PATH', '_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'VIRTUAL_ENV')
    }
    env['PATH'] = '{}:{}'.format(VENV / 'bin', env.get('PATH', '/usr/bin:/bin'))
    env['AMENT_PREFIX_PATH'] = env['CMAKE_PREFIX_PATH'] = str(VENV)
    return env


@contextlib.contextmanager
def one_at_a_time():
    """`make demo` in one terminal and `make test` in another wait for each other here."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with (ROOT / 'build' / 'setup.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say('another setup is running here; waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command):
    """Run a command; its output goes to the log. Returns (exit status, output)."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=str(ROOT),
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors='replace',
    )
    lines = []
    with LOG.open('a') as log:
        log.write('\n$ ' + ' '.join(str(part) for part in command) + '\n')
        for line in process.stdout:
            lines.append(line)
            log.write(line)
            log.flush()
            if sys.stdout.isatty():  # a sign of life while pip or colcon works
                print('\r\033[K  ' + line.strip()[:76], end='', flush=True)
    if sys.stdout.isatty():
        print('\r\033[K', end='', flush=True)
    return process.wait(), ''.join(lines)


# --- the environment -------------------------------------------------------------------------


def facts_of(python):
    """What a Python says about itself, or None if it does not run."""
    code = (
        'import json, sys, sysconfig; print(json.dumps({"version": sys.version_info[:3], '
        '"include": sysconfig.get_paths()["include"]}))'
    )
    try:
        return json.loads(
            subprocess.check_output([str(python), '-c', code], stderr=subprocess.PIPE)
        )
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def make_venv(stamp):
    """Keep a `.venv` that works here, whichever Python made it; create it otherwise."""
    facts = facts_of(VENV / 'bin' / 'python')
    moved = stamp.get('root', str(ROOT)) != str(ROOT)
    if not facts or moved or not supported(facts['version']):
        check_python(sys.version_info)
        check_headers(facts_of(sys.executable))
        if VENV.exists():
            say('making .venv anew: it does not work here')
            shutil.rmtree(str(VENV))
            shutil.rmtree(str(ROOT / 'build' / 'colcon'), ignore_errors=True)
        say('creating .venv with Python {}.{}.{}'.format(*sys.version_info[:3]))
        status, output = run([sys.executable, '-m', 'venv', VENV])
        if status != 0:
            raise SetupError('the virtual environment could not be made:\n' + output)
        facts = facts_of(VENV / 'bin' / 'python')
        stamp = {}
    check_headers(facts)
    # A colcon user who has the whole repository in a workspace must not build this folder.
    (VENV / 'COLCON_IGNORE').touch()
    if not stamp:
        stamp = {'root': str(ROOT)}
        write_stamp(stamp)
    return stamp, facts


def pip_install(*arguments):
    """Install with the environment's own pip. Returns (exit status, output)."""
    return run([VENV / 'bin' / 'python', '-m', 'pip', 'install', *arguments])


def must(result, what):
    """Turn a failed pip into a sentence."""
    status, output = result
    if status == 0:
        return
    signs = ('NewConnectionError', 'NameResolutionError', 'Temporary failure in name resolution')
    signs += ('ConnectTimeoutError', 'ProxyError', 'Network is unreachable', 'Max retries exceeded')
    if any(sign in output for sign in signs):
        raise SetupError(
            f'PyPI cannot be reached; {what} could not be installed.\n'
            'Check the network or the proxy, then run the same command again.'
        )
    tail = '\n'.join(output.strip().splitlines()[-15:])
    raise SetupError(f'{what} could not be installed. The end of {LOG}:\n{tail}')


def install_torch(gpu):
    """The CPU build where one can be had: it is a tenth of the default one's size."""
    pin = next(
        line
        for line in (ROOT / 'requirements' / 'torch.txt').read_text().splitlines()
        if line.startswith('torch==')
    )
    if not gpu:
        say('installing torch, CPU build (about 200 MB)')
        where = ['--index-url', TORCH_CPU_INDEX, '--retries', '1', '--timeout', '15']
        status, _ = pip_install('--no-deps', *where, pin + '+cpu')
        if status == 0:
            return
        say('no CPU build of torch can be reached; installing the default build (some GB)')
    else:
        say('installing torch with CUDA (some GB)')
        if any(site_packages().glob('torch-*+cpu.dist-info')):  # pip would let it pass
            run([VENV / 'bin' / 'python', '-m', 'pip', 'uninstall', '--yes', 'torch'])
    must(pip_install(pin), 'torch')


def install_requirements(stamp, facts, gpu):
    """Everything from PyPI, at the versions pinned in requirements/."""
    folder = ROOT / 'requirements'
    wanted = digest(folder.glob('*.txt'), 'gpu' if gpu else 'cpu')
    if stamp.get('requirements') == wanted:
        return
    say('installing ROS 2 Jazzy and the libraries into .venv (about 300 MB, some minutes)')
    must(pip_install('-r', folder / 'pip.txt'), 'pip')
    must(pip_install('-r', folder / 'base.txt'), 'the requirements')
    must(pip_install('--no-deps', '-r', folder / 'encoder.txt'), 'the sentence encoder')
    must(pip_install('--no-deps', '-r', folder / 'training.txt'), 'what training asks for')
    must(pip_install('--no-deps', '-r', folder / 'test.txt'), 'what the tests compare with')
    install_torch(gpu)
    repaired = repair_cmake(VENV, facts['include'], site_packages())
    say(f'repaired the include paths of {repaired} CMake files')
    stamp['requirements'] = wanted
    stamp['packages'] = {}  # what was built against the old wheels is built again
    write_stamp(stamp)


def repair_cmake(prefix, include, site):
    """Point the wheels' CMake targets at this Python instead of at the one that built them.

    Returns how many files changed. Running it twice changes nothing more.
    """
    changed = 0
    for path in sorted(Path(prefix).glob('share/**/*.cmake')):
        text = path.read_text(errors='surrogateescape')
        repaired = FOREIGN_PYTHON.sub(lambda m: str(include) if m.group(1) else str(site), text)
        if repaired != text:
            path.write_text(repaired, errors='surrogateescape')
            changed += 1
    return changed


# --- the packages ----------------------------------------------------------------------------


def packages():
    """The folders to build: every package under src/, and those that ROS 2 would bring."""
    found = sorted(path.parent for path in (ROOT / 'src').glob('*/package.xml'))
    return found + sorted(
        path.parent for path in (ROOT / 'src' / 'wheels_only').glob('*/package.xml')
    )


def package_digest(package):
    """A hash of what a build depends on: not the Python modules, which are used in place."""
    files = []
    for path in package.rglob('*'):
        inner = path.relative_to(package).parts
        if inner[0] in (package.name, 'test') or '__pycache__' in inner:
            continue
        if path.is_file() and not path.name.endswith(('.pyc', '.swp', '~')):
            files.append(path)
    return digest(files)


def build_packages(stamp):
    """Build what changed, with colcon, into the environment's own prefix."""
    wanted = {package.name: package_digest(package) for package in packages()}
    done = stamp.get('packages', {})
    todo = [name for name, value in wanted.items() if done.get(name) != value]
    if todo:
        say('building ' + ', '.join(todo))
        colcon(todo)
    link_sources()
    if done != wanted:
        stamp['packages'] = wanted
        write_stamp(stamp)


def colcon(names):
    unlink_sources()
    python = VENV / 'bin' / 'python'
    command = [python, '-m', 'colcon', '--log-base', ROOT / 'build' / 'log', 'build']
    # Named one by one: a COLCON_IGNORE keeps wheels_only from everybody else's builds.
    command += ['--paths', *packages(), '--packages-select', *names]
    command += ['--build-base', ROOT / 'build' / 'colcon']
    command += ['--merge-install', '--install-base', VENV]
    command += ['--event-handlers', 'console_direct-', 'console_cohesion+']
    command += ['--cmake-args', '-DBUILD_TESTING=OFF', '-DCMAKE_BUILD_TYPE=Release']
    command += [f'-DPython3_EXECUTABLE={python}']
    status, output = run(command)
    if status != 0:
        tail = '\n'.join(output.strip().splitlines()[-25:])
        raise SetupError(f'a package did not build. The end of {LOG}:\n{tail}')


def python_packages():
    return [path for path in packages() if (path / path.name / '__init__.py').exists()]


def site_packages():
    return next(VENV.glob('lib/python3.*/site-packages'))


def shared_links():
    """Where vera_bringup installs what lives at the top of the repository: link -> target.

    Launch files one by one: `ros2 launch` does not look into a folder that is a link.
    """
    share = VENV / 'share' / 'vera_bringup'
    links = {share / 'launch' / path.name: path for path in (ROOT / 'launch').glob('*.launch.py')}
    if (ROOT / 'config').is_dir():
        links[share / 'config'] = ROOT / 'config'
    return links


def link_sources():
    """Let the sources take the place of the copies that colcon installed.

    colcon's own --symlink-install works only in a shell that has sourced its hooks; a .pth file
    works from any environment. Entry points, resource index and executables stay as installed.
    """
    site = site_packages()
    for package in python_packages():
        if (site / package.name).is_dir():
            shutil.rmtree(str(site / package.name))
    lines = [str(package) for package in python_packages()]
    # ament_index_python finds share/<package> in a shell that has sourced nothing.
    lines.append("import os, sys; os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)")
    write_if_changed(site / 'vera_ros.pth', '\n'.join(lines) + '\n')
    links = shared_links()
    launch = VENV / 'share' / 'vera_bringup' / 'launch'
    if launch.is_symlink():
        launch.unlink()
    for path in launch.glob('*'):
        if path not in links or not path.is_symlink():
            shutil.rmtree(str(path)) if path.is_dir() else path.unlink()
    for link, target in links.items():
        if not link.is_symlink():
            shutil.rmtree(str(link), ignore_errors=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)


def write_if_changed(path, text):
    """Leave a file alone that a Python starting right now may be reading."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def unlink_sources():
    """A build must write into the environment, never through a link into the sources."""
    share = VENV / 'share' / 'vera_bringup'
    for link in (*shared_links(), share / 'launch'):
        if link.is_symlink():
            link.unlink()


# --- all of it -------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description='Install VERA-ROS into .venv.')
    parser.add_argument('--gpu', action='store_true', help='torch with CUDA instead of for CPU')
    arguments = parser.parse_args()
    start = time.time()
    try:
        if not supported(sys.version_info):
            better = other_python()
            if better:
                os.execv(better, [better, *sys.argv])
            check_python(sys.version_info)
        check_machine()
        with one_at_a_time():
            stamp, facts = make_venv(read_stamp())
            install_requirements(stamp, facts, arguments.gpu)
            build_packages(stamp)
    except SetupError as error:
        print('setup: ' + str(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nsetup: interrupted; run it again to go on', file=sys.stderr)
        return 130
    say(f'ready after {time.time() - start:.1f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
