"""`vera eval` without ROS: many episodes, on one or several processes or machines."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vera_bringup.rows import digest
from vera_bringup.timed_loop import Timing
from vera_core.contract import load_contract

if TYPE_CHECKING:
    from pathlib import Path

    from vera_bringup.lockstep import LockstepLoop
    from vera_bringup.statistics import EpisodeResult
    from vera_bringup.timed_loop import TimedLoop
    from vera_core.contract import Contract

RANDOM, EXPERT = 'random', 'expert'
LOCKSTEP = 'lockstep'
# Frame periods of an episode, by simulated environment; VERA allows PushT 200 steps of 0.1 s.
EPISODE_FRAMES = {'finger': 60, 'panda': 120, 'pusht': 200}


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate.

    Attributes:
        planner: compact, oracle, 'random' for self-play actions, or 'expert' for the scripted
            expert's own actions, without pictures; '' for the contract's.
        mode: of the translator: 'stacked', or 'paper' for plain Eq. 6.
        joints: of the simulated finger, if not the contract's.
        held_out: phrasings that training never saw.
        frames: frame periods after which an episode counts as not reached; None: as usual for
            the environment, see EPISODE_FRAMES.
        jobs: processes; the result does not depend on it.
        loop: 'lockstep', where time waits for the planner, or one of timed_loop.MODES.
        latency: of the planner, where time does not wait [s].
        pending: whether planners that can are then told the frames still to be executed.
        judge: whether dreams are compared with what the expert would do.
        film: keep the pictures of every episode.
        ray: address of a Ray cluster, 'local' for one of this machine; '' for none.
        keep: keep chunks and commands of every episode.
        gate: 'on' stops plans that look impossible, 'report' only counts them; 'off'.
        candidates: plans to choose from, each time.
        coverage: share of PushT's goal that counts as success; the contract's if None.
        task: of the Panda's; '' for the contract's.
        colours: of the Panda's cubes: training, held_out or all; '' for the contract's.
        discs: on the finger's table, if not the contract's.
    """

    planner: str = ''
    planner_checkpoint: str = ''
    translator: str = ''
    translator_checkpoint: str = ''
    mode: str = 'stacked'
    episodes: int = 50
    seed: int = 0
    joints: int | None = None
    held_out: bool = False
    frames: int | None = None
    jobs: int = 1
    keep: bool = False
    gate: str = 'off'
    candidates: int = 1
    coverage: float | None = None
    task: str = ''
    colours: str = ''
    discs: int | None = None
    loop: str = LOCKSTEP
    latency: float = 0.0
    pending: bool = False
    judge: bool = True
    film: bool = False
    ray: str = ''


def evaluation_contract(
    embodiment: str | Path,
    joints: int | None = None,
    coverage: float | None = None,
    task: str = '',
    colours: str = '',
    discs: int | None = None,
) -> Contract:
    """The contract of an embodiment, with what was asked for in place of its own.

    Args:
        embodiment: a name or a contract file.
        joints: of the simulated finger.
        coverage: share of the goal that counts as success, 0..1.
        task: of the simulated Panda.
        colours: of its cubes.
        discs: on the simulated finger's table.

    Raises:
        ContractError: it cannot be used.
        ValueError: this embodiment's joints are fixed, or its goal is not one to be covered.
    """
    contract = load_contract(embodiment)
    if joints is not None:
        from vera_bringup.selfplay import contract_with_joints

        contract = contract_with_joints(contract, joints)
    for name, value in (('task', task), ('colours', colours), ('discs', discs)):
        if not value:
            continue
        if contract.sim is None or name not in contract.sim.options:
            raise ValueError(
                f'embodiment {contract.embodiment!r} has no choice of {name}; leave --{name} out'
            )
        contract = _with_option(contract, name, value)
    if coverage is None:
        return contract
    if contract.sim is None or 'success' not in contract.sim.options:
        raise ValueError(
            f'no goal of embodiment {contract.embodiment!r} is to be covered; '
            'leave --coverage out'
        )
    if not 0 < coverage <= 1:
        raise ValueError(f'--coverage is {coverage:g}; it lies above 0 and is at most 1')
    return _with_option(contract, 'success', coverage)


def _with_option(contract: Contract, name: str, value: Any) -> Contract:
    assert contract.sim is not None
    sim = replace(contract.sim, options={**contract.sim.options, name: value})
    changed = replace(contract, sim=sim)
    # Where relative paths start: what `replace` does not take over.
    object.__setattr__(changed, 'folder', contract.folder)
    return changed


def episode_frames(contract: Contract, options: EvaluationOptions) -> int:
    """Frame periods after which an episode counts as not reached."""
    if options.frames is not None:
        return options.frames
    if options.loop != LOCKSTEP:
        # Where the world does not wait for the planner, an episode lasts as long as a goal may.
        return round(contract.goal.timeout / contract.video.frame_period)
    name = contract.sim.environment if contract.sim is not None else ''
    return EPISODE_FRAMES.get(name, 60)


def check(contract: Contract, options: EvaluationOptions) -> None:
    """Refuse options that do not go together.

    Raises:
        ValueError: which ones, and what to do.
    """
    if options.loop == LOCKSTEP:
        if options.latency or options.pending:
            raise ValueError(
                'in lock-step time waits for the planner; choose --loop sync, async or servo for '
                '--planner-latency or --pending'
            )
        return
    Timing(options.loop, options.latency, options.pending)
    if (options.planner or contract.defaults.planner) in (RANDOM, EXPERT):
        raise ValueError(f'--planner {options.planner} makes no plans; leave --loop out')
    if options.gate != 'off' or options.candidates != 1:
        raise ValueError('--gate and --candidates are for --loop lockstep')


