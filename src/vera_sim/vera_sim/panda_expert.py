"""A scripted expert for the Panda's table: one step of the tool after another, and no memory.

Each step is decided from where everything is, so the expert goes on from wherever others have led:
it is asked anew at every replan. A tool that is far from above its target keeps high, and comes
down in a funnel as it gets there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vera_core.kinematics.transforms import Float
from vera_sim.panda_model import (
    BOWL_HEIGHT,
    BOWL_INNER,
    BUTTON_TOP,
    BUTTON_TRAVEL,
    CUBE_HALF,
    TIP,
)
from vera_sim.panda_tasks import DIRECTIONS, PUSHED, Goal, Situation, released, up

STEP, TURN = 0.024, 0.14  # largest in one frame period [m], [rad]
OPEN, SHUT = 1.0, 0.0  # of the gripper, as the contract's channel
LOW, HIGH = np.array([0.28, -0.34, 0.012]), np.array([0.72, 0.34, 0.45])  # of the tool [m]
_GAIN = 0.65  # share of the way that is left in one step
_HOVER = 0.055  # m above what is approached
_CARRY = 0.075  # m, height of a carried cube's centre above what it passes
_AIMED = 0.008  # m, the funnel's end: nearer than this to the axis, the tool may be low


@dataclass(frozen=True, eq=False)
class Move:
    """What the expert does in one frame period.

    Attributes:
        shift: float64 [3] m, of the tool in axes of the base.
        turn: float64 [3] rad, rotation vector in axes of the base, about the tool.
        gripper: where to, 0 shut .. 1 open.
    """

    shift: Float
    turn: Float
    gripper: float


@dataclass(frozen=True, eq=False)
class _Aim:
    """Where the tool should be: p [3] m, yaw of its axis along the fingers' line, gripper."""

    place: Float
    yaw: float
    gripper: float


def decide(goal: Goal, now: Situation) -> Move:
    """The next step towards a goal."""
    aim = {
        'touch': _touch, 'push': _push, 'press': _press, 'lift': _lift, 'stack': _stack,
        'bowl': _bowl,
    }[goal.task](goal, now)
    R, p = now.tool
    place = np.clip(aim.place, LOW, HIGH)
    shift = _limited(_GAIN * (place - p), STEP)
    turn = _GAIN * _upright(R, aim.yaw)
    return Move(shift, _limited(turn, TURN), aim.gripper)


def yaw_of(R: Float) -> float:
    """Yaw of a tool that points down: R = Rz(yaw) Rx(pi) [rad]."""
    return float(np.arctan2(R[1, 0], R[0, 0]))


