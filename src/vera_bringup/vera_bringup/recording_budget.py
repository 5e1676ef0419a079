"""How much a recording of an embodiment will take, and whether the disk has room for it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vera_core.contract import Contract

RESERVE = 512 * 2**20  # bytes that stay free
# Of raw size at quality 90: that of noise, which is the worst; docs/results/recording.md.
JPEG_SHARE = 0.3
STATES = 300_000  # bytes/s of joint states, commands, statuses, diagnostics, frames
LEAST = 60.0  # s that must fit when no duration is given


class BudgetError(ValueError):
    """A recording that would not fit; the message says how long one may be, and the cure."""


@dataclass(frozen=True)
class Budget:
    """Bytes per second of a recording, before compression of its chunks.

    Attributes:
        cameras: images of the contract's cameras.
        plans: imagined frames and debug pictures, while a goal is pursued.
        rest: everything else.
    """

    cameras: float
    plans: float
    rest: float = STATES

    @property
    def rate(self) -> float:
        """In all."""
        return self.cameras + self.plans + self.rest


def estimate(contract: Contract, jpeg: bool = False) -> Budget:
    """What recording all topics takes: the contract's cameras and plans, raw or as JPEG."""
    share = JPEG_SHARE if jpeg else 1.0
    cameras = sum(c.width * c.height * 3 * c.rate for c in contract.cameras) * share
    video, canvas = contract.video, contract.canvas
    frame = canvas.width * canvas.height * 3
    plan = frame * (1 + video.look_ahead)
    pictures = frame * (1 + video.look_ahead + video.committed + len(contract.channels)) * share
    # A plan is made when half of the last one is over.
    return Budget(cameras, (plan + pictures) / (0.5 * video.committed * video.frame_period))


def check(folder: Path, rate: float, seconds: float | None) -> str:
    """One sentence about rate and room.

    Args:
        folder: where the recording goes; the nearest folder above it that exists is asked.
        rate: bytes/s.
        seconds: of the recording, None if it has no end.

    Raises:
        BudgetError: it does not fit.
    """
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    lasts = max(0.0, free - RESERVE) / rate
    text = f'about {rate / 1e6:.1f} MB/s; {free / 1e9:.1f} GB free'
    wanted = LEAST if seconds is None else seconds
    if lasts < wanted:
        raise BudgetError(
            f'{folder}: a recording takes {text}, of which {RESERVE / 1e9:.1f} GB stay free: room '
            f'for {lasts:.0f} s, and {wanted:.0f} s are wanted. Free some space, choose another '
            'folder, record less with --topics, or images as JPEG with --jpeg'
        )
    return f'{text}: room for {_clock(lasts)}'


def _clock(seconds: float) -> str:
    minutes = seconds / 60
    return f'{minutes:.0f} minutes' if minutes < 120 else f'{minutes / 60:.0f} hours'


__all__ = ['Budget', 'BudgetError', 'check', 'estimate']