class Runner:
    """One loop with its organs loaded; runs any episode.

    Args:
        contract: of a simulated embodiment.
        options: what to evaluate.

    Raises:
        ValueError: an unknown organ, or a checkpoint that is missing or does not fit.
    """

    def __init__(self, contract: Contract, options: EvaluationOptions) -> None:
        check(contract, options)
        self._options = options
        self._frames = episode_frames(contract, options)
        self._loop = make_loop(contract, options)

    def run(self, index: int) -> EpisodeResult:
        """Episode `index`; the same wherever and after whatever it is run."""
        from vera_bringup.lockstep import LockstepLoop, episode_seed

        options, loop = self._options, self._loop
        seed = episode_seed(options.seed, index)
        if isinstance(loop, LockstepLoop):
            return loop.run(index, seed, options.held_out, self._frames)
        timing = Timing(options.loop, options.latency, options.pending)
        return loop.run(
            seed, timing, index=index, held_out=options.held_out, frames=self._frames, whole=True
        )


def make_loop(contract: Contract, options: EvaluationOptions) -> LockstepLoop | TimedLoop:
    """The loop with its organs loaded.

    Raises:
        ValueError: an unknown organ, or a checkpoint that is missing or does not fit.
    """
    from vera_bringup.lockstep import LockstepLoop
    from vera_bringup.timed_loop import TimedLoop

    name = options.planner or contract.defaults.planner
    if name in (RANDOM, EXPERT):
        return LockstepLoop(
            contract, None, None, options.seed, options.keep, expert=name == EXPERT,
            film=options.film,
        )
    from vera_jidm.registry import make_translator
    from vera_planner.planning import warm_up
    from vera_planner.registry import make_planner

    def planner(provider: Any) -> Any:
        made = make_planner(
            name,
            contract,
            checkpoint=options.planner_checkpoint or None,
            provider=provider,
            threads=1 if options.jobs > 1 else None,
        )
        warm_up(made, contract)
        return made

    translator = make_translator(
        options.translator or contract.defaults.translator,
        contract,
        options.translator_checkpoint or None,
        mode=options.mode,
    )
    # What an oracle dreams is what the expert would do.
    judge = options.judge and (name != 'oracle' or options.gate != 'off')
    if options.loop != LOCKSTEP:
        return TimedLoop(contract, planner, translator, options.seed, judge, options.film)
    return LockstepLoop(
        contract, planner, translator, options.seed, options.keep, options.gate,
        options.candidates, judge=judge, film=options.film,
    )


def evaluate(
    contract: Contract, options: EvaluationOptions, indices: Sequence[int] | None = None
) -> Iterator[EpisodeResult]:
    """Results as they come; in the order of the episodes with one process.

    Args:
        contract: of `evaluation_contract`.
        options: what to evaluate.
        indices: of the episodes; all unless given.

    Raises:
        ValueError: before the first episode, as `Runner`; or a process ended by itself.
    """
    wanted = range(options.episodes) if indices is None else indices
    if options.ray:
        from vera_bringup.ray_evaluation import evaluate_with_ray

        yield from evaluate_with_ray(contract, options, wanted)
    elif options.jobs == 1:
        runner = Runner(contract, options)
        yield from map(runner.run, wanted)
    else:
        yield from _with_processes(contract, options, wanted)


def _with_processes(
    contract: Contract, options: EvaluationOptions, indices: Sequence[int]
) -> Iterator[EpisodeResult]:
    # A forked torch may hang; each process loads its own organs once.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(min(options.jobs, max(len(indices), 1)), context) as pool:
        futures = [pool.submit(_one, contract, options, index) for index in indices]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise ValueError(
                'a process of the evaluation was ended, perhaps for want of memory; try fewer '
                '--jobs. With --out the same command goes on where it was'
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_RUNNERS: list[Runner] = []


def _one(contract: Contract, options: EvaluationOptions, index: int) -> EpisodeResult:
    """In a process of its own, which serves one evaluation."""
    if not _RUNNERS:
        _RUNNERS.append(Runner(contract, options))
    return _RUNNERS[0].run(index)


def about(contract: Contract, options: EvaluationOptions, ros: bool = False) -> dict[str, Any]:
    """What the rows depend on: not how many they are, nor how they are made.

    Raises:
        ValueError: a checkpoint is missing or does not fit.
    """
    kept = {
        name: getattr(options, name)
        for name in ('mode', 'seed', 'held_out', 'loop', 'latency', 'pending', 'gate', 'candidates')
    }
    planner = options.planner or contract.defaults.planner
    translator = options.translator or contract.defaults.translator
    moves = planner not in (RANDOM, EXPERT)
    return {
        'embodiment': contract.embodiment,
        'contract': digest(contract.portable_dict()),
        'planner': planner,
        'planner_weights': _planner_weights(contract, planner, options.planner_checkpoint),
        'translator': translator if moves else 'none',
        'translator_weights': (
            _translator_weights(contract, translator, options.translator_checkpoint)
            if moves else ''
        ),
        'frames': episode_frames(contract, options),
        'ros': ros,
        **kept,
    }


def _planner_weights(contract: Contract, name: str, checkpoint: str) -> str:
    if name == 'compact':
        from vera_planner.registry import planner_checkpoint

        ref = checkpoint or contract.defaults.planner_checkpoint
        return planner_checkpoint(ref).short_hash if ref else ''
    return checkpoint


def _translator_weights(contract: Contract, name: str, checkpoint: str) -> str:
    if name == 'analytic':
        return ''
    from vera_jidm.registry import find_translator_checkpoint

    return find_translator_checkpoint(contract, checkpoint or None).short_hash
