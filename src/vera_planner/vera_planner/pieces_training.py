"""Trains the pieces planner: first the codec on pictures and masks, then the motions on tracks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  torch's own convention

from vera_core.checkpoint import CheckpointInfo
from vera_planner.compact import to_signal
from vera_planner.parts_training import PartsTrainer, PartsTraining, mask_loss, noise_levels
from vera_planner.pieces_data import PiecesData
from vera_planner.pieces_network import PiecesConfig, PiecesNetwork, count_votes, read_poses
from vera_planner.text import shared_encoder

STILL = 1e-3  # px and rad: a piece whose pose never changes by more does not move


@dataclass(frozen=True, kw_only=True)
class PiecesTraining(PartsTraining):
    """One training run.

    Attributes:
        data: folder of tracks and pictures of each embodiment; held_out: for validation.
        drop_history: share of windows that see the anchor alone; without it the planner goes on
            with the motion it sees whatever the words say.
        jitter: spread of the codec's errors that the poses of the past are disturbed by, px and
            rad, smaller for half of the windows.
        shares: of the steps for each embodiment; equal if empty.
    """

    data: dict[str, Path]
    held_out: dict[str, Path]
    name: str = 'pieces'
    codec_steps: int = 1800
    codec_batch: int = 16
    steps: int = 6000
    batch: int = 256
    shares: tuple[float, ...] = ()
    warmup: int = 300
    ema: float = 0.999
    drop_history: float = 0.6
    jitter: tuple[float, float] = (0.15, 0.015)
    validate_every: int = 500
    width: int = 24
    hidden: int = 384
    depth: int = 4
    look_ahead: int = 16
    context: int = 4

    def __post_init__(self) -> None:
        if not self.data or self.data.keys() != self.held_out.keys():
            raise ValueError('every folder of training tracks needs one of held-out tracks')
        if self.shares and len(self.shares) != len(self.data):
            raise ValueError(f'{len(self.shares)} shares for {len(self.data)} folders of tracks')
        if any(share <= 0 for share in self.shares):
            raise ValueError(f'shares {self.shares}: each must be positive')


class PiecesTrainer(PartsTrainer):
    """Holds all that an exact resume needs."""

    config: PiecesTraining

    def __init__(self, config: PiecesTraining) -> None:
        super().__init__(config)
        c = config
        self.data = {
            name: PiecesData(folder, c.context, c.look_ahead) for name, folder in c.data.items()
        }
        self.held_out = {
            name: PiecesData(folder, c.context, c.look_ahead) for name, folder in c.held_out.items()
        }
        self.encoder = shared_encoder()
        self.shape = PiecesConfig(
            pieces={name: data.pieces for name, data in self.data.items()},
            moving={name: _moving(data) for name, data in self.data.items()},
            context=c.context,
            look_ahead=c.look_ahead,
            width=c.width,
            hidden=c.hidden,
            depth=c.depth,
        )
        self.network = PiecesNetwork(self.shape)
        self.network.codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._texts: dict[str, Tensor] = {}
        self._measure()
        self._own(self.network)

    @torch.no_grad()
    def _measure(self) -> None:
        """Spreads that networks and losses are in units of, from the training data."""
        rng = np.random.default_rng(self.config.seed)
        for name, data in self.data.items():
            _, masks, poses = data.pictures(rng, min(1000, 4 * len(data)))
            there = ~np.isnan(poses[..., 0])
            area = (masks / 255.0).sum((2, 3))
            mean = (area * there).sum(0) / np.maximum(there.sum(0), 1)
            self.network.codec.least(name).copy_(torch.from_numpy(0.3 * mean))
            ends = self.network.motion.of(name)
            windows = data.windows(rng, 4000)
            motion = (windows.future - windows.past[:, -1:])[:, :, ends.moving]
            spread = np.sqrt(np.nanmean(motion**2, axis=0))
            ends.scale.copy_(torch.from_numpy(spread).clamp_min(STILL))
            captions = torch.from_numpy(
                np.stack([self.encoder(s) for group in data.sentences for s in group])
            )
            ends.text_mean.copy_(captions.mean(0))
            ends.text_scale.copy_(1 / captions.std(0).clamp_min(0.01))

    def _text(self, name: str, groups: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Embeddings [B, 384] of one sentence of each window's caption group."""
        sentences = (self.data if name in self.data else self.held_out)[name].sentences
        said = [str(rng.choice(sentences[g])) for g in groups]
        return torch.from_numpy(np.stack([self.encoder(s) for s in said]))

    def codec_step(self) -> float:
        names = list(self.data)
        name = names[self.done['codec'] % len(names)]
        frames, masks, poses = self.data[name].pictures(self.rngs['codec'], self.config.codec_batch)
        loss = codec_loss(self.network, name, frames, masks, poses)
        self._update('codec', loss)
        return float(loss.detach())

    def motion_step(self) -> float:
        c, rng, generator = self.config, self.rngs['motion'], self.generators['motion']
        name = self._turn(rng)
        data, motion = self.data[name], self.network.motion
        windows = data.windows(rng, c.batch)
        ends = motion.of(name)
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
        text = self._text(name, windows.groups, rng)
        canvas = _canvas(data)
        with torch.autocast('cpu', torch.bfloat16):
            scene = motion.encode(name, past, real, there, text, canvas).repeat(c.draws, 1)
        target = target.repeat(c.draws, 1, 1, 1)
        level = noise_levels(len(target), generator)
        t = level[:, None, None, None]
        noise = torch.randn(target.shape, generator=generator)
        with torch.autocast('cpu', torch.bfloat16):
            clean = motion.denoise(name, (1 - t) * target + t * noise, level, scene).float()
        # The first frames are executed, the last ones only tell where it leads.
        ahead = torch.linspace(1.0, 0.3, c.look_ahead)[:, None, None]
        error = F.smooth_l1_loss(clean, target, reduction='none', beta=1.0) * ahead
        loss = (error.mean((1, 2, 3)) / (level + 0.1)).mean()
        self._update('motion', loss)
        return float(loss.detach())

    def _turn(self, rng: np.random.Generator) -> str:
        """Whose windows this step is about."""
        names = list(self.data)
        shares = np.array(self.config.shares or [1.0] * len(names))
        return names[int(rng.choice(len(names), p=shares / shares.sum()))]

    def validate(self, part: str) -> dict[str, float]:
        out: dict[str, float] = {}
        for name, data in self.held_out.items():
            out |= validate(self.average, name, data, self.encoder, part)
        return out

    def export(self, command: str) -> CheckpointInfo:
        """Write the averaged weights (float16) as a checkpoint."""
        return self._export(
            command, data=[d.meta['recipe'] | {'clips': len(d)} for d in self.data.values()],
            shape=self.shape.to_dict(),
            contract={'any_of': [data.meta['contract'] for data in self.data.values()]},
        )  # fmt: skip


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


