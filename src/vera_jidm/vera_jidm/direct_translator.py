"""DirectTranslator: imagined frames -> actions by a network alone (D-IDM + Flow, UniPi*)."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from vera_core.checkpoint import CheckpointInfo, check_contract
from vera_core.contract import Contract
from vera_core.seams import Array, Image, Translation
from vera_jidm.direct import NO_FLOW, TrainedDirect, flow_rows, load_direct
from vera_jidm.flow import PairFlow, make_flow
from vera_jidm.model import LIMIT_FACTOR, to_tensor
from vera_jidm.models.convolutional import GRID
from vera_jidm.ridge import HUGE
from vera_jidm.targets import TargetChannels
from vera_jidm.translator import (
    MODES,
    NOISE_PX,
    Explanation,
    TranslationError,
    aimed,
    cells,
    stack_images,
)

# Actions under this share of a training deviation are no action: what is left of noise.
_QUIET = 0.05


class DirectTranslator:
    """Translator seam; stateless.

    A direct network solves nothing, so nothing measures whether its action explains the motion.
    What the seam's fields hold instead: `residual` is how far the two directions of time disagree,
    |a1 - a2| / (|a1| + |a2|), 0..1, and 0 in `paper` mode, where there is only one; `observability`
    is one for every channel, which says nothing.

    Args:
        model: trained.
        channels: of the contract, in the order of the model's outputs.
        estimator: must be the one the model was trained on; None for `direct_pair`.
        checkpoint_hash: for the chunks.
        mode: 'stacked' averages the answers to both directions of time; 'paper' takes o_t alone.
        targets: see JacobianTranslator.

    Raises:
        TranslationError: another estimator than the model was trained on, an unknown mode, or a
            number of channels that does not fit.
    """

    def __init__(
        self,
        model: TrainedDirect,
        channels: tuple[str, ...],
        estimator: PairFlow | None = None,
        *,
        checkpoint_hash: str = '',
        mode: str = 'stacked',
        targets: TargetChannels | None = None,
    ) -> None:
        found = NO_FLOW if estimator is None else estimator.flow_id
        if found != model.flow_id:
            raise TranslationError(
                f'the checkpoint was trained on flow {model.flow_id!r} and refuses {found!r}; use '
                'that estimator, or train with `vera train idm --flow ...`'
            )
        if mode not in MODES:
            raise TranslationError(f'no mode {mode!r}; there are {", ".join(MODES)}')
        if len(channels) != model.net.config.channels:
            raise TranslationError(
                f'the model has {model.net.config.channels} channels, the contract {len(channels)}'
            )
        self.translator_id = model.net.config.kind
        self.channels = channels
        self.checkpoint_hash = checkpoint_hash
        self.mode = mode
        self._limits = LIMIT_FACTOR * model.scales.action_max / model.scales.action
        self._model, self._estimator = model, estimator
        self._targets = targets
        self.needs_state = bool(targets)

    @classmethod
    def load(
        cls,
        info: CheckpointInfo,
        contract: Contract,
        *,
        estimator: PairFlow | None = None,
        mode: str = 'stacked',
    ) -> DirectTranslator:
        """From a checkpoint that fits the contract.

        Raises:
            CheckpointError: trained for another contract, of another translator, or damaged.
            FlowError: its estimator cannot be had (analytic flow needs a simulator).
        """
        check_contract(info, contract.action_fields())
        model = load_direct(info)
        if estimator is None and model.flow_id != NO_FLOW:
            estimator = make_flow(model.flow_id, contract)
        return cls(
            model, contract.channel_names, estimator, checkpoint_hash=info.short_hash, mode=mode,
            targets=TargetChannels(contract),
        )

    @property
    def flow_id(self) -> str:
        """Of the estimator in use; 'none' without one."""
        return self._model.flow_id

    def translate(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None = None
    ) -> Translation:
        """Anchor uint8 [H, W, 3] and frames uint8 [K, H, W, 3] -> K actions, contract units.

        `state`, float64 [joints] at the anchor, is for channels that name a target.
        """
        return self.explain(anchor, frames, state)[0]

    def explain(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None = None
    ) -> tuple[Translation, Explanation]:
        """The translation and what it was made of; K pairs go through as one batch.

        There is no Jacobian: the explanation's is zero. A step whose flow is not finite or huge on
        half of the picture gets a zero action and a problem; no action exceeds twice the largest
        one seen in training.

        Raises:
            TranslationError: shapes or types that do not fit the model's canvas, or no joint
                positions where a channel names a target.
        """
        began = time.perf_counter()
        size = self._model.net.config
        images = stack_images(anchor, frames, size.height, size.width)
        k, h, w = len(frames), *images.shape[1:3]
        usable = np.ones(k, np.bool_)
        still = np.zeros(k, np.bool_)
        flow, weight = np.zeros((k, h, w, 2), np.float32), np.ones((k, h, w), np.float32)
        rows = None
        if self._estimator is not None:
            pair = self._estimator.both(images[:-1], images[1:])
            flow, weight = pair.forward, pair.weight_forward
            forward, trust_f, lost_f = self._grid(pair.forward, pair.weight_forward)
            backward, trust_b, lost_b = self._grid(pair.backward, pair.weight_backward)
            usable = np.maximum(lost_f, lost_b) < 0.5
            still = np.sqrt(np.square(forward).mean((1, 2, 3))) <= NOISE_PX
            rows = flow_rows((forward, backward), (trust_f, trust_b), self._model.scales.flow)
        tensors = to_tensor(images)
        first, second = self._model.recover(tensors[:-1], tensors[1:], rows)
        action = first if self.mode == 'paper' else (first + second) / 2
        usable &= np.isfinite(action).all(1)
        action = np.where(usable[:, None], action, 0.0)
        if self._estimator is None:
            still = np.abs(action).max(1) < _QUIET
        scales = self._model.scales
        # As in the J-IDM's solve: each channel has its own limit, a longer action is scaled down.
        beyond = (np.abs(action) / self._limits).max(1)
        limited = beyond > 1
        action /= np.maximum(beyond, 1)[:, None]
        translation = Translation(
            values=action * scales.action,
            residual=np.where(usable, self._disagreement(first, second), 1.0).astype(np.float32),
            observability=np.ones(len(self.channels), np.float32),
            latency=time.perf_counter() - began,
        )
        explanation = Explanation(
            flow=flow,
            weight=weight,
            jacobian=np.zeros((h // GRID, w // GRID, 2, len(self.channels)), np.float32),
            condition=np.ones(k),
            still=still,
            problems=tuple(
                'the flow says nothing: zero action' if not usable[i]
                else 'the action exceeded twice the largest one of the training: scaled down'
                if limited[i] else ''
                for i in range(k)
            ),
        )
        return aimed(translation, self._targets, state), explanation

    def _grid(self, flow: Array, weight: Array) -> tuple[Array, Array, Array]:
        """Flow and weights on the grid, and the share of cells left out: not finite, or huge."""
        v, trust = (x.numpy() for x in cells(flow, weight, GRID))
        with np.errstate(invalid='ignore'):
            good = (np.abs(v) < HUGE * self._model.scales.flow).all(1) & np.isfinite(trust)
        lost = 1 - good.mean((1, 2), dtype=np.float32)
        return np.where(good[:, None], v, 0), np.where(good, trust, 0), lost

    def _disagreement(
        self, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if self.mode == 'paper':
            return np.zeros(len(first))
        apart = np.linalg.norm(first - second, axis=1)
        sizes = np.linalg.norm(first, axis=1) + np.linalg.norm(second, axis=1)
        return np.asarray(np.nan_to_num(apart / (sizes + _QUIET), nan=1.0))
