"""From YAML to typed dataclasses, with the place of every mistake.

It knows no contract: the dataclasses' own type hints say what a file may hold. `contract.py`
declares them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar('T')


class ContractError(ValueError):
    """A contract that may not be used; the message names the file, the place and the cure.

    Attributes:
        key: where, e.g. 'joints.joint_1.velocity'; empty for the file as a whole.
        message: what is wrong, without the place.
    """

    def __init__(self, message: str, key: str = '', where: str = '') -> None:
        self.key = key
        self.message = message
        super().__init__(': '.join(part for part in (where, key, message) if part))


class Checked:
    """A dataclass whose fields carry `metadata={'min': .., 'above': .., 'unit': ..}` bounds."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.metadata and value is not None:
                check_bounds(value, field.name, field.metadata)


def check_bounds(value: float, key: str, bounds: Mapping[str, Any]) -> None:
    """Raise ContractError unless `value` is finite, > bounds['above'] and >= bounds['min']."""
    unit = f' {bounds["unit"]}' if bounds.get('unit') else ''
    above, least = bounds.get('above'), bounds.get('min')
    if not math.isfinite(value):
        raise ContractError(f'is {value}; a finite number is needed', key)
    if above is not None and not value > above:
        raise ContractError(f'is {value}{unit}; it must be greater than {above}', key)
    if least is not None and value < least:
        raise ContractError(f'is {value}{unit}; it must be at least {least}', key)


def join(*keys: str) -> str:
    """Dotted path of the keys that are not empty."""
    return '.'.join(key for key in keys if key)


def suggestion(word: str, known: Iterable[str]) -> str:
    """'; did you mean X? Known: ...' for a word that is none of `known`."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f'; did you mean {close[0]!r}?' if close else ';'
    return f'{hint} known: {", ".join(known) or "none"}'


@dataclasses.dataclass
class Document:
    """A YAML file as plain data, and the line on which each key stands."""

    name: str
    data: dict[str, Any]
    lines: dict[str, int] = dataclasses.field(default_factory=dict)
    overridden: set[str] = dataclasses.field(default_factory=set)

    def where(self, key: str) -> str:
        """File and line of a key, or of the nearest key above it."""
        parts = key.split('.')
        for n in range(len(parts), 0, -1):
            prefix = '.'.join(parts[:n])
            if prefix in self.overridden:
                return f'{self.name} (override)'
            if prefix in self.lines:
                return f'{self.name}:{self.lines[prefix]}'
        return self.name

    def override(self, overrides: Mapping[str, Any]) -> None:
        """Put values over those of the file.

        Args:
            overrides: nested mappings, or dotted keys such as 'joints.joint_1.velocity'. A list of
                named things can be addressed by their names. None takes a key away.
        """
        for key, value in overrides.items():
            self._override(self.data, str(key).split('.'), value, '')

    def _override(self, node: Any, path: list[str], value: Any, above: str) -> None:
        key = join(above, path[0])
        target: Any
        place: Any
        if isinstance(node, list):
            names = [item.get('name') if isinstance(item, dict) else None for item in node]
            if path[0] not in names:
                known = [name for name in names if isinstance(name, str)]
                raise ContractError(
                    f'no such thing to override{suggestion(path[0], known)}',
                    key,
                    f'{self.name} (override)',
                )
            target, place = node, names.index(path[0])
        else:
            target, place = node, path[0]
        if len(path) > 1:
            if isinstance(target, dict) and not isinstance(target.get(place), (dict, list)):
                target[place] = {}
            self._override(target[place], path[1:], value, key)
        elif value is None:
            if isinstance(target, list) or place in target:
                target.pop(place)
                self.overridden.add(key)
        elif isinstance(value, Mapping):
            if isinstance(target, dict) and not isinstance(target.get(place), (dict, list)):
                target[place] = {}
                self.overridden.add(key)
            for name, inner in value.items():
                self._override(target[place], [str(name)], inner, key)
        else:
            target[place] = value
            self.overridden.add(key)


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ContractError: it cannot be read, is no valid YAML (with the line), holds a key twice, or is
            no mapping.
    """
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f'cannot be read: {error}', where=str(path)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f'{path}:{mark.line + 1}:{mark.column + 1}' if mark else str(path)
        begun = error.context_mark
        context = f'{error.context} (from line {begun.line + 1})' if begun else error.context
        problem = ', '.join(part for part in (context, error.problem) if part)
        raise ContractError(f'broken YAML: {problem}', where=where) from error
    except yaml.YAMLError as error:
        raise ContractError(f'broken YAML: {error}', where=str(path)) from error
    if root is None:
        raise ContractError('is empty; a contract is needed in it', where=str(path))
    document = Document(path.name, {})
    data = _plain(root, '', document)
    if not isinstance(data, dict):
        raise ContractError(
            f'is {_describe(data)}; a contract is a mapping of keys to values', where=str(path)
        )
    document.data = data
    return document


