"""The one table of processes per embodiment, from which launch files and the supervisor both start.

Which nodes a robot needs follows from its contract: a simulated one has a sim node where a real one
has a camera node per camera. Everything else is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

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
    """

    package: str
    executable: str
    name: str
    namespace: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    lifecycle: bool = True
    essential: bool = True

    def ros_arguments(self, parameter_file: str, log_level: str = '') -> list[str]:
        """What follows the executable on the command line."""
        args = ['--ros-args', '-r', f'__node:={self.name}', '-r', f'__ns:=/{self.namespace}']
        if self.parameters:
            args += ['--params-file', parameter_file]
        for old, new in self.remappings:
            args += ['-r', f'{old}:={new}']
        if log_level:
            args += ['--log-level', log_level]
        return args


# What --help and `ros2 launch -s` say about each field of GraphOptions.
DESCRIPTIONS = {
    'namespace': 'namespace of all nodes; two robots, two namespaces',
    'planner': "video planner: compact, remote or oracle; empty: the contract's",
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
    'record': 'folder for an MCAP recording of all topics; empty: none',
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
    record: str = ''

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
    """All processes of an embodiment.

    Args:
        contract: validated contract.
        options: the user's choices.
        contract_name: what the nodes load, a name or a path; the contract's embodiment by default.
    """
    common: dict[str, Parameter] = {'contract': contract_name or contract.embodiment}
    defaults = contract.defaults
    planner = options.planner or defaults.planner
    translator = options.translator or defaults.translator

    def node(package: str, executable: str, name: str, **parameters: Parameter) -> NodeSpec:
        return NodeSpec(package, executable, name, options.namespace, {**common, **parameters})

    table = []
    if contract.sim is not None:
        table.append(
            node('vera_drivers', 'sim_node', 'sim', lockstep=options.lockstep, seed=options.seed)
        )
    else:
        table += [
            node('vera_drivers', 'camera_node', f'camera_{camera.name}', camera=camera.name)
            for camera in contract.cameras
        ]
    table += [
        node('vera_controller', 'controller_node', 'controller', lockstep=options.lockstep),
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
        ),
    ]
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


def parameter_yaml(parameters: Mapping[str, Parameter]) -> str:
    """A ROS parameter file that holds for whichever node it is given to."""
    import yaml

    return yaml.safe_dump({'/**': {'ros__parameters': dict(parameters)}}, sort_keys=True)
