"""A folder of tracks and pictures for the planner of several cameras.

`scenes.json` says what there is; `clips_NNNN.npz` hold tracks, `pictures_NNNN.npz` pictures with
what each pixel shows. All of it is of the images: masks and tracks come from the simulator here, of
real videos they would come from a segmenter and a tracker. No action and no joint is in them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vera_planner.pieces_data import PiecesDataError

Float = NDArray[np.float32]
Ints = NDArray[np.int64]
CLIP_KEYS = ('tracks', 'plane', 'turns', 'clean', 'asked')
REST = 4  # of so many windows that show nothing but rest, one is learned from
PICTURE_KEYS = ('frames', 'labels', 'middles', 'turns')


class ScenesWriter:
    """Writes a folder shard by shard; a run that was cut short goes on after its last shard.

    Args:
        folder: made if new.
        meta: what the clips are of: contract, recipe, views, pieces, kin, families, still; see
            `ScenesData`.

    Raises:
        PiecesDataError: the folder holds something of another recipe.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / 'scenes.json'
        text = json.dumps(meta, indent=1)
        if file.exists() and file.read_text(encoding='utf-8') != text:
            raise PiecesDataError(
                f'{self.folder} holds tracks of another recipe; delete it or name another folder'
            )
        file.write_text(text, encoding='utf-8')

    def has(self, name: str) -> bool:
        """Whether a part is there."""
        return (self.folder / f'{name}.npz').exists()

    def write(self, name: str, arrays: dict[str, Any]) -> None:
        """One part: `clips_NNNN` with CLIP_KEYS or `pictures_NNNN` with PICTURE_KEYS."""
        part = self.folder / f'.{name}.part.npz'
        np.savez(part, **arrays)
        part.replace(self.folder / f'{name}.npz')


@dataclass(frozen=True)
class SceneWindows:
    """Windows of tracks, B of them.

    Attributes:
        start, now: tracks float32 [B, V, K, 8] where the goal began, and of the anchor.
        future: float32 [B, M, V, K, 8].
        plane: float32 [B, M + 1, 3, 3], the ground's in the moving view, the anchor's first.
        turns: float32 [B, K, 2] of the anchor.
        sentence: int64 [B], place in `ScenesData.sentences`.
    """

    start: Float
    now: Float
    future: Float
    plane: Float
    turns: Float
    sentence: Ints


