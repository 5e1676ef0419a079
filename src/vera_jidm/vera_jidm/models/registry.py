"""Jacobian networks by family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vera_jidm.models.base import JacobianNetwork


def _convolutional(config: dict[str, Any]) -> JacobianNetwork:
    from vera_jidm.models.convolutional import JacobianNet, NetworkConfig

    return JacobianNet(NetworkConfig.from_dict(config))


def _dinov2(config: dict[str, Any]) -> JacobianNetwork:
    from vera_jidm.models.dinov2 import Dinov2Config, Dinov2Jacobian

    return Dinov2Jacobian(Dinov2Config.from_dict(config))


def _vggt(config: dict[str, Any]) -> JacobianNetwork:
    from vera_jidm.models.vggt import VggtConfig, VggtJacobian

    return VggtJacobian(VggtConfig.from_dict(config))


# Imported on use: some families need packages that are not always there.
_BUILDERS: dict[str, Callable[[dict[str, Any]], JacobianNetwork]] = {
    'convolutional': _convolutional,
    'dinov2': _dinov2,
    'vggt': _vggt,
}


def families() -> tuple[str, ...]:
    """Names that `build` knows."""
    return tuple(_BUILDERS)


def build(config: dict[str, Any]) -> JacobianNetwork:
    """The network that a checkpoint's `network` config describes, with fresh weights.

    Raises:
        ValueError: an unknown family, or a config that makes no network; it names what is wrong.
        BackboneError: a backbone that the user must bring is not there.
    """
    family = config.get('family', 'convolutional')
    if family not in _BUILDERS:
        raise ValueError(f'no network family {family!r}; there are {", ".join(families())}')
    return _BUILDERS[family](config)
