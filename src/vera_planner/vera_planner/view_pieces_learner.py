"""What the pieces planner learns of an embodiment that several cameras see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_planner.compact import to_signal
from vera_planner.pieces_codec import count_votes
from vera_planner.pieces_learner import Learner
from vera_planner.pieces_losses import mask_loss, noise_levels
from vera_planner.pieces_network import PiecesNetwork
from vera_planner.text import shared_encoder
from vera_planner.view_pieces_data import ScenePictures, ScenesData, SceneWindows
from vera_planner.view_pieces_network import RIM, ViewShape, importance, motion_numbers

SEEN = 6.0  # px: area from which a piece counts as seen in a picture of the training


@dataclass(frozen=True, kw_only=True)
class ViewLearning:
    """How an embodiment that several cameras see is learned.

    Attributes:
        codec_batch: pictures of a step, one view each.
        batch: windows of a step; draws: noise levels for each.
        look_ahead: frames imagined; components: principal components of the motions.
        jitter: spread of the codec's errors that places [px] and turns are disturbed by, smaller
            for half of the windows.
        hidden_pieces: share of pieces that a view does not show.
        blur: of the sentence's embedding, in units of its spread.
    """

    codec_batch: int = 12
    batch: int = 192
    draws: int = 2
    look_ahead: int = 8
    components: int = 64
    jitter: tuple[float, float] = (0.9, 0.3)
    hidden_pieces: float = 0.06
    blur: float = 0.4


class ViewLearner(Learner):
    """Learner of an embodiment that several cameras see.

    Args:
        name: of the embodiment.
        data: folder of tracks and pictures; held_out: for validation.
        options: how.
    """

    STEPS: ClassVar[dict[str, int]] = {'codec': 9000, 'motion': 14000}
    shape: ViewShape

    def __init__(self, name: str, data: Path, held_out: Path, options: ViewLearning) -> None:
        self.name, self.options = name, options
        self.data = ScenesData(data, options.look_ahead)
        self.held_out = ScenesData(held_out, options.look_ahead)
        meta = self.data.meta
        tool = tuple(piece for piece in meta['pieces'] if piece.endswith('finger'))
        self.shape = ViewShape(
            views=tuple(meta['views']), moving_view=meta['moving_view'],
            pieces=tuple(meta['pieces']), kin=tuple(meta['kin']), still=tuple(meta['fixtures']),
            tool=tool, look_ahead=options.look_ahead, components=options.components,
        )  # fmt: skip
        self.contract = meta['contract']
        self.pictures, self.shown = ScenePictures(data), ScenePictures(held_out)
        self.size: tuple[int, int] = self.pictures.frames.shape[2:4]
        self.recipe = meta['recipe'] | {'clips': len(self.data), 'pictures': len(self.pictures)}

    @torch.no_grad()
    def measure(self, network: PiecesNetwork) -> None:
        """Principal components of the motions, and spread of the sentences, of the data."""
        network.codec.least(self.name).fill_(0.8 * SEEN)
        rng, ends = np.random.default_rng(0), network.motion.views(self.name)
        weight = importance(self.shape).flatten()
        rows = [self._numbers(self.data.windows(rng, 1000)).flatten(1) for _ in range(5)]
        x = (torch.cat(rows) * weight).double()
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        count = self.shape.components
        spread = values[-count:].flip(0).clamp_min(1e-8).sqrt()
        axes = vectors[:, -count:].flip(1).T
        ends.basis.copy_((spread[:, None] * axes / weight).float())
        # From motions to components, and what an error of each weighs.
        scaled = ends.basis * weight
        spread = scaled.norm(dim=1)
        self.into = (scaled / spread[:, None] ** 2 * weight).T
        self.weight = (spread / spread[0]).clamp_min(0.02)
        encoder = shared_encoder()
        self.texts, self.texts_held = (
            torch.from_numpy(np.stack([encoder(s) for s in data.sentences]))
            for data in (self.data, self.held_out)
        )
        ends.measure_words(self.texts)

    def _numbers(self, w: SceneWindows) -> Tensor:
        return motion_numbers(
            self.shape, torch.from_numpy(w.now), torch.from_numpy(w.future),
            torch.from_numpy(w.plane), self.size,
        )

    def codec_loss(self, network: PiecesNetwork, rng: np.random.Generator) -> Tensor:
        p, size = self.pictures, self.options.codec_batch
        n = rng.integers(len(p), size=size)
        v = rng.integers(len(self.shape.views), size=size)
        return codec_loss(
            network, self.name, p.frames[n, v], p.labels[n, v], p.middles[n, v], p.turns[n]
        )

    def motion_loss(
        self, network: PiecesNetwork, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        c, motion = self.options, network.motion
        w = self.data.windows(rng, c.batch)
        with torch.no_grad():
            target = (self._numbers(w).flatten(1) @ self.into).repeat(c.draws, 1)
        text = self.texts[torch.from_numpy(w.sentence)]
        blur = torch.rand(c.batch, 1, generator=generator) * c.blur
        noise = torch.randn(text.shape, generator=generator)
        text = text + blur * noise / motion.views(self.name).text_scale
        scene_of = observed(w, self.size, generator, c.jitter, c.hidden_pieces)
        with torch.autocast('cpu', torch.bfloat16):
            scene = motion.encode(self.name, *scene_of, text, self.size).repeat(c.draws, 1)
        level = noise_levels(len(target), generator)
        t = level[:, None]
        noise = torch.randn(target.shape, generator=generator)
        with torch.autocast('cpu', torch.bfloat16):
            clean = motion.denoise(self.name, (1 - t) * target + t * noise, level, scene).float()
        error = F.smooth_l1_loss(clean, target, reduction='none', beta=0.5) * self.weight
        return (error.sum(1) / (level + 0.1)).mean()

    @torch.no_grad()
    def validate(self, network: PiecesNetwork, part: str) -> dict[str, float]:
        """Held-out errors of one part.

        Returns:
            Of the codec: intersection over union of masks, errors of middles [px] and turns [deg].
            Of the motions, from where goals begin, asked rightly and for something else: how far
            the hand's imagined place in the first view is from the expert's at the fourth and at
            the last frame [px]; and likewise the distance of the fingers in the moving view, at
            anchors anywhere.
        """
        rng = np.random.default_rng(99)
        if part == 'codec':
            return self._validate_codec(network, rng)
        out: dict[str, float] = {}
        motion, shape, data = network.motion, self.shape, self.held_out
        hand = shape.moves(0).index(shape.pieces.index('hand')) * 6
        w = data.windows(rng, 160, first=True, still=0)
        target = self._numbers(w)
        scene_of = observed(w, self.size, torch.Generator().manual_seed(9), (0.2, 0.03), 0.0)
        texts = self.texts_held[torch.from_numpy(w.sentence)]
        for label, text in (('', texts), ('_wrong', texts.roll(1, 0))):
            scene = motion.encode(self.name, *scene_of, text, self.size)
            planned = motion.sample(self.name, scene, 8, torch.Generator().manual_seed(99))
            off = (planned - target)[..., hand : hand + 2].norm(dim=-1)
            out[f'px4{label}'] = float(off[:, 3].mean())
            out[f'px{shape.look_ahead}{label}'] = float(off[:, -1].mean())
        w = data.windows(rng, 400, still=0)
        target = self._numbers(w)
        scene_of = observed(w, self.size, torch.Generator().manual_seed(9), (0.2, 0.03), 0.0)
        texts = self.texts_held[torch.from_numpy(w.sentence)]
        scene = motion.encode(self.name, *scene_of, texts, self.size)
        planned = motion.sample(self.name, scene, 8, torch.Generator().manual_seed(99))
        off = planned - target
        out['px4_anywhere'] = float(off[:, 3, hand : hand + 2].norm(dim=-1).mean())
        v = shape.views.index(shape.moving_view)
        begin = 6 * sum(len(shape.moves(u)) for u in range(v))
        one, two = (begin + 6 * shape.moves(v).index(k) for k in shape.place(shape.tool))
        out['fingers_px4'] = float((off[:, 3, one] - off[:, 3, two]).abs().mean())
        out['ground_px4'] = float(off[:, 3, -8:].abs().mean())
        return out

    def _validate_codec(
        self, network: PiecesNetwork, rng: np.random.Generator
    ) -> dict[str, float]:
        p, codec = self.shown, network.codec
        n = rng.integers(len(p), size=40)
        found: dict[str, list[Tensor]] = {'iou': [], 'px': [], 'deg': []}
        for v in range(len(self.shape.views)):
            logits, votes = codec(to_signal(p.frames[n, v]), self.name)
            target = masks_of(p.labels[n, v], len(self.shape.pieces))
            there = target.sum((2, 3)) > SEEN
            a, b = logits > 0, target > 0.5
            overlap = (a & b).sum((2, 3)) / (a | b).sum((2, 3)).clamp_min(1)
            at, way = count_votes(logits.sigmoid(), votes)
            off = (at - torch.from_numpy(p.middles[n, v])).norm(dim=-1)
            turn = torch.from_numpy(p.turns[n])
            angle = torch.atan2(way[..., 1], way[..., 0]) - torch.atan2(turn[..., 1], turn[..., 0])
            angle = torch.atan2(angle.sin(), angle.cos()).abs().rad2deg()
            found['iou'].append(overlap[there])
            found['px'].append(off[there & ~off.isnan()])
            found['deg'].append(angle[there & ~angle.isnan()])
        means = {key: torch.cat(values).mean() for key, values in found.items()} | {
            f'px_{view}': values.mean()
            for view, values in zip(self.shape.views, found['px'], strict=True)
        }
        return {key: float(mean) for key, mean in means.items() if not mean.isnan()}


def observed(
    w: SceneWindows,
    size: tuple[int, int],
    generator: torch.Generator,
    jitter: tuple[float, float],
    hidden: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the codec would tell about the anchors of windows: the first arguments of `encode`."""
    now, start = (torch.from_numpy(t)[..., :2] for t in (w.now, w.start))
    turns = torch.from_numpy(w.turns).nan_to_num()
    limit = now.new_tensor([size[1], size[0]]) - RIM
    out = []
    for at in (now, start):
        seen = ((at > RIM) & (at < limit)).all(-1)
        seen &= torch.rand(seen.shape, generator=generator) >= hidden
        out += [at.nan_to_num(), seen]
    amount = torch.rand(len(now), 1, 1, 1, generator=generator)
    noise = torch.randn(now.shape, generator=generator)
    out[0] = out[0] + jitter[0] * amount * noise
    out[2] = out[2] + jitter[0] * amount * torch.randn(now.shape, generator=generator)
    known = (turns != 0).any(-1, keepdim=True)
    spread = jitter[1] * amount[:, 0] * torch.randn(turns.shape, generator=generator)
    return out[0], out[1], turns + spread * known, out[2], out[3]


