"""Images of several cameras, put together to canvases by their stamps."""

from __future__ import annotations

from vera_core import canvas
from vera_core.clocks import seconds_to_ns
from vera_core.contract import Contract
from vera_core.matching import Matcher, MatchStats
from vera_core.seams import Frame, Image


class ViewAssembler:
    """Makes a canvas of each image of the first camera and the nearest images of the others.

    A canvas has the stamp of the first camera's image. Its images lie within `video.max_skew` of
    each other; an image of the first camera that finds no such companions is left out and counted.

    Args:
        contract: cameras and canvas.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        most = contract.video.max_skew
        self._matcher: Matcher[Image] = Matcher(
            {camera.name: camera.period_ns for camera in contract.cameras},
            seconds_to_ns(most) if most else contract.cameras[0].period_ns,
        )
        self.skew = 0  # ns between the images of the newest canvas
        self.newest: int | None = None  # stamp of the newest canvas, ns

    @property
    def stats(self) -> MatchStats:
        """How well the cameras meet: canvases, skew, what was left out and why."""
        return self._matcher.stats()

    @property
    def unmatched(self) -> int:
        """Images of the first camera without companions."""
        return sum(self.stats.dropped.values())

    def add(self, name: str, image: Image, stamp: int) -> Frame | None:
        """Take an image, uint8 [height, width, 3]; returns a canvas if it completes one.

        Raises:
            CanvasError: an image of another size than the contract says.
        """
        match = self._matcher.add(name, stamp, image)
        if match is None:
            return None
        self.skew, self.newest = match.skew, match.stamp
        return Frame(image=canvas.tile(match.items, self._contract), stamp=match.stamp)


__all__ = ['ViewAssembler']
