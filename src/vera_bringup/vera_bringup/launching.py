"""A launch description from the node table; needs `launch` and `launch_ros` of a ROS installation.

It carries no process handling of its own: `launch` starts, restarts (`respawn`) and ends what the
table names, with the parameters, namespace, environment and restart delay of `vera up`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from vera_bringup.environment import graph_environment, parse_domain
from vera_bringup.node_table import DESCRIPTIONS, GraphOptions, NodeSpec, Parameter, node_table
from vera_bringup.supervisor import CONFIGURATION_ERROR, RestartPolicy
from vera_core.contract import load_contract

# Set for every process; the rest of the environment is the caller's own.
ENVIRONMENT = ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'RMW_IMPLEMENTATION', 'PYTHONUNBUFFERED')


def describe_launch(
    embodiment: str, arms: Mapping[str, str] | None = None
) -> LaunchDescription:
    """The launch description of an embodiment: one argument for each field of GraphOptions.

    Args:
        embodiment: the contract that is started unless `contract` names another.
        arms: arm -> contract, for robots of which there are several; chosen by `arm_id`.
    """
    environment = graph_environment(parse_domain(None))
    names = [*ENVIRONMENT, *(n for n in environment if n.endswith('_DEFAULT_PROFILES_FILE'))]
    arguments = [
        DeclareLaunchArgument(
            field.name, default_value=_text(field.default), description=DESCRIPTIONS[field.name]
        )
        for field in fields(GraphOptions)
    ]
    if arms:
        arguments.insert(
            0,
            DeclareLaunchArgument(
                'arm_id', default_value=next(iter(arms)), choices=list(arms),
                description='which arm it is: its limits, and the driver that speaks to it',
            ),
        )  # fmt: skip
    contract = DeclareLaunchArgument(
        'contract',
        default_value='' if arms else embodiment,
        description='embodiment: a name, or a contract file'
        + ("; empty: the arm's" if arms else ''),
    )
    settings = [SetEnvironmentVariable(name, environment[name]) for name in names]
    nodes = OpaqueFunction(function=_nodes, args=[arms or {}])
    return LaunchDescription([contract, *arguments, *settings, nodes])


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nodes(context: LaunchContext, arms: Mapping[str, str]) -> list[LaunchDescriptionEntity]:
    """Called by launch once the arguments have their values."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    options = GraphOptions.from_text({f.name: value(f.name) for f in fields(GraphOptions)})
    options = replace(options, namespace=options.namespace.strip('/'))
    name = value('contract') or arms[value('arm_id')]
    if name.endswith(('.yaml', '.yml')):
        name = str(Path(name).resolve())
    return [node_action(spec) for spec in node_table(load_contract(name), options, name)]


class _Ending:
    """What launch calls whenever a process of an essential node has ended.

    launch restarts without a time window, and says nothing when it has had enough.
    """

    def __init__(self, name: str, restarts: int) -> None:
        self._name = name
        self._left = restarts

    def __call__(self, event: ProcessExited, context: LaunchContext) -> list[Action]:
        misconfigured = event.returncode == CONFIGURATION_ERROR
        if context.is_shutdown:
            return []
        if self._left > 0 and not misconfigured:
            self._left -= 1
            return []
        why = 'cannot run as configured' if misconfigured else 'died too often'
        return [EmitEvent(event=Shutdown(reason=f'{self._name} {why}'))]


def _typed(value: Parameter) -> Parameter | ParameterValue:
    """As it is: launch_ros would read a text as YAML and make a mapping of '{a: 1}'."""
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value


def node_action(spec: NodeSpec) -> Node:
    """One process of the table as a launch action."""
    policy = RestartPolicy()
    common = {
        'package': spec.package,
        'executable': spec.executable,
        'name': spec.name,
        'namespace': f'/{spec.namespace}',
        'parameters': [{name: _typed(value) for name, value in spec.parameters.items()}],
        'remappings': list(spec.remappings),
        'arguments': list(spec.arguments),
        'output': 'both',
        'respawn': not spec.window,
        'respawn_delay': policy.delay,
        'respawn_max_retries': policy.restarts,
    }
    if spec.window:
        del common['name']
    if spec.essential:
        common['on_exit'] = _Ending(spec.name, policy.restarts)
    if spec.lifecycle:
        return LifecycleNode(**common)
    return Node(**common)
