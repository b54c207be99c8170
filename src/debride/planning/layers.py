"""What planning has to know about a layer: how wide it is on each side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from debride.errors import DebrideError

if TYPE_CHECKING:
    from debride.planning.plan import Side


def width(module: nn.Module, side: Side) -> int:
    """Return how many positions a layer has on one side.

    Raises
    ------
    DebrideError
        For a kind of layer that cannot be cut.
    """
    if isinstance(module, _ConvNd):
        return module.out_channels if side == "out" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if side == "out" else module.in_features
    if isinstance(module, _BatchNorm):
        return module.num_features
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    raise DebrideError(f"a {type(module).__name__} cannot be cut: protect it or register a layer")


def is_depthwise(module: nn.Module) -> bool:
    """Tell whether every input channel of a convolution has its own, single output channel."""
    return (
        isinstance(module, _ConvNd)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )
