"""The one table of processes per embodiment, from which launch files and the supervisor both start.

Which nodes a robot needs follows from its contract and from whether its hardware is simulated: a
simulated one has a sim node where a real one has a camera node per camera. Everything else is the
same everywhere.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vera_bringup.resources import ResourceError, executable

if TYPE_CHECKING:
    from vera_core.contract import Contract

Parameter = bool | int | float | str


@dataclass(frozen=True)
class NodeSpec:
    """One process.

    Attributes:
        package: ROS package; executable: its node executable.
        name: node name; unique within the namespace.
        namespace: without the leading slash.
        parameters: by name; passed as a parameter file by both starters.
        remappings: (from, to) topic names.
        lifecycle: whether it is a lifecycle node (launch needs to know).
        essential: whether the graph is of no use without it. When such a node cannot be kept
            alive the whole graph goes down; another one is only reported.
        arguments: of the program itself, before the ROS arguments.
        window: a program with a window: it names its own nodes and is not started again when
            somebody closes it.
        awaited: whether the graph is ready only when this one is.
    """

    package: str
    executable: str
    name: str
    namespace: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    lifecycle: bool = True
    essential: bool = True
    arguments: tuple[str, ...] = ()
    window: bool = False
    awaited: bool = True

    def ros_arguments(self, parameter_file: str, log_level: str = '') -> list[str]:
        """What follows the executable on the command line."""
        args = [*self.arguments, '--ros-args']
        if not self.window:
            args += ['-r', f'__node:={self.name}']
        args += ['-r', f'__ns:=/{self.namespace}']
        if self.parameters:
            args += ['--params-file', parameter_file]
        for old, new in self.remappings:
            args += ['-r', f'{old}:={new}']
        if log_level:
            args += ['--log-level', log_level]
        return args


TF_CHOICES = ('global', 'private', 'off')
OWN_OPTIONS = ('recorder', 'rviz')
# s, least patience with the cameras of another machine: a goal outlives a short cut of the network.
FRAME_PATIENCE = 10.0

# What --help and `ros2 launch -s` say about each field of GraphOptions.
DESCRIPTIONS = {
    'namespace': 'namespace of all nodes; two robots, two namespaces',
    'planner': "video planner: compact, wan, remote or oracle; empty: the contract's",
    'planner_checkpoint': (
        "planner checkpoint, name or path; of a remote planner its URL; empty: the contract's"
    ),
    'translator': "translator, e.g. jacobian; empty: the contract's",
    'translator_checkpoint': "translator checkpoint, name or path; empty: the contract's",
    'mode': 'how the translator solves: stacked, or paper for plain Eq. 6',
    'seed': 'seed of the first simulated episode and of the planner',
    'lockstep': 'simulated time waits for the plan (for evaluation)',
    'gate': 'plans that look impossible: on does not execute them, report tells of them, off',
    'candidates': 'plans to choose the most executable one from, each a whole sampling',
    'replan': 'async: plan while the last plan is executed; sync: stop and go',
    'follow': 'chunk: a plan becomes one chunk; servo: its frames are followed by sight',
    'horizon': "[s] that plans reach at least; 0: the planner's look-ahead",
    'pending': 'tell the planner which frames of its last plan are still to be executed',
    'plan_timeout': '[s] after which a planner is taken to hang and the goal ends',
    'record': 'folder for an MCAP recording of all topics; empty: none',
    'use_fake_hardware': 'the simulated robot and cameras; false: the real ones',
    'robot': "what drives the robot: topic, or a driver's name; empty: the contract's",
    'robot_ip': "address of a real robot, e.g. 172.16.0.2; empty: the contract's",
    'load_gripper': 'whether the real arm has its hand; false: channels and joints without it',
    'tf': 'frames and markers: global (/tf), private (<namespace>/tf, for two robots), or off',
    'description': "URDF, or xacro and its arguments, of robot_description; empty: the contract's",
    'use_rviz': 'start rviz with the configuration of the embodiment',
    'use_cockpit': 'start the cockpit, a web page that shows the robot and takes its goals',
    'cockpit_host': 'address that the cockpit listens on; other machines need a token',
    'cockpit_port': 'port of the cockpit, or the next free one; 0: any',
    'only': 'start these nodes only, e.g. planner; the others run on other machines',
    'without': 'start all nodes but these, e.g. planner,translator',
    'frame_timeout': (
        "[s] without camera frames after which a goal ends; 0: the contract's, on several "
        'machines at least 10'
    ),
}


@dataclass(frozen=True)
class GraphOptions:
    """What a user may choose when a graph starts. Every field is a launch argument."""

    namespace: str = 'vera'
    planner: str = ''
    planner_checkpoint: str = ''
    translator: str = ''
    translator_checkpoint: str = ''
    mode: str = 'stacked'
    seed: int = 0
    lockstep: bool = False
    gate: str = 'report'
    candidates: int = 1
    replan: str = 'async'
    follow: str = 'chunk'
    horizon: float = 0.0
    pending: bool = False
    plan_timeout: float = 15.0
    record: str = ''
    use_fake_hardware: bool = True
    robot: str = ''
    robot_ip: str = ''
    load_gripper: bool = True
    tf: str = 'global'
    description: str = ''
    use_rviz: bool = False
    use_cockpit: bool = False
    cockpit_host: str = '127.0.0.1'
    cockpit_port: int = 8080
    only: str = ''
    without: str = ''
    frame_timeout: float = 0.0

    @property
    def part(self) -> bool:
        """Whether some of the graph's nodes run on other machines."""
        return bool(self.only or self.without)

    @classmethod
    def from_text(cls, values: Mapping[str, str]) -> GraphOptions:
        """From launch arguments, which are text; raises ValueError naming the one that is wrong."""
        parsed: dict[str, Parameter] = dict(values)
        for name, text in values.items():
            kind = type(getattr(cls, name))
            if kind is bool:
                if text.lower() not in ('true', 'false'):
                    raise ValueError(f'{name} is {text!r}; expected true or false')
                parsed[name] = text.lower() == 'true'
            elif kind in (int, float):
                try:
                    parsed[name] = kind(text)
                except ValueError:
                    wanted = 'an integer' if kind is int else 'a number'
                    raise ValueError(f'{name} is {text!r}; expected {wanted}') from None
        return cls(**parsed)  # type: ignore[arg-type]

    def changed(self, **values: Parameter) -> GraphOptions:
        """A copy with some fields replaced."""
        return replace(self, **values)  # type: ignore[arg-type]


