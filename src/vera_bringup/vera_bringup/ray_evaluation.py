"""`vera eval --ray`: the episodes on the machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vera_bringup.evaluation import EvaluationOptions, Runner

if TYPE_CHECKING:
    from vera_bringup.statistics import EpisodeResult
    from vera_core.contract import Contract


def evaluate_with_ray(
    contract: Contract, options: EvaluationOptions, indices: Sequence[int]
) -> Iterator[EpisodeResult]:
    """Results as they come, from `options.jobs` actors of one core each.

    Every machine of the cluster needs this installation, at the same version.

    Raises:
        ValueError: Ray is missing or not there, or as `Runner`.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise ValueError(
            '--ray needs Ray on every machine: pip install ray, into this environment'
        ) from None
    try:
        ray.init(
            address=None if options.ray == 'local' else options.ray,
            num_cpus=options.jobs if options.ray == 'local' else None,
            include_dashboard=None if options.ray != 'local' else False,
            log_to_driver=False,
        )
    except Exception as error:  # Ray raises bare ones, too
        raise ValueError(f'no Ray cluster answers at {options.ray!r}: {error}') from error
    try:
        actor: Any = ray.remote(num_cpus=1)(Runner)
        pool = ActorPool([actor.remote(contract, options) for _ in range(options.jobs)])
        yield from pool.map_unordered(lambda runner, index: runner.run.remote(index), indices)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.ActorDiedError as error:
        raise ValueError(
            f'an actor did not start or died; with --out the same command goes on: {error}'
        ) from error
    finally:
        ray.shutdown()
