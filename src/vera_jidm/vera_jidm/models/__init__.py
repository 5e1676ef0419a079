"""Jacobian networks: one interface, several families."""

from vera_jidm.models.base import BackboneError, JacobianConfig, JacobianNetwork
from vera_jidm.models.registry import build, families

__all__ = ['BackboneError', 'JacobianConfig', 'JacobianNetwork', 'build', 'families']
