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
from vera_bringup.node_table import DESCRIPTIONS, GraphOptions, node_table, parameter_yaml
from vera_bringup.resources import resource
from vera_bringup.supervisor import Supervisor
from vera_core.contract import load_contract

DOMAIN = 88
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
    name = next(r.split(':=')[1] for r in remaps if r.startswith('__node'))
    record = {'executable': '/'.join(Path(sys.argv[0]).parts[-2:]), 'remappings': sorted(remaps),
              'parameters': parameters, 'environment': {k: os.environ.get(k) for k in NAMES}}
    target = Path(os.environ['WITNESS_DIR']) / f'{name}.json'
    temporary = target.with_suffix('.tmp')
    temporary.write_text(json.dumps(record))
    temporary.rename(target)
    time.sleep(120)
"""
NODES = {
    'vera_drivers': ['sim_node'],
    'vera_controller': ['controller_node'],
    'vera_jidm': ['translator_node'],
    'vera_planner': ['planner_node'],
    'vera_bringup': ['recorder_node'],
}


@pytest.fixture
def witnesses(tmp_path, monkeypatch):
    prefix = tmp_path / 'prefix'
    index = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    body = textwrap.dedent(WITNESS).replace('NAMES', repr(ENVIRONMENT))
    for package, executables in NODES.items():
        (index / package).touch()
        (prefix / 'lib' / package).mkdir(parents=True)
        for executable in executables:
            path = prefix / 'lib' / package / executable
            path.write_text(f'#!{sys.executable}\n{body}')
            path.chmod(0o755)
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


def started_by_vera(folder: Path) -> dict:
    seen = folder / 'vera'
    seen.mkdir()
    table = node_table(load_contract('finger'), OPTIONS)
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


def started_by_launch(folder: Path) -> dict:
    seen = folder / 'launch'
    seen.mkdir()
    file = resource('launch', 'finger.launch.py')
    arguments = {name: getattr(OPTIONS, name) for name in DESCRIPTIONS}
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
        names = ['sim', 'controller', 'translator', 'planner', 'recorder']
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
    ours, theirs = started_by_vera(witnesses), started_by_launch(witnesses)
    assert set(ours) == {'sim', 'controller', 'translator', 'planner', 'recorder'}
    assert ours == theirs


@pytest.mark.timeout(60)
def test_vera_starts_what_the_table_says(witnesses):
    seen = started_by_vera(witnesses)
    assert set(seen) == {'sim', 'controller', 'translator', 'planner', 'recorder'}
    planner = seen['planner']
    assert planner['executable'] == 'vera_planner/planner_node'
    assert planner['remappings'] == ['__node:=planner', '__ns:=/left']
    assert planner['parameters'] == {
        'contract': 'finger', 'planner': 'oracle', 'checkpoint': '', 'lockstep': True, 'seed': 7,
        'gate': 'report', 'candidates': 1, 'mode': 'async', 'horizon': 0.0,
    }  # fmt: skip
    # A text that looks like a number stays a text.
    assert seen['translator']['parameters']['checkpoint'] == '12345'
    for record in seen.values():
        assert record['environment']['FASTRTPS_DEFAULT_PROFILES_FILE'].endswith('fastdds_shm.xml')
        assert record['environment']['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
        assert record['environment']['ROS_DOMAIN_ID'] == str(DOMAIN)


def test_every_option_is_described_and_read_from_text():
    assert list(DESCRIPTIONS) == list(GraphOptions.__dataclass_fields__)
    text = {name: str(getattr(OPTIONS, name)) for name in DESCRIPTIONS}
    assert GraphOptions.from_text(text) == OPTIONS
    for bad in ({'lockstep': 'perhaps'}, {'seed': 'x'}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            GraphOptions.from_text(bad)


def test_a_real_robot_has_a_camera_node_for_each_camera():
    contract = load_contract('finger', {'sim': None})
    names = [spec.name for spec in node_table(contract, GraphOptions())]
    assert names == ['camera_top', 'controller', 'translator', 'planner']


def test_every_simulated_embodiment_has_its_launch_file():
    for contract in resource('config', 'embodiments', 'finger.yaml').parent.glob('*.yaml'):
        text = resource('launch', f'{contract.stem}.launch.py').read_text()
        assert f"return describe_launch('{contract.stem}')" in text


def test_parameters_keep_their_types():
    import yaml

    given = {'a': '1', 'b': 1, 'c': True, 'd': 'true', 'e': 0.5, 'f': ''}
    loaded = yaml.safe_load(parameter_yaml(given))
    assert loaded == {'/**': {'ros__parameters': given}}
