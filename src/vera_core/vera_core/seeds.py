"""Seeds that say where a random number came from, the same on every machine."""

from __future__ import annotations

import hashlib
import struct


def mix(*parts: int) -> int:
    """A 63-bit seed from integers: stable over machines, versions and processes.

    Python's own hash() is neither stable nor well mixed, and sums of seeds collide.
    """
    packed = b''.join(struct.pack('<Q', int(part) & 0xFFFF_FFFF_FFFF_FFFF) for part in parts)
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


def plan_seed(base_seed: int, goal_id: int, plan_index: int) -> int:
    """Noise seed of one plan: live, in lock-step and in evaluation alike.

    Args:
        base_seed: seed of the planner (parameter `seed`) or of the episode.
        goal_id: goal the plan serves.
        plan_index: counts the plans of this goal, from 0.

    Returns:
        0 <= seed < 2^63.
    """
    return mix(base_seed, goal_id, plan_index)
