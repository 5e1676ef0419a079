"""`ros2 launch` and `vera up` start the same processes with the same parameters.

Every node executable is replaced by a script that writes down how it was started; then both
starters run for real. `launch` and `launch_ros` come with a ROS installation only: where they are
missing, this test is skipped and what `vera` starts is checked alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vera_bringup.environment import graph_environment
from vera_bringup.node_table import (
    DESCRIPTIONS,
    GraphOptions,
    contract_overrides,
    node_table,
    parameter_yaml,
)
from vera_bringup.resources import ResourceError, resource
from vera_bringup.supervisor import Supervisor
from vera_core.contract import load_contract, parse_overrides
from vera_core.contract_files import source_root

DOMAIN = 88
# Other ways to move the same arm: `panda.launch.py contract:=panda_joints`.
VARIANTS = ('panda_joints',)
# What a process must not inherit differently.
ENVIRONMENT = (
    'FASTRTPS_DEFAULT_PROFILES_FILE',
    'FASTDDS_DEFAULT_PROFILES_FILE',
    'ROS_AUTOMATIC_DISCOVERY_RANGE',
    'RMW_IMPLEMENTATION',
    'ROS_DOMAIN_ID',
)
WITNESS = """
    import json, os, sys, time
    from pathlib import Path
    import yaml
    args = sys.argv[1:]
    remaps = [args[i + 1] for i, a in enumerate(args) if a == '-r']
    parameters = {}
    for i, a in enumerate(args):
        if a == '--params-file':
            for entry in yaml.safe_load(Path(args[i + 1]).read_text()).values():
                parameters.update(entry['ros__parameters'])
    name = next((r.split(':=')[1] for r in remaps if r.startswith('__node')), 'rviz')
    own = args[:args.index('--ros-args')]
    record = {'executable': '/'.join(Path(sys.argv[0]).parts[-2:]), 'remappings': sorted(remaps),
              'arguments': own, 'parameters': parameters,
              'environment': {k: os.environ.get(k) for k in NAMES}}
    target = Path(os.environ['WITNESS_DIR']) / f'{name}.json'
    temporary = target.with_suffix('.tmp')
    temporary.write_text(json.dumps(record))
    temporary.rename(target)
    time.sleep(120)
"""
NODES = {
    'vera_drivers': ['sim_node', 'camera_node', 'scene_node'],
    'vera_controller': ['controller_node'],
    'vera_jidm': ['translator_node'],
    'vera_planner': ['planner_node'],
    'vera_bringup': ['recorder_node'],
}


def program(folder: Path, package: str, executable: str) -> None:
    """A script in the place of a node's executable that writes down how it was started."""
    prefix = folder / 'prefix'
    (prefix / 'share/ament_index/resource_index/packages' / package).touch()
    path = prefix / 'lib' / package / executable
    path.parent.mkdir(parents=True, exist_ok=True)
    body = textwrap.dedent(WITNESS).replace('NAMES', repr(ENVIRONMENT))
    path.write_text(f'#!{sys.executable}\n{body}')
    path.chmod(0o755)


@pytest.fixture
def witnesses(tmp_path, monkeypatch):
    prefix = tmp_path / 'prefix'
    index = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    for package, executables in NODES.items():
        for executable in executables:
            program(tmp_path, package, executable)
    monkeypatch.setenv('AMENT_PREFIX_PATH', os.pathsep.join([str(prefix), sys.prefix]))
    monkeypatch.setenv('ROS_DOMAIN_ID', str(DOMAIN))
    return tmp_path


def collect(folder: Path, names: list[str]) -> dict:
    deadline = time.monotonic() + 60
    while not all((folder / f'{name}.json').exists() for name in names):
        assert time.monotonic() < deadline, f'only {sorted(folder.glob("*.json"))} were started'
        time.sleep(0.05)
    return {name: json.loads((folder / f'{name}.json').read_text()) for name in names}


OPTIONS = GraphOptions(
    namespace='left', planner='oracle', seed=7, lockstep=True, record='some/bag',
    translator_checkpoint='12345',
)  # fmt: skip


REAL = GraphOptions(
    namespace='right', use_fake_hardware=False, robot='topic', robot_ip='172.16.0.2', tf='private',
    load_gripper=False,
)  # fmt: skip
FINGER = ['sim', 'controller', 'translator', 'planner', 'scene', 'recorder']
CAMERAS = ['camera_front', 'camera_side', 'camera_wrist']


def started_by_vera(folder: Path, embodiment='finger', options=OPTIONS) -> dict:
    seen = folder / 'vera'
    seen.mkdir()
    table = node_table(load_contract(embodiment), options)
    environment = graph_environment(DOMAIN) | {'WITNESS_DIR': str(seen)}
    supervisor = Supervisor(table, environment, folder / 'run', lambda *_: None)
    import threading

    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        return collect(seen, [spec.name for spec in table])
    finally:
        supervisor.request_stop()
        thread.join()


