"""Goals in words for the finger: the phrasings it is trained on, and those kept for evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

TRAINING: tuple[str, ...] = (
    'touch the {c} disc',
    'touch the {c} circle',
    'touch the {c} dot',
    'reach the {c} disc',
    'reach for the {c} circle',
    'go to the {c} disc',
    'go to the {c} dot',
    'move to the {c} circle',
    'move the tip to the {c} disc',
    'put the tip on the {c} disc',
    'put your finger on the {c} circle',
    'point at the {c} disc',
    'point to the {c} dot',
    'press the {c} disc',
    'tap the {c} circle',
    'please touch the {c} disc',
    'bring the tip to the {c} circle',
    'the {c} disc',
    'the {c} one',
    '{c}',
    'could you touch the {c} dot?',
    'I want you to reach the {c} disc',
    'move towards the {c} disc and stop there',
    'cover the {c} dot with the tip',
)
HELD_OUT: tuple[str, ...] = (
    'place the fingertip on the {c} disc',
    'can you go and touch the {c} circle?',
    'hover over the {c} dot',
    'navigate to the {c} circle',
    'hit the {c} disc',
    'please move to the {c} dot',
    'reach out and touch the {c} one',
    'target the {c} disc',
)


@dataclass(frozen=True)
class Instruction:
    """A goal in words and the object it means."""

    text: str
    target: str


def phrase(rng: np.random.Generator, target: str, *, held_out: bool = False) -> Instruction:
    """One of the phrasings, at random, for the object named `target`."""
    templates = HELD_OUT if held_out else TRAINING
    return Instruction(str(rng.choice(templates)).format(c=target), target)


def parse(text: str, names: tuple[str, ...]) -> str | None:
    """The object that one of our own phrasings means, or None.

    Not a language model: an oracle's ear, for the scripted expert only.
    """
    found = [n for n in names if re.search(rf'\b{re.escape(n)}\b', text)]
    if len(found) != 1:
        return None
    known = {t.format(c=found[0]).lower() for t in TRAINING + HELD_OUT}
    return found[0] if text.strip().lower() in known else None
