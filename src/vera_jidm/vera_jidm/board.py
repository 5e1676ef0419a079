"""What a training shows in TensorBoard: losses, held-out error, and pictures of J."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vera_core.seams import Image
from vera_jidm.recipe import TrainingError


class Board:
    """Writes event files into a folder; a context manager.

    Args:
        folder: of the event files.
        step: those of an earlier run from this step on are dropped by TensorBoard.

    Raises:
        TrainingError: the package is missing.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                '--tensorboard needs the package: `pip install tensorboard`'
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def add(self, step: int, values: Mapping[str, float], group: str = 'train') -> None:
        """Numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(f'{group}/{name}', value, step)

    def picture(self, step: int, name: str, image: Image) -> None:
        """uint8 [H, W, 3] RGB."""
        self._writer.add_image(name, image, step, dataformats='HWC')

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
