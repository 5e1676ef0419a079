"""Cameras that go on stamping one and the same picture."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vera_core.seams import Image

# Changes of a scene that are further apart than this [ns] are two motions with a rest between.
PAUSE_NS = 1_000_000_000


class StillWatch:
    """Tells since when a camera has shown the very same picture.

    A sensor's noise makes every two pictures of a real camera differ; a driver that hands out an
    old buffer with new stamps does not. Simulated scenes at rest are the same picture rightly.
    """

    def __init__(self) -> None:
        self._picture: Image | None = None
        self._since = self._newest = 0

    @property
    def seen(self) -> bool:
        """Whether there was an image yet."""
        return self._picture is not None

    @property
    def duration(self) -> int:
        """From the first image of the present picture to the newest one [ns]."""
        return self._newest - self._since

    def add(self, image: Image, stamp: int) -> int:
        """Take an image, uint8 [H, W, 3], kept and not copied; returns `duration`."""
        before = self._picture
        same = before is not None and stamp >= self._newest and np.array_equal(before, image)
        self._newest = stamp
        if not same:
            self._picture, self._since = image, stamp
        return self.duration


class FreezeWatch:
    """Tells which of several cameras misses what the others see.

    A scene at rest looks still to all of them, in a simulation to the last bit. A camera is frozen
    if its picture stays the same while those of others go on changing without a pause: the end of
    one motion and the beginning of the next, each seen by one camera first, say nothing.

    Args:
        names: of the cameras.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._watches = {name: StillWatch() for name in names}
        # Stamps of the first and the last change of another camera that each camera missed.
        self._missed: dict[str, tuple[int, int] | None] = dict.fromkeys(self._watches)

    def add(self, name: str, image: Image, stamp: int) -> None:
        """Take an image of camera `name`, uint8 [H, W, 3], kept and not copied."""
        watch = self._watches[name]
        begun = watch.seen
        if watch.add(image, stamp) or not begun:
            return
        self._missed[name] = None
        for other in self._watches:
            if other != name:
                first, last = self._missed[other] or (stamp, stamp)
                if stamp < last:  # the clock was set back: the count begins anew
                    self._missed[other] = None
                else:
                    self._missed[other] = (stamp if stamp - last > PAUSE_NS else first, stamp)

    def frozen(self, after: int) -> str | None:
        """The first camera that has missed changes for longer than `after` ns, or None."""
        for name, missed in self._missed.items():
            if missed is not None and missed[1] - missed[0] > after:
                return name
        return None


__all__ = ['FreezeWatch', 'StillWatch']
