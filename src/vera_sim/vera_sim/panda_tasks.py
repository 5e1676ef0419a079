"""What the Panda can be asked to do: goals, their phrasings, and when each is done.

Left and right are those of the front camera's picture: left is -y of the robot's base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from vera_core.kinematics.transforms import Float
from vera_sim.panda_model import (
    BOWL_HEIGHT,
    BOWL_INNER,
    BUTTON_TOP,
    BUTTON_TRAVEL,
    CUBE_HALF,
)

TASKS = ('touch', 'push', 'press', 'lift', 'stack', 'bowl')
# Those that the planner that ships does best.
BASIC = ('touch', 'push', 'press', 'lift')
# Those of training, and two that training never saw.
COLOURS: dict[str, tuple[float, float, float]] = {
    'red': (214, 40, 40),
    'green': (46, 160, 67),
    'blue': (36, 92, 214),
    'yellow': (240, 200, 30),
}
HELD_OUT_COLOURS: dict[str, tuple[float, float, float]] = {
    'purple': (134, 58, 190),
    'orange': (240, 124, 24),
}
DIRECTIONS: dict[str, Float] = {
    'left': np.array([0.0, -1.0]),
    'right': np.array([0.0, 1.0]),
    'away': np.array([1.0, 0.0]),
    'towards': np.array([-1.0, 0.0]),
}
_DIRECTION_WORDS = {
    'left': 'to the left',
    'right': 'to the right',
    'away': 'away from the robot',
    'towards': 'towards the robot',
}

TOUCHED = 0.01  # m between fingertip and cube
PUSHED, ASTRAY = 0.06, 0.045  # m along the direction, and at most so much across it
PRESSED = 0.006  # m that the button has gone down
LIFTED = 0.05  # m above where it lay
STACKED = 0.018  # m between the axes of both cubes
STILL = 0.02  # m/s, slower is at rest

TRAINING: dict[str, tuple[str, ...]] = {
    'touch': (
        'touch the {c} cube', 'touch the {c} block', 'touch the {c} one', 'tap the {c} cube',
        'put your finger on the {c} cube', 'move to the {c} cube and touch it',
        'reach for the {c} block', 'go to the {c} cube', 'touch {c}', 'point at the {c} cube',
        'place the fingertips on the {c} block', 'please touch the {c} cube',
        'could you touch the {c} cube?', 'bring the gripper down onto the {c} cube',
        'make contact with the {c} block', 'I want you to touch the {c} block',
    ),
    'push': (
        'push the {c} cube {d}', 'push the {c} block {d}', 'push {c} {d}',
        'slide the {c} cube {d}', 'move the {c} cube {d}', 'shove the {c} block {d}',
        'nudge the {c} cube {d}', 'please push the {c} cube {d}', 'push {d} the {c} cube',
        'the {c} cube has to go {d}', 'could you push the {c} block {d}?',
        'I want the {c} cube pushed {d}', 'slide the {c} block {d} on the table',
        'move the {c} block {d}',
    ),
    'press': (
        'press the button', 'push the button', 'push the button down', 'press the button down',
        'hit the button', 'press the red button', 'please press the button', 'hold the button down',
        'could you press the button?', 'go to the button and press it', 'activate the button',
        'put your finger on the button and press', 'I want you to press the button', 'button',
    ),
    'lift': (
        'pick up the {c} cube', 'lift the {c} cube', 'lift the {c} block', 'pick the {c} cube up',
        'pick up the {c} block', 'grasp the {c} cube and lift it', 'raise the {c} cube',
        'take the {c} cube', 'grab the {c} block', 'please pick up the {c} cube',
        'could you lift the {c} cube?', 'hold up the {c} block', 'lift {c}', 'pick up {c}',
        'I want you to lift the {c} cube', 'take the {c} block off the table',
    ),
    'stack': (
        'stack the {c} cube on the {b} cube', 'stack {c} on {b}', 'put {c} on top of {b}',
        'put the {c} cube on the {b} cube', 'put the {c} block on top of the {b} block',
        'place the {c} cube on the {b} cube', 'place the {c} block onto the {b} one',
        'set the {c} cube on top of the {b} cube', 'please stack the {c} cube on the {b} cube',
        'could you stack {c} on {b}?', 'build a tower with {c} on {b}',
        'the {c} cube goes on the {b} cube', 'pick up {c} and put it on {b}',
        'I want the {c} block on the {b} block',
    ),
    'bowl': (
        'put the {c} cube in the bowl', 'put the {c} cube into the bowl',
        'place the {c} cube in the bowl', 'drop the {c} cube into the bowl',
        'put {c} in the bowl', 'put the {c} block in the bowl', 'the {c} cube goes in the bowl',
        'pick up the {c} cube and put it in the bowl', 'move the {c} cube into the bowl',
        'please put the {c} cube in the bowl', 'could you put the {c} block in the bowl?',
        'bring the {c} cube to the bowl', 'throw the {c} block into the bowl',
        'I want the {c} cube in the bowl',
    ),
}
HELD_OUT: dict[str, tuple[str, ...]] = {
    'touch': (
        'lay a finger on the {c} cube', 'can you reach out and touch the {c} block?',
        'poke the {c} cube', 'move down until you touch the {c} cube',
        'contact the {c} cube with the gripper', 'the {c} block, touch it',
    ),
    'push': (
        'shift the {c} cube {d}', 'can you move the {c} block {d} by pushing it?',
        'drive the {c} cube {d}', 'give the {c} block a push {d}',
        'get the {c} cube to move {d}', 'scoot the {c} cube {d}',
    ),
    'press': (
        'can you hit that button?', 'depress the button', 'the button needs pressing',
        'go ahead and push that button', 'keep the button pressed', 'give the button a press',
    ),
    'lift': (
        'hoist the {c} cube', 'can you grab the {c} block and raise it?',
        'get the {c} cube off the table', 'bring the {c} cube up in the air',
        'elevate the {c} block', 'close the gripper on the {c} cube and go up',
    ),
    'stack': (
        'balance the {c} cube on the {b} one', 'can you set {c} atop {b}?',
        'make a stack: {c} over {b}', 'rest the {c} block on the {b} block',
        'top the {b} cube with the {c} cube', 'lay the {c} cube upon the {b} cube',
    ),
    'bowl': (
        'deposit the {c} cube in the bowl', 'can you get the {c} block into the bowl?',
        'the bowl should hold the {c} cube', 'let the {c} cube fall into the bowl',
        'toss the {c} cube in the bowl', 'transfer the {c} block to the bowl',
    ),
}


@dataclass(frozen=True)
class Goal:
    """What is to be done, with which cube, and where it is to go.

    Attributes:
        task: one of TASKS.
        cube: colour of the cube that is handled; '' for the button.
        other: colour of the cube to stack on, or direction of a push.
    """

    task: str
    cube: str = ''
    other: str = ''

    @property
    def name(self) -> str:
        """Short and unique, e.g. 'stack red on blue'."""
        if self.task == 'press':
            return 'press button'
        if self.task == 'bowl':
            return f'{self.cube} in bowl'
        if self.task == 'stack':
            return f'stack {self.cube} on {self.other}'
        return f'{self.task} {self.cube} {self.other}'.strip()

    def phrase(self, template: str) -> str:
        """The goal in words."""
        return template.format(c=self.cube, b=self.other, d=_DIRECTION_WORDS.get(self.other, ''))


@dataclass(frozen=True, eq=False)
class Situation:
    """Where everything is: what goals are judged by, and what the expert decides by.

    Attributes:
        tool: R [3, 3] and p [3] m of panda_hand_tcp.
        tip: float64 [3] m, between the ends of the fingers.
        opening: of one finger, m.
        colours: of the cubes.
        cubes: T float64 [C, 4, 4].
        speeds: float64 [C] m/s.
        starts: float64 [C, 3] m, where the cubes lay when the episode began.
        bowl, button: float64 [3] m of their feet; None if not there.
        depth: m that the button is down.
    """

    tool: tuple[Float, Float]
    tip: Float
    opening: float
    colours: tuple[str, ...]
    cubes: Float
    speeds: Float
    starts: Float
    bowl: Float | None
    button: Float | None
    depth: float

    def place(self, colour: str) -> Float:
        """Centre of a cube, float64 [3] m."""
        centre: Float = self.cubes[self.colours.index(colour), :3, 3]
        return centre


def goals(task: str, colours: Sequence[str], bowl: bool, button: bool) -> tuple[Goal, ...]:
    """All goals of a task in a scene."""
    if task == 'press':
        return (Goal('press'),) if button else ()
    if task == 'bowl' and not bowl:
        return ()
    if task == 'push':
        return tuple(Goal('push', c, d) for c in colours for d in DIRECTIONS)
    if task == 'stack':
        return tuple(Goal('stack', a, b) for a, b in permutations(colours, 2))
    return tuple(Goal(task, c) for c in colours)


def vocabulary(known: Sequence[Goal]) -> dict[str, Goal]:
    """Every phrasing of some goals, in lower case -> the goal."""
    return {
        goal.phrase(template).lower(): goal
        for goal in known
        for template in TRAINING[goal.task] + HELD_OUT[goal.task]
    }


def remaining(goal: Goal, now: Situation) -> float:
    """How far away success is [m]: of the tip from where it starts to act, and of the thing."""
    if goal.task == 'press':
        assert now.button is not None
        above = now.button + up(BUTTON_TOP - BUTTON_TRAVEL)
        return float(np.linalg.norm(now.tip - above))
    i = now.colours.index(goal.cube)
    cube = now.cubes[i, :3, 3]
    if goal.task == 'touch':
        return gap(now.tip, now.cubes[i])
    reach = float(np.linalg.norm(now.tool[1] - cube))
    if goal.task == 'push':
        gone = (cube - now.starts[i])[:2] @ DIRECTIONS[goal.other]
        return max(PUSHED - float(gone), 0.0) + max(reach - 0.05, 0.0)
    if goal.task == 'lift':
        return max(now.starts[i, 2] + LIFTED - cube[2], 0.0) + max(reach - 0.01, 0.0)
    if goal.task == 'stack':
        target = now.place(goal.other) + up(2 * CUBE_HALF)
    else:
        assert now.bowl is not None
        target = now.bowl + up(CUBE_HALF + 0.006)
    left = float(np.linalg.norm(cube - target))
    return left + (max(reach - 0.01, 0.0) if left > 0.02 else 0.0)


def done(goal: Goal, now: Situation) -> bool:
    """Whether it is so now; whoever judges also asks that it stays so and the tool rests."""
    if goal.task == 'press':
        return now.depth >= PRESSED
    i = now.colours.index(goal.cube)
    cube, start = now.cubes[i, :3, 3], now.starts[i]
    if goal.task == 'touch':
        return gap(now.tip, now.cubes[i]) <= TOUCHED
    if goal.task == 'lift':
        return bool(cube[2] - start[2] >= LIFTED and now.speeds[i] < 5 * STILL)
    if now.speeds[i] > STILL:
        return False
    if goal.task == 'push':
        along = DIRECTIONS[goal.other]
        moved = (cube - start)[:2]
        across = abs(float(moved @ [-along[1], along[0]]))
        on_table = abs(float(cube[2]) - CUBE_HALF) < 0.01
        return bool(moved @ along >= PUSHED and across <= ASTRAY and on_table)
    if not released(now, i):
        return False
    if goal.task == 'stack':
        base = now.place(goal.other)
        level = abs(float(cube[2] - base[2]) - 2 * CUBE_HALF) < 0.008
        return bool(np.linalg.norm(cube[:2] - base[:2]) <= STACKED and level)
    assert now.bowl is not None
    inside = np.linalg.norm(cube[:2] - now.bowl[:2]) < BOWL_INNER - 0.006
    return bool(inside and cube[2] - now.bowl[2] < BOWL_HEIGHT + 0.012)


def released(now: Situation, cube: int) -> bool:
    """Whether the fingers are off a cube: open around it, or away from it."""
    apart = float(np.linalg.norm(now.tool[1] - now.cubes[cube, :3, 3]))
    return apart > 0.035 or now.opening > CUBE_HALF + 0.006


def up(height: float) -> Float:
    """A shift upwards, float64 [3] m."""
    return np.array([0.0, 0.0, height])


def gap(point: Float, cube: Float) -> float:
    """Distance of a point [3] from the surface of a cube at T [4, 4], 0 inside [m]."""
    local = (point - cube[:3, 3]) @ cube[:3, :3]
    return float(np.linalg.norm(np.maximum(np.abs(local) - CUBE_HALF, 0.0)))


__all__ = [
    'BASIC',
    'COLOURS',
    'DIRECTIONS',
    'HELD_OUT',
    'HELD_OUT_COLOURS',
    'TASKS',
    'TRAINING',
    'Goal',
    'Situation',
    'done',
    'gap',
    'goals',
    'released',
    'remaining',
    'up',
    'vocabulary',
]
