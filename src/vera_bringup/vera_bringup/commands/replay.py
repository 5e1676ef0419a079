"""`vera replay`: a bag onto a graph, into organs started for it, or checked without one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vera_bringup.bag_reading import Bag, BagError
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import check_domain, check_namespace
from vera_bringup.node_table import NodeSpec, Parameter
from vera_bringup.replaying import ReplayOptions, timed

if TYPE_CHECKING:
    from vera_core.contract import Contract

DISCOVERY = 1.5  # s for subscriptions that are there to find the publishers
ORGANS = ('planner', 'translator')
# Parameters of the recorded nodes that say what they compute; the others say where and how.
KEEP = {
    'translator': ('translator', 'checkpoint', 'mode', 'threads', 'gate', 'follow', 'servo_rate'),
    'planner': (
        'planner', 'checkpoint', 'threads', 'steps', 'seed', 'mode', 'gate', 'candidates',
        'horizon', 'pending', 'plan_timeout', 'replan_period',
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Where to: ROS domain and namespace, contract, translator checkpoint; '' as recorded."""

    domain: str | None = None
    namespace: str = ''
    embodiment: str = ''
    checkpoint: str = ''


def check(path: Path, target: Target, as_json: bool) -> None:
    """Make the chunks of a bag again; CommandError(FAILED) if one differs."""
    from vera_bringup import replay_check

    try:
        with Bag(path) as bag:
            contract = replay_check.contract_of(bag, target.embodiment)
            report = replay_check.check(
                bag, contract, namespace=target.namespace, checkpoint=target.checkpoint
            )
    except (BagError, ValueError) as error:
        raise CommandError(str(error)) from error
    print(report.text())
    for line in report.different[:10]:
        print(line)
    if as_json:
        print(json.dumps({**vars(report), 'compared': report.compared}))
    if report.different:
        raise CommandError(
            f'{len(report.different)} chunks differ, by {report.largest:.3g} at most: another '
            'machine or version, or another checkpoint',
            Exit.FAILED,
        )
    if not report.compared:
        raise CommandError('no chunk could be compared', Exit.FAILED)


def run(path: Path, options: ReplayOptions, target: Target, clock: bool) -> None:
    """Send a bag's messages to whoever listens."""
    from vera_bringup.nodes.replayer import Sender

    try:
        with Bag(path) as bag, Sender(bag, options, *_where(bag, target), clock=clock) as sender:
            print(f'{bag.seconds:.1f} s, {len(options.chosen(bag))} topics; Ctrl-C ends it')
            sender.spin(DISCOVERY)
            for raw in timed(bag, options, time.monotonic, sender.spin):
                sender.node.send(raw)
            sender.spin(0.5)  # a best-effort writer that closes at once takes its last ones along
            sent = sender.node.sent
    except BagError as error:
        raise CommandError(str(error)) from error
    print(f'{sum(sent.values())} messages of {len(sent)} topics sent')


def into(
    path: Path,
    organs: tuple[str, ...],
    options: ReplayOptions,
    target: Target,
    runs: Path,
    as_json: bool,
) -> None:
    """Start planner or translator as they were recorded, feed them, look at the chunks.

    With the translator alone its chunks are compared with the recorded ones.

    Raises:
        CommandError: a chunk differs, or something does not start.
    """
    from vera_bringup import replay_check
    from vera_bringup.environment import graph_environment
    from vera_bringup.graph import GraphThread, graph_lock, new_run_dir, require_quiet
    from vera_bringup.nodes.replayer import Feeder, Sender
    from vera_bringup.supervisor import Supervisor

    wrong = [organ for organ in organs if organ not in ORGANS]
    if wrong or not organs:
        raise CommandError(f'--into takes {", ".join(ORGANS)}, not {", ".join(wrong) or "nothing"}')
    try:
        with Bag(path) as bag:
            contract = replay_check.contract_of(bag, target.embodiment)
            domain, space = _where(bag, target)
            topics = _inputs(bag, contract, space, organs)
            chosen = ReplayOptions(
                options.rate, f'^({"|".join(topics)})$', '', options.start, options.end, 1
            )
            with graph_lock(domain, space):
                environment = graph_environment(domain)
                require_quiet(domain, space, environment)
                run_dir = new_run_dir(runs)
                table = _table(bag, contract, space, organs, target, run_dir)
                supervisor = Supervisor(table, environment, run_dir, _say)
                sender = Sender(bag, chosen, domain, space)
                with GraphThread(supervisor) as graph, sender:
                    feeder = Feeder(bag, sender, space, organs, graph)
                    report = feeder.feed(chosen)
    except (BagError, ValueError) as error:
        raise CommandError(str(error)) from error
    print(f'{report["text"]}; logs are in {run_dir}/log')
    if as_json:
        print(json.dumps(report))
    if report['different'] or report['missing']:
        raise CommandError(
            f'{report["different"]} chunks differ, {report["missing"]} did not come', Exit.FAILED
        )
    if not report['chunks']:
        raise CommandError('no chunk came', Exit.FAILED)


def _where(bag: Bag, target: Target) -> tuple[int, str]:
    """ROS domain and namespace."""
    return check_domain(target.domain), check_namespace(target.namespace or bag.notes.namespace)


def _say(source: str, line: str) -> None:
    if source == 'vera' or '[ERROR]' in line or '[FATAL]' in line:
        print(f'[{source}] {line}', flush=True)


def _inputs(bag: Bag, contract: Contract, space: str, organs: tuple[str, ...]) -> list[str]:
    """Names, as in the bag, of what the organs take in and do not make themselves."""
    wanted = [f'/{space}/joint_states']
    needed = []
    if 'planner' in organs:
        needed += [f'/{space}/{camera.topic}' for camera in contract.cameras]
        wanted += [f'/{space}/controller_status']
    else:
        needed += [f'/{space}/visual_plan']
    found = [name for name in wanted if name in bag.topics]
    for name in needed:
        source = bag.image_source(name)
        if source is None:
            raise BagError(f'{bag.path} has no {name}, which {" and ".join(organs)} take in')
        found.append(source)
    return found


def _table(
    bag: Bag,
    contract: Contract,
    space: str,
    organs: tuple[str, ...],
    target: Target,
    run_dir: Path,
) -> list[NodeSpec]:
    """The organs' processes, with the contract and the parameters of the recording."""
    from vera_bringup.recording_notes import contract_text

    file = run_dir / 'contract.yaml'
    file.write_text(contract_text(contract), encoding='utf-8')
    packages = {'planner': 'vera_planner', 'translator': 'vera_jidm'}
    table = []
    for organ in organs:
        said = bag.notes.of_node(organ)
        parameters: dict[str, Parameter] = {'contract': str(file.resolve())}
        parameters |= {key: said[key] for key in KEEP[organ] if key in said}
        if organ == 'translator' and target.checkpoint:
            parameters['checkpoint'] = target.checkpoint
        table.append(NodeSpec(packages[organ], f'{organ}_node', organ, space, parameters))
    return table
