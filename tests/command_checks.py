"""Whether a command of the documentation could work: its names, options and arguments exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
import yaml

from docs_pages import ROOT
from vera_bringup.cli import app
from vera_bringup.node_table import GraphOptions
from vera_core.contract import load_contract

NAMESPACES = ('vera', 'left', 'right')
CONTRACTS = ('finger', 'pusht', 'panda')
#: Words after these that a whole command has at least.
NEEDED = {'topic': 2, 'service': 3, 'action': 3, 'param': 3, 'launch': 2, 'lifecycle': 2}
NODES = ('controller', 'planner', 'translator', 'sim', 'scene', 'recorder')


class NotPossible(Exception):
    """A command that cannot work; the message says why."""


# --- vera ------------------------------------------------------------------------------------


@cache
def _quiet_app() -> Any:
    """The `vera` command whose commands do nothing."""
    root = typer.main.get_command(app)

    def silence(command: Any) -> None:
        command.callback = lambda *args, **kwargs: None
        for parameter in command.params:
            # Files of the reader's own need not exist here.
            hint = parameter.type_descriptor.parameter_info
            if getattr(hint, 'exists', False):
                hint.exists = False
        for inner in getattr(command, 'commands', {}).values():
            silence(inner)

    silence(root)
    return root


def check_vera(words: Sequence[str], complete: bool = True) -> None:
    """Names, options and values; within a sentence what is missing may be missing."""
    try:
        _quiet_app().main(list(words), prog_name='vera', standalone_mode=False)
    except SystemExit as error:
        if error.code:
            raise NotPossible(f'exit code {error.code}') from error
    except Exception as error:
        told = getattr(error, 'format_message', None)
        message = told() if told else str(error)
        if type(error).__name__ == 'NoArgsIsHelpError' or (
            not complete and re.match(r'Missing|.* requires an argument', message)
        ):
            return
        raise NotPossible(message) from error


# --- make, python ----------------------------------------------------------------------------


def check_make(words: Sequence[str]) -> None:
    """Every target is one of the Makefile."""
    targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    for word in words:
        if '=' not in word and word not in targets:
            raise NotPossible(f'no target {word!r} in the Makefile')


def check_python(words: Sequence[str]) -> None:
    """A module that exists, or a script whose options stand in it."""
    if words[:1] == ['-m']:
        module, rest = words[1], list(words[2:])
        if module == 'pip':
            check_pip(rest)
        elif module == 'pytest':
            missing = [w for w in rest if '/' in w and not (ROOT / w.split('::')[0]).exists()]
            if missing:
                raise NotPossible(f'there is no {missing[0]}')
        elif module == 'vera_bringup.cli':
            check_vera(rest)
        elif importlib.util.find_spec(module) is None and module != 'franky_sim.run_server':
            raise NotPossible(f'no module {module}')
        if '--ros-args' in rest:
            check_ros_arguments(module.rpartition('.')[2], rest)
        return
    if not words or words[0].startswith('-'):
        return
    script = ROOT / words[0]
    if not script.is_file():
        raise NotPossible(f'there is no {words[0]}')
    text = script.read_text()
    unknown = [w for w in words[1:] if re.match(r'--[a-z]', w) and f"'{w}'" not in text]
    if unknown:
        raise NotPossible(f'{words[0]} has no option {unknown[0]}')


def check_pip(words: Sequence[str]) -> None:
    """Files exist; a version that is named is the one that is pinned."""
    pins = ''.join(path.read_text() for path in (ROOT / 'requirements').glob('*.txt'))
    for i, word in enumerate(words):
        if word == '-r' and not (ROOT / words[i + 1]).is_file():
            raise NotPossible(f'there is no {words[i + 1]}')
        if '==' in word and word not in pins:
            raise NotPossible(f'{word} is not what requirements/ pins')


# --- ros2 ------------------------------------------------------------------------------------


@cache
def names_in_code() -> dict[str, set[str]]:
    """Topics, services and actions that the nodes name literally."""
    found: dict[str, set[str]] = {'topic': set(), 'service': set(), 'action': set()}
    kinds = {
        'create_publisher': ('topic', 1), 'create_subscription': ('topic', 1),
        'create_service': ('service', 1), 'ActionServer': ('action', 2),
    }  # fmt: skip
    for path in ROOT.glob('src/vera_*/vera_*/nodes/*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
                kind, place = kinds.get(name, ('', 0))
                if kind and len(node.args) > place:
                    given = node.args[place]
                    if isinstance(given, ast.Constant):
                        found[kind].add(str(given.value))
            # for name in ('stop', 'reset'): self.create_service(Trigger, name, ...)
            if isinstance(node, ast.For) and 'create_service' in ast.unparse(node):
                found['service'] |= {
                    e.value for e in getattr(node.iter, 'elts', []) if isinstance(e, ast.Constant)
                }
    for contract in CONTRACTS:
        for camera in load_contract(contract).cameras:
            found['topic'] |= {camera.topic, camera.info_topic}
    return found


def _relative(name: str) -> str:
    """A name without the namespace of a robot."""
    return re.sub(rf'^/({"|".join(NAMESPACES)})/', '', name)


def _known(kind: str, name: str) -> None:
    if _relative(name) not in names_in_code()[kind]:
        raise NotPossible(f'no {kind} {name}')


def _interface(text: str) -> Any:
    package, kind, name = text.split('/')
    found = getattr(importlib.import_module(f'{package}.{kind}'), name, None)
    if found is None:
        raise NotPossible(f'no interface {text}')
    return found


def _fields(text: str, cls: Any) -> None:
    """A message as YAML has only fields of its type."""
    unknown = set(yaml.safe_load(text) or {}) - set(cls.get_fields_and_field_types())
    if unknown:
        raise NotPossible(f'{cls.__name__} has no {", ".join(sorted(unknown))}')


@cache
def reference_parameters() -> Any:
    """The module that reads from the source what nodes declare."""
    sys.path.insert(0, str(ROOT / 'scripts'))
    try:
        return importlib.import_module('reference_parameters')
    finally:
        sys.path.remove(str(ROOT / 'scripts'))


@cache
def parameters_of(node: str) -> dict[str, bool]:
    """Parameter of a node -> whether it may be set while the node runs; by the source."""
    declared = reference_parameters()
    found = {p.name: not p.read_only for p in declared.common_parameters()}
    module = 'camera_node' if node.startswith('camera') else f'{node.removesuffix("_node")}_node'
    classes = [c for c in declared.node_classes() if c.module.endswith(f'.{module}')]
    if not classes:
        raise NotPossible(f'no node {node}')
    for cls in classes:
        found.update({p.name: not p.read_only for p in cls.parameters})
    return found


def check_ros_arguments(executable: str, words: Sequence[str]) -> None:
    """Parameters that are given with `-p name:=value`."""
    for word, value in pairwise(words):
        if word == '-p' and value.partition(':=')[0] not in parameters_of(executable):
            raise NotPossible(f'{executable} has no parameter {value.partition(":=")[0]}')


def check_ros2(words: Sequence[str], complete: bool = True) -> None:
    """Launch files and arguments, topics, services, types, nodes and parameters exist."""
    verb, rest = words[0], list(words[1:])
    plain = [w for w in rest if not w.startswith('-')]
    if not complete and len(plain) < NEEDED.get(verb, 1):
        return
    if verb == 'launch':
        _check_launch(rest)
    elif verb == 'topic' and plain[0] in ('echo', 'hz', 'bw', 'info', 'type', 'delay'):
        (name,) = [w for w in plain[1:] if w.startswith('/')]
        _known('topic', name)
    elif verb == 'service' and plain[0] == 'call':
        _known('service', plain[1])
        cls = _interface(plain[2])
        if len(plain) > 3:
            _fields(plain[3], cls.Request)
    elif verb == 'action' and plain[0] == 'send_goal':
        _known('action', plain[1])
        cls = _interface(plain[2])
        if len(plain) > 3:
            _fields(plain[3], cls.Goal)
    elif verb == 'param' and plain[0] in ('get', 'set', 'describe'):
        known = parameters_of(_relative(plain[1]))
        if plain[2] not in known:
            raise NotPossible(f'{plain[1]} has no parameter {plain[2]}')
        if plain[0] == 'set' and not known[plain[2]]:
            raise NotPossible(f'{plain[2]} of {plain[1]} cannot be set while it runs')
    elif verb == 'lifecycle' and plain[0] in ('get', 'set'):
        if _relative(plain[1]) not in NODES:
            raise NotPossible(f'no node {plain[1]}')
    elif verb == 'run':
        if not (ROOT / 'src' / plain[0]).is_dir():
            raise NotPossible(f'no package {plain[0]}')
    elif verb not in ('node', 'topic', 'bag', 'pkg', 'service', 'param', 'security', 'doctor',
                      'lifecycle', 'action', 'daemon', 'interface'):  # fmt: skip
        raise NotPossible(f'no verb {verb!r}')


def _check_launch(words: Sequence[str]) -> None:
    plain = [w for w in words if not w.startswith('-') and ':=' not in w]
    if plain[0] != 'vera_bringup' or not (ROOT / 'launch' / plain[1]).is_file():
        raise NotPossible(f'no launch file {" ".join(plain)}')
    known = {'contract', *(f.name for f in fields(GraphOptions))}
    if plain[1] == 'panda.launch.py':
        known.add('arm_id')
    for word in words:
        name, given, _ = word.partition(':=')
        # A value may hold arguments of xacro.
        if given and name not in known:
            raise NotPossible(f'{plain[1]} has no argument {name}')


def check(words: Sequence[str], complete: bool = True) -> None:
    """Raise NotPossible for a command that cannot work."""
    program, rest = Path(words[0]).name, list(words[1:])
    if program == 'vera':
        check_vera(rest, complete)
    elif program == 'make':
        check_make(rest)
    elif program in ('python', 'python3'):
        check_python(rest)
    elif program == 'ros2':
        check_ros2(rest, complete)
    elif program in ('torchrun', 'accelerate'):
        inner = [i for i, word in enumerate(rest) if word.endswith('bin/vera')]
        tail = rest[inner[0] + 1 :]
        check_vera(tail, complete=len(tail) > 2)
    elif program == 'rviz2' and not (ROOT / rest[rest.index('-d') + 1]).is_file():
        raise NotPossible(f'there is no {rest[rest.index("-d") + 1]}')
