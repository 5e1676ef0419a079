"""`vera collect` and `vera train`: hand over to the packages' own training programs."""

from __future__ import annotations

import importlib
from pathlib import Path

from vera_bringup.exits import CommandError


def train(module: str, arguments: list[str]) -> None:
    """Run `module`.main_train with the rest of the command line; its exit code is ours."""
    program = importlib.import_module(module)
    code = program.main_train(arguments)
    if code:
        raise SystemExit(code)


def collect(embodiment: str, out: Path, transitions: int, joints: int | None, seed: int) -> None:
    """Collect self-play transitions into `out`."""
    from vera_bringup import selfplay
    from vera_bringup.evaluation import contract_with_joints
    from vera_core.contract_reader import ContractError

    try:
        contract = contract_with_joints(embodiment, joints)
    except ContractError as error:
        raise CommandError(str(error)) from error
    selfplay.collect(contract, transitions=transitions, out=out, seed=seed)