def masks_of(labels: np.ndarray, pieces: int) -> Tensor:
    """Masks float32 [B, K, H, W] of labels int8 [B, s H, s W], with two rays along a pixel."""
    which = torch.from_numpy(labels)[:, None] == torch.arange(pieces)[:, None, None]
    return F.avg_pool2d(which.float(), 2)


def codec_loss(
    network: PiecesNetwork,
    embodiment: str,
    frames: np.ndarray,
    labels: np.ndarray,
    middles: np.ndarray,
    turns: np.ndarray,
) -> Tensor:
    """Of masks, by pixel and by overlap, and of the middles and turns that are read from them.

    Args:
        network: the networks.
        embodiment: whose views.
        frames: uint8 [B, H, W, 3], one view each.
        labels: int8 [B, 2 H, 2 W].
        middles: float32 [B, K, 2] px, NaN where there are none.
        turns: float32 [B, K, 2], likewise.
    """
    target = masks_of(labels, len(network.config.shapes[embodiment].pieces))
    pictures = to_signal(frames).contiguous(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        logits, votes = network.codec(pictures, embodiment)
    at, way = count_votes(target, votes)
    true, turn = torch.from_numpy(middles), torch.from_numpy(turns)
    seen = target.sum((2, 3)) > SEEN
    here, turned = (seen & ~true.isnan().any(-1)).float(), (seen & ~turn.isnan().any(-1)).float()
    apart = F.smooth_l1_loss(at, true.nan_to_num(), reduction='none', beta=0.5).sum(-1).clamp(max=9)
    wrong = (way - turn.nan_to_num()).square().sum(-1)
    return (
        mask_loss(logits, target, seen.float())
        + 0.3 * (apart * here).sum() / here.sum().clamp_min(1)
        + 0.5 * (wrong * turned).sum() / turned.sum().clamp_min(1)
    )  # fmt: skip
