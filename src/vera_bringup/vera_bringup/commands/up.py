"""`vera up`: the whole graph in the foreground."""

from __future__ import annotations

import signal
from pathlib import Path

from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import (
    ReadyLine,
    check_domain,
    check_namespace,
    console_report,
    graph_lock,
    prepare,
)
from vera_bringup.node_table import GraphOptions
from vera_bringup.supervisor import Supervisor


def run(
    embodiment: str,
    options: GraphOptions,
    domain: str | None,
    runs: Path,
    record: bool,
    log_level: str = '',
) -> None:
    """Start, watch, stop; raises CommandError when it could not start or went down by itself."""
    space = check_namespace(options.namespace)
    with graph_lock(check_domain(domain), space, options.part):
        prepared = prepare(embodiment, options, domain, runs, record)
        report = console_report()
        supervisor = Supervisor(
            prepared.table, prepared.environment, prepared.run_dir, report, log_level=log_level
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: supervisor.request_stop())
        where = f'ROS domain {prepared.domain}, namespace /{prepared.options.namespace}'
        names = ', '.join(spec.name for spec in prepared.table)
        print(f'[vera] starting {names} on {where}; logs in {prepared.run_dir}/log', flush=True)
        with ReadyLine(prepared, report):
            good = supervisor.run()
        if not good:
            raise CommandError(supervisor.failure, Exit.GRAPH_DOWN)
        print('[vera] all nodes have ended', flush=True)
