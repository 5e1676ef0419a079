"""Estimators by name: 'dis', 'dis_lk', 'farneback', 'raft_small:FILE', 'ptlflow:MODEL:FILE'.

A checkpoint keeps the `flow_id`; `make_flow` takes that too and makes the very same estimator or
says what is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from vera_core.contract import Contract
from vera_jidm.flow.base import ANALYTIC, FlowError, PairFlow
from vera_jidm.flow.opencv import DisFlow, FarnebackFlow, RefinedDisFlow
from vera_jidm.flow.per_view import per_view
from vera_jidm.flow.ptlflow import PtlFlow
from vera_jidm.flow.raft import SIZES, WEIGHTS_VARIABLE, RaftFlow

_Factory = Callable[[str], PairFlow]


def _raft(size: str) -> _Factory:
    def make(weights: str) -> PairFlow:
        return RaftFlow(size, Path(weights).expanduser() if weights else None)

    return make


def _ptlflow(rest: str) -> PairFlow:
    model, _, weights = rest.partition(':')
    if not model or not weights:
        raise FlowError(
            'name model and weights: ptlflow:MODEL:CHECKPOINT, the checkpoint a file or one of '
            'those that ptlflow names for the model'
        )
    return PtlFlow(model, weights)


def _plain(make: Callable[[], PairFlow]) -> _Factory:
    def with_nothing(rest: str) -> PairFlow:
        if rest:
            raise FlowError(f'{make().flow_id.split("-")[0]!r} takes no weights, so no {rest!r}')
        return make()

    return with_nothing


# What comes after the first ':' of a name goes to the factory.
ESTIMATORS: dict[str, _Factory] = {
    'dis': _plain(DisFlow),
    'dis_lk': _plain(RefinedDisFlow),
    'farneback': _plain(FarnebackFlow),
    'raft_small': _raft('small'),
    'raft_large': _raft('large'),
    'ptlflow': _ptlflow,
}
_FROM_ID: dict[str, Callable[[str], PairFlow | None]] = {
    'dis': DisFlow.from_id,
    'dis_lk': RefinedDisFlow.from_id,
    'farneback': FarnebackFlow.from_id,
}
# A checkpoint file of ptlflow, for a flow_id that names one by its hash.
_PTLFLOW_WEIGHTS = 'VERA_PTLFLOW_WEIGHTS'
_PACKAGES = {'raft_small': 'torchvision', 'raft_large': 'torchvision', 'ptlflow': 'ptlflow'}


def estimators() -> dict[str, str]:
    """Name of each estimator -> the package that it still needs, '' if it can run."""
    return {
        name: '' if name not in _PACKAGES or find_spec(_PACKAGES[name]) else _PACKAGES[name]
        for name in ESTIMATORS
    }


def ready_estimators() -> list[str]:
    """Names that `make_flow` can be expected to take: nothing missing, no download.

    RAFT is among them where torchvision is installed and VERA_RAFT_WEIGHTS names weights; ptlflow
    is not, because its name says which model.
    """
    names = [name for name in ESTIMATORS if name not in _PACKAGES]
    for size in SIZES if os.environ.get(WEIGHTS_VARIABLE) else ():
        try:
            RaftFlow(size)
        except FlowError:
            continue
        names.append(f'raft_{size}')
    return names


def make_flow(name: str, contract: Contract | None = None) -> PairFlow:
    """An estimator by its name or by a checkpoint's `flow_id`.

    Args:
        name: a key of ESTIMATORS, for learned ones with ':weights', or a flow_id.
        contract: if given, flow keeps to the views of its canvas.

    Raises:
        FlowError: unknown, analytic (known only to a simulator), or what it needs is missing.
        ViewError: the contract's views make no sense for flow.
    """
    flow = _make(name)
    return flow if contract is None else per_view(flow, contract)


def _make(name: str) -> PairFlow:
    if name == ANALYTIC:
        raise FlowError(
            'analytic flow is known only to a simulator and cannot be estimated from images; '
            'use a checkpoint trained on dis or farneback flow'
        )
    spec, colon, rest = name.partition(':')
    kind = spec if colon else name.split('-')[0]
    factory = ESTIMATORS.get(kind)
    if factory is None:
        raise FlowError(f'no flow estimator {name!r}; there are {", ".join(ESTIMATORS)}')
    if colon or name == kind:
        return factory(rest)
    flow = _FROM_ID[kind](name) if kind in _FROM_ID else _learned(kind, name)
    if flow is None or flow.flow_id != name:
        raise FlowError(
            f'flow {name!r} is asked for, this version has '
            f'{flow.flow_id if flow else kind!r}'
        )
    return flow


def _learned(kind: str, flow_id: str) -> PairFlow:
    """The estimator of that id; its weights are looked for as if only its name were given."""
    parts = flow_id.split('-')
    if kind == 'ptlflow' and len(parts) == 4:
        # The id holds the name of weights that ptlflow knows; of a file only the hash.
        weights = os.environ.get(_PTLFLOW_WEIGHTS) or parts[3]
        if re.fullmatch('[0-9a-f]{8}', weights):
            raise FlowError(
                f'flow {flow_id!r} is asked for; say where its weights are: {_PTLFLOW_WEIGHTS}=FILE'
            )
        return _ptlflow(f'{parts[1]}:{weights}')
    return ESTIMATORS[kind]('')
