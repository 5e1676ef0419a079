"""The newest frames on the planner's time grid: what the camera saw, one frame period apart."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from vera_core.seams import Frame, Image


class FrameBuffer:
    """A ring of frames from which a context of equally spaced ones is picked.

    Cameras run faster than the planner's grid and drop frames now and then. The context holds only
    what was seen: it stops at the first gap and never pads with copies, because a planner that
    sees copied frames imagines that nothing moves.

    Safe to fill in one thread and to read in another.
    """

    def __init__(self, period_ns: int, tolerance_ns: int | None = None, maxlen: int = 64) -> None:
        """Make an empty buffer.

        Args:
            period_ns: distance of the context's frames, `contract.video.frame_period_ns`.
            tolerance_ns: how far a frame may lie from its place on the grid; a quarter of the
                period unless told.
            maxlen: frames kept; must span the context: T * frame_period * camera rate, and some.
        """
        if period_ns <= 0:
            raise ValueError(f'period is {period_ns} ns; it must be positive')
        if maxlen < 1:
            raise ValueError(f'maxlen is {maxlen}; it must be at least 1')
        tolerance = period_ns // 4 if tolerance_ns is None else tolerance_ns
        if not 0 <= tolerance <= period_ns // 2:
            raise ValueError(
                f'tolerance is {tolerance} ns; it must be between 0 and half the period, '
                f'{period_ns // 2} ns'
            )
        self.period_ns = period_ns
        self.tolerance_ns = tolerance
        self._frames: deque[Frame] = deque(maxlen=maxlen)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, stamp: int, image: Image) -> bool:
        """Add a frame.

        Args:
            stamp: acquisition time, integer nanoseconds.
            image: uint8 [H, W, 3], the same H and W as all others; kept, not copied.

        Returns:
            False for a second frame with the newest stamp, which is left out.

        Raises:
            ValueError: an image of another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'a frame is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}')
        with self._lock:
            if self._frames:
                last = self._frames[-1]
                if stamp == last.stamp:
                    return False
                if stamp < last.stamp:
                    # The clock was set back or the simulation began anew: what was seen before
                    # belongs to another time.
                    self._frames.clear()
                elif image.shape != last.image.shape:
                    raise ValueError(
                        f'frame is {image.shape[1]}x{image.shape[0]}, the ones before it '
                        f'{last.image.shape[1]}x{last.image.shape[0]}'
                    )
            self._frames.append(Frame(image=image, stamp=int(stamp)))
        return True

    def clear(self) -> None:
        """Forget all frames."""
        with self._lock:
            self._frames.clear()

    @property
    def newest(self) -> Frame | None:
        """The newest frame, or None before the first."""
        with self._lock:
            return self._frames[-1] if self._frames else None

    def nearest(self, stamp: int) -> Frame | None:
        """The frame nearest to `stamp` within the tolerance, or None."""
        with self._lock:
            return self._nearest(stamp, self.tolerance_ns)

    def context(self, n: int, end: int | None = None) -> tuple[tuple[int, ...], Image]:
        """The newest frame and the seen ones at -1, -2, ... periods from it.

        Args:
            n: frames wanted, >= 1.
            end: stamp [ns] of the frame to begin from instead, within the tolerance.

        Returns:
            Stamps and images uint8 [T, H, W, 3], oldest first, 1 <= T <= n. T < n when a frame is
            missing within the tolerance: nothing before that gap is returned.

        Raises:
            LookupError: no frame has arrived yet, or none at `end`.
        """
        if n < 1:
            raise ValueError(f'a context has at least 1 frame, not {n}')
        with self._lock:
            if not self._frames:
                raise LookupError('no frame has arrived yet')
            last = self._frames[-1] if end is None else self._nearest(end, self.tolerance_ns)
            if last is None:
                raise LookupError(f'no frame is kept at {end} ns')
            chosen = [last]
            for k in range(1, n):
                frame = self._nearest(chosen[0].stamp - k * self.period_ns, self.tolerance_ns)
                if frame is None:
                    break
                chosen.append(frame)
        chosen.reverse()
        return tuple(f.stamp for f in chosen), np.stack([f.image for f in chosen])

    def _nearest(self, stamp: int, tolerance: int) -> Frame | None:
        best: Frame | None = None
        for frame in reversed(self._frames):
            if best is not None and abs(frame.stamp - stamp) >= abs(best.stamp - stamp):
                break  # stamps only rise: from here on it gets worse
            best = frame
        if best is None or abs(best.stamp - stamp) > tolerance:
            return None
        return best
