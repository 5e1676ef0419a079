"""Arrows point down only (design.md).

    bringup -> {planner, jidm, controller, drivers, sim} -> core -> msgs

The rooms in the middle do not import each other: they meet in messages, and in vera_bringup. One
exception: environments live in vera_sim, and the sim node that shows one to ROS is a driver's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from source_tree import PACKAGES, PYTHON_PACKAGES, ROOT, imports_of, modules_of, top

MIDDLE = {'vera_planner', 'vera_jidm', 'vera_controller', 'vera_drivers', 'vera_sim'}
BELOW = {
    'vera_msgs': set(),
    'vera_core': {'vera_msgs'},
    **{name: {'vera_core', 'vera_msgs'} for name in MIDDLE},
    'vera_bringup': MIDDLE | {'vera_core', 'vera_msgs'},
}
EXCEPTIONS = {
    ('vera_drivers/nodes/sim_node.py', 'vera_sim'),
    ('vera_drivers/sim_world.py', 'vera_sim'),  # what that node is a thin shell around
}


def offences(package: str, path: Path, root: Path = ROOT) -> list[str]:
    """The imports of a file that point up or sideways."""
    inside = path.relative_to(root / 'src' / package).as_posix()
    return [
        f'{item}: from {package} only {", ".join(sorted(BELOW[package])) or "nothing"} is below'
        for item in imports_of(path, root)
        if top(item.module) in BELOW
        and top(item.module) not in BELOW[package] | {package}
        and (inside, top(item.module)) not in EXCEPTIONS
    ]


def test_every_package_has_its_place() -> None:
    assert set(PACKAGES) == set(BELOW)


@pytest.mark.parametrize('package', PYTHON_PACKAGES)
def test_arrows_point_down(package: str) -> None:
    wrong = [text for path in modules_of(package) for text in offences(package, path)]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(
    ('package', 'file', 'text', 'fine'),
    [
        ('vera_core', 'a.py', 'import vera_msgs.msg', True),
        ('vera_core', 'a.py', 'from vera_sim import finger', False),
        ('vera_core', 'a.py', 'from . import chunk', True),
        ('vera_planner', 'a.py', 'import vera_core.chunk', True),
        ('vera_planner', 'a.py', 'def f():\n    import vera_jidm', False),
        ('vera_sim', 'a.py', 'import vera_bringup', False),
        ('vera_jidm', 'a.py', "__import__('vera_sim')", False),
        ('vera_drivers', 'a.py', 'import vera_sim', False),
        ('vera_drivers', 'nodes/sim_node.py', 'import vera_sim', True),
        ('vera_drivers', 'nodes/sim_node.py', 'import vera_jidm', False),
        ('vera_drivers', 'nodes/camera_node.py', 'import vera_sim', False),
        ('vera_bringup', 'a.py', 'import vera_sim, vera_jidm', True),
    ],
)
def test_the_lint_itself_sees(
    package: str, file: str, text: str, fine: bool, tmp_path: Path
) -> None:
    path = tmp_path / 'src' / package / package / file
    path.parent.mkdir(parents=True)
    path.write_text(text + '\n')
    assert (not offences(package, path, tmp_path)) == fine
