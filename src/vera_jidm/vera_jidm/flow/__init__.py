"""Optical flow between frames: estimators behind one seam, their weights, sizes and views.

A Jacobian trained on one estimator's flow is specific to it, biases included, so every estimator
carries a `flow_id` that names its settings and its weights; checkpoints store it and refuse
another.
"""

from vera_jidm.flow.base import ANALYTIC, FlowError, FlowPair, PairFlow, consistency
from vera_jidm.flow.opencv import DisFlow, FarnebackFlow, RefinedDisFlow
from vera_jidm.flow.per_view import PerViewFlow, per_view
from vera_jidm.flow.registry import ESTIMATORS, estimators, make_flow, ready_estimators
from vera_jidm.flow.sizes import rescale_jacobian, resize_flow

__all__ = [
    'ANALYTIC',
    'ESTIMATORS',
    'DisFlow',
    'FarnebackFlow',
    'FlowError',
    'FlowPair',
    'PairFlow',
    'PerViewFlow',
    'RefinedDisFlow',
    'consistency',
    'estimators',
    'make_flow',
    'per_view',
    'ready_estimators',
    'rescale_jacobian',
    'resize_flow',
]
