"""The chunks of a recording, made again from its plans and joint states, compared bit for bit.

No ROS: the translator's node and this go through the same functions (vera_jidm.plan_reading). The
recording says which translator, which checkpoint, and how many threads; without it (a bag of
`ros2 bag record`) the contract does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_bringup.bag_reading import Bag, BagError
from vera_core.chunk import ActionChunk
from vera_core.clocks import to_ns
from vera_core.contract import Contract, load_contract
from vera_core.state_history import HistoryError, StateHistory
from vera_jidm import episodes_cdr as cdr
from vera_jidm.plan_gate import PlanGate
from vera_jidm.plan_reading import plan_chunk, plan_images
from vera_jidm.registry import make_translator

Key = tuple[int, int, int]  # goal, plan, anchor stamp
EXACT = ('values', 'residual', 'observability')
PLAIN = ('channels', 'period', 'translator_id', 'model_hash')


@dataclass
class CheckReport:
    """What came of a recording.

    Attributes:
        identical: chunks that are the same in every bit. different: in words, the first ones.
        lonely: chunks whose plan is not in the recording. servo: of servo mode, not compared.
        silent: plans without a chunk: rejected, superseded, or after the end. largest: largest
            difference of a value. unknown: plans for which joint states say too little.
    """

    identical: int = 0
    different: list[str] = field(default_factory=list)
    lonely: int = 0
    servo: int = 0
    silent: int = 0
    unknown: int = 0
    largest: float = 0.0

    @property
    def compared(self) -> int:
        """Chunks that were made again."""
        return self.identical + len(self.different)

    def text(self) -> str:
        """For people."""
        said = f'{self.identical} of {self.compared} chunks are identical, bit for bit'
        more = [
            (self.lonely, 'chunks without their plan in the recording'),
            (self.servo, 'chunks of servo mode, which also depend on timing: not compared'),
            (self.silent, 'plans without a chunk'),
            (self.unknown, 'plans whose joint states are not in the recording'),
        ]
        return '; '.join([said, *(f'{number} {what}' for number, what in more if number)])


def contract_of(bag: Bag, embodiment: str = '') -> Contract:
    """The contract that was recorded, or the one that is named.

    Raises:
        BagError: neither.
        ContractError: it cannot be used.
    """
    if embodiment:
        return load_contract(embodiment)
    if bag.notes.contract is None:
        raise BagError(f'{bag.path} holds no contract; name one with --embodiment')
    return bag.notes.contract


def check(
    bag: Bag, contract: Contract, *, namespace: str = '', checkpoint: str = ''
) -> CheckReport:
    """Make every chunk again.

    Args:
        bag: open.
        contract: see contract_of.
        namespace: of the graph; what the recording says unless given.
        checkpoint: of the translator, in place of the recorded one.

    Raises:
        BagError: no plans, no chunks.
        Exception: the translator cannot be made.
    """
    import torch

    space = f'/{(namespace or bag.notes.namespace).strip("/")}'
    said = bag.notes.of_node('translator')
    torch.set_num_threads(int(said.get('threads', 1)))
    translator = make_translator(
        str(said.get('translator') or contract.defaults.translator),
        contract,
        checkpoint or str(said.get('checkpoint', '')),
        mode=str(said.get('mode', 'stacked')),
    )
    gate = str(said.get('gate', 'report')) if said.get('mode', 'stacked') == 'stacked' else 'off'
    chunks, report = recorded_chunks(bag, f'{space}/action_chunk'), CheckReport()
    report.servo = sum(len(found) for key, found in chunks.items() if found[0].part)
    states = _States(bag, contract, f'{space}/joint_states') if translator.needs_state else None
    gates: dict[tuple[str, str], PlanGate] = {}
    for plan in _plans(bag, f'{space}/visual_plan'):
        key: Key = (int(plan.goal_id), int(plan.plan_seq), to_ns(plan.header.stamp))
        recorded = chunks.pop(key, [])
        if not recorded:
            report.silent += 1
            continue
        who = (str(plan.planner_id), str(plan.planner_hash))
        if who not in gates:
            mine = (translator.translator_id, translator.checkpoint_hash)
            gates[who] = PlanGate.of(contract.embodiment, who, mine, gate)
        try:
            state = states.at(key[2]) if states is not None else None
        except HistoryError:
            report.unknown += 1
            continue
        anchor, candidates = plan_images(plan, contract)
        translation, _, _ = gates[who].translate(translator, anchor, candidates, state)
        compare(plan_chunk(plan, translation, translator), recorded[0], key, report)
    report.lonely = sum(len(found) for found in chunks.values() if not found[0].part)
    return report


def _plans(bag: Bag, topic: str) -> Iterator[Any]:
    if topic not in bag.topics:
        raise BagError(f'{bag.path} has no {topic}; it has {_names(bag)}; see --namespace')
    for raw in bag.messages([topic]):
        yield bag.decode(raw)


def recorded_chunks(bag: Bag, topic: str) -> dict[Key, list[ActionChunk]]:
    """Chunks by goal, plan and stamp; raises BagError if there are none."""
    if topic not in bag.topics:
        raise BagError(f'{bag.path} has no {topic}; it has {_names(bag)}; see --namespace')
    found: dict[Key, list[ActionChunk]] = {}
    for raw in bag.messages([topic]):
        chunk = chunk_of(bag.decode(raw))
        # Servo chunks carry the stamp of a real frame; they are only counted.
        key = (chunk.goal_id, chunk.plan_seq, chunk.stamp)
        found.setdefault(key, []).append(chunk)
    return found


def _names(bag: Bag) -> str:
    types = Counter(topic.type_name for topic in bag.topics.values())
    return ', '.join(bag.topics) if sum(types.values()) < 12 else f'{len(bag.topics)} other topics'


def chunk_of(message: Any) -> ActionChunk:
    """The chunk of a decoded ActionChunk."""
    n, steps = len(message.channels), int(message.steps)
    return ActionChunk(
        stamp=to_ns(message.header.stamp),
        goal_id=int(message.goal_id),
        plan_seq=int(message.plan_seq),
        channels=tuple(message.channels),
        period=float(message.period),
        values=np.array(message.values, np.float64).reshape(steps, n),
        residual=np.array(message.residual, np.float32),
        observability=np.array(message.observability, np.float32),
        translator_id=str(message.translator_id),
        model_hash=str(message.model_hash),
        latency=float(message.latency),
        part=int(message.part),
        observed=to_ns(message.observed) or None,
    )


def compare(again: ActionChunk, recorded: ActionChunk, key: Key, report: CheckReport) -> None:
    """Count one chunk as identical, or say how it differs."""
    wrong = [name for name in PLAIN if getattr(again, name) != getattr(recorded, name)]
    for name in EXACT:
        a, b = getattr(again, name), getattr(recorded, name)
        if a.shape != b.shape or a.astype(b.dtype).tobytes() != b.tobytes():
            wrong.append(name)
    if not wrong:
        report.identical += 1
        return
    if again.values.shape == recorded.values.shape:
        off = float(np.abs(again.values - recorded.values).max())
        report.largest = max(report.largest, off)
    report.different.append(f'goal {key[0]}, plan {key[1]}: {", ".join(wrong)} differ')


class _States:
    """Joint positions by stamp, as the translator's node knows them."""

    def __init__(self, bag: Bag, contract: Contract, topic: str) -> None:
        if topic not in bag.topics:
            raise BagError(f'{bag.path} has no {topic}, which this translator needs')
        count = bag.topics[topic].count
        self._history = StateHistory(max(2, count), contract.control.state_timeout)
        for raw in bag.messages([topic]):
            state = cdr.decode_joints(raw.data)
            if any(name not in state.names for name in contract.joint_names):
                continue
            newest = self._history.newest
            if newest is None or state.stamp > newest:
                order = [state.names.index(name) for name in contract.joint_names]
                self._history.add(state.stamp, state.positions[order])

    def at(self, stamp: int) -> NDArray[np.float64]:
        return self._history.at(stamp)


__all__ = ['CheckReport', 'check', 'chunk_of', 'compare', 'contract_of', 'recorded_chunks']
