"""A running graph: who is there, who cannot hear whom, and whether clocks agree."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from vera_bringup.doctor.finding import ERROR, OK, WARN, Finding
from vera_core.clock_offset import Offset

PROBE = [sys.executable, '-m', 'vera_bringup.nodes.graph_probe']
SECONDS = 4.0  # of listening
PATIENCE = 40.0  # s
CLOCK_LIMIT = 0.02  # s, as the node `clock` has it
SILENCE = (
    'a reader that asks for more than a writer offers gets nothing, and neither says a word'
)


def listen(
    domain: int, namespace: str, environment: Mapping[str, str], seconds: float = SECONDS
) -> dict[str, Any]:
    """What a process of its own saw of the graph; {'error': why} where ROS does not start."""
    command = [*PROBE, '--namespace', namespace, '--seconds', str(seconds)]
    try:
        ran = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return {'error': f'ROS does not answer on domain {domain} within {PATIENCE:.0f} s'}
    lines = ran.stdout.strip().splitlines()
    if ran.returncode or not lines:
        last = (ran.stderr.strip().splitlines() or ['no message'])[-1]
        return {'error': f'ROS does not start on domain {domain}: {last}'}
    seen: dict[str, Any] = json.loads(lines[-1])
    return seen


def checks(seen: Mapping[str, Any], wanted: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Findings about what `listen` saw.

    Args:
        seen: its answer.
        wanted: nodes without which a graph is of no use.
    """
    why = 'the rest is about a running graph'
    if 'error' in seen:
        yield Finding('graph', ERROR, seen['error'], 'no graph can run like this', 'make setup')
        return
    nodes = sorted(set(seen['nodes']))
    if not nodes:
        yield Finding('graph', OK, 'none runs', why)
    else:
        missing = [name for name in wanted if name not in nodes]
        yield Finding(
            'graph', WARN if missing else OK,
            ', '.join(nodes) + (f'; missing: {", ".join(missing)}' if missing else ''), why,
            'vera up, on every machine of the graph; from elsewhere: --peers HOST' * bool(missing),
        )  # fmt: skip
    twice = sorted({name for name in seen['nodes'] if seen['nodes'].count(name) > 1})
    if twice:
        yield Finding(
            'nodes', ERROR, f'there more than once: {", ".join(twice)}',
            'two graphs in one namespace answer in turn, and two controllers fight',
            'end one of them, or give it another --domain or --namespace',
        )  # fmt: skip
    yield from _topics(seen)
    if seen.get('clock'):
        yield clock(Offset(*seen['clock']))


def _topics(seen: Mapping[str, Any]) -> Iterator[Finding]:
    for pair in seen['mismatches']:
        yield Finding(
            'qos', ERROR,
            f'{pair["topic"]}: {pair["reader"]} does not hear {pair["writer"]}: {pair["reason"]}',
            SILENCE,
            f'give {pair["reader"]} the QoS of {pair["writer"]} '
            f'(ros2 topic info -v {pair["topic"]}; ours are in docs/design.md)',
        )  # fmt: skip
    for topic, types in seen['types'].items():
        yield Finding(
            'types', ERROR, f'{topic} has {" and ".join(types)}', SILENCE,
            'rename one of the two, or update the older machine',
        )  # fmt: skip
    if seen['topics'] and not seen['mismatches'] and not seen['types']:
        text = f'all readers of {seen["topics"]} topics fit their writers'
        yield Finding('qos', OK, text, SILENCE)


def clock(offset: Offset) -> Finding:
    """How far this machine's clock is from the controller's machine's."""
    level = OK if offset.within(CLOCK_LIMIT) else ERROR if offset.beyond(CLOCK_LIMIT) else WARN
    return Finding(
        'clock offset', level, f"this machine's clock is {offset}, the controller's machine",
        f'stamps are compared; more than {1e3 * CLOCK_LIMIT:g} ms is refused',
        '' if level == OK else 'on both machines: sudo apt install chrony; chronyc tracking',
    )  # fmt: skip
