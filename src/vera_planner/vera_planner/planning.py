"""One plan from frames and words: the same call in the planner node and in lock-step evaluation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vera_core.contract import Contract
from vera_core.seams import Image, Plan, VideoPlanner

MOVING_SHARE = 0.01  # of the pixels: those that changed most tell whether anything moves


class PlanError(RuntimeError):
    """A planner that failed or gave something that is no plan; the message says what."""


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made from.

    Attributes:
        context: uint8 [T, H, W, 3], oldest first; the last one is the anchor o_t.
        anchor: stamp of the anchor, ns.
        prompt: the goal in words; goal_id: its number; plan_index: plans of it before this one.
        seed: of the plan's noise.
        warm_start: what the last plan of this goal gave back.
    """

    context: Image
    anchor: int
    prompt: str
    goal_id: int = 0
    plan_index: int = 0
    seed: int = 0
    warm_start: Any = field(default=None, repr=False)


def plan_motion(anchor: Image, last: Image) -> float:
    """How much a plan moves, grey levels 0..255; the definition of `Plan.motion`.

    Mean absolute change of the 1% most changed pixels; a pixel's change is the mean over its
    channels.

    Args:
        anchor: uint8 [H, W, 3], o_t.
        last: uint8 [H, W, 3], the last frame of the plan.
    """
    change = np.abs(last.astype(np.int16) - anchor.astype(np.int16)).mean(axis=-1).ravel()
    count = max(1, round(MOVING_SHARE * change.size))
    return float(np.partition(change, -count)[-count:].mean())


def imagine(planner: VideoPlanner, request: PlanRequest, contract: Contract) -> Plan:
    """Ask a planner for a plan and check what it gives.

    A planner with an `anchor_at` method (the oracle, which is privileged) is told the anchor's
    stamp first. The latency is measured here.

    Returns:
        The plan with `latency` and `motion` filled in.

    Raises:
        PlanRefusedError: the planner says that there is nothing to do.
        PlanError: frames that do not fit the contract.
        Exception: whatever the planner raises.
    """
    began = time.perf_counter()
    anchor_at = getattr(planner, 'anchor_at', None)
    if anchor_at is not None:
        anchor_at(request.anchor)
    plan = planner.plan(
        request.context, request.prompt, seed=request.seed, warm_start=request.warm_start
    )
    check_plan(plan, contract)
    return replace(
        plan,
        latency=time.perf_counter() - began,
        motion=plan_motion(request.context[-1], plan.frames[-1]),
    )


def warm_up(planner: VideoPlanner, contract: Contract) -> float:
    """Make a first plan of nothing, so that no goal has to wait for a network's slow first call.

    Returns:
        Seconds it took; 0 for the oracle, which has nothing to warm up.
    """
    if hasattr(planner, 'anchor_at'):
        return 0.0
    began = time.perf_counter()
    shape = (1, contract.canvas.height, contract.canvas.width, 3)
    planner.plan(np.zeros(shape, np.uint8), 'warm up', seed=0)
    return time.perf_counter() - began


def check_plan(plan: Plan, contract: Contract) -> None:
    """Refuse frames that do not fit the contract.

    Raises:
        PlanError: another type, size, number or period of frames; the message names both.
    """
    frames, canvas, video = plan.frames, contract.canvas, contract.video
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4:
        kind = getattr(frames, 'dtype', type(frames).__name__)
        raise PlanError(f'the planner gave {kind} frames; expected uint8 [M, H, W, 3]')
    if frames.shape[1:] != (canvas.height, canvas.width, 3):
        raise PlanError(
            f'the planner gave frames {list(frames.shape[1:])}; the contract says '
            f'[{canvas.height}, {canvas.width}, 3]'
        )
    if len(frames) < video.committed:
        raise PlanError(
            f'the planner gave {len(frames)} frames; the contract commits {video.committed}'
        )
    if not abs(plan.frame_period - video.frame_period) <= 1e-9:
        raise PlanError(
            f'the planner works at {plan.frame_period} s between frames, the contract at '
            f'{video.frame_period} s'
        )


__all__ = ['PlanError', 'PlanRequest', 'check_plan', 'imagine', 'plan_motion', 'warm_up']
