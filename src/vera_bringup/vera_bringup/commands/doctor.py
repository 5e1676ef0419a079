"""`vera doctor`: what this machine, the robot and the graph are, why it matters, what cures it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from vera_bringup.doctor import arm, cameras, gpu, graph, host, middleware, realtime, software
from vera_bringup.doctor.finding import ERROR, OK, WARN, Finding
from vera_bringup.environment import graph_environment
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import check_domain, check_namespace
from vera_core.contract import Contract, ContractError, load_contract

COLOURS = {OK: 'green', WARN: 'yellow', ERROR: 'red'}
# Without these a graph does nothing; a simulated robot has no camera nodes, a real one no sim.
NODES = ('controller', 'planner', 'translator')


@dataclass(frozen=True)
class DoctorOptions:
    """What the user said.

    Attributes:
        robot_ip: address of an arm; the contract's if empty.
        domain: of the graph; None: ROS_DOMAIN_ID or 0.
        namespace: of the graph.
        runs: where recordings would go.
    """

    robot_ip: str = ''
    domain: str | None = None
    namespace: str = 'vera'
    runs: Path = Path()


def run(embodiment: str, options: DoctorOptions, as_json: bool) -> None:
    """Print all findings.

    Args:
        embodiment: name or file of a contract; '' looks at the machine and the graph only.
        options: what the user said.
        as_json: one JSON list instead of text.

    Raises:
        CommandError: no such contract or domain; or, after the report, something is in the way.
    """
    contract = None
    if embodiment:
        try:
            contract = load_contract(embodiment)
        except ContractError as error:
            raise CommandError(str(error)) from error
    findings = []
    for finding in examine(contract, options):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    bad = list(dict.fromkeys(finding.check for finding in findings if finding.level == ERROR))
    if bad:
        raise CommandError(f'in the way: {", ".join(bad)}', Exit.FAILED)


def examine(contract: Contract | None, options: DoctorOptions) -> Iterator[Finding]:
    """All findings, in the order in which they are shown; moves nothing.

    Raises:
        CommandError: a domain or namespace that ROS would refuse.
    """
    domain, space = check_domain(options.domain), check_namespace(options.namespace)
    address = options.robot_ip or (contract.robot.address if contract else '')
    yield from software.checks()
    yield from host.checks(options.runs)
    yield from realtime.checks(arm=bool(address))
    yield from gpu.checks(contract.defaults.planner if contract else '')
    yield from cameras.checks(contract, real=bool(address))
    yield from middleware.checks(domain)
    yield from graph.checks(graph.listen(domain, space, graph_environment(domain)), NODES)
    if contract is not None and address:
        yield from arm.checks(contract, address)


def _show(finding: Finding) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f'[{COLOURS[finding.level]}]{finding.level:8}[/] [bold]{finding.check}[/]', end=': '
    )
    console.print(finding.found, markup=False)
    if finding.why:
        console.print(f'         {finding.why}', markup=False, style='dim')
    if finding.cure and finding.level != OK:
        console.print(f'         -> {finding.cure}', markup=False)
