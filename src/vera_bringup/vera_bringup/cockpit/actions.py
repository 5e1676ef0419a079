"""What the page may ask for, read strictly: it comes from outside."""

from __future__ import annotations

import json
from dataclasses import dataclass

from vera_bringup.prompts import PromptError, check_prompt

#: Services of the graph that a button calls.
TRIGGERS = ('stop', 'reset', 'enable', 'home', 'cancel_goal')
LONGEST = 4096  # bytes of a message
HIGHEST_SEED = 2**32 - 1


class ActionError(ValueError):
    """Nothing that the page may ask for; the message is shown on it."""


@dataclass(frozen=True)
class Action:
    """One wish.

    Attributes:
        name: one of TRIGGERS; goal; new_scene; watch (whether the page is being looked at).
        prompt: of a goal.
        seed: of a new scene.
        on: of watch.
    """

    name: str
    prompt: str = ''
    seed: int = 0
    on: bool = True


def read_action(text: str | bytes) -> Action:
    """The wish in a message of the page.

    Raises:
        ActionError: no JSON, an unknown wish, or a goal that says nothing.
    """
    try:
        found = json.loads(text) if len(text) <= LONGEST else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ActionError(f'expected one JSON object of {LONGEST} bytes at most')
    name = found.get('action')
    if name in TRIGGERS:
        return Action(name)
    if name == 'goal':
        try:
            return Action('goal', prompt=check_prompt(found.get('prompt', '')))
        except PromptError as error:
            raise ActionError(str(error)) from error
    if name == 'new_scene':
        seed = found.get('seed')
        if type(seed) is not int or not 0 <= seed <= HIGHEST_SEED:
            raise ActionError('the seed of a scene is a whole number from 0')
        return Action('new_scene', seed=seed)
    if name == 'watch' and isinstance(found.get('on'), bool):
        return Action('watch', on=found['on'])
    raise ActionError(f'the page asked for {name!r}; it may ask for {", ".join(TRIGGERS)}, goal')


__all__ = ['TRIGGERS', 'Action', 'ActionError', 'read_action']
