"""What counts as a goal in words, for the command line and for the cockpit."""

from __future__ import annotations

LONGEST = 500  # characters


class PromptError(ValueError):
    """No goal; the message says what is wrong with it."""


def check_prompt(prompt: object) -> str:
    """The goal without space around it.

    Raises:
        PromptError: empty, too long, or not one line of text.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError("the goal is empty; say what to do, e.g. 'touch the red disc'")
    words = prompt.strip()
    if len(words) > LONGEST:
        raise PromptError(f'the goal has {len(words)} characters; {LONGEST} are enough')
    if not words.isprintable():
        raise PromptError('the goal has line breaks or control characters; say it in one line')
    return words


__all__ = ['PromptError', 'check_prompt']
