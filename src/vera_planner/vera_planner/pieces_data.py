"""Training data of the pieces planner: tracks of videos, and pictures with their masks.

One folder holds `pieces.json` (contract fields, recipe, names of the pieces in the order in which
they are painted, caption groups, shards) and

    tracks_<n>.npy   float32 [E, F, K, 3]: x, y [px of the canvas] and angle [rad] of the K pieces
                     in F frames of E clips; NaN where a piece is not in the scene
    index_<n>.npy    int32 [E, 2]: first frame that may be an anchor, caption group
    frames.npy       uint8 [N, H, W, 3]: single frames of such videos
    masks.npy        uint8 [N, K, H, W]: share of each pixel that is a piece's, hidden or not
    poses.npy        float32 [N, K, 3]: poses of the pieces in them

Tracks and masks are of the image. They come from the simulators here; of a real video, from a
tracker and a segmenter. No action and no joint is in them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


class PiecesDataError(ValueError):
    """A folder of tracks that cannot be used; the message names the file and the cure."""


class PiecesWriter:
    """Writes a folder shard by shard; a run that was cut short goes on after its last shard."""

    def __init__(
        self,
        folder: Path,
        pieces: tuple[str, ...],
        contract_fields: dict[str, Any],
        recipe: dict[str, Any],
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.folder / 'pieces.json'
        if self._file.exists():
            self.meta = json.loads(self._file.read_text(encoding='utf-8'))
            if self.meta['recipe'] != recipe:
                raise PiecesDataError(
                    f'{self.folder} holds tracks of another recipe; delete it or name another '
                    'folder'
                )
        else:
            self.meta = {
                'contract': contract_fields,
                'recipe': recipe,
                'pieces': list(pieces),
                'groups': [],
                'shards': 0,
                'pictures': 0,
            }

    @property
    def shards_done(self) -> int:
        """Whole shards on disk."""
        return int(self.meta['shards'])

    def group(self, sentences: list[str]) -> int:
        """The number of this caption group, made if new."""
        if sentences not in self.meta['groups']:
            self.meta['groups'].append(sentences)
        return int(self.meta['groups'].index(sentences))

    def shard(self, tracks: Float, index: NDArray[np.int32]) -> None:
        """One shard of clips: tracks [E, F, K, 3] and index [E, 2] as in the module's head."""
        n = self.shards_done
        np.save(self.folder / f'tracks_{n:04d}.npy', tracks.astype(np.float32))
        np.save(self.folder / f'index_{n:04d}.npy', index.astype(np.int32))
        self.meta['shards'] = n + 1
        self._save()

    def pictures(
        self, frames: NDArray[np.uint8], masks: NDArray[np.uint8], poses: Float
    ) -> None:
        """All pictures: frames [N, H, W, 3], masks [N, K, H, W], poses [N, K, 3]."""
        np.save(self.folder / 'frames.npy', frames)
        np.save(self.folder / 'masks.npy', masks)
        np.save(self.folder / 'poses.npy', poses.astype(np.float32))
        self.meta['pictures'] = len(frames)
        self._save()

    def _save(self) -> None:
        part = self._file.with_suffix('.part')
        part.write_text(json.dumps(self.meta, indent=1), encoding='utf-8')
        part.replace(self._file)


@dataclass(frozen=True)
class Windows:
    """Windows of tracks: past float32 [B, T, K, 3], the last one the anchor; future [B, M, K, 3].

    `real` int64 [B]: how many frames of the past were there; earlier ones repeat the first.
    `groups` int64 [B]: caption groups.
    """

    past: Float
    future: Float
    real: NDArray[np.int64]
    groups: NDArray[np.int64]


class PiecesData:
    """A folder of tracks and pictures, read.

    Args:
        folder: of `PiecesWriter`.
        context: frames of the past in a window.
        look_ahead: frames of the future.

    Raises:
        PiecesDataError: nothing there, or clips too short for a window.
    """

    def __init__(self, folder: Path, context: int, look_ahead: int) -> None:
        self.folder, self.context, self.look_ahead = Path(folder), context, look_ahead
        self.reload()
        self.frames: NDArray[np.uint8] | None = None
        if self.meta['pictures']:
            self.frames = np.load(self.folder / 'frames.npy', mmap_mode='r')
            self._masks = np.load(self.folder / 'masks.npy', mmap_mode='r')
            self._poses = np.load(self.folder / 'poses.npy')

    def reload(self) -> None:
        """Read the shards that are there by now."""
        file = self.folder / 'pieces.json'
        if not file.is_file():
            raise PiecesDataError(
                f'no tracks in {self.folder}; `vera train planner` makes them, or name another '
                '--data'
            )
        self.meta = json.loads(file.read_text(encoding='utf-8'))
        self.pieces: tuple[str, ...] = tuple(self.meta['pieces'])
        shards = range(self.meta['shards'])
        if not shards:
            raise PiecesDataError(f'{self.folder} has no clips yet; let the data be made first')
        self.tracks: Float = np.concatenate(
            [np.load(self.folder / f'tracks_{n:04d}.npy') for n in shards]
        )
        index = np.concatenate([np.load(self.folder / f'index_{n:04d}.npy') for n in shards])
        self.first, self.group = index.T.astype(np.int64)
        # Anchors: from the first one to the last that has a whole future.
        self.anchors = self.tracks.shape[1] - self.look_ahead - self.first
        if (self.anchors < 1).any():
            raise PiecesDataError(
                f'{(self.anchors < 1).sum()} clips in {self.folder} are shorter than one window'
            )

    def __len__(self) -> int:
        return len(self.tracks)

    @property
    def sentences(self) -> list[list[str]]:
        """The caption groups."""
        return [list(group) for group in self.meta['groups']]

    def windows(self, rng: np.random.Generator, size: int, *, first: bool = False) -> Windows:
        """Windows drawn at random; with `first`, each begins where its caption first applies."""
        clips = rng.integers(len(self), size=size)
        anchor = self.first[clips]
        if not first:
            anchor = anchor + (rng.random(size) * self.anchors[clips]).astype(np.int64)
        back = anchor[:, None] + np.arange(1 - self.context, 1)
        past = self.tracks[clips[:, None], np.maximum(back, 0)]
        ahead = anchor[:, None] + np.arange(1, self.look_ahead + 1)
        future = self.tracks[clips[:, None], ahead]
        real = np.minimum(anchor + 1, self.context)
        return Windows(past, future, real, self.group[clips])

    def pictures(
        self, rng: np.random.Generator, size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Float]:
        """Frames uint8 [B, H, W, 3], masks uint8 [B, K, H, W], poses float32 [B, K, 3]."""
        if self.frames is None:
            raise PiecesDataError(f'{self.folder} has no pictures; let the data be made first')
        chosen = np.sort(rng.integers(len(self.frames), size=size))
        return self.frames[chosen], self._masks[chosen], self._poses[chosen]
