"""How each kind of layer loses positions of its input or output.

A layer is cut by keeping `index` along one dimension of its tensors and correcting the sizes
it states about itself. Another kind of layer is added with ``@register_layer(its_class)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from debride.errors import DebrideError
from debride.models.attention import is_attention, open_up
from debride.models.stated import state_width
from debride.planning.layers import is_depthwise
from debride.planning.plan import Side

Cutter = Callable[[nn.Module, Side, Tensor], None]

_CUTTERS: dict[type[nn.Module], Cutter] = {}


def register_layer(*kinds: type[nn.Module]) -> Callable[[Cutter], Cutter]:
    """Register the function that cuts layers of these classes (and classes made from them)."""

    def add(cutter: Cutter) -> Cutter:
        for kind in kinds:
            _CUTTERS[kind] = cutter
        return cutter

    return add


def cutter_of(module: nn.Module, side: Side = "out") -> Cutter | None:
    """Return what cuts this side of a layer, or None where nothing can."""
    if side == "stated":
        return lambda module, _, index: state_width(module, index.numel())
    if is_attention(module):
        return _cut_attention
    # Asked before the cut, after which one side alone may look depthwise.
    if isinstance(module, _ConvNd) and module.groups > 1 and not is_depthwise(module):
        return _cut_grouped
    for kind in type(module).__mro__:
        if kind in _CUTTERS:
            return _CUTTERS[kind]
    return None


def select(module: nn.Module, name: str, dim: int, index: Tensor) -> None:
    """Keep `index` along one dimension of a parameter or buffer, if the module has it."""
    old = getattr(module, name, None)
    if old is None:
        return
    new = old.detach().index_select(dim, index.to(old.device)).clone()
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, name, new)


@register_layer(_ConvNd)
def _cut_convolution(module: nn.Module, side: Side, index: Tensor) -> None:
    assert isinstance(module, _ConvNd)
    kept = index.numel()
    if is_depthwise(module):
        select(module, "weight", 0, index)
        select(module, "bias", 0, index)
        module.in_channels = module.out_channels = module.groups = kept
        return
    output_dim = 1 if isinstance(module, _ConvTransposeNd) else 0
    if side == "out":
        select(module, "weight", output_dim, index)
        select(module, "bias", 0, index)
        module.out_channels = kept
    else:
        select(module, "weight", 1 - output_dim, index)
        module.in_channels = kept


def _cut_grouped(module: nn.Module, side: Side, index: Tensor) -> None:
    """Cut whole groups; the weight has one row for each output, or transposed, each input."""
    assert isinstance(module, _ConvNd)
    transposed = isinstance(module, _ConvTransposeNd)
    if transposed == (side == "in"):
        select(module, "weight", 0, index)
    if side == "out":
        select(module, "bias", 0, index)
        module.out_channels = index.numel()
    else:
        module.groups = index.numel() // (module.in_channels // module.groups)
        module.in_channels = index.numel()


@register_layer(nn.Linear)
def _cut_linear(module: nn.Module, side: Side, index: Tensor) -> None:
    assert isinstance(module, nn.Linear)
    if side == "out":
        select(module, "weight", 0, index)
        select(module, "bias", 0, index)
        module.out_features = index.numel()
    else:
        select(module, "weight", 1, index)
        module.in_features = index.numel()


@register_layer(_BatchNorm)
def _cut_batch_norm(module: nn.Module, side: Side, index: Tensor) -> None:
    assert isinstance(module, _BatchNorm)
    for name in ("weight", "bias", "running_mean", "running_var"):
        select(module, name, 0, index)
    module.num_features = index.numel()


@register_layer(_InstanceNorm)
def _cut_instance_norm(module: nn.Module, side: Side, index: Tensor) -> None:
    assert isinstance(module, _InstanceNorm)
    for name in ("weight", "bias", "running_mean", "running_var"):
        select(module, name, 0, index)
    module.num_features = index.numel()


@register_layer(nn.GroupNorm)
def _cut_group_norm(module: nn.Module, side: Side, index: Tensor) -> None:
    assert isinstance(module, nn.GroupNorm)
    if module.num_groups > 1:
        each = module.num_channels // module.num_groups
        if not _whole(index, each):
            raise DebrideError("a group norm can lose whole groups of channels, not parts of one")
        module.num_groups = index.numel() // each
    select(module, "weight", 0, index)
    select(module, "bias", 0, index)
    module.num_channels = index.numel()


def _whole(index: Tensor, each: int) -> bool:
    if index.numel() % each:
        return False
    blocks = index.view(-1, each)
    return torch.equal(blocks, blocks[:, :1] // each * each + torch.arange(each))


@register_layer(nn.LayerNorm, nn.RMSNorm)
def _cut_layer_norm(module: nn.Module, side: Side, index: Tensor) -> None:
    assert isinstance(module, nn.LayerNorm | nn.RMSNorm)
    select(module, "weight", 0, index)
    select(module, "bias", 0, index)
    module.normalized_shape = (index.numel(),)


@register_layer(nn.PReLU)
def _cut_prelu(module: nn.Module, side: Side, index: Tensor) -> None:
    assert isinstance(module, nn.PReLU)
    if module.num_parameters > 1:
        select(module, "weight", 0, index)
        module.num_parameters = index.numel()


def _cut_attention(module: nn.Module, side: Side, index: Tensor) -> None:
    attention = open_up(module)
    if side == "heads":
        attention.keep_heads(index)
        attention.num_heads = index.numel()
    elif side == "dims":
        attention.head_size = index.numel()
    elif side == "in":
        attention.keep_inputs(index)
    else:
        attention.keep_rows(index)
