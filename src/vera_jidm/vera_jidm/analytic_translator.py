"""AnalyticTranslator: imagined frames -> actions of a calibrated robot, without any training.

The joint positions at the anchor say where the links are; the Jacobian follows from the URDF. A
chunk is solved step by step, q_{k+1} = q_k + a_k, because each step's Jacobian belongs to the
posture that the steps before it have led to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from vera_core.seams import Array, Image, Translation
from vera_jidm import ridge
from vera_jidm.analytic import AnalyticJacobian, Rows
from vera_jidm.flow import FlowPair, PairFlow, make_flow
from vera_jidm.translator import (
    MODES,
    NOISE_PX,
    Explanation,
    TranslationError,
    stack_images,
)

if TYPE_CHECKING:
    from vera_core.contract import Contract
    from vera_core.kinematics.transforms import Float
    from vera_core.kinematics.tree import Posture

DEFAULT_FLOW = 'dis_lk'
RIDGE = 5e-5
# Estimated flow mixes what lies on both sides of an outline: what a pixel counts whose outline is
# 1, 2, .. px of the canvas away; 1 further inside. Never 0: links of a few pixels have no inside.
BORDER_WEIGHTS = (0.03, 0.1)


@dataclass(frozen=True, eq=False)
class _Picture:
    """The robot drawn in one posture: rows of the solve and what each may count."""

    posture: Posture
    rows: Rows
    weight: Float


class AnalyticTranslator:
    """Translator seam; stateless. It needs the joint positions at the anchor.

    Args:
        model: the robot's Jacobian.
        channels: of the contract.
        estimator: of the flow; any will do, the Jacobian knows none of its biases.
        mode: 'stacked' draws the robot also where the first solve takes it, and adds the backward
            flow's rows there (extension); 'paper' is Eq. 6, forward flow and J(q_t) alone.
        border: see BORDER_WEIGHTS; () for flow that is sharp at outlines.

    Raises:
        TranslationError: an unknown mode.
    """

    translator_id = 'analytic'
    needs_state = True

    def __init__(
        self,
        model: AnalyticJacobian,
        channels: tuple[str, ...],
        estimator: PairFlow,
        *,
        mode: str = 'stacked',
        border: Sequence[float] = BORDER_WEIGHTS,
    ) -> None:
        if mode not in MODES:
            raise TranslationError(f'no mode {mode!r}; there are {", ".join(MODES)}')
        self.channels = channels
        self.checkpoint_hash = model.model_hash
        self.mode = mode
        self._model, self._estimator = model, estimator
        self._border = tuple(border)

    @classmethod
    def from_contract(
        cls, contract: Contract, *, estimator: PairFlow | None = None, mode: str = 'stacked'
    ) -> AnalyticTranslator:
        """From a contract with the sections `kinematics` and `calibration`.

        Raises:
            CalibrationError, UrdfError: what is missing or does not fit.
        """
        model = AnalyticJacobian.from_contract(contract)
        return cls(
            model, contract.channel_names, estimator or make_flow(DEFAULT_FLOW, contract), mode=mode
        )

    @property
    def flow_id(self) -> str:
        """Of the estimator in use."""
        return self._estimator.flow_id

    def translate(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None = None
    ) -> Translation:
        """Anchor uint8 [H, W, 3] and frames uint8 [K, H, W, 3] -> K actions, contract units.

        Args:
            anchor: the newest real frame.
            frames: imagined.
            state: float64 [joints] rad or m when the anchor was taken, the contract's order.
        """
        return self.explain(anchor, frames, state)[0]

    def explain(
        self, anchor: Image, frames: Image, state: NDArray[np.float64] | None = None
    ) -> tuple[Translation, Explanation]:
        """The translation and what it was made of; the K pairs' flow goes through as one batch.

        A step whose flow or Jacobian says nothing gets a zero action and a problem; no action
        exceeds what the velocity limits allow in a frame period.

        Raises:
            TranslationError: no state, or shapes or types that do not fit the contract.
        """
        began = time.perf_counter()
        q = self._check_state(state)
        images = stack_images(anchor, frames, self._model.height, self._model.width)
        pair = self._estimator.both(images[:-1], images[1:])
        changes, solutions = [], []
        values = np.zeros((len(frames), len(self.channels)))
        first = self._picture(q)
        at = first
        for k in range(len(frames)):
            change, solution = self._step(at, q, pair, k)
            values[k] = self._model.channels.values(q, change)
            q = self._model.channels.move(q, self._columns(at), change)
            changes.append(change)
            solutions.append(solution)
            if k + 1 < len(frames):
                at = self._picture(q)
        residual = torch.cat([s.residual for s in solutions])
        observability = torch.cat([s.observability for s in solutions])
        translation = Translation(
            values=values,
            residual=residual.numpy().astype(np.float32),
            observability=observability.amax(0).numpy().astype(np.float32),
            latency=time.perf_counter() - began,
        )
        n, (height, width) = len(self.channels), images.shape[1:3]
        J = np.zeros((height, width, 2, n), np.float32)
        J[first.rows.v, first.rows.u] = first.rows.J * self._model.channels.reach
        explanation = Explanation(
            flow=pair.forward,
            weight=pair.weight_forward,
            jacobian=J,
            condition=torch.cat([s.condition for s in solutions]).numpy(),
            still=torch.cat([s.still for s in solutions]).numpy(),
            problems=tuple(self._problem(s) for s in solutions),
        )
        return translation, explanation

    def _step(
        self, at: _Picture, q: Float, pair: FlowPair, k: int
    ) -> tuple[Float, ridge.Solution]:
        """Change of each channel over one pair, float64 [n] in the channels' units."""
        reach = self._model.channels.reach
        scale = self._flow_scale(at)
        system = self._equations(at, pair.forward[k], pair.weight_forward[k], scale)
        solution = self._solve(system, scale)
        change = solution.action[0].numpy() * reach
        if self.mode == 'stacked':
            there = self._picture(self._model.channels.move(q, self._columns(at), change))
            back = self._equations(there, pair.backward[k], pair.weight_backward[k], scale)
            solution = self._solve(system + ridge.reverse(back), scale)
            change = solution.action[0].numpy() * reach
        return change, solution

    def _picture(self, q: Float) -> _Picture:
        posture = self._model.posture(q)
        rows = self._model.rows(posture)
        inside = _inside(rows, self._model.height, self._model.width, self._border)
        return _Picture(posture, rows, rows.view * inside)

    def _columns(self, at: _Picture) -> Float:
        return self._model.channels.columns(at.posture)

    def _flow_scale(self, at: _Picture) -> float:
        """Rms motion [px] of the robot's pixels when every channel moves by its reach."""
        if not len(at.rows.v):
            return 1.0
        square = np.square(at.rows.J * self._model.channels.reach).sum((1, 2)).mean()
        return float(max(np.sqrt(square), NOISE_PX))

    def _equations(
        self, at: _Picture, flow: Array, trust: Array, scale: float
    ) -> ridge.NormalEquations:
        rows, reach = at.rows, self._model.channels.reach
        J = (rows.J * (reach / scale)).reshape(-1, len(reach)).T
        v = flow[rows.v, rows.u].astype(np.float64).reshape(-1) / scale
        weight = np.repeat(at.weight * trust[rows.v, rows.u], 2)
        return ridge.normal_equations(
            *(torch.from_numpy(np.ascontiguousarray(x)[None]) for x in (J, v, weight))
        )

    @staticmethod
    def _solve(system: ridge.NormalEquations, scale: float) -> ridge.Solution:
        return ridge.solve(system, ridge=RIDGE, limit=1.0, noise=NOISE_PX / scale)

    def _problem(self, solution: ridge.Solution) -> str:
        if not solution.usable[0]:
            return 'the robot is not seen, or its flow says nothing: zero action'
        if solution.limited[0]:
            return 'the action exceeded the velocity limits: scaled down'
        if solution.rank_deficient[0]:
            weakest = self.channels[int(solution.observability[0].argmin())]
            return f'some motion cannot be seen, least {weakest!r}: it gets no action'
        return ''

    def _check_state(self, state: NDArray[np.float64] | None) -> Float:
        names = self._model.tree.joint_names
        if state is None:
            raise TranslationError(
                'the analytic translator needs the joint positions when the anchor was taken'
            )
        q = np.asarray(state, np.float64)
        if q.shape != (len(names),) or not np.isfinite(q).all():
            raise TranslationError(
                f'joint positions {q.tolist()}; {len(names)} finite numbers are needed: '
                f'{", ".join(names)}'
            )
        return q


def _inside(rows: Rows, height: int, width: int, border: Sequence[float]) -> Float:
    """Weight of each pixel by its distance from the outline of its link, float64 [P]."""
    most = len(border)
    # Outside of the canvas is no link.
    link = np.full((height + 2 * most, width + 2 * most), -1)
    link[rows.v + most, rows.u + most] = rows.link
    weight = np.ones(len(rows.v))
    for distance in range(most, 0, -1):
        around = range(most - distance, most + distance + 1)
        other = np.zeros(len(rows.v), bool)
        for dv in around:
            for du in around:
                other |= link[rows.v + dv, rows.u + du] != rows.link
        weight[other] = border[distance - 1]
    return weight


__all__ = ['AnalyticTranslator']
