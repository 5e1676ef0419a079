"""`vera demo`: the whole graph, goals in words through the ROS service, judged by the truth."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from vera_bringup.demo import (
    Comparison,
    Outcome,
    Task,
    enough,
    make_tasks,
    metrics,
    save_picture,
)
from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import (
    GraphThread,
    Prepared,
    check_domain,
    check_namespace,
    graph_lock,
    prepare,
)
from vera_bringup.node_table import GraphOptions
from vera_bringup.supervisor import Supervisor

if TYPE_CHECKING:
    from vera_bringup.nodes.watcher import Watcher

START_TIMEOUT = 120.0  # s until all nodes are ready: a slow disk, a cold cache
AFTERWARDS = 4.0  # s granted to the planner to notice that the goal is reached


def run(
    embodiment: str,
    options: GraphOptions,
    goals: int,
    timeout: float | None,
    as_json: bool,
    domain: str | None,
    runs: Path,
) -> None:
    """Run the demonstration; CommandError(FAILED) if too few goals were reached."""
    space = check_namespace(options.namespace)
    with graph_lock(check_domain(domain), space, options.part):
        prepared = prepare(embodiment, options, domain, runs, record=True)
        if prepared.contract.sim is None:
            raise CommandError(
                f'embodiment {prepared.contract.embodiment!r} is not simulated; '
                'use `vera up` and `vera goal` with a real robot'
            )
        # SIGTERM ends the demonstration as Ctrl-C does: through every cleanup.
        signal.signal(signal.SIGTERM, _interrupt)
        patience = timeout or prepared.contract.goal.timeout
        report = _perform(prepared, goals, patience, Console())
    if as_json:
        print(json.dumps(report))
    if not report['passed']:
        raise CommandError(
            f'{report["reached"]} of {goals} goals reached; logs and recording are in '
            f'{prepared.run_dir}',
            Exit.FAILED,
        )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _perform(prepared: Prepared, goals: int, timeout: float, console: Console) -> dict[str, Any]:
    from vera_bringup.nodes.watcher import Watcher

    contract, space = prepared.contract, prepared.options.namespace
    tasks = make_tasks(contract, goals, prepared.options.seed)
    begin = time.monotonic()

    def report(source: str, line: str) -> None:
        # Everything is in the logs; the console gets what goes wrong.
        if source in ('vera', 'cockpit') or '[ERROR]' in line or '[FATAL]' in line:
            console.print(f'[{source}] {line}', markup=False, highlight=False)

    supervisor = Supervisor(prepared.table, prepared.environment, prepared.run_dir, report)
    names = ', '.join(spec.name for spec in prepared.table)
    console.print(
        f'starting {names} (ROS domain {prepared.domain}); logs in {prepared.run_dir}/log'
    )
    with (
        GraphThread(supervisor) as graph,
        Watcher(contract, prepared.domain, space, patience=15.0) as watcher,
    ):
        performance = _Performance(watcher, graph, console, timeout)
        performance.wait_until_ready(prepared)
        started = time.monotonic() - begin
        console.print(f'all nodes are ready after {started:.0f} s')
        outcomes = [performance.perform(task) for task in tasks]
        restarts = sum(supervisor.restarts().values())
        controller = watcher.controller
    performance.save(prepared.run_dir / 'real_beside_imagined.png')
    passed = enough(outcomes, goals)
    result = metrics(
        outcomes,
        [plan.latency for plan in watcher.plans],
        watcher.chunk_latencies,
        {
            'embodiment': contract.embodiment,
            'planner': prepared.options.planner or contract.defaults.planner,
            'passed': passed,
            'restarts': restarts,
            'underruns': controller.underruns if controller else None,
            'start_seconds': round(started, 1),
            'seconds': round(time.monotonic() - begin, 1),
        },
    )
    (prepared.run_dir / 'metrics.json').write_text(json.dumps(result, indent=2) + '\n')
    _print(console, outcomes, prepared.run_dir, passed)
    return result


class _Performance:
    """Sends tasks one after the other and judges each."""

    def __init__(
        self, watcher: Watcher, graph: GraphThread, console: Console, timeout: float
    ) -> None:
        self._watcher = watcher
        self._graph = graph
        self._console = console
        self._timeout = timeout
        self._comparisons: list[Comparison] = []

    def wait_until_ready(self, prepared: Prepared) -> None:
        """Raise CommandError(GRAPH_DOWN) unless every node works within START_TIMEOUT."""
        names = [spec.name for spec in prepared.table if spec.awaited]
        names += prepared.elsewhere
        ready = self._until(lambda: self._watcher.ready(names), START_TIMEOUT)
        if not ready:
            missing = [n for n in names if not self._watcher.ready([n])]
            raise CommandError(
                f'{", ".join(missing)} not ready after {START_TIMEOUT:.0f} s; '
                f'see {prepared.run_dir}/log',
                Exit.GRAPH_DOWN,
            )

    def _until(self, condition: Callable[[], Any], timeout: float) -> bool:
        """As the watcher's; CommandError(GRAPH_DOWN) as soon as the graph has gone down."""
        done = self._watcher.until(lambda: condition() or self._graph.down, timeout)
        if self._graph.down:
            raise CommandError(self._graph.supervisor.failure, Exit.GRAPH_DOWN)
        return done and bool(condition())

    def perform(self, task: Task) -> Outcome:
        """One goal: new scene, words, wait, truth."""
        watcher = self._watcher
        answer = watcher.reset_sim(task.seed)
        since = watcher.now()
        if not answer.success:
            raise CommandError(f'reset_sim refused: {answer.message}', Exit.FAILED)
        if not watcher.wait_for_episode(task.seed, 10.0) or not watcher.wait_for_frames(
            since, 10.0
        ):
            raise CommandError('the simulator is silent after reset_sim', Exit.FAILED)
        begin = time.monotonic()
        goal = watcher.set_goal(task.prompt)
        if not goal.accepted:
            return Outcome(task, False, '', 0.0, 'REFUSED', goal.message, 0)
        self._until(lambda: watcher.dwelled or watcher.goal_ended(goal.goal_id), self._timeout)
        # A goal may be declared reached a moment before the judge's dwell time is over.
        self._until(lambda: watcher.dwelled, 1.5)
        seconds = time.monotonic() - begin
        self._until(lambda: watcher.goal_ended(goal.goal_id), AFTERWARDS)
        if not watcher.goal_ended(goal.goal_id):
            watcher.trigger('cancel_goal')
            self._until(lambda: watcher.goal_ended(goal.goal_id), 2.0)
        self._compare(task, goal.goal_id)
        status = watcher.goal
        outcome = Outcome(
            task=task,
            reached=watcher.dwelled == task.target,
            dwelled=watcher.dwelled,
            seconds=round(seconds, 2),
            status=watcher.goal_state(),
            message=status.message if status else '',
            plans=status.plans if status else 0,
        )
        mark = 'reached' if outcome.reached else 'not reached'
        self._console.print(
            f'goal {task.number}: "{task.prompt}": {mark} after {seconds:.1f} s', highlight=False
        )
        return outcome

    def _compare(self, task: Task, goal_id: int) -> None:
        """Keep the plan of this goal that was followed longest, with what really came of it."""
        watcher = self._watcher
        plans = [plan for plan in watcher.plans if plan.goal_id == goal_id]
        if not plans:
            return
        plan = max(plans, key=lambda p: (watcher.execution(p)[1], p.motion))
        late = watcher.execution(plan)[0] - plan.anchor_stamp
        stamps = (plan.anchor_stamp, *(stamp + late for stamp in plan.frame_stamps))
        self._comparisons.append(
            Comparison(
                title=task.prompt,
                real=[watcher.canvas_at(stamp) for stamp in stamps],
                imagined=[plan.anchor, *plan.frames],
            )
        )

    def save(self, path: Path) -> None:
        """The picture; nothing if no plan was seen."""
        if self._comparisons:
            save_picture(self._comparisons, path)


def _print(console: Console, outcomes: list[Outcome], run_dir: Path, passed: bool) -> None:
    table = Table(title='judged by the simulator, not by the planner')
    for name, justify in (
        ('goal', 'left'),
        ('really reached', 'left'),
        ('seconds', 'right'),
        ('plans', 'right'),
        ('the planner said', 'left'),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for outcome in outcomes:
        reached = '[green]yes[/green]' if outcome.reached else '[red]no[/red]'
        if outcome.dwelled and not outcome.reached:
            reached += f' ({outcome.dwelled})'
        table.add_row(
            outcome.task.prompt,
            reached,
            f'{outcome.seconds:.1f}',
            str(outcome.plans),
            outcome.status,
        )
    console.print(table)
    count = sum(o.reached for o in outcomes)
    verdict = 'passed' if passed else 'not passed'
    console.print(f'{count} of {len(outcomes)} goals really reached: {verdict}')
    with suppress(StopIteration):
        recording = next((run_dir / 'bag').glob('*.mcap'))
        console.print(f'recording {recording} (opens in Foxglove), picture and metrics beside it')
