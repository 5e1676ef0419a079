"""One plan from frames and words: the same call in the planner node and in lock-step evaluation."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vera_core.contract import Contract
from vera_core.gates import PlanRejectedError
from vera_core.seams import Image, Plan, VideoPlanner
from vera_core.seeds import mix
from vera_planner.execution import Execution
from vera_planner.motion import plan_motion
from vera_planner.observer import Observer
from vera_planner.plan_checks import PlanChecks


class PlanError(RuntimeError):
    """A planner that failed or gave something that is no plan; the message says what."""


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made from.

    Attributes:
        context: uint8 [T, H, W, 3], oldest first; the last one is the anchor o_t unless frames
            are pending.
        anchor: stamp of the anchor, ns.
        prompt: the goal in words; goal_id: its number; plan_index: plans of it before this one.
        seed: of the plan's noise.
        warm_start: what the last plan of this goal gave back.
        observed: stamp of the last frame of the context, ns; the anchor's if None.
        pending: uint8 [P, H, W, 3], frames still to be executed; the last one is the anchor.
        horizon: frames wanted at least; the planner's own look-ahead if 0.
        lead: how many of the plan's first frames were pending when it was made, see `rooted`.
    """

    context: Image
    anchor: int
    prompt: str
    goal_id: int = 0
    plan_index: int = 0
    seed: int = 0
    warm_start: Any = field(default=None, repr=False)
    observed: int | None = None
    pending: Image | None = field(default=None, repr=False)
    horizon: int = 0
    lead: int = 0

    @property
    def start(self) -> Image:
        """The anchor frame, uint8 [H, W, 3]."""
        return self.context[-1] if self.pending is None else self.pending[-1]

    @property
    def seen(self) -> int:
        """Stamp of the last frame of the context, ns."""
        return self.anchor if self.observed is None else self.observed


def continued(
    request: PlanRequest, observer: Observer, execution: Execution, latency_ns: int
) -> PlanRequest:
    """The request for a plan that continues what will have been executed when it comes.

    Args:
        request: for a plan from the newest frame.
        observer: what was seen.
        execution: what is being executed.
        latency_ns: until the plan's actions will be there [ns].

    Returns:
        The request as it is where nothing is pending.
    """
    pending = execution.pending(request.anchor, latency_ns)
    if pending is None:
        return request
    try:
        context = observer.context(pending.observed)
    except LookupError:
        return request  # the cameras do not show that moment
    return replace(
        request,
        context=context,
        anchor=pending.anchor,
        observed=pending.observed,
        pending=pending.frames,
    )


def rooted(request: PlanRequest, plan: Plan, contract: Contract) -> tuple[PlanRequest, Plan]:
    """The plan from the last seen frame on: the pending frames, then its own.

    The pending frames were only imagined. Actions that begin at the last of them would never make
    up for what was not executed, and a robot that lags behind a little would do so more and more
    with each plan. From a frame that was seen, the first action leads to where the plan is.

    Returns:
        Request and plan as they are where nothing is pending.
    """
    pending = request.pending
    if pending is None:
        return request, plan
    K, P = committed_frames(plan, request, contract), len(pending)
    more = plan.alternatives
    if more is not None:
        more = np.concatenate([np.repeat(pending[None], len(more), axis=0), more], axis=1)
    return (
        replace(request, anchor=request.seen, pending=None, horizon=K + P, lead=P),
        replace(plan, frames=np.concatenate([pending, plan.frames]), alternatives=more),
    )


def waited(request: PlanRequest, observer: Observer, execution: Execution) -> PlanRequest:
    """For a plan that is there: if the robot only waited for it, it begins at the newest frame.

    By the stamps, its beginning would have passed; but the robot rests where the plan starts.
    """
    newest = observer.newest
    if newest is None or newest <= request.anchor or not execution.rested(request.seen):
        return request
    return replace(
        request, context=observer.context(), anchor=newest, observed=request.seen, pending=None
    )


def imagine(planner: VideoPlanner, request: PlanRequest, contract: Contract) -> Plan:
    """Ask a planner for a plan and check what it gives.

    A planner with an `anchor_at` method (the oracle, which is privileged) is told the stamp of the
    last seen frame and the number of frames first. The latency is measured here. A plan shorter
    than the request's horizon is continued from its own frames.

    Returns:
        The plan with `latency` and `motion` filled in. The motion is that from what was seen last
        to the end of the contract's look-ahead: a plan to stay where the pending frames lead is
        not at rest before they are executed.

    Raises:
        PlanRefusedError: the planner says that there is nothing to do.
        PlanRejectedError: the planner itself finds its plan implausible.
        PlanError: frames that do not fit the contract.
        Exception: whatever the planner raises.
    """
    began = time.perf_counter()
    anchor_at = getattr(planner, 'anchor_at', None)
    if anchor_at is not None:
        anchor_at(request.seen, request.horizon)
    more: dict[str, Any] = {} if request.pending is None else {'pending': request.pending}
    plan = planner.plan(
        request.context, request.prompt, seed=request.seed, warm_start=request.warm_start, **more
    )
    check_plan(plan, contract)
    plan = _lengthened(planner, plan, request, contract)
    last = min(contract.video.look_ahead, len(plan.frames)) - 1
    return replace(
        plan,
        latency=time.perf_counter() - began,
        motion=plan_motion(request.context[-1], plan.frames[last]),
    )


def committed_frames(plan: Plan, request: PlanRequest, contract: Contract) -> int:
    """How many frames are to be executed: the contract's, or all that the horizon asked for."""
    return max(contract.video.committed, min(request.horizon, len(plan.frames)))


def imagine_checked(
    planner: VideoPlanner, request: PlanRequest, contract: Contract, checks: PlanChecks
) -> Plan:
    """As `imagine`, with as many candidates as `checks` wants, judged by their frames.

    Raises:
        PlanRejectedError: no candidate may be executed.
    """

    def make(seed: int) -> Plan:
        return imagine(planner, replace(request, seed=seed), contract)

    def committed(plan: Plan) -> int:
        return committed_frames(plan, request, contract)

    return checks.ask(make, request.start, committed, request.seed)


def knows_pending(planner: VideoPlanner) -> bool:
    """Whether a planner can continue frames that are still to be executed."""
    return 'pending' in inspect.signature(planner.plan).parameters


def _lengthened(
    planner: VideoPlanner, plan: Plan, request: PlanRequest, contract: Contract
) -> Plan:
    """A plan of at least `request.horizon` frames: the planner goes on from what it imagined.

    Shorter where the planner rejects what comes then.
    """
    known = [*request.context, *(() if request.pending is None else request.pending)]
    frames = plan.frames
    for part in range(1, request.horizon):
        if len(frames) >= request.horizon:
            break
        context = np.stack([*known, *frames][-contract.video.context :])
        try:
            more = planner.plan(context, request.prompt, seed=mix(request.seed, part))
        except PlanRejectedError:
            break  # what is there is a plan, if a shorter one
        check_plan(more, contract)
        frames = np.concatenate([frames, more.frames])
    if frames is plan.frames:
        return plan
    return replace(plan, frames=frames[: request.horizon])


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


__all__ = [
    'PlanError',
    'PlanRequest',
    'check_plan',
    'committed_frames',
    'continued',
    'imagine',
    'imagine_checked',
    'knows_pending',
    'rooted',
    'waited',
    'warm_up',
]
