"""What planning has to know about a layer: how wide it is on each side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from debride.errors import DebrideError
from debride.models.attention import Heads, heads_of, is_attention
from debride.models.stated import stated_width

if TYPE_CHECKING:
    from debride.planning.plan import Side


AXIS = "axis"
"""Begins the sides of a bare parameter, which are its dimensions: ``axis2``."""

Part = nn.Module | Tensor
"""What a plan names: a layer, or a parameter that stands in none."""


def bare_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a network that stand in no layer or attention, by name.

    Class tokens, position embeddings and layer scales are such.

    Examples
    --------
    >>> from torchvision.models import VisionTransformer
    >>> list(bare_parameters(VisionTransformer(32, 16, 1, 2, hidden_dim=8, mlp_dim=8)))
    ['class_token', 'encoder.pos_embedding']
    """
    owned = {  # by layers, or by attention, which says itself where its parts lie
        id(parameter)
        for module in model.modules()
        if isinstance(module, _LAYERS) or is_attention(module)
        for parameter in module.parameters()
    }
    return {name: each for name, each in model.named_parameters() if id(each) not in owned}


def part(model: nn.Module, name: str) -> Part:
    """Return the layer or bare parameter of a name.

    Raises
    ------
    AttributeError
        When the network has neither.
    """
    owner, _, leaf = name.rpartition(".")
    found = getattr(model.get_submodule(owner), leaf, None) if leaf else None
    return found if isinstance(found, nn.Parameter) else model.get_submodule(name)


def axis_of(side: Side) -> int:
    """Return the dimension that a side of a bare parameter means.

    Examples
    --------
    >>> axis_of("axis2")
    2
    """
    return int(side.removeprefix(AXIS))


def width(module: Part, side: Side) -> int:
    """Return how many positions a layer, or a bare parameter, has on one side.

    Raises
    ------
    DebrideError
        For a kind of layer that cannot be cut.
    """
    if isinstance(module, Tensor):
        if side.startswith(AXIS) and axis_of(side) < module.ndim:
            return module.shape[axis_of(side)]
        raise DebrideError(f"a bare parameter has no side '{side}' to cut")
    if side == "stated" and (stated := stated_width(module)) is not None:
        return stated
    if is_attention(module):
        heads = heads_of(module)
        if isinstance(heads, Heads):
            if side in ("heads", "dims"):
                return heads.count if side == "heads" else heads.size
            if side == "in":
                return heads.reads
            return heads.count * heads.size * sum(layer == "" for layer, _ in heads.rows)
    if side not in ("out", "in"):
        raise DebrideError(f"a {type(module).__name__} has no side '{side}' to cut")
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


_LAYERS = (
    _ConvNd, nn.Linear, _BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU,
)  # fmt: skip


def is_depthwise(module: Part) -> bool:
    """Tell whether every input channel of a convolution has its own, single output channel."""
    return (
        isinstance(module, _ConvNd)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def is_grouped(module: Part) -> bool:
    """Tell whether a convolution's outputs each read a part of its inputs alone."""
    return isinstance(module, _ConvNd) and module.groups > 1


def normalises_together(module: nn.Module) -> bool:
    """Tell whether a norm takes its statistics over several channels of which some may go.

    A group norm loses whole groups, so that only one with a single group is meant.
    """
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or (
        isinstance(module, nn.GroupNorm) and module.num_groups == 1
    )