def tool_rotation(yaw: float) -> Float:
    """R of a tool that points straight down, float64 [3, 3]."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, s, 0], [s, -c, 0], [0, 0, -1.0]])


# Tasks --------------------------------------------------------------------------------------


def _touch(goal: Goal, now: Situation) -> _Aim:
    cube = now.place(goal.cube)
    top = cube + up(CUBE_HALF + TIP + 0.001)
    return _Aim(_funnel(now, top), yaw_of(now.tool[0]), SHUT)


def _press(goal: Goal, now: Situation) -> _Aim:
    assert now.button is not None
    down = now.button + up(BUTTON_TOP - BUTTON_TRAVEL + 0.001 + TIP)
    return _Aim(_funnel(now, down), yaw_of(now.tool[0]), SHUT)


def _push(goal: Goal, now: Situation) -> _Aim:
    """Come down behind the cube and go on through it, nowhere at rest before the cube is there."""
    i = now.colours.index(goal.cube)
    cube, p = now.cubes[i, :3, 3], now.tool[1]
    along = DIRECTIONS[goal.other]
    aside = np.array([-along[1], along[0]])
    gone = (cube - now.starts[i])[:2] @ along
    # Shut fingers are as broad as they are deep: the nearest quarter turn, made on the way.
    yaw = _nearest_yaw(now.tool[0], float(np.arctan2(aside[1], aside[0])), np.pi / 2)
    if gone >= PUSHED + 0.018:
        # Done: stay where the cube is left behind, and rest.
        return _Aim(p.copy(), yaw, SHUT)
    behind = (p - cube)[:2]
    lag, off = -behind @ along, abs(behind @ aside)
    low = CUBE_HALF + TIP  # the tips at the cube's middle: as far from the table as from its top
    place = _funnel(now, np.array([*(cube[:2] - 0.07 * along), low]))
    if lag > 0.02:
        # The lower and the better aimed, the farther on: from coming down to pushing without a
        # stop. Steer against the cube's drift from its line.
        share = _share(off, 0.01, 0.025) * _share(p[2] - low, 0.006, 0.03)
        drift = (cube - now.starts[i])[:2] @ aside
        ahead = np.array([*(cube[:2] + 0.05 * along + 0.6 * drift * aside), low])
        place = place + share * (ahead - place)
    return _Aim(place, yaw, SHUT)


def _lift(goal: Goal, now: Situation) -> _Aim:
    cube = now.place(goal.cube)
    if not _held(now, goal.cube):
        return _grasp(now, goal.cube)
    i = now.colours.index(goal.cube)
    place = np.array([*now.tool[1][:2], now.starts[i, 2] + 0.10])
    # Straight up from where it was taken; what it was taken beside stays.
    return _Aim(place, _grip_yaw(now, cube, goal.cube), SHUT)


def _stack(goal: Goal, now: Situation) -> _Aim:
    return _put(goal, now, now.place(goal.other) + up(2 * CUBE_HALF), 0.004, 0.004)


def _bowl(goal: Goal, now: Situation) -> _Aim:
    assert now.bowl is not None
    # Fingers stay above the rim.
    return _put(goal, now, now.bowl + up(BOWL_HEIGHT + 0.012), 0.012, 0.012)


def _put(goal: Goal, now: Situation, target: Float, aimed: float, near: float) -> _Aim:
    """Take a cube to where its centre should be, let it go, and rise.

    Args:
        goal: whose cube.
        now: where everything is.
        target: float64 [3] m.
        aimed: m beside its axis within which the cube may come down.
        near: m above the target at which it is let go.
    """
    cube, p = now.place(goal.cube), now.tool[1]
    i = now.colours.index(goal.cube)
    offset = cube - target
    beside = float(np.linalg.norm(offset[:2]))
    yaw = _grip_yaw(now, cube, goal.cube)
    within = {'stack': 0.016, 'bowl': BOWL_INNER - 0.012}[goal.task]
    low = {'stack': 0.012, 'bowl': 0.02}[goal.task]
    there = beside < within and offset[2] < low
    held = _held(now, goal.cube)
    if there and not held and (released(now, i) or now.opening > CUBE_HALF + 0.0015):
        # Let go of: open all the way, then rise.
        high = target[2] + 0.09
        rise = now.opening > CUBE_HALF + 0.008 or p[2] > cube[2] + 0.03
        return _Aim(np.array([*p[:2], high if rise else p[2]]), yaw, OPEN)
    if not held:
        return _grasp(now, goal.cube)
    if beside < aimed + 0.004 and offset[2] < near:
        return _Aim(p.copy(), yaw, OPEN)
    # The cube's way: up, over, down in a funnel; the tool goes with it.
    carry = target[2] + _CARRY
    height = target[2] + near - 0.003 + _slope(beside, aimed, carry - target[2])
    if beside > 0.03 and cube[2] < carry - 0.035:
        # Not yet high enough to go sideways.
        wanted = np.array([*cube[:2], carry])
    else:
        wanted = np.array([*target[:2], height])
    return _Aim(p + (wanted - cube), yaw, SHUT)


# Parts of them ------------------------------------------------------------------------------


def _grasp(now: Situation, colour: str) -> _Aim:
    """Open, come down around the cube, shut."""
    cube, p = now.place(colour), now.tool[1]
    yaw = _grip_yaw(now, cube, colour)
    turned = abs(_wrapped(yaw_of(now.tool[0]) - yaw)) < 0.1
    at = np.array([*cube[:2], max(cube[2], CUBE_HALF) - 0.002])
    around = np.linalg.norm((p - at)[:2]) < 0.007 and abs(p[2] - at[2]) < 0.008
    if around and turned:
        return _Aim(at, yaw, SHUT)
    wide = now.opening > CUBE_HALF + 0.01
    return _Aim(_funnel(now, at, ready=turned and wide), yaw, OPEN)


def _held(now: Situation, colour: str) -> bool:
    """Whether the fingers are shut on a cube that is between them."""
    i = now.colours.index(colour)
    R, p = now.tool
    local = R.T @ (now.cubes[i, :3, 3] - p)
    between = abs(local[0]) < 0.016 and abs(local[1]) < 0.012 and abs(local[2]) < 0.018
    return bool(between and now.opening < CUBE_HALF + 0.0015)


def _grip_yaw(now: Situation, cube: Float, colour: str) -> float:
    """Yaw at which the fingers meet two faces of a cube, the nearest of them."""
    face = now.cubes[now.colours.index(colour), :3, :3]
    # Of the cube's three axes, the two that lie: any of them gives the yaw modulo a quarter turn.
    lying = face[:, int(np.abs(face[2]).argmin())]
    return _nearest_yaw(now.tool[0], float(np.arctan2(lying[1], lying[0])), np.pi / 2)


def _funnel(now: Situation, target: Float, *, ready: bool = True) -> Float:
    """Where to go in order to come down on a target from above."""
    p = now.tool[1]
    beside = float(np.linalg.norm((target - p)[:2]))
    over = _slope(beside, _AIMED, _HOVER)
    if not ready:
        over = _HOVER
    place = np.array([*target[:2], target[2] + over])
    if p[2] < place[2] - 0.01 and beside > 0.012:
        # Too low: rise first, go sideways only as far as that has come.
        share = np.clip(1 - (place[2] - p[2]) / _HOVER, 0.0, 1.0)
        place[:2] = p[:2] + share * (place[:2] - p[:2])
    return place


def _share(value: float, whole: float, none: float) -> float:
    """1 up to `whole`, 0 from `none` on, in between in proportion."""
    return float(np.clip((none - value) / (none - whole), 0.0, 1.0))


def _slope(beside: float, aimed: float, height: float) -> float:
    """Height of the funnel's wall, 0 at its end."""
    return float(np.clip(1.6 * (beside - aimed), 0.0, height))


def _nearest_yaw(R: Float, yaw: float, period: float) -> float:
    """`yaw` plus a multiple of `period`, the one nearest to the tool's that stays reachable."""
    now = yaw_of(R)
    # About the yaw in which the last joint is in its middle, turned no further than a half turn.
    found = now + (yaw - now + period / 2) % period - period / 2
    while found > 1.9:
        found -= period
    while found < -1.9:
        found += period
    return found


def _upright(R: Float, yaw: float) -> Float:
    """Rotation vector [3] that makes the tool point down with this yaw."""
    D = tool_rotation(yaw) @ R.T
    vector = 0.5 * np.array([D[2, 1] - D[1, 2], D[0, 2] - D[2, 0], D[1, 0] - D[0, 1]])
    sine = float(np.linalg.norm(vector))
    if sine < 1e-9:
        return np.zeros(3)
    angle = np.arctan2(sine, (np.trace(D) - 1) / 2)
    return np.asarray(vector * (angle / sine))


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def _limited(vector: Float, most: float) -> Float:
    length = float(np.linalg.norm(vector))
    return vector * (most / length) if length > most else vector


__all__ = ['OPEN', 'SHUT', 'Move', 'decide', 'tool_rotation', 'yaw_of']
