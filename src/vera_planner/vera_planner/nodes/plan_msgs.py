"""Messages of the planner node."""

from __future__ import annotations

import math

import numpy as np
from sensor_msgs.msg import Image as ImageMsg

from vera_core.contract import Contract
from vera_core.nodes.convert import canvas_to_image_msg, frames_to_msgs, stamp_to_msg
from vera_core.seams import Plan, VideoPlanner
from vera_msgs.msg import GoalStatus, VisualPlan
from vera_planner.goal import Goal
from vera_planner.planning import PlanRequest, committed_frames


def goal_to_msg(goal: Goal, now: int) -> GoalStatus:
    """vera_msgs/GoalStatus of a goal, stamped `now` [ns]."""
    msg = GoalStatus(
        goal_id=goal.goal_id,
        prompt=goal.prompt,
        status=int(goal.state),
        message=goal.message,
        plans=goal.plans,
    )
    msg.header.stamp = stamp_to_msg(now)
    return msg


def plan_to_msg(
    plan: Plan,
    request: PlanRequest,
    plan_seq: int,
    planner: VideoPlanner,
    contract: Contract,
    realised: float = math.nan,
) -> VisualPlan:
    """vera_msgs/VisualPlan of a plan; its stamp is the anchor's.

    Committed is what the contract says, or all that the request's horizon asked for.
    """
    msg = VisualPlan(
        goal_id=request.goal_id,
        plan_seq=plan_seq,
        prompt=request.prompt,
        planner_id=planner.planner_id,
        planner_hash=planner.checkpoint_hash,
        views=list(contract.camera_names),
        frame_period=plan.frame_period,
        committed=committed_frames(plan, request, contract),
        anchor=canvas_to_image_msg(request.start, request.anchor),
        pending=request.lead,
        observed=stamp_to_msg(request.seen),
        frames=frames_to_msgs(plan.frames, request.anchor, plan.frame_period),
        motion=plan.motion,
        latency=plan.latency,
        disagreement=plan.disagreement,
        realised=realised,
    )
    if plan.alternatives is not None:
        flat = plan.alternatives.reshape(-1, *plan.alternatives.shape[2:])
        msg.alternatives = frames_to_msgs(flat, request.anchor, plan.frame_period)
    msg.header = msg.anchor.header
    return msg


def strip_to_msg(plan: Plan, request: PlanRequest) -> ImageMsg:
    """All frames side by side, the anchor first: for viewers."""
    strip = np.concatenate([request.start, *plan.frames], axis=1)
    return canvas_to_image_msg(strip, request.anchor)