def _plain(node: yaml.Node, key: str, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = getattr(key_node, 'value', None)
            line = key_node.start_mark.line + 1
            if not isinstance(name, str):
                raise ContractError('a key must be a word', key, f'{document.name}:{line}')
            inner = join(key, name)
            if name in found:
                raise ContractError(
                    f'stands here for the second time; first on line {document.lines[inner]}',
                    inner,
                    f'{document.name}:{line}',
                )
            document.lines[inner] = line
            found[name] = _plain(value_node, inner, document)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(item, _item_key(key, i, item, document), document)
            for i, item in enumerate(node.value)
        ]
    constructor = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        line = node.start_mark.line + 1
        raise ContractError(f'broken YAML: {error}', key, f'{document.name}:{line}') from error


def _item_key(key: str, index: int, item: yaml.Node, document: Document) -> str:
    """Things with a name go by their name, others by their number."""
    name = str(index)
    if isinstance(item, yaml.MappingNode):
        names = [v.value for k, v in item.value if getattr(k, 'value', None) == 'name']
        if names and isinstance(names[0], str):
            name = names[0]
    inner = join(key, name)
    document.lines[inner] = item.start_mark.line + 1
    return inner


def build(cls: type[T], value: Any, key: str = '') -> T:
    """An instance of a dataclass from plain data, each field checked against its type hint.

    Raises:
        ContractError: with the key, for an unknown or missing key, a wrong type, or whatever the
            dataclass itself refuses.
    """
    if not isinstance(value, Mapping):
        raise ContractError(f'is {_describe(value)}; a mapping is needed', key)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for name in value:
        if name not in fields:
            raise ContractError(f'unknown key{suggestion(str(name), fields)}', join(key, str(name)))
    given: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            given[name] = _convert(hints[name], value[name], join(key, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ContractError(f'is missing: {_needed(hints[name])} is needed', join(key, name))
    try:
        return cls(**given)
    except ContractError as error:
        raise ContractError(error.message, join(key, error.key)) from None


def _convert(hint: Any, value: Any, key: str) -> Any:
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, key)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, key)
    wrong = ContractError(f'is {_describe(value)}; {_needed(hint)} is needed', key)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise wrong
        if args[-1] is Ellipsis:
            return tuple(
                _convert(args[0], item, join(key, _name(item, i))) for i, item in enumerate(value)
            )
        if len(value) != len(args):
            raise wrong
        return tuple(
            _convert(a, v, join(key, str(i)))
            for i, (a, v) in enumerate(zip(args, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise wrong
        return {str(k): _convert(args[1], v, join(key, str(k))) for k, v in value.items()}
    if hint is float:
        if isinstance(value, str) and _is_number(value):
            # YAML 1.1 reads 1e-3 as a text: it wants a dot in the mantissa.
            raise ContractError(
                f'is the text {value!r}; a number is needed: write {float(value)!r}', key
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong
        number = float(value)
        if not math.isfinite(number):
            raise ContractError(f'is {number}; a finite number is needed', key)
        return number
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise wrong
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _name(item: Any, index: int) -> str:
    if isinstance(item, Mapping) and isinstance(item.get('name'), str):
        return str(item['name'])
    return str(index)


def _describe(value: Any) -> str:
    if value is None:
        return 'empty'
    if isinstance(value, str):
        return f'the text {value!r}'
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, (int, float)):
        return f'the number {value}'
    if isinstance(value, Mapping):
        return 'a mapping'
    if isinstance(value, Sequence):
        return f'a list of {len(value)}'
    return f'a {type(value).__name__}'


def _needed(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _needed(next(a for a in args if a is not type(None)))
    if origin is tuple:
        return 'a list' if args[-1] is Ellipsis else f'a list of {len(args)} numbers'
    if origin is dict or dataclasses.is_dataclass(hint):
        return 'a mapping'
    return {str: 'text', int: 'a whole number', float: 'a number', bool: 'true or false'}[hint]
