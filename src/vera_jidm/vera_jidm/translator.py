"""JacobianTranslator: imagined frames -> actions, by flow, Jacobian and one ridge solve a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vera_core.checkpoint import CheckpointError, CheckpointInfo, check_contract
from vera_core.contract import Contract
from vera_core.seams import Array, Image, Translation
from vera_jidm import ridge
from vera_jidm.flow import FlowPair, PairFlow, make_flow
from vera_jidm.honesty import (
    Calibration,
    KnownActions,
    PlanHonesty,
    Steps,
    find_calibration,
    honesty_of,
)
from vera_jidm.model import LIMIT_FACTOR, TrainedJacobian, load_model
from vera_jidm.targets import TargetChannels, TargetError
from vera_jidm.views import ViewBox, ViewError, row_weights, view_boxes

MODES = ridge.MODES
# Flow that an estimator reports where nothing moves, rms over all cells [px]: motion below it
# counts as explained, so that a plan at rest does not look implausible.
NOISE_PX = 0.03
# Share of the training's flow below which the honesty signal `residual` no longer is relative: the
# estimator's own errors do not shrink with the motion.
FLOOR = 0.5


class TranslationError(ValueError):
    """Frames that cannot be translated; the message says what is wrong with them."""


@dataclass(frozen=True)
class Explanation:
    """What a translation was made of.

    Attributes:
        flow: float32 [K, H, W, 2] px, forward; weight: float32 [K, H, W] of the estimator.
        jacobian: float32 [h, w, 2, n] of the anchor, normalised units, on the grid.
        condition: float64 [K], condition number of each solve.
        still: bool [K], whether nothing moves; the action is zero or as good as.
        problems: per step what should be known about it; empty if nothing.
        honesty: what speaks against each step; None where the translator cannot tell.
    """

    flow: Array
    weight: Array
    jacobian: Array
    condition: NDArray[np.float64]
    still: NDArray[np.bool_]
    problems: tuple[str, ...]
    honesty: PlanHonesty | None = None


def stack_images(anchor: Image, frames: Image, height: int, width: int) -> Image:
    """Anchor [H, W, 3] and frames [K, H, W, 3] as one batch, uint8 [K + 1, H, W, 3].

    Raises:
        TranslationError: another size or type, or no frame at all.
    """
    shape = (height, width, 3)
    if anchor.dtype != np.uint8 or anchor.shape != shape:
        raise TranslationError(
            f'the anchor is {anchor.dtype} {list(anchor.shape)}; the translator works on '
            f'uint8 {list(shape)}'
        )
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != shape:
        raise TranslationError(
            f'the frames are {frames.dtype} {list(frames.shape)}; the translator works on '
            f'uint8 [K, {height}, {width}, 3]'
        )
    if len(frames) == 0:
        raise TranslationError('a plan without frames')
    return np.concatenate([anchor[None], frames])


class JacobianTranslator:
    """Translator seam; stateless.

    Args:
        model: trained.
        channels: of the contract, in the order of the model's columns.
        estimator: must be the one the model was trained on.
        checkpoint_hash: for the chunks.
        mode: 'stacked' solves with both frames of each pair, weighted rows and, where the network
            was trained so, gradient rows (extensions); 'paper' is Eq. 6: J(o_t) and the forward
            flow alone, every row alike.
        views: of the canvas; their weights multiply into the rows. One view that fills the canvas
            unless given.
        calibration: what real motion looks like; without it the signals have no scores.
        actions: statistics of the training's actions, where there is no calibration.
        targets: makes targets of the changes that were learned, for channels that name targets;
            `translate` then needs the joint positions.

    Raises:
        TranslationError: another estimator than the model was trained on, an unknown mode, views
            outside of the canvas, or a number of channels that does not fit.
    """

    translator_id = 'jacobian'

    def __init__(
        self,
        model: TrainedJacobian,
        channels: tuple[str, ...],
        estimator: PairFlow,
        *,
        checkpoint_hash: str = '',
        mode: str = 'stacked',
        views: Sequence[ViewBox] = (),
        calibration: Calibration | None = None,
        actions: KnownActions | None = None,
        targets: TargetChannels | None = None,
    ) -> None:
        if estimator.flow_id != model.flow_id:
            raise TranslationError(
                f'the checkpoint was trained on flow {model.flow_id!r} and refuses '
                f'{estimator.flow_id!r}: a Jacobian carries the biases of its estimator; use '
                'that estimator, or train with `vera train idm --flow ...`'
            )
        if mode not in MODES:
            raise TranslationError(f'no mode {mode!r}; there are {", ".join(MODES)}')
        if len(channels) != model.net.config.channels:
            raise TranslationError(
                f'the model has {model.net.config.channels} channels, the contract {len(channels)}'
            )
        config = model.net.config
        views = views or [ViewBox('all', 0, 0, config.width, config.height)]
        try:
            rows = row_weights(views, config.height, config.width, config.grid)
        except ViewError as error:
            raise TranslationError(f'the views do not fit the checkpoint: {error}') from error
        self._views = torch.from_numpy(rows)
        self.channels = channels
        self.checkpoint_hash = checkpoint_hash
        self.mode = mode
        self._calibration, self._actions = calibration, actions
        self._targets = targets
        self.needs_state = bool(targets)
        self._model, self._estimator = model, estimator
        largest = model.scales.action_max / model.scales.action
        self._limits = torch.from_numpy(LIMIT_FACTOR * largest)

    @classmethod
    def load(
        cls,
        info: CheckpointInfo,
        contract: Contract,
        *,
        estimator: PairFlow | None = None,
        mode: str = 'stacked',
        calibrated: bool = True,
        actions: KnownActions | None = None,
    ) -> JacobianTranslator:
        """From a checkpoint that fits the contract.

        Args:
            info: of the checkpoint.
            contract: of the robot.
            estimator: in place of the one that the checkpoint names.
            mode: see the class.
            calibrated: whether to use the calibration beside the checkpoint.
            actions: statistics of the training's actions, if the checkpoint has none.

        Raises:
            CheckpointError: trained for another contract, or damaged.
            CalibrationError: a damaged calibration lies beside it.
            FlowError: its estimator cannot be had (analytic flow needs a simulator).
        """
        check_contract(info, contract.action_fields())
        model = load_model(info)
        stored = info.config.get('actions')
        try:
            actions = KnownActions.from_dict(stored) if stored else actions
        except ValueError as error:
            raise CheckpointError(f'{info.path.name}: its config is wrong: {error}') from error
        return cls(
            model, contract.channel_names, estimator or make_flow(model.flow_id, contract),
            checkpoint_hash=info.short_hash, mode=mode, views=view_boxes(contract),
            # Normal is what `stacked` mode makes of real motion.
            calibration=find_calibration(info) if calibrated and mode == 'stacked' else None,
            actions=actions,
            targets=TargetChannels(contract),
        )

    @property
    def flow_id(self) -> str:
        """Of the estimator in use."""
        return self._model.flow_id

    def translate(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None = None
    ) -> Translation:
        """Anchor uint8 [H, W, 3] and frames uint8 [K, H, W, 3] -> K actions, contract units.

        `state`, float64 [joints] at the anchor, is for channels that name a target; of all else
        the images say enough.
        """
        return self._plan(anchor, frames, state, honest=False)[0]

    def explain(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None = None
    ) -> tuple[Translation, Explanation]:
        """The translation and what it was made of; K pairs go through as one batch.

        A step whose flow or Jacobian says nothing gets a zero action and a problem; no action
        exceeds twice the largest one that its channel had in training.

        Raises:
            TranslationError: shapes or types that do not fit the model's canvas, or no joint
                positions where a channel names a target.
        """
        return self._plan(anchor, frames, state, honest=True)

    def _plan(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None, honest: bool
    ) -> tuple[Translation, Explanation]:
        began = time.perf_counter()
        images = self._stack(anchor, frames)
        pair = self._estimator.both(images[:-1], images[1:])
        J, weight = self._model.grid(images)
        translation, explanation = self._explain(
            images[:-1], images[1:], pair, (J[:-1], J[1:]), (weight[:-1], weight[1:]), began,
            plan=True, honest=honest,
        )
        return aimed(translation, self._targets, state), explanation

    def explain_pairs(self, before: Image, after: Image) -> tuple[Translation, Explanation]:
        """The same for K frame pairs that do not follow each other: uint8 [K, H, W, 3] each.

        Channels that name a target keep the change that was seen.
        """
        began = time.perf_counter()
        for images in (before, after):
            self._stack(images[0] if len(images) else np.zeros(0, np.uint8), images)
        pair = self._estimator.both(before, after)
        first, second = self._model.grid(before), self._model.grid(after)
        return self._explain(
            before, after, pair, (first[0], second[0]), (first[1], second[1]), began,
            plan=False, honest=True,
        )

    def _explain(
        self,
        before: Image,
        after: Image,
        pair: FlowPair,
        J: tuple[Tensor, Tensor],
        weight: tuple[Tensor, Tensor],
        began: float,
        *,
        plan: bool,
        honest: bool,
    ) -> tuple[Translation, Explanation]:
        config, scales = self._model.net.config, self._model.scales
        there, back = (
            cells(flow, trust, config.grid)
            for flow, trust in (
                (pair.forward, pair.weight_forward), (pair.backward, pair.weight_backward)
            )
        )
        systems = ridge.direction_equations(
            J, weight, (there[0] / scales.flow, back[0] / scales.flow), (there[1], back[1]),
            self._views, mode=self.mode, gradient_rows=config.gradient_rows,
        )
        solution = self._solve(systems[0] + systems[1] if len(systems) == 2 else systems[0])
        values = solution.action.numpy() * scales.action
        translation = Translation(
            values=values,
            residual=solution.residual.numpy().astype(np.float32),
            observability=solution.observability.amax(0).numpy().astype(np.float32),
            latency=time.perf_counter() - began,
        )
        honesty = None
        if honest:
            action = solution.action.to(J[0].dtype)
            steps = Steps(
                before, after, (there[0].numpy(), back[0].numpy()),
                (there[1].numpy(), back[1].numpy()),
                (_motion(J[0], action, scales.flow), _motion(J[1], -action, scales.flow)),
                values, _floored(solution), self._disagreement(systems),
            )
            honesty = honesty_of(
                steps, solution.observability, solution.condition, self._calibration,
                self._actions, plan,
            )
        explanation = Explanation(
            flow=pair.forward,
            weight=pair.weight_forward,
            jacobian=J[0][0].permute(2, 3, 1, 0).numpy(),
            condition=solution.condition.numpy(),
            still=solution.still.numpy(),
            problems=tuple(_problem(solution, k, self.channels) for k in range(len(before))),
            honesty=honesty,
        )
        return translation, explanation

    def _solve(self, system: ridge.NormalEquations) -> ridge.Solution:
        scales = self._model.scales
        return ridge.solve(
            system, ridge=self._model.ridge, limit=self._limits, noise=NOISE_PX / scales.flow
        )

    def _stack(self, anchor: Image, frames: Image) -> Image:
        config = self._model.net.config
        return stack_images(anchor, frames, config.height, config.width)

    def _disagreement(self, systems: tuple[ridge.NormalEquations, ...]) -> NDArray[np.float64]:
        """How much the two directions of time differ, in training deviations, [K]; 0 with one."""
        if len(systems) == 1:
            return np.zeros(len(systems[0].s))
        first, second = (self._solve(system).action for system in systems)
        return np.asarray((first - second).square().mean(-1).sqrt().numpy())


def aimed(
    translation: Translation, targets: TargetChannels | None, state: NDArray[np.float64] | None
) -> Translation:
    """The translation with targets in place of changes, where channels name targets.

    Raises:
        TranslationError: there are such channels, and no joint positions.
    """
    if not targets:
        return translation
    try:
        return replace(translation, values=targets.values(translation.values, state))
    except TargetError as error:
        raise TranslationError(str(error)) from error


def cells(flow: Array, weight: Array, grid: int) -> tuple[Tensor, Tensor]:
    """Cell averages of flow, float32 [K, 2, h, w] px, and of weights, float32 [K, h, w]."""
    # `INTER_AREA` by a whole factor is the mean of each cell, and 20 times faster than numpy's.
    size = (weight.shape[2] // grid, weight.shape[1] // grid)
    v, trust = (
        np.stack([cv2.resize(field, size, interpolation=cv2.INTER_AREA) for field in fields])
        for fields in (flow, weight)
    )
    return torch.from_numpy(v).permute(0, 3, 1, 2), torch.from_numpy(trust)


def _floored(solution: ridge.Solution) -> NDArray[np.float64]:
    """The residual relative to a flow that is never smaller than FLOOR, [K]."""
    size = solution.size.square()
    share = (size / (size + FLOOR**2)).sqrt()
    return np.asarray((solution.residual * share).numpy())


def _motion(J: Tensor, action: Tensor, scale: float) -> Array:
    """J a, float32 [K, 2, h, w] px."""
    return np.asarray(torch.einsum('bnchw,bn->bchw', J, action).numpy() * np.float32(scale))


def _problem(solution: ridge.Solution, step: int, channels: tuple[str, ...]) -> str:
    if not solution.usable[step]:
        return 'flow or Jacobian say nothing: zero action'
    if solution.limited[step]:
        return 'the action exceeded twice the largest one of the training: scaled down'
    if solution.rank_deficient[step]:
        weakest = channels[int(solution.observability[step].argmin())]
        return f'some motion cannot be seen, least {weakest!r}: it gets no action'
    return ''