@torch.no_grad()
def validate(
    network: PiecesNetwork, embodiment: str, data: PiecesData, encoder: Any, part: str
) -> dict[str, float]:
    """Held-out errors of one part.

    Returns:
        Of the codec: intersection over union of masks, mean errors of poses [px, deg]. Of the
        planner, from the first anchor of clips with the anchor alone, by 8 steps of sampling:
        mean distance [px] of the most moving piece's imagined place from the expert's at the
        fourth and at the last frame, asked rightly; and at the fourth asked for something else.
    """
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
        out[f'{embodiment}_iou'] = float(overlap[there].mean())
        out[f'{embodiment}_px'] = float(np.hypot(off[..., 0], off[..., 1])[there].mean())
        out[f'{embodiment}_deg'] = float(np.rad2deg(turn[there].mean()))
        return out
    motion = network.motion
    windows = data.windows(rng, 128, first=True)
    ends = motion.of(embodiment)
    past = torch.from_numpy(windows.past)
    known = ~torch.isnan(past[:, -1, :, 0])
    target = torch.from_numpy(windows.future)[:, :, ends.moving] - past[:, -1:, ends.moving]
    groups = data.sentences
    wrong = (windows.groups + rng.integers(1, len(groups), len(past))) % len(groups)
    for label, chosen in (('', windows.groups), ('_wrong', wrong)):
        said = [groups[g][0] for g in chosen]
        text = torch.from_numpy(np.stack([encoder(s) for s in said]))
        scene = motion.encode(
            embodiment, past, torch.ones(len(past)), known, text, _canvas(data)
        )
        planned = motion.sample(embodiment, scene, 8, torch.Generator().manual_seed(99))
        off = (planned - target)[..., :2].norm(dim=-1)
        # The piece that moves most: the last link, the pusher.
        piece = int(ends.scale[0, :, :2].norm(dim=-1).argmax())
        out[f'{embodiment}_px4{label}'] = float(off[:, 3, piece].mean())
        out[f'{embodiment}_px{planned.shape[1]}{label}'] = float(off[:, -1, piece].mean())
    return out


def main_train(
    config: PiecesTraining,
    command: str,
    *,
    resume: bool = True,
) -> CheckpointInfo:
    """What `vera train planner` does once the tracks are known.

    Args:
        config: the run; `config.out` receives state, curve (JSON and PNG) and checkpoint.
        command: the command line, kept in the checkpoint.
        resume: continue a run that was cut short in the same folder.
    """
    trainer = PiecesTrainer(config)
    if resume:
        trainer.resume()
    trainer.run()
    plot_curves(trainer.curves, Path(config.out) / 'curve.png')
    return trainer.export(command)


def plot_curves(curves: dict[str, list[dict[str, float]]], file: Path) -> None:
    """The learning curve: the codec's masks, and how far imagined pieces are from the expert's."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout='constrained')
    for axes, part, ends in (
        (left, 'codec', ('_iou',)),
        (right, 'motion', ('_px4', '_px4_wrong', '_px16', '_px16_wrong')),
    ):
        rows = curves[part]
        for key in sorted({k for row in rows for k in row if k.endswith(ends)}):
            style = '--' if key.endswith('wrong') else '-'
            axes.plot(
                [row[f'{part}_step'] for row in rows], [row[key] for row in rows], style,
                label=key.replace('_', ' '),
            )  # fmt: skip
        axes.set(xlabel=f'step of the {part}')
        if rows:
            side = {'loc': 'center left', 'bbox_to_anchor': (1.0, 0.5)} if part == 'motion' else {}
            axes.legend(frameon=False, fontsize=7, **side)
    left.set(ylabel='masks: intersection over union')
    right.set(ylabel='distance from the expert [px]', yscale='log')
    figure.savefig(file, dpi=110)
    plt.close(figure)
