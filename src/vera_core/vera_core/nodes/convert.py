"""Between the messages and the types of the pure code."""

from __future__ import annotations

import array
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import Image as ImageMsg
from sensor_msgs.msg import JointState

from vera_core.chunk import ActionChunk, ChunkError
from vera_core.clocks import from_ns, to_ns
from vera_core.gates import Verdict
from vera_core.image_codec import decode, encode
from vera_core.seams import Image, RobotState
from vera_msgs.msg import ActionChunk as ActionChunkMsg
from vera_msgs.msg import PlanVerdict

CANVAS_FRAME_ID = 'canvas'


class StateError(ValueError):
    """A JointState message that cannot be used; the message says why."""


def stamp_to_msg(ns: int) -> Time:
    """builtin_interfaces/Time of integer nanoseconds."""
    sec, nanosec = from_ns(ns)
    return Time(sec=sec, nanosec=nanosec)


def stamp_from_msg(msg: Any) -> int:
    """Integer nanoseconds of a Time, a Header, or a message with a header."""
    msg = getattr(msg, 'header', msg)
    return to_ns(getattr(msg, 'stamp', msg))


def image_to_msg(
    image: NDArray[np.uint8], stamp: int, frame_id: str = '', encoding: str | None = None
) -> ImageMsg:
    """sensor_msgs/Image of uint8 [H, W, 3] RGB; see `image_codec.encode`."""
    return encode(image, ImageMsg(), stamp, frame_id, encoding)


def image_from_msg(msg: ImageMsg) -> Image:
    """uint8 [H, W, 3] RGB, maybe sharing the memory of `msg`; see `image_codec.decode`."""
    return decode(msg)


def canvas_to_image_msg(canvas: Image, stamp: int) -> ImageMsg:
    """sensor_msgs/Image of a canvas, uint8 [H, W, 3]."""
    return image_to_msg(canvas, stamp, CANVAS_FRAME_ID)


def frames_to_msgs(frames: Image, anchor_stamp: int, frame_period: float) -> list[ImageMsg]:
    """One message per frame of a plan, stamped with the time it imagines.

    Args:
        frames: uint8 [M, H, W, 3], o_{t+1} .. o_{t+M}.
        anchor_stamp: time of o_t, nanoseconds.
        frame_period: seconds between frames.
    """
    period = round(frame_period * 1e9)
    return [canvas_to_image_msg(f, anchor_stamp + (k + 1) * period) for k, f in enumerate(frames)]


def frames_from_msgs(msgs: Iterable[ImageMsg]) -> Image:
    """uint8 [M, H, W, 3] of messages of one size; raises ImageError or ValueError otherwise."""
    return np.stack([decode(msg) for msg in msgs])


def chunk_to_msg(chunk: ActionChunk) -> ActionChunkMsg:
    """vera_msgs/ActionChunk of a chunk."""
    msg = ActionChunkMsg()
    msg.header.stamp = stamp_to_msg(chunk.stamp)
    msg.goal_id = chunk.goal_id
    msg.plan_seq = chunk.plan_seq
    msg.channels = list(chunk.channels)
    msg.period = chunk.period
    msg.steps = chunk.steps
    msg.values = array.array('d', np.ascontiguousarray(chunk.values, np.float64).tobytes())
    msg.residual = array.array('f', np.ascontiguousarray(chunk.residual, np.float32).tobytes())
    msg.observability = array.array(
        'f', np.ascontiguousarray(chunk.observability, np.float32).tobytes()
    )
    msg.translator_id = chunk.translator_id
    msg.model_hash = chunk.model_hash
    msg.latency = chunk.latency
    msg.part = chunk.part
    if chunk.observed is not None:
        msg.observed = stamp_to_msg(chunk.observed)
    return msg


def chunk_from_msg(msg: ActionChunkMsg) -> ActionChunk:
    """The chunk of a message.

    Raises:
        ChunkError: sizes that do not fit together, or numbers that are not finite.
    """
    n, steps = len(msg.channels), int(msg.steps)
    values = np.array(msg.values, dtype=np.float64)
    if values.size != steps * n:
        raise ChunkError(f'{values.size} values for {steps} steps of {n} channels')
    return ActionChunk(
        stamp=stamp_from_msg(msg),
        goal_id=int(msg.goal_id),
        plan_seq=int(msg.plan_seq),
        channels=tuple(msg.channels),
        period=float(msg.period),
        values=values.reshape(steps, n),
        residual=np.array(msg.residual, dtype=np.float32),
        observability=np.array(msg.observability, dtype=np.float32),
        translator_id=str(msg.translator_id),
        model_hash=str(msg.model_hash),
        latency=float(msg.latency),
        part=int(msg.part),
        observed=to_ns(msg.observed) or None,
    )


def verdict_to_msg(
    verdict: Verdict, goal_id: int, plan_seq: int, anchor: int, judge: str
) -> PlanVerdict:
    """vera_msgs/PlanVerdict about the plan with this anchor stamp [ns]."""
    msg = PlanVerdict(
        goal_id=goal_id,
        plan_seq=plan_seq,
        judge=judge,
        accepted=verdict.accepted,
        reason=verdict.reason,
        chosen=verdict.chosen,
        scores=[min(score, 1e9) for score in verdict.scores],
        threshold=verdict.threshold if math.isfinite(verdict.threshold) else 0.0,
    )
    msg.header.stamp = stamp_to_msg(anchor)
    return msg


def joints_to_msg(
    names: Sequence[str],
    positions: NDArray[np.float64],
    stamp: int,
    velocities: NDArray[np.float64] | None = None,
) -> JointState:
    """sensor_msgs/JointState of positions [rad or m] and velocities, in the order of `names`."""
    msg = JointState()
    msg.header.stamp = stamp_to_msg(stamp)
    msg.name = list(names)
    msg.position = array.array('d', np.asarray(positions, np.float64).tobytes())
    if velocities is not None:
        msg.velocity = array.array('d', np.asarray(velocities, np.float64).tobytes())
    return msg


def joints_from_msg(msg: JointState, names: Sequence[str]) -> RobotState:
    """The state of the joints in the order of `names`, whatever the order of the message.

    Velocities that the message leaves out are zero. Joints that are not in `names` are left out.

    Raises:
        StateError: a joint is missing or named twice, lengths differ, or a number is not finite.
    """
    found = list(msg.name)
    if len(set(found)) != len(found):
        raise StateError(f'a joint is named twice: {", ".join(found)}')
    missing = [name for name in names if name not in found]
    if missing:
        raise StateError(f'lacks joint {", ".join(missing)}; it has {", ".join(found) or "none"}')
    order = [found.index(name) for name in names]
    columns: dict[str, NDArray[np.float64]] = {}
    for field in ('position', 'velocity'):
        values = np.array(getattr(msg, field), dtype=np.float64)
        if field == 'velocity' and values.size == 0:
            values = np.zeros(len(found))
        if values.size != len(found):
            raise StateError(f'{values.size} values of {field} for {len(found)} joints')
        columns[field] = values[order]
        bad = np.flatnonzero(~np.isfinite(columns[field]))
        if bad.size:
            raise StateError(f'{field} of {names[bad[0]]} is not a finite number')
    return RobotState(
        stamp=stamp_from_msg(msg), positions=columns['position'], velocities=columns['velocity']
    )
