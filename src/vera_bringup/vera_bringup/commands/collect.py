"""`vera collect`: self-play of a simulator, of the live graph, or out of a recording."""

from __future__ import annotations

import logging
import math
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_bringup.exits import CommandError, Exit

if TYPE_CHECKING:
    from vera_bringup.graph import Prepared
    from vera_bringup.selfplay_motion import RandomWalk, ToolWalk
    from vera_core.contract import Contract
    from vera_jidm.episodes_import import ImportReport

START_TIMEOUT = 120.0  # s until all nodes are ready
# A live scene lasts so long [s], in simulation; then another one begins.
SCENE_S = 20.0
# Motion recorded beyond what the transitions need: some pairs are left out.
SPARE = 1.25
ATTEMPTS = 4
WITHOUT = ('planner', 'translator')


@dataclass(frozen=True)
class CollectOptions:
    """What to collect. None: the default of its source.

    Attributes:
        transitions: how many.
        seed: of scenes and motions.
        max_delta: largest change of a joint in one frame period [rad or m].
        span: joints stay within +-span: of zero in the simulator, of the home pose live.
        joints, frames, discs: of the simulated finger, see vera_bringup.selfplay.Play.
        analytic: the simulator's own flow, too.
        every: seconds between the beginnings of live transitions.
        licence: of recorded data.
    """

    transitions: int
    seed: int = 0
    max_delta: float | None = None
    span: float | None = None
    joints: int | None = None
    frames: int | None = None
    discs: int | None = None
    analytic: bool = True
    every: float | None = None
    licence: str = ''


# What only one source of data understands.
ONLY_SIMULATED = ('joints', 'frames', 'discs')
ONLY_RECORDED = ('every', 'licence')


def run(
    embodiment: str,
    out: Path,
    options: CollectOptions,
    is_live: bool,
    bag: Path | None,
    domain: str | None,
    namespace: str,
    runs: Path,
    yes: bool,
) -> None:
    """Collect from the source that was asked for; CommandError says what is wrong."""
    if is_live and bag is not None:
        raise CommandError('--live makes a recording and --from reads one; choose')
    foreign = ONLY_SIMULATED if is_live or bag is not None else ONLY_RECORDED
    wrong = [name for name in foreign if getattr(options, name) not in (None, '')]
    if wrong:
        where = 'the simulator alone' if foreign is ONLY_SIMULATED else '--live and --from'
        raise CommandError(f'--{wrong[0]} is for {where}')
    if is_live:
        live(embodiment, out, options, domain=domain, namespace=namespace, runs=runs, yes=yes)
    elif bag is not None:
        recorded(embodiment, out, options, bag, namespace)
    else:
        simulated(embodiment, out, options)


def simulated(embodiment: str, out: Path, options: CollectOptions) -> None:
    """Self-play of the simulator alone, as fast as it goes."""
    from vera_bringup import selfplay
    from vera_bringup.evaluation import evaluation_contract

    logging.basicConfig(level=logging.INFO, format='%(message)s')
    given = {k: getattr(options, k) for k in ('max_delta', 'frames')}
    given = {k: v for k, v in given.items() if v is not None}
    try:
        contract = evaluation_contract(embodiment, options.joints)
        written = selfplay.collect(
            contract,
            out,
            options.transitions,
            options.seed,
            span=options.span,
            discs=options.discs,
            analytic=options.analytic,
            **given,
        )
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(f'{written} transitions written now; {options.transitions} are in {out}')
    _tell_coverage(out, contract)


def recorded(
    embodiment: str, out: Path, options: CollectOptions, bag: Path, namespace: str
) -> None:
    """Transitions out of a recording of the graph."""
    from vera_core.contract import load_contract

    try:
        contract = load_contract(embodiment)
    except ValueError as error:
        raise CommandError(str(error)) from error
    from vera_bringup.bag_rewriting import readable

    space = f'/{namespace.strip("/")}' if namespace.strip('/') else ''
    topics = [f'{space}/{camera.topic}' for camera in contract.cameras]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with readable(bag, [*topics, f'{space}/joint_states'], out) as plain:
            print(_import(contract, out, options, plain, namespace, {}).text())
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    _tell_coverage(out, contract)


def _tell_coverage(out: Path, contract: Contract) -> None:
    from vera_bringup.coverage import coverage_of

    print(coverage_of(out, contract).text())


