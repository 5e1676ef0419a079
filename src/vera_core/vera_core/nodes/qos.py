"""Quality of service by purpose. Publisher and subscriber of a topic name the same one.

A reliable subscriber never matches a best-effort publisher, silently: so nobody writes a profile
of its own.
"""

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(
    depth: int,
    reliability: ReliabilityPolicy,
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
    lifespan: Duration | None = None,
) -> QoSProfile:
    extra = {} if lifespan is None else {'lifespan': lifespan}
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=durability,
        **extra,
    )


CHUNK_LIFESPAN_S = 2.0

#: Cameras, live: the newest frame matters, a lost one does not.
IMAGE = _profile(2, ReliabilityPolicy.BEST_EFFORT)
#: Cameras in lock-step: every frame counts. Reliable alone is not enough: a reader that is held up
#: while the simulation runs on keeps only this many, and a chunk brings more frames than ten.
#: And transient local: a writer may know its reader before the reader knows it, and what is
#: written in between would be lost.
IMAGE_RELIABLE = _profile(64, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
#: joint_states, live.
STATE = _profile(5, ReliabilityPolicy.BEST_EFFORT)
#: joint_states for who shows them now and then.
NEWEST_STATE = _profile(1, ReliabilityPolicy.BEST_EFFORT)
#: joint_states in lock-step: a lost one would stop the simulation for ever.
STATE_RELIABLE = _profile(5, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
#: visual_plan.
PLAN = _profile(2, ReliabilityPolicy.RELIABLE)
#: action_chunk: an old one must never be executed, so it expires on the way.
CHUNK = _profile(1, ReliabilityPolicy.RELIABLE, lifespan=Duration(seconds=CHUNK_LIFESPAN_S))
#: joint_commands: only the newest set-point.
COMMAND = _profile(1, ReliabilityPolicy.RELIABLE)
#: /tf, as tf2 itself does.
TF = _profile(100, ReliabilityPolicy.RELIABLE)
#: markers: said again twice a second.
MARKERS = _profile(1, ReliabilityPolicy.RELIABLE)
#: goal_status, controller_status, robot_description, /tf_static: a late joiner sees the last one.
LATCHED = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
