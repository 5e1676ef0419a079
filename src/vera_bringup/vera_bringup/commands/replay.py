"""`vera replay`: a bag onto a graph, into organs started for it, or checked without one."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vera_bringup.bag_reading import Bag, BagError, Raw
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import check_domain, check_namespace
from vera_bringup.node_table import NodeSpec, Parameter
from vera_bringup.replaying import ReplayOptions, timed

if TYPE_CHECKING:
    from vera_bringup.nodes.replay_node import ReplayNode
    from vera_core.contract import Contract

DISCOVERY = 1.5  # s for subscriptions that are there to find the publishers
START_TIMEOUT = 120.0  # s until started nodes work
CHUNK_TIMEOUT = 20.0  # s for the chunk of a plan
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
    try:
        with Bag(path) as bag, _Sender(bag, options, target, clock) as sender:
            print(f'{bag.seconds:.1f} s, {len(options.chosen(bag))} topics; Ctrl-C ends it')
            sender.spin(DISCOVERY)
            for raw in timed(bag, options, time.monotonic, sender.spin):
                sender.node.send(raw)
            sender.spin(0.5)  # a best-effort writer that closes at once takes its last ones along
            sent = sender.node.sent
    except BagError as error:
        raise CommandError(str(error)) from error
    print(f'{sum(sent.values())} messages of {len(sent)} topics sent')


class _Sender:
    """A replay node on a domain, until a signal says stop."""

    def __init__(self, bag: Bag, options: ReplayOptions, target: Target, clock: bool) -> None:
        self._bag, self._options, self._clock = bag, options, clock
        self._domain = check_domain(target.domain)
        self._namespace = check_namespace(target.namespace or bag.notes.namespace)
        self._ended = threading.Event()
        self.node: ReplayNode

    def __enter__(self) -> _Sender:
        from vera_bringup.environment import enter

        enter(self._domain)
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        from vera_bringup import jpeg
        from vera_bringup.bag_reading import Topic
        from vera_bringup.nodes.replay_node import ReplayNode

        topics = []
        for name in self._options.chosen(self._bag):
            topic = self._bag.topics[name]
            if topic.type_name == jpeg.COMPRESSED and name.endswith(jpeg.SUFFIX):
                bare = name.removesuffix(jpeg.SUFFIX)
                topic = Topic(bare, jpeg.IMAGE, topic.count, topic.qos)
            topics.append(topic)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)
        rclpy.init(domain_id=self._domain, signal_handler_options=SignalHandlerOptions.NO)
        self.node = ReplayNode(self._clock, namespace=self._namespace)
        self.node.offer(topics)
        for name, kind in self.node.unknown.items():
            print(f'left out: {name}, {kind} is not installed here')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        return self

    def __exit__(self, *_: object) -> None:
        import rclpy

        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ended.set()

    def spin(self, seconds: float) -> bool:
        """Handle what comes for so long; False if it is to end."""
        end = time.monotonic() + seconds
        while not self._ended.is_set() and (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))
        return not self._ended.is_set()


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
    from vera_bringup.supervisor import Supervisor

    wrong = [organ for organ in organs if organ not in ORGANS]
    if wrong or not organs:
        raise CommandError(f'--into takes {", ".join(ORGANS)}, not {", ".join(wrong) or "nothing"}')
    try:
        with Bag(path) as bag:
            contract = replay_check.contract_of(bag, target.embodiment)
            space = check_namespace(target.namespace or bag.notes.namespace)
            domain = check_domain(target.domain)
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
                sender = _Sender(bag, chosen, target, clock=False)
                with GraphThread(supervisor) as graph, sender:
                    feeder = _Feeder(bag, sender, space, organs, graph)
                    report = feeder.feed(chosen)
    except (BagError, ValueError) as error:
        raise CommandError(str(error)) from error
    print(f'{report["text"]}; logs are in {run_dir}/log')
    if as_json:
        print(json.dumps(report))
    if report['different']:
        raise CommandError(f'{report["different"]} chunks differ', Exit.FAILED)
    if not report['chunks']:
        raise CommandError('no chunk came', Exit.FAILED)


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


class _Feeder:
    """Sends the inputs of the organs, gives the recorded goals, and collects the chunks."""

    def __init__(
        self, bag: Bag, sender: _Sender, space: str, organs: tuple[str, ...], graph: Any
    ) -> None:
        from vera_core.nodes.qos import CHUNK
        from vera_msgs.msg import ActionChunk
        from vera_msgs.srv import SetGoal

        self._bag, self._sender, self._graph, self._space = bag, sender, graph, space
        self._organs = organs
        self._chunks: list[Any] = []
        node = sender.node
        node.create_subscription(ActionChunk, 'action_chunk', self._chunks.append, CHUNK)
        self._goals = [(int(goal['stamp']), goal['prompt']) for goal in bag.notes.goals]
        self._client = node.create_client(SetGoal, 'set_goal') if 'planner' in organs else None

    def feed(self, options: ReplayOptions) -> dict[str, Any]:
        """All of it; see `into`."""
        from vera_bringup.replay_check import CheckReport, chunk_of, compare, recorded_chunks

        recorded = recorded_chunks(self._bag, f'/{self._space}/action_chunk')
        self._await_organs()
        alone = self._organs == ('translator',)
        for raw in timed(self._bag, options, time.monotonic, self._sender.spin):
            if self._client is not None:
                self._give_goals(raw.logged)
            before = len(self._chunks)
            self._sender.node.send(raw)
            if alone and raw.topic.endswith('/visual_plan') and self._is_executed(raw, recorded):
                # Plan by plan: one that is not waited for would be superseded by the next.
                self._until(lambda n=before: len(self._chunks) > n, CHUNK_TIMEOUT)
        self._sender.spin(1.0)
        came = [chunk_of(message) for message in self._chunks]
        report: dict[str, Any] = {'chunks': len(came), 'different': 0, 'identical': 0}
        if not alone:
            return {**report, 'text': f'{len(came)} chunks of planner and translator came'}
        found = CheckReport()
        for chunk in came:
            key = (chunk.goal_id, chunk.plan_seq, chunk.stamp)
            for other in recorded.get(key, [])[:1]:
                compare(chunk, other, key, found)
        report |= {'identical': found.identical, 'different': len(found.different)}
        return {**report, 'text': f'live: {found.text()}'}

    def _is_executed(self, raw: Raw, recorded: dict[Any, Any]) -> bool:
        from vera_core.clocks import to_ns

        plan = self._bag.decode(raw)
        return (int(plan.goal_id), int(plan.plan_seq), to_ns(plan.header.stamp)) in recorded

    def _await_organs(self) -> None:
        from vera_bringup.nodes.probe import ready

        names, node = list(self._organs), self._sender.node
        good = self._until(lambda: all(ready(node, self._space, n) for n in names), START_TIMEOUT)
        if not good:
            raise CommandError(f'{", ".join(names)} do not start', Exit.GRAPH_DOWN)
        self._sender.spin(DISCOVERY)

    def _until(self, condition: Any, timeout: float) -> bool:
        end = time.monotonic() + timeout
        while not condition():
            if self._graph.down or time.monotonic() > end or not self._sender.spin(0.05):
                return False
        return True

    def _give_goals(self, now: int) -> None:
        from vera_msgs.srv import SetGoal

        while self._goals and self._goals[0][0] <= now and self._client is not None:
            _, prompt = self._goals.pop(0)
            self._client.call_async(SetGoal.Request(prompt=prompt))
