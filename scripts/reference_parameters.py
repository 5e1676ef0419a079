"""docs/reference/parameters.md, from the parameters that nodes declare.

No node is started: declarations are read from the source, and their arguments evaluated in the
module that they stand in.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reference_tables import NOTICE, ROOT, PageError, cell, code, show, table

#: What a node's class calls to declare a parameter; `_parameter` and `_pattern` are the recorder's.
DECLARERS = ('param', 'declare_parameter', '_parameter', '_pattern')

PARAMETERS = f"""# Parameters and launch arguments

{NOTICE}

What each node declares. A parameter is read once, when its node is configured, unless its line says
that it may be set while the node runs. A value that is not allowed is refused with the name of the
parameter and what it may be. Physical limits, cameras and times are not parameters: they are in the
[contract](contract.md).

## All lifecycle nodes
"""


@dataclass(frozen=True)
class Declared:
    """A parameter as a node declares it.

    Attributes:
        default: its value; of one that follows from the contract, that of the finger's.
        shown: the default as a reader should see it.
    """

    name: str
    default: Any
    shown: str
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    read_only: bool = True

    @property
    def allowed(self) -> str:
        """What may be given."""
        if self.choices is not None:
            return 'one of ' + ', '.join(code(choice) or 'empty' for choice in self.choices)
        kind = {bool: 'true or false', int: 'whole number', float: 'number', str: 'text'}
        bounds = [
            f'{sign} {bound:g}'
            for sign, bound in (('≥', self.low), ('≤', self.high))
            if bound is not None
        ]
        return ' '.join([kind.get(type(self.default), 'list'), ', '.join(bounds)]).strip()


@dataclass(frozen=True)
class NodeClass:
    """A class of a node, where it stands, and what it declares itself."""

    name: str
    module: str
    about: str
    parameters: tuple[Declared, ...]
    uses_contract: bool = True
    lifecycle: bool = True


def node_modules() -> list[str]:
    """Module names of the node executables."""
    files = sorted(ROOT.glob('src/vera_*/vera_*/nodes/*_node.py'))
    return ['.'.join(path.relative_to(ROOT / 'src').parts[1:])[: -len('.py')] for path in files]


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls, within `tree`, that declare a parameter by a literal name."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in DECLARERS
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node


def declared(call: ast.Call, namespace: dict[str, Any], where: str) -> Declared:
    """A declaration, its arguments evaluated as they stand there."""
    from vera_core.contract import load_contract

    names = ['name', 'default', 'description', 'low', 'high', 'choices', 'read_only']
    given = dict(zip(names, call.args, strict=False))
    given.update({word.arg: word.value for word in call.keywords if word.arg})
    node = {'self': SimpleNamespace(contract=load_contract('finger'))}
    values: dict[str, Any] = {}
    for name, expression in given.items():
        try:
            code_object = compile(ast.Expression(expression), where, 'eval')
            values[name] = eval(code_object, namespace, node)
        except Exception as error:
            raise PageError(
                f'{where}:{call.lineno}: parameter {values.get("name", "?")}: `{name}` cannot be '
                f'read without starting the node ({error}); use constants of the module, or '
                'self.contract'
            ) from error
    text = ast.unparse(given['default'])
    shown = show(values['default'])
    if text.startswith('self.contract.'):
        shown = f"the contract's `{text[len('self.contract.'):]}`"
    elif 'self.contract' in text:
        shown = 'follows from the contract'
    return Declared(shown=shown, **values)


def node_classes() -> list[NodeClass]:
    """Every node, by module."""
    found = []
    for name in node_modules():
        module = importlib.import_module(name)
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding='utf-8'))
        bases = _base_class(module)
        for item in tree.body:
            if not isinstance(item, ast.ClassDef) or not bases(item.name):
                continue
            own = [declared(call, vars(module), name) for call in calls(item)]
            cls = getattr(module, item.name)
            found.append(
                NodeClass(
                    item.name, name, (ast.get_docstring(item) or '').split('\n\n')[0],
                    tuple(own),
                    getattr(cls, 'uses_contract', any(p.name == 'contract' for p in own)),
                    hasattr(cls, 'trigger_configure'),
                )
            )  # fmt: skip
    return found


def _base_class(module: types.ModuleType) -> Callable[[str], bool]:
    from rclpy.node import Node

    def is_node(name: str) -> bool:
        cls = getattr(module, name)
        return isinstance(cls, type) and issubclass(cls, Node)

    return is_node


def common_parameters() -> tuple[Declared, ...]:
    """Those of the base class of all nodes; the contract's are left out where there is none."""
    module = importlib.import_module('vera_core.nodes.base')
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding='utf-8'))
    return tuple(declared(call, vars(module), 'vera_core.nodes.base') for call in calls(tree))


def parameter_table(parameters: Sequence[Declared]) -> str:
    """Name, default, what is allowed, and what it is."""
    rows = []
    for p in parameters:
        what = cell(p.description) + ('' if p.read_only else ' **May be set while it runs.**')
        rows.append([code(p.name), p.shown, p.allowed, what])
    return table(('parameter', 'default', 'allowed', 'what'), rows)


def parameters() -> str:
    """docs/reference/parameters.md."""
    from vera_bringup.node_table import DESCRIPTIONS, GraphOptions

    out = [PARAMETERS, parameter_table(common_parameters())]
    out.append('`contract` and `contract_overrides` only where a node reads a contract.\n')
    for node in node_classes():
        out.append(f'## {node.module.rpartition(".")[2]}\n')
        kind = 'lifecycle node' if node.lifecycle else 'node without lifecycle'
        extra = '' if node.uses_contract else '; reads no contract'
        out.append(f'{cell(node.about)}\n\n*`{node.module}`, {kind}{extra}.*\n')
        if node.parameters:
            out.append(parameter_table(node.parameters))
        else:
            out.append('No parameters of its own.\n')
    out.append('## Launch arguments\n')
    out.append(
        'Of `ros2 launch vera_bringup finger.launch.py` and the other launch files; `vera up` has '
        'the same as options, with dashes in place of underscores.\n'
    )
    rows = [
        [code(f.name), show(f.default), cell(DESCRIPTIONS[f.name])]
        for f in dataclasses.fields(GraphOptions)
    ]
    out.append(table(('argument', 'default', 'what'), rows))
    out.append(
        'Besides: `contract`, an embodiment by name or a contract file; of the Panda `arm_id`, '
        '`panda` or `fr3`.\n'
    )
    return '\n'.join(out)
