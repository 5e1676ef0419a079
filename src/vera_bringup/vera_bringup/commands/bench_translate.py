"""`vera bench translate`: the translation of a chunk without network and flow, and its solve."""

from __future__ import annotations

import json

from vera_bringup.exits import CommandError, Exit


def run(size: int, channels: int, steps: int, repeats: int, as_json: bool) -> None:
    """With one thread and with two; CommandError(FAILED) above what is allowed."""
    from vera_jidm.solve_bench import MUST_MS, BenchError, measure_with

    print(f'one chunk of {steps} pairs, {size} x {size} px, {channels} channels, {repeats} times')
    found = []
    for threads in (1, 2):
        try:
            row = measure_with(
                threads, size=size, channels=channels, steps=steps, repeats=repeats
            )
        except BenchError as error:
            raise CommandError(str(error), Exit.FAILED) from error
        found.append(row)
        for part in ('translate', 'solve'):
            print(
                f'{threads} thread(s), {part}: p50 {row[f"{part}_p50_ms"]:.2f} ms, '
                f'p99 {row[f"{part}_p99_ms"]:.2f} ms; CPU time p50 '
                f'{row[f"{part}_cpu_ms"]:.2f} ms, p99 {row[f"{part}_cpu_p99_ms"]:.2f} ms'
            )
        print(f'{threads} thread(s), honesty: {row["honesty_p50_ms"]:.2f} ms a step more')
    if as_json:
        print(json.dumps({'rows': found}))
    slow = [
        f'{part} with {row["threads"]} thread(s): p99 {row[f"{part}_p99_ms"]:.1f} ms, '
        f'allowed {most:g} ms'
        for row in found
        for part, most in MUST_MS.items()
        if row[f'{part}_p99_ms'] > most
    ]
    if slow:
        raise CommandError('; '.join(slow), Exit.FAILED)
