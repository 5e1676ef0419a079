"""What happened in an episode, in words."""

from __future__ import annotations

import math

from vera_bringup.statistics import (
    IMPLAUSIBLE,
    NO_MOTION,
    RESTED,
    STOPPED,
    TIME,
    WRONG,
    EpisodeResult,
)


def story(result: EpisodeResult, unit: str = 'px') -> str:
    """One to three sentences: what came of it, how near it came, and whose fault it looks like.

    Args:
        result: of the episode.
        unit: of its distances.
    """
    parts = (_end(result), _distance(result, unit), _blame(result))
    return ' '.join(part for part in parts if part)


def _end(result: EpisodeResult) -> str:
    after = f'after {result.duration:.1f} s'
    said = f' ("{result.reason}")' if result.reason else ''
    if result.success:
        return f'Reached {after}.'
    if result.outcome == WRONG:
        return f'It came to rest in {result.reached!r} {after}; {result.target!r} was asked for.'
    if result.outcome == RESTED:
        return f'Its plans came to rest {after}, before {result.target!r} was reached{said}.'
    if result.outcome == NO_MOTION:
        return f'It gave up {after}: the planner saw nothing to do{said}.'
    if result.outcome == IMPLAUSIBLE:
        return f'It gave up {after}: no plan was fit to be executed{said}.'
    if result.outcome == STOPPED:
        return f'The controller stopped {after}{said}.'
    if result.outcome == TIME:
        return f'Time was up {after}; {result.target!r} had not been reached{said}.'
    return f'{result.outcome[:1].upper()}{result.outcome[1:]} {after}.'


def _distance(result: EpisodeResult, unit: str) -> str:
    if result.success:
        return ''
    if not math.isnan(result.coverage):
        return f'At best it covered {result.coverage:.0%} of the goal.'
    if math.isnan(result.left):
        return ''
    left = f'{result.left:.2f} m' if unit == 'm' else f'{result.left:.1f} {unit}'
    return f'It ended {left} from it, having made {result.progress:.0%} of the way.'


def _blame(result: EpisodeResult) -> str:
    if result.success:
        return ''
    parts = []
    wrong, judged = result.dreams.count(False), len(result.dreams)
    missed, compared = result.came_true.count(False), len(result.came_true)
    if judged:
        parts.append(
            f'{wrong} of {judged} plans showed something else than the expert would do'
            if wrong else f'all {judged} plans showed what the expert would do'
        )
    if compared:
        parts.append(
            f'{missed} of the {compared} that could be compared did not come true'
            if missed else f'all {compared} that could be compared came true'
        )
    if result.rejected:
        parts.append(f'the gate spoke against {len(result.rejected)} plans')
    if result.underruns:
        parts.append(f'the actions ran out {result.underruns} times')
    if not parts:
        return ''
    text = ', '.join(parts)
    if not judged or not compared:
        return f'{text[0].upper()}{text[1:]}.'
    dream, execution = result.dream_success, result.execution_success
    late = 'there was not time enough' if result.outcome == TIME else ''
    verdict = {
        (True, True): late or 'neither explains the failure alone',
        (False, True): 'the planner failed, not the execution',
        (True, False): 'the execution failed, not the planner',
        (False, False): 'both failed',
    }[dream, execution]
    return f'{text[0].upper()}{text[1:]}: {verdict}.'
