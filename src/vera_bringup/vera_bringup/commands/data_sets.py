"""`vera export` and `vera import`: recordings and training data for and from other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vera_bringup.bag_reading import BagError
from vera_bringup.exits import CommandError
from vera_bringup.lerobot_export import ExportOptions
from vera_bringup.lerobot_export import export as write
from vera_bringup.lerobot_import import import_dataset


def export(bags: Sequence[Path], out: Path, options: ExportOptions) -> None:
    """Write a LeRobot data set; CommandError says what is wrong."""
    try:
        report = write(bags, out, options)
    except (BagError, ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(f'{report.text()}: {out}')


def import_data_set(
    source: Path,
    embodiment: str,
    out: Path,
    cameras: Sequence[str],
    joints: Sequence[str],
    licence: str,
) -> None:
    """Write episode files; CommandError says what is wrong."""
    from vera_core.contract import load_contract

    try:
        report = import_dataset(
            source,
            load_contract(embodiment),
            out,
            cameras=_pairs(cameras, '--camera'),
            joints=_pairs(joints, '--joint'),
            licence=licence,
        )
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(f'{report.text()}: {out}')


def _pairs(words: Sequence[str], option: str) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition('=')
        if not (name and equals and value):
            raise CommandError(f'{option} {word!r}: write NAME=VALUE')
        found[name] = value
    return found
