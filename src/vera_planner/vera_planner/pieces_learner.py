"""What the pieces planner learns of one embodiment: losses and held-out errors.

`Learner` is the seam; `PoseLearner` is that of embodiments seen from above by one camera.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_planner.compact import to_signal
from vera_planner.pieces_codec import count_votes, read_poses
from vera_planner.pieces_data import PiecesData
from vera_planner.pieces_losses import mask_loss, noise_levels
from vera_planner.pieces_network import PiecesNetwork, PoseShape
from vera_planner.text import shared_encoder
from vera_planner.view_pieces_network import ViewShape

# Of the loss of motions, beside that of other learners: gradients of the trunk of one size.
WEIGHT = 10.0
STILL = 1e-3  # px and rad: a piece whose pose never changes by more does not move


class Learner(ABC):
    """One embodiment's part of a training.

    Attributes:
        STEPS: of the codec and of the planner of motions, by default.
        name: of the embodiment.
        shape: of the embodiment.
        contract: what the checkpoint has to fit; recipe: what the data were made by.
    """

    STEPS: ClassVar[dict[str, int]]
    name: str
    shape: PoseShape | ViewShape
    contract: dict[str, Any]
    recipe: dict[str, Any]

    @abstractmethod
    def measure(self, network: PiecesNetwork) -> None:
        """Set the buffers of a network that are measured on the data."""

    @abstractmethod
    def codec_loss(self, network: PiecesNetwork, rng: np.random.Generator) -> Tensor:
        """Of one batch of pictures."""

    @abstractmethod
    def motion_loss(
        self, network: PiecesNetwork, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        """Of one batch of windows."""

    @abstractmethod
    def validate(self, network: PiecesNetwork, part: str) -> dict[str, float]:
        """Held-out errors of one part."""


@dataclass(frozen=True, kw_only=True)
class PoseLearning:
    """How an embodiment seen from above is learned.

    Attributes:
        codec_batch: pictures of a step.
        batch: windows of a step; draws: noise levels for each.
        context: frames of the past; look_ahead: frames imagined.
        drop_history: share of windows that see the anchor alone; without it the planner goes on
            with the motion it sees whatever the words say.
        jitter: spread of the codec's errors that the poses of the past are disturbed by, px and
            rad, smaller for half of the windows.
    """

    codec_batch: int = 16
    batch: int = 256
    draws: int = 2
    context: int = 4
    look_ahead: int = 16
    drop_history: float = 0.6
    jitter: tuple[float, float] = (0.15, 0.015)


class PoseLearner(Learner):
    """Learner of an embodiment seen from above.

    Args:
        name: of the embodiment.
        data: folder of tracks and pictures; held_out: for validation.
        options: how.
    """

    STEPS: ClassVar[dict[str, int]] = {'codec': 1000, 'motion': 3500}

    def __init__(self, name: str, data: Path, held_out: Path, options: PoseLearning) -> None:
        c = options
        self.name, self.options = name, c
        self.data = PiecesData(data, c.context, c.look_ahead)
        self.held_out = PiecesData(held_out, c.context, c.look_ahead)
        self.shape = PoseShape(
            pieces=self.data.pieces, moving=_moving(self.data), context=c.context,
            look_ahead=c.look_ahead,
        )  # fmt: skip
        self.contract = self.data.meta['contract']
        counts = {'clips': len(self.data), 'pictures': self.data.meta['pictures']}
        self.recipe = self.data.meta['recipe'] | counts
        self.encoder = shared_encoder()

    @torch.no_grad()
    def measure(self, network: PiecesNetwork) -> None:
        """Spreads that networks and losses are in units of, from the training data."""
        rng, data = np.random.default_rng(0), self.data
        _, masks, poses = data.pictures(rng, min(1000, 4 * len(data)))
        there = ~np.isnan(poses[..., 0])
        area = (masks / 255.0).sum((2, 3))
        mean = (area * there).sum(0) / np.maximum(there.sum(0), 1)
        network.codec.least(self.name).copy_(torch.from_numpy(0.3 * mean))
        ends = network.motion.poses(self.name)
        windows = data.windows(rng, 4000)
        motion = (windows.future - windows.past[:, -1:])[:, :, ends.moving]
        spread = np.sqrt(np.nanmean(motion**2, axis=0))
        ends.scale.copy_(torch.from_numpy(spread).clamp_min(STILL))
        captions = torch.from_numpy(
            np.stack([self.encoder(s) for group in data.sentences for s in group])
        )
        ends.measure_words(captions)

    def codec_loss(self, network: PiecesNetwork, rng: np.random.Generator) -> Tensor:
        frames, masks, poses = self.data.pictures(rng, self.options.codec_batch)
        return codec_loss(network, self.name, frames, masks, poses)

    def motion_loss(
        self, network: PiecesNetwork, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        c, data, motion = self.options, self.data, network.motion
        windows = data.windows(rng, c.batch)
        ends = motion.poses(self.name)
        past = torch.from_numpy(windows.past)
        target = torch.from_numpy(windows.future)[:, :, ends.moving] - past[:, -1:, ends.moving]
        target = target / ends.scale
        there = ~torch.isnan(past[:, -1, :, 0])
        amount = torch.rand(c.batch, 1, 1, 1, generator=generator)
        noise = torch.randn(past.shape, generator=generator)
        past = past + noise * amount * past.new_tensor([c.jitter[0]] * 2 + [c.jitter[1]])
        real = torch.from_numpy(windows.real)
        drop = torch.rand(c.batch, generator=generator) < c.drop_history
        real = torch.where(drop, 1, real)
        said = [str(rng.choice(data.sentences[g])) for g in windows.groups]
        text = torch.from_numpy(np.stack([self.encoder(s) for s in said]))
        with torch.autocast('cpu', torch.bfloat16):
            scene = motion.encode(self.name, past, real, there, text, _canvas(data))
            scene = scene.repeat(c.draws, 1)
        target = target.repeat(c.draws, 1, 1, 1)
        level = noise_levels(len(target), generator)
        t = level[:, None, None, None]
        noise = torch.randn(target.shape, generator=generator)
        with torch.autocast('cpu', torch.bfloat16):
            clean = motion.denoise(self.name, (1 - t) * target + t * noise, level, scene).float()
        # The first frames are executed, the last ones only tell where it leads.
        ahead = torch.linspace(1.0, 0.3, c.look_ahead)[:, None, None]
        error = F.smooth_l1_loss(clean, target, reduction='none', beta=1.0) * ahead
        return WEIGHT * (error.mean((1, 2, 3)) / (level + 0.1)).mean()

    @torch.no_grad()
    def validate(self, network: PiecesNetwork, part: str) -> dict[str, float]:
        """Held-out errors of one part.

        Returns:
            Of the codec: intersection over union of masks, mean errors of poses [px, deg]. Of the
            planner, from the first anchor of clips with the anchor alone, by 8 steps of sampling:
            mean distance [px] of the most moving piece's imagined place from the expert's at the
            fourth and at the last frame, asked rightly and for something else.
        """
        embodiment, data = self.name, self.held_out
        rng = np.random.default_rng(99)
        out: dict[str, float] = {}
        if part == 'codec':
            frames, masks, poses = data.pictures(rng, 64)
            logits, votes = network.codec(to_signal(frames), embodiment)
            there = ~np.isnan(poses[..., 0])
            found, true = (logits > 0).numpy(), masks > 127
            union = (found | true).sum((2, 3))
            overlap = (found & true).sum((2, 3)) / np.maximum(union, 1)
            off = read_poses(logits.sigmoid(), votes).numpy() - poses
            turn = np.abs(np.arctan2(np.sin(off[..., 2]), np.cos(off[..., 2])))
            out['iou'] = float(overlap[there].mean())
            out['px'] = float(np.hypot(off[..., 0], off[..., 1])[there].mean())
            out['deg'] = float(np.rad2deg(turn[there].mean()))
            return out
        motion = network.motion
        windows = data.windows(rng, 128, first=True)
        ends = motion.poses(embodiment)
        past = torch.from_numpy(windows.past)
        known = ~torch.isnan(past[:, -1, :, 0])
        target = torch.from_numpy(windows.future)[:, :, ends.moving] - past[:, -1:, ends.moving]
        groups = data.sentences
        wrong = (windows.groups + rng.integers(1, len(groups), len(past))) % len(groups)
        for label, chosen in (('', windows.groups), ('_wrong', wrong)):
            said = [groups[g][0] for g in chosen]
            text = torch.from_numpy(np.stack([self.encoder(s) for s in said]))
            scene = motion.encode(
                embodiment, past, torch.ones(len(past)), known, text, _canvas(data)
            )
            planned = motion.sample(embodiment, scene, 8, torch.Generator().manual_seed(99))
            off = (planned - target)[..., :2].norm(dim=-1)
            # The piece that moves most: the last link, the pusher.
            piece = int(ends.scale[0, :, :2].norm(dim=-1).argmax())
            out[f'px4{label}'] = float(off[:, 3, piece].mean())
            out[f'px{planned.shape[1]}{label}'] = float(off[:, -1, piece].mean())
        return out


def _canvas(data: PiecesData) -> tuple[int, int]:
    assert data.frames is not None
    return int(data.frames.shape[1]), int(data.frames.shape[2])


def _moving(data: PiecesData) -> tuple[str, ...]:
    """The pieces that ever move."""
    span = np.ptp(np.nan_to_num(data.tracks[:2000]), axis=1).max((0, 2))
    return tuple(name for name, far in zip(data.pieces, span, strict=True) if far > STILL)


def codec_loss(
    network: PiecesNetwork,
    embodiment: str,
    frames: np.ndarray,
    masks: np.ndarray,
    poses: np.ndarray,
) -> Tensor:
    """Of masks, by pixel and by overlap, and of the poses that are read from them.

    Args:
        network: the networks.
        embodiment: whose pictures.
        frames: uint8 [B, H, W, 3].
        masks: uint8 [B, K, H, W].
        poses: float32 [B, K, 3], NaN where a piece is not there.
    """
    pictures = to_signal(frames).contiguous(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        logits, votes = network.codec(pictures, embodiment)
    target = torch.from_numpy(masks).float() / 255
    there = torch.from_numpy(~np.isnan(poses[..., 0]))
    pose = torch.from_numpy(np.nan_to_num(poses))
    at, way = count_votes(logits.detach().sigmoid(), votes)
    true = torch.stack([pose[..., 2].cos(), pose[..., 2].sin()], dim=-1)
    apart = F.smooth_l1_loss(at, pose[..., :2], reduction='none', beta=0.5).sum(-1)
    turned = (way - true).square().sum(-1)
    known = there.float()
    poses_off = ((apart + 3 * turned) * known).sum() / known.sum()
    return mask_loss(logits, target, known) + 0.3 * poses_off