class ScenesData:
    """A folder of `ScenesWriter`, read.

    Attributes:
        pieces: names; kin: those of them that differ in a word only, so that they may change
            places in a clip and its sentence; words: theirs.
        moving_view: of the views, the one whose camera moves.
        sentences: all that is said; the `still` ones call for nothing.

    Raises:
        PiecesDataError: nothing there.
    """

    def __init__(self, folder: Path, look_ahead: int) -> None:
        self.folder, self.look_ahead = Path(folder), look_ahead
        file = self.folder / 'scenes.json'
        shards = sorted(self.folder.glob('clips_*.npz'))
        if not file.is_file() or not shards:
            raise PiecesDataError(
                f'no tracks in {self.folder}; `vera train planner` makes them, or name another '
                '--data'
            )
        self.meta = json.loads(file.read_text(encoding='utf-8'))
        self.pieces: tuple[str, ...] = tuple(self.meta['pieces'])
        self.views: tuple[str, ...] = tuple(self.meta['views'])
        self.moving_view = int(self.views.index(self.meta['moving_view']))
        self.kin = np.array([self.pieces.index(name) for name in self.meta['kin']])
        read = [np.load(shard) for shard in shards]
        for key in CLIP_KEYS:
            setattr(self, key, np.concatenate([part[key] for part in read]))
        self.tracks: Float
        self.plane: Float
        self.turns: Float
        self.clean: NDArray[np.bool_]
        self.asked: Ints
        # Anchors whose whole future is the expert's own.
        ahead = np.lib.stride_tricks.sliding_window_view(self.clean[:, 1:], look_ahead, axis=1)
        clips, anchors = np.nonzero(ahead.all(-1))
        # Rest: no piece's place in any view, in the tracks' own pixels, changes by half of one.
        now, then = self.tracks[clips, anchors], self.tracks[clips, anchors + look_ahead]
        rests = np.nanmax(np.abs(then - now)[..., :2], axis=(1, 2, 3)) < 0.5
        kept = ~rests | (np.arange(len(clips)) % REST == 0)
        self._clips, self._anchors = clips[kept], anchors[kept]
        # A kind of goal is drawn as often as the root of its windows' number: long ones have many.
        _, kinds, counts = np.unique(
            self.asked[self._clips, 0], return_inverse=True, return_counts=True
        )
        self._drawn = np.cumsum(1 / np.sqrt(counts)[kinds])
        self._say()

    def __len__(self) -> int:
        return len(self.tracks)

    def _say(self) -> None:
        """Every sentence, and where those of each (family, a, b) are."""
        words = self.meta['words']
        self.sentences: list[str] = []
        self._said: dict[tuple[int, int, int], Ints] = {}

        def add(key: tuple[int, int, int], sentences: list[str]) -> None:
            begin = len(self.sentences)
            self.sentences += sentences
            self._said[key] = np.arange(begin, len(self.sentences))

        colours = range(len(words))
        for f, (_, templates) in enumerate(self.meta['families']):
            a_named, b_named = ('{' + x + '}' in templates[0] for x in 'ab')
            for a in colours if a_named else (-1,):
                for b in colours if b_named else (-1,):
                    if a != b or a < 0:
                        say = {'a': words[a], 'b': words[b]}
                        add((f, a, b), [t.format(**say) for t in templates])
        add((-1, -1, -1), list(self.meta['still']))

    def windows(
        self, rng: np.random.Generator, size: int, *, first: bool = False, still: float = 0.06
    ) -> SceneWindows:
        """Windows drawn at random; with `first`, each begins where its goal does.

        Args:
            rng: of the draw.
            size: how many.
            first: only first anchors, and pieces stay what they are.
            still: share of windows in which what is said calls for nothing.
        """
        if first:
            clips = rng.choice(np.flatnonzero(self.clean[:, 1 : self.look_ahead + 1].all(1)), size)
            anchors = np.zeros(size, np.int64)
        else:
            drawn = np.searchsorted(self._drawn, rng.random(size) * self._drawn[-1], side='right')
            clips, anchors = self._clips[drawn], self._anchors[drawn]
        ahead = anchors[:, None] + np.arange(self.look_ahead + 1)
        tracks = self.tracks[clips[:, None], ahead]
        start = self.tracks[clips, 0]
        turns = self.turns[clips, anchors]
        plane = self.plane[clips[:, None], ahead]
        asked = self.asked[clips].copy()
        if not first:
            order = rng.permuted(np.tile(np.arange(len(self.kin)), (size, 1)), axis=1)
            row = np.arange(size)[:, None]
            tracks, start, turns = tracks.copy(), start.copy(), turns.copy()
            # What was piece j of the kin becomes piece order[j].
            source = np.argsort(order, axis=1)
            tracks[:, :, :, self.kin] = np.moveaxis(
                np.take_along_axis(
                    tracks[:, :, :, self.kin], source[:, None, None, :, None], axis=3
                ), 0, 0,
            )
            start[:, :, self.kin] = np.take_along_axis(
                start[:, :, self.kin], source[:, None, :, None], axis=2
            )
            turns[:, self.kin] = turns[:, self.kin][row, source]
            for word in (1, 2):
                named = np.flatnonzero(asked[:, word] >= 0)
                asked[named, word] = order[named, asked[named, word]]
        calm = rng.random(size) < still
        for b in np.flatnonzero(calm):
            gone = np.flatnonzero(np.isnan(start[b, 0, self.kin, 0]))
            if asked[b, 1] >= 0 and len(gone) and rng.random() < 0.6:
                asked[b, 1] = rng.choice(gone)
            else:
                asked[b] = -1
            tracks[b, 1:] = tracks[b, :1]
            plane[b, 1:] = plane[b, :1]
        sentence = np.array([rng.choice(self._said[tuple(key)]) for key in asked.tolist()])
        return SceneWindows(start, tracks[:, 0], tracks[:, 1:], plane, turns, sentence)


class ScenePictures:
    """The pictures of a folder, read.

    Attributes:
        frames: uint8 [N, V, H, W, 3].
        labels: int8 [N, V, 2 H, 2 W], the piece that each ray meets, or -1.
        middles: float32 [N, V, K, 2] px; turns: float32 [N, K, 2]; NaN where there are none.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(Path(folder).glob('pictures_*.npz'))
        if not files:
            raise PiecesDataError(f'{folder} has no pictures; let the data be made first')
        read = [np.load(file) for file in files]
        self.frames: NDArray[np.uint8]
        self.labels: NDArray[np.int8]
        self.middles: Float
        self.turns: Float
        for key in PICTURE_KEYS:
            setattr(self, key, np.concatenate([part[key] for part in read]))

    def __len__(self) -> int:
        return len(self.frames)
