"""`vera eval --ros`: the same episodes through the node graph, in lock-step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from vera_bringup.evaluation import RANDOM, EvaluationOptions, episode_frames
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import (
    GraphThread,
    Prepared,
    check_domain,
    check_namespace,
    graph_lock,
    new_run_dir,
    prepare,
)
from vera_bringup.lockstep import episode_seed, instruction, outcome
from vera_bringup.node_table import GraphOptions
from vera_bringup.statistics import EpisodeResult
from vera_bringup.supervisor import Supervisor
from vera_core.clocks import ns_to_seconds
from vera_drivers.sim_world import (
    EPISODE_GRID_NS,
    covered_progress,
    is_over,
    make_world,
    reached_object,
)
from vera_planner.goal import Goal, GoalState
from vera_sim.finger import DISC_RADIUS

if TYPE_CHECKING:
    from vera_bringup.nodes.lockstep_client import LockstepClient
    from vera_core.contract import Contract
    from vera_msgs.msg import SimStatus

START_TIMEOUT = 120.0  # s until all nodes are ready
STANDSTILL = 60.0  # s without simulated progress: something is wrong


def evaluate_through_ros(
    contract: Contract,
    options: EvaluationOptions,
    domain: str | None,
    namespace: str,
    runs: Path,
    indices: Sequence[int] | None = None,
) -> Iterator[EpisodeResult]:
    """Results as they come.

    Raises:
        CommandError: the graph does not start, goes down, or stands still.
    """
    if options.planner == RANDOM:
        raise CommandError('--planner random needs no planner node; leave --ros out')
    if options.jobs != 1:
        raise CommandError('--ros runs one graph; leave --jobs out')
    graph_options = GraphOptions(
        namespace=namespace,
        planner=options.planner,
        planner_checkpoint=options.planner_checkpoint,
        translator=options.translator,
        translator_checkpoint=options.translator_checkpoint,
        mode=options.mode,
        seed=options.seed,
        lockstep=True,
        gate=options.gate,
        candidates=options.candidates,
        tf='off',
    )
    with graph_lock(check_domain(domain), check_namespace(namespace)):
        # The nodes read the contract as it is here, with the number of joints asked for.
        file = new_run_dir(runs) / f'{contract.embodiment}.yaml'
        file.write_text(yaml.safe_dump(without_none(contract.portable_dict())), encoding='utf-8')
        prepared = prepare(str(file), graph_options, domain, runs, run_dir=file.parent)
        yield from _run(prepared, options, range(options.episodes) if indices is None else indices)


def without_none(value: object) -> object:
    """Plain data without the keys that a contract file leaves out."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_none(v) for v in value]
    return value


def _run(
    prepared: Prepared, options: EvaluationOptions, indices: Sequence[int]
) -> Iterator[EpisodeResult]:
    from vera_bringup.nodes.lockstep_client import LockstepClient

    def report(source: str, line: str) -> None:
        if source == 'vera' or '[ERROR]' in line or '[FATAL]' in line:
            print(f'[{source}] {line}', flush=True)

    supervisor = Supervisor(prepared.table, prepared.environment, prepared.run_dir, report)
    space = prepared.options.namespace
    names = [spec.name for spec in prepared.table]
    with (
        GraphThread(supervisor) as graph,
        LockstepClient(prepared.domain, space, patience=30.0, keep=options.keep) as client,
    ):
        client.until(lambda: client.ready(names) or graph.down, START_TIMEOUT)
        if graph.down or not client.ready(names):
            why = supervisor.failure or f'not ready after {START_TIMEOUT:.0f} s'
            raise CommandError(f'{why}; see {prepared.run_dir}/log', Exit.GRAPH_DOWN)
        for index in indices:
            episode = _RosEpisode(prepared.contract, options, index, client, graph)
            yield episode.run()