def node_table(
    contract: Contract, options: GraphOptions, contract_name: str = ''
) -> tuple[NodeSpec, ...]:
    """The processes of an embodiment that run on this machine; all of them unless told otherwise.

    Args:
        contract: validated contract.
        options: the user's choices.
        contract_name: what the nodes load, a name or a path; the contract's embodiment by default.

    Raises:
        ValueError: options that do not fit each other or the contract.
        ResourceError: what an option asks for is not installed.
    """
    whole = _whole_table(contract, options, contract_name)
    if not options.part:
        return whole
    names = _chosen(options, [spec.name for spec in whole])
    # What has an option of its own is where it was asked for.
    table = [spec for spec in whole if spec.name in names or spec.name in OWN_OPTIONS]
    clock = NodeSpec(
        'vera_bringup',
        'clock_node',
        clock_name(),
        options.namespace,
        {'reference': 'controller' in names},
    )
    return (*table, clock)


def elsewhere(contract: Contract, options: GraphOptions) -> tuple[str, ...]:
    """Names of the essential nodes that run on other machines."""
    if not options.part:
        return ()
    whole = _whole_table(contract, options, '')
    names = _chosen(options, [spec.name for spec in whole])
    return tuple(spec.name for spec in whole if spec.essential and spec.name not in names)


def clock_name() -> str:
    """Name of the node that compares this machine's clock with the controller's."""
    return 'clock_' + re.sub(r'\W', '_', socket.gethostname(), flags=re.ASCII)


def _chosen(options: GraphOptions, known: list[str]) -> set[str]:
    """Names of the nodes that `only` and `without` leave; ValueError for names of nobody."""
    only, without = (
        {name for name in text.replace(' ', '').split(',') if name}
        for text in (options.only, options.without)
    )
    if unknown := sorted((only | without) - set(known)):
        raise ValueError(
            f'there is no node {", ".join(unknown)}; the nodes are {", ".join(known)}'
        )
    chosen = (only or set(known)) - without
    if not chosen:
        raise ValueError('only and without leave no node')
    return chosen


def _whole_table(
    contract: Contract, options: GraphOptions, contract_name: str
) -> tuple[NodeSpec, ...]:
    common: dict[str, Parameter] = {'contract': contract_name or contract.embodiment}
    overrides = contract_overrides(contract, options)
    if overrides:
        common['contract_overrides'] = _one_line(overrides)
    defaults = contract.defaults
    planner = options.planner or defaults.planner
    translator = options.translator or defaults.translator

    def node(package: str, executable: str, name: str, **parameters: Parameter) -> NodeSpec:
        return NodeSpec(package, executable, name, options.namespace, {**common, **parameters})

    table = []
    simulated = options.use_fake_hardware
    if simulated and contract.sim is None:
        raise ValueError(
            f'{contract.embodiment} has no simulation; to move the real robot say so: '
            'use_fake_hardware:=false (vera up: --no-use-fake-hardware)'
        )
    if simulated:
        table.append(
            node('vera_drivers', 'sim_node', 'sim', lockstep=options.lockstep, seed=options.seed)
        )
    else:
        table += [
            node('vera_drivers', 'camera_node', f'camera_{camera.name}', camera=camera.name)
            for camera in contract.cameras
        ]
    table += [
        node(
            'vera_controller',
            'controller_node',
            'controller',
            lockstep=options.lockstep,
            **_robot(options, simulated),
        ),
        node(
            'vera_jidm',
            'translator_node',
            'translator',
            translator=translator,
            checkpoint=options.translator_checkpoint,
            mode=options.mode,
            lockstep=options.lockstep,
            gate=options.gate,
            follow=options.follow,
        ),
        node(
            'vera_planner',
            'planner_node',
            'planner',
            planner=planner,
            checkpoint=options.planner_checkpoint,
            lockstep=options.lockstep,
            seed=options.seed,
            gate=options.gate,
            candidates=options.candidates,
            mode=options.replan,
            horizon=options.horizon,
            pending=options.pending,
            plan_timeout=options.plan_timeout,
        ),
    ]
    table += _viewers(contract, options, node)
    if options.record:
        table.append(
            NodeSpec(
                'vera_bringup',
                'recorder_node',
                'recorder',
                options.namespace,
                {'output': options.record},
                lifecycle=False,
                essential=False,
            )
        )
    return tuple(table)


