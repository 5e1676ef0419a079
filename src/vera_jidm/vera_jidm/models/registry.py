"""Jacobian networks by family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vera_jidm.models.base import JacobianNetwork


def _convolutional(config: dict[str, Any]) -> JacobianNetwork:
    from vera_jidm.models.convolutional import JacobianNet, NetworkConfig

    return JacobianNet(NetworkConfig.from_dict(config))


# Imported on use: some families need packages that are not always there.
_BUILDERS: dict[str, Callable[[dict[str, Any]], JacobianNetwork]] = {
    'convolutional': _convolutional,
}


def families() -> tuple[str, ...]:
    """Names that `build` knows."""
    return tuple(_BUILDERS)


def build(config: dict[str, Any]) -> JacobianNetwork:
    """The network that a checkpoint's `network` config describes, with fresh weights.

    Raises:
        ValueError: an unknown family, or a config that makes no network; it names what is wrong.
    """
    family = config.get('family', 'convolutional')
    if family not in _BUILDERS:
        raise ValueError(f'no network family {family!r}; there are {", ".join(families())}')
    return _BUILDERS[family](config)