def started_by_launch(folder: Path, names, file='finger', options=OPTIONS, **more) -> dict:
    seen = folder / 'launch'
    seen.mkdir()
    file = resource('launch', f'{file}.launch.py')
    arguments = {name: getattr(options, name) for name in DESCRIPTIONS} | more
    words = [f'{k}:={str(v).lower() if isinstance(v, bool) else v}' for k, v in arguments.items()]
    program = textwrap.dedent("""
        import sys
        from launch import LaunchDescription, LaunchService
        from launch.actions import IncludeLaunchDescription
        from launch.launch_description_sources import PythonLaunchDescriptionSource
        source = PythonLaunchDescriptionSource(sys.argv[1])
        arguments = [tuple(word.split(':=', 1)) for word in sys.argv[2:] if not word.endswith(':=')]
        service = LaunchService()
        include = IncludeLaunchDescription(source, launch_arguments=arguments)
        service.include_launch_description(LaunchDescription([include]))
        sys.exit(service.run())
    """)
    process = subprocess.Popen(
        [sys.executable, '-c', program, str(file), *words],
        env=os.environ | {'WITNESS_DIR': str(seen)},
    )
    try:
        return collect(seen, names)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.mark.timeout(120)
def test_launch_and_vera_start_the_same(witnesses):
    pytest.importorskip('launch_ros', reason='launch_ros comes with a ROS installation only')
    ours, theirs = started_by_vera(witnesses), started_by_launch(witnesses, FINGER)
    assert list(ours) == FINGER
    assert ours == theirs


@pytest.mark.timeout(120)
@pytest.mark.parametrize(('arm', 'contract'), [('panda', 'panda'), ('fr3', 'panda_fr3')])
def test_a_real_panda_is_started_the_same_by_launch_and_by_vera(witnesses, arm, contract):
    pytest.importorskip('launch_ros', reason='launch_ros comes with a ROS installation only')
    names = [*CAMERAS, 'controller', 'translator', 'planner', 'scene']
    ours = started_by_vera(witnesses, contract, REAL)
    theirs = started_by_launch(witnesses, names, 'panda', REAL, arm_id=arm)
    assert list(ours) == names
    assert ours == theirs
    assert ours['controller']['parameters']['contract'] == contract
    assert ours['controller']['parameters']['robot_ip'] == '172.16.0.2'
    assert sorted(r for r in ours['scene']['remappings'] if r.startswith('/')) == [
        '/tf:=tf', '/tf_static:=tf_static',
    ]  # fmt: skip


@pytest.mark.timeout(120)
def test_a_simulated_panda_is_started_the_same_by_launch_and_by_vera(witnesses):
    pytest.importorskip('launch_ros', reason='launch_ros comes with a ROS installation only')
    names = [spec.name for spec in node_table(load_contract('panda'), GraphOptions())]
    assert names[0] == 'sim'
    theirs = started_by_launch(witnesses, names, 'panda', GraphOptions())
    assert started_by_vera(witnesses, 'panda', GraphOptions()) == theirs


