"""docs/reference/contract.md, from the dataclasses of the contract."""

from __future__ import annotations

import dataclasses
import re
import textwrap
import types
import typing
from typing import Any

from reference_tables import NOTICE, cell, code, show, table

CONTRACT = f"""# The contract

{NOTICE}

One YAML file for each robot, such as `config/embodiments/finger.yaml`. Nodes, recording, training
and evaluation read this one. Unknown and missing keys, wrong types and values out of bounds are
refused with file, line and cure. How to write one: [Your own robot](../how-to/your-own-robot.md).

For one run, values are changed without editing: parameter `contract_overrides` of a node, such as
`'{{video.committed: 2, joints.joint_1.velocity: 1.0}}'`. Things with a name are addressed by it.
"""


def attributes(cls: type) -> dict[str, str]:
    """Field -> words, from the section `Attributes:` of a docstring in Google style."""
    text = textwrap.dedent('    ' + (cls.__doc__ or ''))
    _, _, section = text.partition('Attributes:\n')
    found: dict[str, str] = {}
    for item in re.split(r'\n(?=    \S)', '\n' + section):
        names, colon, words = item.strip().partition(': ')
        if colon:
            for name in names.split(','):
                found[name.strip()] = re.sub(r'\s+', ' ', words).rstrip('.')
    return found


def type_words(hint: Any) -> str:
    """What a field of the contract may be."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return type_words(next(a for a in args if a is not type(None)))
    if dataclasses.is_dataclass(hint):
        return 'mapping'
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f'list of {type_words(args[0])}s'
        return f'{len(args)} numbers'
    if origin is dict:
        return f'mapping of names to {"values" if args[1] is Any else type_words(args[1]) + "s"}'
    return {str: 'text', int: 'whole number', float: 'number', bool: 'true or false'}[hint]


def contract_sections(cls: type, path: str, found: dict[type, list[str]]) -> dict[type, list[str]]:
    """The dataclasses that a contract is made of -> the keys under which they stand, in order."""
    found.setdefault(cls, []).append(path)
    if len(found[cls]) == 1:
        for name, hint in typing.get_type_hints(cls).items():
            for inner in (hint, *typing.get_args(hint)):
                if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                    contract_sections(inner, f'{path}.{name}'.lstrip('.'), found)
    return found


def contract_rows(cls: type) -> list[list[str]]:
    """One row for each field."""
    hints, words = typing.get_type_hints(cls), attributes(cls)
    rows = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if not field.init:
            continue
        if field.default is not dataclasses.MISSING:
            value = field.default
            silent = value in (None, (), '') or dataclasses.is_dataclass(value)
            default = '' if silent else show(value)
            need = f'optional{f", {default}" if default else ""}'
        elif field.default_factory is not dataclasses.MISSING:
            need = 'optional'
        else:
            need = 'yes'
        bounds = field.metadata
        limit = [f'> {bounds["above"]}'] if 'above' in bounds else []
        limit += [f'≥ {bounds["min"]}'] if 'min' in bounds else []
        unit = f' {bounds["unit"]}' if bounds.get('unit') else ''
        kind = type_words(hints[field.name]) + (f', {limit[0]}{unit}' if limit else '')
        rows.append([code(field.name), kind, need, cell(words.get(field.name, ''))])
    return rows


def contract() -> str:
    """docs/reference/contract.md."""
    from vera_core.contract import Contract

    out = [CONTRACT]
    for cls, paths in contract_sections(Contract, '', {}).items():
        if paths == ['']:
            out.append('## Keys of the file\n\nThose that hold mappings have a section below.\n')
        else:
            about = re.sub(r'\s+', ' ', (cls.__doc__ or '').split('Attributes:')[0]).strip()
            out.append(f'## {", ".join(code(path) for path in paths)}\n\n{about}\n')
        out.append(table(('key', 'value', 'needed', 'what'), contract_rows(cls)))
    return '\n'.join(out)
