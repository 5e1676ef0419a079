"""Parameters with a description and bounds, and errors that say what to write instead."""

from __future__ import annotations

import math
import sys
from typing import TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

Value = TypeVar('Value', bool, int, float, str, list[str], list[float])

_INT_LIMITS = (-(2**63), 2**63 - 1)


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names it and what it may be."""


def declare(
    node: Node,
    name: str,
    default: Value,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    read_only: bool = True,
) -> Value:
    """Declare a parameter unless it is declared, and return its value.

    Args:
        node: the node.
        name: e.g. 'replan_period'.
        default: also says the type; a list must not be empty.
        description: in words, with the unit in brackets.
        low: least value allowed.
        high: greatest value allowed.
        choices: the texts allowed.
        read_only: False only for what may change while the node runs.

    Raises:
        ParameterError: the value given from outside has another type or is out of bounds.
    """
    if not node.has_parameter(name):
        _accept_whole_numbers(node, name, default)
        descriptor = _descriptor(name, default, description, low, high, choices, read_only)
        try:
            node.declare_parameter(name, default, descriptor)
        except ParameterException as error:
            given = node._parameter_overrides[name].value
            raise ParameterError(
                f'parameter {name} is {given!r}; {_allowed(default, low, high, choices)}'
            ) from error
        if not read_only:
            _watch(node, name, default, low, high, choices)
    value: Value = node.get_parameter(name).value
    if isinstance(default, list):
        value = list(value)
    problem = _problem(value, choices)
    if problem:
        raise ParameterError(f'parameter {name} {problem}')
    return value


def _accept_whole_numbers(node: Node, name: str, default: object) -> None:
    """`-p rate:=100` means 100.0 and `-p source:=0` means '0'; rclpy would refuse both."""
    given = node._parameter_overrides.get(name)
    if given is None or given.type_ != Parameter.Type.INTEGER:
        return
    if isinstance(default, float):
        given = Parameter(name, Parameter.Type.DOUBLE, float(given.value))
    elif isinstance(default, str):
        given = Parameter(name, Parameter.Type.STRING, str(given.value))
    node._parameter_overrides[name] = given


def _descriptor(
    name: str,
    default: object,
    description: str,
    low: float | None,
    high: float | None,
    choices: tuple[str, ...] | None,
    read_only: bool,
) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(name=name, description=description, read_only=read_only)
    if choices is not None:
        descriptor.additional_constraints = f'one of {", ".join(choices)}'
    if low is None and high is None:
        return descriptor
    if isinstance(default, float):
        top = sys.float_info.max
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=float(-top if low is None else low),
                to_value=float(top if high is None else high),
            )
        ]
    elif isinstance(default, int) and not isinstance(default, bool):
        least, most = _INT_LIMITS
        descriptor.integer_range = [
            IntegerRange(
                from_value=int(least if low is None else low),
                to_value=int(most if high is None else high),
                step=1,
            )
        ]
    else:
        raise TypeError(f'parameter {name}: bounds are for numbers')
    return descriptor


def _watch(
    node: Node,
    name: str,
    default: object,
    low: float | None,
    high: float | None,
    choices: tuple[str, ...] | None,
) -> None:
    """Rclpy checks type and range of later changes; choices and NaN are checked here."""

    def check(changed: list[Parameter]) -> SetParametersResult:
        for parameter in changed:
            problem = _problem(parameter.value, choices) if parameter.name == name else ''
            if problem:
                return SetParametersResult(successful=False, reason=f'{name} {problem}')
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def _problem(value: object, choices: tuple[str, ...] | None) -> str:
    if choices is not None and value not in choices:
        return f'is {value!r}; it is one of {", ".join(choices)}'
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        return f'is {value!r}; a finite number is needed'
    return ''


def _allowed(
    default: object, low: float | None, high: float | None, choices: tuple[str, ...] | None
) -> str:
    if choices is not None:
        return f'it is one of {", ".join(choices)}'
    kind = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text'}.get(
        type(default), 'a list'
    )
    bounds = [f'{sign} {b:g}' for sign, b in (('>=', low), ('<=', high)) if b is not None]
    return ' '.join(['it must be', kind, ' and '.join(bounds)]).strip()
