"""`vera bench remote`: what a plan costs more when it is made by a server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_bringup.exits import CommandError, Exit

if TYPE_CHECKING:
    from vera_core.contract import Contract
    from vera_core.seams import Image, Plan, VideoPlanner

PROMPT = 'touch the red disc'
# A canvas of Wan's size, its context of 9 frames and 12 imagined ones: 11 MB there, 14 MB back.
LARGE = {'canvas': {'height': 480, 'width': 832}, 'video': {'context': 9, 'look_ahead': 12}}


def run(embodiment: str, checkpoint: str, repeats: int, threads: int, as_json: bool) -> None:
    """Time plans made here and by a server process on this machine, in turn, and the wire alone."""
    from vera_core.contract import load_contract
    from vera_planner.registry import make_planner

    try:
        contract = load_contract(embodiment)
        local = make_planner('compact', contract, checkpoint=checkpoint or None, threads=threads)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    server, url = _serve(embodiment, checkpoint, threads)
    try:
        remote = make_planner('remote', contract, checkpoint=url)
        ways = {'here': local, 'server': remote}
        times = _measure(ways, contract, repeats)
    finally:
        server.terminate()
        server.wait()
    rows = [_row(f'compact, {way}', times[way]) for way in ways]
    rows.append(_row('compact, more', times['server'] - times['here']))
    for name, one in (('small', contract), ('large', load_contract(embodiment, LARGE))):
        canvas, video = one.canvas, one.video
        size = f'{canvas.width} x {canvas.height}'
        frames = f'{video.context} + {video.look_ahead} frames of {size}'
        seconds, cpu = _wire(one, repeats)
        rows.append(_row(f'wire alone, {name}: {frames}', seconds) | {'cpu_ms': 1e3 * cpu})
    for row in rows:
        cpu_ms = f', CPU time of both ends {row["cpu_ms"]:.1f} ms' if 'cpu_ms' in row else ''
        print(f'{row["what"]}: p50 {row["p50_ms"]:.1f} ms, p95 {row["p95_ms"]:.1f} ms{cpu_ms}')
    if as_json:
        print(json.dumps({'repeats': repeats, 'rows': rows}))


class _Echo:
    """Imagines nothing: the newest frame stands still."""

    planner_id, checkpoint_hash = 'echo', ''

    def __init__(self, contract: Contract) -> None:
        self._video = contract.video

    def plan(self, context: Image, prompt: str, **_: Any) -> Plan:
        from vera_core.seams import Plan

        frames = np.repeat(context[-1:], self._video.look_ahead, axis=0)
        return Plan(frames, self._video.frame_period)


def _wire(contract: Contract, repeats: int) -> tuple[np.ndarray[Any, Any], float]:
    """Seconds of each call, and mean CPU seconds of client and server, which are one process."""
    from vera_planner.registry import make_planner
    from vera_planner.remote.server import PlannerServer

    with PlannerServer(_Echo(contract), contract, port=0) as server:
        remote = make_planner('remote', contract, checkpoint=f'ws://127.0.0.1:{server.port}')
        began = time.process_time()
        seconds = _measure({'wire': remote}, contract, repeats)['wire']
        return seconds, (time.process_time() - began) / (repeats + 1)


def _measure(
    ways: dict[str, VideoPlanner], contract: Contract, repeats: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds of each plan, float64 [repeats]; the ways take turns, so that load hits both."""
    canvas = contract.canvas
    shape = (contract.video.context, canvas.height, canvas.width, 3)
    context = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def timed(plan: Callable[..., Any], seed: int) -> float:
        began = time.perf_counter()
        plan(context, PROMPT, seed=seed)
        return time.perf_counter() - began

    for planner in ways.values():
        timed(planner.plan, 0)
    taken = [[timed(planner.plan, k) for planner in ways.values()] for k in range(repeats)]
    return dict(zip(ways, np.array(taken).T, strict=True))


def _row(what: str, seconds: np.ndarray[Any, Any]) -> dict[str, Any]:
    p50, p95 = 1e3 * np.percentile(seconds, [50, 95])
    return {'what': what, 'p50_ms': float(p50), 'p95_ms': float(p95)}


def _serve(embodiment: str, checkpoint: str, threads: int) -> tuple[subprocess.Popen[str], str]:
    """A server process, and its URL."""
    command = [
        *(sys.executable, '-m', 'vera_bringup.cli', 'serve', 'planner', '--planner', 'compact'),
        *('--embodiment', embodiment, '--port', '0', '--threads', str(threads)),
        *(('--checkpoint', checkpoint) if checkpoint else ()),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    said = ''
    for line in process.stdout:
        said += line
        found = re.search(r'ws://[\d.]+:\d+', line)
        if found:
            return process, found.group()
    process.wait()
    raise CommandError(f'the server did not start: {said.strip()}', Exit.FAILED)
