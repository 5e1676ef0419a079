"""Training videos on disk: short clips of canvases and the sentences that caption them.

One folder: `clips.json` (contract fields, caption groups, shard list) and per shard
`<shard>_frames.npy` uint8 [E, F, H, W, 3], memory-mapped when read, and `<shard>_index.npy`
int32 [E, 3]: number of valid frames, first frame that may be an anchor, caption group. A caption
group is a list of sentences that say the same; one is drawn anew each time a clip is used.
Frames before the first anchor may show anything; those after it show what the caption asks for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ClipsError(ValueError):
    """A folder of clips that cannot be used; the message names the file and the cure."""


class ClipWriter:
    """Writes shards one by one; a run that was cut short resumes after its last whole shard."""

    def __init__(self, folder: Path, contract_fields: dict[str, Any], recipe: dict[str, Any]):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._index_file = self.folder / 'clips.json'
        if self._index_file.exists():
            self._meta = json.loads(self._index_file.read_text())
            if self._meta['recipe'] != recipe:
                raise ClipsError(
                    f'{self.folder} holds clips of another recipe; delete it or name another folder'
                )
        else:
            self._meta = {
                'contract': contract_fields,
                'recipe': recipe,
                'groups': [],
                'shards': [],
            }

    @property
    def shards_done(self) -> int:
        """Whole shards on disk."""
        return len(self._meta['shards'])

    def group(self, sentences: list[str]) -> int:
        """The number of this caption group, made if new."""
        if sentences not in self._meta['groups']:
            self._meta['groups'].append(sentences)
        return int(self._meta['groups'].index(sentences))

    def write(self, frames: NDArray[np.uint8], index: NDArray[np.int32]) -> None:
        """One shard: frames uint8 [E, F, H, W, 3], index int32 [E, 3] as in the module's head."""
        name = f'shard_{self.shards_done:04d}'
        np.save(self.folder / f'{name}_frames.npy', frames)
        np.save(self.folder / f'{name}_index.npy', index)
        self._meta['shards'].append(name)
        part = self._index_file.with_suffix('.part')
        part.write_text(json.dumps(self._meta, indent=1))
        part.replace(self._index_file)


@dataclass(frozen=True)
class Batch:
    """frames uint8 [B, T + M, H, W, 3] with the anchor at index T - 1, and a sentence each."""

    frames: NDArray[np.uint8]
    sentences: list[str]


class ClipDataset:
    """Windows of T context and M future frames, drawn uniformly from the clips of a folder.

    Context that a clip does not have (before its first frame) repeats nothing: `history` of a
    window says how many context frames are real, and the caller masks the others.

    Raises:
        ClipsError: no clips there, or clips too short for one window.
    """

    def __init__(self, folder: Path, context: int, look_ahead: int) -> None:
        meta_file = Path(folder) / 'clips.json'
        if not meta_file.is_file():
            raise ClipsError(
                f'no clips in {folder}; `vera train planner` makes them, or name another --data'
            )
        self.meta = json.loads(meta_file.read_text())
        self.context, self.look_ahead = context, look_ahead
        names = self.meta['shards']
        self._frames = [np.load(Path(folder) / f'{n}_frames.npy', mmap_mode='r') for n in names]
        index = [np.load(Path(folder) / f'{n}_index.npy') for n in names]
        self._where = np.concatenate(
            [np.stack([np.full(len(ix), s), np.arange(len(ix))], 1) for s, ix in enumerate(index)]
        )
        self._index = np.concatenate(index)
        usable = self._index[:, 0] - 1 - look_ahead >= self._index[:, 1]
        if not usable.all():
            raise ClipsError(f'{(~usable).sum()} clips in {folder} are shorter than one window')

    def __len__(self) -> int:
        return len(self._index)

    def table(self) -> NDArray[np.int64]:
        """int64 [3, E]: valid frames, first frame that may be an anchor, caption group."""
        return self._index.T.astype(np.int64)

    def frames(self, clip: int) -> NDArray[np.uint8]:
        """All frames of a clip, uint8 [F, H, W, 3]; those after the valid ones mean nothing."""
        shard, row = self._where[clip]
        found: NDArray[np.uint8] = self._frames[shard][row]
        return found

    def sample(
        self, rng: np.random.Generator, size: int, *, first_anchor: bool = False
    ) -> tuple[Batch, NDArray[np.int64]]:
        """A batch of windows, and how many of each one's T context frames are real.

        With `first_anchor` every window starts where its caption first applies.
        """
        context, ahead = self.context, self.look_ahead
        frames, sentences, history = [], [], []
        for clip in rng.integers(len(self), size=size):
            shard, row = self._where[clip]
            length, first, group = self._index[clip]
            anchor = first if first_anchor else int(rng.integers(first, length - ahead))
            real = min(context, anchor + 1)
            window = self._frames[shard][row, anchor + 1 - real : anchor + 1 + ahead]
            pad = np.zeros((context - real, *window.shape[1:]), np.uint8)
            frames.append(np.concatenate([pad, window]))
            sentences.append(str(rng.choice(self.meta['groups'][group])))
            history.append(real)
        return Batch(np.stack(frames), sentences), np.array(history)
