"""What planning has to know about a layer: how wide it is on each side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from debride.errors import DebrideError
from debride.models.attention import Heads, heads_of, is_attention

if TYPE_CHECKING:
    from debride.planning.plan import Side


def width(module: nn.Module, side: Side) -> int:
    """Return how many positions a layer has on one side.

    Raises
    ------
    DebrideError
        For a kind of layer that cannot be cut.
    """
    if is_attention(module):
        heads = heads_of(module)
        if isinstance(heads, Heads):
            if side in ("heads", "dims"):
                return heads.count if side == "heads" else heads.size
            return heads.count * heads.size * sum(layer == "" for layer, _ in heads.rows)
    if isinstance(module, _ConvNd):
        return module.out_channels if side == "out" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if side == "out" else module.in_features
    if isinstance(module, _BatchNorm | _InstanceNorm):
        return module.num_features
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
        return int(module.normalized_shape[0])
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


def is_grouped(module: nn.Module) -> bool:
    """Tell whether a convolution's outputs each read a part of its inputs alone."""
    return isinstance(module, _ConvNd) and module.groups > 1


def normalises_together(module: nn.Module) -> bool:
    """Tell whether a norm takes its statistics over several channels of which some may go.

    A group norm loses whole groups, so that only one with a single group is meant.
    """
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or (
        isinstance(module, nn.GroupNorm) and module.num_groups == 1
    )