class _RosEpisode:
    """One episode through the graph."""

    def __init__(
        self,
        contract: Contract,
        options: EvaluationOptions,
        index: int,
        client: LockstepClient,
        graph: GraphThread,
    ) -> None:
        self.index, self.client, self.graph = index, client, graph
        self.seed = episode_seed(options.seed, index)
        # The scene of this seed, to know the words and what they mean; nothing else uses it.
        world = make_world(contract)
        world.reset(self.seed, 0)
        self.prompt, self.target = instruction(world, self.seed, options.held_out)
        self.start = float(world.env.distances()[world.env.objects.index(self.target)])
        self.success = world.success_coverage
        self.length = episode_frames(contract, options) * contract.video.frame_period_ns

    def run(self) -> EpisodeResult:
        client = self.client
        client.forget()
        answer = client.reset_sim(self.seed)
        if not answer.success:
            raise CommandError(f'reset_sim refused: {answer.message}', Exit.FAILED)
        if not self._until(lambda: client.truth(self.seed) is not None, 10.0):
            raise CommandError('the simulator is silent after reset_sim', Exit.FAILED)
        begin = client.stamp // EPISODE_GRID_NS * EPISODE_GRID_NS
        end = begin + self.length
        goal = client.set_goal(self.prompt)
        if not goal.accepted:
            raise CommandError(f'goal refused: {goal.message}', Exit.FAILED)
        self._wait_for_end(goal.goal_id, end)
        truth = client.deciding_truth(self._over, end)
        status = client.goal
        said = Goal() if status is None else Goal(state=GoalState(status.status))
        if not client.goal_ended(goal.goal_id):
            client.trigger('cancel_goal')
            said = Goal()
        client.settle()
        reached = reached_object(self.success, truth.objects, truth.dwelled, truth.best_coverage)
        return EpisodeResult(
            index=self.index,
            seed=self.seed,
            prompt=self.prompt,
            target=self.target,
            outcome=outcome(reached, self.target, said),
            reached=reached,
            left=float(truth.distances[list(truth.objects).index(self.target)]),
            reason='' if status is None else status.message,
            progress=self._progress(truth),
            coverage=truth.best_coverage,
            duration=ns_to_seconds(min(client.stamp, end) - begin),
            replan_ms=tuple(latency * 1e3 for latency in client.plan_latencies),
            # The last chunk of the episode before may come after its end.
            chunks=tuple((s - begin, values) for s, values in client.chunks if s >= begin),
            commands=np.array(list(client.commands.values())) if client.commands else None,
        )

    def _over(self, truth: SimStatus) -> bool:
        return is_over(self.success, truth.dwelled, truth.best_coverage)

    def _progress(self, truth: SimStatus) -> float:
        """As SimWorld.progress."""
        if self.success is not None:
            return covered_progress(truth.best_coverage)
        if truth.dwelled == self.target:
            return 1.0
        distance = truth.distances[list(truth.objects).index(self.target)]
        left = max(0.0, distance - DISC_RADIUS) / max(self.start - DISC_RADIUS, 1e-9)
        return float(np.clip(1 - left, 0, 1))

    def _until(self, condition: Callable[[], Any], timeout: float) -> bool:
        self.client.until(lambda: condition() or self.graph.down, timeout)
        if self.graph.down:
            raise CommandError(self.graph.supervisor.failure, Exit.GRAPH_DOWN)
        return bool(condition())

    def _wait_for_end(self, goal_id: int, end: int) -> None:
        client = self.client
        last, since = client.stamp, time.monotonic()
        while True:
            if self._until(
                lambda: client.is_now(self._over)
                or client.goal_ended(goal_id)
                or client.stamp >= end,
                1.0,
            ):
                return
            if client.stamp != last:
                last, since = client.stamp, time.monotonic()
            elif time.monotonic() - since > STANDSTILL:
                state = client.controller.reason if client.controller else 'silent'
                raise CommandError(
                    f'the loop stands still at {ns_to_seconds(last):.2f} s for {STANDSTILL:.0f} s; '
                    f'the controller says: {state}',
                    Exit.FAILED,
                )
