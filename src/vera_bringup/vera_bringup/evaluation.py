"""`vera eval` without ROS: many episodes in lock-step, on one or several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vera_core.contract import load_contract

if TYPE_CHECKING:
    from pathlib import Path

    from vera_bringup.lockstep import LockstepLoop
    from vera_bringup.statistics import EpisodeResult
    from vera_core.contract import Contract

RANDOM = 'random'


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate.

    Attributes:
        planner: compact, oracle, or 'random' for self-play actions; '' for the contract's.
        mode: of the translator: 'stacked', or 'paper' for plain Eq. 6.
        joints: of the simulated finger, if not the contract's.
        held_out: phrasings that training never saw.
        frames: frame periods after which an episode counts as not reached.
        jobs: processes; the result does not depend on it.
        keep: keep chunks and commands of every episode.
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
    frames: int = 60
    jobs: int = 1
    keep: bool = False


def evaluation_contract(embodiment: str | Path, joints: int | None = None) -> Contract:
    """The contract of an embodiment, with another number of joints if asked for.

    Raises:
        ContractError: it cannot be used.
        ValueError: this embodiment's joints are fixed.
    """
    contract = load_contract(embodiment)
    if joints is None:
        return contract
    from vera_bringup.selfplay import contract_with_joints

    return contract_with_joints(contract, joints)


def make_loop(contract: Contract, options: EvaluationOptions) -> LockstepLoop:
    """The loop with its organs loaded.

    Raises:
        ValueError: an unknown organ, or a checkpoint that is missing or does not fit.
    """
    from vera_bringup.lockstep import LockstepLoop

    name = options.planner or contract.defaults.planner
    if name == RANDOM:
        return LockstepLoop(contract, None, None, options.seed, options.keep)
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
    return LockstepLoop(contract, planner, translator, options.seed, options.keep)


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
        yield loop.run(index, seed, options.held_out, options.frames)


_WORKER: list[tuple[LockstepLoop, EvaluationOptions]] = []


def _load(contract: Contract, options: EvaluationOptions) -> None:
    _WORKER[:] = [(make_loop(contract, options), options)]


def _one(index: int) -> EpisodeResult:
    loop, options = _WORKER[0]
    return next(iter(_episodes(loop, options, [index])))
