"""The verdict about a plan, and where the thresholds of each planner and translator are kept.

`<embodiment>.gate.json` lies beside the contract and has an entry for each pair of planner and
translator that was measured; both are named by their weights. Without an entry for the weights in
use nothing is rejected: a threshold of another planner means nothing.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vera_core.checkpoint import write_atomic
from vera_core.contract_files import embodiment_folders
from vera_core.normal import Normal

FORMAT = 1
# on: a rejected plan is not executed; report: it is, and what speaks against it is told; off: no
# plan is judged.
MODES = ('on', 'report', 'off')
_LOG = logging.getLogger(__name__)
_KEYS = ('planner', 'planner_hash', 'translator', 'translator_hash')


class GateError(ValueError):
    """An unknown mode, or thresholds that cannot be read; the message says why and what to do."""


def check_mode(mode: str) -> str:
    """One of MODES; raises GateError for anything else."""
    if mode not in MODES:
        raise GateError(f'no gate {mode!r}; there are {", ".join(MODES)}')
    return mode


class PlanRejectedError(RuntimeError):
    """A plan that must not be executed; the message says why.

    Attributes:
        verdict: of the judge.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


@dataclass(frozen=True)
class Verdict:
    """Whether one of the candidates for a plan may be executed.

    Attributes:
        accepted: True also where nothing is known about the planner.
        reason: in words, what speaks against the chosen one; '' if nothing does.
        chosen: the candidate that looks best.
        scores: of each candidate, smaller is better; empty without a calibration.
        threshold: of the scores; inf without a calibration.
        signal: what made the score of the chosen one.
    """

    accepted: bool = True
    reason: str = ''
    chosen: int = 0
    scores: tuple[float, ...] = ()
    threshold: float = math.inf
    signal: str = ''


def judge(
    normal: Normal | None,
    candidates: Sequence[Mapping[str, float]],
    words: Mapping[str, str],
    *,
    enforce: bool = True,
) -> Verdict:
    """Choose the best of the candidates and say whether it is good enough.

    Args:
        normal: of the planner; None accepts the first candidate.
        candidates: signals of each.
        words: what a large value of each signal means.
        enforce: False accepts every plan, and still says what speaks against it.
    """
    if normal is None or not candidates:
        return Verdict()
    found = [normal.score(signals) for signals in candidates]
    chosen = min(range(len(found)), key=lambda i: found[i][0])
    score, name = found[chosen]
    reason = ''
    if score > normal.threshold:
        value = candidates[chosen][name]
        reason = (
            f'{words.get(name, name)} ({name} {value:.3g}; of 100 good plans 99 stay below '
            f'{normal.tails[name].at(0.01):.3g})'
        )
    return Verdict(
        not reason or not enforce, reason, chosen, tuple(s for s, _ in found), normal.threshold,
        name,
    )


@dataclass(frozen=True)
class GateEntry:
    """What is normal for the plans of one planner, as one translator sees them.

    Attributes:
        planner, planner_hash, translator, translator_hash: whose.
        frames: of the plan's frames alone.
        actions: of the translation.
        realised: of the plan against the frames that came.
    """

    planner: str
    planner_hash: str
    translator: str
    translator_hash: str
    frames: Normal
    actions: Normal
    realised: Normal

    def to_dict(self) -> dict[str, Any]:
        """For a JSON."""
        names = {key: getattr(self, key) for key in _KEYS}
        return names | {
            key: getattr(self, key).to_dict() for key in ('frames', 'actions', 'realised')
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GateEntry:
        """From a JSON; ValueError when it is not what `to_dict` gives."""
        try:
            fields: dict[str, Any] = {key: str(values[key]) for key in _KEYS}
            for key in ('frames', 'actions', 'realised'):
                fields[key] = Normal.from_dict(values[key])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry lacks {error}') from error


def gate_path(embodiment: str) -> Path:
    """The file of an embodiment's thresholds, there or not."""
    folders = embodiment_folders()
    name = f'{embodiment}.gate.json'
    return next((f / name for f in folders if (f / name).is_file()), folders[0] / name)


def read_gates(path: Path) -> list[GateEntry]:
    """The entries of a file; none where there is no file.

    Raises:
        GateError: the file is not what `save_gate` writes.
    """
    if not path.is_file():
        return []
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
        if data['format'] != FORMAT:
            raise ValueError(f'format {data["format"]}, this version reads {FORMAT}')
        return [GateEntry.from_dict(entry) for entry in data['entries']]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise GateError(
            f'{path}: {error}; make it again with `vera study gate --save`'
        ) from error


def find_gate(
    embodiment: str,
    planner: tuple[str, str],
    translator: tuple[str, str] | None = None,
    path: Path | None = None,
) -> GateEntry | None:
    """The entry of a planner and a translator, or None where these weights were not measured.

    Args:
        embodiment: by name.
        planner: id and hash.
        translator: id and hash; any if None, as the frames alone do not depend on it.
        path: of the file, if not the embodiment's own.

    Raises:
        GateError: the file is damaged.
    """
    path = path or gate_path(embodiment)
    for entry in read_gates(path):
        mine = translator is None or (entry.translator, entry.translator_hash) == translator
        if mine and (entry.planner, entry.planner_hash) == planner:
            return entry
    return None


def warn_unmeasured(planner: tuple[str, str], translator: tuple[str, str] | None = None) -> None:
    """Say that a gate is on and judges nothing."""
    who = ' with '.join(' '.join(one).strip() for one in (planner, translator) if one)
    _LOG.warning(
        'the gate has no thresholds for %s: its plans are not judged until '
        '`vera study gate --save` measures them', who,
    )


def save_gate(entry: GateEntry, path: Path) -> None:
    """Write an entry in place of that of the same weights, whole or not at all."""
    same = [getattr(entry, key) for key in _KEYS]
    kept = [e for e in read_gates(path) if [getattr(e, key) for key in _KEYS] != same]
    data = {'format': FORMAT, 'entries': [e.to_dict() for e in [*kept, entry]]}
    write_atomic(path, (json.dumps(data, allow_nan=False) + '\n').encode())
