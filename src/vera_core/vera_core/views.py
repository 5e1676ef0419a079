"""Images of several cameras, put together to canvases by their stamps."""

from __future__ import annotations

from collections import deque

from vera_core import canvas
from vera_core.contract import Contract
from vera_core.seams import Frame, Image

KEPT = 8  # images of each camera that wait for those of the others


class ViewAssembler:
    """Makes a canvas of each image of the first camera and the nearest images of the others.

    A canvas has the stamp of the first camera's image. The images of the others may be at most
    half of the first camera's period away from it; an image of the first camera that finds no
    such companions is left out and counted.

    Args:
        contract: cameras and canvas.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._tolerance = contract.cameras[0].period_ns // 2
        self._waiting: dict[str, deque[Frame]] = {
            name: deque(maxlen=KEPT) for name in contract.camera_names
        }
        self.skew = 0  # ns between the images of the newest canvas
        self.unmatched = 0  # images of the first camera without companions
        self.newest: int | None = None  # stamp of the newest canvas, ns

    def add(self, name: str, image: Image, stamp: int) -> Frame | None:
        """Take an image, uint8 [height, width, 3]; returns a canvas if it completes one.

        Raises:
            CanvasError: an image of another size than the contract says.
        """
        waiting = self._waiting[name]
        if waiting and stamp < waiting[-1].stamp:
            for queue in self._waiting.values():
                queue.clear()  # the clock was set back: nothing kept belongs to what comes now
        waiting.append(Frame(image=image, stamp=stamp))
        first, *others = self._contract.camera_names
        while self._waiting[first]:
            reference = self._waiting[first][0]
            chosen = {first: reference}
            for other in others:
                queue = self._waiting[other]
                if not queue or queue[-1].stamp < reference.stamp - self._tolerance:
                    return None  # its image may still come
                chosen[other] = min(queue, key=lambda f: abs(f.stamp - reference.stamp))
            self._waiting[first].popleft()
            skew = max(abs(frame.stamp - reference.stamp) for frame in chosen.values())
            if skew <= self._tolerance:
                self.skew, self.newest = skew, reference.stamp
                views = {key: frame.image for key, frame in chosen.items()}
                return Frame(image=canvas.tile(views, self._contract), stamp=reference.stamp)
            self.unmatched += 1
        return None


__all__ = ['ViewAssembler']
