"""`vera record`: every topic of a running graph into an MCAP bag; `vera repair` finishes one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vera_bringup import recording_budget as budget
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import check_domain, check_namespace

CONTRACT_TIMEOUT = 5.0  # s to hear which embodiment runs there


@dataclass(frozen=True)
class RecordOptions:
    """What to record.

    Attributes:
        duration: s; None: until Ctrl-C.
        topics, exclude: regular expressions; empty: all, none.
        jpeg: quality of images as JPEG; 0: as they are.
        compression: of the chunks: none, lz4, zstd.
        embodiment: whose cameras the budget is of; '': the graph's.
    """

    duration: float | None = None
    topics: str = ''
    exclude: str = ''
    jpeg: int = 0
    compression: str = 'lz4'
    embodiment: str = ''


def run(
    out: Path | None,
    options: RecordOptions,
    as_json: bool,
    domain: str | None,
    namespace: str,
    runs: Path,
) -> None:
    """Record until Ctrl-C; CommandError(FAILED) if the recording is not whole."""
    space, number = check_namespace(namespace), check_domain(domain)
    folder = out or _new_folder(runs)
    if folder.exists() and any(folder.iterdir()):
        raise CommandError(f'{folder} is not empty; a recording needs a folder of its own')
    counts = record(folder, options, number, space)
    missing = sum(counts['lost'].values()) + sum(counts['dropped'].values())
    megabytes, seconds = counts['bytes'] / 1e6, max(1e-3, counts['seconds'])
    for what in ('lost', 'dropped'):
        for topic, lost in counts[what].items():
            print(f'{what}: {lost} messages of {topic}')
    print(
        f'{counts["messages"]} messages in {seconds:.1f} s, {megabytes:.1f} MB '
        f'({megabytes / seconds:.1f} MB/s), {missing} missing: {counts["path"]}'
    )
    if as_json:
        print(json.dumps(counts))


def record(folder: Path, options: RecordOptions, domain: int, namespace: str) -> dict[str, Any]:
    """Record in this process until the duration is over or a signal comes; the node's counts.

    Raises:
        CommandError: there is no room, or the recording failed.
    """
    from vera_bringup.nodes.record_session import RecorderError, RecordSession

    chosen = {key: getattr(options, key) for key in ('topics', 'exclude', 'jpeg', 'compression')}
    try:
        with RecordSession(domain, namespace, chosen) as session:
            contract = session.contract(CONTRACT_TIMEOUT)
            if options.embodiment:
                contract = _contract(options.embodiment)
            print(_check(folder, contract, options), flush=True)
            session.begin(folder)
            print(f'recording into {folder}; Ctrl-C ends it', flush=True)
            counts = session.run(options.duration)
    except RecorderError as error:
        raise CommandError(str(error)) from error
    if counts['failure']:
        raise CommandError(f'{counts["failure"]}; {folder}', Exit.FAILED)
    return counts


def _contract(embodiment: str) -> Any:
    from vera_core.contract import load_contract

    try:
        return load_contract(embodiment)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _check(folder: Path, contract: Any, options: RecordOptions) -> str:
    """The sentence of the budget; CommandError if it does not fit."""
    if contract is None:
        rate, what = float(budget.STATES), 'no contract is known here: cameras are not counted; '
    else:
        found = budget.estimate(contract, options.jpeg > 0)
        wanted = re.compile(options.topics or '')
        spared = sum(
            camera.width * camera.height * 3 * camera.rate
            for camera in contract.cameras
            if not wanted.search(camera.topic)
            or (options.exclude and re.search(options.exclude, camera.topic))
        )
        share = budget.JPEG_SHARE if options.jpeg else 1.0
        rate, what = found.rate - spared * share, f'{contract.embodiment}: '
    try:
        return what + budget.check(folder, rate, options.duration)
    except budget.BudgetError as error:
        raise CommandError(str(error)) from error


def _new_folder(runs: Path) -> Path:
    from vera_bringup.graph import new_run_dir

    return new_run_dir(runs) / 'bag'


def repair(folder: Path) -> None:
    """Finish the recording of a recorder that was killed."""
    from vera_bringup.recording_repair import RepairError
    from vera_bringup.recording_repair import repair as finish

    try:
        done = finish(folder)
    except (RepairError, OSError) as error:
        raise CommandError(str(error)) from error
    print(
        f'{done.messages} messages over {done.seconds:.1f} s kept, {done.cut} bytes of an '
        f'unfinished end cut off: {done.path}'
    )
