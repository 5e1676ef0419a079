"""Jacobian networks: one interface, several families."""

from vera_jidm.models.base import JacobianConfig, JacobianNetwork
from vera_jidm.models.registry import build, families

__all__ = ['JacobianConfig', 'JacobianNetwork', 'build', 'families']
