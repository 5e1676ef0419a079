"""Simulated embodiments behind the Environment seam. Named as simulations wherever they appear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vera_sim.finger import DwellJudge, FingerEnv
from vera_sim.language import Instruction


def _pusht(**options: Any) -> Any:
    try:
        from vera_sim.pusht import PushTEnv
    except ModuleNotFoundError as error:
        if error.name != 'pymunk':
            raise
        raise ValueError('PushT needs pymunk; run: pip install "pymunk>=6.11.1,<7"') from error
    return PushTEnv(**options)


def _panda(**options: Any) -> Any:
    from vera_sim.panda import PandaEnv

    return PandaEnv(**options)


ENVIRONMENTS: dict[str, Callable[..., Any]] = {
    'finger': FingerEnv, 'panda': _panda, 'pusht': _pusht,
}


def make_environment(name: str, options: dict[str, Any], size: int) -> Any:
    """The environment called `name`, with the contract's sim options, pictured size x size.

    Raises:
        ValueError: an unknown environment; the message lists the known ones.
    """
    if name not in ENVIRONMENTS:
        known = ', '.join(sorted(ENVIRONMENTS))
        raise ValueError(f'unknown simulated environment {name!r}; known: {known}')
    return ENVIRONMENTS[name](size=size, **options)


__all__ = ['ENVIRONMENTS', 'DwellJudge', 'FingerEnv', 'Instruction', 'make_environment']