def contract_overrides(contract: Contract, options: GraphOptions) -> dict[str, Any]:
    """What the options change in a contract, None for what they take away.

    Raises:
        ValueError: the simulated arm cannot be had without its gripper.
    """
    keys = []
    if not options.use_fake_hardware and contract.sim is not None:
        keys.append('sim')
    grippers = [channel for channel in contract.channels if channel.kind == 'gripper']
    if not options.load_gripper and grippers:
        if options.use_fake_hardware:
            raise ValueError(
                f'the simulated {contract.embodiment} has a gripper; load_gripper:=false is for '
                'use_fake_hardware:=false'
            )
        keys += [f'channels.{channel.name}' for channel in grippers]
        joints = dict.fromkeys(channel.joint for channel in grippers if channel.joint)
        keys += [f'{part}.{joint}' for joint in joints for part in ('joints', 'home')]
        keys += ['gripper'] if contract.gripper is not None else []
    changes: dict[str, Any] = dict.fromkeys(keys)
    if not options.load_gripper:
        changes['robot.gripper'] = False
    timeout = options.frame_timeout
    if options.part and not timeout:
        timeout = max(FRAME_PATIENCE, contract.video.frame_timeout)
    if timeout:
        changes['video.frame_timeout'] = timeout
    return changes


def _one_line(values: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(values), default_flow_style=True, width=10**6)).strip()


def _robot(options: GraphOptions, simulated: bool) -> dict[str, Parameter]:
    """The controller's parameters about its robot; what is left to the contract is left out."""
    # A simulation is reached by topics, whatever drives the real arm.
    robot = options.robot or ('topic' if simulated else '')
    given = {'robot': robot, 'robot_ip': options.robot_ip}
    return {name: value for name, value in given.items() if value}


def _viewers(
    contract: Contract, options: GraphOptions, node: Callable[..., NodeSpec]
) -> list[NodeSpec]:
    """What nobody needs but people who look: frames, markers, rviz, the cockpit."""
    if options.tf not in TF_CHOICES:
        raise ValueError(f'tf is {options.tf!r}; it is one of {", ".join(TF_CHOICES)}')
    remappings = (('/tf', 'tf'), ('/tf_static', 'tf_static')) if options.tf == 'private' else ()
    if options.description:
        from vera_core.kinematics.description import description_text

        description_text(contract, options.description)  # a bad one is said now
    found = []
    if options.tf != 'off':
        publisher = _state_publisher(contract, options)
        scene = node(
            'vera_drivers',
            'scene_node',
            'scene',
            description=options.description,
            robot=publisher is None,
        )
        found = [scene] if publisher is None else [scene, publisher]
    if options.use_rviz:
        from vera_bringup.rviz_config import config_file

        try:
            executable('rviz2', 'rviz2')
        except ResourceError:
            raise ResourceError(
                'rviz2 comes with a ROS 2 installation only (sudo apt install ros-jazzy-rviz2); '
                'without it leave use_rviz out: rviz on another machine shows the same topics'
            ) from None
        found.append(
            NodeSpec(
                'rviz2',
                'rviz2',
                'rviz',
                options.namespace,
                lifecycle=False,
                essential=False,
                arguments=('-d', str(config_file(contract))),
                window=True,
                awaited=False,
            )
        )
    if options.use_cockpit:
        cockpit = node(
            'vera_bringup',
            'cockpit_node',
            'cockpit',
            description=options.description,
            host=options.cockpit_host,
            port=options.cockpit_port,
        )
        found.append(replace(cockpit, lifecycle=False, awaited=False))
    return [replace(spec, remappings=remappings, essential=False) for spec in found]


def _state_publisher(contract: Contract, options: GraphOptions) -> NodeSpec | None:
    """robot_state_publisher, where it is installed and there is a description for it."""
    if contract.kinematics is None and not options.description:
        return None
    package = 'robot_state_publisher'
    try:
        executable(package, package)
    except ResourceError:
        return None
    from vera_core.kinematics.description import description_text

    parameters: dict[str, Parameter] = {
        'robot_description': description_text(contract, options.description),
        'publish_frequency': 30.0,
    }
    return NodeSpec(package, package, package, options.namespace, parameters, lifecycle=False)


def parameter_yaml(parameters: Mapping[str, Parameter]) -> str:
    """A ROS parameter file that holds for whichever node it is given to."""
    import yaml

    return yaml.safe_dump({'/**': {'ros__parameters': dict(parameters)}}, sort_keys=True)
