"""`vera eval` without ROS: many episodes in lock-step, on one or several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vera_core.contract import load_contract

if TYPE_CHECKING:
    from pathlib import Path

    from vera_bringup.lockstep import LockstepLoop
    from vera_bringup.statistics import EpisodeResult
    from vera_core.contract import Contract

RANDOM, EXPERT = 'random', 'expert'
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
    name = contract.sim.environment if contract.sim is not None else ''
    return EPISODE_FRAMES.get(name, 60)


def make_loop(contract: Contract, options: EvaluationOptions) -> LockstepLoop:
    """The loop with its organs loaded.

    Raises:
        ValueError: an unknown organ, or a checkpoint that is missing or does not fit.
    """
    from vera_bringup.lockstep import LockstepLoop

    name = options.planner or contract.defaults.planner
    if name in (RANDOM, EXPERT):
        return LockstepLoop(
            contract, None, None, options.seed, options.keep, expert=name == EXPERT
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
    return LockstepLoop(
        contract, planner, translator, options.seed, options.keep, options.gate,
        options.candidates,
    )


def evaluate(contract: Contract, options: EvaluationOptions) -> Iterator[EpisodeResult]:
    """Results as they come; in the order of the episodes with one process.

    Raises:
        ValueError: before the first episode, as `make_loop`.
    """
    indices = range(options.episodes)
    if options.jobs == 1:
        loop = make_loop(contract, options)
        yield from _episodes(loop, options, indices)
        return
    # A forked torch may hang; each process loads its own organs once.
    context = multiprocessing.get_context('spawn')
    with context.Pool(options.jobs, _load, (contract, options)) as pool:
        yield from pool.imap_unordered(_one, indices)


def _episodes(
    loop: LockstepLoop, options: EvaluationOptions, indices: Iterable[int]
) -> Iterator[EpisodeResult]:
    from vera_bringup.lockstep import episode_seed

    for index in indices:
        seed = episode_seed(options.seed, index)
        yield loop.run(index, seed, options.held_out, episode_frames(loop.contract, options))


_WORKER: list[tuple[LockstepLoop, EvaluationOptions]] = []


def _load(contract: Contract, options: EvaluationOptions) -> None:
    _WORKER[:] = [(make_loop(contract, options), options)]


def _one(index: int) -> EpisodeResult:
    loop, options = _WORKER[0]
    return next(iter(_episodes(loop, options, [index])))