@pytest.mark.timeout(60)
def test_vera_starts_what_the_table_says(witnesses):
    seen = started_by_vera(witnesses)
    assert list(seen) == FINGER
    planner = seen['planner']
    assert planner['executable'] == 'vera_planner/planner_node'
    assert planner['remappings'] == ['__node:=planner', '__ns:=/left']
    assert planner['parameters'] == {
        'contract': 'finger', 'planner': 'oracle', 'checkpoint': '', 'lockstep': True, 'seed': 7,
        'gate': 'report', 'candidates': 1, 'mode': 'async', 'horizon': 0.0, 'pending': False,
        'plan_timeout': 15.0,
    }  # fmt: skip
    # A text that looks like a number stays a text.
    assert seen['translator']['parameters']['checkpoint'] == '12345'
    for record in seen.values():
        assert record['environment']['FASTRTPS_DEFAULT_PROFILES_FILE'].endswith('fastdds_shm.xml')
        assert record['environment']['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
        assert record['environment']['ROS_DOMAIN_ID'] == str(DOMAIN)


def test_every_option_is_described_and_read_from_text():
    assert list(DESCRIPTIONS) == list(GraphOptions.__dataclass_fields__)
    root = source_root()
    if root is not None:
        table = (root / 'docs' / 'how-to' / 'ros2-tools.md').read_text()
        assert [name for name in DESCRIPTIONS if f'`{name}`' not in table] == []
    text = {name: str(getattr(OPTIONS, name)) for name in DESCRIPTIONS}
    assert GraphOptions.from_text(text) == OPTIONS
    for bad in ({'lockstep': 'perhaps'}, {'seed': 'x'}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            GraphOptions.from_text(bad)


def test_a_real_robot_has_a_camera_node_for_each_camera():
    contract = load_contract('finger', {'sim': None})
    names = [spec.name for spec in node_table(contract, GraphOptions(use_fake_hardware=False))]
    assert names == ['camera_top', 'controller', 'translator', 'planner', 'scene']


def test_real_hardware_is_asked_for_by_an_option_and_the_nodes_read_the_same_contract():
    table = node_table(load_contract('finger'), GraphOptions(use_fake_hardware=False))
    assert [spec.name for spec in table][:2] == ['camera_top', 'controller']
    assert 'robot' not in table[1].parameters  # the contract's
    for spec in table:
        overrides = parse_overrides(spec.parameters['contract_overrides'])
        assert load_contract('finger', overrides).sim is None
    simulated = node_table(load_contract('finger'), GraphOptions())
    assert not any('contract_overrides' in spec.parameters for spec in simulated)
    assert simulated[1].parameters['robot'] == 'topic'


def test_no_real_robot_moves_without_being_asked_for():
    with pytest.raises(ValueError, match=r'panda_fr3 has no simulation.*use_fake_hardware:=false'):
        node_table(load_contract('panda_fr3'), GraphOptions())


def test_an_arm_without_its_hand_has_neither_its_channel_nor_its_joint():
    contract = load_contract('panda')
    options = GraphOptions(load_gripper=False, use_fake_hardware=False)
    bare = load_contract('panda', contract_overrides(contract, options))
    assert bare.joint_names == contract.joint_names[:7]
    assert bare.channel_names == contract.channel_names[:6]
    assert bare.gripper is None
    assert not bare.robot.gripper
    with pytest.raises(ValueError, match='load_gripper:=false is for use_fake_hardware:=false'):
        node_table(contract, GraphOptions(load_gripper=False))


def test_viewers_are_nothing_that_the_robot_needs():
    contract = load_contract('finger')
    table = node_table(contract, GraphOptions())
    assert [spec.name for spec in table if not spec.essential] == ['scene']
    off = node_table(contract, GraphOptions(tf='off'))
    assert 'scene' not in [spec.name for spec in off]
    with pytest.raises(ValueError, match="tf is 'on'; it is one of global, private, off"):
        node_table(contract, GraphOptions(tf='on'))
    with pytest.raises(ValueError, match=r'nowhere.urdf cannot be read'):
        node_table(contract, GraphOptions(description='nowhere.urdf'))


def test_rviz_is_started_in_the_namespace_and_not_again(witnesses):
    contract = load_contract('finger')
    with pytest.raises(ResourceError, match='rviz2 comes with a ROS 2 installation only'):
        node_table(contract, GraphOptions(use_rviz=True))
    program(witnesses, 'rviz2', 'rviz2')
    rviz = node_table(contract, GraphOptions(use_rviz=True, namespace='left'))[-1]
    words = rviz.ros_arguments('none.yaml')
    assert words[:1] == ['-d']
    assert words[1].endswith('config/rviz/finger.rviz')
    assert words[2:] == ['--ros-args', '-r', '__ns:=/left']
    assert rviz.window


@pytest.mark.timeout(60)
def test_rviz_and_robot_state_publisher_are_started_the_same_by_launch_and_by_vera(witnesses):
    pytest.importorskip('launch_ros', reason='launch_ros comes with a ROS installation only')
    program(witnesses, 'rviz2', 'rviz2')
    program(witnesses, 'robot_state_publisher', 'robot_state_publisher')
    options = GraphOptions(tf='private', use_rviz=True)
    names = ['sim', 'controller', 'translator', 'planner', 'scene', 'robot_state_publisher', 'rviz']
    ours = started_by_vera(witnesses, 'finger', options)
    assert list(ours) == names
    assert ours == started_by_launch(witnesses, names, 'finger', options)
    assert ours['scene']['parameters']['robot'] is False
    text = resource('config', 'urdf', 'finger.urdf').read_text()
    assert ours['robot_state_publisher']['parameters']['robot_description'] == text
    assert ours['rviz']['arguments'][0] == '-d'


def test_every_embodiment_can_be_launched():
    files = {path.stem.removesuffix('.launch'): path.read_text()
             for path in resource('launch', 'finger.launch.py').parent.glob('*.launch.py')}
    for path in resource('config', 'embodiments', 'finger.yaml').parent.glob('*.yaml'):
        name = path.stem
        own = f"describe_launch('{name}'" in files.get(name, '')
        assert own or any(f"'{name}'" in text for text in files.values()) or name in VARIANTS


def test_parameters_keep_their_types():
    import yaml

    given = {'a': '1', 'b': 1, 'c': True, 'd': 'true', 'e': 0.5, 'f': ''}
    loaded = yaml.safe_load(parameter_yaml(given))
    assert loaded == {'/**': {'ros__parameters': given}}