def live(
    embodiment: str,
    out: Path,
    options: CollectOptions,
    *,
    domain: str | None,
    namespace: str,
    runs: Path,
    yes: bool,
) -> None:
    """Start the robot, move it at random through its controller, record, extract."""
    from vera_bringup.graph import (
        check_domain,
        check_namespace,
        graph_lock,
        has_simulation,
        prepare,
    )
    from vera_bringup.node_table import GraphOptions
    from vera_jidm.episodes_import import NoTransitionsError

    space = check_namespace(namespace)
    fake = has_simulation(embodiment)  # what moves a real robot asks for --yes below
    chosen = GraphOptions(space, seed=options.seed, tf='off', use_fake_hardware=fake)
    walk: RandomWalk | ToolWalk | None = None
    # What is there counts, and what comes is other motion.
    done = before = _already(out)
    if done >= options.transitions:
        print(f'{out} already holds {done} transitions')
        return
    with graph_lock(check_domain(domain), space):
        # A loaded machine loses frames: what is missing in the end is played again.
        for attempt in range(ATTEMPTS):
            prepared = prepare(embodiment, chosen, domain, runs, record=True)
            contract = prepared.contract
            if contract.sim is None and not yes:
                raise CommandError(
                    f'this moves {contract.embodiment} at random within its limits: clear its '
                    'surroundings, keep the emergency stop within reach, choose --span, add --yes'
                )
            walk = walk or _walk(contract, options, before)
            signal.signal(signal.SIGTERM, _interrupt)
            left = options.transitions - done
            interrupted = False
            try:
                _play(prepared, walk, replace(options, transitions=left), before + attempt)
            except KeyboardInterrupt:
                print('interrupted; what was played is kept', flush=True)
                interrupted = True
            recipe = {
                'max_delta': walk.reach.tolist(),
                'span': options.span,
                'every': options.every,
            }
            bag = prepared.run_dir / 'bag'
            wanted = replace(options, transitions=left)
            report: ImportReport | None
            try:
                report = _import(contract, out, wanted, bag, space, {'recipe': recipe})
            except NoTransitionsError as error:
                print(error, flush=True)
                report = None
            if report is not None:
                print(f'{report.text()}; recording and logs are in {prepared.run_dir}', flush=True)
                done += report.transitions
            if interrupted:
                raise CommandError(
                    f'{done} of {options.transitions} transitions; the same command goes on',
                    Exit.INTERRUPTED,
                )
            if done >= options.transitions:
                _tell_coverage(out, contract)
                return
    raise CommandError(
        f'{done} of {options.transitions} transitions; the same command goes on', Exit.FAILED
    )


def _already(out: Path) -> int:
    from vera_jidm.episodes import read_info

    try:
        return sum(read_info(path).count for path in sorted(out.glob('*.mcap')))
    except ValueError as error:
        raise CommandError(str(error)) from error


def _walk(contract: Contract, options: CollectOptions, before: int) -> RandomWalk | ToolWalk:
    from vera_bringup.selfplay_motion import random_walk

    rng = np.random.default_rng([options.seed, before] if before else options.seed)
    try:
        return random_walk(contract, rng, options.max_delta, options.span)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _play(
    prepared: Prepared, walk: RandomWalk | ToolWalk, options: CollectOptions, attempt: int
) -> None:
    from vera_bringup.graph import GraphThread
    from vera_bringup.nodes.selfplay_client import SelfPlayer
    from vera_bringup.supervisor import Supervisor
    from vera_core.seeds import mix

    def say(source: str, line: str) -> None:
        if source == 'vera' or '[ERROR]' in line or '[FATAL]' in line:
            print(f'[{source}] {line}', flush=True)

    contract = prepared.contract
    table = tuple(spec for spec in prepared.table if spec.name not in WITHOUT)
    prepared = replace(prepared, table=table)
    names = [spec.name for spec in table]
    print(f'starting {", ".join(names)} (ROS domain {prepared.domain})', flush=True)
    every = options.every or contract.video.frame_period
    left = SPARE * options.transitions * every + contract.video.frame_period
    supervisor = Supervisor(table, prepared.environment, prepared.run_dir, say)
    with (
        GraphThread(supervisor) as graph,
        SelfPlayer(contract, prepared.domain, prepared.options.namespace, 15.0) as player,
    ):
        up = player.until(lambda: player.ready(names) or graph.down, START_TIMEOUT)
        if not up or graph.down:
            why = supervisor.failure or f'not ready after {START_TIMEOUT:.0f} s'
            raise CommandError(f'{why}; see {prepared.run_dir}/log', Exit.GRAPH_DOWN)
        scenes = math.ceil(left / SCENE_S) if contract.sim is not None else 1
        for scene in range(scenes):
            if contract.sim is not None:
                player.new_episode(mix(options.seed, attempt, scene))
            # One that is not simulated is moved in one go.
            seconds = left / scenes
            print(f'scene {scene + 1} of {scenes}: {seconds:.0f} s', flush=True)
            player.play(walk, seconds)
            if graph.down:
                raise CommandError(supervisor.failure, Exit.GRAPH_DOWN)


def _import(
    contract: Contract,
    out: Path,
    options: CollectOptions,
    bag: Path,
    namespace: str,
    extra: dict[str, Any],
) -> ImportReport:
    from vera_jidm.dataset import ShardFolder
    from vera_jidm.episodes_import import NoTransitionsError, import_recording

    licence = options.licence or ('Apache-2.0, generated' if contract.sim else 'not stated')
    meta = {'seed': options.seed, 'licence': licence, 'simulated': contract.sim is not None}
    try:
        report = import_recording(
            bag,
            contract,
            out,
            namespace=namespace,
            every=options.every,
            most=options.transitions,
            meta={**meta, **extra},
        )
        ShardFolder(out)  # counts once what every training asks for
    except NoTransitionsError:
        raise
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    return report
