"""`vera bench loop`: prints the rows as they come."""

from __future__ import annotations

import json
import time
from pathlib import Path

from vera_bringup.exits import CommandError
from vera_bringup.loop_bench import LoopBenchOptions, draw, measure

HEAD = (
    f'{"embodiment":<11}{"mode":<7}{"latency":>8}{"success":>9}{"95%":>15}{"moving":>8}'
    f'{"jerk":>8}{"plan age":>14}{"underruns/min":>15}{"idle":>7}'
)


def run(options: LoopBenchOptions, picture: Path | None, as_json: bool) -> None:
    """Measure and print; CommandError if something does not fit."""
    begin = time.perf_counter()
    print(f'{options.episodes} episodes for each row, in simulated time')
    print(HEAD, flush=True)
    rows = []
    try:
        for row in measure(options):
            rows.append(row)
            print(_line(row), flush=True)
    except ValueError as error:
        # Contracts, organs and checkpoints refuse what does not fit with a ValueError in words.
        raise CommandError(str(error)) from error
    print(f'took {time.perf_counter() - begin:.0f} s')
    if picture is not None:
        draw(rows, picture)
        print(f'drawn to {picture}')
    if as_json:
        print(json.dumps({'rows': rows}))


def numbers(text: str, name: str) -> tuple[float, ...]:
    """Numbers of a list with commas; CommandError naming the option."""
    try:
        return tuple(float(part) for part in text.split(','))
    except ValueError:
        raise CommandError(f'{name} is {text!r}; expected numbers, as 0,0.5,2') from None


def words(text: str) -> tuple[str, ...]:
    """Words of a list with commas."""
    return tuple(part.strip() for part in text.split(','))


def _line(row: dict) -> str:
    def show(key: str, form: str) -> str:
        return '-' if row[key] is None else format(row[key], form)

    interval = f'{row["ci_low"]:.0%}-{row["ci_high"]:.0%}'
    ages = f'{show("plan_age_p50", ".2f")}/{show("plan_age_p95", ".2f")} s'
    return (
        f'{row["embodiment"]:<11}{row["mode"]:<7}{row["latency"]:>7g}s{row["success_rate"]:>9.0%}'
        f'{interval:>15}{show("moving_fraction", ".0%"):>8}{show("jerk", ".1f"):>8}{ages:>14}'
        f'{show("underruns_per_minute", ".1f"):>15}{show("idle_fraction", ".0%"):>7}'
    )
