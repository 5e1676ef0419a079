"""What a recording says beside its messages: contract, parameters, goals, counts. Pure.

In the MCAP file: attachments `contract.yaml` and `parameters/<node>.yaml`, metadata records
`vera_recording` (at the beginning), `vera_goal` (one for each goal) and `vera_recording_end`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from mcap.reader import make_reader

from vera_core.contract import Contract, ContractError, build_contract

BEGIN, GOAL, END = 'vera_recording', 'vera_goal', 'vera_recording_end'
CONTRACT = 'contract.yaml'
PARAMETERS = 'parameters/'
FORMAT = '1'
PACKAGES = ('numpy', 'opencv-python-headless', 'torch', 'ros-rclpy')


def contract_text(contract: Contract) -> str:
    """The contract as a file that stands for itself: its URDF is written into it."""
    plain = contract.portable_dict()
    kinematics = contract.kinematics
    if kinematics is not None and not kinematics.urdf.lstrip().startswith('<'):
        path = contract.resolve(kinematics.urdf)
        if path.is_file():
            plain['kinematics']['urdf'] = path.read_text(encoding='utf-8')
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def beginning(contract: Contract, namespace: str) -> dict[str, str]:
    """The record BEGIN."""
    return {
        'format': FORMAT,
        'embodiment': contract.embodiment,
        'contract_hash': contract.hash,
        'namespace': namespace,
        'versions': json.dumps(_versions()),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Notes:
    """What a recording says of itself.

    Attributes:
        contract: None of a bag that is not ours.
        parameters: of each node, by its full name.
        goals: {goal_id, prompt, stamp} of each, in order.
        records: the metadata records, the last of each name.
    """

    contract: Contract | None = None
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    goals: list[dict[str, str]] = field(default_factory=list)
    records: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Of the graph that was recorded."""
        return self.records.get(BEGIN, {}).get('namespace', 'vera').strip('/')

    def of_node(self, name: str) -> dict[str, Any]:
        """Parameters of the node with that name, whatever its namespace."""
        found = [p for full, p in self.parameters.items() if full.rsplit('/', 1)[-1] == name]
        return found[-1] if found else {}


def read_notes(files: list[Path]) -> Notes:
    """Notes of the MCAP files of a bag; empty where they say nothing.

    Raises:
        ContractError: the contract in it cannot be understood.
    """
    texts: dict[str, str] = {}
    goals, records = [], {}
    for path in files:
        with path.open('rb') as stream:
            reader = make_reader(stream)
            for attachment in reader.iter_attachments():
                texts[attachment.name] = attachment.data.decode()
            for record in reader.iter_metadata():
                records[record.name] = dict(record.metadata)
                if record.name == GOAL:
                    goals.append(dict(record.metadata))
    parameters: dict[str, dict[str, Any]] = {}
    for name, text in texts.items():
        if name.startswith(PARAMETERS):
            for node, values in (yaml.safe_load(text) or {}).items():
                parameters[node] = values['ros__parameters']
    contract = None
    if CONTRACT in texts:
        data = yaml.safe_load(texts[CONTRACT])
        if not isinstance(data, dict):
            raise ContractError('is no mapping', where=CONTRACT)
        contract = build_contract(data)
    return Notes(contract, parameters, goals, records)


__all__ = [
    'BEGIN', 'CONTRACT', 'END', 'GOAL', 'PARAMETERS', 'Notes', 'beginning', 'contract_text',
    'read_notes',
]  # fmt: skip
