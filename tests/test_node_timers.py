"""Somebody sets the clock back, and every node goes on: no timer waits for the time of day."""

from __future__ import annotations

import ast

import pytest

from source_tree import PYTHON_PACKAGES, ROOT, modules_of


def settable(text: str) -> list[int]:
    """Lines that make a timer of a node without saying which clock; rclpy's own can be set."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == 'create_timer'
        and 'clock' not in {word.arg for word in node.keywords}
    ]


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_timers_run_on_a_clock_that_nobody_sets(package: str) -> None:
    wrong = [
        f'{path.relative_to(ROOT)}:{line}'
        for path in modules_of(package)
        for line in settable(path.read_text())
    ]
    assert not wrong, f'clock=Clock(clock_type=ClockType.STEADY_TIME) is missing: {wrong}'


def test_a_timer_on_the_settable_clock_is_noticed() -> None:
    assert settable('class N:\n def f(self):\n  self.create_timer(1.0, self.g)') == [3]
    assert not settable('n.create_timer(1.0, g, clock=steady)')
