"""What the planner sees: canvases of the newest frames, and which cameras have gone silent."""

from __future__ import annotations

from vera_core.clocks import Clock, Watchdog, seconds_to_ns
from vera_core.contract import CameraSpec, Contract
from vera_core.frames import FrameBuffer
from vera_core.seams import Image
from vera_core.stillness import FreezeWatch
from vera_core.views import ViewAssembler


class Observer:
    """Takes the images of all cameras.

    Args:
        contract: cameras, canvas, frame period and context.
        clock: for silence; the monotonic clock unless told.
    """

    def __init__(self, contract: Contract, clock: Clock | None = None) -> None:
        video = contract.video
        self._contract = contract
        self.views = ViewAssembler(contract)
        # Twice the context at the cameras' rate: some frames come late or not at all.
        frames = video.context * video.frame_period_ns // contract.cameras[0].period_ns
        self._buffer = FrameBuffer(video.frame_period_ns, maxlen=2 * frames + 2)
        self._watchdogs = {c.name: Watchdog(video.frame_timeout, clock) for c in contract.cameras}
        # Longer than the others: a camera that is silent is to be told as that.
        self._canvases = Watchdog(2 * video.frame_timeout, clock)
        self._freeze = FreezeWatch(contract.camera_names)

    @property
    def newest(self) -> int | None:
        """Stamp of the newest canvas [ns], or None before the first."""
        frame = self._buffer.newest
        return None if frame is None else frame.stamp

    def add(self, name: str, image: Image, stamp: int) -> bool:
        """Take an image of camera `name`; True if it completed a new canvas.

        Raises:
            CanvasError: an image of another size than the contract says.
        """
        frame = self.views.add(name, image, stamp)
        self._watchdogs[name].feed()
        if len(self._watchdogs) > 1:
            self._freeze.add(name, image, stamp)
        if frame is not None:
            self._canvases.feed()
        return frame is not None and self._buffer.push(frame.stamp, frame.image)

    def context(self, end: int | None = None) -> Image:
        """The newest canvas and those before it on the planner's grid, uint8 [T, H, W, 3].

        Args:
            end: stamp [ns] of the canvas to take instead of the newest.

        Raises:
            LookupError: there is no canvas yet, or none at `end`.
        """
        return self._buffer.context(self._contract.video.context, end)[1]

    def expect(self) -> tuple[CameraSpec, ...]:
        """Someone begins to wait for frames: silent cameras get their whole time from now.

        Returns:
            The cameras that are silent now.
        """
        silent = []
        for camera in self._contract.cameras:
            watchdog = self._watchdogs[camera.name]
            if watchdog.expired or not watchdog.fed:
                watchdog.reset()
                silent.append(camera)
        self._canvases.reset()
        return tuple(silent)

    @property
    def silent(self) -> tuple[CameraSpec, ...]:
        """Cameras without an image for `video.frame_timeout`."""
        return tuple(c for c in self._contract.cameras if self._watchdogs[c.name].expired)

    @property
    def trouble(self) -> str:
        """Why the images of several cameras are of no use though all of them come; or ''."""
        if self._canvases.expired:
            stats = self.views.stats
            culprit = max(stats.dropped, key=stats.dropped.__getitem__, default='')
            why = stats.problem or f'those of {culprit!r} are further away than video.max_skew'
            return f'the images of the cameras do not belong together in time: {why}'
        timeout = self._contract.video.frame_timeout
        frozen = self._freeze.frozen(seconds_to_ns(timeout))
        if frozen is not None:
            return (
                f'camera {frozen!r} shows the same picture while those of others have changed for '
                f'more than {timeout:g} s: it is frozen; restart its driver, or unplug it and plug '
                'it in'
            )
        return ''


__all__ = ['Observer']
