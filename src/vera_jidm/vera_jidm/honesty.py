"""How far each step of a translated plan may be believed.

A ridge solve always gives an action, also for a dream of something that cannot happen. Each signal
here is a number a step, larger is worse, about one way in which a dream can be wrong:

    residual     share of the flow that no action of this robot explains, ||J a - v|| / ||v||
    unexplained  the same in one place: worst 3 x 3 cells of |v - J a|, px
    inconsistent share of the picture whose flow there and back disagrees
    asymmetry    action from o_t and the forward flow against that from o_t+1 and the backward flow
    picture      what changed although the action explains it not: o_t+1 against o_t moved by J a,
                 mean over the picture, grey levels
    place        the same in one place, worst 5 x 5 px, beyond what one pixel of motion makes up
                 for: the edges of a moving arm differ much where its motion is off a little
    action       Mahalanobis length of the action under the training's actions
    stillness    1 / (change of the 1% most changed pixels): a copy of the frame before

None of them knows what may go wrong. `Calibration` puts them on one scale, -log10 of the share of
real transitions that look worse, and takes the worst. Thresholds come from real transitions alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vera_core.checkpoint import CheckpointInfo, write_atomic
from vera_core.normal import Tail
from vera_core.seams import Array, Image
from vera_jidm.flow import consistency

Float = NDArray[np.float64]
SIGNALS = (
    'residual', 'unexplained', 'inconsistent', 'asymmetry', 'picture', 'place', 'action',
    'stillness',
)
# Share of real transitions that may be flagged.
FALSE_ALARMS = 0.01
FORMAT = 1
_LOG = logging.getLogger(__name__)
_MOVING = 0.01  # of the pixels: those that changed most tell whether anything moves
# Below this change [grey levels] a frame counts as a copy, however small the change is.
_COPY = 0.5
_FAR_PX = 1e4
_NEIGHBOURS = np.ones((3, 3), np.uint8)
_NOISE_PX = 0.1  # of the explained-motion map: flow below it needs no explanation


class CalibrationError(ValueError):
    """A calibration that cannot be made or used; the message says why and what to do."""


@dataclass(frozen=True)
class KnownActions:
    """The actions of a training, for `where does this action lie among them`.

    Attributes:
        quantiles: float64 [n, 101], of |a| of each channel, contract units.
        precision: float64 [n, n], inverse of the second moment of the actions about zero.
        lengths: float64 [101], quantiles of sqrt(a' precision a).
    """

    quantiles: Float
    precision: Float
    lengths: Float

    @classmethod
    def of(cls, actions: NDArray[Any]) -> KnownActions:
        """From actions [N, n] in contract units; ValueError for fewer than 2 n or odd numbers."""
        a = np.asarray(actions, np.float64)
        if a.ndim != 2 or len(a) < 2 * a.shape[1] or not np.isfinite(a).all():
            raise ValueError(
                f'statistics need at least two finite actions a channel, [N, n]; got {a.shape}'
            )
        moment = a.T @ a / len(a)
        # A channel that never moved must not make the others impossible to judge.
        moment += 1e-9 * np.trace(moment) / len(moment) * np.eye(len(moment))
        precision = np.linalg.inv(moment)
        grid = np.linspace(0, 1, 101)
        lengths = np.sqrt(np.einsum('ij,jk,ik->i', a, precision, a))
        return cls(np.quantile(np.abs(a), grid, axis=0).T, precision, np.quantile(lengths, grid))

    def length(self, values: Float) -> Float:
        """Mahalanobis length of actions float64 [K, n], float64 [K]."""
        square = np.einsum('ij,jk,ik->i', values, self.precision, values)
        return np.asarray(np.sqrt(np.maximum(square, 0)))

    def percentile(self, values: Float) -> tuple[Float, Float]:
        """Share of the training's actions that are smaller, 0..1: by channel [K, n], whole [K]."""
        grid = np.linspace(0, 1, 101)
        channels = [
            np.interp(np.abs(values[:, j]), q, grid) for j, q in enumerate(self.quantiles)
        ]
        return np.stack(channels, axis=1), np.interp(self.length(values), self.lengths, grid)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON, to seven digits."""
        return {
            name: np.vectorize(lambda x: float(f'{x:.7g}'))(getattr(self, name)).tolist()
            for name in ('quantiles', 'precision', 'lengths')
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KnownActions:
        """From a JSON; ValueError when it is not what `to_dict` gives."""
        try:
            out = cls(*(np.array(values[k], np.float64)
                        for k in ('quantiles', 'precision', 'lengths')))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'action statistics: {error} is missing or wrong') from error
        n = len(out.quantiles)
        if (
            out.quantiles.shape != (n, 101) or out.precision.shape != (n, n)
            or out.lengths.shape != (101,)
        ):
            raise ValueError('action statistics: shapes do not fit')
        return out


@dataclass(frozen=True)
class PlanHonesty:
    """What speaks against each of the K steps of a plan.

    Attributes:
        signals: name -> float64 [K]; SIGNALS says what they are. `action` is missing where the
            statistics of the training's actions are.
        explained: float32 [K, h, w], share of each cell's flow that the action explains, 0..1; 1
            where nothing moves.
        observability: float64 [K, n], diag(J'WJ) relative to the largest.
        condition: float64 [K], of each solve.
        channel_percentile: float64 [K, n], share of the training's actions that were smaller, or
            empty [K, 0] without statistics.
        score: float64 [K], -log10 of the share of real transitions that look worse in the worst
            signal; 0 without a calibration.
        worst: the signal that made the score, '' without a calibration.
        resting: bool [K], the still steps at the end of a plan: it comes to rest, and `stillness`
            does not count; a copied frame that motion follows is no rest.
        threshold: score above which fewer than 1% of real transitions are; inf without.
    """

    signals: dict[str, Float]
    explained: Array
    observability: Float
    condition: Float
    channel_percentile: Float
    score: Float
    worst: tuple[str, ...]
    resting: NDArray[np.bool_]
    threshold: float

    @property
    def suspicious(self) -> NDArray[np.bool_]:
        """Whether each step looks worse than real motion does, bool [K]."""
        return np.asarray(self.score > self.threshold)

    @property
    def calibrated(self) -> bool:
        """Whether the scores mean anything."""
        return bool(np.isfinite(self.threshold))


@dataclass(frozen=True)
class Calibration:
    """What is normal for one checkpoint.

    Attributes:
        tails: signal -> its distribution over real transitions.
        threshold: of the score, see PlanHonesty.
        actions: of the training.
        checkpoint: first digits of the SHA-256 it was made with; its signals mean nothing to
            another one.
        count: real transitions it was made from.
    """

    tails: dict[str, Tail]
    threshold: float
    actions: KnownActions
    checkpoint: str
    count: int

    def score(
        self, signals: Mapping[str, Float], plan: bool = True
    ) -> tuple[Float, tuple[str, ...], NDArray[np.bool_]]:
        """Score [K], the signal that made it, and which steps rest, see PlanHonesty.

        Args:
            signals: float64 [K] each.
            plan: whether the K steps follow each other; otherwise none can be said to rest.
        """
        names = [name for name in self.tails if name in signals]
        rarities = {name: self.tails[name].rarity(signals[name]) for name in names}
        resting = np.zeros(len(signals[names[0]]), bool)
        if plan and 'stillness' in names:
            still = rarities['stillness'] > self.threshold
            resting = np.logical_and.accumulate(still[::-1])[::-1]
            rarities['stillness'] = np.where(resting, 0.0, rarities['stillness'])
        table = np.stack([rarities[name] for name in names])
        return table.max(0), tuple(names[i] for i in table.argmax(0)), resting

    @staticmethod
    def rank(scores: Float) -> float:
        """The score that FALSE_ALARMS of these exceed."""
        return float(np.quantile(scores, 1 - FALSE_ALARMS))

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        data = {
            'format': FORMAT,
            'checkpoint': self.checkpoint,
            'count': self.count,
            'threshold': self.threshold,
            'tails': {
                name: {'quantiles': tail.quantiles.tolist(), 'excess': tail.excess}
                for name, tail in self.tails.items()
            },
            'actions': self.actions.to_dict(),
        }
        write_atomic(path, (json.dumps(data, allow_nan=False) + '\n').encode())

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Raises CalibrationError when the file is not what `save` writes."""
        try:
            data = json.loads(path.read_text(encoding='utf-8'))
            if data['format'] != FORMAT:
                raise ValueError(f'format {data["format"]}, this version reads {FORMAT}')
            unknown = sorted(set(data['tails']) - set(SIGNALS))
            if unknown:
                raise ValueError(f'unknown signals {", ".join(unknown)}')
            return cls(
                {
                    name: Tail(np.array(t['quantiles'], np.float64), float(t['excess']))
                    for name, t in data['tails'].items()
                },
                float(data['threshold']),
                KnownActions.from_dict(data['actions']),
                str(data['checkpoint']),
                int(data['count']),
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f'{path}: {error}; make it again with `vera study honesty --save`'
            ) from error


def calibration_path(info: CheckpointInfo) -> Path:
    """Where the calibration of a checkpoint lies: beside it."""
    return info.path.with_name(f'{info.path.stem}.honesty.json')


def find_calibration(info: CheckpointInfo) -> Calibration | None:
    """The calibration beside a checkpoint, or None if there is none for these weights.

    Raises:
        CalibrationError: the file is damaged.
    """
    path = calibration_path(info)
    if not path.is_file():
        return None
    found = Calibration.read(path)
    if found.checkpoint != info.short_hash:
        # A new training leaves the old file behind; no scores are better than wrong ones.
        _LOG.warning(
            '%s was made with weights %s, %s is %s: the signals have no scores until '
            '`vera study honesty --save` makes it again',
            path, found.checkpoint, info.path.name, info.short_hash,
        )
        return None
    return found


def calibrate(
    real: Sequence[Mapping[str, Float]],
    actions: KnownActions,
    checkpoint: str,
    dreams: Sequence[Mapping[str, Float]] = (),
) -> Calibration:
    """Learn what real motion looks like, and what imagined motion that came true looks like.

    Each signal's distribution is that over real transitions or over dreams, whichever reaches
    further up; the threshold lets FALSE_ALARMS of either pass. A video planner's frames are a bit
    blurred and a bit inconsistent; without dreams here most good plans would be flagged.

    Args:
        real: signals of real transitions that the checkpoint was not trained on, in any batches.
        actions: of the training.
        checkpoint: first digits of its SHA-256.
        dreams: signals of plans that led to the goal, one plan each.

    Raises:
        CalibrationError: fewer than 200 transitions; a 99th percentile of fewer means nothing.
    """
    joined = {k: np.concatenate([s[k] for s in real]) for k in SIGNALS}
    count = len(joined['residual'])
    if count < 200:
        raise CalibrationError(f'{count} transitions; a calibration needs at least 200')
    tails = {name: Tail.of(values) for name, values in joined.items()}
    made = Calibration(tails, float('inf'), actions, checkpoint, count)
    threshold = made.rank(made.score(joined, plan=False)[0])
    if dreams:
        for name in SIGNALS:
            # Whoever rests is as still as a copy: stillness is judged by real motion alone.
            if name != 'stillness':
                imagined = Tail.of(np.concatenate([s[name] for s in dreams]))
                tails[name] = max(tails[name], imagined, key=lambda tail: tail.at(FALSE_ALARMS))
        made = Calibration(tails, threshold, actions, checkpoint, count)
        scores = np.concatenate([made.score(s)[0] for s in dreams])
        threshold = max(made.rank(made.score(joined, plan=False)[0]), made.rank(scores))
    return Calibration(tails, threshold, actions, checkpoint, count)


@dataclass(frozen=True)
class Steps:
    """K solved frame pairs, as the signals need them.

    Attributes:
        before, after: uint8 [K, H, W, 3].
        flow: forward and backward, float [K, 2, h, w] px.
        trust: float [K, h, w] of each.
        motion: J a of each direction, float [K, 2, h, w] px.
        values: float64 [K, n], the actions, contract units.
        residual: float64 [K]; disagreement: float64 [K], `asymmetry`.
    """

    before: Image
    after: Image
    flow: tuple[Array, Array]
    trust: tuple[Array, Array]
    motion: tuple[Array, Array]
    values: Float
    residual: Float
    disagreement: Float


def signals_of(steps: Steps, actions: KnownActions | None) -> tuple[dict[str, Float], Array]:
    """The signals, float64 [K] each, and the explained-motion map, float32 [K, h, w].

    `action` needs the statistics; without them it is left out.
    """
    K = len(steps.before)
    out = {name: np.zeros(K) for name in SIGNALS if name != 'action' or actions is not None}
    out['residual'][:] = steps.residual
    out['asymmetry'][:] = steps.disagreement
    if actions is not None:
        out['action'][:] = actions.length(steps.values)
    explained = np.empty(steps.trust[0].shape, np.float32)
    for k in range(K):
        error = [
            np.linalg.norm(_finite(v[k]) - _finite(m[k]), axis=0).astype(np.float32)
            for v, m in zip(steps.flow, steps.motion, strict=True)
        ]
        out['unexplained'][k] = max(float(cv2.blur(e, (3, 3)).max()) for e in error)
        out['inconsistent'][k] = 1 - float(np.mean([np.nan_to_num(t[k]) for t in steps.trust]))
        power = np.square(_finite(steps.flow[0][k])).sum(0) + _NOISE_PX**2
        explained[k] = np.clip(1 - np.square(error[0]) / power, 0, 1)
        mean, peak = _picture(steps, k)
        out['picture'][k], out['place'][k] = mean, peak
        out['stillness'][k] = 1 / max(_change(steps.before[k], steps.after[k]), _COPY)
    return out, explained


def honesty_of(
    steps: Steps, observability: Tensor, condition: Tensor, calibration: Calibration | None,
    actions: KnownActions | None = None, plan: bool = True,
) -> PlanHonesty:
    """Everything about K solved steps; `plan` says whether they follow each other."""
    actions = calibration.actions if calibration is not None else actions
    signals, explained = signals_of(steps, actions)
    K = len(steps.values)
    score, worst, threshold = np.zeros(K), ('',) * K, float('inf')
    resting = np.zeros(K, bool)
    if calibration is not None:
        score, worst, resting = calibration.score(signals, plan)
        threshold = calibration.threshold
    channels = actions.percentile(steps.values)[0] if actions is not None else np.zeros((K, 0))
    return PlanHonesty(
        signals, explained, observability.numpy().astype(np.float64),
        condition.numpy().astype(np.float64), channels, score, worst, resting,
        threshold,
    )


def _picture(steps: Steps, k: int) -> tuple[float, float]:
    """Mean and worst 5 x 5 px of what changed unexplained [grey levels], both ways in time."""
    a, b = steps.before[k].astype(np.float32), steps.after[k].astype(np.float32)
    h, w = a.shape[:2]
    there, back = (
        cv2.resize(_finite(m[k]).transpose(1, 2, 0).astype(np.float32), (w, h))
        for m in steps.motion
    )
    means, peaks = [], []
    for one, other, move, counter in ((a, b, there, back), (b, a, back, there)):
        # What the arm is about to cover or uncover cannot be compared: the explained motion is
        # not its own inverse there. Neither can what leaves the picture.
        moved, inside = _moved(other, move)
        weight = consistency(move, counter) * inside
        error = np.abs(one - moved).mean(-1) * weight
        means.append(float(error.mean()))
        # Nearest to what the other picture shows within one pixel, in each channel.
        low, high = cv2.erode(moved, _NEIGHBOURS), cv2.dilate(moved, _NEIGHBOURS)
        beyond = np.maximum(np.maximum(one - high, low - one), 0).mean(-1)
        peaks.append(float(cv2.blur(beyond * weight, (5, 5)).max()))
    return max(means), max(peaks)


def _finite(flow: Array) -> Array:
    """Flow without what is no number, and with nothing longer than any picture is wide."""
    return np.asarray(np.clip(np.nan_to_num(flow), -_FAR_PX, _FAR_PX))


def _moved(image: Array, flow: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The image looked up at p + flow(p), and whether that lies inside of it."""
    h, w = flow.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    out = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return np.asarray(out, np.float32), inside


def _change(a: Image, b: Image) -> float:
    """Mean absolute change of the 1% most changed pixels, grey levels."""
    change = np.abs(a.astype(np.int16) - b.astype(np.int16)).mean(-1).ravel()
    count = max(1, round(_MOVING * change.size))
    return float(np.partition(change, -count)[-count:].mean())
