"""Translators by name."""

from __future__ import annotations

from pathlib import Path

from vera_core.checkpoint import CheckpointError, CheckpointInfo, find_checkpoint
from vera_core.contract import Contract
from vera_core.contract_files import checkpoint_folders
from vera_jidm.analytic_translator import AnalyticTranslator
from vera_jidm.direct_translator import DirectTranslator
from vera_jidm.flow import PairFlow
from vera_jidm.translator import JacobianTranslator

SHIPPED = Path(__file__).parent / 'checkpoints'
TRANSLATORS = ('jacobian', 'direct_flow', 'direct_pair', 'analytic')


class UnknownTranslatorError(ValueError):
    """No translator of that name; the message lists those there are."""


def search_path() -> list[Path]:
    """Where translator checkpoints are looked for: the user's folders, then those shipped."""
    return [*checkpoint_folders(), SHIPPED]


def find_translator_checkpoint(contract: Contract, checkpoint: str | None = None) -> CheckpointInfo:
    """The checkpoint of that name or path, or the contract's default.

    Raises:
        CheckpointError: not found, damaged, or not the one the contract pins.
        UnknownTranslatorError: neither a name nor a default.
    """
    ref = checkpoint or contract.defaults.translator_checkpoint
    if ref is None:
        raise UnknownTranslatorError(
            f'the contract of {contract.embodiment!r} names no translator_checkpoint; name one, or '
            'make one with `vera train idm`'
        )
    return find_checkpoint(ref, _folders(ref), kind='idm')


def _folders(ref: object) -> list[Path] | None:
    is_path = isinstance(ref, str) and (ref.endswith('.safetensors') or len(Path(ref).parts) > 1)
    return None if is_path else search_path()


def make_translator(
    name: str,
    contract: Contract,
    checkpoint: str | None = None,
    *,
    mode: str = 'stacked',
    estimator: PairFlow | None = None,
) -> JacobianTranslator | DirectTranslator | AnalyticTranslator:
    """A translator for an embodiment.

    Args:
        name: 'jacobian'; or a baseline, 'direct_flow' or 'direct_pair'; or 'analytic', which takes
            no checkpoint but the contract's `kinematics` and `calibration`.
        contract: says channels, canvas and the default checkpoint.
        checkpoint: name or path; the contract's default if empty.
        mode: 'stacked', or 'paper' for Eq. 6 alone (of a baseline: o_t alone).
        estimator: in place of the one that the checkpoint names; its flow_id must be the same.

    Raises:
        UnknownTranslatorError: no such translator, or no checkpoint named anywhere.
        CheckpointError, FlowError, TranslationError: the checkpoint cannot be used here.
        CalibrationError, UrdfError: the contract does not tell what 'analytic' needs.
    """
    if name not in TRANSLATORS:
        raise UnknownTranslatorError(
            f'no translator {name!r}; there are {", ".join(TRANSLATORS)}'
        )
    if name == 'analytic':
        if checkpoint:
            raise CheckpointError(
                f'the analytic translator takes no checkpoint; leave {checkpoint!r} out'
            )
        return AnalyticTranslator.from_contract(contract, estimator=estimator, mode=mode)
    info = find_translator_checkpoint(contract, checkpoint)
    made_for = info.config.get('translator', 'jacobian')
    if made_for != name:
        raise CheckpointError(
            f'{info.path.name} is of translator {made_for!r}, not {name!r}; choose that translator '
            'or another checkpoint'
        )
    if name != 'jacobian':
        return DirectTranslator.load(info, contract, estimator=estimator, mode=mode)
    return JacobianTranslator.load(info, contract, estimator=estimator, mode=mode)
