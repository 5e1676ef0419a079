#!/usr/bin/env python3
"""Write the reference pages that follow from the code, or say which of them are out of date.

    .venv/bin/python scripts/reference_pages.py [--check]

docs/reference/messages.md    from src/vera_msgs
docs/reference/parameters.md  from the parameters that the nodes declare, and the launch arguments
docs/reference/contract.md    from the dataclasses of the contract
docs/reference/commands.md    from the `vera` command
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reference_contract import contract
from reference_parameters import parameters
from reference_tables import NOTICE, ROOT, PageError, cell, code, table

FOLDER = ROOT / 'docs' / 'reference'

MESSAGES = f"""# Messages, services, actions

{NOTICE}

The interfaces of the package `vera_msgs`. Units stand in brackets; a name with a value is a
constant. Topics, their QoS and who publishes them:
[With ROS 2's own tools](../how-to/ros2-tools.md).
"""

COMMANDS = f"""# Commands

{NOTICE}

Installed as `.venv/bin/vera`. Every command has `--help`. Where `--json` exists, the last line of
the output is one JSON object.
"""

KINDS = (
    ('msg', 'Messages', ('',)),
    ('srv', 'Services', ('Request', 'Response')),
    ('action', 'Actions', ('Goal', 'Result', 'Feedback')),
)
FIELD = re.compile(r'^(?P<type>[\w/]+(?:\[[^\]]*\])?)\s+(?P<name>\w+)(?:=(?P<value>[^#]+))?')


def interface_rows(text: str) -> tuple[str, list[list[str]]]:
    """What stands above the fields of one part of an interface, and its fields."""
    about: list[str] = []
    rows: list[list[str]] = []
    for line in text.splitlines():
        body, _, comment = line.partition('#')
        if not body.strip():
            if comment and not rows:
                about.append(comment.strip())
            continue
        found = FIELD.match(body.strip())
        if not found:
            raise PageError(f'no field of an interface: {line!r}')
        value = found['value']
        name = f'`{found["name"]}`' + (f' = {value.strip()}' if value else '')
        rows.append([name, f'`{found["type"]}`', cell(comment)])
    return ' '.join(about), rows


def messages() -> str:
    """docs/reference/messages.md."""
    out = [MESSAGES]
    for kind, title, parts in KINDS:
        out.append(f'## {title}\n')
        for path in sorted((ROOT / 'src' / 'vera_msgs' / kind).glob(f'*.{kind}')):
            out.append(f'### vera_msgs/{kind}/{path.stem}\n')
            texts = re.split(r'^---\s*$', path.read_text(encoding='utf-8'), flags=re.MULTILINE)
            if len(texts) != len(parts):
                raise PageError(f'{path}: {len(texts)} parts instead of {len(parts)}')
            for part, text in zip(parts, texts, strict=True):
                about, rows = interface_rows(text)
                if about:
                    out.append(cell(about) + '\n')
                if part:
                    out.append(f'**{part}**' + ('\n' if rows else ': empty\n'))
                if rows:
                    out.append(table(('field', 'type', 'what'), rows))
    return '\n'.join(out)


def option_default(option: Any) -> str:
    """A default as a reader should see it."""
    value = option.default
    if callable(value) or value is None or str(value).startswith('Sentinel'):
        return 'needed' if option.required else ''
    if isinstance(value, bool):
        if not value and not option.secondary_opts:
            return ''
        names = option.opts if value else option.secondary_opts
        return code(names[0]) if names else ''
    if isinstance(value, (list, tuple)):
        return ' '.join(code(item) for item in value)
    return code(value)


def option_names(option: Any) -> str:
    """`--gate`, `--wait / --no-wait`, with what follows it."""
    names = ', '.join(f'`{name}`' for name in option.opts)
    if option.secondary_opts:
        names += ' / ' + ', '.join(f'`{name}`' for name in option.secondary_opts)
    if option.is_flag:
        return names
    return f'{names} {cell(option.metavar or value_name(option.type_descriptor.annotation))}'


def value_name(hint: Any) -> str:
    """What an option is followed by."""
    inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    if inner:
        return value_name(inner[0])
    return {str: 'TEXT', int: 'INTEGER', float: 'NUMBER', Path: 'PATH'}[hint]


def option_range(option: Any) -> str:
    """' (≥ 1, ≤ 16)' of an option with bounds."""
    low, high = option.min, option.max
    bounds = [f'≥ {low:g}'] if low is not None else []
    bounds += [f'≤ {high:g}'] if high is not None else []
    return f' ({", ".join(bounds)})' if bounds else ''


def command_text(path: str, command: Any, level: int) -> list[str]:
    """One command, and those below it."""
    group = hasattr(command, 'commands')
    arguments = [p for p in command.params if p.param_type_name == 'argument']
    options = [p for p in command.params if p.param_type_name == 'option' and p.name != 'help']
    out = [f'{"#" * level} {path}\n']
    usage = ' '.join(
        [path]
        + [f'{a.name.upper()}{"..." if a.nargs == -1 else ""}' if a.required else
           f'[{a.name.upper()}]' for a in arguments]
        + (['[OPTIONS]'] if options else [])
        + (['COMMAND'] if group else [])
    )  # fmt: skip
    out.append(f'```text\n{usage}\n```\n')
    words = re.sub(r'(?<!\n)\n(?!\n)', ' ', textwrap.dedent(command.help or '').strip())
    linked = re.sub(r'\bdocs/([\w/-]+)\.md', r'[\1](../\1.md)', words)
    out.append(linked.replace('<', '&lt;') + '\n')
    rows = [
        [code(a.name.upper()), option_default(a), cell((a.help or '') + option_range(a))]
        for a in arguments
    ]
    rows += [
        [option_names(o), option_default(o), cell((o.help or '') + option_range(o))]
        for o in options
    ]
    if rows:
        out.append(table(('argument, option', 'default', 'what'), rows))
    if group:
        for name, inner in command.commands.items():
            if not inner.hidden:
                out += command_text(f'{path} {name}', inner, min(level + 1, 4))
    return out


def commands() -> str:
    """docs/reference/commands.md."""
    import typer

    from vera_bringup.cli import app
    from vera_bringup.exits import HELP

    root = typer.main.get_command(app)
    out = [COMMANDS, re.sub(r'\s+', ' ', HELP) + '\n']
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        if not command.hidden:
            out += command_text(f'vera {name}', command, 2)
    return '\n'.join(out)


PAGES: dict[str, Callable[[], str]] = {
    'messages.md': messages,
    'parameters.md': parameters,
    'contract.md': contract,
    'commands.md': commands,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing; 1 if a page is old')
    arguments = parser.parse_args()
    old = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page().rstrip('\n') + '\n'
        if path.exists() and path.read_text(encoding='utf-8') == text:
            continue
        old.append(name)
        if not arguments.check:
            path.write_text(text, encoding='utf-8')
    if old:
        print(f'{"out of date" if arguments.check else "written"}: {", ".join(old)}')
    return 1 if old and arguments.check else 0


if __name__ == '__main__':
    sys.exit(main())
